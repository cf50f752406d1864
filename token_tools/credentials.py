"""How is a bearer token checked, and how is it stored in a file? The file holds it bare, or is qq's credentials store.

Such a store is a JSON file with one bearer token, which `qq --credentials-store PATH` reads.

Source: `qumulo.lib.auth` 7.10: `{"bearer_token": …, "version": 1}`, mode 0600 in a folder of mode 0700.
"""

import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, SecretStr, ValidationError

from token_tools.errors import SettingsError
from token_tools.file_reading import (
    READ_TIMEOUT_SECONDS,
    can_others_read,
    decode_text,
    open_checked,
    read_mode,
    read_whole,
)
from token_tools.operator_input import MAX_INPUT_CHARS, check_expanded, format_input, strip_invisible
from token_tools.posix import geteuid
from token_tools.redaction import has_likely_secret, remember_secret
from token_tools.system_user import belongs_to_other, can_others_write

FileSetting = Literal["bearer_token_file", "credentials_file"]
"""The settings that name a file: one with a bare bearer token, and a store of qq."""

MAX_CREDENTIAL_BYTES: Final = 64 << 10
"""The largest file or output that is read; a token has about a hundred bytes."""

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
        raise ValueError(
            "is a path: QUMULO_BEARER_TOKEN_FILE takes that of a bare token, QUMULO_CREDENTIALS_FILE that of qq's store"
        )
    if not _B64TOKEN.fullmatch(text):
        raise ValueError("is not a token: one word of letters, digits and a few signs, as the cluster gave it")


BearerToken = Annotated[SecretStr, AfterValidator(validate_bearer)]
"""A secret that fits into an Authorization header."""


class StoredCredentials(BaseModel):
    """The content of one store."""

    bearer_token: BearerToken
    version: Literal[1]


def read_bearer(path: Path, *, setting: FileSetting = "credentials_file") -> SecretStr:
    """Return the bearer token in the regular file that a setting names.

    Raises:
        SettingsError: If the file cannot be read, if others can write it, or if it is not in the setting's format. The
            text quotes nothing of the file.
    """
    return _read_file(path, stat.S_IFREG, setting)


def read_bearer_once(
    path: Path, *, setting: FileSetting = "credentials_file", timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> SecretStr:
    """Return the bearer token that comes out of a pipe within `timeout_seconds`. A pipe can be read only once.

    Raises:
        SettingsError: If the pipe has no end by then, or for the reasons of `read_bearer`.
    """
    return _read_file(path, stat.S_IFIFO, setting, timeout_seconds=timeout_seconds)


def _read_file(
    path: Path, kind: int, setting: FileSetting, *, timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> SecretStr:
    try:
        with open_checked(path, kind=kind) as file_fd:
            _check_owner(path, os.fstat(file_fd))
            _check_not_stdin(os.fstat(file_fd))
            content = read_whole(file_fd, max_bytes=MAX_CREDENTIAL_BYTES, timeout_seconds=timeout_seconds)
        return _DECODERS[setting](strip_invisible(decode_text(content)))
    except ValueError as reason:
        raise SettingsError(f"QUMULO_{setting.upper()} names {format_input(str(path))}, which {reason}.") from None


def _check_owner(store: Path, status: os.stat_result) -> None:
    path = shlex.quote(str(store))
    if belongs_to_other(status):
        raise ValueError(
            f"belongs to another user, who can put another credential in there: `chown {geteuid()} {path}` mends that"
        )
    if can_others_write(status):
        raise ValueError(f"other users can put another credential into: `chmod 600 {path}` mends that")


def _check_not_stdin(status: os.stat_result) -> None:
    with suppress(OSError):  # stdin is closed, so the store is not stdin
        if os.path.samestat(status, os.fstat(0)):
            raise ValueError("is stdin: there the client talks to the server")


def decode_bearer(content: str) -> SecretStr:
    """Return the bearer token in a text that is either the bare token or a store.

    Raises:
        ValueError: If it is neither; the text is a predicate for the content, and quotes nothing of it.
    """
    text = strip_invisible(content)
    return _decode_store(text) if text.startswith("{") else _decode_bare_token(text)


def _decode_bare_token(text: str) -> SecretStr:
    if not text:
        raise ValueError("is empty")
    return validate_bearer(SecretStr(text))


def _decode_token_file(text: str) -> SecretStr:
    try:
        return _decode_bare_token(text)
    except ValueError as reason:
        raise ValueError(f"holds what {reason}" if text else str(reason)) from None


def _decode_store(text: str) -> SecretStr:
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
            return "holds a bare token: QUMULO_BEARER_TOKEN_FILE takes such a file"
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


_DECODERS: Final[Mapping[FileSetting, Callable[[str], SecretStr]]] = {
    "bearer_token_file": _decode_token_file,
    "credentials_file": _decode_store,
}


def is_readable_by_others(path: Path) -> bool:
    """Tell whether other users of this machine may read a file, as far as its mode can be seen."""
    return can_others_read(path, read_mode(path))


def is_valid_store(content: bytes) -> bool:
    """Tell whether some bytes are the content of a store."""
    try:
        decode_store(content)
    except ValueError:
        return False
    return True


def decode_store(content: bytes) -> SecretStr:
    """Return the bearer token in the content of a store.

    Raises:
        ValueError: If it is none. The text may repeat something of it.
    """
    return StoredCredentials.model_validate_json(content).bearer_token


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
