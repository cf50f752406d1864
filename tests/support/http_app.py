"""The HTTP application of a server in this process, as the command `http` puts it together, on a port of its own."""

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio
import httpx2
import uvicorn
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from token_tools.http_settings import MCP_PATH, HttpSettings
from token_tools.operations.caller import Caller
from token_tools.operations.fleet import Fleet
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.http.app import create_app, create_tools_app
from token_tools.server.http.bounds import BOUNDS, BoundedProtocol, TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.signed_in import SignedIn

BEARER: Final = "the-bearer-of-the-only-caller-in-this-process"
SHUTDOWN_SECONDS: Final = 5


class _OneCaller:
    """Lets in a single caller, who may do everything."""

    async def verify_token(self, token: str, /) -> SignedIn | None:
        """Return the caller, if it is theirs."""
        caller = Caller("key tests", "key tests")
        return SignedIn(caller=caller, role="write", client_id=caller.id, scopes=[]) if token == BEARER else None


class _QuietServer(uvicorn.Server):
    """A server that leaves the signals to the tests."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing about signals."""
        yield


@asynccontextmanager
async def over_http(server: MCPServer[Fleet]) -> AsyncGenerator[Transport]:
    """Give the way to a server that leads through its HTTP application."""
    with socket.create_server((LOOPBACK, 0)) as bound:
        url = f"http://{LOOPBACK}:{bound.getsockname()[1]}{MCP_PATH}"
        app = create_http_app(server)
        async with (
            server.session_manager.run(),
            _serving(app, bound),
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {BEARER}"}) as http_client,
        ):
            yield streamable_http_client(url, http_client=http_client)


def create_http_app(server: MCPServer[Fleet]) -> ASGIApp:
    """Return the application with all that stands before the tools."""
    settings = HttpSettings(http_anonymous=True)
    bounded = TimeBounds(create_tools_app(server, settings, BOUNDS))
    return create_app(settings, bounded, Readiness(lambda: False), _OneCaller())


@asynccontextmanager
async def _serving(app: ASGIApp, bound: socket.socket) -> AsyncGenerator[None]:
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _QuietServer(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [bound])
        yield
        server.should_exit = True
