"""Every tool through every failure, as a child process over stdio with all its logging on, and a search for secrets.

Searched is every byte that leaves the process: the frames on stdout, stderr with the logs of every library at DEBUG,
and the files, but for the one file of each token where its secret belongs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.secrets import find_secrets
from token_tools.sandbox.faults import Endpoint, Fault

PATIENCE = 120
CHILD = """
import json, logging, sys, pathlib, anyio, httpx, stamina
from datetime import timedelta
from pydantic import SecretStr
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.sandbox.faults import Faults
from token_tools.server import create_server
from token_tools.settings import load_settings
from token_tools.stdio import serve
from token_tools.times import utc_now

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
    "host": "demo", "bearer_token": SecretStr(demo.bearer_token), "timeout": timedelta(seconds=0.3), "confirm": "none"
})
server = create_server(settings, transport=httpx.ASGITransport(Told(create_app(demo.cluster), {})))
logging.getLogger().setLevel(logging.DEBUG)
anyio.run(serve, server)
"""
LEGACY: list[dict[str, Any]] = [
    {
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    },
    {"method": "notifications/initialized"},
]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Server:
    """The child, and all that it wrote."""

    def __init__(self, folder: Path, *, modern: bool) -> None:
        self.plan, self.secrets = folder / "plan.json", folder / "secrets.json"
        self.plan.write_text("{}")
        self.state = folder / "state"
        self.modern = modern
        self.frames = b""
        self.errors = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.plan), str(self.secrets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "XDG_STATE_HOME": str(self.state)},
        )
        if not modern:
            self.send(LEGACY[0])
            self.receive()
            self.send(LEGACY[1])

    def send(self, message: dict[str, Any]) -> None:
        """One frame."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """One frame."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.frames += line
        frame: dict[str, Any] = json.loads(line)
        return frame

    def call(self, number: int, tool: str, user: str) -> str:
        """One tool call, and the text of its result."""
        params: dict[str, Any] = {"name": tool, "arguments": {"user": user}}
        self.send({"id": number, "method": "tools/call", "params": params | ({"_meta": META} if self.modern else {})})
        text: str = self.receive()["result"]["content"][0]["text"]
        return text

    def end(self) -> bytes:
        """Let it end, and give what it wrote to stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.frames += self.process.stdout.read()
        assert self.process.wait(PATIENCE) == 0
        self.process.stdout.close()
        self.errors.seek(0)
        told = self.errors.read()
        self.errors.close()
        return told


@pytest.mark.parametrize("modern", [True, False], ids=["2026-07-28", "2025-11-25"])
def test_no_secret_leaves_the_process_but_to_its_destination(tmp_path: Path, modern: bool) -> None:
    server = Server(tmp_path, modern=modern)
    endpoints: tuple[Endpoint, ...] = ("who-am-i", "find", "list", "create", "get")
    faults: tuple[Fault, ...] = get_args(Fault)
    cells: list[dict[Endpoint, Fault]] = [{}, *({endpoint: fault} for endpoint in endpoints for fault in faults)]
    told: list[str] = []
    for number, cell in enumerate(cells, start=1):
        server.plan.write_text(json.dumps(cell))
        server.plan.with_suffix(".reset").touch()
        told.append(server.call(3 * number, "list_access_tokens", "local:metrics"))
        server.plan.with_suffix(".reset").unlink()
        told.append(server.call(3 * number + 1, "create_access_token", "local:metrics"))
        told.append(server.call(3 * number + 2, "create_access_token", "self"))
    errors = server.end()

    secrets: list[str] = json.loads(server.secrets.read_text())
    tokens = [*server.state.rglob("tokens/*.json")]
    delivered = [json.loads(file.read_text()) for file in tokens]
    assert sum(text.startswith("Created access token") for text in told) == len(delivered) > 20
    assert all(store.keys() == {"bearer_token", "version"} for store in delivered)
    assert {store["bearer_token"] for store in delivered} <= set(secrets)
    assert b"DEBUG" in errors
    assert find_secrets(server.frames, secrets) == []
    assert find_secrets(errors, secrets) == []
    for file in server.state.rglob("*"):
        assert find_secrets(str(file).encode(), secrets) == []
        assert not file.is_file() or file in tokens or find_secrets(file.read_bytes(), secrets) == []
