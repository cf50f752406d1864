"""What does the identity provider say of itself? Its metadata and its keys, over HTTPS, kept for a while.

Keys are read again after 55 minutes, and when a token names one that is not known, but twice a minute at most. That is
how long a key that the issuer has withdrawn can be used while the issuer answers. While it does not, or answers
something else, the keys that were read last hold, so that nobody is locked out.
Sources: OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3.
"""

import json
import logging
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
import truststore

from token_tools import __version__
from token_tools.certificates import read_certificates
from token_tools.errors import SettingsError
from token_tools.operator_input import format_input
from token_tools.quoting import quote_untrusted
from token_tools.server.http.signing_keys import SigningKey, parse_keys, select_key
from token_tools.times import Clock

KEYS_LIFETIME: Final = timedelta(minutes=55)
"""The age at which keys are read again."""

COOL_DOWN: Final = timedelta(seconds=30)
"""The time between two readings, whatever tokens come."""

FETCH_TIMEOUT_SECONDS: Final = 10.0
"""Seconds in which the metadata and the keys must be there."""

MAX_DOCUMENT_BYTES: Final = 256 << 10
"""The largest document that is read; those of large providers have a tenth of it."""

MAX_FAILURE_CHARS: Final = 200
"""Characters of a failure of the network that the log tells."""

_WELL_KNOWN: Final = "/.well-known/"
_IDENTITY_ENCODING: Final = "identity"

_LOG: Final = logging.getLogger(__name__)


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
        self._keys: Sequence[SigningKey] = ()
        self._read_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._is_failing = False
        _check_certificates(ca_file)
        _LOG.info("The keys of the issuer %s are read when the first access token comes.", url)

    async def find_key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that a token says it was signed with; `key_id` is None if it names none."""
        # Whoever comes while old keys are being read again is served with the old ones.
        if not (_is_within(KEYS_LIFETIME, self._read_at, self._clock()) or self._lock.locked()):
            await self._refresh()
        key = select_key(self._keys, key_id, algorithm)
        if key is None:
            await self._refresh()
            key = select_key(self._keys, key_id, algorithm)
        return key

    async def _refresh(self) -> None:
        """Read the keys again, unless that was just done; whoever waits for a reading shares it."""
        async with self._lock:
            if _is_within(COOL_DOWN, self._tried_at, self._clock()):
                return
            try:
                # A caller who goes away does not end what others wait for.
                with anyio.CancelScope(shield=True):
                    self._keys = await self.read_keys()
            except ValueError as failure:
                self._note_failure(str(failure))
            else:
                self._note_success()
            finally:
                self._tried_at = self._clock()

    def _note_failure(self, reason: str) -> None:
        if not self._is_failing:
            kept = "what was read before holds" if self._keys else "until then no access token is accepted"
            _LOG.warning(
                "The keys of the issuer %s cannot be read, and are tried again; %s: %s", self.url, kept, reason
            )
        self._is_failing = True

    def _note_success(self) -> None:
        if self._is_failing:
            _LOG.warning("The keys of the issuer %s can be read again.", self.url)
        self._is_failing = False
        self._read_at = self._clock()

    async def read_keys(self, *, timeout_seconds: float = FETCH_TIMEOUT_SECONDS) -> Sequence[SigningKey]:
        """Return the keys that the issuer has now.

        Raises:
            ValueError: If they cannot be read, or not in time; the text says why.
        """
        try:
            with anyio.fail_after(timeout_seconds):
                return await self._fetch_keys()
        except TimeoutError:
            raise ValueError(f"takes longer than {timeout_seconds:g} seconds") from None

    async def _fetch_keys(self) -> Sequence[SigningKey]:
        """Return the present keys.

        Raises:
            ValueError: If they cannot be read; the text says at which address, and why.
        """
        async with self._open_http() as http:
            url = await self._find_keys_url(http)
            try:
                return parse_keys(await _fetch_document(http, url))
            except ValueError as reason:
                raise ValueError(f"the document at its jwks_uri {reason}") from None

    async def _find_keys_url(self, http: httpx.AsyncClient) -> str:
        """Return where the keys are.

        Raises:
            ValueError: If no metadata says so.
        """
        reasons = list[str]()
        for url in list_metadata_urls(self.url):
            try:
                return _parse_metadata(await _fetch_document(http, url), self.url)
            except ValueError as reason:
                reasons.append(f"{url} {reason}")
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
            # `read_keys` bounds the whole reading, which the timeouts of httpx do not.
            timeout=None,  # noqa: S113 - as just said
            # Ignore proxies and .netrc of the environment: only the settings count.
            trust_env=False,
            follow_redirects=False,
        )


def list_metadata_urls(issuer: str) -> Sequence[str]:
    """Return where an issuer may have its metadata: that of OpenID behind its path, that of OAuth before its path."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return [
        f"{origin}{path}{_WELL_KNOWN}openid-configuration",
        f"{origin}{_WELL_KNOWN}oauth-authorization-server{path}",
    ]


def _check_certificates(ca_file: Path | None) -> None:
    try:
        if ca_file is not None:
            read_certificates(ca_file)
    except ValueError as reason:
        raise SettingsError(f"QUMULO_HTTP_ISSUER_CA_FILE names {format_input(str(ca_file))}, which {reason}.") from None


def _is_within(span: timedelta, time: datetime | None, now: datetime) -> bool:
    """Tell whether a time was less than a span ago. A clock that was put back does not make the span longer."""
    return time is not None and abs(now - time) < span


def _parse_metadata(document: Mapping[str, Any], issuer: str) -> str:
    """Return where the keys are.

    Raises:
        ValueError: If the document is of another issuer, or names no place that is reached over HTTPS.
    """
    if document.get("issuer") != issuer:
        raise ValueError("is of another issuer: QUMULO_HTTP_ISSUER must be, to the letter, what `issuer` in it says")
    url = document.get("jwks_uri")
    if not isinstance(url, str) or not url.startswith("https://"):
        raise ValueError("has no jwks_uri that begins with https://")
    return url


async def _fetch_document(http: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    """Return the JSON object at an address.

    Raises:
        ValueError: If it cannot be had; the text is a predicate for the address.
    """
    try:
        async with http.stream("GET", url) as response:
            _check_response(response)
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


def _check_response(response: httpx.Response) -> None:
    if not response.is_success:
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
