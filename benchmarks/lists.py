"""The measures of the call that is most usual: a list of 50 tokens, by servers that are warm.

No server can take less time for it than the request to the cluster and the way of any call through the SDK take
together. So the time is compared with a floor: a bare GET of the same tokens, plus a trivial call of the bare SDK
server over pipes of the same kind.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import anyio
import httpx

from benchmarks.cluster import SMALL_TOKEN_COUNT, running_cluster
from benchmarks.contenders import call, create_bare_sdk, create_generated, create_token_tools, qq_command
from benchmarks.figures import (
    OUR_NAME,
    Action,
    Figure,
    Measure,
    Repetitions,
    Samples,
    alternate,
    compare,
    measure_blocking_seconds,
    measure_seconds,
    sum_rivals,
)
from benchmarks.questions import LIST_TOOL
from token_tools.cluster.client import TOKENS_PATH

CONCURRENT_CALLS: Final = 64
PAUSE_SECONDS: Final = 0.1
"""Rest before each call and each GET, because a model does not call again at once.

Without it, the processor's caches would be warm, which shortens the GET more than a call.
"""
GET_NAME: Final = "bare GET"
TRIVIAL_CALL_NAME: Final = "trivial call"
FLOOR_NAME: Final = "GET + trivial call"
LIST_ARGUMENTS: Final[dict[str, Any]] = {"limit": SMALL_TOKEN_COUNT}
PING_TOOL: Final = "ping"


async def measure_lists_over_lines(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure a list of 50 tokens without a client: a line into the server's pipe, and a line back."""
    with (
        running_cluster(SMALL_TOKEN_COUNT) as connection,
        create_token_tools(connection, state).connected_by_lines() as ours,
        create_bare_sdk().connected_by_lines() as bare,
    ):
        async with httpx.AsyncClient(**connection.http_options) as http:
            samples = await alternate(
                {
                    OUR_NAME: partial(measure_blocking_seconds, partial(ours.call, LIST_TOOL, LIST_ARGUMENTS)),
                    GET_NAME: partial(measure_seconds, partial(_get_tokens, http)),
                    TRIVIAL_CALL_NAME: partial(measure_blocking_seconds, partial(bare.call, PING_TOOL, {})),
                },
                rounds=repetitions.lists,
                pause_seconds=PAUSE_SECONDS,
            )
    values, ratios = compare(sum_rivals(samples, FLOOR_NAME))
    return [
        Figure(
            "list of 50 tokens, warm, over bare lines",
            "s",
            values,
            ratios,
            f"≤ 1.25 × {FLOOR_NAME}",
            ratios[FLOOR_NAME] <= 1.25,
            _render_floor(samples),
        )
    ]


async def measure_lists_through_client(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure a list of 50 tokens through the SDK's client, which also checks each answer against its schema."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_bare_sdk().connected() as bare,
            create_generated(connection).connected() as generated,
            httpx.AsyncClient(**connection.http_options) as http,
        ):
            timers = {
                OUR_NAME: partial(measure_seconds, partial(call, ours, LIST_TOOL, LIST_ARGUMENTS)),
                GET_NAME: partial(measure_seconds, partial(_get_tokens, http)),
                TRIVIAL_CALL_NAME: partial(measure_seconds, partial(call, bare, PING_TOOL, {})),
            }
            beside_floor = await alternate(timers, rounds=repetitions.lists, pause_seconds=PAUSE_SECONDS)
            # The generated server would only cool the caches between ours and the floor.
            pair = {
                OUR_NAME: timers[OUR_NAME],
                "generated": partial(measure_seconds, partial(call, generated, LIST_TOOL, LIST_ARGUMENTS)),
            }
            beside_generated = await alternate(pair, rounds=repetitions.lists, pause_seconds=PAUSE_SECONDS)

        async def run_qq() -> None:
            await anyio.run_process(qq_command(connection, "auth_list_access_tokens"))

        processes = await alternate({"qq": partial(measure_seconds, run_qq)}, rounds=repetitions.processes)
    values, ratios = compare(sum_rivals(beside_floor, FLOOR_NAME))
    values |= {"generated": median(beside_generated["generated"]), "qq": median(processes["qq"])}
    ratios |= compare(beside_generated)[1] | {"qq": values[OUR_NAME] / values["qq"]}
    return [
        Figure(
            "list of 50 tokens, warm, through the SDK's client",
            "s",
            values,
            ratios,
            f"≤ 1.45 × {FLOOR_NAME}, faster than the others",
            ratios[FLOOR_NAME] <= 1.45 and ratios["generated"] < 1 and ratios["qq"] < 1,
            _render_floor(beside_floor),
        )
    ]


async def _get_tokens(http: httpx.AsyncClient) -> None:
    (await http.get(TOKENS_PATH, params=LIST_ARGUMENTS)).raise_for_status()


def _render_floor(samples: Samples) -> str:
    parts = (f"{name} {median(samples[name]) * 1000:.1f} ms" for name in (GET_NAME, TRIVIAL_CALL_NAME))
    return f"{FLOOR_NAME}: {', '.join(parts)}"


async def measure_lists_at_once(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure how many lists of 50 tokens a server answers in a second, if 64 are asked for at once."""
    with running_cluster(SMALL_TOKEN_COUNT) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_generated(connection).connected() as generated,
        ):
            clients = {OUR_NAME: ours, "generated": generated}
            speeds = await alternate(
                {
                    name: partial(_measure_calls_per_second, partial(call, client, LIST_TOOL, LIST_ARGUMENTS))
                    for name, client in clients.items()
                },
                rounds=repetitions.bursts,
                # The first bursts of a server open its connections.
                warmup_rounds=3,
            )
    values, ratios = compare(speeds)
    return [
        Figure(
            f"lists of 50 tokens, {CONCURRENT_CALLS} at once",
            "calls/s",
            values,
            ratios,
            "≥ 1.8 × generated",
            ratios["generated"] >= 1.8,
            more_is_better=True,
        )
    ]


async def _measure_calls_per_second(action: Action) -> float:
    async def burst() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENT_CALLS):
                tasks.start_soon(action)

    return CONCURRENT_CALLS / await measure_seconds(burst)


LIST_MEASURES: Final[Sequence[Measure]] = (
    measure_lists_over_lines,
    measure_lists_through_client,
    measure_lists_at_once,
)
