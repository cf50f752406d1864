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

from benchmarks.cluster import Connection

PATIENCE: Final = 600.0
BIN: Final = Path(sys.executable).parent
RIVALS: Final = Path(__file__).with_name("rivals")
MEGABYTE: Final = 2**20
MOST_LOOKS: Final = 10
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
        async with Client(server, read_timeout_seconds=PATIENCE) as client:
            yield client

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[tuple[Client, psutil.Process]]:
        """The same, and the process."""
        before = set(psutil.Process().children())
        async with self.connected() as client:
            [process] = set(psutil.Process().children()) - before
            yield client, process


def token_tools(connection: Connection, state: Path) -> Contender:
    """This project, as installed; what it remembers goes into `state` and not to the user's own."""
    environment = connection.environment | {"XDG_STATE_HOME": str(state), "QUMULO_DELIVERY_DIR": str(state / "tokens")}
    return Contender("token tools", str(BIN / "qumulo-token-tools"), environment=environment)


def bare_sdk() -> Contender:
    """The SDK with one trivial tool."""
    return Contender("bare SDK", sys.executable, (str(RIVALS / "bare.py"),))


def generated(connection: Connection) -> Contender:
    """What fastmcp generates from the endpoint's description."""
    environment = connection.environment | {"FASTMCP_LOG_LEVEL": "WARNING"}
    return Contender("generated", sys.executable, (str(RIVALS / "generated.py"),), environment)


def qq(connection: Connection, *arguments: str) -> list[str]:
    """One command of the vendor's command-line tool."""
    where = ["--host", connection.host, "--port", str(connection.port), "--credentials-store", connection.store]
    return [str(BIN / "qq"), *where, *arguments]


def vendor_sdk(connection: Connection, *, limit: int) -> tuple[list[str], dict[str, str]]:
    """The program that reads all pages with the vendor's SDK, and its environment."""
    return [sys.executable, str(RIVALS / "vendor.py"), str(limit)], {**os.environ, **connection.environment}


def measure_rest(process: psutil.Process) -> float:
    """Megabytes of resident memory, once it has used no processor for three tenths of a second."""
    # The process goes on for a moment after its answer has arrived: what an answer takes is not what is kept.
    for _ in range(MOST_LOOKS):
        if process.cpu_percent(interval=0.3) == 0:
            break
    return float(process.memory_info().rss) / MEGABYTE


@contextmanager
def peak_of(process: psutil.Process, *, every: float = 0.01) -> Generator[list[float]]:
    """A list that holds the largest resident memory in megabytes seen so far, while the block runs."""
    peak = [float(process.memory_info().rss) / MEGABYTE]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], float(process.memory_info().rss) / MEGABYTE)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
