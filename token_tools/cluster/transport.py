"""How does a request reach the cluster? Trust, signing with the current credential, and errors of the connection."""

import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import httpx
import truststore
from pydantic import SecretStr

from token_tools import __version__
from token_tools.cluster.pinning import OtherCertificate, create_pinning_context
from token_tools.cluster.responses import Answer
from token_tools.errors import BadAnswer, SettingsError, TokenToolsError, Unreachable, Unsent, Untrusted
from token_tools.redaction import remember_secret_permanently
from token_tools.settings import Settings

_WRONG_NAME_FIX: Final = "The operator has to set QUMULO_HOST to a name or an address that stands in the certificate"
_FIX_BY_VERIFY_CODE: Final = {
    9: "It is not valid yet: the clock of this machine, or of the one that issued it, is wrong",
    10: (
        "It has expired, or the clock of this machine is wrong: the cluster's administrator has to renew it, or the "
        "operator to set the clock"
    ),
    62: _WRONG_NAME_FIX,
    64: _WRONG_NAME_FIX,
}
"""What to do about a certificate although its issuer is trusted. Source: OpenSSL's x509_vfy.h, X509_V_ERR_*."""

MAX_BODY_BYTES: Final = 16 << 20
"""The largest answer that is read. A page of 10,000 tokens, the most that a cluster returns, takes less than half."""

_IDENTITY_ENCODING: Final = "identity"
"""The name in HTTP for a body without compression."""

_IS_READ_EXTENSION: Final = "token_tools.reads"
"""The extension that says whether a request only reads. Its method does not say so, because some POSTs only read."""

_RETRY_AFTER_FIX: Final = "Trying again does not help before that is mended."
_RETRY_SOON: Final = "Try again in a minute; if it is the same then, the operator has to look at"

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
        self._http = httpx.AsyncClient(
            base_url=f"https://{settings.address}",
            auth=RenewableBearerAuth(settings, bearer),
            headers={"User-Agent": f"qumulo-token-tools/{__version__}", "Accept-Encoding": _IDENTITY_ENCODING},
            verify=_build_tls_context(settings),
            transport=transport,
            # `client` bounds the whole request, which the timeouts of httpx do not: they start again with every byte.
            timeout=None,  # noqa: S113 - as just said
            # Ignore proxies, .netrc and certificate folders of the environment: only the settings count.
            trust_env=False,
            follow_redirects=False,
        )
        self.build_request = self._http.build_request
        self.aclose = self._http.aclose

    async def send(self, request: httpx.Request, *, is_read: bool, bearer_token: SecretStr | None = None) -> Answer:
        """Send a request; return the answer and the credential that the request was signed with.

        The credential is the server's own, or `bearer_token` if one is given. `is_read` says that the request changes
        nothing, so that it may be sent again with a renewed credential.

        Raises:
            ClusterError: If there is no answer, or it is not read because it is compressed or too large.
        """
        auth = FixedBearerAuth(bearer_token) if bearer_token else self._http.auth
        request.extensions[_IS_READ_EXTENSION] = is_read
        with self._explain_errors():
            response = await self._http.send(request, auth=auth, stream=True)
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

    @contextmanager
    def _explain_errors(self) -> Generator[None]:
        try:
            yield
        except (httpx.TransportError, OSError) as failure:
            # httpx does not wrap an error that the TLS library raises in the middle of an answer.
            raise _explain_failure(failure, self._settings) from failure


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
            bearer = self._settings.read_bearer()
            remember_secret_permanently(bearer)
            self._bearer = bearer
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


def _build_tls_context(settings: Settings) -> ssl.SSLContext:
    if settings.fingerprint is not None:
        return create_pinning_context(settings.fingerprint)
    if not settings.verify_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (certificates := settings.read_certificates()) is not None:
        context.load_verify_locations(cadata=certificates)
    return context


def _explain_failure(failure: Exception, settings: Settings) -> Unreachable:
    address = settings.address
    causes = list(_iterate_causes(failure))
    for cause in causes:
        if isinstance(cause, OtherCertificate):
            return Untrusted(_render_other_certificate(cause, settings), advice=_RETRY_AFTER_FIX)
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Errors of OpenSSL have these attributes; those of another trust store may not.
            reason = (getattr(cause, "verify_message", None) or "it was not verified").rstrip(".")
            fix = _FIX_BY_VERIFY_CODE.get(getattr(cause, "verify_code", 0)) or _render_how_to_trust(settings.ca_file)
            return Untrusted(
                f"The certificate of {address} is not trusted ({reason}). Nothing was sent. {fix}.",
                advice=_RETRY_AFTER_FIX,
            )
    # Quote the operating system and TLS only: the texts of HTTP libraries may repeat what the other side sent.
    reasons = list(filter(None, map(_render_reason, causes)))
    reason = reasons[-1] if reasons else _render_break(failure)
    if not isinstance(failure, httpx.ConnectError):
        return Unreachable(
            f"No whole answer from {address}: {reason}.",
            advice=f"{_RETRY_SOON} the cluster, and at what is on the way to it.",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Unsent(
            f"No connection to {address}: what answers there does not speak TLS as expected ({reason}). Is QUMULO_PORT "
            "the port of the cluster's REST API, 8000 unless somebody changed it?",
            advice=_RETRY_AFTER_FIX,
        )
    return Unsent(
        f"No connection to {address}: {reason}. Are QUMULO_HOST and QUMULO_PORT right, and is the cluster up?",
        advice=f"{_RETRY_SOON} that.",
    )


def _render_reason(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLError():
            # `strerror` is no help here: it names a line of Python's own source.
            return (getattr(cause, "reason", None) or "TLS failed").replace("_", " ").lower()
        case OSError(errno=int(number)) if not isinstance(cause, socket.gaierror):
            # Look the reason up, because asyncio puts the address into `strerror`.
            return os.strerror(number)
        case OSError():
            # The error numbers of name resolution are no `errno`, so only `strerror` helps.
            return cause.strerror
        case _:
            return None


def _render_break(failure: Exception) -> str:
    is_protocol_error = isinstance(failure, httpx.RemoteProtocolError)
    return "it ended early, or what came is no HTTP" if is_protocol_error else "the connection broke"


def _render_other_certificate(found: OtherCertificate, settings: Settings) -> str:
    what = (
        ", which is that of another certificate in its chain: the operator has to set the cluster's own"
        if found.is_in_chain
        else ". Unless somebody on the way pretends to be the cluster, its certificate was replaced: the operator has "
        "to compare the fingerprint with the one that the cluster's administrator tells, and to set it"
    )
    return (
        f"The certificate of {settings.address} has the SHA-256 {found.fingerprint}. Nothing was sent. "
        f"QUMULO_FINGERPRINT is {settings.fingerprint}{what}."
    )


def _render_how_to_trust(ca_file: Path | None) -> str:
    if ca_file is None:
        return (
            "If it is the cluster's own, the operator has to save its CA in a PEM file and to set QUMULO_CA_FILE to it"
        )
    return f"QUMULO_CA_FILE={ca_file} does not hold the CA that issued it: the operator has to save that one in there"


def _iterate_causes(failure: BaseException | None) -> Iterator[BaseException]:
    # Stop at our own errors: beyond them the chain describes the caller, not this request.
    while failure is not None and not isinstance(failure, TokenToolsError):
        yield failure
        failure = failure.__cause__ or failure.__context__
