"""The cluster over HTTPS: one short coroutine an endpoint, and one way through which all of them go.

Requests that only read are repeated when nothing came back or the cluster was busy, with growing, jittered waits;
requests that write are sent once, whatever happens. Every call ends within its deadline, and at most eight are on
their way at a time.
"""

import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

import anyio
import httpx
import stamina
import truststore
from pydantic import SecretStr

from token_tools import __version__, wire
from token_tools.errors import BadAnswer, Refusal, SettingsError, Unavailable, Unreachable, Unsent, Untrusted
from token_tools.identity import Identity
from token_tools.models import AccessToken, Caller, NewAccessToken, TokenPage
from token_tools.settings import Settings
from token_tools.times import format_instant, tell_duration

AT_ONCE: Final = 8
ATTEMPTS: Final = 4
TOKENS: Final = "/v1/auth/access-tokens/"
READS: Final = "token_tools.reads"
"""The extension of a request that changes nothing; its verb does not tell."""

_WRONG_NAME: Final = "Set QUMULO_HOST to a name or an address that stands in the certificate"
_MENDING: Final = {
    9: "It is not valid yet: the clock of this machine or that of the cluster is wrong",
    10: "It has expired: the cluster's administrator has to renew it",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
"""What mends a certificate whose issuer is trusted. Source: OpenSSL's x509_vfy.h, X509_V_ERR_*."""

_LOG: Final = logging.getLogger(__name__)
Result = TypeVar("Result")


class ClusterClient:
    """The endpoints that this project needs. `http` has the cluster as its base and the credential as its auth.

    `ca_file` is the one that it trusts besides the system's, for telling.

    Every method raises `ClusterError`s, or a `Refusal` of what no request can carry. `Unreachable` and `BadAnswer` from
    a method that writes mean that it is not known whether the write happened.
    """

    def __init__(self, http: httpx.AsyncClient, *, deadline: timedelta, ca_file: Path | None = None) -> None:
        self._http = http
        self._ca_file = ca_file
        self._deadline = deadline
        self._slots = anyio.CapacityLimiter(AT_ONCE)

    async def list_tokens(
        self, *, user: str | None = None, after: str | None = None, limit: int | None = None
    ) -> TokenPage:
        """A page of the cluster's tokens, of one user if `user` names one in the endpoint's spelling.

        `after` is the key of the page before; the cluster may give fewer than `limit`.
        """
        given = {"user": user, "after": after, "limit": limit}
        params = {name: value for name, value in given.items() if value is not None}
        for name, value in params.items():
            if not _fits_into_url(str(value)):
                raise Refusal(f"`{name}` cannot be what a cluster gave: it is too long, or no text. Nothing was asked.")
        return await self._read(wire.read_page, self._http.build_request("GET", TOKENS, params=params))

    async def get_token(self, token_id: str) -> AccessToken:
        """One token by its id."""
        return await self._read(wire.read_token, self._http.build_request("GET", TOKENS + token_id))

    async def create_token(self, user: Identity, expiration_time: datetime | None) -> NewAccessToken:
        """Make a token; with no expiration time it lives until it is deleted.

        Each call makes another one, and the answer is the only place where the secret ever appears.
        """
        body: dict[str, object] = {"user": user.as_body()}
        if expiration_time is not None:
            body["expiration_time"] = format_instant(expiration_time)
        return await self._write(wire.read_new_token, self._http.build_request("POST", TOKENS, json=body))

    async def delete_token(self, token_id: str) -> None:
        """Remove a token for ever."""
        await self._write(wire.read_deletion, self._http.build_request("DELETE", TOKENS + token_id))

    async def who_am_i(self) -> Caller:
        """Whom the server's credential stands for."""
        return await self._read(wire.read_caller, self._http.build_request("GET", "/v1/session/who-am-i"))

    async def find_identity(self, identity: Identity) -> Identity:
        """The same identity with all that the cluster knows of it. A POST that changes nothing, so it is repeated."""
        request = self._http.build_request("POST", "/v1/identity/find", json=identity.as_body())
        return await self._read(wire.read_identity, request)

    async def _read(self, decode: Callable[[wire.Answer], Result], request: httpx.Request) -> Result:
        request.extensions[READS] = True
        attempts = stamina.retry_context(
            on=self._wait_before_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.1, wait_max=2, wait_jitter=0.2
        )
        with self._within_deadline():
            async for attempt in attempts:
                with attempt:
                    return decode(await self._exchange(request))
        raise AssertionError  # pragma: no cover - stamina's last attempt returns or raises; types cannot say so

    async def _write(self, decode: Callable[[wire.Answer], Result], request: httpx.Request) -> Result:
        with self._within_deadline():
            return decode(await self._exchange(request))

    async def _exchange(self, request: httpx.Request) -> wire.Answer:
        async with self._slots:
            with self._reported():
                response = await self._http.send(request)
        sent = response.request.headers["Authorization"].removeprefix("Bearer ").encode()
        # An error page may repeat the request; what an error quotes must not contain the credential.
        return wire.Answer(
            status=response.status_code,
            headers=dict(response.headers),
            body=response.content.replace(sent, b"[redacted]") if response.is_error else response.content,
        )

    def _wait_before_retry(self, failure: Exception) -> bool | timedelta:
        match failure:
            case Untrusted():
                return False
            case Unreachable():
                return True
            case Unavailable(transient=True, retry_after=timedelta() as wait):
                return wait if wait < self._deadline else False
            case _:
                return isinstance(failure, Unavailable) and failure.transient

    @contextmanager
    def _within_deadline(self) -> Generator[None]:
        try:
            with anyio.fail_after(self._deadline.total_seconds()):
                yield
        except TimeoutError:
            raise Unreachable(
                f"No whole answer from {self._address} within {tell_duration(self._deadline)} (QUMULO_TIMEOUT)."
            ) from None

    @contextmanager
    def _reported(self) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as failure:
            raise _explain(failure, self._address, self._ca_file) from failure
        except httpx.DecodingError:
            raise BadAnswer(f"The answer of {self._address} is compressed in a way that was not asked for.") from None

    @property
    def _address(self) -> str:
        return self._http.base_url.netloc.decode()


class BearerAuth(httpx.Auth):
    """Signs requests with the server's credential, which is read again when the cluster no longer takes it.

    A request that reads is then sent once more with the renewed credential. One that writes is not, here as anywhere.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bearer = settings.read_bearer()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Sign, and sign again after a 401 if the credential is another one by now."""
        sent = self._bearer
        _sign(request, sent)
        response = yield request
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            return
        self._renew()
        # Another request may have renewed it while this one was on its way.
        if self._bearer != sent and READS in request.extensions:
            _sign(request, self._bearer)
            yield request

    def _renew(self) -> None:
        try:
            self._bearer = self._settings.read_bearer()
        except SettingsError as failure:
            _LOG.warning("The credential could not be read again: %s", failure)


def _fits_into_url(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can write half a character.
        return False
    return len(text) <= wire.LONGEST_KEY


def _sign(request: httpx.Request, bearer_token: SecretStr) -> None:
    request.headers["Authorization"] = f"Bearer {bearer_token.get_secret_value()}"


@asynccontextmanager
async def connect(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncGenerator[ClusterClient]:
    """A client of the cluster that the settings name, over `transport` instead of the network if one is given."""
    async with httpx.AsyncClient(
        base_url=f"https://{settings.address}",
        auth=BearerAuth(settings),
        headers={"User-Agent": f"qumulo-token-tools/{__version__}", "Accept-Encoding": "identity"},
        verify=_make_tls_context(settings),
        transport=transport,
        # The deadline of a call is the client's business: httpx's own timeouts start anew with every byte.
        timeout=None,  # noqa: S113
        # Proxies, .netrc and certificate folders come from the settings or not at all.
        trust_env=False,
        follow_redirects=False,
    ) as http:
        yield ClusterClient(http, deadline=settings.timeout, ca_file=settings.ca_file)


def _make_tls_context(settings: Settings) -> ssl.SSLContext:
    if not settings.verify_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    return context


def _explain(failure: httpx.TransportError, address: str, ca_file: Path | None) -> Unreachable:
    causes = list(_chain(failure))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            # What Python raises has the code; what the trust stores of other systems raise may not.
            mending = _MENDING.get(getattr(cause, "verify_code", 0)) or _tell_how_to_trust(ca_file)
            return Untrusted(
                f"The certificate of {address} is not trusted ({cause.verify_message}). Nothing was sent. "
                f"{mending}; QUMULO_VERIFY_TLS=false turns verification off, which lets anyone on the way read the "
                "credential."
            )
    # The texts of HTTP libraries may quote what a peer sent; those of the operating system and of TLS do not.
    reasons = [reason for cause in causes if (reason := _tell_reason(cause))]
    reason = reasons[-1] if reasons else "the connection broke"
    if not isinstance(failure, httpx.ConnectError):
        return Unreachable(f"No whole answer from {address}: {reason}.")
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Unsent(
            f"No connection to {address}: what answers there does not speak TLS as expected ({reason}). Is QUMULO_PORT "
            "the port of the cluster's REST API, 8000 unless somebody changed it?"
        )
    return Unsent(f"No connection to {address}: {reason}. Is QUMULO_HOST right, and the cluster up?")


def _tell_reason(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLError():
            # Its strerror names a line of Python's own source.
            return (cause.reason or "TLS failed").replace("_", " ").lower()
        case OSError():
            return cause.strerror
        case _:
            return None


def _tell_how_to_trust(ca_file: Path | None) -> str:
    if ca_file is None:
        return "If it is the cluster's own, save its CA in a PEM file and set QUMULO_CA_FILE to it"
    return f"QUMULO_CA_FILE={ca_file} does not hold the CA that issued it: save that one in there"


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__
