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
from token_tools.quoting import is_secret, quote
from token_tools.redaction import WITHHELD, WITHHELD_TOO, repeats_secret
from token_tools.times import tell_duration

LONGEST_DESCRIPTION: Final = 240
"""Characters of a cluster's error text that are repeated."""

READ: Final = "PRIVILEGE_ACCESS_TOKENS_READ"
WRITE: Final = "PRIVILEGE_ACCESS_TOKENS_WRITE"
"""As the API spells them; the vendor's guide writes them in the singular."""

_ACCESS: Final = "access-v1:"
_LOGINS: Final = ("session-v1:", "1:")
"""How the bearer token of an access token begins, and that of a login. Source: the vendor's REST guide."""

_WHO_AM_I: Final = "whatever who-am-i needs there"
_EACH: Final = b'"creation_time"'
"""What each token of a page has once."""

LONGEST_KEY: Final = 1024
"""Characters of a paging key; a longer one would not fit into an answer or a URL."""

LONGEST_LINK: Final = 8 * LONGEST_KEY
"""Characters of the link that has the key in it."""

MOST_TOKENS: Final = 20_000
"""Tokens on a page that are read; a cluster of the vendor gives half as many at most. Source: its S3 guide."""

LONGEST_DATE: Final = 64
"""Characters of a date; RFC 9110 writes 29."""

LONGEST_WAIT: Final = timedelta(days=365)
"""What a Retry-After is taken for that asks for more."""

_ERROR_CLASS: Final = re.compile(r"(?:[a-z]{1,24}[0-9]{0,2}_){1,9}error")
"""As all that are known of the vendor's. Nothing else is shown."""
_VOCABULARY: Final = """
access account ad allowed already api argument auth authenticated authorized bad busy cannot conflict
connection create cred credential credentials database denied directory disabled do does domain duplicate
enabled entity entry error exceeded exist exists expiration expired failed feature field for forbidden found
fs group http id identity in internal invalid is key ldap limit local many max maximum method missing name no
not of only operation out parameter past permission posix privilege quota range reached read remote request
required resource s3 server service set sid smb some such support supported system time timeout to token
tokens too unauthorized unavailable unknown unsupported user users value version with write
"""
"""What the classes are made of that are known, and others of the vendor's API."""
_WORDS: Final = frozenset(_VOCABULARY.split())
"""The words of a class that is shown where others could be a part of a secret."""
_NO_CLEAR_ANSWER: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, 499}
"""Besides 5xx. A gateway that gave up waiting says 408 or, nginx, 499; what it passed on may have been done."""
_TRANSIENT: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_LASTING: Final = {
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    HTTPStatus.LOOP_DETECTED,
    HTTPStatus.NOT_EXTENDED,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED,
}
"""What the same request will be answered with again."""
_SOMEBODY: Final = "whoever runs the cluster, or the gateway if there is one,"
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

    @property
    def date(self) -> datetime | None:
        """When it was given, by the clock of whoever gave it; None if it does not tell, or a cache kept it."""
        return None if "age" in self.headers else _read_date(self.headers.get("date", ""))


class _Envelope(BaseModel):
    """The vendor's form of an error, which has a class; what else it should tell may be missing or no text."""

    error_class: Annotated[str, Field(min_length=1)]
    description: Annotated[str, BeforeValidator(lambda told: told if isinstance(told, str) else "")] = ""

    @property
    def shown_class(self) -> str | None:
        """The class if it is one word as the vendor writes them."""
        is_word = _ERROR_CLASS.fullmatch(self.error_class) and not is_secret(self.error_class)
        return self.error_class if is_word else None


class _Paging(BaseModel):
    next: str | None = None


class _Linked(BaseModel):
    paging: _Paging | None = None

    @property
    def after(self) -> str | None:
        return _read_after(self.paging.next) if self.paging and self.paging.next else None


class _TokenList(_Linked):
    # Of millions that are none, the first is enough.
    entries: Annotated[tuple[AccessToken, ...], FailFast(), Field(max_length=MOST_TOKENS)]


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
        ClusterError: As `check_write`, or `BadAnswer`.
    """
    check_write(answer)
    return _decode(AccessToken, answer, expected="an access token")


def read_new_token(answer: Answer) -> NewAccessToken:
    """A token just made, with its secret.

    Raises:
        ClusterError: As `check_write`, or `BadAnswer`. Its text quotes no sentence of the answer, which knows a secret
            that nobody else does yet.
    """
    check_write(answer, tell=_tell_known_class)
    new = _decode(NewAccessToken, answer, expected="the id and the bearer token of a new access token")
    if new.bearer_token.get_secret_value() == answer.credential.get_secret_value():
        raise BadAnswer("The answer has this server's own credential in it, and not a new bearer token.")
    return new


def read_deletion(answer: Answer) -> None:
    """Nothing: the body of a deletion's answer is empty.

    Raises:
        ClusterError: As `check_write`, or `BadAnswer`.
    """
    check_write(answer)
    if answer.body.strip():
        raise BadAnswer("The answer to the deletion is not empty, as that of a cluster is.")


def read_caller(answer: Answer) -> Caller:
    """Whom a credential stands for.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    check_status(answer, privilege=_WHO_AM_I)
    return _decode_caller(answer)


def read_proof(answer: Answer) -> Caller:
    """Whom a new bearer token stands for.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`. Its text quotes no sentence of the answer.
    """
    check_status(answer, privilege=_WHO_AM_I, tell=_tell_known_class)
    return _decode_caller(answer)


def read_identity(answer: Answer) -> Identity:
    """A resolved identity.

    Raises:
        ClusterError: As `check_status`, or `BadAnswer`.
    """
    found = _read(Identity, answer, expected="an identity", privilege="PRIVILEGE_IDENTITY_READ")
    if not found.is_somebody:
        raise BadAnswer("The answer is not an identity: it tells nothing of anybody.")
    return found


def _tell_known_class(answer: Answer) -> str:
    """As `_tell_class`; only the status where a word of the class could be a part of a new secret."""
    envelope = _read_envelope(answer)
    words = envelope.shown_class.split("_") if envelope and envelope.shown_class else ["?"]
    return _tell_class(answer) if _WORDS.issuperset(words) else f" ({answer.status})"


def _tell_class(answer: Answer) -> str:
    """` (409 some_error)`, with only the status where the body is not the vendor's envelope."""
    envelope = _read_envelope(answer)
    told = [str(answer.status), envelope.shown_class if envelope else None]
    return f" ({' '.join(filter(None, told))})"


def _tell_envelope(answer: Answer) -> str:
    """` (409 some_error: "Its description")`, with only the status where the body is not the vendor's envelope."""
    envelope = _read_envelope(answer)
    if envelope is None or not envelope.description:
        return _tell_class(answer)
    words = quote(envelope.description, longest=LONGEST_DESCRIPTION)
    if WITHHELD in words:
        words = "its words are withheld, since they repeat something of a credential"
    elif WITHHELD_TOO in words:
        words = "its words are withheld, since something in them looks like a credential"
    return f"{_tell_class(answer)[:-1]}: {words})"


def check_write(answer: Answer, *, tell: Callable[[Answer], str] = _tell_envelope) -> None:
    """Nothing for a 2xx; as `check_status` for the answer to a request that writes.

    Raises:
        ClusterError: As `check_status`. A 401 without a body, which a cluster may well give, is a `BadAnswer` too: what
            is in front of one may say it after the request was carried out.
    """
    if answer.status == HTTPStatus.UNAUTHORIZED and _read_envelope(answer) is None:
        raise BadAnswer(_tell_stranger(answer.status))
    check_status(answer, privilege=WRITE, tell=tell)


def check_status(answer: Answer, *, privilege: str, tell: Callable[[Answer], str] = _tell_envelope) -> None:
    """Nothing for a 2xx; `privilege` is the one to name when the cluster says that one is missing.

    `tell` gives what may be quoted of an error.

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
    if status in _NO_CLEAR_ANSWER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _tell_unavailable(answer, tell(answer))
    if status < HTTPStatus.BAD_REQUEST:
        raise BadAnswer(
            f"The answer is a redirect or nothing known (status {status}); it was not followed, since it could carry "
            "the credential elsewhere. Do QUMULO_HOST and QUMULO_PORT name the cluster's REST address?"
        )
    is_bare_401 = status == HTTPStatus.UNAUTHORIZED and not answer.body.strip()
    if _read_envelope(answer) is None and not is_bare_401:
        raise BadAnswer(_tell_stranger(status))
    raise _tell_refusal(status, tell(answer), privilege)


def _tell_refusal(status: int, said: str, privilege: str) -> ClusterError:
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthenticated(
            f"The cluster does not accept this server's own credential{said}: it has expired, was disabled or deleted, "
            "or is mistyped. The operator has to renew QUMULO_BEARER_TOKEN, QUMULO_CREDENTIALS_FILE or the login "
            "of qq, whichever this server works with."
        )
    if status == HTTPStatus.FORBIDDEN:
        still = (
            " Without it, from Core 7.3 on, what concerns the credential's own tokens still works: user `self`."
            if privilege in {READ, WRITE}
            else ""
        )
        return Forbidden(
            f"This server's credential lacks a privilege{said}. An administrator can grant {privilege} through a role."
            f"{still}"
        )
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"The cluster knows no such thing{said}.")
    return Rejected(f"The cluster declined{said}.")


def _tell_unavailable(answer: Answer, said: str) -> Unavailable:
    retry_after = _read_retry_after(answer.headers)
    is_clusters = _read_envelope(answer) is not None
    what = "cannot do this" if answer.status in _LASTING else "cannot answer now"
    wait = f" It asks to wait {tell_duration(retry_after)}." if retry_after else ""
    return Unavailable(
        f"The cluster{'' if is_clusters else ', or a gateway before it,'} {what}{said}.{wait}",
        transient=answer.status in _TRANSIENT,
        retry_after=retry_after,
        advice=_tell_when_to_retry(
            answer.status, retry_after, who="the cluster's administrator" if is_clusters else _SOMEBODY
        ),
    )


def _tell_when_to_retry(status: int, retry_after: timedelta | None, *, who: str) -> str:
    who = f"{who} has to look at it."
    if retry_after is not None:
        return "Try again after that, and not before."
    if status in _LASTING:
        return f"Trying the same again does not help: {who}"
    return f"Try again in {'a minute' if status in _TRANSIENT else 'some minutes, once'}; if it is the same then, {who}"


def _tell_stranger(status: int) -> str:
    return (
        f"The answer (status {status}) is not in the form of a Qumulo cluster's. Something in front of the cluster, "
        "such as a gateway or a firewall, gave it; or QUMULO_HOST and QUMULO_PORT do not name the REST address of a "
        "cluster with access tokens (Core 5.3.0 or newer)."
    )


def _read_envelope(answer: Answer) -> _Envelope | None:
    try:
        return _Envelope.model_validate_json(answer.body)
    except ValidationError:
        return None


def _read(model: type[Model], answer: Answer, *, expected: str, privilege: str) -> Model:
    check_status(answer, privilege=privilege)
    return _decode(model, answer, expected=expected)


def _decode_caller(answer: Answer) -> Caller:
    caller = _decode(Caller, answer, expected="who-am-i")
    credential = answer.credential.get_secret_value()
    looks = {"is_token": credential.startswith(_ACCESS), "may_be_token": not credential.startswith(_LOGINS)}
    return caller.model_copy(update=looks)


def _decode(model: type[Model], answer: Answer, *, expected: str) -> Model:
    if answer.body.count(_EACH) > MOST_TOKENS:
        raise BadAnswer(f"The answer has more than {MOST_TOKENS:,} access tokens at once, and was not read.")
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
    after = ""
    if len(link) <= LONGEST_LINK:
        with suppress(KeyError, ValueError):
            [after] = parse_qs(urlsplit(link).query, strict_parsing=True)["after"]
    if not 0 < len(after) <= LONGEST_KEY or repeats_secret(after):
        raise BadAnswer("The answer's `paging.next` has no usable `after` key, so the next page cannot be asked for.")
    return after


def _read_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text[:LONGEST_DATE]).astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def _read_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """The wait that a Retry-After asks for; a date in it counts from the answer's own Date, and none is no wait."""
    text = headers.get("retry-after", "")[:LONGEST_DATE]
    try:
        if text.isdecimal():
            wait = timedelta(seconds=int(text))
        else:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"][:LONGEST_DATE])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return min(wait, LONGEST_WAIT) if wait > timedelta() else None
