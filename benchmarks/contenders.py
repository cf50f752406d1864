"""The servers that are measured, as a client starts them, and what they use of the machine."""

import os
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from benchmarks.cluster import ClusterConnection

READ_TIMEOUT_SECONDS: Final = 600.0
BIN_FOLDER: Final = Path(sys.executable).parent
RIVALS_FOLDER: Final = Path(__file__).with_name("rivals")
BYTES_PER_MEGABYTE: Final = 2**20
MAX_IDLE_CHECKS: Final = 10
"""At a process that does not come to rest."""


@dataclass(frozen=True)
class Contender:
    """A server as a command over stdio."""

    name: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Client]:
        """A client of the server as a new child process."""
        server = StdioServerParameters(command=self.command, args=[*self.arguments], env=self.environment)
        async with Client(server, read_timeout_seconds=READ_TIMEOUT_SECONDS) as client:
            yield client

    @asynccontextmanager
    async def connected_with_process(self) -> AsyncGenerator[tuple[Client, psutil.Process]]:
        """The same, and the process."""
        before = set(psutil.Process().children())
        async with self.connected() as client:
            [process] = set(psutil.Process().children()) - before
            yield client, process


def create_token_tools(connection: ClusterConnection, state: Path) -> Contender:
    """This project, as installed; what it remembers goes into `state` and not to the user's own."""
    environment = connection.environment | {"XDG_STATE_HOME": str(state), "QUMULO_DELIVERY_DIR": str(state / "tokens")}
    return Contender("token tools", str(BIN_FOLDER / "qumulo-token-tools"), environment=environment)


def create_bare_sdk() -> Contender:
    """The SDK with one trivial tool."""
    return Contender("bare SDK", sys.executable, (str(RIVALS_FOLDER / "bare.py"),))


def create_generated(connection: ClusterConnection) -> Contender:
    """What fastmcp generates from the endpoint's description."""
    environment = connection.environment | {"FASTMCP_LOG_LEVEL": "WARNING"}
    return Contender("generated", sys.executable, (str(RIVALS_FOLDER / "generated.py"),), environment)


def qq_command(connection: ClusterConnection, *arguments: str) -> list[str]:
    """One command of the vendor's command-line tool."""
    where = [
        "--host",
        connection.host,
        "--port",
        str(connection.port),
        "--credentials-store",
        connection.credentials_file,
    ]
    return [str(BIN_FOLDER / "qq"), *where, *arguments]


def vendor_sdk_command(connection: ClusterConnection, *, limit: int) -> tuple[list[str], dict[str, str]]:
    """The program that reads all pages with the vendor's SDK, and its environment."""
    return [sys.executable, str(RIVALS_FOLDER / "vendor.py"), str(limit)], {**os.environ, **connection.environment}


def measure_idle_megabytes(process: psutil.Process) -> float:
    """Megabytes of resident memory, once it has used no processor for three tenths of a second."""
    # The process goes on for a moment after its answer has arrived: what an answer takes is not what is kept.
    for _ in range(MAX_IDLE_CHECKS):
        if process.cpu_percent(interval=0.3) == 0:
            break
    return float(process.memory_info().rss) / BYTES_PER_MEGABYTE


@contextmanager
def track_peak_megabytes(process: psutil.Process, *, interval_seconds: float = 0.01) -> Generator[list[float]]:
    """A list that holds the largest resident memory in megabytes seen so far, while the block runs."""
    peak = [float(process.memory_info().rss) / BYTES_PER_MEGABYTE]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval_seconds):
            peak[0] = max(peak[0], float(process.memory_info().rss) / BYTES_PER_MEGABYTE)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
