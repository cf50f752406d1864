"""Starts what an entry of a host says, and asks it for its tools: what works here works in the host too.

The process gets the variables of the entry and the few that hosts pass on, not all of this one.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client
from mcp.shared.exceptions import MCPError

from token_tools.cli.hosts.entries import START_TIMEOUT_SECONDS, Entry
from token_tools.quoting import has_secret, is_visible, quote_untrusted

_MAX_REASON_CHARS: Final = 500


class Proof(NamedTuple):
    """What came of starting an entry: the number of its tools, or why there are none, and whether it was started."""

    tools: int = 0
    reason: str | None = None
    is_started: bool = True


def probe(entry: Entry, *, timeout_seconds: float = START_TIMEOUT_SECONDS) -> Proof:
    """Start the command of an entry, ask it for its tools, and end it."""
    try:
        return Proof(tools=anyio.run(_count_tools, entry, timeout_seconds))
    except* TimeoutError:
        proof = Proof(reason=f"it did not answer within {timeout_seconds:g} seconds")
    except* MCPError as failures:
        proof = Proof(reason=_render_reason(str(_find_first(failures))))
    except* OSError as failures:
        # The file may be there, and the interpreter gone that its first line names.
        proof = Proof(reason=_render_reason(str(_find_first(failures))), is_started=False)
    return proof


def run_entry(entry: Entry, words: Sequence[str]) -> int:
    """Run the command of an entry with more words, as a host would, and return its exit status.

    Raises:
        OSError: If it cannot be started.
    """
    env = get_default_environment() | dict(entry.env)
    return subprocess.run([entry.command, *entry.args, *words], env=env, check=False).returncode  # noqa: S603 - what the host would start


async def _count_tools(entry: Entry, timeout_seconds: float) -> int:
    server = StdioServerParameters(command=entry.command, args=[*entry.args], env=dict(entry.env))
    # What the server says on stderr comes as the answer to the first request too.
    with Path(os.devnull).open("w") as nowhere, anyio.fail_after(timeout_seconds):  # noqa: ASYNC230 - waits for nobody
        async with Client(stdio_client(server, errlog=nowhere)) as client:
            return len((await client.list_tools()).tools)


def _find_first(failure: BaseException) -> BaseException:
    """Return the first failure of a group, however deep it is."""
    while isinstance(failure, BaseExceptionGroup):
        failure = cast(BaseExceptionGroup[BaseException], failure).exceptions[0]
    return failure


def _render_reason(text: str) -> str:
    is_plain = len(text) <= _MAX_REASON_CHARS and is_visible(text) and not has_secret(text)
    return text if is_plain else quote_untrusted(text, max_chars=_MAX_REASON_CHARS)
