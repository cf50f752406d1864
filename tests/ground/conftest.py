"""Files that settings name."""

from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from tests.support.environment import SECRET
from token_tools.credentials import encode_store


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """Write the certificate of a new authority to a file."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture
def credentials_file(tmp_path: Path) -> Path:
    """Write a bearer token to a credentials file of qq."""
    path = tmp_path / "store"
    path.write_bytes(encode_store(SecretStr(SECRET)))
    return path
