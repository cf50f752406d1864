"""qq's credentials store: one bearer token in a JSON file that `qq --credentials-store PATH` reads.

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
from token_tools.files import READ_TIMEOUT, decode, find_mode, opened, read_whole
from token_tools.operator_input import check_expanded, clean, show
from token_tools.redaction import MAX_SEARCHED, hold, looks_secret

LARGEST: Final = 64 << 10
"""Bytes of a store; a token has about a hundred."""

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH
_QUMULO_S: Final = re.compile(r"(?:(?:access|session)-v\d+|\d+):")
"""How the cluster's tokens begin. Source: the vendor's REST guide."""
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/:-]+=*")
"""What stands in an Authorization header, and a colon, which Qumulo's have. Source: RFC 6750, section 2.1."""


def _check_bearer(bearer_token: SecretStr) -> SecretStr:
    text = clean(bearer_token.get_secret_value())
    _check_word(text)
    secret = SecretStr(text)
    hold(secret)
    return secret


def _check_word(text: str) -> None:
    if len(text) > MAX_SEARCHED:
        raise ValueError(f"is longer than {MAX_SEARCHED} characters, which no token is")
    if text.startswith(("{", "[")) and not text.startswith(("{{", "{env:", "{file:")):
        raise ValueError("is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path")
    check_expanded(text)
    if text.lower().startswith("bearer "):
        raise ValueError('has the word "Bearer" in front, which belongs to the header and not to the token')
    # The base64 of a token begins with two slashes now and then.
    if "://" in text and not _QUMULO_S.match(text):
        raise ValueError("is a reference to a secret and not the secret: nobody has resolved it")
    if text.startswith(("/", "~", ".")):
        raise ValueError("is a path: QUMULO_CREDENTIALS_FILE takes one")
    if not _B64TOKEN.fullmatch(text):
        raise ValueError("is not a token: one word of letters, digits and a few signs, as the cluster gave it")


BearerToken = Annotated[SecretStr, AfterValidator(_check_bearer)]
"""A secret that fits into an Authorization header. From its validation on, no text that leaves repeats it."""


class StoredCredentials(BaseModel):
    """The content of one store."""

    bearer_token: BearerToken
    version: Literal[1]


def read_bearer(store: Path) -> SecretStr:
    """The bearer token in a store that is a file.

    Raises:
        SettingsError: If the file cannot be read, is open to others or is not in qq's format; the text quotes nothing
            of it.
    """
    return _read_store(store, stat.S_IFREG)


def read_bearer_once(store: Path, *, timeout: float = READ_TIMEOUT) -> SecretStr:
    """The bearer token that comes out of a pipe within `timeout` seconds; it never comes again.

    Raises:
        SettingsError: As for a file.
    """
    return _read_store(store, stat.S_IFIFO, timeout=timeout)


def _read_store(store: Path, kind: int, *, timeout: float = READ_TIMEOUT) -> SecretStr:
    try:
        with opened(store, kind=kind) as file:
            _check_owner(store, os.fstat(file))
            _check_own_input(os.fstat(file))
            content = read_whole(file, max_bytes=LARGEST, timeout=timeout)
        return _parse_store(content)
    except ValueError as reason:
        raise SettingsError(f"QUMULO_CREDENTIALS_FILE names {show(str(store))}, which {reason}.") from None


def _check_owner(store: Path, status: os.stat_result) -> None:
    path = shlex.quote(str(store))
    if status.st_uid not in {os.geteuid(), 0}:
        raise ValueError(
            "belongs to another user, who can put another credential in there: "
            f"`chown {os.geteuid()} {path}` mends that"
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ValueError(f"other users can put another credential into: `chmod 600 {path}` mends that")


def _check_own_input(status: os.stat_result) -> None:
    with suppress(OSError):  # then it is closed, and no pipe either
        if os.path.samestat(status, os.fstat(0)):
            raise ValueError("is stdin: there the client talks to the server")


def _parse_store(content: bytes) -> SecretStr:
    text = clean(decode(content))
    try:
        return StoredCredentials.model_validate_json(text).bearer_token
    except ValidationError as invalid:
        reasons = {str(mistake["loc"][0]): mistake for mistake in invalid.errors() if mistake["loc"]}
        raise ValueError(_tell_flaw(text, reasons)) from None


def _tell_flaw(text: str, reasons: dict[str, Any]) -> str:
    match reasons:
        case _ if not text:
            return "is empty"
        case _ if _is_bare(text):
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


def _is_bare(text: str) -> bool:
    word = text.strip("\"'")
    return looks_secret(word) and _B64TOKEN.fullmatch(word) is not None


def is_readable_by_others(store: Path) -> bool:
    """Whether other users of this machine are known to be able to read the bearer token in a file."""
    return bool(find_mode(store) & _READABLE_BY_OTHERS)


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


def default_store(host: str, port: int, *, config_home: Path | None, home: Path | None) -> Path | None:
    """The store that `qq` itself would use for a cluster, or None if there is none.

    A folder that is None is not known.
    """
    name = f"{host.lower()}_{port}"
    candidates = [config_home and config_home / "qumulo" / "credentials" / name, home and home / ".qfsd_cred"]
    # Unlike pathlib's, this does not fail where a folder on the way cannot be entered.
    return next((store for store in candidates if store and os.path.isfile(store)), None)  # noqa: PTH113
