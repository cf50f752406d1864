"""The servers that are measured: how each is started and called, and how much memory each takes."""

import os
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any, Final

import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, get_default_environment
from mcp.types import CallToolResult, TextContent

from benchmarks.cluster import ClusterConnection
from benchmarks.lines import LineSession, running_line_server

READ_TIMEOUT_SECONDS: Final = 600.0
BIN_FOLDER: Final = Path(sys.executable).parent
RIVALS_FOLDER: Final = Path(__file__).with_name("rivals")
BYTES_PER_MEGABYTE: Final = 2**20
MAX_IDLE_CHECKS: Final = 10
"""Looks at a process that never becomes idle, before its memory is measured all the same."""


@dataclass(frozen=True)
class Contender:
    """A server that is started by a command and speaks over stdio."""

    name: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Client]:
        """Start the server as a child process, and yield a client of it."""
        server = StdioServerParameters(command=self.command, args=[*self.arguments], env=self.environment)
        async with Client(server, read_timeout_seconds=READ_TIMEOUT_SECONDS) as client:
            yield client

    @asynccontextmanager
    async def connected_with_process(self) -> AsyncGenerator[tuple[Client, psutil.Process]]:
        """Start the server as a child process, and yield a client of it and the process."""
        before = set(psutil.Process().children())
        async with self.connected() as client:
            [process] = set(psutil.Process().children()) - before
            yield client, process

    @contextmanager
    def connected_by_lines(self) -> Generator[LineSession]:
        """Start the server as a child process, and yield a session with it that has no client."""
        environment = get_default_environment() | self.environment
        with running_line_server([self.command, *self.arguments], environment) as session:
            yield session


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    """Call a tool and return its result.

    Raises:
        AssertionError: If the call failed.
    """
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise AssertionError(f"{tool} failed: {join_text(result)[:400]}")
    return result


def join_text(result: CallToolResult) -> str:
    """Return the text of a result, one of its two channels."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def create_token_tools(connection: ClusterConnection, state: Path) -> Contender:
    """Return this project's server as it is installed; its journal and tokens go into the folder `state`."""
    environment = connection.environment | {"XDG_STATE_HOME": str(state), "QUMULO_DELIVERY_DIR": str(state / "tokens")}
    return Contender("token tools", str(BIN_FOLDER / "qumulo-token-tools"), environment=environment)


def create_fleet_tools(connections: Sequence[ClusterConnection], state: Path) -> Contender:
    """Return this project's server for several clusters at once."""
    config = state / "config.toml"
    config.write_text("".join(starmap(_format_table, enumerate(connections, 1))))
    config.chmod(0o600)
    environment = {"QUMULO_CONFIG": str(config), "XDG_STATE_HOME": str(state)}
    return Contender("token tools", str(BIN_FOLDER / "qumulo-token-tools"), environment=environment)


def _format_table(number: int, connection: ClusterConnection) -> str:
    return (
        f'[clusters.c{number}]\nhost = "{connection.host}"\nport = {connection.port}\n'
        f'ca_file = "{connection.ca_file}"\ncredentials_file = "{connection.credentials_file}"\n'
    )


def create_bare_sdk(*arguments: str) -> Contender:
    """Return a server of nothing but the SDK and one trivial tool."""
    return Contender("bare SDK", sys.executable, (str(RIVALS_FOLDER / "bare.py"), *arguments))


def create_generated(connection: ClusterConnection, *arguments: str) -> Contender:
    """Return the server that fastmcp generates from the endpoint's OpenAPI document."""
    environment = connection.environment | {"FASTMCP_LOG_LEVEL": "WARNING"}
    return Contender("generated", sys.executable, (str(RIVALS_FOLDER / "generated.py"), *arguments), environment)


def qq_command(connection: ClusterConnection, *arguments: str) -> list[str]:
    """Return a command of the vendor's command-line tool."""
    connection_options = [
        "--host",
        connection.host,
        "--port",
        str(connection.port),
        "--credentials-store",
        connection.credentials_file,
    ]
    return [str(BIN_FOLDER / "qq"), *connection_options, *arguments]


def vendor_sdk_command(connection: ClusterConnection, *, limit: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that reads all pages with the vendor's SDK, and its environment."""
    return [sys.executable, str(RIVALS_FOLDER / "vendor.py"), str(limit)], {**os.environ, **connection.environment}


def measure_idle_megabytes(process: psutil.Process) -> float:
    """Return the megabytes of resident memory of a process that has used no processor time for 0.3 seconds."""
    # The process still works for a moment after its answer has arrived, and gives back what the answer took.
    for _ in range(MAX_IDLE_CHECKS):
        if process.cpu_percent(interval=0.3) == 0:
            break
    return float(process.memory_info().rss) / BYTES_PER_MEGABYTE


@contextmanager
def track_peak_megabytes(process: psutil.Process, *, interval_seconds: float = 0.01) -> Generator[list[float]]:
    """Yield a list of one number: the most resident memory, in megabytes, that was seen during the block."""
    peak = [float(process.memory_info().rss) / BYTES_PER_MEGABYTE]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(interval_seconds):
            peak[0] = max(peak[0], float(process.memory_info().rss) / BYTES_PER_MEGABYTE)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()
