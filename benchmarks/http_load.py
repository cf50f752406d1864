"""Callers that use a server over HTTP at the same time, from this process, with little work of their own.

A client would take longer for a call than the server does. These callers send requests that are ready as bytes, and
look at no more of an answer than whether it is one. What they take of the processor is measured with each load.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import Any, Final, Literal

HOST: Final = "127.0.0.1"
CALL_TIMEOUT_SECONDS: Final = 60
Era = Literal["2026-07-28", "2025-11-25"]
MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
"""The last version of the protocol in which a client shakes hands; servers without sessions need no handshake."""

MAX_CALLERS: Final = 64


def format_key(caller: int) -> str:
    """Return what a caller signs in with; the rivals let everybody in."""
    return f"a-key-of-the-benchmarks-that-opens-nothing-else-{caller % MAX_CALLERS:02}"


_FIRST_KEY: Final = format_key(0)

_META: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass(frozen=True)
class HttpRequest:
    """A request of the protocol over HTTP, in one version of it."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    era: Era = MODERN
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def encode(self) -> bytes:
        """Return it as it is sent."""
        is_modern = self.era == MODERN
        params = {**self.params, **({"_meta": _META} if is_modern else {})}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params}).encode()
        headers = {
            "Host": f"{HOST}:8080",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Authorization": f"Bearer {_FIRST_KEY}",
            "Accept": "application/json, text/event-stream",
            "Mcp-Protocol-Version": self.era,
            **({"Mcp-Method": self.method} if is_modern else {}),
            **({"Mcp-Name": str(self.params["name"])} if is_modern and "name" in self.params else {}),
            **self.headers,
        }
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        return f"POST /mcp HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


def sign(request: bytes, caller: int) -> bytes:
    """Return a request as it is sent by a caller."""
    return request.replace(_FIRST_KEY.encode(), format_key(caller).encode(), 1)


def create_call(tool: str, arguments: Mapping[str, Any], era: Era = MODERN) -> HttpRequest:
    """Return the request that calls a tool."""
    return HttpRequest("tools/call", {"name": tool, "arguments": arguments}, era)


@dataclass(frozen=True)
class Answer:
    """What a server answered: the head of it, and the body."""

    head: bytes
    body: bytes

    def check(self) -> None:
        """Check that it is the result of a call that was served.

        Raises:
            AssertionError: If it is not.
        """
        if b'"result":' not in self.body or b'"isError":true' in self.body:
            raise AssertionError(self.head + self.body[:400])


@dataclass(frozen=True)
class HttpConnection:
    """A connection to a server, on which one request follows the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> "HttpConnection":
        """Connect to a server on this machine."""
        return cls(*await asyncio.open_connection(HOST, port))

    async def send(self, request: bytes) -> Answer:
        """Send a request, and return the answer once all of it is there."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        return Answer(head, await self._read_body(head.lower()))

    async def _read_body(self, head: bytes) -> bytes:
        _, found, length = head.partition(b"\r\ncontent-length:")
        if found:
            return await self.reader.readexactly(int(length.partition(b"\r\n")[0]))
        if b"\r\ntransfer-encoding: chunked" not in head:
            return b""
        chunks: list[bytes] = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            chunks.append(await self.reader.readexactly(size + 2))
        await self.reader.readuntil(b"\r\n")
        return b"".join(chunks)


@dataclass(frozen=True)
class Load:
    """What became of the calls of many callers: how long all of them and each of them took.

    `processor_seconds` are those of the callers.
    """

    seconds: float
    processor_seconds: float
    call_seconds: Sequence[float]

    @property
    def calls_per_second(self) -> float:
        """How many calls were answered in a second."""
        return len(self.call_seconds) / self.seconds

    @property
    def processor_share(self) -> float:
        """Which part of one processor the callers took."""
        return self.processor_seconds / self.seconds

    def find_percentile(self, percent: int) -> float:
        """Return the seconds in which this part of the calls was answered."""
        return sorted(self.call_seconds)[ceil(len(self.call_seconds) * percent / 100) - 1]


async def make_calls(ports: Sequence[int], requests: Sequence[bytes], *, callers: int, calls: int) -> Load:
    """Let callers make so many calls each, one after another, and return how long that took.

    Each caller sends the requests in turn, and each to the next server, as a balancer without memory would.
    """
    connections = [[await HttpConnection.open(port) for port in ports] for _ in range(callers)]
    call_seconds: list[float] = []
    turns = count()

    async def call_in_turn(own: list[HttpConnection], first: int) -> None:
        for number in range(first, first + calls):
            turn, request = number % len(own), sign(requests[next(turns) % len(requests)], first)
            began = time.perf_counter()
            try:
                answer = await own[turn].send(request)
            except (ConnectionResetError, asyncio.IncompleteReadError):
                # A server closes a connection on which nothing was asked for some seconds. A balancer tries it again.
                own[turn].writer.close()
                own[turn] = await HttpConnection.open(ports[turn])
                answer = await own[turn].send(request)
            call_seconds.append(time.perf_counter() - began)
            answer.check()

    began, processor_began = time.perf_counter(), time.process_time()
    async with asyncio.timeout(CALL_TIMEOUT_SECONDS * calls), asyncio.TaskGroup() as tasks:
        for first, own in enumerate(connections):
            tasks.create_task(call_in_turn(own, first))
    load = Load(time.perf_counter() - began, time.process_time() - processor_began, call_seconds)
    for connection in (each for own in connections for each in own):
        connection.writer.close()
    return load
