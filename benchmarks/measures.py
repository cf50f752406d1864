"""The measures: each starts the cluster and the contenders that it needs, and returns its figures."""

import json
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
from mcp.client import Client
from mcp.types import CallToolResult, TextContent

from benchmarks.cluster import running_cluster
from benchmarks.contenders import (
    BYTES_PER_MEGABYTE,
    Contender,
    create_bare_sdk,
    create_generated,
    create_token_tools,
    measure_idle_megabytes,
    qq_command,
    track_peak_megabytes,
    vendor_sdk_command,
)
from benchmarks.figures import OUR_NAME, Figure, alternate, compare, unmeasured
from benchmarks.questions import AUDIT_TOOL, QUESTIONS
from token_tools.cluster.pagination import PAGE_SIZE

TOKENS_PATH: Final = "/v1/auth/access-tokens/"
LIST_TOOL: Final = "list_access_tokens"
CONCURRENT_CALLS: Final = 64
SMALL_TOKEN_COUNT: Final = 50
MEDIUM_TOKEN_COUNT: Final = 1_000
LARGE_TOKEN_COUNT: Final = 100_000
Action = Callable[[], Coroutine[Any, Any, object]]
PUBLISHED_DEFINITIONS: Final[Mapping[str, tuple[int, int]]] = {
    "AWS IAM's": (14_800, 29),
    "GitHub's": (28_400, 117),
    "Sentry's": (14_068, 24),
}
"""Model tokens of the definitions of other servers for administrators, and the number of their tools.

Source: catalogues of 2026, counted with o200k_base; for Sentry's, its own documentation.
"""
BYTES_PER_MODEL_TOKEN: Final = 4.1
"""Bytes of such definitions for each token of o200k_base."""
AUDIT_MISSING: Final = f"`{AUDIT_TOOL}` is not there yet"


@dataclass(frozen=True)
class Repetitions:
    """How often each kind of measurement is repeated."""

    starts: int = 15
    lists: int = 200
    processes: int = 7
    bursts: int = 15
    audits: int = 3
    calls: int = 10_000


Measure = Callable[[Path, Repetitions], Coroutine[Any, Any, list[Figure]]]
QUICK_REPETITIONS: Final = Repetitions(starts=5, lists=40, processes=3, bursts=5, audits=1, calls=1_000)


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
            "≤ 0.95 × bare SDK, < 0.5 × generated",
            ratios["bare SDK"] <= 0.95 and ratios["generated"] < 0.5,
        )
    ]


async def measure_lists(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure a list of 50 tokens by servers that are warm, one call at a time and 64 at once."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_generated(connection).connected() as theirs,
            httpx.AsyncClient(
                base_url=f"https://{connection.host}:{connection.port}",
                headers={"Authorization": f"Bearer {connection.bearer_token}"},
                verify=ssl.create_default_context(cafile=connection.ca_file),
            ) as http,
        ):

            async def get() -> None:
                (await http.get(TOKENS_PATH, params={"limit": SMALL_TOKEN_COUNT})).raise_for_status()

            lists: dict[str, Action] = {
                OUR_NAME: partial(_call, ours, LIST_TOOL, {"limit": SMALL_TOKEN_COUNT}),
                "bare GET": get,
                "generated": partial(_call, theirs, LIST_TOOL, {"limit": SMALL_TOKEN_COUNT}),
            }
            # Ours runs in pairs with each rival: a third contender in between would only cool the caches.
            pairs = {
                rival: await alternate(
                    {OUR_NAME: partial(_measure_seconds, lists[OUR_NAME]), rival: partial(_measure_seconds, action)},
                    rounds=repetitions.lists,
                )
                for rival, action in lists.items()
                if rival != OUR_NAME
            }
            del lists["bare GET"]
            bursts = {name: partial(_measure_calls_per_second, action) for name, action in lists.items()}
            at_once = await alternate(bursts, rounds=repetitions.bursts)

        async def run_qq() -> None:
            await anyio.run_process(qq_command(connection, "auth_list_access_tokens"))

        process = await alternate({"qq": partial(_measure_seconds, run_qq)}, rounds=repetitions.processes)
    beside_get = pairs["bare GET"]
    values = {OUR_NAME: median(beside_get[OUR_NAME])}
    values |= {rival: median(samples[rival]) for rival, samples in pairs.items()}
    ratios = {rival: compare(samples)[1][rival] for rival, samples in pairs.items()}
    values["qq"] = median(process["qq"])
    ratios["qq"] = values[OUR_NAME] / values["qq"]
    behind = median(ours - bare for ours, bare in zip(beside_get[OUR_NAME], beside_get["bare GET"], strict=True))
    speeds, speed_ratios = compare(at_once)
    return [
        Figure(
            "list of 50 tokens, warm",
            "s",
            values,
            ratios,
            "≤ bare GET + 5 ms, faster than the others",
            behind <= 0.005 and ratios["generated"] < 1 and ratios["qq"] < 1,
            f"{behind * 1000:.1f} ms behind the bare GET",
        ),
        Figure(
            f"the same, {CONCURRENT_CALLS} at once",
            "calls/s",
            speeds,
            speed_ratios,
            "≥ generated",
            speed_ratios["generated"] >= 1,
            more_is_better=True,
        ),
    ]


async def measure_audit(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure an audit of 100,000 tokens, and the vendor's SDK that only reads the same pages."""
    what, target = f"audit of {LARGE_TOKEN_COUNT:,} tokens", "≤ 0.1 × vendor's SDK"
    memory, memory_target = f"{what}: peak of memory above idle", "≤ 20 MB"
    if AUDIT_TOOL not in await _list_tool_names(state):
        return [
            unmeasured(what, "s", AUDIT_MISSING, target=target),
            unmeasured(memory, "MB", AUDIT_MISSING, target=memory_target),
        ]
    with running_cluster(LARGE_TOKEN_COUNT) as connection:
        async with create_token_tools(connection, state).connected_with_process() as (client, process):
            # The first call loads code that is not the audit's, so another call comes first.
            await _call(client, LIST_TOOL, {"limit": SMALL_TOKEN_COUNT})
            growths: list[float] = []

            async def audit() -> float:
                idle = measure_idle_megabytes(process)
                with track_peak_megabytes(process) as peak:
                    seconds = await _measure_seconds(partial(_call, client, AUDIT_TOOL, {"expiring_within": "30d"}))
                growths.append(peak[0] - idle)
                return seconds

            readings: list[Mapping[str, float]] = []

            async def read_all_pages() -> float:
                command, environment = vendor_sdk_command(connection, limit=PAGE_SIZE)
                reading = json.loads((await anyio.run_process(command, env=environment)).stdout)
                if reading["tokens"] != LARGE_TOKEN_COUNT:
                    raise AssertionError(reading)
                readings.append(reading)
                return float(reading["seconds"])

            samples = await alternate(
                {OUR_NAME: audit, "vendor's SDK": read_all_pages}, rounds=repetitions.audits, warmup_rounds=0
            )
    values, ratios = compare(samples)
    peaks = {
        OUR_NAME: max(growths),
        "vendor's SDK": max((reading["peak"] - reading["idle"]) / BYTES_PER_MEGABYTE for reading in readings),
    }
    return [
        Figure(what, "s", values, ratios, target, ratios["vendor's SDK"] <= 0.1),
        Figure(memory, "MB", peaks, {}, memory_target, peaks[OUR_NAME] <= 20),
    ]


async def measure_definitions(state: Path, _repetitions: Repetitions) -> list[Figure]:
    """Measure the definitions of the tools, which a model reads before it does anything."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        ours = await _measure_definition_bytes(create_token_tools(connection, state))
        theirs = await _measure_definition_bytes(create_generated(connection))
    our_mean, their_mean = sum(ours.values()) / len(ours), sum(theirs.values()) / len(theirs)
    each = ", ".join(f"{name} {size}" for name, size in ours.items())
    return [
        Figure(
            "definitions of all tools",
            "bytes",
            {OUR_NAME: sum(ours.values()), "generated": sum(theirs.values())},
            {"generated": sum(ours.values()) / sum(theirs.values())},
            "≤ 9,600",
            sum(ours.values()) <= 9_600,
            f"{len(ours)} tools against {len(theirs)}: {each}",
        ),
        Figure(
            "definition of a tool, mean",
            "bytes",
            {OUR_NAME: our_mean, "generated": their_mean},
            {"generated": our_mean / their_mean},
            note=_render_published(ours),
        ),
    ]


def _render_published(ours: Mapping[str, int]) -> str:
    """Return the definitions in model tokens, and those of servers that are not run here, for comparison."""
    total = sum(ours.values()) / BYTES_PER_MODEL_TOKEN
    mean = total / len(ours)
    lines = [f"in tokens, at {BYTES_PER_MODEL_TOKEN} bytes each: {mean:,.0f} a tool, {total:,.0f} for {len(ours)}"]
    lines += [
        f"{name}, as published: {tokens / tools:,.0f} a tool, {tokens:,} for {tools}"
        for name, (tokens, tools) in PUBLISHED_DEFINITIONS.items()
    ]
    return "\n".join(lines)


async def measure_answers(state: Path, _repetitions: Repetitions) -> list[Figure]:
    """Measure an answer with 100 tokens in each of its two channels, of which a host shows its model one."""
    with running_cluster(100) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_generated(connection).connected() as theirs,
        ):
            our_bytes = _measure_channel_bytes(await _call(ours, LIST_TOOL, {"limit": 100}))
            their_bytes = _measure_channel_bytes(await _call(theirs, LIST_TOOL, {"limit": 100}))
    return [
        Figure(
            f"answer with 100 tokens, {channel}",
            "bytes",
            {OUR_NAME: our_bytes[channel], "generated": their_bytes[channel]},
            {"generated": our_bytes[channel] / their_bytes[channel]},
            f"≤ {bound:,}",
            our_bytes[channel] <= bound,
        )
        for channel, bound in (("text", 10_000), ("structured", 15_000))
    ]


async def measure_questions(state: Path, _repetitions: Repetitions) -> list[Figure]:
    """Measure the answers to ten questions on 1,000 tokens, in all the calls that each question needs.

    For this project the larger channel counts, for the generated server the smaller.
    """
    what, target = f"answers to ten questions on {MEDIUM_TOKEN_COUNT:,} tokens", "≤ 0.05 × generated"
    missing = sorted({question.call.tool for question in QUESTIONS} - set(await _list_tool_names(state)))
    if missing:
        return [unmeasured(what, "bytes", f"not there yet: {', '.join(missing)}", target=target)]
    our_bytes, our_bytes_with_lists, their_bytes, notes = 0, 0, 0, list[str]()
    with running_cluster(MEDIUM_TOKEN_COUNT) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_generated(connection).connected() as theirs,
        ):
            all_their_pages = await _measure_all_generated_pages(theirs)
            all_our_pages = await _measure_all_our_pages(ours)
            token = json.loads(_join_text(await _call(theirs, LIST_TOOL, {"limit": 200})))["entries"][100]
            known = {"id": token["id"], "user": f"auth_id:{token['user']['auth_id']}"}
            for question in QUESTIONS:
                size = max(
                    _measure_channel_bytes(
                        await _call(ours, question.call.tool, question.call.fill_arguments(**known))
                    ).values()
                )
                if question.user_filter is None:
                    their_size = all_their_pages
                else:
                    arguments = {"user": question.user_filter.format(**known)}
                    their_size = min(_measure_channel_bytes(await _call(theirs, LIST_TOOL, arguments)).values())
                notes.append(f"{question.text} {size:,} : {their_size:,}")
                our_bytes += size
                our_bytes_with_lists += all_our_pages if question.in_a_file else size
                their_bytes += their_size
    ratio = our_bytes / their_bytes
    return [
        Figure(
            what,
            "bytes",
            {OUR_NAME: our_bytes, "generated": their_bytes},
            {"generated": ratio},
            target,
            ratio <= 0.05,
            "\n".join(notes),
        ),
        Figure(
            "the same, with all lists in the conversation",
            "bytes",
            {OUR_NAME: our_bytes_with_lists, "generated": their_bytes},
            {"generated": our_bytes_with_lists / their_bytes},
        ),
    ]


async def measure_memory(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure the resident memory after `tools/list`, and its growth by very many calls."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        our_server = create_token_tools(connection, state)

        async def measure_idle(contender: Contender) -> float:
            async with contender.connected_with_process() as (client, process):
                await client.list_tools()
                return measure_idle_megabytes(process)

        contenders = (our_server, create_bare_sdk(), create_generated(connection))
        measures = {contender.name: partial(measure_idle, contender) for contender in contenders}
        values, ratios = compare(await alternate(measures, rounds=repetitions.processes))
        async with our_server.connected_with_process() as (client, process):
            # The first calls fill pools and load code. Only what is added after that is growth.
            await _call_repeatedly(client, repetitions.calls // 10)
            before = measure_idle_megabytes(process)
            await _call_repeatedly(client, repetitions.calls)
            growth = measure_idle_megabytes(process) - before
    return [
        Figure("memory at rest", "MB", values, ratios, "≤ 1.15 × bare SDK", ratios["bare SDK"] <= 1.15),
        Figure(
            f"growth of memory by {repetitions.calls:,} calls",
            "MB",
            {OUR_NAME: growth},
            {},
            "none (< 1 MB)",
            growth < 1,
        ),
    ]


MEASURES: Final[Sequence[Measure]] = (
    measure_start,
    measure_lists,
    measure_audit,
    measure_definitions,
    measure_answers,
    measure_questions,
    measure_memory,
)


async def _call(client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise AssertionError(f"{tool} failed: {_join_text(result)[:400]}")
    return result


async def _call_repeatedly(client: Client, calls: int) -> None:
    for _ in range(calls):
        await _call(client, LIST_TOOL, {"limit": SMALL_TOKEN_COUNT})


async def _measure_seconds(action: Action) -> float:
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


async def _measure_calls_per_second(action: Action) -> float:
    async def burst() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENT_CALLS):
                tasks.start_soon(action)

    return CONCURRENT_CALLS / await _measure_seconds(burst)


async def _list_tool_names(state: Path) -> list[str]:
    with running_cluster(1) as connection:
        async with create_token_tools(connection, state).connected() as client:
            return [tool.name for tool in (await client.list_tools()).tools]


async def _measure_definition_bytes(contender: Contender) -> dict[str, int]:
    async with contender.connected() as client:
        tools = (await client.list_tools()).tools
    return {tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True).encode()) for tool in tools}


def _join_text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _measure_channel_bytes(result: CallToolResult) -> dict[str, int]:
    """Return the bytes of both channels; the structured one is compact JSON, in which form it is sent."""
    structured = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    return {"text": len(_join_text(result).encode()), "structured": len(structured.encode())}


async def _measure_all_our_pages(client: Client) -> int:
    """Return the bytes of all pages of this project's list, in the larger channel."""
    size, arguments = 0, {"limit": 200}
    while True:
        result = await _call(client, LIST_TOOL, arguments)
        size += max(_measure_channel_bytes(result).values())
        fields: Mapping[str, Any] = result.structured_content or {}
        if "after" not in fields:
            return size
        arguments["after"] = fields["after"]


async def _measure_all_generated_pages(client: Client) -> int:
    """Return the bytes of all pages of the generated server's list, in the smaller channel."""
    size = 0
    arguments: dict[str, str] = {}
    while True:
        result = await _call(client, LIST_TOOL, arguments)
        size += min(_measure_channel_bytes(result).values())
        page: dict[str, Any] = json.loads(_join_text(result))
        link: str | None = page["paging"]["next"]
        if link is None:
            return size
        arguments = {"after": parse_qs(urlsplit(link).query)["after"][0]}
