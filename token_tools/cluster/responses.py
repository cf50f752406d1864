"""What does an answer mean? Bytes become models, and statuses become errors, here and nowhere else.

This module has no I/O and no clock. Each `decode_*` returns what its name says, whatever the answer is, or raises a
`ClusterError`: that of `check_status` or `check_write`, and `BadAnswer` for a success without such content. Of an
answer it quotes only the vendor's error text, marked as data.

An answer comes from the endpoint only if both its status and its form are right: JSON of the promised shape, or for an
error the vendor's envelope. Every other answer comes from something in front of the cluster, such as a gateway. It is a
`BadAnswer` whatever its status, because it does not say whether the request was carried out.

Source: `qumulo.lib.request` 7.10 for the envelope of errors; RFC 9110 for Retry-After.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from pydantic import SecretStr

from token_tools.cluster.decoding import decode_body, decode_page_body
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, CoreVersion, NewAccessToken, Principal, TokenPage
from token_tools.cluster.normalization import MAX_TOKENS_PER_PAGE
from token_tools.errors import BadAnswer, ClusterError, Forbidden, NotFound, Rejected, Unauthenticated, Unavailable
from token_tools.quoting import has_secret, quote_untrusted
from token_tools.redaction import WITHHELD_KNOWN, WITHHELD_LIKELY, has_known_secret
from token_tools.times import format_duration

MAX_DESCRIPTION_CHARS: Final = 240
"""Errors quote at most this many characters of a cluster's description."""

READ_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_READ"
WRITE_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_WRITE"
LOOKUP_PRIVILEGE: Final = "PRIVILEGE_IDENTITY_READ"
"""The privileges as the API spells them; the vendor's guide writes them in the singular."""

_ACCESS_PREFIX: Final = "access-v1:"
_LOGIN_PREFIXES: Final = ("session-v1:", "1:")
"""How the bearer tokens of access tokens and of logins begin. Source: the vendor's REST guide."""

_WHO_AM_I_PRIVILEGE: Final = "whatever who-am-i needs there"
_VERSION_PRIVILEGE: Final = "whatever its version needs there"
_TOKEN_MARKER: Final = b'"creation_time"'
"""A key that each token of a page has once, so that tokens can be counted before they are decoded."""

MIN_OVERSIZED_BYTES: Final = MAX_TOKENS_PER_PAGE * 40
"""A page with more tokens than `MAX_TOKENS_PER_PAGE` is larger than this: a token without its user has 40 bytes."""

MAX_CURSOR_CHARS: Final = 1024
"""A longer cursor would not fit into an answer or a URL."""

MAX_LINK_CHARS: Final = 8 * MAX_CURSOR_CHARS
"""The longest `paging.next` that is parsed; URL encoding can make its cursor several times longer."""

MAX_DATE_CHARS: Final = 64
"""Characters of a date that are parsed; a date of RFC 9110 has 29."""

MAX_RETRY_AFTER: Final = timedelta(days=365)
"""A Retry-After that asks for more counts as this."""

_ERROR_CLASS: Final = re.compile(r"(?:[a-z]{1,24}[0-9]{0,2}_){1,9}error")
"""The form of every error class of the vendor that is known. A text of another form is not shown."""
_ERROR_CLASS_VOCABULARY: Final = """
access account ad allowed already api argument auth authenticated authorized bad busy cannot conflict
connection create cred credential credentials database denied directory disabled do does domain duplicate
enabled entity entry error exceeded exist exists expiration expired failed feature field for forbidden found
fs group http id identity in internal invalid is key ldap limit local many max maximum method missing name no
not of only operation out parameter past permission posix privilege quota range reached read remote request
required resource s3 server service set sid smb some such support supported system time timeout to token
tokens too unauthorized unavailable unknown unsupported user users value version with write
"""
"""Words of the known error classes, and other words of the vendor's API."""
_ERROR_CLASS_WORDS: Final = frozenset(_ERROR_CLASS_VOCABULARY.split())
"""After a POST only classes of these words are shown, because another word could be a part of the new secret."""
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
"""Statuses that the same request will meet again."""
_UNKNOWN_ADMINISTRATOR: Final = "whoever runs the cluster, or the gateway if there is one,"

NO_CREDENTIAL: Final = SecretStr("")


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP; the names of `headers` are in lower case. The body may contain a new bearer token.

    `credential` is the one that the request was signed with: an answer may repeat it. `credential_location` is where
    the operator keeps the server's own.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    credential: SecretStr = NO_CREDENTIAL
    credential_location: str = "it"

    @property
    def date(self) -> datetime | None:
        """Return the time at which the sender gave the answer; None if it has no date, or comes from a cache."""
        return None if "age" in self.headers else _parse_date(self.headers.get("date", ""))


class _Envelope(msgspec.Struct):
    """The vendor's form of an error. Only its class is certain; the description may be missing or no text."""

    error_class: Annotated[str, msgspec.Meta(min_length=1)]
    description: Any = None

    @property
    def safe_class(self) -> str | None:
        """Return the error class if it has the vendor's form and repeats no secret, else None."""
        is_safe = _ERROR_CLASS.fullmatch(self.error_class) and not has_secret(self.error_class)
        return self.error_class if is_safe else None


def decode_page(answer: Answer) -> TokenPage:
    """Return a page of tokens; its cursor is the `after` of `paging.next`, whose host is ignored."""
    check_status(answer, privilege=READ_PRIVILEGE)
    if len(answer.body) > MIN_OVERSIZED_BYTES and answer.body.count(_TOKEN_MARKER) > MAX_TOKENS_PER_PAGE:
        raise BadAnswer(f"The answer has more than {MAX_TOKENS_PER_PAGE:,} access tokens at once, and was not read.")
    page = decode_page_body(answer.body)
    link = page.paging.next if page.paging else None
    return TokenPage(page.entries, _parse_next_link(link) if link else None)


def decode_token(answer: Answer) -> AccessToken:
    """Return one token."""
    check_status(answer, privilege=READ_PRIVILEGE)
    return decode_body(answer.body, AccessToken)


def decode_updated_token(answer: Answer) -> AccessToken:
    """Return a token after its update."""
    check_write(answer)
    return decode_body(answer.body, AccessToken)


def decode_new_token(answer: Answer) -> NewAccessToken:
    """Return a new token with its secret.

    An error quotes no sentence of the answer, which may contain a secret that this process does not know yet and could
    not recognise.
    """
    check_write(answer, render=_render_known_class)
    new = decode_body(answer.body, NewAccessToken)
    if new.bearer_token.get_secret_value() == answer.credential.get_secret_value():
        raise BadAnswer("The answer has this server's own credential in it, and not a new bearer token.")
    return new


def check_deletion(answer: Answer) -> None:
    """Check that an answer confirms a deletion: a 2xx with an empty body.

    Raises:
        ClusterError: If it confirms none: `BadAnswer`, or what `check_write` raises.
    """
    check_write(answer)
    if answer.body.strip():
        raise BadAnswer("The answer to the deletion is not empty, as that of a cluster is.")


def decode_version(answer: Answer) -> CoreVersion:
    """Return the cluster's version."""
    check_status(answer, privilege=_VERSION_PRIVILEGE)
    return decode_body(answer.body, CoreVersion)


def decode_principal(answer: Answer) -> Principal:
    """Return the user of the server's own credential."""
    check_status(answer, privilege=_WHO_AM_I_PRIVILEGE)
    return _decode_principal_body(answer)


def decode_verified_principal(answer: Answer) -> Principal:
    """Return the user of a new bearer token. An error quotes no sentence of the answer."""
    check_status(answer, privilege=_WHO_AM_I_PRIVILEGE, render=_render_known_class)
    return _decode_principal_body(answer)


def decode_identity(answer: Answer) -> Identity:
    """Return an identity that the cluster has resolved."""
    check_status(answer, privilege=LOOKUP_PRIVILEGE)
    identity = decode_body(answer.body, Identity)
    if not identity.is_identified:
        raise BadAnswer("The answer is not an identity: it tells nothing of anybody.")
    return identity


def _render_known_class(answer: Answer) -> str:
    """Return ` (409 some_error)`, or ` (409)` if a word of the class could be a part of a new secret."""
    envelope = _decode_envelope(answer)
    words = envelope.safe_class.split("_") if envelope and envelope.safe_class else ["?"]
    return _render_class(answer) if _ERROR_CLASS_WORDS.issuperset(words) else f" ({answer.status})"


def _render_class(answer: Answer) -> str:
    """Return ` (409 some_error)`, or ` (409)` if the body is not the vendor's envelope."""
    envelope = _decode_envelope(answer)
    parts = [str(answer.status), envelope.safe_class if envelope else None]
    return f" ({' '.join(filter(None, parts))})"


def _render_envelope(answer: Answer) -> str:
    """Return ` (409 some_error: "Its description")`, or ` (409)` if the body is not the vendor's envelope."""
    envelope = _decode_envelope(answer)
    if envelope is None or not (isinstance(envelope.description, str) and envelope.description):
        return _render_class(answer)
    words = quote_untrusted(envelope.description, max_chars=MAX_DESCRIPTION_CHARS)
    if WITHHELD_KNOWN in words:
        words = "its words are withheld, since they repeat something of a credential"
    elif WITHHELD_LIKELY in words:
        words = "its words are withheld, since something in them looks like a credential"
    return f"{_render_class(answer)[:-1]}: {words})"


def check_write(answer: Answer, *, render: Callable[[Answer], str] = _render_envelope) -> None:
    """Check that a request that writes has succeeded with a 2xx; `render` returns what an error may quote.

    Raises:
        ClusterError: For any other status; `check_status` says which error for which. A 401 without a body is a
            `BadAnswer` here: a cluster may give it, but so may something in front of the cluster, after the write was
            carried out.
    """
    if answer.status == HTTPStatus.UNAUTHORIZED and _decode_envelope(answer) is None:
        raise BadAnswer(_render_not_from_cluster(answer.status))
    check_status(answer, privilege=WRITE_PRIVILEGE, render=render)


def check_status(answer: Answer, *, privilege: str, render: Callable[[Answer], str] = _render_envelope) -> None:
    """Check that a request has succeeded with a 2xx.

    `privilege` is the one that an error names for a 403. `render` returns what an error may quote of the answer.

    Raises:
        Unauthenticated: For 401, in the vendor's envelope or without a body.
        Forbidden: For 403 in the vendor's envelope.
        NotFound: For 404 in the vendor's envelope.
        Unavailable: For 408, 429, 499 and 5xx, in any form.
        Rejected: For any other 4xx in the vendor's envelope.
        BadAnswer: For a 4xx without the vendor's envelope, and for a redirect. No redirect is followed, because it
            could send the credential to another host.
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
    raise _explain_status(answer, render(answer), privilege)


def _explain_status(answer: Answer, rendered_error: str, privilege: str) -> ClusterError:
    status = answer.status
    if status == HTTPStatus.UNAUTHORIZED:
        is_login = answer.credential.get_secret_value().startswith(_LOGIN_PREFIXES)
        return Unauthenticated(
            f"The cluster does not accept this server's own credential{rendered_error}: it has expired, was "
            f"disabled or deleted, or is mistyped. The operator has to renew {answer.credential_location}"
            f"{', by a login of qq' if is_login else ''}."
        )
    if status == HTTPStatus.FORBIDDEN:
        self_hint = (
            " Without it, from Core 7.3 on, what concerns the credential's own tokens still works: user `self`."
            if privilege in {READ_PRIVILEGE, WRITE_PRIVILEGE}
            else ""
        )
        return Forbidden(
            f"This server's credential lacks a privilege{rendered_error}. An administrator can grant {privilege} "
            f"through a role.{self_hint}"
        )
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"The cluster knows no such thing{rendered_error}.")
    return Rejected(f"The cluster declined{rendered_error}.")


def _explain_unavailable(answer: Answer, rendered_error: str) -> Unavailable:
    retry_after = _parse_retry_after(answer.headers)
    is_from_cluster = _decode_envelope(answer) is not None
    what = "cannot do this" if answer.status in _PERMANENT_STATUSES else "cannot answer now"
    wait = f" It asks to wait {format_duration(retry_after)}." if retry_after else ""
    return Unavailable(
        f"The cluster{'' if is_from_cluster else ', or a gateway before it,'} {what}{rendered_error}.{wait}",
        is_transient=answer.status in _TRANSIENT_STATUSES,
        retry_after=retry_after,
        advice=_render_retry_advice(
            answer.status, retry_after, who="the cluster's administrator" if is_from_cluster else _UNKNOWN_ADMINISTRATOR
        ),
    )


def _render_retry_advice(status: int, retry_after: timedelta | None, *, who: str) -> str:
    escalation = f"{who} has to look at it."
    if retry_after is not None:
        return "Try again after that, and not before."
    if status in _PERMANENT_STATUSES:
        return f"Trying the same again does not help: {escalation}"
    return (
        f"Try again in {'a minute' if status in _TRANSIENT_STATUSES else 'some minutes, once'}; if it is "
        f"the same then, {escalation}"
    )


def _render_not_from_cluster(status: int) -> str:
    return (
        f"The answer (status {status}) is not in the form of a Qumulo cluster's. Something in front of the cluster, "
        "such as a gateway or a firewall, gave it; or QUMULO_HOST and QUMULO_PORT do not name the REST address of a "
        "cluster with access tokens (Core 5.3.0 or newer)."
    )


def _decode_envelope(answer: Answer) -> _Envelope | None:
    try:
        return msgspec.json.decode(answer.body, type=_Envelope)
    except (ValueError, RecursionError):
        return None


def _decode_principal_body(answer: Answer) -> Principal:
    principal = decode_body(answer.body, Principal)
    credential = answer.credential.get_secret_value()
    return msgspec.structs.replace(
        principal,
        is_token=credential.startswith(_ACCESS_PREFIX),
        may_be_token=not credential.startswith(_LOGIN_PREFIXES),
    )


def _parse_next_link(link: str) -> str:
    cursor = ""
    if len(link) <= MAX_LINK_CHARS:
        with suppress(KeyError, ValueError):
            [cursor] = parse_qs(urlsplit(link).query, strict_parsing=True)["after"]
    if not 0 < len(cursor) <= MAX_CURSOR_CHARS or has_known_secret(cursor):
        raise BadAnswer("The answer's `paging.next` has no usable `after` key, so the next page cannot be asked for.")
    return cursor


def _parse_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text[:MAX_DATE_CHARS]).astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def _parse_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Return the wait that a Retry-After asks for, or None if it asks for none.

    A date in it is compared with the answer's own Date, so that the difference of the clocks does not matter.
    """
    text = headers.get("retry-after", "")[:MAX_DATE_CHARS]
    try:
        if text.isdecimal():
            wait = timedelta(seconds=int(text))
        else:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"][:MAX_DATE_CHARS])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return min(wait, MAX_RETRY_AFTER) if wait > timedelta() else None
