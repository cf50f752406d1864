"""Test that the published interface changes only on purpose and is readable for every client."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import Tool
from pydantic import SecretStr

from tests.support.json_rpc import COMMAND
from token_tools.configuration import Profile
from token_tools.server.app import create_server
from token_tools.settings import Settings

pytestmark = pytest.mark.anyio

GOLDEN_FOLDER = Path(__file__).with_name("tool_schemas")
TIMEOUT_SECONDS = 60
MAX_DEFINITION_BYTES = 1_300
"""What a model sees of a tool: its name, its description and the schema of its arguments."""
MAX_LISTED_BYTES = 11_500
"""All that a server lists of its tools, their hints and the schemas of their results included."""
READ_TOOLS = {"list_access_tokens", "get_access_token", "audit_access_tokens", "list_token_changes"}
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
    for tool in tools:
        shown = {name: tool[name] for name in ("name", "description", "inputSchema")}
        assert len(json.dumps(shown, separators=(",", ":")).encode()) <= MAX_DEFINITION_BYTES, tool["name"]


async def test_a_description_has_a_line_for_each_sentence_and_says_what_is_returned() -> None:
    for tool in await list_published_tools():
        lines = (tool.description or "").split("\n")

        assert all(re.fullmatch(r"[A-Z][^.]+\.", line) for line in lines), lines
        assert any(line.startswith("Returns ") for line in lines)
        assert any(line.startswith("Changes no") for line in lines) is (
            tool.name in READ_TOOLS | {"export_access_tokens"}
        )


async def test_defaults_and_bounds_are_in_words_too() -> None:
    """Some hosts pass on only the types and descriptions of a schema."""
    for tool in await list_published_tools():
        for name, argument in tool.input_schema["properties"].items():
            answer = [str(argument[key]) for key in ("minimum", "maximum", "default") if key in argument]
            answer += argument.get("enum", [])

            assert all(re.search(rf"\b{re.escape(word)}\b", argument["description"]) for word in answer), name
            assert "absent" in argument["description"] or name in tool.input_schema["required"], name


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


def walk_schema(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schema and every schema in it, but not the objects that hold properties by name."""
    yield schema
    for part in schema.get("properties", {}).values():
        yield from walk_schema(part)
    if "items" in schema:
        yield from walk_schema(schema["items"])
