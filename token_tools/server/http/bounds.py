"""How long a request may take, at each of its steps, and how much of it is read."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import ClassVar, Final, cast

import anyio
import anyio.lowlevel
import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from token_tools.server.elicitation.asking import CONSENT_TIMEOUT


@dataclass(frozen=True)
class Bounds:
    """How much is served at a time, and how long it may take.

    `connections` and `requests` are those of all callers together. Of too many connections, the one is closed that has
    waited for a request the longest; too many requests are answered with 503. `sessions` are
    those of clients that speak the older protocol, 0 for a server to which each request of theirs is one by itself;
    `sessions_of_caller` are those of one caller among them.

    `header_timeout` is for the head of a request, from its first byte or from the beginning of the connection.
    `call_timeout` has room for a person's answer, and for what is done then. `stream_timeout` is for a stream on which
    a client waits for messages; it opens the next one by itself, and has to sign in for it. What was found out for a
    probe is told again for `readiness_period`, in which the clusters and the state have to answer. After
    `certificate_period` it is looked again whether the certificate has changed.
    """

    body_bytes: int = 1 << 20
    header_bytes: int = 64 << 10
    connections: int = 800
    requests: int = 512
    sessions: int = 1_000
    sessions_of_caller: int = 64
    session_idle_timeout: timedelta = timedelta(minutes=30)
    header_timeout: timedelta = timedelta(seconds=10)
    body_timeout: timedelta = timedelta(seconds=30)
    call_timeout: timedelta = CONSENT_TIMEOUT + timedelta(minutes=5)
    stream_timeout: timedelta = timedelta(minutes=5)
    readiness_period: timedelta = timedelta(seconds=5)
    certificate_period: timedelta = timedelta(seconds=60)


BOUNDS: Final = Bounds()
BOUNDS_OF_REPLICA: Final = replace(BOUNDS, sessions=0)
"""For a server of several, which share no sessions of the older protocol."""
_GONE: Final = "http.disconnect"


@dataclass
class TimeBounds:
    """Bounds the time of each request to an application; at a shutdown it ends the waiting ones and takes no others."""

    app: ASGIApp
    bounds: Bounds = BOUNDS
    _at_work: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    _waiting: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    _is_ending: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request; one that takes too long is cancelled, and answered if it has no answer yet."""
        answer = _Answer(send)
        if self._is_ending or len(self._at_work) >= self.bounds.requests:
            await answer.end(503, scope, receive)
            return
        is_stream = scope["method"] == "GET"
        timeout = self.bounds.stream_timeout if is_stream else self.bounds.call_timeout
        time = anyio.CancelScope(deadline=anyio.current_time() + timeout.total_seconds())
        body = _BodyReader(receive, self.bounds.body_timeout, time)
        # What is not there as a whole is no call yet that has to be finished.
        body.on_whole = (lambda: None) if is_stream else (lambda: self._waiting.discard(time))
        with time:
            self._at_work.add(time)
            self._waiting.add(time)
            try:
                await self.app(scope, body.receive, answer.send)
            finally:
                self._at_work.discard(time)
                self._waiting.discard(time)
        if time.cancelled_caught:
            status = 503 if self._is_ending else 504
            await answer.end(408 if body.is_late else status, scope, receive)

    def end_waiting(self) -> None:
        """End the streams on which clients wait, and requests that are not whole. Only the event loop may call it."""
        self._is_ending = True
        for time in self._waiting:
            time.cancel()


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False

    async def send(self, message: Message) -> None:
        self._has_begun = True
        await self._send(message)

    async def end(self, status: int, scope: Scope, receive: Receive) -> None:
        """Answer with a status alone, or end the answer that has begun."""
        if self._has_begun:
            await self._send({"type": "http.response.body"})
        else:
            await Response(status_code=status, headers={"Connection": "close"})(scope, receive, self._send)


class _BodyReader:
    """Reads a body that has to be there in time; what comes after it may take as long as it likes.

    If it `is_late`, or does not come at all, the request is cancelled. An exception would be logged as a fault.
    Once it is there, `on_whole` is called.
    """

    def __init__(self, receive: Receive, timeout: timedelta, request: anyio.CancelScope) -> None:
        self._receive = receive
        self._deadline = anyio.current_time() + timeout.total_seconds()
        self._request = request
        self.is_late = False
        self.on_whole: Callable[[], object] = lambda: None

    async def receive(self) -> Message:
        message: Message = {"type": _GONE}
        with anyio.move_on_after(self._deadline - anyio.current_time()) as waiting:
            message = await self._receive()
        self.is_late = waiting.cancelled_caught
        if message["type"] == _GONE and self._deadline < math.inf:
            self._request.cancel()
            await anyio.lowlevel.checkpoint()
        elif not message.get("more_body"):
            self._deadline = math.inf
            self.on_whole()
        return message


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 in which the head of a request has to be there in time, for so many connections at most."""

    header_timeout: ClassVar[timedelta] = BOUNDS.header_timeout
    max_connections: ClassVar[int] = BOUNDS.connections
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_head()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what has come, and wait for the rest of a head."""
        super().data_received(data)
        if self._is_answering:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Wait for the rest of a head that came while the request before it was answered."""
        super().on_response_complete()
        if self.conn.trailing_data[0] and not self._is_answering:
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP. If it was the rest of a request, that one has no answer besides."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            # It has been answered already, before all of it was there.
            self.transport.close()
        # Before the first request there is no cycle.
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._cancel_head_timer()
        super().connection_lost(exc)

    @property
    def request_timer(self) -> asyncio.TimerHandle | None:
        """What closes the connection if no request comes, None while one is served."""
        return self._head_timer or self.timeout_keep_alive_task

    @property
    def _is_answering(self) -> bool:
        # Before the first request there is no cycle.
        return bool(self.cycle) and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._cancel_head_timer()
        self._head_timer = self.loop.call_later(self.header_timeout.total_seconds(), self._close_unasked)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _make_room(self) -> None:
        """Close the connection that has waited for a request the longest, so that nobody keeps probes out by idling."""
        waiting = {
            connection: connection.request_timer.when()
            for connection in self.connections
            if isinstance(connection, BoundedProtocol) and connection.request_timer is not None
        }
        min(waiting, key=lambda connection: waiting[connection]).transport.close()

    def _close_unasked(self) -> None:
        self.transport.close()


def create_protocol(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol with these bounds, as uvicorn takes one."""

    class Protocol(BoundedProtocol):
        header_timeout = bounds.header_timeout
        max_connections = bounds.connections

    return Protocol
