"""Test that the published interface changes only on purpose and is readable for every client."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import mean
from typing import Any

import anyio
import pytest
import toktok  # pyright: ignore[reportMissingTypeStubs]
from hypothesis import given
from hypothesis import strategies as st
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import Tool
from pydantic import SecretStr

from tests.support.harness import NOW, create_harness
from tests.support.json_rpc import COMMAND
from token_tools.cluster.identity import parse_user
from token_tools.configuration import Profile
from token_tools.errors import Refusal
from token_tools.server.app import create_server
from token_tools.settings import Settings
from token_tools.times import parse_duration, parse_expiry

pytestmark = pytest.mark.anyio

GOLDEN_FOLDER = Path(__file__).with_name("tool_schemas")
TIMEOUT_SECONDS = 60
MAX_MEAN_MODEL_TOKENS = 140
"""What a model sees of a tool, in the mean: its name, its description and the schema of its arguments."""
MAX_MODEL_TOKENS = 250
"""The longest, which has five arguments."""
MAX_READING_MEAN_MODEL_TOKENS = 150
"""The mean of the tools that only read, of which the longest is one."""
MAX_CLUSTER_MODEL_TOKENS = 25
"""What the choice between two clusters adds to a tool, in the mean."""
MAX_LISTED_BYTES = 11_500
"""All that a server lists of its tools, their hints and the schemas of their results included."""
READ_TOOLS = {"list_access_tokens", "get_access_token", "audit_access_tokens", "list_token_changes"}
RETURNED = {
    "list_access_tokens": {
        "id": "id",
        "user": "user",
        "creator": "creator",
        "expiry": "expiration_time",
        "state": "enabled",
    },
    "get_access_token": {"its user's other tokens": "other_tokens", "this server runs on it": "is_own"},
    "audit_access_tokens": {
        "how many": "count",
        "the worst few": "worst",
        "what mends it": "mend",
        "new since the last audit": "since_last_audit",
    },
    "list_token_changes": {"when, by whom, and who agreed": "changes", "half done": "unfinished"},
    "export_access_tokens": {"its path": "path", "how many have each finding": "findings"},
    "create_access_token": {"its id": "id", "the place of its bearer token": "bearer_token_in"},
    "update_access_token": {"it before": "enabled_before", "and after": "enabled"},
    "delete_access_token": {"as it was": "enabled"},
    "rotate_access_token": {
        "the new id": "id",
        "the place of its bearer token": "bearer_token_in",
        "the old one": "replaces",
    },
}
"""Words of the line on what each tool returns, and the fields that they stand for."""
PARSERS: dict[str, Callable[[str], object]] = {
    "user": parse_user,
    "expiration_time": lambda text: parse_expiry(text, now=NOW),
    "expiring_within": parse_duration,
}
SETTINGS = Settings(host="cluster.example.com", bearer_token=SecretStr("access-v1:own"))


async def list_published_tools(**settings_changes: object) -> list[Tool]:
    return await create_server([Profile(SETTINGS.model_copy(update=settings_changes))]).list_tools()


async def test_the_tools_are_these_in_this_order() -> None:
    assert [tool.name for tool in await list_published_tools()] == [
        "list_access_tokens",
        "get_access_token",
        "audit_access_tokens",
        "list_token_changes",
        "export_access_tokens",
        "create_access_token",
        "update_access_token",
        "delete_access_token",
        "rotate_access_token",
    ]


async def test_a_read_only_server_does_not_list_the_tools_that_write() -> None:
    assert [tool.name for tool in await list_published_tools(read_only=True)] == [
        "list_access_tokens",
        "get_access_token",
        "audit_access_tokens",
        "list_token_changes",
    ]


async def test_a_read_only_server_exports_where_the_operator_has_named_a_folder(tmp_path: Path) -> None:
    tools = await list_published_tools(read_only=True, report_dir=tmp_path)

    assert {tool.name for tool in tools} == READ_TOOLS | {"export_access_tokens"}


async def test_each_tool_is_published_as_its_golden_file_says() -> None:
    """`UPDATE_GOLDEN=1 pytest` writes the files again; a person has to read the difference."""
    tools = {
        tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True)
        for tool in await list_published_tools()
    }
    if os.environ.get("UPDATE_GOLDEN"):
        for name, tool in tools.items():
            (GOLDEN_FOLDER / f"{name}.json").write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n")

    assert tools == {file.stem: json.loads(file.read_text()) for file in GOLDEN_FOLDER.glob("*.json")}


async def test_all_definitions_together_are_small() -> None:
    """Every conversation pays for the definitions, whether it uses a tool or not."""
    tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in await list_published_tools()]

    assert len(json.dumps(tools, separators=(",", ":")).encode()) <= MAX_LISTED_BYTES


async def test_a_model_sees_few_tokens_of_each_tool() -> None:
    sizes = count_model_tokens(await list_published_tools())

    assert mean(sizes.values()) <= MAX_MEAN_MODEL_TOKENS, sizes
    assert max(sizes.values()) <= MAX_MODEL_TOKENS, sizes


async def test_a_model_sees_few_tokens_of_the_tools_that_only_read() -> None:
    sizes = count_model_tokens(await list_published_tools(read_only=True))

    assert mean(sizes.values()) <= MAX_READING_MEAN_MODEL_TOKENS, sizes


async def test_a_second_cluster_costs_few_tokens() -> None:
    profiles = [Profile(SETTINGS.model_copy(update={"host": name}), name) for name in ("production", "lab")]

    sizes = count_model_tokens(await create_server(profiles).list_tools())

    assert mean(sizes.values()) <= MAX_MEAN_MODEL_TOKENS + MAX_CLUSTER_MODEL_TOKENS, sizes


async def test_a_description_says_in_three_lines_what_is_done_what_is_returned_and_what_changes() -> None:
    for tool in await list_published_tools():
        lines = (tool.description or "").split("\n")

        assert all(re.fullmatch(r"[A-Z][^.]+\.", line) for line in lines), lines
        assert [line.split()[0] for line in lines[1:]] == ["Returns", "Changes"], lines


async def test_what_a_description_says_is_returned_has_its_fields() -> None:
    tools = {tool.name: tool for tool in await list_published_tools()}
    assert tools.keys() == RETURNED.keys()
    for name, fields in RETURNED.items():
        returns = (tools[name].description or "").split("\n")[1]
        known = {field for part in walk_schema(tools[name].output_schema or {}) for field in part.get("properties", {})}

        assert [words for words in fields if words not in returns] == [], name
        assert set(fields.values()) <= known, name


async def test_a_tool_changes_tokens_exactly_if_its_description_says_so(tmp_path: Path) -> None:
    for tool in await list_published_tools():
        harness = create_harness("auto", tmp_path / tool.name)
        token = harness.cluster.add_token("1001", creator="500")
        before = deepcopy(harness.cluster.tokens)

        answer = await harness.call(tool.name, choose_arguments(tool, token.id), confirm="none", delivery="inline")

        changes_nothing = (tool.description or "").endswith(("\nChanges nothing.", "\nChanges no token."))
        assert not answer.is_error, answer.text
        assert (harness.cluster.tokens == before) is changes_nothing, tool.name


async def test_defaults_and_bounds_are_in_words_too() -> None:
    """Some hosts pass on only the types and descriptions of a schema."""
    for tool in await list_published_tools():
        for name, argument in tool.input_schema["properties"].items():
            answer = [str(argument[key]) for key in ("minimum", "maximum", "default") if key in argument]
            answer += argument.get("enum", [])

            assert all(re.search(rf"\b{re.escape(word)}\b", argument["description"]) for word in answer), name
            absent = f"default {argument['default']}" if "default" in argument else "if absent"
            assert absent in argument["description"] or name in tool.input_schema["required"], name


async def test_a_pattern_is_one_that_every_host_understands() -> None:
    """It has no class of characters by letter and no lookahead, and matches the whole text, as llama.cpp demands."""
    patterns = [schema["pattern"] for _, schema in await list_published_arguments() if "pattern" in schema]

    assert patterns
    for pattern in patterns:
        assert (pattern[0], pattern[-1]) == ("^", "$")
        assert "\\" not in pattern
        assert "(?" not in pattern


async def test_a_model_that_has_to_write_every_argument_can_write_nothing_for_one_that_may_be_absent() -> None:
    for tool in await list_published_tools():
        for name, schema in tool.input_schema["properties"].items():
            if name not in tool.input_schema.get("required", []) and "pattern" in schema:
                assert re.search(schema["pattern"], ""), (tool.name, name)


@pytest.mark.parametrize("argument", ["user", "expiration_time", "expiring_within"])
async def test_a_pattern_refuses_nothing_but_bare_numbers_which_are_refused_here_too(argument: str) -> None:
    patterns = [s["pattern"] for name, s in await list_published_arguments() if name == argument and "pattern" in s]

    @given(number=st.integers(0, 10**30), text=st.text(st.characters(exclude_characters="\n"), min_size=1))
    def check(number: int, text: str) -> None:
        with pytest.raises((ValueError, Refusal)):
            PARSERS[argument](str(number))
        assert not any(re.search(pattern, str(number)) for pattern in patterns)
        if not re.fullmatch("[0-9]+", text):
            assert all(re.search(pattern, text) for pattern in patterns)

    check()


async def test_what_may_be_left_out_of_an_answer_has_the_default_that_its_description_tells() -> None:
    """Typed clients fill in the default; without one, the `enabled` of a live token would be null."""
    found: set[str] = set()
    for tool in await list_published_tools():
        for part in walk_schema(tool.output_schema or {}):
            answer = str(part.get("description", "")).removeprefix("Absent: ")
            if answer in {"true", "false"}:
                assert part["default"] is (answer == "true")
                found.add(answer)
            else:
                assert "default" not in part

    assert found == {"true", "false"}


async def test_the_hints_are_true() -> None:
    """An export writes another file at each call. A tool that creates a credential counts as destructive."""
    hints = {tool.name: tool.annotations for tool in await list_published_tools()}

    assert {name for name, answer in hints.items() if answer and answer.read_only_hint} == READ_TOOLS
    assert {name for name, answer in hints.items() if answer and not answer.destructive_hint} == READ_TOOLS | {
        "export_access_tokens"
    }
    assert {name for name, answer in hints.items() if answer and answer.idempotent_hint} == READ_TOOLS | {
        "delete_access_token"
    }


@pytest.mark.parametrize("level", ["1", "2"])
async def test_nothing_that_is_described_depends_on_docstrings_or_assertions(level: str) -> None:
    """With PYTHONOPTIMIZE, Python leaves out assertions, and at level 2 docstrings too."""
    environment = os.environ | {"PYTHONOPTIMIZE": level}
    server = StdioServerParameters(command=COMMAND, args=["--demo"], env=environment)
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(server) as client:
            tools, prompts = (await client.list_tools()).tools, (await client.list_prompts()).prompts
        helped = [(await anyio.run_process([COMMAND, "--help"], env=env)).stdout for env in (environment, os.environ)]

    assert [tool.description for tool in tools] == [tool.description for tool in await list_published_tools()]
    assert all(prompt.description for prompt in prompts)
    assert helped[0] == helped[1]


async def test_what_never_changes_may_be_kept_for_an_hour_by_whoever_asked() -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(create_server([Profile(SETTINGS)])) as client:
            kept = [
                client.session.discover_result,
                await client.list_tools(),
                await client.list_prompts(),
                await client.list_resources(),
                await client.list_resource_templates(),
            ]

    assert [(answer.ttl_ms, answer.cache_scope) for answer in kept if answer] == [(3_600_000, "private")] * 5


async def test_no_schema_has_a_reference_a_union_or_a_title() -> None:
    for tool in await list_published_tools():
        for schema in (tool.input_schema, tool.output_schema or {}):
            for part in walk_schema(schema):
                assert part.keys().isdisjoint({"$ref", "$defs", "anyOf", "oneOf", "allOf", "title"})


async def test_each_tool_takes_its_own_arguments_only_and_describes_each() -> None:
    for tool in await list_published_tools():
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument["description"] for argument in tool.input_schema["properties"].values())


async def test_each_tool_has_a_title_and_all_four_hints() -> None:
    for tool in await list_published_tools():
        assert tool.title
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values()


async def test_an_output_is_an_object_whose_lists_hold_flat_objects() -> None:
    for tool in await list_published_tools():
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        for name, part in tool.output_schema["properties"].items():
            inner = part.get("items", {}).get("properties", {})
            assert part["type"] != "object", name
            assert all(field["type"] not in {"object", "array"} for field in inner.values()), name


async def list_published_arguments() -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the schema of each argument of each tool."""
    return [argument for tool in await list_published_tools() for argument in tool.input_schema["properties"].items()]


def count_model_tokens(tools: Sequence[Tool]) -> dict[str, int]:
    """Return how many tokens of o200k_base a model reads of each tool."""
    shown = [{"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema} for tool in tools]
    texts = [json.dumps(definition, separators=(",", ":"), ensure_ascii=False) for definition in shown]
    return dict(zip([tool.name for tool in tools], toktok.batch_count(texts, "o200k_base"), strict=True))


def choose_arguments(tool: Tool, token_id: str) -> dict[str, Any]:
    """Return what a tool can be called with: a user, their token, and that it is to be disabled."""
    values = {"id": token_id, "user": "local:jane", "enabled": False}
    return {name: value for name, value in values.items() if name in tool.input_schema["properties"]}


def walk_schema(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schema and every schema in it, but not the objects that hold properties by name."""
    yield schema
    for part in schema.get("properties", {}).values():
        yield from walk_schema(part)
    if "items" in schema:
        yield from walk_schema(schema["items"])
