"""The published interface: changed only on purpose, and readable for every client."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.types import Tool
from pydantic import SecretStr

from token_tools.server import create_server
from token_tools.settings import Settings

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).with_name("tool_schemas")


async def published(*, read_only: bool = False) -> list[Tool]:
    settings = Settings(host="cluster.example.com", bearer_token=SecretStr("access-v1:own"), read_only=read_only)
    return await create_server(settings).list_tools()


async def test_the_tools_are_these_in_this_order() -> None:
    assert [tool.name for tool in await published()] == [
        "list_access_tokens",
        "get_access_token",
        "audit_access_tokens",
        "create_access_token",
        "update_access_token",
        "delete_access_token",
        "rotate_access_token",
    ]


async def test_a_read_only_server_does_not_list_the_tools_that_write() -> None:
    assert [tool.name for tool in await published(read_only=True)] == [
        "list_access_tokens",
        "get_access_token",
        "audit_access_tokens",
    ]


async def test_each_tool_is_published_as_its_golden_file_says() -> None:
    """`UPDATE_GOLDEN=1 pytest` writes the files anew; the difference is for a human to read."""
    tools = {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in await published()}
    if os.environ.get("UPDATE_GOLDEN"):
        for name, tool in tools.items():
            (GOLDEN / f"{name}.json").write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n")

    assert tools == {file.stem: json.loads(file.read_text()) for file in GOLDEN.glob("*.json")}


async def test_all_definitions_together_are_small() -> None:
    """Every conversation pays for them, whether it uses a tool or not."""
    tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in await published()]

    assert len(json.dumps(tools, separators=(",", ":")).encode()) < 9_600


async def test_no_schema_has_a_reference_a_union_or_a_title() -> None:
    for tool in await published():
        for schema in (tool.input_schema, tool.output_schema or {}):
            for part in parts_of(schema):
                assert part.keys().isdisjoint({"$ref", "$defs", "anyOf", "oneOf", "allOf", "title"})


async def test_each_tool_takes_its_own_arguments_only_and_describes_each() -> None:
    for tool in await published():
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument["description"] for argument in tool.input_schema["properties"].values())


async def test_each_tool_has_a_title_and_all_four_hints() -> None:
    for tool in await published():
        assert tool.title
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values()


async def test_an_output_is_an_object_whose_lists_hold_flat_objects() -> None:
    for tool in await published():
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        for name, part in tool.output_schema["properties"].items():
            inner = part.get("items", {}).get("properties", {})
            assert part["type"] != "object", name
            assert all(field["type"] not in {"object", "array"} for field in inner.values()), name


def parts_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and every schema in it; not the objects that hold properties by name."""
    yield schema
    for part in schema.get("properties", {}).values():
        yield from parts_of(part)
    if "items" in schema:
        yield from parts_of(schema["items"])
