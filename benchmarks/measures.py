"""The measures, one a line of the table: each starts what it needs, and gives its figures."""

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
    MEGABYTE,
    Contender,
    bare_sdk,
    generated,
    measure_rest,
    peak_of,
    qq,
    token_tools,
    vendor_sdk,
)
from benchmarks.figures import OURS, Figure, absent, alternate, compare
from benchmarks.questions import AUDIT, QUESTIONS
from token_tools.cluster.pagination import PAGE

PATH: Final = "/v1/auth/access-tokens/"
LIST: Final = "list_access_tokens"
AT_ONCE: Final = 64
FEW: Final = 50
MANY: Final = 1_000
ALL: Final = 100_000
Action = Callable[[], Coroutine[Any, Any, object]]
PUBLISHED: Final[Mapping[str, tuple[int, int]]] = {
    "AWS IAM's": (14_800, 29),
    "GitHub's": (28_400, 117),
    "Sentry's": (14_068, 24),
}
"""The definitions of other administrators' servers: their tokens, and how many tools that are.

Source: catalogues of 2026 counted with o200k_base; of Sentry's, its own documentation.
"""
BYTES_A_TOKEN: Final = 4.1
"""Of definitions such as these, by o200k_base."""
NOT_YET: Final = f"`{AUDIT}` is not there yet"


@dataclass(frozen=True)
class Thoroughness:
    """How often things are repeated."""

    starts: int = 15
    lists: int = 200
    processes: int = 7
    bursts: int = 15
    audits: int = 3
    calls: int = 10_000


Measure = Callable[[Path, Thoroughness], Coroutine[Any, Any, list[Figure]]]
QUICK: Final = Thoroughness(starts=5, lists=40, processes=3, bursts=5, audits=1, calls=1_000)


async def measure_start(state: Path, effort: Thoroughness) -> list[Figure]:
    """From the start of the process to the answer of `tools/list`."""
    with running_cluster(FEW) as connection:
        contenders = [token_tools(connection, state), bare_sdk(), generated(connection)]

        async def start(contender: Contender) -> float:
            began = time.perf_counter()
            async with contender.connected() as client:
                await client.list_tools()
                return time.perf_counter() - began

        samples = await alternate({c.name: partial(start, c) for c in contenders}, rounds=effort.starts)
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


async def measure_lists(state: Path, effort: Thoroughness) -> list[Figure]:
    """A list of 50 tokens by servers that are warm, alone and 64 at once."""
    with running_cluster(FEW) as connection:
        async with (
            token_tools(connection, state).connected() as ours,
            generated(connection).connected() as theirs,
            httpx.AsyncClient(
                base_url=f"https://{connection.host}:{connection.port}",
                headers={"Authorization": f"Bearer {connection.bearer_token}"},
                verify=ssl.create_default_context(cafile=connection.ca_file),
            ) as http,
        ):

            async def get() -> None:
                (await http.get(PATH, params={"limit": FEW})).raise_for_status()

            lists: dict[str, Action] = {
                OURS: partial(_call, ours, LIST, {"limit": FEW}),
                "bare GET": get,
                "generated": partial(_call, theirs, LIST, {"limit": FEW}),
            }
            # In pairs: a third in between would only cool the caches that two of them share.
            alone = {
                rival: await alternate(
                    {OURS: partial(_time, lists[OURS]), rival: partial(_time, action)}, rounds=effort.lists
                )
                for rival, action in lists.items()
                if rival != OURS
            }
            del lists["bare GET"]
            bursts = {name: partial(_count_a_second, action) for name, action in lists.items()}
            at_once = await alternate(bursts, rounds=effort.bursts)

        async def run_qq() -> None:
            await anyio.run_process(qq(connection, "auth_list_access_tokens"))

        process = await alternate({"qq": partial(_time, run_qq)}, rounds=effort.processes)
    limit = alone["bare GET"]
    values = {OURS: median(limit[OURS])} | {rival: median(samples[rival]) for rival, samples in alone.items()}
    ratios = {rival: compare(samples)[1][rival] for rival, samples in alone.items()}
    values["qq"] = median(process["qq"])
    ratios["qq"] = values[OURS] / values["qq"]
    behind = median(mine - bare for mine, bare in zip(limit[OURS], limit["bare GET"], strict=True))
    speeds, faster = compare(at_once)
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
            f"the same, {AT_ONCE} at once",
            "calls/s",
            speeds,
            faster,
            "≥ generated",
            faster["generated"] >= 1,
            more_is_better=True,
        ),
    ]


async def measure_audit(state: Path, effort: Thoroughness) -> list[Figure]:
    """All of 100,000 tokens: the audit, and the vendor's SDK reading the same pages and doing nothing else."""
    what, target = f"audit of {ALL:,} tokens", "≤ 0.1 × vendor's SDK"
    memory, bound = f"{what}: peak of memory above idle", "≤ 20 MB"
    if AUDIT not in await _find_tools(state):
        return [absent(what, "s", NOT_YET, target=target), absent(memory, "MB", NOT_YET, target=bound)]
    with running_cluster(ALL) as connection:
        async with token_tools(connection, state).watched() as (client, process):
            # What the first call loads is not the audit's: 50 tokens are listed before.
            await _call(client, LIST, {"limit": FEW})
            grown: list[float] = []

            async def audit() -> float:
                idle = measure_rest(process)
                with peak_of(process) as peak:
                    seconds = await _time(partial(_call, client, AUDIT, {"expiring_within": "30d"}))
                grown.append(peak[0] - idle)
                return seconds

            read: list[Mapping[str, float]] = []

            async def read_all() -> float:
                command, environment = vendor_sdk(connection, limit=PAGE)
                told = json.loads((await anyio.run_process(command, env=environment)).stdout)
                if told["tokens"] != ALL:
                    raise AssertionError(told)
                read.append(told)
                return float(told["seconds"])

            samples = await alternate({OURS: audit, "vendor's SDK": read_all}, rounds=effort.audits, uncounted=0)
    values, ratios = compare(samples)
    peaks = {OURS: max(grown), "vendor's SDK": max((one["peak"] - one["idle"]) / MEGABYTE for one in read)}
    return [
        Figure(what, "s", values, ratios, target, ratios["vendor's SDK"] <= 0.1),
        Figure(memory, "MB", peaks, {}, bound, peaks[OURS] <= 20),
    ]


async def measure_definitions(state: Path, _effort: Thoroughness) -> list[Figure]:
    """The bytes that a model reads before it does anything: the definitions of the tools."""
    with running_cluster(FEW) as connection:
        ours = await _weigh_tools(token_tools(connection, state))
        theirs = await _weigh_tools(generated(connection))
    mean, their_mean = sum(ours.values()) / len(ours), sum(theirs.values()) / len(theirs)
    each = ", ".join(f"{name} {size}" for name, size in ours.items())
    return [
        Figure(
            "definitions of all tools",
            "bytes",
            {OURS: sum(ours.values()), "generated": sum(theirs.values())},
            {"generated": sum(ours.values()) / sum(theirs.values())},
            "≤ 9,600",
            sum(ours.values()) <= 9_600,
            f"{len(ours)} tools against {len(theirs)}: {each}",
        ),
        Figure(
            "definition of a tool, mean",
            "bytes",
            {OURS: mean, "generated": their_mean},
            {"generated": mean / their_mean},
            note=_compare_published(ours),
        ),
    ]


def _compare_published(ours: Mapping[str, int]) -> str:
    """The same in tokens, beside what is known of servers that are not run here."""
    mine = sum(ours.values()) / BYTES_A_TOKEN
    lines = [f"in tokens, at {BYTES_A_TOKEN} bytes each: {mine / len(ours):,.0f} a tool, {mine:,.0f} for {len(ours)}"]
    lines += [
        f"{name}, as published: {tokens / tools:,.0f} a tool, {tokens:,} for {tools}"
        for name, (tokens, tools) in PUBLISHED.items()
    ]
    return "\n".join(lines)


async def measure_answers(state: Path, _effort: Thoroughness) -> list[Figure]:
    """The bytes of an answer with 100 tokens, in each of the two channels; a host shows its model one of them."""
    with running_cluster(100) as connection:
        async with token_tools(connection, state).connected() as ours, generated(connection).connected() as theirs:
            mine = _weigh(await _call(ours, LIST, {"limit": 100}))
            other = _weigh(await _call(theirs, LIST, {"limit": 100}))
    return [
        Figure(
            f"answer with 100 tokens, {channel}",
            "bytes",
            {OURS: mine[channel], "generated": other[channel]},
            {"generated": mine[channel] / other[channel]},
            f"≤ {bound:,}",
            mine[channel] <= bound,
        )
        for channel, bound in (("text", 10_000), ("structured", 15_000))
    ]


async def measure_questions(state: Path, _effort: Thoroughness) -> list[Figure]:
    """The bytes of the answers to ten questions on 1,000 tokens, of all the calls that each needs.

    Of ours the larger channel counts, of the generated server's the smaller.
    """
    what, target = f"answers to ten questions on {MANY:,} tokens", "≤ 0.05 × generated"
    missing = sorted({question.call.tool for question in QUESTIONS} - set(await _find_tools(state)))
    if missing:
        return [absent(what, "bytes", f"not there yet: {', '.join(missing)}", target=target)]
    mine, told, other, each = 0, 0, 0, list[str]()
    with running_cluster(MANY) as connection:
        async with token_tools(connection, state).connected() as ours, generated(connection).connected() as theirs:
            everything, all_of_ours = await _read_all(theirs), await _list_all(ours)
            token = json.loads(_text(await _call(theirs, LIST, {"limit": 200})))["entries"][100]
            known = {"id": token["id"], "user": f"auth_id:{token['user']['auth_id']}"}
            for question in QUESTIONS:
                size = max(_weigh(await _call(ours, question.call.tool, question.call.fill(**known))).values())
                if question.user_filter is None:
                    their_size = everything
                else:
                    arguments = {"user": question.user_filter.format(**known)}
                    their_size = min(_weigh(await _call(theirs, LIST, arguments)).values())
                each.append(f"{question.text} {size:,} : {their_size:,}")
                mine, other = mine + size, other + their_size
                told += all_of_ours if question.in_a_file else size
    ratio = mine / other
    return [
        Figure(
            what,
            "bytes",
            {OURS: mine, "generated": other},
            {"generated": ratio},
            target,
            ratio <= 0.05,
            "\n".join(each),
        ),
        Figure(
            "the same, with all lists in the conversation",
            "bytes",
            {OURS: told, "generated": other},
            {"generated": told / other},
        ),
    ]


async def measure_memory(state: Path, effort: Thoroughness) -> list[Figure]:
    """Resident memory after `tools/list`, and what it has grown by after very many calls."""
    with running_cluster(FEW) as connection:
        mine = token_tools(connection, state)

        async def rest(contender: Contender) -> float:
            async with contender.watched() as (client, process):
                await client.list_tools()
                return measure_rest(process)

        contenders = {c.name: partial(rest, c) for c in (mine, bare_sdk(), generated(connection))}
        values, ratios = compare(await alternate(contenders, rounds=effort.processes))
        async with mine.watched() as (client, process):
            # Pools fill up and code is loaded with the first of them; growth is what goes on after that.
            await _call_often(client, effort.calls // 10)
            before = measure_rest(process)
            await _call_often(client, effort.calls)
            growth = measure_rest(process) - before
    return [
        Figure("memory at rest", "MB", values, ratios, "≤ 1.15 × bare SDK", ratios["bare SDK"] <= 1.15),
        Figure(f"growth of memory by {effort.calls:,} calls", "MB", {OURS: growth}, {}, "none (< 1 MB)", growth < 1),
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
        raise AssertionError(f"{tool} failed: {_text(result)[:400]}")
    return result


async def _call_often(client: Client, calls: int) -> None:
    for _ in range(calls):
        await _call(client, LIST, {"limit": FEW})


async def _time(action: Action) -> float:
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


async def _count_a_second(action: Action) -> float:
    async def burst() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(action)

    return AT_ONCE / await _time(burst)


async def _find_tools(state: Path) -> list[str]:
    with running_cluster(1) as connection:
        async with token_tools(connection, state).connected() as client:
            return [tool.name for tool in (await client.list_tools()).tools]


async def _weigh_tools(contender: Contender) -> dict[str, int]:
    async with contender.connected() as client:
        tools = (await client.list_tools()).tools
    return {tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True).encode()) for tool in tools}


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _weigh(result: CallToolResult) -> dict[str, int]:
    """The bytes of both channels, the structured one as it crosses the wire: compact."""
    structured = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    return {"text": len(_text(result).encode()), "structured": len(structured.encode())}


async def _list_all(client: Client) -> int:
    """The bytes of all pages that this project gives, in the larger channel."""
    size, after = 0, {"limit": 200}
    while True:
        result = await _call(client, LIST, after)
        size += max(_weigh(result).values())
        fields: Mapping[str, Any] = result.structured_content or {}
        if "after" not in fields:
            return size
        after["after"] = fields["after"]


async def _read_all(client: Client) -> int:
    """The bytes of all pages that the generated server gives, in the smaller channel."""
    size = 0
    after: dict[str, str] = {}
    while True:
        result = await _call(client, LIST, after)
        size += min(_weigh(result).values())
        page: dict[str, Any] = json.loads(_text(result))
        link: str | None = page["paging"]["next"]
        if link is None:
            return size
        after = {"after": parse_qs(urlsplit(link).query)["after"][0]}
