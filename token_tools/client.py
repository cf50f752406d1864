"""The cluster over HTTPS: one short coroutine an endpoint, and one way through which all of them go.

Requests that only read are repeated when nothing came back or the cluster was busy, with growing, jittered waits;
requests that write are sent once, whatever happens. Every call ends within its deadline, and at most eight are on
their way at a time.
"""

import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final, TypeVar

import anyio
import httpx
import stamina
import truststore
from pydantic import SecretStr

from token_tools import __version__, wire
from token_tools.errors import BadAnswer, SettingsError, TokenToolsError, Unavailable, Unreachable, Unsent, Untrusted
from token_tools.identity import Identity
from token_tools.models import AccessToken, Caller, NewAccessToken, TokenPage
from token_tools.settings import Settings
from token_tools.times import format_instant, tell_duration

AT_ONCE: Final = 8
ATTEMPTS: Final = 4
LARGEST: Final = 64 << 20
"""Bytes of an answer; a page of 10,000 tokens, the most that a cluster gives at once, takes about a tenth of it."""
TOKENS: Final = "/v1/auth/access-tokens/"
WHO_AM_I: Final = "/v1/session/who-am-i"

_LOG: Final = logging.getLogger(__name__)
Result = TypeVar("Result")


class ClusterClient:
    """The endpoints that this project needs. `http` has the cluster as its base and the credential as its auth.

    Every method raises `ClusterError`s. `Unreachable` and `BadAnswer` from a method that writes mean that it is not
    known whether the write happened.
    """

    def __init__(self, http: httpx.AsyncClient, *, deadline: timedelta) -> None:
        self._http = http
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
        return await self._read(wire.read_page, self._http.build_request("GET", TOKENS, params=params))

    async def get_token(self, token_id: str) -> AccessToken:
        """One token by its id."""
        return await self._read(wire.read_token, self._http.build_request("GET", TOKENS + token_id))

    async def create_token(self, user: Identity, expiration_time: datetime | None) -> NewAccessToken:
        """Make a token; with no expiration time it lives until it is deleted.

        Each call makes another one, and the answer is the only place where the secret ever appears.
        """
        body: dict[str, object] = {"user": user.known()}
        if expiration_time is not None:
            body["expiration_time"] = format_instant(expiration_time)
        return await self._write(wire.read_new_token, self._http.build_request("POST", TOKENS, json=body))

    async def modify_token(self, token_id: str, changes: Mapping[str, bool | str | None]) -> AccessToken:
        """Enable or disable a token, or move its expiry; the token as it is then."""
        return await self._write(
            wire.read_changed_token, self._http.build_request("PATCH", TOKENS + token_id, json=dict(changes))
        )

    async def delete_token(self, token_id: str) -> None:
        """Remove a token for ever."""
        await self._write(wire.read_deletion, self._http.build_request("DELETE", TOKENS + token_id))

    async def who_am_i(self) -> Caller:
        """Whom the server's credential stands for."""
        return await self._read(wire.read_caller, self._http.build_request("GET", WHO_AM_I))

    async def prove(self, bearer_token: SecretStr) -> Caller:
        """Whom another bearer token stands for, asked with that one.

        Raises:
            Unauthenticated: If the cluster does not take it.
        """
        request = self._http.build_request("GET", WHO_AM_I)
        return await self._read(wire.read_caller, request, auth=GivenBearer(bearer_token))

    async def find_identity(self, identity: Identity) -> Identity:
        """The same identity with all that the cluster knows of it. A POST that changes nothing, so it is repeated."""
        request = self._http.build_request("POST", "/v1/identity/find", json=identity.known())
        return await self._read(wire.read_identity, request)

    async def _read(
        self, decode: Callable[[wire.Answer], Result], request: httpx.Request, *, auth: httpx.Auth | None = None
    ) -> Result:
        attempts = stamina.retry_context(
            on=self._wait_before_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.1, wait_max=2, wait_jitter=0.2
        )
        with self._within_deadline():
            async for attempt in attempts:
                with attempt:
                    return decode(await self._exchange(request, auth))
        raise AssertionError  # pragma: no cover - stamina's last attempt returns or raises; types cannot say so

    async def _write(self, decode: Callable[[wire.Answer], Result], request: httpx.Request) -> Result:
        with self._within_deadline():
            return decode(await self._exchange(request))

    async def _exchange(self, request: httpx.Request, auth: httpx.Auth | None = None) -> wire.Answer:
        async with self._slots:
            with self._reported():
                response = await self._http.send(request, auth=auth or self._http.auth, stream=True)
                try:
                    body = await self._read_body(response)
                finally:
                    await response.aclose()
        sent = response.request.headers["Authorization"].removeprefix("Bearer ")
        return wire.Answer(
            status=response.status_code,
            headers=dict(response.headers),
            body=body,
            credential=SecretStr(sent),
        )

    async def _read_body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > LARGEST:
                raise BadAnswer(f"The answer of {self._address} is larger than {LARGEST >> 20} MiB, and was not read.")
        return bytes(body)

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
            raise _explain(failure, self._address) from failure
        except httpx.DecodingError:
            raise BadAnswer(f"The answer of {self._address} is compressed in a way that was not asked for.") from None
        except OSError as failure:
            # httpcore wraps what breaks a connection, but not what the TLS library finds in the middle of an answer.
            raise _explain(failure, self._address) from failure

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
        request.headers["Authorization"] = f"Bearer {self._bearer.get_secret_value()}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._renew() and request.method == "GET":
            request.headers["Authorization"] = f"Bearer {self._bearer.get_secret_value()}"
            yield request

    def _renew(self) -> bool:
        try:
            bearer = self._settings.read_bearer()
        except SettingsError as failure:
            _LOG.warning("The credential could not be read again: %s", failure)
            return False
        renewed = bearer != self._bearer
        self._bearer = bearer
        return renewed


class GivenBearer(httpx.Auth):
    """Signs requests with one bearer token, and with no other."""

    def __init__(self, bearer_token: SecretStr) -> None:
        self._bearer_token = bearer_token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Sign."""
        request.headers["Authorization"] = f"Bearer {self._bearer_token.get_secret_value()}"
        yield request


@asynccontextmanager
async def connect(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncGenerator[ClusterClient]:
    """A client of the cluster that the settings name, over `transport` instead of the network if one is given."""
    for library in ("httpcore", "httpx", "hpack"):
        # At DEBUG they tell headers, and a cluster or a proxy may repeat the credential in one.
        logging.getLogger(library).setLevel(logging.WARNING)
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
        yield ClusterClient(http, deadline=settings.timeout)


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


def _explain(failure: Exception, address: str) -> Unreachable:
    causes = list(_chain(failure))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(
                f"The certificate of {address} is not trusted ({cause.verify_message}). Nothing was sent. If it is the "
                "cluster's own, save its CA in a PEM file and set QUMULO_CA_FILE to it; QUMULO_VERIFY_TLS=false turns "
                "verification off, which lets anyone on the way read the credential."
            )
    # The texts of HTTP libraries may quote what a peer sent; those of the operating system do not.
    reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    reason = reasons[-1] if reasons else "the connection broke"
    if isinstance(failure, httpx.ConnectError):
        return Unsent(f"No connection to {address}: {reason}. Is QUMULO_HOST right, and the cluster up?")
    return Unreachable(f"No whole answer from {address}: {reason}.")


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    # At one of ours begins what the caller was busy with, such as a full disk.
    while failure is not None and not isinstance(failure, TokenToolsError):
        yield failure
        failure = failure.__cause__ or failure.__context__
