"""`qumulo-token-tools http` as a child process, and clients of it, also through a proxy in front."""

import hashlib
import json
import secrets
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
from mcp.client import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client

from tests.support.harness import Mode
from tests.support.json_rpc import COMMAND, REQUEST_META
from tests.support.server_process import ServedCluster
from token_tools.setting_names import ENV_PREFIX

TIMEOUT_SECONDS: Final = 30
PAUSE_SECONDS: Final = 0.02
REPLICA_HEADER: Final = "X-Replica"
"""The header in which a proxy in front tells which replica has answered."""

READER: Final = secrets.token_urlsafe(32)
WRITER: Final = secrets.token_urlsafe(32)
OTHER_WRITER: Final = secrets.token_urlsafe(32)
"""The keys of three machines, of which each server knows the hash; "reader" and so on are their names."""

_KEYS: Final = {"reader": (READER, "read"), "writer": (WRITER, "write"), "other-writer": (OTHER_WRITER, "write")}


def write_keys_file(folder: Path) -> Path:
    """Write the file by which servers know the three machines."""
    path = folder / "keys.toml"
    path.write_text(
        "".join(
            f'[keys.{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nrole = "{role}"\n'
            for name, (key, role) in _KEYS.items()
        )
    )
    path.chmod(0o600)
    return path


@dataclass(frozen=True)
class Place:
    """Where HTTP is served: at a Unix socket, or at a port of this machine if there is none."""

    url: str
    socket: Path | None = None

    @asynccontextmanager
    async def connected(self, key: str | None = WRITER) -> AsyncGenerator[httpx2.AsyncClient]:
        """Give a plain client that signs in with this key. It keeps no connection, so that each request has its own."""
        transport = httpx2.AsyncHTTPTransport(
            uds=None if self.socket is None else str(self.socket), limits=httpx2.Limits(max_keepalive_connections=0)
        )
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(
            transport=transport, base_url=self.url, headers=headers, timeout=TIMEOUT_SECONDS
        ) as client:
            yield client


@dataclass(frozen=True)
class HttpClient:
    """A client of the protocol, with what each of its requests was answered."""

    client: Client
    responses: list[httpx2.Response] = field(default_factory=list[httpx2.Response])

    @property
    def served_by(self) -> list[str]:
        """The names of the replicas that answered the requests so far, in order."""
        # A proxy that found a replica dead names it before the one that answered.
        upstreams = [response.headers[REPLICA_HEADER] for response in self.responses]
        return [Path(upstream.rpartition(", ")[2].removeprefix("unix:")).stem for upstream in upstreams]

    @property
    def served_last_by(self) -> str:
        """The name of the replica that answered the last request."""
        return self.served_by[-1]


@asynccontextmanager
async def connect(
    place: Place, mode: Mode, *, key: str = WRITER, person: ElicitationFnT | None = None
) -> AsyncGenerator[HttpClient]:
    """Connect a client of an era of the protocol that signs in with this key."""
    responses = list[httpx2.Response]()

    async def note(response: httpx2.Response) -> None:
        responses.append(response)

    with anyio.fail_after(TIMEOUT_SECONDS):
        async with place.connected(key) as http_client:
            http_client.event_hooks = {"response": [note]}
            transport = streamable_http_client(f"{place.url}/mcp", http_client=http_client)
            async with Client(transport, mode=mode, elicitation_callback=person) as client:
                yield HttpClient(client, responses)


def create_body(tool: str, arguments: Mapping[str, object], *, number: int = 1, **params: object) -> dict[str, Any]:
    """Build the call of a tool as a client of the newer era posts it."""
    meta: dict[str, object] = {
        **REQUEST_META,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": meta, **params},
    }


def create_headers(tool: str) -> dict[str, str]:
    """Build the headers of that request."""
    return {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": str(REQUEST_META["io.modelcontextprotocol/protocolVersion"]),
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }


def parse_answer(response: httpx2.Response) -> dict[str, Any]:
    """Return the message in a response, which is either all of it or the last event of a stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data:") for line in response.text.splitlines() if line.startswith("data:")]
        answer: dict[str, Any] = json.loads(events[-1])
        return answer
    whole: dict[str, Any] = response.json()
    return whole


@dataclass(frozen=True)
class HttpServer:
    """A running server; what it writes goes to the file `log`."""

    process: subprocess.Popen[bytes]
    place: Place
    log: Path

    def read_log(self) -> str:
        """Read what the server has written so far."""
        return self.log.read_text()

    def kill(self) -> None:
        """End the server as the system does where memory runs out."""
        self.process.kill()
        assert self.process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL

    def stop(self) -> None:
        """End the server in the orderly way."""
        self.process.terminate()
        assert self.process.wait(TIMEOUT_SECONDS) == 0, self.read_log()


def create_http_environment(cluster: ServedCluster, place: str, **settings: str) -> dict[str, str]:
    """Return the environment of a server that knows the three machines and listens at this place."""
    return cluster.create_environment(
        QUMULO_HTTP_LISTEN=place,
        QUMULO_HTTP_KEYS_FILE=str(write_keys_file(cluster.folder)),
        XDG_CONFIG_HOME=str(cluster.folder),
        **{"QUMULO_DELIVERY": "file", **settings},
    )


@asynccontextmanager
async def running_http_server(
    cluster: ServedCluster, *, socket: Path | None = None, **settings: str
) -> AsyncGenerator[HttpServer]:
    """Start the command, wait until it is ready, and end it afterwards in the orderly way, unless it was killed."""
    assert all(name.startswith(ENV_PREFIX) for name in settings)
    environment = create_http_environment(cluster, "127.0.0.1:0" if socket is None else f"unix:{socket}", **settings)
    log = cluster.folder / f"http-{secrets.token_hex(4)}.log"
    with start_process(environment, log) as process:
        with anyio.fail_after(TIMEOUT_SECONDS):
            server = HttpServer(process, await find_place(process, log, socket), log)
            await wait_ready(server)
        yield server
        if process.poll() is None:
            server.stop()


@contextmanager
def start_process(environment: Mapping[str, str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    """Start the command; it is killed in the end, if it still runs."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [COMMAND, "http"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


async def find_place(process: subprocess.Popen[bytes], log: Path, socket: Path | None) -> Place:
    """Wait until the server says where it listens, and return that."""
    while "listens on" not in (said := log.read_text()):
        assert process.poll() is None, said
        await anyio.sleep(PAUSE_SECONDS)
    address = said.partition("listens on ")[2].partition("\n")[0].rstrip(".")
    return Place(f"http://{address}") if socket is None else Place("http://localhost", socket)


async def wait_ready(server: HttpServer) -> None:
    """Wait until the server says that it can serve."""
    async with server.place.connected(None) as client:
        while not await is_ready(client):
            assert server.process.poll() is None, server.read_log()
            await anyio.sleep(PAUSE_SECONDS)


async def is_ready(client: httpx2.AsyncClient) -> bool:
    """Tell whether somebody serves there who is ready."""
    try:
        return (await client.get("/readyz")).is_success
    except httpx2.TransportError:
        return False
