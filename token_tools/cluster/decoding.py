"""How does the JSON of an answer become a model, and where does it not fit?

A page of tokens in the usual form is decoded and checked in a few steps. Any other JSON is normalized first.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, CoreVersion, NewAccessToken, Principal
from token_tools.cluster.normalization import (
    CALLER,
    IDENTITY,
    MAX_TOKENS_PER_PAGE,
    NEW_TOKEN,
    PAGE,
    TOKEN,
    Normalizers,
    normalize,
)
from token_tools.errors import BadAnswer
from token_tools.quoting import quote_untrusted

Model = TypeVar("Model")

_MISSING_FIELD: Final = re.compile(r"field `(\w+)`")
_PATH: Final = re.compile(r" - at `\$((?:\.\w+|\[\d+\])*)`$")
_USUAL_AUTH_IDS: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,18})\n)*+")
_DIGITS: Final = b"0123456789"


class Paging(msgspec.Struct, frozen=True):
    """The link to the next page; None if this page is the last one."""

    next: str | None = None


class PageBody(msgspec.Struct, frozen=True):
    """The JSON of a page of tokens."""

    entries: tuple[AccessToken, ...]
    paging: Paging | None = None

    def __post_init__(self) -> None:
        """Refuse more tokens than any cluster returns in one page."""
        if len(self.entries) > MAX_TOKENS_PER_PAGE:
            # `_find_path` reads the name of the field in msgspec's errors, and in this one.
            raise ValueError("too long: field `entries`")


_FORMS: Final[Mapping[type, tuple[str, Normalizers]]] = {
    PageBody: ("a list of access tokens", PAGE),
    AccessToken: ("an access token", TOKEN),
    NewAccessToken: ("the id and the bearer token of a new access token", NEW_TOKEN),
    Principal: ("who-am-i", CALLER),
    CoreVersion: ("the version of Qumulo Core", {}),
    Identity: ("an identity", IDENTITY),
}
"""What errors call each model, and in which forms its fields may come."""

_PAGE_DECODER: Final = msgspec.json.Decoder(PageBody)


def decode_page_body(body: bytes) -> PageBody:
    """Return the page of tokens that is in an answer.

    Raises:
        BadAnswer: If it is none.
    """
    with suppress(ValueError, RecursionError):
        page = _PAGE_DECODER.decode(body)
        if _is_usual(page.entries):
            return page
    return decode_body(body, PageBody)


def decode_body(body: bytes, model: type[Model]) -> Model:
    """Return what an answer contains; fields that the model does not have are ignored.

    Raises:
        BadAnswer: If it is no such thing; the text says at which key it does not fit.
    """
    expected, normalizers = _FORMS[model]
    try:
        return msgspec.convert(normalize(msgspec.json.decode(body), normalizers), model)
    except (ValueError, RecursionError) as misfit:
        path = _find_path(str(misfit))
        flaw = f" (it does not fit at {quote_untrusted(path, max_chars=80)})" if path else ", nor any JSON object"
        raise BadAnswer(
            f"The answer is not {expected}{flaw}. "
            "Do QUMULO_HOST and QUMULO_PORT name the REST address of a Qumulo cluster?"
        ) from None


def _find_path(flaw: str) -> str:
    """Return `entries.0.id` for msgspec's ``Object missing required field `id` - at `$.entries[0]` ``."""
    found = [match[1] for match in (_PATH.search(flaw), _MISSING_FIELD.search(flaw)) if match]
    return ".".join(re.findall(r"\w+", ".".join(found)))


def _is_usual(tokens: Sequence[AccessToken]) -> bool:
    """Tell whether the ids and times of tokens are written in the usual way, which their types do not say.

    One look at all values of a field takes a fifth of the time of a look at each.
    """
    ids = [token.id for token in tokens]
    auth_ids = [auth_id for token in tokens if (auth_id := token.user.auth_id)]
    auth_ids += [auth_id for token in tokens if token.creator and (auth_id := token.creator.auth_id)]
    times = [token.creation_time for token in tokens]
    times += [time for token in tokens if (time := token.expiration_time)]
    joined_auth_ids, joined_times = _join(auth_ids), _join(times).encode()
    return (
        _join(ids).encode().translate(None, _DIGITS) == b"\n" * len(ids)
        and joined_auth_ids.count("\n") == len(auth_ids)
        and _USUAL_AUTH_IDS.fullmatch(joined_auth_ids) is not None
        and joined_times.translate(None, _DIGITS + b".") == b"--T::Z\n" * len(times)
        and b".Z" not in joined_times
        # A time that is in no calendar raises a ValueError, as what fits no type does.
        and all(map(datetime.fromisoformat, times))
    )


def _join(values: Sequence[str]) -> str:
    return "\n".join(values) + "\n" * bool(values)
