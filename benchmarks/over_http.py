"""The measures of service over HTTP: many callers, two processes of each server, and one PostgreSQL for this project's.

The rivals keep no state, so they have no database. The callers go from one process to the next, as a balancer without
memory would send them. They, the servers, the cluster and the database share the processors of this machine.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.cluster import SMALL_TOKEN_COUNT, ClusterConnection, running_cluster
from benchmarks.contenders import measure_idle_megabytes
from benchmarks.figures import OUR_NAME, Figure, Measure, Repetitions, alternate, compare
from benchmarks.http_costs import HTTP_COST_MEASURES
from benchmarks.http_load import LEGACY, MODERN, Era, HttpRequest, Load, create_call, make_calls
from benchmarks.http_servers import (
    CreateContender,
    Replica,
    create_bare_replica,
    create_fetching,
    create_generated_by_port,
    create_ours,
    open_database,
    running_replicas,
)
from benchmarks.lists import CONCURRENT_CALLS, LIST_ARGUMENTS, PING_TOOL
from benchmarks.questions import LIST_TOOL

REPLICAS: Final = 2
FETCH_TOOL: Final = "fetch"
BARE_NAME: Final = "bare SDK"
FLOOR_NAME: Final = "bare SDK + GET"
GENERATED_NAME: Final = "generated"
GROWTH_CALLS_OF_CALLER: Final = 5
"""Calls of a caller in the measurement of memory, after which it connects anew."""

MAX_GROWTH: Final = 0.03
"""The part of its memory by which a process may grow, which comes and goes."""


@dataclass(frozen=True)
class Turn:
    """One measurement of one server. `processor_seconds` are those of its processes for a call."""

    load: Load
    processor_seconds: float


@dataclass(frozen=True)
class Party:
    """The processes of one server, and the request that is made to it."""

    replicas: Sequence[Replica]
    request: HttpRequest

    async def take_turn(self, calls: int) -> Turn:
        """Let all callers make so many calls each."""
        before = self._sum_processor_seconds()
        ports = [replica.port for replica in self.replicas]
        load = await make_calls(ports, [self.request.encode()], callers=CONCURRENT_CALLS, calls=calls)
        return Turn(load, (self._sum_processor_seconds() - before) / len(load.call_seconds))

    def _sum_processor_seconds(self) -> float:
        times = [replica.process.cpu_times() for replica in self.replicas]
        return sum(each.user + each.system for each in times)


async def measure_http_lists(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure lists of 50 tokens over HTTP, in both eras of the protocol.

    The trivial call of the bare SDK asks no cluster. What no server can do without is that call and a bare GET.
    """
    figures: list[Figure] = []
    with ExitStack() as running:
        connection, ours = _start_ours(running, state)
        servers: Mapping[str, tuple[Sequence[Replica], str]] = {
            OUR_NAME: (ours, LIST_TOOL),
            BARE_NAME: (_start(running, create_bare_replica), PING_TOOL),
            FLOOR_NAME: (_start(running, create_fetching(connection)), FETCH_TOOL),
            GENERATED_NAME: (_start(running, create_generated_by_port(connection)), LIST_TOOL),
        }
        eras: Sequence[Era] = (MODERN, LEGACY)
        for era in eras:
            parties = {
                name: Party(replicas, create_call(tool, {} if tool == PING_TOOL else LIST_ARGUMENTS, era))
                for name, (replicas, tool) in servers.items()
            }
            figures += await _compare_parties(f"lists over HTTP, {era}", parties, FLOOR_NAME, repetitions)
    return figures


async def measure_http_definitions(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the answer to `tools/list` over HTTP, for which no server asks the cluster."""
    with ExitStack() as running:
        connection, ours = _start_ours(running, state)
        servers = {
            OUR_NAME: ours,
            BARE_NAME: _start(running, create_bare_replica),
            GENERATED_NAME: _start(running, create_generated_by_port(connection)),
        }
        parties = {name: Party(replicas, HttpRequest("tools/list")) for name, replicas in servers.items()}
        return await _compare_parties("tools/list over HTTP", parties, BARE_NAME, repetitions)


def _start_ours(running: ExitStack, state: Path) -> tuple[ClusterConnection, Sequence[Replica]]:
    connection = running.enter_context(running_cluster(SMALL_TOKEN_COUNT))
    database = running.enter_context(open_database())
    return connection, _start(running, create_ours(connection, state, database))


def _start(running: ExitStack, create: CreateContender) -> Sequence[Replica]:
    return running.enter_context(running_replicas(create, REPLICAS))


async def _compare_parties(
    what: str, parties: Mapping[str, Party], floor: str, repetitions: Repetitions
) -> list[Figure]:
    turns = await alternate(
        {name: partial(party.take_turn, repetitions.http_calls) for name, party in parties.items()},
        rounds=repetitions.http_rounds,
    )
    speeds, speed_ratios = _compare(turns, lambda turn: turn.load.calls_per_second)
    slow, slow_ratios = _compare(turns, lambda turn: turn.load.find_percentile(99))
    work, work_ratios = _compare(turns, lambda turn: turn.processor_seconds)
    return [
        Figure(
            f"{what}, {CONCURRENT_CALLS} callers",
            "calls/s",
            speeds,
            speed_ratios,
            f"≥ 0.5 × {floor}, > generated",
            speed_ratios[floor] >= 0.5 and speed_ratios[GENERATED_NAME] > 1,
            _render_turns(turns),
            more_is_better=True,
        ),
        Figure(
            f"{what}, 99th percentile",
            "s",
            slow,
            slow_ratios,
            f"≤ 2 × {floor}, < generated",
            slow_ratios[floor] <= 2 and slow_ratios[GENERATED_NAME] < 1,
        ),
        Figure(
            f"{what}, processor time of a call",
            "s",
            work,
            work_ratios,
            f"≤ 2 × {floor}, < generated",
            work_ratios[floor] <= 2 and work_ratios[GENERATED_NAME] < 1,
        ),
    ]


def _compare(
    turns: Mapping[str, Sequence[Turn]], choose: Callable[[Turn], float]
) -> tuple[dict[str, float], dict[str, float]]:
    return compare({name: [*map(choose, each)] for name, each in turns.items()})


def _render_turns(turns: Mapping[str, Sequence[Turn]]) -> str:
    return "\n".join(starmap(_render_times, turns.items()))


def _render_times(name: str, turns: Sequence[Turn]) -> str:
    middle = median(turn.load.find_percentile(50) for turn in turns)
    share = max(turn.load.processor_share for turn in turns)
    return f"{name}: median {middle * 1000:.1f} ms; the callers took {share:.0%} of a processor at most"


async def measure_http_growth(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure by how much the memory of a process grows by very many calls, after a tenth of them."""
    with ExitStack() as running:
        connection = running.enter_context(running_cluster(SMALL_TOKEN_COUNT))
        database = running.enter_context(open_database())
        [replica] = running.enter_context(running_replicas(create_ours(connection, state, database), 1))
        first = repetitions.http_growth_calls // 10
        await _call_repeatedly(replica, first)
        before = measure_idle_megabytes(replica.process)
        await _call_repeatedly(replica, repetitions.http_growth_calls - first)
        after = measure_idle_megabytes(replica.process)
    return [
        Figure(
            f"growth of memory by {repetitions.http_growth_calls:,} calls over HTTP",
            "MB",
            {OUR_NAME: after - before},
            {},
            f"none (≤ {MAX_GROWTH:.0%})",
            after <= before * (1 + MAX_GROWTH),
            f"{before:.1f} MB after {first:,} calls of both eras, {after:.1f} MB after all; "
            f"a caller connects anew after {GROWTH_CALLS_OF_CALLER}",
        )
    ]


async def _call_repeatedly(replica: Replica, calls: int) -> None:
    requests = [
        create_call(LIST_TOOL, LIST_ARGUMENTS).encode(),
        HttpRequest("tools/list").encode(),
        create_call(LIST_TOOL, {"limit": 1}, LEGACY).encode(),
        HttpRequest("prompts/list").encode(),
    ]
    for _ in range(0, calls, CONCURRENT_CALLS * GROWTH_CALLS_OF_CALLER):
        await make_calls([replica.port], requests, callers=CONCURRENT_CALLS, calls=GROWTH_CALLS_OF_CALLER)


HTTP_MEASURES: Final[Sequence[Measure]] = (
    measure_http_lists,
    measure_http_definitions,
    *HTTP_COST_MEASURES,
    measure_http_growth,
)
