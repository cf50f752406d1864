"""The installed command as a child process, on a cluster of this process that can delay its answers."""

import json
import os
import select
import subprocess
import sys
import threading
import tty
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import anyio
import anyio.to_thread
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from tests.support.harness import AD_JANE, ADMIN, JANE, LDAP_BOB
from tests.support.json_rpc import COMMAND, INITIALIZE, INITIALIZED, Message
from tests.support.record import read_outcomes, read_record, state_environment
from tests.support.twin_clusters import serve_over_https
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Cluster
from token_tools.sandbox.faults import Endpoint, Fault, Faults
from token_tools.sandbox.https import LOOPBACK
from token_tools.settings import StateSettings
from token_tools.times import utc_now

TIMEOUT_SECONDS = 60
_CONTROLLING_TERMINAL_SCRIPT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
CREATE_REQUEST = "POST /v1/auth/access-tokens/"
BeforeServing = Callable[[str], Awaitable[None]]
Streams = Literal["pipes", "terminal", "terminal-and-pipe"]
"""What stdin and stdout of the process are. If both are the terminal, it is the controlling terminal of the process."""


async def _serve_at_once(_request: str) -> None:
    """Serve without a delay."""


@dataclass
class ServedCluster:
    """A cluster that is served over HTTPS. It adds each request to `requests`, and serves it after `before_serving`.

    `state_url` is the PostgreSQL of the servers on it, None for a file.
    """

    cluster: Cluster
    faults: Faults
    folder: Path
    port: int
    own_bearer_token: str
    requests: SimpleQueue[str] = field(default_factory=SimpleQueue[str])
    creates_released: threading.Event = field(default_factory=threading.Event)
    before_serving: BeforeServing = _serve_at_once
    state_url: SecretStr | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record a request, wait for `before_serving`, and serve it."""
        request = f"{scope['method']} {scope['path']}"
        self.requests.put(request)
        await self.before_serving(request)
        await self.faults(scope, receive, send)

    async def hold_creates(self, request: str) -> None:
        """Wait with each create until `creates_released` is set."""
        if request == CREATE_REQUEST:
            await anyio.to_thread.run_sync(self.creates_released.wait, TIMEOUT_SECONDS)

    def wait_for(self, request: str) -> None:
        """Wait until the cluster gets this request."""
        while self.requests.get(timeout=TIMEOUT_SECONDS) != request:
            pass

    @property
    def state_folder(self) -> Path:
        """Return the folder of the command's state."""
        return self.folder / "qumulo-token-tools"

    def create_environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of the command, with these variables added."""
        assert all(name.isupper() for name in settings)
        return os.environ | {
            "XDG_STATE_HOME": str(self.folder),
            "HOME": str(self.folder),
            "QUMULO_HOST": LOOPBACK,
            "QUMULO_PORT": str(self.port),
            "QUMULO_BEARER_TOKEN": self.own_bearer_token,
            "QUMULO_VERIFY_TLS": "false",
            "QUMULO_CONFIRM": "none",
            **state_environment(self.state),
            **settings,
        }

    @property
    def state(self) -> StateSettings:
        """Return which database the servers keep their record in."""
        return StateSettings(state_dir=self.state_folder, state_url=self.state_url)

    def read_record(self) -> list[dict[str, Any]]:
        """Read the entries of the journal."""
        return read_record(self.state)

    def read_outcomes(self) -> list[str]:
        """Read the outcomes in the journal, in order."""
        return read_outcomes(self.state)

    def find_bearer_token(self, token_id: str) -> str:
        """Return the bearer token of a token of the user for whom tests create them."""
        return next(token.bearer_token for token in self.cluster.tokens.of_user(JANE.auth_id) if token.id == token_id)

    def delete_created(self) -> None:
        """Delete the tokens of the user for whom tests create them, as an administrator does by hand."""
        for token in self.cluster.tokens.of_user(JANE.auth_id):
            del self.cluster.tokens[token.id]

    def read_delivered(self) -> dict[str, str]:
        """Read the bearer tokens from the files, by the ids of their tokens."""
        files = (self.state_folder / "tokens").glob("*.json")
        return {file.stem.rpartition("_")[2]: json.loads(file.read_text())["bearer_token"] for file in files}


@contextmanager
def served_cluster(
    folder: Path, planned_faults: Mapping[Endpoint, Fault] | None = None, *, state_url: SecretStr | None = None
) -> Generator[ServedCluster]:
    """Serve a cluster with an administrator, two janes and a bob, whose endpoints fail as planned."""
    cluster = Cluster(clock=utc_now)
    for account in (ADMIN, JANE, AD_JANE, LDAP_BOB):
        cluster.add_account(account)
    own = cluster.add_token(ADMIN.auth_id, creator=ADMIN.auth_id)
    faults = Faults(create_app(cluster), dict(planned_faults or {}))
    served = ServedCluster(cluster, faults, folder, 0, own.bearer_token, state_url=state_url)
    with serve_over_https(served, folder) as served.port:
        try:
            yield served
        finally:
            served.creates_released.set()


@dataclass
class ServerProcess:
    """A process, and the client's ends of its stdin and stdout, which are one descriptor if it is a terminal."""

    process: subprocess.Popen[bytes]
    stdin_fd: int
    stdout_fd: int

    def send(self, *messages: Message) -> None:
        """Write messages to stdin, one a line."""
        os.write(self.stdin_fd, b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def read_line(self) -> bytes:
        """Read the next line of stdout, or what there is of it if the stream ends or times out."""
        line = b""
        while not line.endswith(b"\n") and select.select([self.stdout_fd], [], [], TIMEOUT_SECONDS)[0]:
            with suppress(OSError):  # a terminal whose other end is closed
                if chunk := os.read(self.stdout_fd, 1):
                    line += chunk
                    continue
            break
        return line

    def close(self, *fds: int) -> None:
        """Close these of the client's ends, as the death of the client does, unless they are closed already."""
        for descriptor in {*fds} & {self.stdin_fd, self.stdout_fd} - {-1}:
            os.close(descriptor)
        self.stdin_fd, self.stdout_fd = (-1 if one in fds else one for one in (self.stdin_fd, self.stdout_fd))

    def is_running_after(self, seconds: float) -> bool:
        """Tell whether the process still runs after this time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def read_stderr(self, *, until: str) -> None:
        """Read stderr up to this line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.decode() == f"{until}\n":
                return

    def wait_for_exit(self) -> tuple[int, str]:
        """Wait for the end. Return the status, and stderr without the warning about TLS that it begins with."""
        status = self.process.wait(TIMEOUT_SECONDS)
        assert self.process.stderr is not None
        answer = self.process.stderr.read().decode()
        return status, "".join(line for line in answer.splitlines(keepends=True) if "VERIFY_TLS" not in line)


@contextmanager
def running_server(
    cluster: ServedCluster, *, streams: Streams = "pipes", wrapper: str = "", **settings: str
) -> Generator[ServerProcess]:
    """Start the command, through `wrapper` if there is one, and wait until it has answered the handshake."""
    ours, theirs = _open_streams(streams)
    command = [
        *wrapper.split(),
        *([sys.executable, "-c", _CONTROLLING_TERMINAL_SCRIPT] if streams == "terminal" else []),
        COMMAND,
    ]
    process = subprocess.Popen(
        command,
        stdin=theirs[0],
        stdout=theirs[1],
        stderr=subprocess.PIPE,
        env=cluster.create_environment(**settings),
        start_new_session=True,
    )
    for descriptor in {*theirs}:
        os.close(descriptor)
    server = ServerProcess(process, *ours)
    try:
        server.send(INITIALIZE, INITIALIZED)
        assert b'"id":1' in server.read_line()
        yield server
    finally:
        process.kill()
        server.close(server.stdin_fd, server.stdout_fd)
        with process:
            pass


def _open_streams(streams: Streams) -> tuple[tuple[int, int], tuple[int, int]]:
    """Open stdin and stdout. Return the client's ends and the process's, each as stdin and stdout."""
    if streams == "pipes":
        source, to = os.pipe()
    else:
        to, source = os.openpty()
        # Without this, the terminal would echo what is written, and translate line ends.
        tty.setraw(source)
    if streams == "terminal":
        return (to, to), (source, source)
    back, sink = os.pipe()
    return (to, back), (source, sink)


def assert_no_token_is_lost(cluster: ServedCluster, new: set[str]) -> None:
    """Check that each new token works and has its own file, or that an entry of the record may have created it."""
    delivered = cluster.read_delivered()
    assert all(cluster.cluster.tokens[one].bearer_token == delivered[one] for one in new & delivered.keys())
    creating = [entry for entry in cluster.read_record() if entry["operation"] in {"create", "rotate"}]
    doubtful = [entry for entry in creating if entry["outcome"] in {"intended", "unknown", "undeletable"}]
    for token_id in new - delivered.keys():
        owner = str(cluster.cluster.tokens[token_id].user)
        assert [entry for entry in doubtful if entry.get("token_id") in {None, token_id}], owner
