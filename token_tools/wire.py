"""Bytes to models, statuses to errors: everything the cluster can say, understood in one place.

There is no I/O and no clock in here. A function either gives what its name says or raises one of our errors; no
answer whatever makes it do anything else, and none is quoted except the vendor's own error text, marked as data.

Source: `qumulo.lib.request` 7.10 for the envelope of errors; RFC 9110 for Retry-After.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, BeforeValidator, SecretStr, ValidationError

from token_tools.echo import repeats
from token_tools.errors import BadAnswer, Forbidden, NotFound, Rejected, Unauthenticated, Unavailable
from token_tools.identity import Identity
from token_tools.models import AccessToken, Caller, NewAccessToken, TokenPage
from token_tools.quotation import quote
from token_tools.times import tell_duration

LONGEST_DESCRIPTION: Final = 240
"""Characters of a cluster's error text that are repeated."""

LONGEST_SEARCHED: Final = 4096
"""Characters of it that are searched for the credential; the search of millions would stop everything else."""

READ: Final = "PRIVILEGE_ACCESS_TOKENS_READ"
WRITE: Final = "PRIVILEGE_ACCESS_TOKENS_WRITE"
"""As the API spells them; the vendor's guide writes them in the singular."""

_ACCESS: Final = "access-v1:"
"""How the bearer token of an access token begins, and that of a login does not."""

LONGEST_KEY: Final = 1024
"""Characters of a paging key; a longer one would not fit into an answer or a URL."""

LONGEST_WAIT: Final = timedelta(days=365)
"""What a Retry-After is taken for that asks for more."""

_SECRET: Final = re.compile(r"(?=[\w+/]*[A-Z])(?=[\w+/]*[a-z])(?=[\w+/]*[0-9])[A-Za-z0-9+/]{32}", re.ASCII)
_ERROR_CLASS: Final = re.compile(r"[a-z0-9_]{1,40}")
_NO_CLEAR_ANSWER: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, 499}
"""Besides 5xx. A gateway that gave up waiting says 408 or, nginx, 499; what it passed on may have been done."""
_TRANSIENT: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_PAGE: Final = "a list of access tokens"

NONE: Final = SecretStr("")


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP; the names of `headers` are in lower case. The body may hold a new bearer token.

    `credential` is what the request was signed with: an error may repeat it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    credential: SecretStr = NONE


Telling = Annotated[str, BeforeValidator(lambda told: told if isinstance(told, str) else "")]


class _Envelope(BaseModel):
    """The vendor's form of an error; of what it should tell, one thing may be missing or no text."""

    error_class: Telling = ""
    description: Telling = ""


class _Paging(BaseModel):
    next: str | None = None


class _Linked(BaseModel):
    paging: _Paging | None = None

    @property
    def after(self) -> str | None:
        return _read_after(self.paging.next) if self.paging and self.paging.next else None


class _TokenList(_Linked):
    entries: tuple[AccessToken, ...]


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class UnreadPage:
    """A page of which only `after` was read, a tenth of the work; it means what it does in `TokenPage`."""

    after: str | None
    answer: Answer

    def read(self) -> TokenPage:
        """All of it.

        Raises:
            BadAnswer: If it is no page of tokens.
        """
        return read_page(self.answer)


def skim_page(answer: Answer) -> UnreadPage:
    """A page of tokens that are read later, so that the next page can be asked for at once.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return UnreadPage(_read(_Linked, answer, expected=_PAGE, privilege=READ).after, answer)


def read_page(answer: Answer) -> TokenPage:
    """A page of tokens; of `paging.next` only the `after` key is taken, never its host.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    page = _read(_TokenList, answer, expected=_PAGE, privilege=READ)
    return TokenPage(page.entries, page.after)


def read_token(answer: Answer) -> AccessToken:
    """One token.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return _read(AccessToken, answer, expected="an access token", privilege=READ)


def read_changed_token(answer: Answer) -> AccessToken:
    """One token, as it is after a change.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return _read(AccessToken, answer, expected="an access token", privilege=WRITE)


def read_new_token(answer: Answer) -> NewAccessToken:
    """A token just made, with its secret.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return _read(NewAccessToken, answer, expected="the id and the bearer token of a new access token", privilege=WRITE)


def read_deletion(answer: Answer) -> None:
    """Nothing: the body of a deletion's answer is empty.

    Raises:
        ClusterError: As `check_status`.
    """
    check_status(answer, privilege=WRITE)


def read_caller(answer: Answer) -> Caller:
    """Whom a credential stands for.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    caller = _read(Caller, answer, expected="who-am-i", privilege="whatever who-am-i needs there")
    return caller.model_copy(update={"is_token": answer.credential.get_secret_value().startswith(_ACCESS)})


def read_identity(answer: Answer) -> Identity:
    """A resolved identity.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return _read(Identity, answer, expected="an identity", privilege="PRIVILEGE_IDENTITY_READ")


def check_status(answer: Answer, *, privilege: str) -> None:
    """Nothing for a 2xx; `privilege` is the one to name when the cluster says that one is missing.

    Raises:
        Unauthenticated: For 401.
        Forbidden: For 403.
        NotFound: For 404.
        Unavailable: For 408, 429, 499 and 5xx; `transient` where the same request may well succeed soon.
        BadAnswer: For a redirect, which is never followed: it would carry the credential away.
        Rejected: For any other 4xx.
    """
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    said = _tell_envelope(answer)
    if status == HTTPStatus.UNAUTHORIZED:
        raise Unauthenticated(
            f"The cluster does not accept this server's own credential{said}: it has expired, was disabled or deleted, "
            "or is mistyped. The operator has to renew QUMULO_BEARER_TOKEN or QUMULO_CREDENTIALS_FILE."
        )
    if status == HTTPStatus.FORBIDDEN:
        still = (
            " Without it, from Core 7.3 on, what concerns the credential's own tokens still works: user `self`."
            if privilege in {READ, WRITE}
            else ""
        )
        raise Forbidden(
            f"This server's credential lacks a privilege{said}. An administrator can grant {privilege} through a role."
            f"{still}"
        )
    if status == HTTPStatus.NOT_FOUND:
        raise NotFound(f"The cluster knows no such thing{said}.")
    if status in _NO_CLEAR_ANSWER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        retry_after = _read_retry_after(answer.headers)
        wait = f" It asks for {tell_duration(retry_after)} of patience." if retry_after else ""
        raise Unavailable(
            f"The cluster, or a gateway before it, cannot answer now{said}.{wait}",
            transient=status in _TRANSIENT,
            retry_after=retry_after,
        )
    if status >= HTTPStatus.BAD_REQUEST:
        raise Rejected(f"The cluster declined{said}.")
    raise BadAnswer(
        f"The answer is a redirect or nothing known (status {status}); it was not followed, since it could carry the "
        "credential elsewhere. Do QUMULO_HOST and QUMULO_PORT name the cluster's REST address?"
    )


def _read(model: type[Model], answer: Answer, *, expected: str, privilege: str) -> Model:
    check_status(answer, privilege=privilege)
    try:
        return model.model_validate_json(answer.body)
    except ValidationError as invalid:
        place = invalid.errors(include_input=False, include_url=False)[0]["loc"]
        # Which of several forms of a value was tried is pydantic's business, and no name.
        where = ".".join(str(part) for part in place if isinstance(part, int) or part.isidentifier())
        raise BadAnswer(
            f"The answer is not {expected}"
            f"{f' (it does not fit at {quote(where, longest=80)})' if where else ', nor any JSON object'}. "
            "Do QUMULO_HOST and QUMULO_PORT name the REST address of a Qumulo cluster?"
        ) from None


def _read_after(link: str) -> str:
    try:
        [after] = parse_qs(urlsplit(link).query, strict_parsing=True)["after"]
    except (KeyError, ValueError):
        after = ""
    if not 0 < len(after) <= LONGEST_KEY:
        raise BadAnswer("The answer's `paging.next` has no usable `after` key, so the next page cannot be asked for.")
    return after


def _tell_envelope(answer: Answer) -> str:
    """` (409 some_error: "Its description")`, with only the status where the body is not the vendor's envelope."""
    try:
        envelope = _Envelope.model_validate_json(answer.body)
    except ValidationError:
        envelope = _Envelope()
    description = envelope.description[:LONGEST_SEARCHED]
    credential = answer.credential.get_secret_value()
    is_class = _ERROR_CLASS.fullmatch(envelope.error_class) and not repeats(envelope.error_class, credential)
    error_class = f" {envelope.error_class}" if is_class else ""
    if repeats(description, credential) or _SECRET.search(description):
        # Of a token that the request was to make, or to delete, only the look is known here.
        said = ": its words are withheld, since they repeat something of a credential"
    else:
        said = f": {quote(description, longest=LONGEST_DESCRIPTION)}" if description else ""
    return f" ({answer.status}{error_class}{said})"


def _read_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """The wait that a Retry-After asks for; a date in it counts from the answer's own Date, and none is no wait."""
    text = headers.get("retry-after", "")
    try:
        if text.isdecimal():
            wait = timedelta(seconds=int(text))
        else:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return min(wait, LONGEST_WAIT) if wait > timedelta() else None
