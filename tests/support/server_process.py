"""One life of the installed command, on a cluster of this process whose answers can be held back."""

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
from starlette.types import Receive, Scope, Send

from tests.support.harness import AD_JANE, ADMIN, JANE, LDAP_BOB
from tests.support.journal_file import read_journal, read_outcomes
from tests.support.json_rpc import COMMAND, INITIALIZE, INITIALIZED, Message
from tests.support.twin_clusters import serve_over_https
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Cluster
from token_tools.sandbox.faults import Endpoint, Fault, Faults
from token_tools.sandbox.https import LOOPBACK
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
"""What stdin and stdout of the process are. Only where both are the terminal it is the one that it hangs on."""


async def _serve_at_once(_request: str) -> None:
    """Without a delay."""


@dataclass
class ServedCluster:
    """A cluster, served over HTTPS; each request goes to `requests`, and is served once `before_serving` it is over."""

    cluster: Cluster
    faults: Faults
    folder: Path
    port: int
    own_bearer_token: str
    requests: SimpleQueue[str] = field(default_factory=SimpleQueue[str])
    creates_released: threading.Event = field(default_factory=threading.Event)
    before_serving: BeforeServing = _serve_at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = f"{scope['method']} {scope['path']}"
        self.requests.put(request)
        await self.before_serving(request)
        await self.faults(scope, receive, send)

    async def hold_creates(self, request: str) -> None:
        """Wait with each create until it is let go."""
        if request == CREATE_REQUEST:
            await anyio.to_thread.run_sync(self.creates_released.wait, TIMEOUT_SECONDS)

    def wait_for(self, request: str) -> None:
        """Return when it has come."""
        while self.requests.get(timeout=TIMEOUT_SECONDS) != request:
            pass

    @property
    def state_folder(self) -> Path:
        """Where the command keeps what it keeps."""
        return self.folder / "qumulo-token-tools"

    def create_environment(self, **settings: str) -> dict[str, str]:
        """What the command needs to know."""
        assert all(name.isupper() for name in settings)
        return os.environ | {
            "XDG_STATE_HOME": str(self.folder),
            "HOME": str(self.folder),
            "QUMULO_HOST": LOOPBACK,
            "QUMULO_PORT": str(self.port),
            "QUMULO_BEARER_TOKEN": self.own_bearer_token,
            "QUMULO_VERIFY_TLS": "false",
            "QUMULO_CONFIRM": "none",
            **settings,
        }

    def read_journal(self) -> list[dict[str, Any]]:
        """The lines of the journal; each is whole."""
        return read_journal(self.state_folder)

    def read_outcomes(self) -> list[str]:
        """What the journal has, in order."""
        return read_outcomes(self.state_folder)

    def read_delivered(self) -> dict[str, str]:
        """The bearer tokens in files, by the ids of their tokens."""
        files = (self.state_folder / "tokens").glob("*.json")
        return {file.stem.rpartition("_")[2]: json.loads(file.read_text())["bearer_token"] for file in files}


@contextmanager
def served_cluster(folder: Path, planned_faults: Mapping[Endpoint, Fault] | None = None) -> Generator[ServedCluster]:
    """A stage with an administrator, two janes and a bob, which fails as planned."""
    cluster = Cluster(clock=utc_now)
    for account in (ADMIN, JANE, AD_JANE, LDAP_BOB):
        cluster.add_account(account)
    own = cluster.add_token(ADMIN.auth_id, creator=ADMIN.auth_id)
    faults = Faults(create_app(cluster), dict(planned_faults or {}))
    stage = ServedCluster(cluster, faults, folder, 0, own.bearer_token)
    with serve_over_https(stage, folder) as stage.port:
        try:
            yield stage
        finally:
            stage.creates_released.set()


@dataclass
class ServerProcess:
    """A process, and the client's ends of its stdin and stdout; they are the same where it is a terminal."""

    process: subprocess.Popen[bytes]
    stdin_fd: int
    stdout_fd: int

    def send(self, *messages: Message) -> None:
        """Write to its stdin."""
        os.write(self.stdin_fd, b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def read_line(self) -> bytes:
        """The next line of its stdout, or what there is of it at its end."""
        line = b""
        while not line.endswith(b"\n") and select.select([self.stdout_fd], [], [], TIMEOUT_SECONDS)[0]:
            with suppress(OSError):  # a terminal whose other end is closed
                if chunk := os.read(self.stdout_fd, 1):
                    line += chunk
                    continue
            break
        return line

    def close(self, *fds: int) -> None:
        """Close these of the client's ends, as its death does; those that are closed already are not there."""
        for descriptor in {*fds} & {self.stdin_fd, self.stdout_fd} - {-1}:
            os.close(descriptor)
        self.stdin_fd, self.stdout_fd = (-1 if one in fds else one for one in (self.stdin_fd, self.stdout_fd))

    def is_running_after(self, seconds: float) -> bool:
        """Whether it is still there after that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def read_stderr(self, *, until: str) -> None:
        """Read its stderr up to this line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.decode() == f"{until}\n":
                return

    def wait_for_exit(self) -> tuple[int, str]:
        """Its status and what it said on stderr, but for the warning that each of these lives begins with."""
        status = self.process.wait(TIMEOUT_SECONDS)
        assert self.process.stderr is not None
        told = self.process.stderr.read().decode()
        return status, "".join(line for line in told.splitlines(keepends=True) if "VERIFY_TLS" not in line)


@contextmanager
def running_server(
    cluster: ServedCluster, *, streams: Streams = "pipes", wrapper: str = "", **settings: str
) -> Generator[ServerProcess]:
    """The command from its first answer on; `wrapper` starts it."""
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
    life = ServerProcess(process, *ours)
    try:
        life.send(INITIALIZE, INITIALIZED)
        assert b'"id":1' in life.read_line()
        yield life
    finally:
        process.kill()
        life.close(life.stdin_fd, life.stdout_fd)
        with process:
            pass


def _open_streams(streams: Streams) -> tuple[tuple[int, int], tuple[int, int]]:
    """The client's ends, and the process's."""
    if streams == "pipes":
        source, to = os.pipe()
    else:
        to, source = os.openpty()
        # As it is, without echo.
        tty.setraw(source)
    if streams == "terminal":
        return (to, to), (source, source)
    back, sink = os.pipe()
    return (to, back), (source, sink)


def assert_no_token_is_lost(stage: ServedCluster, new: set[str]) -> None:
    """Each new token is in a file of its own, and works, or the journal has an attempt that may have made it."""
    delivered = stage.read_delivered()
    assert all(stage.cluster.tokens[one].bearer_token == delivered[one] for one in new & delivered.keys())
    last = {line["attempt"]: line for line in stage.read_journal() if line["operation"] in {"create", "rotate"}}
    owners = {token.id: str(token.user) for token in stage.cluster.tokens.values()}
    doubtful = [line for line in last.values() if line["result"] in {"intended", "unknown", "undeletable"}]
    for token_id in new - delivered.keys():
        owner = owners[token_id]
        assert [line for line in doubtful if line.get("token_id") in {None, token_id}], owner
