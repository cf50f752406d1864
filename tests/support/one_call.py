"""What a forked process does as a server that one call is made of: for tests of servers that are killed meanwhile."""

from pathlib import Path

import anyio
from mcp.client import Client
from mcp.types import CallToolResult, TextContent

from token_tools.configuration import load_profiles
from token_tools.server.app import create_server


def create_one(user: str, armed: Path) -> int:
    """Create a token for a user, after something was asked; while it is created, the file `armed` is there."""

    async def create() -> CallToolResult:
        async with Client(create_server(load_profiles({}))) as client:
            await client.call_tool("list_access_tokens", {"user": user})
            armed.touch()
            result = await client.call_tool("create_access_token", {"user": user})
            armed.unlink()
            return result

    return 3 if anyio.run(create).is_error else 0


def list_all(user: str, answer: Path) -> int:
    """List the tokens of a user, and write to a file what is told."""

    async def ask() -> CallToolResult:
        async with Client(create_server(load_profiles({}))) as client:
            return await client.call_tool("list_access_tokens", {"user": user})

    [block] = anyio.run(ask).content
    assert isinstance(block, TextContent)
    answer.write_text(block.text)
    return 0
