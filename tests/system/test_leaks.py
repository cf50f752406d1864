"""Test that no secret leaves the process, with every tool and every failure, over stdio, and with full logging.

The test searches every byte that leaves the process: the frames on stdout, stderr with the logs of every library at
DEBUG, and the files. It leaves out only the one place where the secret of each token belongs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.json_rpc import REQUEST_META
from tests.support.postgres import create_database
from tests.support.record import read_record, state_environment
from tests.support.secret_scan import find_secrets
from token_tools.sandbox.faults import Endpoint, Fault
from token_tools.settings import StateSettings

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 120
CHILD_SCRIPT = """
import json, logging, os, sys, pathlib, anyio, httpx, keyring, stamina
from datetime import timedelta
from pydantic import SecretStr
from tests.support.file_keyring import FileKeyring
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.sandbox.faults import Faults
from token_tools.server.app import create_server
from token_tools.configuration import Profile, load_settings
from token_tools.shutdown import Shutdown
from token_tools.server.stdio import serve
from token_tools.times import utc_now

keyring.set_keyring(FileKeyring())
plan, secrets = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
stamina.set_testing(True, attempts=2)
logging.basicConfig(level=logging.DEBUG)
demo = create_demo_cluster(utc_now)
seen = set()

class Told(Faults):
    async def __call__(self, scope, receive, send):
        self.plan = json.loads(plan.read_text())
        try:
            await super().__call__(scope, receive, send)
        finally:
            seen.update(token.bearer_token for token in demo.cluster.tokens.values())
            secrets.write_text(json.dumps(sorted(seen)))
            for token in list(demo.cluster.tokens.values()):
                if token.user == "1003" and plan.with_suffix(".reset").exists():
                    del demo.cluster.tokens[token.id]

settings = load_settings({
    "host": "demo", "bearer_token": SecretStr(demo.bearer_token), "timeout": timedelta(seconds=0.3)
})
server = create_server([Profile(settings)], cluster_transport=httpx.ASGITransport(Told(create_app(demo.cluster), {})))
logging.getLogger().setLevel(logging.DEBUG)
anyio.run(serve, server, Shutdown(settings.timeout))
"""
LEGACY_HANDSHAKE: list[dict[str, Any]] = [
    {
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "t", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
]

_SIMILAR_FAULT_PREFIXES = ("page-40", "page-41", "page-42", "page-45", "page-50", "bare-")
OTHER_CALLS: list[tuple[str, dict[str, object]]] = [
    ("get_access_token", {}),
    ("update_access_token", {"enabled": False}),
    ("audit_access_tokens", {}),
    ("export_access_tokens", {"format": "csv"}),
    ("delete_access_token", {}),
]


class LoggingServer:
    """A server in a child process, and all that it wrote."""

    def __init__(self, folder: Path, *, modern: bool, **settings: str) -> None:
        self.plan, self.secrets, self.keyring = (
            folder / name for name in ("plan.json", "secrets.json", "keyring.json")
        )
        self.plan.write_text("{}")
        self.keyring.write_text("{}")
        self.state = folder / "state"
        self.modern = modern
        self.frames: list[bytes] = []
        self.number = 0
        self.asked = 0
        self.errors = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD_SCRIPT, str(self.plan), str(self.secrets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "XDG_STATE_HOME": str(self.state), "FILE_KEYRING": str(self.keyring), **settings},
        )
        if not modern:
            self.send(LEGACY_HANDSHAKE[0])
            self.receive()
            self.send(LEGACY_HANDSHAKE[1])

    def send(self, message: dict[str, Any]) -> None:
        """Send a frame."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the answer to the last request; agree to each question before, and skip cancelled answers."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            self.frames.append(line)
            frame: dict[str, Any] = json.loads(line)
            if frame.get("method") == "elicitation/create":
                self.asked += 1
                self.send({"id": frame["id"], "result": {"action": "accept", "content": {"agree": True}}})
            elif frame.get("id") == self.number:
                return frame

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool, and return the result."""
        self.ask(tool, **arguments)
        result: dict[str, Any] = self.receive()["result"]
        return result

    def ask(self, tool: str, **arguments: object) -> None:
        """Call a tool without waiting for the result."""
        self.number += 1
        params: dict[str, Any] = {"name": tool, "arguments": arguments} | (
            {"_meta": REQUEST_META} if self.modern else {}
        )
        self.send({"id": self.number, "method": "tools/call", "params": params})

    def cancel(self) -> None:
        """Cancel the last call, which then gets no answer."""
        self.send({"method": "notifications/cancelled", "params": {"requestId": self.number}})

    def end(self) -> bytes:
        """Close stdin, wait until the server has ended, and return its stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.frames.append(self.process.stdout.read())
        assert self.process.wait(TIMEOUT_SECONDS) == 0
        self.process.stdout.close()
        self.errors.seek(0)
        answer = self.errors.read()
        self.errors.close()
        return answer


@pytest.mark.parametrize(
    ("modern", "how"),
    [
        pytest.param(True, ("file", "none", "sqlite"), id="2026-07-28-file"),
        pytest.param(True, ("keyring", "none", "sqlite"), id="2026-07-28-keyring"),
        pytest.param(True, ("inline", "none", "postgresql"), id="2026-07-28-inline-postgresql"),
        pytest.param(False, ("file", "all", "sqlite"), id="2025-11-25-file-asked"),
        pytest.param(False, ("file", "all", "postgresql"), id="2025-11-25-file-asked-postgresql"),
    ],
)
def test_no_secret_leaves_the_process_but_to_its_destination(
    postgres_server: str, tmp_path: Path, modern: bool, how: tuple[str, str, str]
) -> None:
    delivery, confirm, database = how
    is_shared = database == "postgresql"
    url = create_database(postgres_server) if is_shared else None
    state = StateSettings(state_dir=tmp_path / "state" / "qumulo-token-tools", state_url=url)
    server = LoggingServer(
        tmp_path,
        modern=modern,
        QUMULO_DELIVERY=delivery,
        QUMULO_CONFIRM=confirm,
        QUMULO_MAX_CHANGES="0",
        **state_environment(state),
    )
    every: list[Endpoint] = ["who-am-i", "find", "list", "list-again", "create", "get", "modify", "delete"]
    # Endpoints that do not depend on the destination are tested with one destination only.
    endpoints: list[Endpoint] = every if modern and delivery == "file" else ["create", "delete"]
    # Of the many error pages of a gateway, a few stand for all: their answers are alike.
    faults = [fault for fault in get_args(Fault) if not fault.startswith(_SIMILAR_FAULT_PREFIXES)]
    cells: list[dict[Endpoint, Fault]] = [{}, *({endpoint: fault} for endpoint in endpoints for fault in faults)]
    made: list[dict[str, Any]] = []
    some = server.call("list_access_tokens")["structuredContent"]["tokens"][0]["id"]
    for cell in cells:
        server.plan.write_text(json.dumps(cell))
        server.plan.with_suffix(".reset").touch()
        server.call("list_access_tokens", user="local:metrics")
        server.plan.with_suffix(".reset").unlink()
        results = [server.call("create_access_token", user=user) for user in ("local:metrics", "self")]
        token_id = next((one["structuredContent"]["id"] for one in results if not one.get("isError")), some)
        results.append(server.call("rotate_access_token", id=token_id))
        made += [one["structuredContent"] for one in results if not one.get("isError")]
        for tool, arguments in OTHER_CALLS:
            server.call(tool, **({} if tool == "audit_access_tokens" else {"id": token_id}), **arguments)
        if cell in ({}, {"create": "hang-after"}):
            server.ask("create_access_token", user="local:metrics")
            server.cancel()
    at_work = {file.name: file.read_bytes() for file in state.state_dir.glob("state.db*")}
    errors = server.end()

    secrets: list[str] = json.loads(server.secrets.read_text())
    tokens = [*server.state.rglob("tokens/*.json")]
    kept = {
        "file": [json.loads(file.read_text())["bearer_token"] for file in tokens],
        "keyring": [*json.loads(server.keyring.read_text()).values()],
        "inline": [one.get("bearer_token", "") for one in made],
    }
    assert {*kept[delivery]} <= {*secrets}
    assert len(kept[delivery]) >= len(made) > 5
    assert [way for way, there in kept.items() if any(there)] == [delivery]
    assert (server.asked > 0) is (confirm == "all")
    assert b"DEBUG" in errors
    frames = b"".join(server.frames)
    if delivery == "inline":
        # The answer to a create has the secret once in its text and once in its fields.
        for bearer_token in kept["inline"]:
            assert frames.count(bearer_token.encode()) == 2
            frames = frames.replace(bearer_token.encode(), b"")
    assert find_secrets(frames, secrets) == []
    assert find_secrets(errors, secrets) == []
    assert at_work.keys() == (set() if is_shared else {"state.db", "state.db-wal", "state.db-shm"})
    entries = read_record(state)
    assert {"created", "unknown"} <= {entry["outcome"] for entry in entries}
    for written in (*at_work.values(), json.dumps(entries).encode()):
        assert find_secrets(written, secrets) == []
    for file in server.state.rglob("*"):
        assert find_secrets(str(file).encode(), secrets) == []
        assert not file.is_file() or file in tokens or find_secrets(file.read_bytes(), secrets) == []
