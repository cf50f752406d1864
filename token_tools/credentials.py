"""qq's credentials store: one bearer token in a JSON file that `qq --credentials-store PATH` reads.

Source: `qumulo.lib.auth` 7.10: `{"bearer_token": …, "version": 1}`, mode 0600 in a folder of mode 0700.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, SecretStr, ValidationError

from token_tools.errors import SettingsError
from token_tools.redaction import hold


def _check_bearer(bearer_token: SecretStr) -> SecretStr:
    stripped = bearer_token.get_secret_value().strip()
    if not (stripped.isascii() and stripped.isprintable() and stripped and " " not in stripped):
        raise ValueError("is not a bearer token: one word of ASCII characters, such as access-v1:…")
    bearer = SecretStr(stripped)
    hold(bearer)
    return bearer


BearerToken = Annotated[SecretStr, AfterValidator(_check_bearer)]
"""A secret that fits into an Authorization header."""


class StoredCredentials(BaseModel):
    """The content of one store."""

    bearer_token: BearerToken
    version: Literal[1]


def read_bearer(store: Path) -> SecretStr:
    """The bearer token in a store.

    Raises:
        SettingsError: If the file cannot be read or is not in qq's format; the text quotes nothing of it.
    """
    try:
        content = store.read_bytes()
    except OSError as failure:
        raise SettingsError(f"QUMULO_CREDENTIALS_FILE: {store} cannot be read: {failure.strerror}.") from None
    try:
        return StoredCredentials.model_validate_json(content).bearer_token
    except ValidationError:
        raise SettingsError(
            f"QUMULO_CREDENTIALS_FILE: {store} is not in the format of qq's credentials store. "
            "`qq login` and `qq auth_create_access_token --file` write it."
        ) from None


def holds_bearer(content: bytes) -> bool:
    """Whether this is the content of a store."""
    try:
        StoredCredentials.model_validate_json(content)
    except ValidationError:
        return False
    return True


def write_store(bearer_token: SecretStr) -> bytes:
    """The content of a store for this token."""
    return json.dumps({"bearer_token": bearer_token.get_secret_value(), "version": 1}).encode()


def default_store(host: str, port: int, *, config_home: Path, home: Path) -> Path | None:
    """The store that `qq` itself would use for a cluster, or None if there is none."""
    candidates = (config_home / "qumulo" / "credentials" / f"{host.lower()}_{port}", home / ".qfsd_cred")
    return next((store for store in candidates if store.is_file()), None)
