"""What a call over HTTP must not depend on: the entries of the record, the open sessions, and the number of replicas.

Two servers take turns, of which one has much of it and the other has none.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
from pydantic import SecretStr

from benchmarks.cluster import SMALL_TOKEN_COUNT, create_cluster, running_cluster
from benchmarks.figures import OUR_NAME, Figure, Measure, Repetitions, alternate, compare
from benchmarks.http_load import LEGACY, HttpConnection, HttpRequest, create_call, make_calls, sign
from benchmarks.http_servers import Replica, create_ours, open_databases, running_replicas
from benchmarks.lists import LIST_ARGUMENTS
from benchmarks.questions import LIST_TOOL
from benchmarks.record import create_entry
from token_tools.settings import StateSettings
from token_tools.storage.state import open_state
from token_tools.storage.state.connections import Connection
from token_tools.storage.state.record import insert_attempt
from token_tools.storage.state.schema import upgrade
from token_tools.times import utc_now

ENTRIES: Final = 100_000
SESSIONS: Final = 1_000
MANY_REPLICAS: Final = 4
CALLERS: Final = 8
CHANGED_TOKENS: Final = 8
LISTS_PER_CHANGE: Final = 3
MAX_RATIO: Final = 1.15
"""By how much a call may take longer: what two measurements of the same thing differ by."""


def create_list_requests() -> Sequence[bytes]:
    """Return the request for a list."""
    return [create_call(LIST_TOOL, LIST_ARGUMENTS).encode()]


def create_mixed_requests() -> Sequence[bytes]:
    """Return requests of which one in four disables a token or enables it again."""
    cluster, own = create_cluster(SMALL_TOKEN_COUNT)
    ids = [token.id for token in cluster.tokens.values() if token.enabled and token.id != own.id][:CHANGED_TOKENS]
    changes = [
        create_call("update_access_token", {"id": token_id, "enabled": is_enabled}).encode()
        for is_enabled in (False, True)
        for token_id in ids
    ]
    [look] = create_list_requests()
    return [request for change in changes for request in (change, *[look] * LISTS_PER_CHANGE)]


async def measure_http_entries(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure calls with an empty record, and with one of 100,000 entries."""
    names = {OUR_NAME: ENTRIES, "0 entries": 0}
    with ExitStack() as running:
        connection = running.enter_context(running_cluster(SMALL_TOKEN_COUNT))
        databases = running.enter_context(open_databases(len(names)))
        servers: dict[str, Sequence[Replica]] = {}
        for (name, entries), database in zip(names.items(), databases, strict=True):
            fill_record(database, f"{connection.host}:{connection.port}", entries)
            create = create_ours(connection, state, database)
            servers[name] = running.enter_context(running_replicas(create, 1))
        what = f"over HTTP, {ENTRIES:,} entries in the record"
        lists = await _compare_servers(f"a list {what}", servers, create_list_requests(), repetitions)
        mixed = await _compare_servers(f"a list or a change {what}", servers, create_mixed_requests(), repetitions)
    return [lists, mixed]


async def measure_http_sessions(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure calls without and with 1,000 sessions of clients that speak the older protocol."""
    names = {OUR_NAME: SESSIONS, "0 sessions": 0}
    with ExitStack() as running:
        connection = running.enter_context(running_cluster(SMALL_TOKEN_COUNT))
        servers: dict[str, Sequence[Replica]] = {}
        for name, sessions in names.items():
            folder = state / f"{sessions} sessions"
            [replica] = servers[name] = running.enter_context(
                running_replicas(create_ours(connection, folder, None), 1)
            )
            await _open_sessions(replica.port, sessions)
        what = f"a list over HTTP, {SESSIONS:,} open sessions"
        return [await _compare_servers(what, servers, create_list_requests(), repetitions)]


async def measure_http_replicas(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure calls to one process, and to four on the same kind of database."""
    names = {OUR_NAME: MANY_REPLICAS, "1 replica": 1}
    with ExitStack() as running:
        connection = running.enter_context(running_cluster(SMALL_TOKEN_COUNT))
        databases = running.enter_context(open_databases(len(names)))
        servers = {
            name: running.enter_context(running_replicas(create_ours(connection, state, database), count))
            for (name, count), database in zip(names.items(), databases, strict=True)
        }
        what = f"a list or a change over HTTP, {MANY_REPLICAS} replicas"
        return [await _compare_servers(what, servers, create_mixed_requests(), repetitions)]


async def _compare_servers(
    what: str, servers: Mapping[str, Sequence[Replica]], requests: Sequence[bytes], repetitions: Repetitions
) -> Figure:
    samples = await alternate(
        {name: partial(_measure_call_seconds, replicas, requests) for name, replicas in servers.items()},
        rounds=repetitions.http_rounds,
    )
    values, ratios = compare(samples)
    [(rival, ratio)] = ratios.items()
    return Figure(what, "s", values, ratios, f"≤ {MAX_RATIO} × {rival}", ratio <= MAX_RATIO)


async def _measure_call_seconds(replicas: Sequence[Replica], requests: Sequence[bytes]) -> float:
    ports = [replica.port for replica in replicas]
    calls = max(1, 64 // len(requests)) * len(requests) // CALLERS
    load = await make_calls(ports, requests, callers=CALLERS, calls=calls)
    return 1 / load.calls_per_second


async def _open_sessions(port: int, count: int) -> None:
    client = {"name": "load", "version": "1"}
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client}
    initialize = HttpRequest("initialize", params, LEGACY).encode()
    connection = await HttpConnection.open(port)
    for number in range(count):
        answer = await connection.send(sign(initialize, number))
        answer.check()
        if b"mcp-session-id:" not in answer.head.lower():
            raise AssertionError(answer.head)
    connection.writer.close()


def fill_record(database: SecretStr, cluster: str, entries: int) -> None:
    """Write so many entries about a cluster into an empty database."""
    connections = open_state(StateSettings(state_url=database), utc_now)
    connections.write(partial(_insert_first, cluster=cluster, is_wanted=bool(entries)), is_wanted=lambda: True)
    connections.close()
    with psycopg.connect(database.get_secret_value(), options="-c search_path=token_tools") as connection:
        # One entry is written as this project does it, and the others are it but for their numbers.
        connection.execute(
            "INSERT INTO changes SELECT (jsonb_populate_record(first, jsonb_build_object("
            "'id', to_hex(n), 'number', n + 1, 'question', to_hex(n), 'token_id', (10 ^ 21 + n)::numeric::text))).* "
            "FROM changes AS first, generate_series(1, %s) AS n",
            (entries - 1,),
        )
        connection.execute("UPDATE state SET revision = %s", (entries,))
    with psycopg.connect(database.get_secret_value(), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _insert_first(connection: Connection, *, cluster: str, is_wanted: bool) -> None:
    upgrade(connection)
    if is_wanted:
        insert_attempt(connection, create_entry(0, cluster))


HTTP_COST_MEASURES: Final[Sequence[Measure]] = (measure_http_entries, measure_http_sessions, measure_http_replicas)
