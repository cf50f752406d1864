"""Plays a short conversation with the server, for a person who wants to see what an assistant would get."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult, TextContent

STEP_TIMEOUT_SECONDS: Final = 30.0
"""Seconds that one step may take."""


@dataclass(frozen=True)
class Step:
    """One call by the assistant, the request of its user that leads to it, and whether it should succeed."""

    request: str
    tool: str
    arguments: Mapping[str, str | int]
    succeeds: bool = True


CONVERSATION: Final = (
    Step("Which access tokens are there?", "list_access_tokens", {}),
    Step(
        "And which does the local jane have? There is another one in Active Directory.",
        "list_access_tokens",
        {"user": "local:jane"},
    ),
    Step(
        "Make a token for the metrics service, for 30 days.",
        "create_access_token",
        {"user": "local:metrics", "expiration_time": "30d"},
    ),
    Step("Is it there?", "list_access_tokens", {"user": "local:metrics"}),
    Step(
        "A mistake, as models make them: an argument that does not exist.",
        "list_access_tokens",
        {"username": "jane"},
        succeeds=False,
    ),
)


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add the options of this command, of which there are none."""


def run(_settings: Mapping[str, Any]) -> int:
    """Play the conversation, and return the exit status: 1 if a step did not end as it should."""
    return 0 if anyio.run(play_conversation) else 1


async def play_conversation(steps: Sequence[Step] = CONVERSATION) -> bool:
    """Call the tools of a server that runs as a child process, and print each step.

    Return whether every step ended as it should; the first that does not ends the conversation.
    """
    server = StdioServerParameters(command=sys.executable, args=["-m", "token_tools", "--demo"])
    async with Client(server, read_timeout_seconds=STEP_TIMEOUT_SECONDS) as client:
        _print_text("Connected over stdio to a server with an embedded cluster. Nothing here is real.")
        for step in steps:
            result = await client.call_tool(step.tool, dict(step.arguments))
            _print_step(step, result)
            if result.is_error is step.succeeds:
                _print_text("This step did not go as it should.")
                return False
    _print_text("The token and what was kept of it are gone again.")
    return True


def _print_step(step: Step, result: CallToolResult) -> None:
    arguments = ", ".join(f"{name}={value!r}" for name, value in step.arguments.items())
    _print_text(f"» {step.request}\n  {step.tool}({arguments})")
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    _print_text("\n".join(f"  {line}" for line in text.splitlines()))


def _print_text(text: str) -> None:
    sys.stdout.write(f"{text}\n\n")
    sys.stdout.flush()
