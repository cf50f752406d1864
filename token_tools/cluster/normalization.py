"""How does the JSON of an answer get the form that the models take?

Real clusters differ from the published schema: ids may be numbers, numbers may be text, and an unknown value may be
null, empty or absent. What cannot be normalized becomes a `MISFIT`, or unknown if the rest is of use without it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, cast

from pydantic import SecretStr

from token_tools.credentials import validate_bearer
from token_tools.redaction import has_known_secret
from token_tools.times import parse_rfc3339

MISFIT: Final = object()
"""Fits into no model: `msgspec.convert` refuses it and says where it stands."""

MAX_TOKENS_PER_PAGE: Final = 20_000
"""The largest page that is decoded; a real cluster returns at most half of it. Source: the vendor's S3 guide."""

Normalizers = Mapping[str, Callable[[object], object]]
"""A function for each field of an object that may come in another form."""

_NUMBER: Final = re.compile(r"\d{1,20}|0x[0-9a-f]{1,16}", re.ASCII | re.IGNORECASE)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""JSON can escape half of a pair, which has no UTF-8."""
_FLAGS: Final = dict.fromkeys(["true", "t", "yes", "y", "on", "1", "1.0"], True) | dict.fromkeys(
    ["false", "f", "no", "n", "off", "0", "0.0"], False
)
_PLAIN_ID: Final = re.compile(r"0|[1-9][0-9]{0,63}", re.ASCII)
_TOKEN_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)


def normalize(value: object, normalizers: Normalizers) -> object:
    """Return a JSON object with its fields normalized, and any other value as it is."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    return fields | {name: normalizer(fields[name]) for name, normalizer in normalizers.items() if name in fields}


def _normalize_entries(value: object) -> object:
    if not isinstance(value, list):
        return value
    # One more than the bound is enough to refuse them all.
    return [normalize(entry, TOKEN) for entry in cast("list[object]", value)[: MAX_TOKENS_PER_PAGE + 1]]


def _normalize_text(value: object) -> object:
    if isinstance(value, str) and _LONE_SURROGATE.search(value):
        return MISFIT
    return None if value == "" else value


def _normalize_number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _normalize_auth_id(value: object) -> object:
    if value is None or value == "":
        return None
    number = _parse_number(value)
    return str(number) if number is not None and 0 <= number < 2**64 else MISFIT


def _normalize_posix_id(value: object) -> int | None:
    number = int(value) if isinstance(value, float) and value.is_integer() else _parse_number(value)
    return number if number is not None and 0 <= number < 2**32 else None


def _parse_number(value: object) -> int | None:
    """Return a whole number from a JSON number or a text, or None. `int` alone would accept texts such as `1_0`."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value, base=16 if value.lower().startswith("0x") else 10)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def validate_token_id(token_id: str) -> str:
    """Return the id of a token.

    Raises:
        ValueError: If no cluster gives such an id, or it repeats something of a secret.
    """
    # Digits alone repeat nothing of a secret that anybody could use.
    if not _TOKEN_ID.fullmatch(token_id) or (not token_id.isdecimal() and has_known_secret(token_id)):
        raise ValueError("is no id of an access token")
    return token_id


def _normalize_token_id(value: object) -> object:
    return _validate(validate_token_id, _normalize_number_as_text(value))


def _validate(validate: Callable[[str], object], value: object) -> object:
    """Return what `validate` makes of a text; a misfit if it refuses it, or the value is no text."""
    try:
        return validate(value) if isinstance(value, str) else MISFIT
    except ValueError:
        return MISFIT


def _normalize_plain_id(value: object) -> object:
    # `007` may or may not be the token `7`.
    token_id = _normalize_number_as_text(value)
    return token_id if isinstance(token_id, str) and _PLAIN_ID.fullmatch(token_id) else None


def _normalize_time(value: object) -> object:
    # The text stays as the cluster wrote it, with more digits than a `datetime` has.
    return MISFIT if _validate(parse_rfc3339, value) is MISFIT else value


def _normalize_bearer(value: object) -> object:
    return _validate(lambda text: validate_bearer(SecretStr(text)), _normalize_number_as_text(value))


IDENTITY: Final[Normalizers] = {
    "domain": _normalize_text,
    "auth_id": _normalize_auth_id,
    "uid": _normalize_posix_id,
    "gid": _normalize_posix_id,
    "sid": _normalize_text,
    "name": _normalize_text,
}
TOKEN: Final[Normalizers] = {
    "id": _normalize_token_id,
    "user": lambda user: normalize({} if user is None else user, IDENTITY),
    "creator": lambda creator: normalize(creator, IDENTITY),
    "creation_time": _normalize_time,
    "expiration_time": lambda time: _normalize_time(time) if time else None,
    "enabled": lambda flag: _FLAGS.get(str(flag).lower(), flag),
}
CALLER: Final[Normalizers] = {
    "id": _normalize_auth_id,
    "name": _normalize_number_as_text,
    "sid": lambda sid: _normalize_text(_normalize_number_as_text(sid)),
    "uid": _normalize_posix_id,
    "access_token_id": _normalize_plain_id,
    # The form of the credential says these two, whatever the answer says.
    "is_token": lambda _: False,
    "may_be_token": lambda _: False,
}
NEW_TOKEN: Final[Normalizers] = {"bearer_token": _normalize_bearer, "id": _normalize_token_id}
PAGE: Final[Normalizers] = {"entries": _normalize_entries}
