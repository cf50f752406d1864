"""How does a request reach the cluster? Trust, signing with the current credential, and errors of the connection."""

import logging
import ssl
from collections.abc import AsyncGenerator, Generator
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import httpx
import truststore
from pydantic import SecretStr

from token_tools import __version__
from token_tools.cluster.connection_failures import explain_failure, find_untrusted
from token_tools.cluster.pinning import create_pinning_context
from token_tools.cluster.responses import Answer
from token_tools.cluster.trusted import find_trusted_fingerprint
from token_tools.errors import BadAnswer, SettingsError
from token_tools.redaction import remember_secret_permanently
from token_tools.settings import Settings

MAX_BODY_BYTES: Final = 16 << 20
"""The largest answer that is read. A page of 10,000 tokens, the most that a cluster returns, takes less than half."""

_IDENTITY_ENCODING: Final = "identity"
"""The name in HTTP for a body without compression."""

_IS_READ_EXTENSION: Final = "token_tools.reads"
"""The extension that says whether a request only reads. Its method does not say so, because some POSTs only read."""

_LOG: Final = logging.getLogger(__name__)


class Connection:
    """HTTPS to the cluster that the settings name; requests go over `transport` if one is given."""

    def __init__(self, settings: Settings, bearer: SecretStr, *, transport: httpx.AsyncBaseTransport | None) -> None:
        for library in ("httpcore", "httpx", "hpack"):
            # At DEBUG these libraries log headers, and a header of an answer may repeat the credential.
            logging.getLogger(library).setLevel(logging.WARNING)
        self._address = settings.address
        self._settings = settings
        self._credential_location = settings.credential_location
        self.auth = RenewableBearerAuth(settings, bearer)
        self._transport = transport
        self._trust = read_trust(settings)
        self._clients = [self._open_http()]

    def _open_http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://{self._address}",
            headers={"User-Agent": f"qumulo-token-tools/{__version__}", "Accept-Encoding": _IDENTITY_ENCODING},
            verify=_build_tls_context(self._settings, self._trust),
            transport=self._transport,
            # `client` bounds the whole request, which the timeouts of httpx do not: they start again with every byte.
            timeout=None,  # noqa: S113 - as just said
            # Ignore proxies, .netrc and certificate folders of the environment: only the settings count.
            trust_env=False,
            follow_redirects=False,
        )

    def build_request(self, method: str, path: str, **content: Any) -> httpx.Request:  # noqa: ANN401 - what httpx takes
        """Return a request that `send` takes."""
        return self._clients[-1].build_request(method, path, **content)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.aclose()

    async def send(self, request: httpx.Request, *, is_read: bool, bearer_token: SecretStr | None = None) -> Answer:
        """Send a request; return the answer and the credential that the request was signed with.

        The credential is the server's own, or `bearer_token` if one is given. `is_read` says that the request changes
        nothing, so that it may be sent again with a renewed credential.

        Raises:
            ClusterError: If there is no answer, or it is not read because it is compressed or too large.
        """
        auth = FixedBearerAuth(bearer_token) if bearer_token else self.auth
        request.extensions[_IS_READ_EXTENSION] = is_read
        try:
            return await self._exchange(request, auth)
        except (httpx.TransportError, OSError) as failure:
            # httpx does not wrap an error that the TLS library raises in the middle of an answer.
            if find_untrusted(failure) is None or not self._has_new_trust():
                raise await explain_failure(failure, self._settings) from failure
        # Nothing was sent before that handshake failed, so a request that writes may be sent now as well.
        return await self.send(request, is_read=is_read, bearer_token=bearer_token)

    async def _exchange(self, request: httpx.Request, auth: httpx.Auth | None) -> Answer:
        response = await self._clients[-1].send(request, auth=auth, stream=True)
        try:
            body = await self._read_body(response)
        finally:
            await response.aclose()
        sent = response.request.headers["Authorization"].removeprefix("Bearer ")
        return Answer(
            response.status_code,
            dict(response.headers),
            body,
            credential=SecretStr(sent),
            credential_location=self._credential_location,
        )

    async def _read_body(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", _IDENTITY_ENCODING).strip().lower() not in {"", _IDENTITY_ENCODING}:
            # Decompressed, it could take a thousand times its size.
            raise BadAnswer(f"The answer of {self._address} is compressed, which was not asked for, and was not read.")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BadAnswer(
                    f"The answer of {self._address} is larger than {MAX_BODY_BYTES >> 20} MiB, and was not read."
                )
        return bytes(body)

    def _has_new_trust(self) -> bool:
        """Read again what the operator trusts, so that the server needs no restart; tell whether that has changed."""
        try:
            trust = read_trust(self._settings)
        except SettingsError as failure:
            _LOG.warning("What is trusted could not be read again: %s", failure)
            return False
        if trust == self._trust:
            return False
        self._trust = trust
        # Requests may be under way on connections of the one before.
        self._clients.append(self._open_http())
        return True


class RenewableBearerAuth(httpx.Auth):
    """Signs requests with the server's credential, and reads the credential again after a 401.

    A login of qq expires, and logging in again writes a new one to the same file. Reading the file again after a 401
    avoids a restart of the server. A request that only reads is then sent once more with the new credential. A request
    that writes is not, because no write is ever repeated; but the next request uses the new credential.
    """

    def __init__(self, settings: Settings, bearer: SecretStr) -> None:
        self._settings = settings
        self._bearer = bearer
        self._lock = anyio.Lock()
        self._readings = 0
        remember_secret_permanently(bearer)

    @property
    def bearer(self) -> SecretStr:
        """The credential that the next request is signed with."""
        return self._bearer

    def adopt(self, bearer: SecretStr) -> None:
        """Sign all requests from now on with another credential."""
        remember_secret_permanently(bearer)
        self._bearer = bearer

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request, and sign it once more after a 401 if the credential has changed."""
        used = self._bearer
        _authorize(request, used)
        response = yield request
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            return
        await self._renew(used)
        # Compare with the credential that this request used: a concurrent request may have renewed it in the meantime.
        if self._bearer != used and request.extensions[_IS_READ_EXTENSION]:
            _authorize(request, self._bearer)
            yield request

    async def _renew(self, used: SecretStr) -> None:
        """Read the credential again, in half of the time that is left: the other half is for the request.

        A reading that takes longer goes on, and serves the next request. Requests that wait for a reading share it.
        """
        readings = self._readings
        seconds_left = anyio.current_effective_deadline() - anyio.current_time()
        with anyio.move_on_after(seconds_left / 2) as scope:
            async with self._lock:
                if self._bearer == used and self._readings == readings:
                    await anyio.to_thread.run_sync(self._read_again, abandon_on_cancel=True)
        if scope.cancelled_caught:
            _LOG.warning("The credential could not be read again in time: %s", self._settings.credential_location)

    def _read_again(self) -> None:
        try:
            self.adopt(self._settings.read_bearer())
        except SettingsError as failure:
            # Keep the old credential: the file may be half written, and the next 401 reads it again.
            _LOG.warning("The credential could not be read again: %s", failure)
        finally:
            self._readings += 1


class FixedBearerAuth(httpx.Auth):
    """Signs requests with one bearer token, which is never renewed."""

    def __init__(self, bearer_token: SecretStr) -> None:
        self._bearer_token = bearer_token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Sign a request."""
        _authorize(request, self._bearer_token)
        yield request


def _authorize(request: httpx.Request, bearer_token: SecretStr) -> None:
    request.headers["Authorization"] = f"Bearer {bearer_token.get_secret_value()}"


class Trust(NamedTuple):
    """What is trusted: one certificate by its SHA-256, or else the system's authorities and certificates in PEM."""

    fingerprint: str | None
    certificates: str | None


def read_trust(settings: Settings) -> Trust:
    """Return what the settings, or a person, say is trusted.

    Raises:
        SettingsError: If a file with certificates is unusable.
    """
    return Trust(find_trusted_fingerprint(settings), settings.read_certificates())


async def check_handshake(settings: Settings, trust: Trust) -> None:
    """Check that a connection to the cluster can be trusted; nothing is sent over it.

    Raises:
        Unreachable: If it cannot be; an `Untrusted` says why the certificate is not trusted.
    """
    context = _build_tls_context(settings, trust)
    try:
        with anyio.fail_after(settings.timeout.total_seconds()):
            stream = await anyio.connect_tcp(
                settings.host,
                settings.port,
                ssl_context=context,
                tls_hostname=settings.host,
                tls_standard_compatible=False,
            )
            await stream.aclose()
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as failure:
        raise await explain_failure(failure, settings) from failure


def _build_tls_context(settings: Settings, trust: Trust) -> ssl.SSLContext:
    if trust.fingerprint is not None:
        return create_pinning_context(trust.fingerprint)
    if not settings.verify_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust.certificates is not None:
        context.load_verify_locations(cadata=trust.certificates)
    return context
