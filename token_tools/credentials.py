"""How is a bearer token checked, and how is it stored in a file? The format is that of qq's credentials store.

Such a store is a JSON file with one bearer token, which `qq --credentials-store PATH` reads.

Source: `qumulo.lib.auth` 7.10: `{"bearer_token": …, "version": 1}`, mode 0600 in a folder of mode 0700.
"""

import json
import os
import re
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, SecretStr, ValidationError

from token_tools.errors import SettingsError
from token_tools.file_reading import READ_TIMEOUT_SECONDS, decode_text, open_checked, read_mode, read_whole
from token_tools.operator_input import MAX_INPUT_CHARS, check_expanded, format_input, strip_invisible
from token_tools.redaction import has_likely_secret, remember_secret

MAX_STORE_BYTES: Final = 64 << 10
"""The largest store that is read; a token has about a hundred bytes."""

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH
_QUMULO_TOKEN_START: Final = re.compile(r"(?:(?:access|session)-v\d+|\d+):")
"""How the cluster's tokens begin. Source: the vendor's REST guide."""
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/:-]+=*")
"""A bearer token in an Authorization header; the colon is added for Qumulo's. Source: RFC 6750, section 2.1."""


def validate_bearer(bearer_token: SecretStr) -> SecretStr:
    """Return a bearer token that fits into an Authorization header, and remember it, so that no text repeats it.

    Raises:
        ValueError: If it does not fit; the text says why.
    """
    text = strip_invisible(bearer_token.get_secret_value())
    _check_bearer_text(text)
    secret = SecretStr(text)
    remember_secret(secret)
    return secret


def _check_bearer_text(text: str) -> None:
    if len(text) > MAX_INPUT_CHARS:
        raise ValueError(f"is longer than {MAX_INPUT_CHARS} characters, which no token is")
    if text.startswith(("{", "[")) and not text.startswith(("{{", "{env:", "{file:")):
        raise ValueError("is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path")
    check_expanded(text)
    if text.lower().startswith("bearer "):
        raise ValueError('has the word "Bearer" in front, which belongs to the header and not to the token')
    # A Qumulo token has a colon before its base64, which may happen to begin with two slashes.
    if "://" in text and not _QUMULO_TOKEN_START.match(text):
        raise ValueError("is a reference to a secret and not the secret: nobody has resolved it")
    if text.startswith(("/", "~", ".")):
        raise ValueError("is a path: QUMULO_CREDENTIALS_FILE takes one")
    if not _B64TOKEN.fullmatch(text):
        raise ValueError("is not a token: one word of letters, digits and a few signs, as the cluster gave it")


BearerToken = Annotated[SecretStr, AfterValidator(validate_bearer)]
"""A secret that fits into an Authorization header."""


class StoredCredentials(BaseModel):
    """The content of one store."""

    bearer_token: BearerToken
    version: Literal[1]


def read_bearer(store: Path) -> SecretStr:
    """Return the bearer token in a store that is a regular file.

    Raises:
        SettingsError: If the file cannot be read, if others can write it, or if it is not in qq's format. The text
            quotes nothing of the file.
    """
    return _read_store(store, stat.S_IFREG)


def read_bearer_once(store: Path, *, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> SecretStr:
    """Return the bearer token that comes out of a pipe within `timeout_seconds`. A pipe can be read only once.

    Raises:
        SettingsError: If the pipe has no end by then, or for the reasons of `read_bearer`.
    """
    return _read_store(store, stat.S_IFIFO, timeout_seconds=timeout_seconds)


def _read_store(store: Path, kind: int, *, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> SecretStr:
    try:
        with open_checked(store, kind=kind) as file_fd:
            _check_owner(store, os.fstat(file_fd))
            _check_not_stdin(os.fstat(file_fd))
            content = read_whole(file_fd, max_bytes=MAX_STORE_BYTES, timeout_seconds=timeout_seconds)
        return _decode_store(content)
    except ValueError as reason:
        raise SettingsError(f"QUMULO_CREDENTIALS_FILE names {format_input(str(store))}, which {reason}.") from None


def _check_owner(store: Path, status: os.stat_result) -> None:
    path = shlex.quote(str(store))
    if status.st_uid not in {os.geteuid(), 0}:
        raise ValueError(
            "belongs to another user, who can put another credential in there: "
            f"`chown {os.geteuid()} {path}` mends that"
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ValueError(f"other users can put another credential into: `chmod 600 {path}` mends that")


def _check_not_stdin(status: os.stat_result) -> None:
    with suppress(OSError):  # stdin is closed, so the store is not stdin
        if os.path.samestat(status, os.fstat(0)):
            raise ValueError("is stdin: there the client talks to the server")


def _decode_store(content: bytes) -> SecretStr:
    text = strip_invisible(decode_text(content))
    try:
        return StoredCredentials.model_validate_json(text).bearer_token
    except ValidationError as invalid:
        reasons = {str(mistake["loc"][0]): mistake for mistake in invalid.errors() if mistake["loc"]}
        raise ValueError(_render_flaw(text, reasons)) from None


def _render_flaw(text: str, reasons: dict[str, Any]) -> str:
    match reasons:
        case _ if not text:
            return "is empty"
        case _ if _is_bare_token(text):
            return (
                'holds a bare token: put it in as {"bearer_token": …, "version": 1}, or set QUMULO_BEARER_TOKEN instead'
            )
        case {"bearer_token": {"ctx": {"error": error}}}:
            return f"holds a bearer_token that {error}"
        case {"version": {"type": "literal_error"}}:
            return "is in another version of the format of qq's credentials store: only version 1 is known"
        case _:
            return (
                "is not JSON in the format of qq's credentials store: "
                "`qq login` and `qq auth_create_access_token --file` write it"
            )


def _is_bare_token(text: str) -> bool:
    word = text.strip("\"'")
    return has_likely_secret(word) and _B64TOKEN.fullmatch(word) is not None


def is_readable_by_others(store: Path) -> bool:
    """Tell whether other users of this machine may read a store, as far as its mode can be seen."""
    return bool(read_mode(store) & _READABLE_BY_OTHERS)


def is_valid_store(content: bytes) -> bool:
    """Tell whether some bytes are the content of a store."""
    try:
        StoredCredentials.model_validate_json(content)
    except ValidationError:
        return False
    return True


def encode_store(bearer_token: SecretStr) -> bytes:
    """Return the content of a store for a token."""
    return json.dumps({"bearer_token": bearer_token.get_secret_value(), "version": 1}).encode()


def find_default_store(host: str, port: int, *, config_home: Path | None, home: Path | None) -> Path | None:
    """Return the store that `qq` itself would use for a cluster, or None if there is none.

    A folder that is None is unknown and is not searched.
    """
    name = f"{host.lower()}_{port}"
    candidates = [config_home and config_home / "qumulo" / "credentials" / name, home and home / ".qfsd_cred"]
    # Unlike `Path.is_file`, this returns False if a folder on the way cannot be entered.
    return next((path for path in candidates if path and os.path.isfile(path)), None)  # noqa: PTH113 - as just said
