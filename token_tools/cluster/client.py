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
from token_tools.shutdown import Ending
from token_tools.times import format_instant, tell_duration

if TYPE_CHECKING:
    import httpx

    from token_tools.cluster.transport import Connection

AT_ONCE: Final = 8
ATTEMPTS: Final = 4
_RESTARTED: Final = "Try again once this server has been started again."
_SLOW: Final = "Try again in a minute; if it is the same then, the operator has to look why, or to allow more time."
TOKENS: Final = "/v1/auth/access-tokens/"
WHO_AM_I: Final = "/v1/session/who-am-i"

Result = TypeVar("Result")


class ClusterClient:
    """The endpoints that this project needs.

    `open_connection` is called once, when there is something to send, and `hear_date` with the date of each answer of
    the cluster that has one.

    Every method raises `ClusterError`s, or a `Refusal` of what no request can carry. `Unreachable` and `BadAnswer` from
    a method that writes mean that it is not known whether the write happened.
    """

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        address: str,
        deadline: timedelta,
        ending: Ending,
        hear_date: Callable[[datetime], object],
    ) -> None:
        self._address = address
        self._hear_date = hear_date
        self._open_connection = open_connection
        self._deadline = deadline
        self._ending = ending
        self._slots = anyio.CapacityLimiter(AT_ONCE)

    async def list_tokens(
        self, *, user: str | None = None, after: str | None = None, limit: int | None = None
    ) -> TokenPage:
        """A page of the cluster's tokens, of one user if `user` names one in the endpoint's spelling.

        `after` is the key of the page before; the cluster may give fewer than `limit`.
        """
        return await self._read(wire.read_page, self._build_list(user, after, limit))

    async def skim_tokens(
        self, *, user: str | None = None, after: str | None = None, limit: int | None = None
    ) -> wire.UnreadPage:
        """The same, with the tokens still to be read."""
        return await self._read(wire.skim_page, self._build_list(user, after, limit))

    def _build_list(self, user: str | None, after: str | None, limit: int | None) -> httpx.Request:
        given = {"user": user, "after": after, "limit": limit}
        params = {name: value for name, value in given.items() if value is not None}
        for name, value in params.items():
            if not _fits_into_url(str(value)):
                raise Refusal(f"`{name}` cannot be what a cluster gave: it is too long, or no text. Nothing was asked.")
        return self._http.build_request("GET", TOKENS, params=params)

    async def get_token(self, token_id: str) -> AccessToken:
        """One token by its id."""
        token = await self._read(wire.read_token, self._http.build_request("GET", TOKENS + token_id))
        return _check_id(token, token_id)

    async def create_token(self, user: Identity, expiration_time: datetime | None) -> NewAccessToken:
        """Make a token; with no expiration time it lives until it is deleted.

        Each call makes another one, and the answer is the only place where the secret ever appears.
        """
        body: dict[str, object] = {"user": user.as_body()}
        if expiration_time is not None:
            body["expiration_time"] = format_instant(expiration_time)
        return await self._write(wire.read_new_token, self._http.build_request("POST", TOKENS, json=body))

    async def modify_token(self, token_id: str, changes: Mapping[str, bool | str | None]) -> AccessToken:
        """Enable or disable a token, or move its expiry; the token as it is then."""
        request = self._http.build_request("PATCH", TOKENS + token_id, json=dict(changes))
        return _check_id(await self._write(wire.read_changed_token, request), token_id)

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
        return await self._read(wire.read_proof, self._http.build_request("GET", WHO_AM_I), bearer_token=bearer_token)

    async def find_identity(self, identity: Identity) -> Identity:
        """The same identity with all that the cluster knows of it. A POST that changes nothing, so it is repeated."""
        request = self._http.build_request("POST", "/v1/identity/find", json=identity.as_body())
        return await self._read(wire.read_identity, request)

    @cached_property
    def _http(self) -> Connection:
        return self._open_connection()

    async def _read(
        self,
        decode: Callable[[wire.Answer], Result],
        request: httpx.Request,
        *,
        bearer_token: SecretStr | None = None,
    ) -> Result:
        import stamina  # noqa: PLC0415 - with what it needs the slowest import but one, and not for listing tools

        attempts = stamina.retry_context(
            on=self._wait_before_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.1, wait_max=2, wait_jitter=0.2
        )
        async with self._turn():
            async for attempt in attempts:
                with attempt:
                    return self._understand(
                        decode, await self._http.send(request, reads=True, bearer_token=bearer_token)
                    )
        raise AssertionError  # pragma: no cover - stamina's last attempt returns or raises; types cannot say so

    async def _write(self, decode: Callable[[wire.Answer], Result], request: httpx.Request) -> Result:
        async with self._turn():
            return self._understand(decode, await self._http.send(request, reads=False))

    def _understand(self, decode: Callable[[wire.Answer], Result], answer: wire.Answer) -> Result:
        """What an answer says; its date counts if it is the cluster's own."""
        try:
            return decode(answer)
        except (BadAnswer, Unavailable):
            answer = replace(answer, headers={})
            raise
        finally:
            if answer.date is not None:
                self._hear_date(answer.date)

    def _wait_before_retry(self, failure: Exception) -> bool | timedelta:
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
    async def _turn(self) -> AsyncGenerator[None]:
        """One of the few calls at a time, and the time that it may take."""
        if not self._ending.left():
            raise Unsent(f"{self._address} was not asked: this server has to stop.", advice=_RESTARTED)
        await self._wait_for_turn()
        try:
            with self._ending.limit_request(self._deadline.total_seconds()):
                yield
        except TimeoutError:
            raise Unreachable(
                f"No whole answer from {self._address} {self._tell_limit()}.",
                advice=_RESTARTED if self._ending.is_asked else _SLOW,
            ) from None
        finally:
            self._slots.release()

    async def _wait_for_turn(self) -> None:
        try:
            with self._ending.limit_request(self._deadline.total_seconds()):
                await self._slots.acquire()
        except TimeoutError:
            raise Unsent(
                f"{self._address} was not asked: {AT_ONCE} other requests of this server were not through "
                f"{self._tell_limit()}, and this one was never sent.",
                advice=_RESTARTED if self._ending.is_asked else "Try again when less is asked at once.",
            ) from None

    def _tell_limit(self) -> str:
        if self._ending.is_asked:
            return "before this server had to stop"
        return f"within {tell_duration(self._deadline)} (QUMULO_TIMEOUT)"


def _check_id(token: AccessToken, token_id: str) -> AccessToken:
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
    return len(text) <= wire.LONGEST_KEY


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    ending: Ending | None = None,
    hear_date: Callable[[datetime], object] = lambda _: None,
) -> AsyncGenerator[ClusterClient]:
    """A client of the cluster that the settings name, over `transport` instead of the network if one is given.

    Its requests take no longer than `ending` allows, and `hear_date` is called with the date of each answer that has
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
            deadline=settings.timeout,
            ending=ending or Ending(settings.timeout),
            hear_date=hear_date,
        )
