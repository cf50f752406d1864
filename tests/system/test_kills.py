"""A server killed (SIGKILL) at each step of a create: no secret is lost without the journal saying so.

The child process counts what it does to the file system and to the cluster, and kills itself at the n-th of these
steps; n goes up until a create comes through. The cluster lives in the parent, behind HTTPS, and survives.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.journal_file import read_journal
from tests.support.sandbox_process import SandboxProcess

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60
USER = "local:snapshot-mover"
CHILD_SCRIPT = """
import os, signal, sys, anyio
from mcp.client import Client
from token_tools.server.app import create_server
from token_tools.settings import load_settings

left = int(sys.argv[1])
armed = False

def count(event, args):
    global left
    ours = armed and (
        event in {"os.rename", "os.remove", "os.truncate", "os.link", "socket.connect"}
        or (event == "open" and isinstance(args[0], (str, int)) and str(args[0]).split("/")[-1][:1] in ".j0123456789"
            and args[2] & (os.O_WRONLY | os.O_RDWR))
    )
    if ours:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)

async def main():
    global armed
    async with Client(create_server(load_settings({}))) as client:
        await client.call_tool("list_access_tokens", {"user": sys.argv[2]})
        armed = True
        result = await client.call_tool("create_access_token", {"user": sys.argv[2]})
        armed = False
        return 3 if result.is_error else 0

sys.exit(anyio.run(main))
"""


def create_and_kill_at(sandbox: SandboxProcess, step: int, state: Path) -> int:
    """Let a child create a token, kill it at this step if it gets there, and return its status."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD_SCRIPT, str(step), USER],
        env=create_environment(sandbox, state),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert child.returncode in {-9, 0}, child.stderr
    return child.returncode


def restart_server(sandbox: SandboxProcess, state: Path) -> str:
    """Start a server after another was killed, end it at once, and return its stderr."""
    env = create_environment(sandbox, state)
    command = [sys.executable, "-m", "token_tools"]
    answer = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
    )
    return answer.stderr


def create_environment(sandbox: SandboxProcess, state: Path) -> dict[str, str]:
    names = ("QUMULO_HOST", "QUMULO_PORT", "QUMULO_CA_FILE", "QUMULO_BEARER_TOKEN")
    return {name: sandbox.settings[name] for name in names} | {"XDG_STATE_HOME": str(state), "HOME": str(state)}


def test_a_kill_at_any_step_loses_nothing_unsaid(sandbox: SandboxProcess, tmp_path: Path) -> None:
    steps = 0
    while True:
        steps += 1
        state = tmp_path / str(steps)
        state.mkdir()
        before = set(sandbox.run_sdk(f"[e.id for page in tokens.list(Identity({USER!r})) for e in page.entries]"))

        ended = create_and_kill_at(sandbox, steps, state)

        after = set(sandbox.run_sdk(f"[e.id for page in tokens.list(Identity({USER!r})) for e in page.entries]"))
        new, journal = after - before, read_journal(state / "qumulo-token-tools")
        files = [*(state / "qumulo-token-tools" / "tokens").glob("*.json")]
        kept = {file.stem.rpartition("_")[2]: json.loads(file.read_text())["bearer_token"] for file in files}
        # Every file with a name is whole, and its token is on the cluster.
        assert kept.keys() <= new
        for token_id, bearer_token in kept.items():
            assert sandbox.run_sdk("client.auth.who_am_i()", bearer_token=bearer_token)["access_token_id"] == token_id
        # If the secret of a token is lost, the journal has the attempt as begun and not finished.
        if new - kept.keys():
            assert [line["result"] for line in journal] == ["intended"]
            assert journal[0]["user"] == USER
        for token_id in new:
            sandbox.run_sdk(f"tokens.delete({token_id!r})")
        # The next start cleans up: it reports what was begun, and leaves no pending file.
        if ended != 0:
            answer = restart_server(sandbox, state)
            assert ("was begun and has no outcome" in answer) == ([line["result"] for line in journal] == ["intended"])
            assert not [*(state / "qumulo-token-tools" / "tokens").glob(".pending-*")]
            recovered = [*(state / "qumulo-token-tools" / "tokens").glob("recovered-*.json")]
            assert all(str(file) in answer for file in recovered)
            assert {file.stem.rpartition("_")[2] for file in recovered} <= new
            assert len(kept) + len(recovered) <= len(new)
        if ended == 0:
            assert (len(new), len(kept)) == (1, 1)
            assert [line["result"] for line in journal] == ["intended", "created"]
            break
    assert steps > 5
