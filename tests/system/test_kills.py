"""Test a server that is killed (SIGKILL) at each step of a create: the record shows each secret that is lost.

The child process counts its operations on the file system, on the database and on the cluster, and kills itself at the
n-th one; n grows until a create succeeds. The cluster runs in the parent, behind HTTPS, and survives.
"""

import json
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.support.harness import JANE
from tests.support.one_call import create_one, list_all
from tests.support.record import end_leases, read_outcomes
from tests.support.replica_process import Kill, start_forked
from tests.support.server_process import ServedCluster, served_cluster
from token_tools.settings import StateSettings

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60
USER = "local:jane"


def run_child(cluster: ServedCluster, run: Callable[[], int], *, kill: Kill | None = None) -> bool:
    """Run a function as another server on this cluster; tell whether it was killed."""
    log = find_log(cluster)
    process = start_forked(run, cluster.create_environment(COLUMNS="1000", QUMULO_MAX_CHANGES="0"), log, kill=kill)
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode in {-signal.SIGKILL, 0}, log.read_text()
    return process.exitcode != 0


def find_log(cluster: ServedCluster) -> Path:
    """Return the file that the last server has written to."""
    return cluster.folder / "log"


def list_ids(cluster: ServedCluster) -> set[str]:
    return {token.id for token in cluster.cluster.tokens.of_user(JANE.auth_id)}


def test_a_kill_at_any_step_loses_nothing_unsaid(tmp_path: Path, state: StateSettings) -> None:
    with served_cluster(tmp_path, state_url=state.state_url) as cluster:
        # The first steps make the database. They are as many as those of a create, and hide them.
        at_first, later = kill_at_each_step(cluster), kill_at_each_step(cluster)
    assert len(at_first) > 15
    assert len(later) > 15
    assert {*later} == {"nothing was lost", "lost and told", "recovered", "survived"}


def kill_at_each_step(cluster: ServedCluster) -> list[str]:
    """Let servers create tokens and kill them, each one step later, until one survives; return what came of each."""
    ends = list[str]()
    while "survived" not in ends:
        ends.append(create_and_kill(cluster, len(ends) + 1))
    return ends


def create_and_kill(cluster: ServedCluster, steps: int) -> str:
    """Kill a server at this step of a create, if it has so many; return what came of it, and leave no token."""
    armed, tokens_folder = cluster.folder / "armed", cluster.state_folder / "tokens"
    entries = len(read_new_outcomes(cluster.state, 0))

    is_killed = run_child(cluster, partial(create_one, USER, armed), kill=Kill(steps, armed))

    armed.unlink(missing_ok=True)
    new, outcomes = list_ids(cluster), read_new_outcomes(cluster.state, entries)
    delivered = read_delivered(cluster, tokens_folder)
    end = "nothing was lost" if is_killed else "survived"
    assert delivered <= new
    # If a token's secret is lost, there is an intent without an outcome.
    if new - delivered:
        assert outcomes == ["intended"]
    if not is_killed:
        assert (new, outcomes) == (delivered, ["created"])
    elif new or outcomes or any(tokens_folder.glob(".pending-*")):
        end = check_next_start(cluster, new - delivered) or end
    for token_id in new:
        del cluster.cluster.tokens[token_id]
    for file in tokens_folder.glob("*.json"):
        file.unlink()
    return end


def read_new_outcomes(state: StateSettings, count: int) -> list[str]:
    """Read the outcomes after the first `count`; a database that was killed at its creation has none."""
    try:
        return read_outcomes(state)[count:]
    except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):
        return []


def read_delivered(cluster: ServedCluster, folder: Path) -> set[str]:
    """Return the ids of the tokens in files with a final name; each file is whole, and its token works."""
    files = [file for file in folder.glob("*.json") if not file.name.startswith("recovered-")]
    kept = {file.stem.rpartition("_")[2]: json.loads(file.read_text())["bearer_token"] for file in files}
    assert kept == {token_id: cluster.cluster.tokens[token_id].bearer_token for token_id in kept}
    return {*kept}


def check_next_start(cluster: ServedCluster, lost: set[str]) -> str | None:
    """Check that the next server tells what is lost, or recovers it from a pending file; return which it did."""
    if read_new_outcomes(cluster.state, 0):
        end_leases(cluster.state)
    answer = cluster.folder / "answer"
    assert not run_child(cluster, partial(list_all, USER, answer))
    told, logged = answer.read_text(), find_log(cluster).read_text()
    folder = cluster.state_folder / "tokens"
    recovered = [*folder.glob("recovered-*.json")]
    assert not [*folder.glob(".pending-*")]
    assert all(str(file) in logged for file in recovered)
    found = {file.stem.rpartition("_")[2] for file in recovered}
    assert found <= lost
    for token_id in lost - found:
        assert f"Unfinished: the create for {USER}" in told, told
        assert token_id in told
    return "recovered" if found else "lost and told" if lost else None
