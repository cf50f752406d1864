"""Test a server that is ended at random times and in every way while the cluster fails."""

import random
import signal
from pathlib import Path
from typing import get_args

import anyio
import pytest

from tests.support.harness import ADMIN, LDAP_BOB
from tests.support.json_rpc import create_call
from tests.support.postgres import create_database
from tests.support.server_process import ServerProcess, Streams, assert_no_token_is_lost, running_server, served_cluster
from tests.support.signals import KILL_SIGNALS, STOP_SIGNALS, format_signal
from token_tools.cli.serve import WAITING
from token_tools.sandbox.faults import Endpoint, Fault

pytestmark = pytest.mark.slow


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test with as many seeds as the option `--storms` says."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(int(metafunc.config.getoption("--storms") or 0)))


STORM_CALLS: list[tuple[str, dict[str, str]]] = [
    *(("create_access_token", {"user": user}) for user in ("local:jane", "ldap_user:bob", "auth_id:21474836481")),
    ("rotate_access_token", {"id": "own"}),
    ("update_access_token", {"id": "own", "expiration_time": "10d"}),
    ("delete_access_token", {"id": "own"}),
    ("list_access_tokens", {}),
]
STORM_FAULTS: list[dict[Endpoint, Fault]] = [
    {},
    {},
    {"create": "cut-after"},
    {"create": "hang-after"},
    {"create": "half", "list-again": "cut-after"},
    {"get": "hang-after", "delete": "cut-after"},
    {"who-am-i": "busy"},
    {"list": "endless"},
]


def test_a_storm_of_signals_at_random_times_loses_nothing(seed: int, tmp_path: Path, postgres_server: str) -> None:
    """The calls of all kinds run at once, on a slow or failing cluster, while signals end the process.

    Every other storm has its record in PostgreSQL.
    """
    chance = random.Random(seed)
    over: Streams = chance.choice(get_args(Streams))
    state_url = create_database(postgres_server) if seed % 2 else None
    with (
        served_cluster(tmp_path, state_url=state_url) as cluster,
        running_server(cluster, streams=over, QUMULO_TIMEOUT="1s") as server,
    ):

        async def dawdle(_request: str) -> None:
            await anyio.sleep(chance.random() * 0.05)

        cluster.before_serving = dawdle
        old = cluster.cluster.add_token(LDAP_BOB.auth_id, creator=ADMIN.auth_id)
        before = {*cluster.cluster.tokens}
        cluster.faults.plan.update(chance.choice(STORM_FAULTS))
        for number, (tool, arguments) in enumerate(chance.sample(STORM_CALLS, chance.randint(1, 4)), 2):
            server.send(
                create_call(number, tool, **{name: old.id if one == "own" else one for name, one in arguments.items()})
            )
        server.is_running_after(chance.random() * 0.4)
        names = send_random_ends(chance, server)

        status, answer = server.wait_for_exit()
        assert "Traceback" not in answer
        assert_no_token_is_lost(cluster, {*cluster.cluster.tokens} - before)
        if not KILL_SIGNALS & names:
            assert (status, answer) == (0, "" if over == "pipes" else WAITING)
            assert "intended" not in cluster.read_outcomes()
        else:
            assert status <= 0


def send_random_ends(chance: random.Random, server: ServerProcess) -> set[str]:
    """Send random signals and close streams until the server has to end; return the names of the signals."""
    sent: set[str] = set()
    everything = [one for one in sorted(signal.valid_signals()) if format_signal(one) not in STOP_SIGNALS]
    gentle = [one for one in everything if format_signal(one) not in KILL_SIGNALS]
    for _ in range(chance.randint(1, 6)):
        match chance.randint(0, 9):
            case 0:
                server.close(server.stdin_fd)
            case 1:
                server.close(server.stdout_fd)
            case _:
                signum = chance.choice(everything if chance.random() < 0.3 else gentle)
                sent.add(format_signal(signum))
                server.process.send_signal(signum)
        server.is_running_after(chance.random() * 0.2)
    server.close(server.stdin_fd, server.stdout_fd)
    return sent
