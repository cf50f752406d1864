"""A server over HTTP in this process, on a port of this machine, with callers whom a test made up."""

import logging
import signal
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import anyio
import httpx
import httpx2
from anyio.abc import SocketStream
from mcp.client import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client

from tests.support.harness import TIMEOUT_SECONDS, Harness, Mode
from tests.support.json_rpc import INITIALIZE, REQUEST_META, Message
from token_tools.cluster.identity import Identity
from token_tools.configuration import Profile
from token_tools.http_settings import Address, HttpSettings, TcpAddress
from token_tools.operations.caller import Caller
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.app import Timing, Wire, create_server
from token_tools.server.http.admission import SignIn
from token_tools.server.http.app import create_app, create_tools_app
from token_tools.server.http.bounds import BOUNDS, Bounds, TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.listening import ServerTls, find_address, listening
from token_tools.server.http.serving import LOG_LEVELS, Service, serve
from token_tools.server.http.signed_in import Role, SignedIn
from token_tools.shutdown import Shutdown, list_ending_signals

ISSUER: Final = "https://issuer.example.com"
ANY_PORT: Final = TcpAddress(LOOPBACK, 0)
ANONYMOUS: Final = HttpSettings(http_listen=ANY_PORT, http_anonymous=True)
WITH_ISSUER: Final = HttpSettings(http_listen=ANY_PORT, http_issuer=ISSUER)
JSON_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; to load those whom a client trusts by default takes longer than most tests."""

_LEGACY_LIST: Final[Message] = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
_LONG: Final = timedelta(hours=1)


def create_caller(name: str, role: Role | None, *, is_self: Identity | None = None) -> SignedIn:
    """Return a person whom the issuer calls so, in the client that all of them use."""
    caller = Caller(f"{ISSUER}#{name}", f"{ISSUER}#{name} ({name.title()})", is_self)
    return SignedIn(client_id="chat", scopes=[], subject=name, claims={"iss": ISSUER}, caller=caller, role=role)


READER: Final = create_caller("rita", "read")
WRITER: Final = create_caller("wim", "write")
STRANGER: Final = create_caller("sam", None)


@dataclass
class Doorkeeper:
    """A sign-in that knows callers by bearer tokens that a test made up; it keeps those that it was asked about."""

    callers: Mapping[str, SignedIn] = field(
        default_factory=lambda: {"reader": READER, "writer": WRITER, "stranger": STRANGER}
    )
    asked: list[str] = field(default_factory=list[str])

    async def verify_token(self, token: str) -> SignedIn | None:
        """Return whose it is."""
        self.asked.append(token)
        return self.callers.get(token)


@dataclass(frozen=True)
class HttpServer:
    """A server that is up, with the settings that hold for it."""

    settings: HttpSettings
    address: Address
    shutdown: Shutdown

    @property
    def port(self) -> int:
        """Return the port that it was given."""
        assert isinstance(self.address, TcpAddress)
        return self.address.port

    @property
    def url(self) -> str:
        """Return what clients call."""
        return f"http://{self.address}/mcp"

    @asynccontextmanager
    async def connected(
        self, mode: Mode, bearer: str | None = None, person: ElicitationFnT | None = None
    ) -> AsyncGenerator[Client]:
        """Connect a client with this bearer token; `person` answers its questions."""
        async with (
            httpx2.AsyncClient(headers=_authorize(bearer), timeout=TIMEOUT_SECONDS, verify=NO_TLS) as http,
            Client(
                streamable_http_client(self.url, http_client=http), mode=mode, elicitation_callback=person
            ) as client,
        ):
            yield client

    async def ask(self, method: str, path: str = "/mcp", **request: Any) -> httpx.Response:  # noqa: ANN401 - what httpx takes
        """Send a request of its own connection, and return the answer."""
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, verify=NO_TLS) as http:
            return await http.request(method, f"http://{self.address}{path}", **request)

    async def post(self, message: Message, bearer: str | None = None, **headers: str) -> httpx.Response:
        """Send a message of the newer era, or an `initialize` of the older one."""
        return await self.ask("POST", json=message, headers=_list_headers(message) | _authorize(bearer) | headers)

    async def open_session(self, bearer: str | None = None) -> str:
        """Begin a session of the older protocol, and return its id."""
        answer = await self.post(INITIALIZE, bearer)
        assert answer.status_code == 200
        session: str = answer.headers["Mcp-Session-Id"]
        return session

    async def ask_in_session(self, session: str, bearer: str | None = None, *, method: str = "POST") -> httpx.Response:
        """Ask for the tools in a session of the older protocol, or what another method asks of the session."""
        headers = {**JSON_HEADERS, "Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
        message = _LEGACY_LIST if method == "POST" else None
        return await self.ask(method, headers=headers | _authorize(bearer), json=message)

    async def send_raw(self, *chunks: bytes) -> bytes:
        """Send bytes on a connection of their own, and return what comes until the server closes it."""
        async with await anyio.connect_tcp(LOOPBACK, self.port) as stream:
            for chunk in chunks:
                await stream.send(chunk)
            return await read_all(stream)


async def read_all(stream: SocketStream) -> bytes:
    """Return what comes until the other side closes the connection."""
    received = b""
    with anyio.fail_after(TIMEOUT_SECONDS):
        try:
            async for chunk in stream:
                received += chunk
        except anyio.BrokenResourceError:
            pass
    return received


def create_request(method: str, **params: object) -> Message:
    """Build a request of the newer era."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": REQUEST_META}}


def create_tool_call(tool: str, **arguments: object) -> Message:
    """Build the call of a tool in the newer era."""
    return create_request("tools/call", name=tool, arguments=arguments)


def _list_headers(message: Message) -> dict[str, str]:
    if message["method"] == "initialize":
        return {**JSON_HEADERS}
    params: Any = message["params"]
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": str(message["method"])}
    return {**JSON_HEADERS, **headers, **({"Mcp-Name": params["name"]} if "name" in params else {})}


def _authorize(bearer: str | None) -> dict[str, str]:
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


@dataclass(frozen=True)
class Setup:
    """What a server over HTTP gets besides its cluster; without a `sign_in` it serves everybody."""

    settings: HttpSettings = ANONYMOUS
    sign_in: SignIn | None = None
    bounds: Bounds = BOUNDS
    tls: ServerTls | None = None


ASKS_WHO: Final = Setup(WITH_ISSUER, Doorkeeper())
ASKS_NOBODY: Final = Setup()


@asynccontextmanager
async def serving(
    harness: Harness, setup: Setup = ASKS_NOBODY, profiles: Sequence[Profile] = ()
) -> AsyncGenerator[HttpServer]:
    """Serve the cluster of a harness until the block ends, or the clusters of `profiles` over its transport."""
    shutdown = Shutdown(_LONG)
    readiness = Readiness(lambda: shutdown.has_begun, setup.bounds.readiness_period)
    server = create_server(
        [*profiles] or [Profile(harness.settings)],
        cluster_transport=harness.recorder,
        clock=lambda: harness.now,
        timing=Timing(harness.consent_timeout, harness.report_delay, harness.own_token_patience, shutdown),
        wire=Wire(readiness.begin, needs_sign_in=setup.sign_in is not None),
    )
    with restoring_process(), listening(setup.settings) as bound:
        address = find_address(bound)
        settings = setup.settings.at_address(address)
        bounded = TimeBounds(create_tools_app(server, settings, setup.bounds), setup.bounds)
        service = Service(create_app(settings, bounded, readiness, setup.sign_in), bounded, setup.tls)
        started = anyio.Event()
        async with server.session_manager.run(), anyio.create_task_group() as tasks:
            tasks.start_soon(serve, service, bound, shutdown, started.set)
            await started.wait()
            try:
                with anyio.fail_after(TIMEOUT_SECONDS):
                    yield HttpServer(settings, address, shutdown)
            finally:
                end()


def end() -> None:
    """Ask this process for its end, as an operator does."""
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def restoring_process() -> Generator[None]:
    """Put the handlers of all signals and the levels of all logs back at the end of the block."""
    before = {signum: signal.getsignal(signum) for signum in list_ending_signals()}
    levels = {name: logging.getLogger(name).level for name in LOG_LEVELS}
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for signum, handler in before.items():
            signal.signal(signum, handler)
