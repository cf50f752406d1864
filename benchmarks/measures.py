"""The measures of time and memory: each starts the cluster and the servers that it needs, and returns its figures."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import httpx
from mcp.client import Client

from benchmarks.cluster import LARGE_TOKEN_COUNT, MEDIUM_TOKEN_COUNT, SMALL_TOKEN_COUNT, running_cluster
from benchmarks.contenders import (
    BYTES_PER_MEGABYTE,
    Contender,
    call,
    create_bare_sdk,
    create_fleet_tools,
    create_generated,
    create_token_tools,
    measure_idle_megabytes,
    track_peak_megabytes,
    vendor_sdk_command,
)
from benchmarks.figures import (
    OUR_NAME,
    Figure,
    Measure,
    Repetitions,
    alternate,
    compare,
    measure_blocking_seconds,
    measure_seconds,
    split_pairs,
)
from benchmarks.lists import LIST_ARGUMENTS, LIST_MEASURES, PING_TOOL
from benchmarks.over_http import HTTP_MEASURES
from benchmarks.questions import AUDIT_TOOL, LIST_TOOL
from benchmarks.record import RECORD_MEASURES
from benchmarks.sizes import SIZE_MEASURES
from token_tools.cluster.client import TOKENS_PATH
from token_tools.cluster.pagination import PAGE_SIZE
from token_tools.cluster.responses import Answer, decode_page

FLEET_SIZE: Final = 4
"""Clusters that are audited at once."""

WARM_UP_CALLS: Final = 1_000
"""Calls that fill pools and caches and load code, before the growth of the memory is measured."""

MAX_GROWTH_MEGABYTES: Final = 0.1
"""Growth that counts as none: a few pages of memory, which come and go between two looks at an idle process."""


async def measure_start(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the time from the start of the process to the answer of `tools/list`."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        contenders = [create_token_tools(connection, state), create_bare_sdk(), create_generated(connection)]

        async def start(contender: Contender) -> float:
            began = time.perf_counter()
            async with contender.connected() as client:
                await client.list_tools()
                return time.perf_counter() - began

        samples = await alternate({c.name: partial(start, c) for c in contenders}, rounds=repetitions.starts)
    values, ratios = compare(samples)
    return [
        Figure(
            "start of the process to the answer of tools/list",
            "s",
            values,
            ratios,
            "≤ 0.85 × bare SDK, < 0.5 × generated",
            ratios["bare SDK"] <= 0.85 and ratios["generated"] < 0.5,
        )
    ]


async def measure_decoding(_state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the decoding of a page of 1,000 tokens, and `json.loads`, which checks nothing, on the same bytes."""
    with running_cluster(MEDIUM_TOKEN_COUNT) as connection:
        async with httpx.AsyncClient(**connection.http_options) as http:
            body = (await http.get(TOKENS_PATH, params={"limit": MEDIUM_TOKEN_COUNT})).content
    answer = Answer(200, {}, body)
    if len(decode_page(answer).entries) != MEDIUM_TOKEN_COUNT:
        raise AssertionError(body[:400])
    decoders = {OUR_NAME: partial(decode_page, answer), "json.loads": partial(json.loads, body)}
    samples = await alternate(
        {name: partial(measure_blocking_seconds, decode) for name, decode in decoders.items()},
        rounds=repetitions.decodings,
    )
    values, ratios = compare(samples)
    return [
        Figure(
            f"decoding a page of {MEDIUM_TOKEN_COUNT:,} tokens",
            "s",
            values,
            ratios,
            "≤ 0.5 × json.loads",
            ratios["json.loads"] <= 0.5,
            f"{len(body):,} bytes; ours also parses the times and checks the identities",
        )
    ]


async def measure_audit(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure an audit of 100,000 tokens, and the vendor's SDK that only reads the same pages."""
    with running_cluster(LARGE_TOKEN_COUNT) as connection:
        async with create_token_tools(connection, state).connected_with_process() as (client, process):
            # The first call loads code that is not the audit's, so another call comes first.
            await call(client, LIST_TOOL, LIST_ARGUMENTS)

            async def audit() -> tuple[float, float]:
                idle = measure_idle_megabytes(process)
                with track_peak_megabytes(process) as peak:
                    seconds = await measure_seconds(partial(call, client, AUDIT_TOOL, {"expiring_within": "30d"}))
                return seconds, peak[0] - idle

            async def read_all_pages() -> tuple[float, float]:
                command, environment = vendor_sdk_command(connection, limit=PAGE_SIZE)
                reading = json.loads((await anyio.run_process(command, env=environment)).stdout)
                if reading["tokens"] != LARGE_TOKEN_COUNT:
                    raise AssertionError(reading)
                return reading["seconds"], (reading["peak"] - reading["idle"]) / BYTES_PER_MEGABYTE

            pairs = await alternate(
                {OUR_NAME: audit, "vendor's SDK": read_all_pages}, rounds=repetitions.audits, warmup_rounds=0
            )
    times, growths = split_pairs(pairs)
    values, ratios = compare(times)
    peaks = {name: max(megabytes) for name, megabytes in growths.items()}
    what = f"audit of {LARGE_TOKEN_COUNT:,} tokens"
    return [
        Figure(what, "s", values, ratios, "≤ 0.06 × vendor's SDK", ratios["vendor's SDK"] <= 0.06),
        Figure(f"{what}: peak of memory above idle", "MB", peaks, {}, "≤ 33 MB", peaks[OUR_NAME] <= 33),
    ]


async def measure_fleet(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure an audit of four clusters with 25,000 tokens each, and of one that has all of these."""
    alone = f"1 cluster of {LARGE_TOKEN_COUNT:,}"
    share = LARGE_TOKEN_COUNT // FLEET_SIZE
    async with AsyncExitStack() as running:
        counts = {OUR_NAME: [share] * FLEET_SIZE, alone: [LARGE_TOKEN_COUNT]}
        audits: dict[str, Callable[[], Awaitable[float]]] = {}
        for name, sizes in counts.items():
            connections = [running.enter_context(running_cluster(size)) for size in sizes]
            client = await running.enter_async_context(create_fleet_tools(connections, state).connected())
            audits[name] = partial(measure_seconds, partial(call, client, AUDIT_TOOL, {}))
        values, ratios = compare(await alternate(audits, rounds=repetitions.audits))
    return [
        Figure(
            f"audit of {FLEET_SIZE} clusters of {share:,} tokens",
            "s",
            values,
            ratios,
            f"≤ 1.1 × {alone}",
            ratios[alone] <= 1.1,
        )
    ]


async def measure_memory(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the resident memory after `tools/list`, and then after the first call of a tool."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        first_calls = (
            (create_token_tools(connection, state), LIST_TOOL, LIST_ARGUMENTS),
            (create_bare_sdk(), PING_TOOL, dict[str, object]()),
            (create_generated(connection), LIST_TOOL, LIST_ARGUMENTS),
        )

        async def measure(contender: Contender, tool: str, arguments: dict[str, object]) -> tuple[float, float]:
            async with contender.connected_with_process() as (client, process):
                await client.list_tools()
                at_rest = measure_idle_megabytes(process)
                await call(client, tool, arguments)
                return at_rest, measure_idle_megabytes(process)

        pairs = await alternate(
            {contender.name: partial(measure, contender, tool, args) for contender, tool, args in first_calls},
            rounds=repetitions.processes,
        )
    rest, used = map(compare, split_pairs(pairs))
    return [
        Figure("memory at rest", "MB", *rest, "≤ 1.02 × bare SDK", rest[1]["bare SDK"] <= 1.02),
        Figure("memory after the first call", "MB", *used, "≤ 1.08 × bare SDK", used[1]["bare SDK"] <= 1.08),
    ]


async def measure_growth(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the growth of the resident memory by very many calls."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        async with create_token_tools(connection, state).connected_with_process() as (client, process):
            await _list_repeatedly(client, WARM_UP_CALLS)
            before = measure_idle_megabytes(process)
            await _list_repeatedly(client, repetitions.calls)
            growth = measure_idle_megabytes(process) - before
    return [
        Figure(
            f"growth of memory by {repetitions.calls:,} calls",
            "MB",
            {OUR_NAME: growth},
            {},
            f"none (≤ {MAX_GROWTH_MEGABYTES} MB)",
            growth <= MAX_GROWTH_MEGABYTES,
            f"after {WARM_UP_CALLS:,} calls that do not count",
        )
    ]


async def _list_repeatedly(client: Client, calls: int) -> None:
    for _ in range(calls):
        await call(client, LIST_TOOL, LIST_ARGUMENTS)


MEASURES: Final[Sequence[Measure]] = (
    measure_start,
    measure_decoding,
    *LIST_MEASURES,
    measure_audit,
    measure_fleet,
    *RECORD_MEASURES,
    *SIZE_MEASURES,
    measure_memory,
    measure_growth,
    *HTTP_MEASURES,
)
