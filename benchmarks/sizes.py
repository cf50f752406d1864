"""The measures of what a model has to read: the definitions of tools, and their answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from mcp.client import Client
from mcp.types import CallToolResult

from benchmarks.cluster import MEDIUM_TOKEN_COUNT, SMALL_TOKEN_COUNT, running_cluster
from benchmarks.contenders import Contender, call, create_generated, create_token_tools, join_text
from benchmarks.figures import OUR_NAME, Figure, Measure, Repetitions
from benchmarks.questions import LIST_TOOL, QUESTIONS

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
            "≤ 11,500",
            sum(ours.values()) <= 11_500,
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
            our_bytes = _measure_channel_bytes(await call(ours, LIST_TOOL, {"limit": 100}))
            their_bytes = _measure_channel_bytes(await call(theirs, LIST_TOOL, {"limit": 100}))
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
    our_bytes, our_bytes_with_lists, their_bytes, notes = 0, 0, 0, list[str]()
    with running_cluster(MEDIUM_TOKEN_COUNT) as connection:
        async with (
            create_token_tools(connection, state).connected() as ours,
            create_generated(connection).connected() as theirs,
        ):
            all_their_pages = await _measure_all_generated_pages(theirs)
            all_our_pages = await _measure_all_our_pages(ours)
            token = json.loads(join_text(await call(theirs, LIST_TOOL, {"limit": 200})))["entries"][100]
            known = {"id": token["id"], "user": f"auth_id:{token['user']['auth_id']}"}
            for question in QUESTIONS:
                size = max(
                    _measure_channel_bytes(
                        await call(ours, question.call.tool, question.call.fill_arguments(**known))
                    ).values()
                )
                if question.user_filter is None:
                    their_size = all_their_pages
                else:
                    arguments = {"user": question.user_filter.format(**known)}
                    their_size = min(_measure_channel_bytes(await call(theirs, LIST_TOOL, arguments)).values())
                notes.append(f"{question.text} {size:,} : {their_size:,}")
                our_bytes += size
                our_bytes_with_lists += all_our_pages if question.in_a_file else size
                their_bytes += their_size
    ratio = our_bytes / their_bytes
    return [
        Figure(
            f"answers to ten questions on {MEDIUM_TOKEN_COUNT:,} tokens",
            "bytes",
            {OUR_NAME: our_bytes, "generated": their_bytes},
            {"generated": ratio},
            "≤ 0.05 × generated",
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


SIZE_MEASURES: Final[Sequence[Measure]] = (measure_definitions, measure_answers, measure_questions)


async def _measure_definition_bytes(contender: Contender) -> dict[str, int]:
    async with contender.connected() as client:
        tools = (await client.list_tools()).tools
    return {tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True).encode()) for tool in tools}


def _measure_channel_bytes(result: CallToolResult) -> dict[str, int]:
    """Return the bytes of both channels; the structured one is compact JSON, in which form it is sent."""
    structured = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    return {"text": len(join_text(result).encode()), "structured": len(structured.encode())}


async def _measure_all_our_pages(client: Client) -> int:
    """Return the bytes of all pages of this project's list, in the larger channel."""
    size, arguments = 0, {"limit": 200}
    while True:
        result = await call(client, LIST_TOOL, arguments)
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
        result = await call(client, LIST_TOOL, arguments)
        size += min(_measure_channel_bytes(result).values())
        page: dict[str, Any] = json.loads(join_text(result))
        link: str | None = page["paging"]["next"]
        if link is None:
            return size
        arguments = {"after": parse_qs(urlsplit(link).query)["after"][0]}
