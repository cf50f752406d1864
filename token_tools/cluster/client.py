"""The cluster over HTTPS: one short coroutine an endpoint, and one way through which all of them go.

Requests that only read are repeated when nothing came back or the cluster was busy, with growing, jittered waits;
requests that write are sent once, whatever happens. At most eight calls are on their way at a time, the others wait in
the order in which they came; every call ends within its deadline from when it is its turn, and its turn comes within as
much, or it is never sent. Once the end of the process is asked for, all of them end within one deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from pydantic import SecretStr

from token_tools.cluster import responses as wire
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, Caller, NewAccessToken, TokenPage
from token_tools.errors import BadAnswer, Refusal, Unavailable, Unreachable, Unsent, Untrusted
from token_tools.settings import Settings
from token_tools.shutdown import Shutdown
from token_tools.times import format_duration, format_rfc3339

if TYPE_CHECKING:
    import httpx

    from token_tools.cluster.transport import Connection

MAX_CONCURRENT_REQUESTS: Final = 8
MAX_READ_ATTEMPTS: Final = 4
_RETRY_AFTER_RESTART: Final = "Try again once this server has been started again."
_RETRY_OR_RAISE_TIMEOUT: Final = (
    "Try again in a minute; if it is the same then, the operator has to look why, or to allow more time."
)
TOKENS_PATH: Final = "/v1/auth/access-tokens/"
WHO_AM_I_PATH: Final = "/v1/session/who-am-i"

Decoded = TypeVar("Decoded")


class ClusterClient:
    """The endpoints that this project needs.

    `open_connection` is called once, when there is something to send, and `on_date` with the date of each answer of
    the cluster that has one.

    Every method raises `ClusterError`s, or a `Refusal` of what no request can carry. `Unreachable` and `BadAnswer` from
    a method that writes mean that it is not known whether the write happened.
    """

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        address: str,
        timeout: timedelta,
        shutdown: Shutdown,
        on_date: Callable[[datetime], object],
    ) -> None:
        self._address = address
        self._on_date = on_date
        self._open_connection = open_connection
        self._timeout = timeout
        self._shutdown = shutdown
        self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT_REQUESTS)

    async def fetch_page(
        self, *, user: str | None = None, cursor: str | None = None, limit: int | None = None
    ) -> TokenPage:
        """A page of the cluster's tokens, of one user if `user` names one in the endpoint's spelling.

        `cursor` is the key of the page before; the cluster may give fewer than `limit`.
        """
        return await self._send_with_retry(wire.decode_page, self._build_page_request(user, cursor, limit))

    async def fetch_page_lazily(
        self, *, user: str | None = None, cursor: str | None = None, limit: int | None = None
    ) -> wire.LazyPage:
        """The same, with the tokens still to be read."""
        return await self._send_with_retry(wire.decode_page_lazily, self._build_page_request(user, cursor, limit))

    def _build_page_request(self, user: str | None, cursor: str | None, limit: int | None) -> httpx.Request:
        given = {"user": user, "after": cursor, "limit": limit}
        params = {name: value for name, value in given.items() if value is not None}
        for name, value in params.items():
            if not _fits_into_url(str(value)):
                raise Refusal(f"`{name}` cannot be what a cluster gave: it is too long, or no text. Nothing was asked.")
        return self._http.build_request("GET", TOKENS_PATH, params=params)

    async def get_token(self, token_id: str) -> AccessToken:
        """One token by its id."""
        token = await self._send_with_retry(wire.decode_token, self._http.build_request("GET", TOKENS_PATH + token_id))
        return _validate_id(token, token_id)

    async def create_token(self, user: Identity, expiration_time: datetime | None) -> NewAccessToken:
        """Make a token; with no expiration time it lives until it is deleted.

        Each call makes another one, and the answer is the only place where the secret ever appears.
        """
        body: dict[str, object] = {"user": user.as_request_body()}
        if expiration_time is not None:
            body["expiration_time"] = format_rfc3339(expiration_time)
        return await self._send_once(wire.decode_new_token, self._http.build_request("POST", TOKENS_PATH, json=body))

    async def update_token(self, token_id: str, changes: Mapping[str, bool | str | None]) -> AccessToken:
        """Enable or disable a token, or move its expiry; the token as it is then."""
        request = self._http.build_request("PATCH", TOKENS_PATH + token_id, json=dict(changes))
        return _validate_id(await self._send_once(wire.decode_updated_token, request), token_id)

    async def delete_token(self, token_id: str) -> None:
        """Remove a token for ever."""
        await self._send_once(wire.check_deletion, self._http.build_request("DELETE", TOKENS_PATH + token_id))

    async def who_am_i(self) -> Caller:
        """Whom the server's credential stands for."""
        return await self._send_with_retry(wire.decode_caller, self._http.build_request("GET", WHO_AM_I_PATH))

    async def verify_bearer(self, bearer_token: SecretStr) -> Caller:
        """Whom another bearer token stands for, asked with that one.

        Raises:
            Unauthenticated: If the cluster does not take it.
        """
        return await self._send_with_retry(
            wire.decode_verified_caller, self._http.build_request("GET", WHO_AM_I_PATH), bearer_token=bearer_token
        )

    async def resolve_identity(self, identity: Identity) -> Identity:
        """The same identity with all that the cluster knows of it. A POST that changes nothing, so it is repeated."""
        request = self._http.build_request("POST", "/v1/identity/find", json=identity.as_request_body())
        return await self._send_with_retry(wire.decode_identity, request)

    @cached_property
    def _http(self) -> Connection:
        return self._open_connection()

    async def _send_with_retry(
        self,
        decode: Callable[[wire.Answer], Decoded],
        request: httpx.Request,
        *,
        bearer_token: SecretStr | None = None,
    ) -> Decoded:
        import stamina  # noqa: PLC0415 - with what it needs the slowest import but one, and not for listing tools

        attempts = stamina.retry_context(
            on=self._choose_backoff,
            attempts=MAX_READ_ATTEMPTS,
            timeout=None,
            wait_initial=0.1,
            wait_max=2,
            wait_jitter=0.2,
        )
        async with self._limit_request():
            async for attempt in attempts:
                with attempt:
                    return self._decode_answer(
                        decode, await self._http.send(request, is_read=True, bearer_token=bearer_token)
                    )
        raise AssertionError  # pragma: no cover - stamina's last attempt returns or raises; types cannot say so

    async def _send_once(self, decode: Callable[[wire.Answer], Decoded], request: httpx.Request) -> Decoded:
        async with self._limit_request():
            return self._decode_answer(decode, await self._http.send(request, is_read=False))

    def _decode_answer(self, decode: Callable[[wire.Answer], Decoded], answer: wire.Answer) -> Decoded:
        """What an answer says; its date counts if it is the cluster's own."""
        try:
            return decode(answer)
        except (BadAnswer, Unavailable):
            answer = replace(answer, headers={})
            raise
        finally:
            if answer.date is not None:
                self._on_date(answer.date)

    def _choose_backoff(self, failure: Exception) -> bool | timedelta:
        match failure:
            case Untrusted():
                return False
            case Unreachable():
                return True
            case Unavailable(transient=True, retry_after=timedelta() as wait):
                # A wait that does not fit would end as if there had been no answer.
                left = anyio.current_effective_deadline() - anyio.current_time()
                return wait if wait.total_seconds() < left else False
            case _:
                return isinstance(failure, Unavailable) and failure.transient

    @asynccontextmanager
    async def _limit_request(self) -> AsyncGenerator[None]:
        """One of the few calls at a time, and the time that it may take."""
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
                f"{self._address} was not asked: {MAX_CONCURRENT_REQUESTS} other requests of this server were "
                "not through "
                f"{self._render_timeout()}, and this one was never sent.",
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
        # JSON can write half a character.
        return False
    return len(text) <= wire.MAX_CURSOR_CHARS


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    shutdown: Shutdown | None = None,
    on_date: Callable[[datetime], object] = lambda _: None,
) -> AsyncGenerator[ClusterClient]:
    """A client of the cluster that the settings name, over `transport` instead of the network if one is given.

    Its requests take no longer than `shutdown` allows, and `on_date` is called with the date of each answer that has
    one. Nothing but the credential is read, and nothing opened, before the first request.
    """
    bearer = settings.read_bearer()
    async with AsyncExitStack() as stack:

        def open_connection() -> Connection:
            # A host asks for the list of tools at each of its starts; most servers are then never asked for a token.
            from token_tools.cluster.transport import Connection  # noqa: PLC0415

            connection = Connection(settings, bearer, transport=transport)
            stack.push_async_callback(connection.aclose)
            return connection

        yield ClusterClient(
            open_connection,
            address=settings.address,
            timeout=settings.timeout,
            shutdown=shutdown or Shutdown(settings.timeout),
            on_date=on_date,
        )
