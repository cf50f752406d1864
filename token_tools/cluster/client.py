"""Which endpoints are called, how often, and for how long? One short coroutine an endpoint, with common limits.

- Retry: a request that only reads is sent again if no answer came or the cluster was busy, after a growing, jittered
  backoff. A request that writes is sent once, whatever happens: the first attempt may have been carried out, and a
  second POST would create a second token.
- Concurrency: at most eight requests are in flight. The others wait in the order in which they came.
- Timeout: a request waits at most QUMULO_TIMEOUT for its turn, and then takes at most QUMULO_TIMEOUT, all its retries
  included. A request whose turn does not come is never sent.
- Shutdown: once the process has to end, all requests end by one common deadline.
"""

from __future__ import annotations  # to evaluate them would run httpx at the start

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Literal, TypeVar

import anyio
import anyio.to_thread
import httpx
import stamina
from pydantic import SecretStr

from token_tools.cluster import responses, transport
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, CoreVersion, NewAccessToken, Principal, TokenPage
from token_tools.errors import BadAnswer, Refusal, Unavailable, Unreachable, Unsent, Untrusted
from token_tools.settings import Settings
from token_tools.shutdown import Shutdown
from token_tools.times import format_duration, format_rfc3339

MAX_CONCURRENT_REQUESTS: Final = 8
MAX_READ_ATTEMPTS: Final = 4
_RETRY_AFTER_RESTART: Final = "Try again once this server has been started again."
_RETRY_OR_RAISE_TIMEOUT: Final = (
    "Try again in a minute; if it is the same then, the operator has to look why, or to allow more time."
)
TOKENS_PATH: Final = "/v1/auth/access-tokens/"
VERSION_PATH: Final = "/v1/version"
WHO_AM_I_PATH: Final = "/v1/session/who-am-i"

Decoded = TypeVar("Decoded")
Endpoint = Literal[
    "list_tokens",
    "get_token",
    "create_token",
    "update_token",
    "delete_token",
    "get_version",
    "who_am_i",
    "find_identity",
]


class Exchange:
    """A request to the cluster and its answer, without what tells whom or what they are about.

    `method` is that of HTTP, and `status` None until there is an answer.
    """

    def __init__(self, endpoint: Endpoint, method: str) -> None:
        self.endpoint = endpoint
        self.method = method
        self.status: int | None = None


Observer = Callable[[Exchange], AbstractContextManager[object]]
"""Gives the context in which a request is sent; it may look at the exchange when that ends, and at its failure."""


class ClusterClient:
    """The endpoints that this project needs.

    `open_connection` is called once, before the first request. `on_date` is called with the date of every answer that
    has one and that the cluster itself gave. Each attempt of a request runs in the context that `observe` gives for it.

    Every method raises a `ClusterError` if the request fails, and a `Refusal` if a request cannot carry an argument. If
    a method that writes raises `Unreachable` or `BadAnswer`, nobody knows whether the write happened. The exception is
    `Unsent`: then it did not.
    """

    def __init__(
        self,
        open_connection: Callable[[], transport.Connection],
        settings: Settings,
        *,
        shutdown: Shutdown,
        on_date: Callable[[datetime], object],
        observe: Observer,
    ) -> None:
        self._address = settings.address
        self._observe = observe
        self._on_date = on_date
        self._open_connection = open_connection
        self._timeout = settings.timeout
        self._shutdown = shutdown
        self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT_REQUESTS)

    async def fetch_page(
        self, *, user: str | None = None, cursor: str | None = None, limit: int | None = None
    ) -> TokenPage:
        """Return the page of tokens after `cursor`, or the first page.

        `user` selects the tokens of one user, in the endpoint's spelling. The cluster may return fewer than `limit`.
        """
        arguments = {"user": user, "after": cursor, "limit": limit}
        params = {name: value for name, value in arguments.items() if value is not None}
        for name, value in params.items():
            if not _fits_into_url(str(value)):
                raise Refusal(f"`{name}` cannot be what a cluster gave: it is too long, or no text. Nothing was asked.")
        request = self._http.build_request("GET", TOKENS_PATH, params=params)
        return await self._send_with_retry("list_tokens", responses.decode_page, request)

    async def get_token(self, token_id: str) -> AccessToken:
        """Return one token by its id."""
        request = self._http.build_request("GET", TOKENS_PATH + token_id)
        token = await self._send_with_retry("get_token", responses.decode_token, request)
        return _validate_id(token, token_id)

    async def create_token(self, user: Identity, expiration_time: datetime | None) -> NewAccessToken:
        """Create a token and return it with its secret; without an expiration time it lives until it is deleted.

        Each call creates another token, and the cluster never tells the secret again.
        """
        body: dict[str, object] = {"user": user.as_request_body()}
        if expiration_time is not None:
            body["expiration_time"] = format_rfc3339(expiration_time)
        request = self._http.build_request("POST", TOKENS_PATH, json=body)
        return await self._send_once("create_token", responses.decode_new_token, request)

    async def update_token(self, token_id: str, changes: Mapping[str, bool | str | None]) -> AccessToken:
        """Enable or disable a token or change its expiry, and return it as the cluster then describes it."""
        request = self._http.build_request("PATCH", TOKENS_PATH + token_id, json=dict(changes))
        token = await self._send_once("update_token", responses.decode_updated_token, request)
        return _validate_id(token, token_id)

    async def delete_token(self, token_id: str) -> None:
        """Delete a token for ever."""
        request = self._http.build_request("DELETE", TOKENS_PATH + token_id)
        await self._send_once("delete_token", responses.check_deletion, request)

    async def fetch_version(self) -> CoreVersion:
        """Return the version of the cluster's software."""
        request = self._http.build_request("GET", VERSION_PATH)
        return await self._send_with_retry("get_version", responses.decode_version, request)

    async def who_am_i(self) -> Principal:
        """Return the user of the server's own credential."""
        request = self._http.build_request("GET", WHO_AM_I_PATH)
        return await self._send_with_retry("who_am_i", responses.decode_principal, request)

    async def verify_bearer(self, bearer_token: SecretStr) -> Principal:
        """Return the user of another bearer token, by a request that is signed with that token.

        Raises:
            Unauthenticated: If the cluster does not accept the token.
        """
        request = self._http.build_request("GET", WHO_AM_I_PATH)
        return await self._send_with_retry(
            "who_am_i", responses.decode_verified_principal, request, bearer_token=bearer_token
        )

    @property
    def bearer(self) -> SecretStr:
        """The server's own credential, with which the next request is signed."""
        return self._http.auth.bearer

    def adopt_bearer(self, bearer: SecretStr) -> None:
        """Use another bearer token as the server's own credential from now on."""
        self._http.auth.adopt(bearer)

    async def resolve_identity(self, identity: Identity) -> Identity:
        """Return an identity with all that the cluster knows of it."""
        # This POST only reads, so it may be retried.
        request = self._http.build_request("POST", "/v1/identity/find", json=identity.as_request_body())
        return await self._send_with_retry("find_identity", responses.decode_identity, request)

    @cached_property
    def _http(self) -> transport.Connection:
        return self._open_connection()

    async def _send_with_retry(
        self,
        endpoint: Endpoint,
        decode: Callable[[responses.Answer], Decoded],
        request: httpx.Request,
        *,
        bearer_token: SecretStr | None = None,
    ) -> Decoded:
        async def send() -> Decoded:
            return await self._exchange(endpoint, decode, request, is_read=True, bearer_token=bearer_token)

        # The wait doubles, from 0.1 to 2 seconds. The jitter keeps servers that failed together from coming back
        # together. There is no timeout here because `_limit_request` bounds all attempts together.
        retry = stamina.AsyncRetryingCaller(
            attempts=MAX_READ_ATTEMPTS, timeout=None, wait_initial=0.1, wait_max=2, wait_jitter=0.2
        )
        async with self._limit_request():
            return await retry(self._choose_backoff, send)

    async def _send_once(
        self, endpoint: Endpoint, decode: Callable[[responses.Answer], Decoded], request: httpx.Request
    ) -> Decoded:
        async with self._limit_request():
            return await self._exchange(endpoint, decode, request, is_read=False)

    async def _exchange(
        self,
        endpoint: Endpoint,
        decode: Callable[[responses.Answer], Decoded],
        request: httpx.Request,
        *,
        is_read: bool,
        bearer_token: SecretStr | None = None,
    ) -> Decoded:
        """Send a request once, and return what its answer says."""
        exchange = Exchange(endpoint, request.method)
        with self._observe(exchange):
            answer = await self._http.send(request, is_read=is_read, bearer_token=bearer_token)
            exchange.status = answer.status
            return self._decode_answer(decode, answer)

    def _decode_answer(self, decode: Callable[[responses.Answer], Decoded], answer: responses.Answer) -> Decoded:
        """Decode an answer, and pass its date on if the cluster itself gave the answer."""
        try:
            return decode(answer)
        except (BadAnswer, Unavailable):
            # Something in front of the cluster may have given this answer, by another clock.
            answer = replace(answer, headers={})
            raise
        finally:
            if answer.date is not None:
                self._on_date(answer.date)

    def _choose_backoff(self, failure: Exception) -> bool | timedelta:
        """Tell stamina whether to retry after a failure: no, yes with its own backoff, or yes after a given wait."""
        match failure:
            case Untrusted():
                return False
            case Unreachable():
                return True
            case Unavailable(is_transient=True, retry_after=timedelta() as wait):
                # If the wait exceeds the deadline, raise the cluster's own error now. To wait would only turn it into a
                # timeout, which says less.
                seconds_left = anyio.current_effective_deadline() - anyio.current_time()
                return wait if wait.total_seconds() < seconds_left else False
            case _:
                return isinstance(failure, Unavailable) and failure.is_transient

    @asynccontextmanager
    async def _limit_request(self) -> AsyncGenerator[None]:
        """Wait for one of the places in flight, and bound the time of all that is done in the `with` block.

        The wait has a timeout of its own, so that `Unsent` can say for certain that nothing was sent.
        """
        if not self._shutdown.seconds_left():
            raise Unsent(f"{self._address} was not asked: this server has to stop.", advice=_RETRY_AFTER_RESTART)
        await self._acquire_limiter()
        try:
            with self._shutdown.request_timeout(self._timeout.total_seconds()):
                yield
        except TimeoutError:
            raise Unreachable(
                f"No whole answer from {self._address} {self._render_timeout()}.",
                advice=_RETRY_AFTER_RESTART if self._shutdown.has_begun else _RETRY_OR_RAISE_TIMEOUT,
            ) from None
        finally:
            self._limiter.release()

    async def _acquire_limiter(self) -> None:
        try:
            with self._shutdown.request_timeout(self._timeout.total_seconds()):
                await self._limiter.acquire()
        except TimeoutError:
            raise Unsent(
                f"{self._address} was not asked: {MAX_CONCURRENT_REQUESTS} other requests of this server were not "
                f"through {self._render_timeout()}, and this one was never sent.",
                advice=_RETRY_AFTER_RESTART if self._shutdown.has_begun else "Try again when less is asked at once.",
            ) from None

    def _render_timeout(self) -> str:
        if self._shutdown.has_begun:
            return "before this server had to stop"
        return f"within {format_duration(self._timeout)} (QUMULO_TIMEOUT)"


def _validate_id(token: AccessToken, token_id: str) -> AccessToken:
    if token.id != token_id:
        raise BadAnswer(
            f"The answer is about another access token than {token_id}: something in front of the cluster, such as a "
            "cache, mixes up answers."
        )
    return token


def _fits_into_url(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can escape half of a surrogate pair, which has no UTF-8.
        return False
    return len(text) <= responses.MAX_CURSOR_CHARS


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    cluster_transport: httpx.AsyncBaseTransport | None = None,
    shutdown: Shutdown | None = None,
    on_date: Callable[[datetime], object] = lambda _: None,
    observe: Observer = nullcontext,
) -> AsyncGenerator[ClusterClient]:
    """Yield a client of the cluster that the settings name; requests go over `cluster_transport` if one is given.

    Its requests end when `shutdown` says so, and `on_date` is called with the date of every answer of the cluster that
    has one. Each attempt of a request runs in the context that `observe` gives for it. Before the first request,
    nothing is opened and only the credential is read.
    """
    # Reading it may run a program; the start has done that already, unless the settings were put together by hand.
    bearer = await anyio.to_thread.run_sync(settings.read_bearer_at_start, abandon_on_cancel=True)
    async with AsyncExitStack() as stack:

        def open_connection() -> transport.Connection:
            connection = transport.Connection(settings, bearer, transport=cluster_transport)
            stack.push_async_callback(connection.aclose)
            return connection

        yield ClusterClient(
            open_connection,
            settings,
            shutdown=shutdown or Shutdown(settings.timeout),
            on_date=on_date,
            observe=observe,
        )
