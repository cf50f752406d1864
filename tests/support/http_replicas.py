"""Two replicas of the server behind nginx, on one cluster and one PostgreSQL."""

import base64
import logging
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from tests.support.http_server import (
    PAUSE_SECONDS,
    TIMEOUT_SECONDS,
    HttpClient,
    Place,
    create_http_environment,
    is_ready,
)
from tests.support.nginx import running_nginx
from tests.support.postgres import create_database
from tests.support.replica_process import Kill, start_replica
from tests.support.server_process import ServedCluster, served_cluster
from tests.support.tcp_proxy import TcpProxy, running_proxy
from token_tools.sandbox.https import LOOPBACK

NAMES: Final = ("a", "b")
DATABASE_PASSWORD: Final = secrets.token_urlsafe(32)
STATE_KEY: Final = base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Replicas:
    """The replicas by their names, the way to all of them, and the way to their database, which can be cut."""

    cluster: ServedCluster
    folder: Path
    front: Place
    database: TcpProxy
    settings: Mapping[str, str]
    log_level: int
    processes: dict[str, ForkServerProcess] = field(default_factory=dict[str, ForkServerProcess])

    def socket(self, name: str) -> Path:
        """Return where a replica listens."""
        return self.folder / f"{name}.sock"

    def place(self, name: str) -> Place:
        """Return the way to one replica alone."""
        return Place("http://localhost", self.socket(name))

    def read_log(self, name: str) -> str:
        """Read what a replica has written since it was started last."""
        return self._log(name).read_text()

    async def start(self, name: str, settings: Mapping[str, str] | None = None, *, kill: Kill | None = None) -> None:
        """Start a replica with these settings changed, and wait until it is ready."""
        environment = create_http_environment(
            self.cluster, f"unix:{self.socket(name)}", **{**self.settings, **(settings or {})}
        )
        process = self.processes[name] = start_replica(
            environment, self._log(name), kill=kill, log_level=self.log_level
        )
        with anyio.fail_after(TIMEOUT_SECONDS):
            async with self.place(name).connected(None) as client:
                while not await is_ready(client):
                    assert process.is_alive(), self.read_log(name)
                    await anyio.sleep(PAUSE_SECONDS)

    def has_ended(self, name: str) -> bool:
        """Tell whether a replica has ended, or does so within a second."""
        self.processes[name].join(1)
        return not self.processes[name].is_alive()

    def kill(self, name: str) -> None:
        """End a replica as the system does where memory runs out."""
        self.processes[name].kill()
        self.processes[name].join(TIMEOUT_SECONDS)
        assert self.processes[name].exitcode is not None

    def stop(self, name: str) -> None:
        """End a replica in the orderly way."""
        process = self.processes.pop(name)
        process.terminate()
        process.join(TIMEOUT_SECONDS)
        assert process.exitcode == 0, self.read_log(name)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


async def turn_to(client: HttpClient, name: str) -> None:
    """Make requests until the next one is this replica's: after the other one's, each of which had one of its own."""
    [other] = {*NAMES} - {name}
    before = len(client.responses)
    while client.served_by[before:][-2:] != [name, other]:
        await client.client.session.list_tools()


@asynccontextmanager
async def running_replicas(
    postgres_server: str, settings: Mapping[str, str] = MappingProxyType({}), *, log_level: int = logging.WARNING
) -> AsyncGenerator[Replicas]:
    """Start both replicas with these settings changed, and what they need, and end it all in the orderly way."""
    database = create_database(postgres_server)
    # The paths of sockets have to be short, and those of pytest's folders are not.
    with (
        TemporaryDirectory(prefix="replicas-") as name,
        _reachable(database) as (proxy, state_url),
        served_cluster(Path(name), state_url=database) as cluster,
    ):
        folder = Path(name)
        async with running_nginx(folder, [folder / f"{each}.sock" for each in NAMES]) as front:
            shared = {
                "QUMULO_STATE_URL": state_url,
                "QUMULO_HTTP_STATE_KEYS": STATE_KEY,
                "QUMULO_CONFIRM": "all",
                "QUMULO_MAX_CHANGES": "0",
            }
            replicas = Replicas(cluster, folder, front, proxy, {**shared, **settings}, log_level)
            try:
                for each in NAMES:
                    await replicas.start(each)
                yield replicas
                for each in NAMES:
                    replicas.stop(each)
            finally:
                for process in replicas.processes.values():
                    process.kill()


@contextmanager
def _reachable(database: SecretStr) -> Generator[tuple[TcpProxy, str]]:
    """Give a way to a database that can be cut, with its URL."""
    url = database.get_secret_value()
    parts = urlsplit(url)
    socket_folder = Path(parts.query.removeprefix("host="))
    with running_proxy(socket_folder / ".s.PGSQL.5432") as proxy:
        # This server asks nobody for a password, so that any will do.
        user = f"{parts.netloc.partition('@')[0].partition(':')[0]}:{DATABASE_PASSWORD}"
        yield proxy, f"{parts.scheme}://{user}@{LOOPBACK}:{proxy.port}{parts.path}"
