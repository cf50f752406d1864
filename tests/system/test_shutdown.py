"""Test that a process which ends, except by SIGKILL, first finishes what it began, within the documented bound."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.harness import ADMIN, JANE
from tests.support.json_rpc import create_call
from tests.support.processes import find_processes, make_argument
from tests.support.record import state_file
from tests.support.server_process import (
    CREATE_REQUEST,
    BeforeServing,
    ServedCluster,
    ServerProcess,
    Streams,
    assert_no_token_is_lost,
    running_server,
    served_cluster,
)
from tests.support.signals import HARMLESS_SIGNALS, KILL_SIGNALS, STOP_SIGNALS, format_signal
from tests.support.waiting import MAX_PAUSES, PAUSE_SECONDS
from token_tools.cli.serve import WAITING
from token_tools.sandbox.faults import Endpoint, Fault
from token_tools.shutdown import CLEANUP_TIMEOUT

pytestmark = pytest.mark.slow

EndAction = Callable[[ServerProcess], None]

SLACK_SECONDS = 2
"""Seconds by which a busy machine may exceed a bound."""

ENDING_SIGNALS = [
    signum
    for signum in sorted(signal.valid_signals())
    if format_signal(signum) not in KILL_SIGNALS | HARMLESS_SIGNALS | STOP_SIGNALS and signum <= signal.SIGRTMIN
]
"""The signals that end a process, with one real-time signal for all of them."""


def send_signals(*signums: int) -> EndAction:
    """Return an action that sends these signals, 100 ms apart; none ends the process during a change."""

    def end(server: ServerProcess) -> None:
        for signum in signums:
            server.process.send_signal(signum)
            assert server.is_running_after(0.1)

    return end


def close_stdin(server: ServerProcess) -> None:
    server.close(server.stdin_fd)


def close_stdout(server: ServerProcess) -> None:
    server.close(server.stdout_fd)


def close_all_streams(server: ServerProcess) -> None:
    server.close(server.stdin_fd, server.stdout_fd)


def close_stdin_and_signal(server: ServerProcess) -> None:
    server.close(server.stdin_fd)
    assert server.is_running_after(0.1)
    send_signals(signal.SIGTERM, signal.SIGHUP)(server)


END_ACTIONS: list[object] = [
    *(pytest.param(send_signals(signum), "pipes", id=format_signal(signum)) for signum in ENDING_SIGNALS),
    pytest.param(send_signals(signal.SIGINT, signal.SIGTERM), "pipes", id="SIGINT-SIGTERM"),
    pytest.param(send_signals(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM), "pipes", id="SIGTERM-three-times"),
    pytest.param(send_signals(signal.SIGHUP, signal.SIGCONT, signal.SIGQUIT), "pipes", id="SIGHUP-SIGCONT-SIGQUIT"),
    pytest.param(close_stdin, "pipes", id="end-of-stdin"),
    pytest.param(close_stdout, "pipes", id="nobody-reads"),
    pytest.param(close_all_streams, "pipes", id="client-dies"),
    pytest.param(close_stdin_and_signal, "pipes", id="end-of-stdin-SIGTERM-SIGHUP"),
    pytest.param(close_all_streams, "terminal", id="terminal-closed"),
    pytest.param(close_stdin, "terminal-and-pipe", id="terminal-of-stdin-closed"),
    pytest.param(send_signals(signal.SIGINT, signal.SIGHUP), "terminal", id="signals-in-a-terminal"),
]


@pytest.mark.parametrize(("end", "over"), END_ACTIONS)
def test_a_change_that_was_begun_is_finished_before_the_end(end: EndAction, over: Streams, tmp_path: Path) -> None:
    with served_cluster(tmp_path) as cluster, running_server(cluster, streams=over) as server:
        cluster.before_serving = cluster.hold_creates
        server.send(create_call(2, "create_access_token", user="local:jane"))
        cluster.wait_for(CREATE_REQUEST)
        end(server)
        assert server.is_running_after(0.1)
        cluster.creates_released.set()

        assert server.wait_for_exit() == (0, "" if over == "pipes" else WAITING)
        [token] = cluster.cluster.tokens.of_user(JANE.auth_id)
        assert cluster.read_delivered() == {token.id: token.bearer_token}
        assert cluster.read_outcomes() == ["created"]


def test_a_command_that_hangs_is_killed_in_time_and_its_token_deleted_again(tmp_path: Path) -> None:
    program, argument = tmp_path / "vault", make_argument()
    program.write_text(f"#!/bin/sh\nsetsid sleep {argument} &\nexec sleep {argument}\n")
    program.chmod(0o755)
    with (
        served_cluster(tmp_path) as cluster,
        running_server(
            cluster, QUMULO_DELIVERY="command", QUMULO_DELIVERY_COMMAND=str(program), QUMULO_TIMEOUT="6s"
        ) as server,
    ):
        server.send(create_call(2, "create_access_token", user="local:jane"))
        for _ in range(MAX_PAUSES):
            if len(find_processes(argument)) == 2:
                break
            time.sleep(PAUSE_SECONDS)
        server.process.send_signal(signal.SIGTERM)

        assert server.wait_for_exit() == (0, "")
        assert find_processes(argument) == []
        assert cluster.cluster.tokens.of_user(JANE.auth_id) == []
        assert cluster.read_outcomes() == ["rolled back"]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_was_ignored_from_the_start_still_is(signum: signal.Signals, tmp_path: Path) -> None:
    wrapper = f"env --ignore-signal={signum.name.removeprefix('SIG')}"
    with served_cluster(tmp_path) as cluster, running_server(cluster, wrapper=wrapper) as server:
        server.process.send_signal(signum)
        server.send({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        assert b'"id":2' in server.read_line()
        server.process.send_signal(signal.SIGTERM)

        assert server.wait_for_exit() == (0, "")


def test_signals_without_a_pause_end_it_as_one_does(tmp_path: Path) -> None:
    with served_cluster(tmp_path) as cluster, running_server(cluster) as server:
        deadline = time.monotonic() + SLACK_SECONDS
        while server.process.poll() is None and time.monotonic() < deadline:
            for signum in ENDING_SIGNALS:
                server.process.send_signal(signum)

        status, answer = server.wait_for_exit()
        assert status == 0
        # A signal can arrive while Python replaces its handlers; Python then prints this warning.
        assert not answer or "ignored due to race condition" in answer


HANGING_ENDPOINTS: list[Endpoint] = ["who-am-i", "find", "list", "get", "create", "modify", "delete"]
FAULT_PLANS_OF_HANGS: list[dict[Endpoint, Fault]] = [
    dict.fromkeys(HANGING_ENDPOINTS, "hang-after"),
    {"create": "hang-after", "list": "endless"},
    {"create": "hang-after", "list": "foreign"},
    {"get": "hang-after", "who-am-i": "busy", "delete": "hang-after"},
    {"create": "no-json", "list": "hang-after"},
]


@pytest.mark.parametrize("trouble", FAULT_PLANS_OF_HANGS, ids=["hangs", "endless", "foreign", "busy", "no-json"])
def test_whatever_the_cluster_does_the_end_comes_within_its_bound(
    trouble: dict[Endpoint, Fault], tmp_path: Path
) -> None:
    """Every request after the POST of a rotate fails; the journal has all that may be left."""
    with served_cluster(tmp_path) as cluster, running_server(cluster, QUMULO_TIMEOUT="2s") as server:
        old = cluster.cluster.add_token(JANE.auth_id, creator=ADMIN.auth_id)
        cluster.before_serving = cluster.hold_creates
        server.send(create_call(2, "rotate_access_token", id=old.id))
        cluster.wait_for(CREATE_REQUEST)
        cluster.faults.plan.update(trouble)
        cluster.creates_released.set()
        asked_at = time.monotonic()
        server.process.terminate()

        assert server.wait_for_exit() == (0, "")
        assert time.monotonic() - asked_at < 2 + SLACK_SECONDS
        [new] = [token for token in cluster.cluster.tokens.of_user(JANE.auth_id) if token.id != old.id]
        assert_no_token_is_lost(cluster, {new.id})


def lock_at(locking: str, cluster: ServedCluster, cleanup: ExitStack) -> BeforeServing:
    """Return what locks the database when the cluster gets this request, until the stack is closed."""

    async def lock(request: str) -> None:
        if request == locking:
            file = state_file(cluster.state_folder)
            holder = cleanup.enter_context(
                closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False))
            )
            holder.execute("BEGIN IMMEDIATE")

    return lock


def test_what_was_not_sent_before_the_time_was_over_is_told_as_not_done(tmp_path: Path) -> None:
    """Another process locks the database for longer than the requests may take."""
    with (
        served_cluster(tmp_path) as cluster,
        running_server(cluster, QUMULO_TIMEOUT="1s") as server,
        ExitStack() as lock,
    ):
        token = cluster.cluster.add_token(JANE.auth_id, creator=ADMIN.auth_id)
        look = f"GET /v1/auth/access-tokens/{token.id}"
        cluster.before_serving = lock_at(look, cluster, lock)
        server.send(create_call(2, "update_access_token", id=token.id, enabled=False))
        cluster.wait_for(look)
        assert server.is_running_after(1)
        server.process.terminate()
        assert server.is_running_after(1.5)
        lock.close()

        assert server.wait_for_exit() == (0, "")
        assert cluster.read_outcomes() == ["not done"]
        assert cluster.cluster.tokens[token.id].enabled


HANG_SCRIPT = """
import os, pathlib, threading
really = os.{name}
def hang(*arguments):
    if pathlib.Path({flag!r}).exists():
        threading.Event().wait()
    return really(*arguments)
os.{name} = hang
"""


@pytest.mark.parametrize(("timeout", "outcome"), [("8s", "rolled back"), ("1s", "undeletable")])
def test_a_token_that_cannot_be_delivered_before_the_end_is_deleted_again_or_told(
    timeout: str, outcome: str, tmp_path: Path
) -> None:
    """The keyring hangs when the token has been created."""
    for name in ("path", "home"):
        (tmp_path / name).mkdir()
    flag = tmp_path / "hang"
    (tmp_path / "path" / "keyring.py").write_text(
        f"""
import pathlib, sys, threading
kept = {{}}
def set_password(service, name, secret):
    if pathlib.Path({str(flag)!r}).exists():
        sys.stderr.write("hangs\\n")
        threading.Event().wait()
    kept[name] = secret
get_password = lambda service, name: kept.get(name)
delete_password = lambda service, name: kept.pop(name)
"""
    )
    path = str(tmp_path / "path")
    with (
        served_cluster(tmp_path / "home") as cluster,
        running_server(cluster, PYTHONPATH=path, QUMULO_DELIVERY="keyring", QUMULO_TIMEOUT=timeout) as server,
    ):
        cluster.before_serving = cluster.hold_creates
        server.send(create_call(2, "create_access_token", user="local:jane"))
        cluster.wait_for(CREATE_REQUEST)
        flag.touch()
        cluster.creates_released.set()
        server.read_stderr(until="hangs")
        server.process.terminate()

        assert server.wait_for_exit() == (0, "")
        assert cluster.read_outcomes() == [outcome]
        assert len(cluster.cluster.tokens.of_user(JANE.auth_id)) == (outcome == "undeletable")


def test_a_disk_that_hangs_does_not_hold_up_the_end_longer_than_is_told(tmp_path: Path) -> None:
    for name in ("path", "home"):
        (tmp_path / name).mkdir()
    flag = tmp_path / "hang"
    (tmp_path / "path" / "sitecustomize.py").write_text(HANG_SCRIPT.format(name="fsync", flag=str(flag)))
    with (
        served_cluster(tmp_path / "home") as cluster,
        running_server(cluster, PYTHONPATH=str(tmp_path / "path"), QUMULO_TIMEOUT="1s") as server,
    ):
        cluster.before_serving = cluster.hold_creates
        server.send(create_call(2, "create_access_token", user="local:jane"))
        cluster.wait_for(CREATE_REQUEST)
        flag.touch()
        cluster.creates_released.set()
        asked_at = time.monotonic()
        server.process.terminate()

        assert server.wait_for_exit() == (0, "")
        assert time.monotonic() - asked_at < 1 + CLEANUP_TIMEOUT.total_seconds() + SLACK_SECONDS
        assert cluster.read_outcomes() == ["undeletable"]
        assert_no_token_is_lost(cluster, {token.id for token in cluster.cluster.tokens.of_user(JANE.auth_id)})


def test_a_database_that_hangs_does_not_hold_up_the_end_longer_than_is_told(tmp_path: Path) -> None:
    with (
        served_cluster(tmp_path) as cluster,
        running_server(cluster, QUMULO_TIMEOUT="1s") as server,
        closing(sqlite3.connect(":memory:", isolation_level=None)) as holder,
    ):
        cluster.before_serving = cluster.hold_creates
        server.send(create_call(2, "create_access_token", user="local:jane"))
        cluster.wait_for(CREATE_REQUEST)
        holder.execute("ATTACH ? AS state", [str(state_file(cluster.state_folder))])
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("UPDATE state.state SET probed = 'x'")
        cluster.creates_released.set()
        asked_at = time.monotonic()
        server.process.terminate()

        status, answer = server.wait_for_exit()
        assert time.monotonic() - asked_at < 1 + CLEANUP_TIMEOUT.total_seconds() + SLACK_SECONDS
        assert status in {0, 1}
        assert "another process holds it" in answer or "Something still hangs" in answer
        holder.execute("ROLLBACK")
        assert cluster.read_outcomes() == ["intended"]
        assert len(cluster.read_delivered()) == 1


def test_whatever_hangs_for_longer_than_was_told_is_given_up() -> None:
    """The event loop itself is held up, which nothing of ours does and a library might."""
    script = """
import datetime, signal
from token_tools.shutdown import Shutdown
Shutdown(datetime.timedelta()).begin()
signal.pause()
"""

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=SLACK_SECONDS * 4, check=False
    )

    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "Something still hangs 5 s after the end was asked for, and is given up." in ended.stderr
