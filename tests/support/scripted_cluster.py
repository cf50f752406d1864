"""Answers of a cluster that a test writes by hand."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from mcp.client import Client
from pydantic import SecretStr

from tests.support.harness import NOW, TIMEOUT_SECONDS, Mode
from token_tools.configuration import Profile
from token_tools.sandbox.cluster import Token
from token_tools.server.app import Timing, create_server
from token_tools.settings import Settings


def page_response(entries: Sequence[dict[str, Any]], cursor: str | None) -> httpx.Response:
    """Build a page of tokens; `cursor` leads to the next one."""
    return httpx.Response(200, json={"entries": entries, "paging": {"next": cursor and f"/x?after={cursor}"}})


def render_entry(token: Token) -> dict[str, Any]:
    """Return a token as the cluster lists it, with times that are no finding of an audit."""
    return {
        "id": token.id,
        "user": {"auth_id": token.user, "name": "x", "domain": "LOCAL"},
        "creator": {"auth_id": token.creator},
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": True,
    }


TOKEN_ENTRY: dict[str, Any] = {
    "id": "21474836480000000000123",
    "user": {"domain": "LOCAL", "auth_id": "1001", "uid": None, "gid": None, "sid": None, "name": "jane"},
    "creator": {"domain": "LOCAL", "auth_id": "500", "uid": None, "gid": None, "sid": None, "name": "admin"},
    "creation_time": "2026-10-01T10:00:00.123456789Z",
    "expiration_time": None,
    "enabled": True,
}


@asynccontextmanager
async def client_with_answer(mode: Mode, answer: Callable[[httpx.Request], httpx.Response]) -> AsyncGenerator[Client]:
    """Connect a client to a server whose cluster gives this answer to all that a tool asks."""
    settings = Settings(host="c.example.com", bearer_token=SecretStr("access-v1:own"))
    server = create_server(
        [Profile(settings)],
        cluster_transport=httpx.MockTransport(answer),
        clock=lambda: NOW,
        timing=Timing(own_token_patience=None),
    )
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(server, mode=mode) as client:
            yield client
