"""What does the identity provider say? Its metadata and its keys, over HTTPS, kept for a while; and what it answers.

Metadata and keys are read again after 55 minutes, and when a token names a key that is not known, but twice a minute at
most. That is how long a key that the issuer has withdrawn can be used while the issuer answers. While it does not, or
answers something else, what was read last holds, so that nobody is locked out.
Sources: OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3.
"""

import json
import logging
import ssl
from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast

import anyio
import httpx
import jwt
import truststore

from token_tools import __version__
from token_tools.certificates import read_certificates
from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.operator_input import format_input
from token_tools.quoting import quote_untrusted
from token_tools.server.http.issuer_metadata import (
    Endpoints,
    Metadata,
    check_metadata,
    list_metadata_urls,
    parse_endpoints,
    parse_url,
)
from token_tools.server.http.signing_keys import SigningKey, parse_keys, select_key
from token_tools.times import Clock

KEYS_LIFETIME: Final = timedelta(minutes=55)
"""The age at which keys are read again."""

COOL_DOWN: Final = timedelta(seconds=30)
"""The time between two readings, whatever tokens come."""

FETCH_TIMEOUT_SECONDS: Final = 10.0
"""Seconds in which the metadata and the keys must be there, or the answer to a form."""

MAX_POSTS: Final = 4
"""Forms that are sent to the issuer at a time. Anybody can cause them."""

MAX_DOCUMENT_BYTES: Final = 256 << 10
"""The largest document that is read; those of large providers have a tenth of it."""

MAX_FAILURE_CHARS: Final = 200
"""Characters of a failure of the network that the log tells."""

_IDENTITY_ENCODING: Final = "identity"
_SUCCESS: Final = range(200, 300)
_ANSWERS_TO_FORMS: Final = frozenset({200, 400, 401})
"""The statuses with which a token endpoint explains itself. Source: RFC 6749, section 5."""

_LOG: Final = logging.getLogger(__name__)


class _Form(NamedTuple):
    """What is sent to an endpoint, encoded as its headers say."""

    headers: Mapping[str, str]
    body: str


class Published(NamedTuple):
    """What an issuer tells everybody: its metadata, and the keys that they name."""

    metadata: Metadata
    keys: Sequence[SigningKey]


class Issuer:
    """An identity provider, by its URL."""

    def __init__(
        self, url: str, *, ca_file: Path | None, transport: httpx.AsyncBaseTransport | None, clock: Clock
    ) -> None:
        """Take over the settings. The issuer is not asked yet, since it may be away when the server starts.

        Raises:
            SettingsError: If the file of certificates is unusable.
        """
        self.url = url
        self._ca_file = ca_file
        self._transport = transport
        self._clock = clock
        self._lock = anyio.Lock()
        self._published = Published({}, ())
        self._read_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._posting = anyio.Semaphore(MAX_POSTS)
        self._is_failing = False
        _check_certificates(ca_file)
        _LOG.info("The keys of the issuer %s are read when the first access token comes.", url)

    @classmethod
    def from_settings(
        cls, settings: HttpSettings, *, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> Self | None:
        """Return the issuer that the operator has set, None if there is none.

        Raises:
            SettingsError: If the file of certificates to trust for it is unusable.
        """
        if settings.http_issuer is None:
            return None
        return cls(settings.http_issuer, ca_file=settings.http_issuer_ca_file, transport=transport, clock=clock)

    async def find_key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that a token says it was signed with; `key_id` is None if it names none."""
        await self._refresh_old()
        key = select_key(self._published.keys, key_id, algorithm)
        if key is None:
            await self._refresh()
            key = select_key(self._published.keys, key_id, algorithm)
        return key

    async def find_endpoints(self) -> Endpoints:
        """Return where people sign in.

        Raises:
            ValueError: If the metadata do not say that, or could never be read; the text is a predicate for them.
        """
        await self._refresh_old()
        if not self._published.metadata:
            raise ValueError("cannot be read")
        return parse_endpoints(self._published.metadata)

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: str, timeout_seconds: float = FETCH_TIMEOUT_SECONDS
    ) -> Mapping[str, Any]:
        """Return what one of the endpoints answers to a form, be it what was asked for or why not.

        The time is also that in which others have to come to an end, if there are too many.

        Raises:
            ValueError: If it answers nothing of that kind, or not in time; the text is a predicate for it.
        """
        with _limit_time(timeout_seconds):
            async with self._posting, self._open_http() as http:
                return await _fetch_document(http, url, _Form(headers, body))

    async def _refresh_old(self) -> None:
        # Whoever comes while old keys are being read again is served with the old ones.
        if not (_is_within(KEYS_LIFETIME, self._read_at, self._clock()) or self._lock.locked()):
            await self._refresh()

    async def _refresh(self) -> None:
        """Read all again, unless that was just done; whoever waits for a reading shares it."""
        async with self._lock:
            if _is_within(COOL_DOWN, self._tried_at, self._clock()):
                return
            try:
                # A caller who goes away does not end what others wait for.
                with anyio.CancelScope(shield=True):
                    self._published = await self.read()
            except ValueError as failure:
                self._note_failure(str(failure))
            else:
                self._note_success()
            finally:
                self._tried_at = self._clock()

    def _note_failure(self, reason: str) -> None:
        if not self._is_failing:
            kept = "what was read before holds" if self._published.keys else "until then no access token is accepted"
            _LOG.warning(
                "The keys of the issuer %s cannot be read, and are tried again; %s: %s", self.url, kept, reason
            )
        self._is_failing = True

    def _note_success(self) -> None:
        if self._is_failing:
            _LOG.warning("The keys of the issuer %s can be read again.", self.url)
        self._is_failing = False
        self._read_at = self._clock()

    async def read(self, *, timeout_seconds: float = FETCH_TIMEOUT_SECONDS) -> Published:
        """Return what the issuer tells now.

        Raises:
            ValueError: If it cannot be read, or not in time; the text says why.
        """
        with _limit_time(timeout_seconds):
            async with self._open_http() as http:
                metadata = await self._fetch_metadata(http)
                try:
                    keys = parse_keys(await _fetch_document(http, parse_url(metadata, "jwks_uri")))
                    return Published(metadata, keys)
                except ValueError as reason:
                    raise ValueError(f"the document at its jwks_uri {reason}") from None

    async def _fetch_metadata(self, http: httpx.AsyncClient) -> Metadata:
        """Return the present metadata.

        Raises:
            ValueError: If there are none; the text says what is at each address where they may be.
        """
        reasons = list[str]()
        for url in list_metadata_urls(self.url):
            try:
                metadata = await _fetch_document(http, url)
                check_metadata(metadata, self.url)
            except ValueError as reason:
                reasons.append(f"{url} {reason}")
            else:
                return metadata
        raise ValueError("; ".join(reasons))

    def _open_http(self) -> httpx.AsyncClient:
        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._ca_file is not None:
            # The file may have been renewed since the last time.
            context.load_verify_locations(cadata=read_certificates(self._ca_file))
        return httpx.AsyncClient(
            headers={
                "User-Agent": f"qumulo-token-tools/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": _IDENTITY_ENCODING,
            },
            verify=context,
            transport=self._transport,
            # `_limit_time` bounds the whole exchange, which the timeouts of httpx do not.
            timeout=None,  # noqa: S113 - as just said
            # Ignore proxies and .netrc of the environment: only the settings count.
            trust_env=False,
            follow_redirects=False,
        )


def _check_certificates(ca_file: Path | None) -> None:
    try:
        if ca_file is not None:
            read_certificates(ca_file)
    except ValueError as reason:
        raise SettingsError(f"QUMULO_HTTP_ISSUER_CA_FILE names {format_input(str(ca_file))}, which {reason}.") from None


@contextmanager
def _limit_time(seconds: float) -> Generator[None]:
    """Let what is asked of the issuer take so long.

    Raises:
        ValueError: If it takes longer.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise ValueError(f"takes longer than {seconds:g} seconds") from None


def _is_within(span: timedelta, time: datetime | None, now: datetime) -> bool:
    """Tell whether a time was less than a span ago. A clock that was put back does not make the span longer."""
    return time is not None and abs(now - time) < span


async def _fetch_document(http: httpx.AsyncClient, url: str, form: _Form | None = None) -> Mapping[str, Any]:
    """Return the JSON object at an address, or what an endpoint there answers to a form.

    Raises:
        ValueError: If it cannot be had; the text is a predicate for the address.
    """
    sending = (
        http.stream("GET", url) if form is None else http.stream("POST", url, headers=form.headers, content=form.body)
    )
    try:
        async with sending as response:
            _check_response(response, _SUCCESS if form is None else _ANSWERS_TO_FORMS)
            body = await _read_body(response)
        document: object = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as failure:
        told = str(failure) or type(failure).__name__
        raise ValueError(f"cannot be reached: {quote_untrusted(told, max_chars=MAX_FAILURE_CHARS)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - an answer of another machine is wrong, not our code
    return cast(Mapping[str, Any], document)


def _check_response(response: httpx.Response, accepted: Container[int]) -> None:
    if response.status_code not in accepted:
        raise ValueError(f"answers with status {response.status_code}")
    if response.headers.get("content-encoding", _IDENTITY_ENCODING).strip().lower() not in {"", _IDENTITY_ENCODING}:
        # Decompressed, it could take a thousand times its size.
        raise ValueError("is compressed, which was not asked for")


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"is larger than {MAX_DOCUMENT_BYTES >> 10} KiB")
    return bytes(body)
