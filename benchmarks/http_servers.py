"""The servers that are measured over HTTP, each as one or several processes on ports of this machine."""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import psutil
from pydantic import SecretStr

from benchmarks.cluster import ClusterConnection
from benchmarks.contenders import RIVALS_FOLDER, Contender, create_bare_sdk, create_generated, create_token_tools
from benchmarks.http_load import HOST, MAX_CALLERS, format_key
from tests.support.postgres import create_database, running_postgres

START_SECONDS: Final = 60
PAUSE_SECONDS: Final = 0.05
STATE_KEY: Final = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="

CreateContender = Callable[[int], Contender]
"""Returns a server that is to listen on a port of this machine."""


@dataclass(frozen=True)
class Replica:
    """A process of a server, and the port on which it listens."""

    port: int
    process: psutil.Process


@contextmanager
def running_replicas(create: CreateContender, count: int) -> Generator[list[Replica]]:
    """Run so many processes of a server, as long as the block."""
    with ExitStack() as running:
        replicas = [running.enter_context(_running(create, _find_free_port())) for _ in range(count)]
        for replica in replicas:
            _wait_listening(replica)
        yield replicas


@contextmanager
def _running(create: CreateContender, port: int) -> Generator[Replica]:
    contender = create(port)
    environment = {**os.environ, **contender.environment}
    with psutil.Popen([contender.command, *contender.arguments], env=environment) as process:
        try:
            yield Replica(port, process)
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_listening(replica: Replica) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, replica.port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline or _has_ended(replica):
                raise
        else:
            return


def _has_ended(replica: Replica) -> bool:
    """Wait a moment for the end of a process that is to go on, and tell whether it came."""
    with suppress(psutil.TimeoutExpired):
        replica.process.wait(PAUSE_SECONDS)
        return True
    return False


@contextmanager
def open_database() -> Generator[SecretStr]:
    """Run a PostgreSQL as long as the block, and yield the URL of an empty database."""
    with open_databases(1) as [database]:
        yield database


@contextmanager
def open_databases(count: int) -> Generator[Sequence[SecretStr]]:
    """Run a PostgreSQL as long as the block, and yield the URLs of so many empty databases."""
    with running_postgres() as server:
        yield [create_database(server) for _ in range(count)]


def create_ours(connection: ClusterConnection, state: Path, database: SecretStr | None) -> CreateContender:
    """Return what makes this project's server, with its state in a database that replicas share, or in a folder."""
    return partial(_create_ours, connection, state, _name_state(database))


def _name_state(database: SecretStr | None) -> Mapping[str, str]:
    if database is None:
        return {}
    return {"QUMULO_STATE_URL": database.get_secret_value(), "QUMULO_HTTP_STATE_KEYS": STATE_KEY}


def _create_ours(connection: ClusterConnection, state: Path, state_settings: Mapping[str, str], port: int) -> Contender:
    stdio = create_token_tools(connection, state)
    keys = state / "keys.toml"
    keys.parent.mkdir(parents=True, exist_ok=True)
    digests = [sha256(format_key(caller).encode()).hexdigest() for caller in range(MAX_CALLERS)]
    tables = [f'[keys.load{number}]\nsha256 = "{digest}"\nrole = "write"\n' for number, digest in enumerate(digests)]
    keys.write_text("".join(tables))
    settings = {
        "QUMULO_HTTP_LISTEN": f"{HOST}:{port}",
        "QUMULO_HTTP_KEYS_FILE": str(keys),
        "QUMULO_CONFIRM": "none",
        "QUMULO_MAX_CHANGES": "0",
        **state_settings,
    }
    return Contender(stdio.name, stdio.command, ("http",), stdio.environment | settings)


def create_bare_replica(port: int) -> Contender:
    """Return the bare server of the SDK."""
    return create_bare_sdk(str(port))


def create_fetching(connection: ClusterConnection) -> CreateContender:
    """Return what makes a server of the SDK that fetches tokens, and does nothing with them."""
    return lambda port: Contender(
        "bare SDK + GET", sys.executable, (str(RIVALS_FOLDER / "fetching.py"), str(port)), connection.environment
    )


def create_generated_by_port(connection: ClusterConnection) -> CreateContender:
    """Return what makes the generated server."""
    return lambda port: create_generated(connection, str(port))
