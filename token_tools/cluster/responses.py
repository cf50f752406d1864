"""Bytes to models, statuses to errors: everything the cluster can say, understood in one place.

There is no I/O and no clock in here. A function either gives what its name says or raises one of our errors; no
answer whatever makes it do anything else, and none is quoted except the vendor's own error text, marked as data.

An answer is the endpoint's if its status *and* its form are: JSON of the promised shape, or for an error the vendor's
envelope. All else was said by something in front of a cluster, such as a gateway, and is a `BadAnswer` whatever its
status: it tells nothing of what became of a request.

Source: `qumulo.lib.request` 7.10 for the envelope of errors; RFC 9110 for Retry-After.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, BeforeValidator, FailFast, Field, SecretStr, ValidationError

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, Caller, NewAccessToken, TokenPage
from token_tools.errors import BadAnswer, ClusterError, Forbidden, NotFound, Rejected, Unauthenticated, Unavailable
from token_tools.quoting import has_secret, quote_untrusted
from token_tools.redaction import WITHHELD_KNOWN, WITHHELD_LIKELY, has_known_secret
from token_tools.times import format_duration

MAX_DESCRIPTION_CHARS: Final = 240
"""Characters of a cluster's error text that are repeated."""

READ_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_READ"
WRITE_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_WRITE"
"""As the API spells them; the vendor's guide writes them in the singular."""

_ACCESS_PREFIX: Final = "access-v1:"
_LOGIN_PREFIXES: Final = ("session-v1:", "1:")
"""How the bearer token of an access token begins, and that of a login. Source: the vendor's REST guide."""

_WHO_AM_I_PRIVILEGE: Final = "whatever who-am-i needs there"
_TOKEN_MARKER: Final = b'"creation_time"'
"""What each token of a page has once."""

MAX_CURSOR_CHARS: Final = 1024
"""Characters of a paging key; a longer one would not fit into an answer or a URL."""

MAX_LINK_CHARS: Final = 8 * MAX_CURSOR_CHARS
"""Characters of the link that has the key in it."""

MAX_TOKENS_PER_PAGE: Final = 20_000
"""Tokens on a page that are read; a cluster of the vendor gives half as many at most. Source: its S3 guide."""

MAX_DATE_CHARS: Final = 64
"""Characters of a date; RFC 9110 writes 29."""

MAX_RETRY_AFTER: Final = timedelta(days=365)
"""What a Retry-After is taken for that asks for more."""

_ERROR_CLASS: Final = re.compile(r"(?:[a-z]{1,24}[0-9]{0,2}_){1,9}error")
"""As all that are known of the vendor's. Nothing else is shown."""
_ERROR_CLASS_VOCABULARY: Final = """
access account ad allowed already api argument auth authenticated authorized bad busy cannot conflict
connection create cred credential credentials database denied directory disabled do does domain duplicate
enabled entity entry error exceeded exist exists expiration expired failed feature field for forbidden found
fs group http id identity in internal invalid is key ldap limit local many max maximum method missing name no
not of only operation out parameter past permission posix privilege quota range reached read remote request
required resource s3 server service set sid smb some such support supported system time timeout to token
tokens too unauthorized unavailable unknown unsupported user users value version with write
"""
"""What the classes are made of that are known, and others of the vendor's API."""
_ERROR_CLASS_WORDS: Final = frozenset(_ERROR_CLASS_VOCABULARY.split())
"""The words of a class that is shown where others could be a part of a secret."""
_AMBIGUOUS_STATUSES: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, 499}
"""Besides 5xx. A gateway that gave up waiting says 408 or, nginx, 499; what it passed on may have been done."""
_TRANSIENT_STATUSES: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_PERMANENT_STATUSES: Final = {
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    HTTPStatus.LOOP_DETECTED,
    HTTPStatus.NOT_EXTENDED,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED,
}
"""What the same request will be answered with again."""
_UNKNOWN_ADMINISTRATOR: Final = "whoever runs the cluster, or the gateway if there is one,"
_EXPECTED_PAGE: Final = "a list of access tokens"

NO_CREDENTIAL: Final = SecretStr("")


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP; the names of `headers` are in lower case. The body may hold a new bearer token.

    `credential` is what the request was signed with: an error may repeat it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    credential: SecretStr = NO_CREDENTIAL

    @property
    def date(self) -> datetime | None:
        """When it was given, by the clock of whoever gave it; None if it does not tell, or a cache kept it."""
        return None if "age" in self.headers else _parse_date(self.headers.get("date", ""))


class _Envelope(BaseModel):
    """The vendor's form of an error, which has a class; what else it should tell may be missing or no text."""

    error_class: Annotated[str, Field(min_length=1)]
    description: Annotated[str, BeforeValidator(lambda told: told if isinstance(told, str) else "")] = ""

    @property
    def safe_class(self) -> str | None:
        """The class if it is one word as the vendor writes them."""
        is_word = _ERROR_CLASS.fullmatch(self.error_class) and not has_secret(self.error_class)
        return self.error_class if is_word else None


class _Paging(BaseModel):
    next: str | None = None


class _PagedBody(BaseModel):
    paging: _Paging | None = None

    @property
    def cursor(self) -> str | None:
        return _parse_next_link(self.paging.next) if self.paging and self.paging.next else None


class _TokenPageBody(_PagedBody):
    # Of millions that are none, the first is enough.
    entries: Annotated[tuple[AccessToken, ...], FailFast(), Field(max_length=MAX_TOKENS_PER_PAGE)]


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class LazyPage:
    """A page of which only `cursor` was read, a tenth of the work; it means what it does in `TokenPage`."""

    cursor: str | None
    answer: Answer

    def decode(self) -> TokenPage:
        """All of it.

        Raises:
            BadAnswer: If it is no page of tokens.
        """
        return decode_page(self.answer)


def decode_page_lazily(answer: Answer) -> LazyPage:
    """A page of tokens that are read later, so that the next page can be asked for at once.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return LazyPage(
        _decode_checked(_PagedBody, answer, expected=_EXPECTED_PAGE, privilege=READ_PRIVILEGE).cursor, answer
    )


def decode_page(answer: Answer) -> TokenPage:
    """A page of tokens; of `paging.next` only the `cursor` key is taken, never its host.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    page = _decode_checked(_TokenPageBody, answer, expected=_EXPECTED_PAGE, privilege=READ_PRIVILEGE)
    return TokenPage(page.entries, page.cursor)


def decode_token(answer: Answer) -> AccessToken:
    """One token.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    return _decode_checked(AccessToken, answer, expected="an access token", privilege=READ_PRIVILEGE)


def decode_updated_token(answer: Answer) -> AccessToken:
    """One token, as it is after a change.

    Raises:
        ClusterError: As `check_write`, or `BadAnswer`.
    """
    check_write(answer)
    return _decode_body(AccessToken, answer, expected="an access token")


def decode_new_token(answer: Answer) -> NewAccessToken:
    """A token just made, with its secret.

    Raises:
        ClusterError: As `check_write`, or `BadAnswer`. Its text quotes no sentence of the answer, which knows a secret
            that nobody else does yet.
    """
    check_write(answer, render=_render_known_class)
    new = _decode_body(NewAccessToken, answer, expected="the id and the bearer token of a new access token")
    if new.bearer_token.get_secret_value() == answer.credential.get_secret_value():
        raise BadAnswer("The answer has this server's own credential in it, and not a new bearer token.")
    return new


def check_deletion(answer: Answer) -> None:
    """Nothing: the body of a deletion's answer is empty.

    Raises:
        ClusterError: As `check_write`, or `BadAnswer`.
    """
    check_write(answer)
    if answer.body.strip():
        raise BadAnswer("The answer to the deletion is not empty, as that of a cluster is.")


def decode_caller(answer: Answer) -> Caller:
    """Whom a credential stands for.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    check_status(answer, privilege=_WHO_AM_I_PRIVILEGE)
    return _decode_caller_body(answer)


def decode_verified_caller(answer: Answer) -> Caller:
    """Whom a new bearer token stands for.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`. Its text quotes no sentence of the answer.
    """
    check_status(answer, privilege=_WHO_AM_I_PRIVILEGE, render=_render_known_class)
    return _decode_caller_body(answer)


def decode_identity(answer: Answer) -> Identity:
    """A resolved identity.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    found = _decode_checked(Identity, answer, expected="an identity", privilege="PRIVILEGE_IDENTITY_READ")
    if not found.is_identified:
        raise BadAnswer("The answer is not an identity: it tells nothing of anybody.")
    return found


def _render_known_class(answer: Answer) -> str:
    """As `_render_class`; only the status where a word of the class could be a part of a new secret."""
    envelope = _decode_envelope(answer)
    words = envelope.safe_class.split("_") if envelope and envelope.safe_class else ["?"]
    return _render_class(answer) if _ERROR_CLASS_WORDS.issuperset(words) else f" ({answer.status})"


def _render_class(answer: Answer) -> str:
    """` (409 some_error)`, with only the status where the body is not the vendor's envelope."""
    envelope = _decode_envelope(answer)
    told = [str(answer.status), envelope.safe_class if envelope else None]
    return f" ({' '.join(filter(None, told))})"


def _render_envelope(answer: Answer) -> str:
    """` (409 some_error: "Its description")`, with only the status where the body is not the vendor's envelope."""
    envelope = _decode_envelope(answer)
    if envelope is None or not envelope.description:
        return _render_class(answer)
    words = quote_untrusted(envelope.description, max_chars=MAX_DESCRIPTION_CHARS)
    if WITHHELD_KNOWN in words:
        words = "its words are withheld, since they repeat something of a credential"
    elif WITHHELD_LIKELY in words:
        words = "its words are withheld, since something in them looks like a credential"
    return f"{_render_class(answer)[:-1]}: {words})"


def check_write(answer: Answer, *, render: Callable[[Answer], str] = _render_envelope) -> None:
    """Nothing for a 2xx; as `check_status` for the answer to a request that writes.

    Raises:
        ClusterError: As `check_status`. A 401 without a body, which a cluster may well give, is a `BadAnswer` too: what
            is in front of one may say it after the request was carried out.
    """
    if answer.status == HTTPStatus.UNAUTHORIZED and _decode_envelope(answer) is None:
        raise BadAnswer(_render_not_from_cluster(answer.status))
    check_status(answer, privilege=WRITE_PRIVILEGE, render=render)


def check_status(answer: Answer, *, privilege: str, render: Callable[[Answer], str] = _render_envelope) -> None:
    """Nothing for a 2xx; `privilege` is the one to name when the cluster says that one is missing.

    `render` gives what may be quoted of an error.

    Raises:
        Unauthenticated: For 401, in the vendor's envelope or without a body.
        Forbidden: For 403 in the vendor's envelope.
        NotFound: For 404 in the vendor's envelope.
        Unavailable: For 408, 429, 499 and 5xx; `transient` where the same request may well succeed soon.
        Rejected: For any other 4xx in the vendor's envelope.
        BadAnswer: For a 4xx that is no answer of a cluster, and for a redirect, which is never followed: it would carry
            the credential away.
    """
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status in _AMBIGUOUS_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _explain_unavailable(answer, render(answer))
    if status < HTTPStatus.BAD_REQUEST:
        raise BadAnswer(
            f"The answer is a redirect or nothing known (status {status}); it was not followed, since it could carry "
            "the credential elsewhere. Do QUMULO_HOST and QUMULO_PORT name the cluster's REST address?"
        )
    is_bare_401 = status == HTTPStatus.UNAUTHORIZED and not answer.body.strip()
    if _decode_envelope(answer) is None and not is_bare_401:
        raise BadAnswer(_render_not_from_cluster(status))
    raise _explain_status(status, render(answer), privilege)


def _explain_status(status: int, rendered_error: str, privilege: str) -> ClusterError:
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthenticated(
            f"The cluster does not accept this server's own credential{rendered_error}: it has expired, was "
            "disabled or deleted, "
            "or is mistyped. The operator has to renew QUMULO_BEARER_TOKEN, QUMULO_CREDENTIALS_FILE or the login "
            "of qq, whichever this server works with."
        )
    if status == HTTPStatus.FORBIDDEN:
        still = (
            " Without it, from Core 7.3 on, what concerns the credential's own tokens still works: user `self`."
            if privilege in {READ_PRIVILEGE, WRITE_PRIVILEGE}
            else ""
        )
        return Forbidden(
            f"This server's credential lacks a privilege{rendered_error}. An administrator can grant "
            f"{privilege} through a role."
            f"{still}"
        )
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"The cluster knows no such thing{rendered_error}.")
    return Rejected(f"The cluster declined{rendered_error}.")


def _explain_unavailable(answer: Answer, rendered_error: str) -> Unavailable:
    retry_after = _parse_retry_after(answer.headers)
    is_clusters = _decode_envelope(answer) is not None
    what = "cannot do this" if answer.status in _PERMANENT_STATUSES else "cannot answer now"
    wait = f" It asks to wait {format_duration(retry_after)}." if retry_after else ""
    return Unavailable(
        f"The cluster{'' if is_clusters else ', or a gateway before it,'} {what}{rendered_error}.{wait}",
        transient=answer.status in _TRANSIENT_STATUSES,
        retry_after=retry_after,
        advice=_render_retry_advice(
            answer.status, retry_after, who="the cluster's administrator" if is_clusters else _UNKNOWN_ADMINISTRATOR
        ),
    )


def _render_retry_advice(status: int, retry_after: timedelta | None, *, who: str) -> str:
    who = f"{who} has to look at it."
    if retry_after is not None:
        return "Try again after that, and not before."
    if status in _PERMANENT_STATUSES:
        return f"Trying the same again does not help: {who}"
    return (
        f"Try again in {'a minute' if status in _TRANSIENT_STATUSES else 'some minutes, once'}; if it is "
        f"the same then, {who}"
    )


def _render_not_from_cluster(status: int) -> str:
    return (
        f"The answer (status {status}) is not in the form of a Qumulo cluster's. Something in front of the cluster, "
        "such as a gateway or a firewall, gave it; or QUMULO_HOST and QUMULO_PORT do not name the REST address of a "
        "cluster with access tokens (Core 5.3.0 or newer)."
    )


def _decode_envelope(answer: Answer) -> _Envelope | None:
    try:
        return _Envelope.model_validate_json(answer.body)
    except ValidationError:
        return None


def _decode_checked(model: type[Model], answer: Answer, *, expected: str, privilege: str) -> Model:
    check_status(answer, privilege=privilege)
    return _decode_body(model, answer, expected=expected)


def _decode_caller_body(answer: Answer) -> Caller:
    caller = _decode_body(Caller, answer, expected="who-am-i")
    credential = answer.credential.get_secret_value()
    looks = {
        "is_token": credential.startswith(_ACCESS_PREFIX),
        "may_be_token": not credential.startswith(_LOGIN_PREFIXES),
    }
    return caller.model_copy(update=looks)


def _decode_body(model: type[Model], answer: Answer, *, expected: str) -> Model:
    if answer.body.count(_TOKEN_MARKER) > MAX_TOKENS_PER_PAGE:
        raise BadAnswer(f"The answer has more than {MAX_TOKENS_PER_PAGE:,} access tokens at once, and was not read.")
    try:
        return model.model_validate_json(answer.body)
    except ValidationError as invalid:
        place = invalid.errors(include_input=False, include_url=False)[0]["loc"]
        # Which of several forms of a value was tried is pydantic's business, and no name.
        where = ".".join(str(part) for part in place if isinstance(part, int) or part.isidentifier())
        raise BadAnswer(
            f"The answer is not {expected}"
            f"{f' (it does not fit at {quote_untrusted(where, max_chars=80)})' if where else ', nor any JSON object'}. "
            "Do QUMULO_HOST and QUMULO_PORT name the REST address of a Qumulo cluster?"
        ) from None


def _parse_next_link(link: str) -> str:
    after = ""
    if len(link) <= MAX_LINK_CHARS:
        with suppress(KeyError, ValueError):
            [after] = parse_qs(urlsplit(link).query, strict_parsing=True)["after"]
    if not 0 < len(after) <= MAX_CURSOR_CHARS or has_known_secret(after):
        raise BadAnswer("The answer's `paging.next` has no usable `after` key, so the next page cannot be asked for.")
    return after


def _parse_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text[:MAX_DATE_CHARS]).astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def _parse_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """The wait that a Retry-After asks for; a date in it counts from the answer's own Date, and none is no wait."""
    text = headers.get("retry-after", "")[:MAX_DATE_CHARS]
    try:
        if text.isdecimal():
            wait = timedelta(seconds=int(text))
        else:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"][:MAX_DATE_CHARS])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return min(wait, MAX_RETRY_AFTER) if wait > timedelta() else None
