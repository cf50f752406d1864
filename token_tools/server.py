"""Which tools a server has, what they work with, and how long that lives."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from mcp.server.mcpserver import MCPServer

from token_tools import __version__
from token_tools.client import connect
from token_tools.delivery import choose_delivery
from token_tools.policy import choose_policy
from token_tools.settings import Settings
from token_tools.times import Clock, utc_now
from token_tools.tools import READING, WRITING
from token_tools.workflows import Workflows

NAME: Final = "qumulo-token-tools"
TITLE: Final = "Qumulo access tokens"


def create_server(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None, clock: Clock = utc_now
) -> MCPServer[Workflows]:
    """An MCP server for the cluster that the settings name.

    It connects when it starts to serve, over `transport` instead of the network if one is given.
    """

    @asynccontextmanager
    async def lifespan(_: MCPServer[Workflows]) -> AsyncGenerator[Workflows]:
        async with connect(settings, transport=transport) as cluster:
            yield Workflows(
                address=settings.address,
                cluster=cluster,
                policy=choose_policy(settings),
                delivery=choose_delivery(settings),
                clock=clock,
            )

    return MCPServer(
        NAME,
        title=TITLE,
        version=__version__,
        instructions=(
            "Administers the access tokens (long-lived bearer tokens for REST) of a Qumulo Core storage cluster. "
            f"It serves the cluster {settings.address} and no other. "
            f"{_tell_secrecy(settings)}"
        ),
        tools=[*READING] if settings.read_only else [*READING, *WRITING],
        lifespan=lifespan,
        log_level="WARNING",
        subscriptions=False,
    )


def _tell_secrecy(settings: Settings) -> str:
    if settings.delivery == "inline":
        return "The bearer token of an existing token can never be shown; that of a new one is in the answer, once."
    return "It never shows a bearer token: that of a new token goes to a place that the answer names."
