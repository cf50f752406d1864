"""Test a server that is killed (SIGKILL) at each step of a create: the record shows each secret that is lost.

The child process counts its operations on the file system, on the database and on the cluster, and kills itself at the
n-th one; n grows until a create succeeds. The cluster runs in the parent, behind HTTPS, and survives.
"""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.record import end_leases, read_outcomes, state_environment
from tests.support.sandbox_process import SandboxProcess
from token_tools.settings import StateSettings

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60
USER = "local:snapshot-mover"
CREATE_SCRIPT = """
import os, signal, sys, threading, anyio
from mcp.client import Client
from token_tools.server.app import create_server
from token_tools.configuration import load_profiles

left = int(sys.argv[1])
armed = False

def count_step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def count_files(event, args):
    ours = armed and (
        event in {"os.rename", "os.remove", "os.truncate", "os.link", "socket.connect"}
        or (event == "open" and isinstance(args[0], (str, int)) and str(args[0]).split("/")[-1][:1] in ".j0123456789"
            and args[2] & (os.O_WRONLY | os.O_RDWR))
    )
    if ours:
        count_step()

def count_statements(frame, event, arg):
    is_ours = frame.f_code.co_name == "execute" and "token_tools" in frame.f_code.co_filename
    # Between two statements that only read, nothing changes that a kill could spoil.
    if armed and event == "call" and is_ours and not frame.f_locals["statement"].startswith(("SELECT", "SET")):
        count_step()

sys.addaudithook(count_files)
threading.setprofile(count_statements)

async def main():
    global armed
    async with Client(create_server(load_profiles({}))) as client:
        await client.call_tool("list_access_tokens", {"user": sys.argv[2]})
        armed = True
        result = await client.call_tool("create_access_token", {"user": sys.argv[2]})
        armed = False
        return 3 if result.is_error else 0

sys.exit(anyio.run(main))
"""
LIST_SCRIPT = """
import sys, anyio
from mcp.client import Client
from token_tools.server.app import create_server
from token_tools.configuration import load_profiles

async def main():
    async with Client(create_server(load_profiles({}))) as client:
        print((await client.call_tool("list_access_tokens", {"user": sys.argv[1]})).content[0].text)

anyio.run(main)
"""


def run_child(
    sandbox: SandboxProcess, state: StateSettings, script: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as another server on this database."""
    names = ("QUMULO_HOST", "QUMULO_PORT", "QUMULO_CA_FILE", "QUMULO_BEARER_TOKEN")
    own = {name: sandbox.settings[name] for name in names} | {"HOME": str(state.state_dir.parent), "COLUMNS": "1000"}
    child = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | own | state_environment(state),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert child.returncode in {-9, 0}, child.stderr
    return child


def list_ids(sandbox: SandboxProcess) -> set[str]:
    return set(sandbox.run_sdk(f"[e.id for page in tokens.list(Identity({USER!r})) for e in page.entries]"))


def test_a_kill_at_any_step_loses_nothing_unsaid(sandbox: SandboxProcess, state: StateSettings) -> None:
    tokens_folder = state.state_dir / "tokens"
    steps, is_killed, before = 0, True, list_ids(sandbox)
    while is_killed:
        steps += 1
        entries = len(read_new_outcomes(state, 0))

        is_killed = run_child(sandbox, state, CREATE_SCRIPT, str(steps), USER).returncode != 0

        new, outcomes = list_ids(sandbox) - before, read_new_outcomes(state, entries)
        delivered = read_delivered(sandbox, tokens_folder)
        assert delivered <= new
        # If a token's secret is lost, there is an intent without an outcome.
        if new - delivered:
            assert outcomes == ["intended"]
        if not is_killed:
            assert (new, outcomes) == (delivered, ["created"])
        elif new or outcomes or any(tokens_folder.glob(".pending-*")):
            check_next_start(sandbox, state, new - delivered)
        for token_id in new:
            sandbox.run_sdk(f"tokens.delete({token_id!r})")
        for file in tokens_folder.glob("*.json"):
            file.unlink()
    assert steps > 15


def read_new_outcomes(state: StateSettings, count: int) -> list[str]:
    """Read the outcomes after the first `count`; a database that was killed at its creation has none."""
    try:
        return read_outcomes(state)[count:]
    except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):
        return []


def read_delivered(sandbox: SandboxProcess, folder: Path) -> set[str]:
    """Return the ids of the tokens in files with a final name; each file is whole, and its token works."""
    files = [file for file in folder.glob("*.json") if not file.name.startswith("recovered-")]
    kept = {file.stem.rpartition("_")[2]: json.loads(file.read_text())["bearer_token"] for file in files}
    for token_id, bearer_token in kept.items():
        assert sandbox.run_sdk("client.auth.who_am_i()", bearer_token=bearer_token)["access_token_id"] == token_id
    return {*kept}


def check_next_start(sandbox: SandboxProcess, state: StateSettings, lost: set[str]) -> None:
    """Check that the next server tells what is lost, and recovers what a pending file still has."""
    if read_new_outcomes(state, 0):
        end_leases(state)
    restarted = run_child(sandbox, state, LIST_SCRIPT, USER)
    folder = state.state_dir / "tokens"
    recovered = [*folder.glob("recovered-*.json")]
    assert not [*folder.glob(".pending-*")]
    assert all(str(file) in restarted.stderr for file in recovered)
    found = {file.stem.rpartition("_")[2] for file in recovered}
    assert found <= lost
    for token_id in lost - found:
        assert f"Unfinished: the create for {USER}" in restarted.stdout, restarted.stdout
        assert token_id in restarted.stdout
