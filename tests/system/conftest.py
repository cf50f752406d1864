"""What several tests of whole processes start."""

import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from tests.support.sandbox_process import SandboxProcess, running_sandbox


@pytest.fixture(scope="session")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which uv keeps what it has fetched: that of all tests, or of the user if there is one."""
    given = os.environ.get("UV_CACHE_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("uv")


@pytest.fixture
def uv_environment(uv_cache: Path) -> Mapping[str, str]:
    """Return the variables that uv needs: whatever says where packages are, and a cache that all tests share."""
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}
    return {**passed_on, "UV_CACHE_DIR": str(uv_cache), "UV_PYTHON": sys.executable}


@pytest.fixture(scope="module")
def sandbox() -> Generator[SandboxProcess]:
    """Start one sandbox for all tests of a module, which delete the tokens that they create."""
    with running_sandbox() as sandbox:
        yield sandbox
