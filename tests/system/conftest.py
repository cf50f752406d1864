"""What several tests of whole processes start."""

from collections.abc import Generator

import pytest

from tests.support.sandbox_process import SandboxProcess, running_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Generator[SandboxProcess]:
    """Start one sandbox for all tests of a module, which delete the tokens that they create."""
    with running_sandbox() as sandbox:
        yield sandbox
