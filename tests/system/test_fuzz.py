"""Calls with arguments drawn from and around the published schemas, through a real client to the command over stdio.

`pytest tests/system/test_fuzz.py --hypothesis-profile=long` makes 10,000 of them instead of a few hundred.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as PublishedTool

from tests.support.harness import MAX_ANSWER_CHARACTERS
from tests.support.sandbox_process import BIN_FOLDER

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60
MAX_GROWTH_BYTES = 15 << 20
"""Bytes that the process may have grown by at the end of the long run: about what its caches take."""

WORD_VALUES = st.sampled_from(
    [
        *(
            "self",
            "jane",
            "local:jane",
            r"ad:CORP\jane",
            "ldap_user:bob",
            "uid:1000",
            "auth_id:500",
            "sid:S-1-5-21-1-2-3",
        ),
        *(
            "90d",
            "P90D",
            "never",
            "2027-01-31T17:00:00Z",
            "2027-01-31",
            "tomorrow",
            "yes",
            "10",
            "csv",
            "",
            " ",
            "null",
        ),
    ]
)
JUNK_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.text(min_size=3000, max_size=3000),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
UNKNOWN_ARGUMENT_NAMES = st.sampled_from(
    ["username", "ttl", "token_id", "format", "confirm", "x" * 200, "\u202e"]
) | st.text(max_size=10)


@dataclass(frozen=True)
class KnownId:
    """Stands for an id from a recent answer; the call chooses which."""

    number: int


class FuzzedServer:
    """The server, the tools that it publishes, and the ids of tokens in its answers."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal, self._client = portal, client
        self.tools: Mapping[str, PublishedTool] = {tool.name: tool for tool in portal.call(client.list_tools).tools}
        self.ids = ["1", "0" * 64]
        self.calls = 0

    def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Make one call, and remember the ids in its answer."""
        chosen = {key: self._replace_known_ids(value) for key, value in arguments.items()}
        result: CallToolResult = self._portal.call(self._client.call_tool, name, chosen)
        self.calls += 1
        answer: dict[str, Any] = result.structured_content or {}
        tokens: list[dict[str, str]] = answer.get("tokens", [])
        self.ids = [token["id"] for token in tokens] or self.ids
        return result

    def _replace_known_ids(self, value: object) -> object:
        return self.ids[value.number % len(self.ids)] if isinstance(value, KnownId) else value


@contextmanager
def fuzzed_server(folder: Path) -> Generator[FuzzedServer]:
    """Start the command on its embedded cluster; it asks nobody before a change."""
    server = StdioServerParameters(
        command=str(BIN_FOLDER / "qumulo-token-tools"),
        args=["--demo", "--confirm", "none", "--delivery-dir", str(folder / "tokens")],
        env={"XDG_STATE_HOME": str(folder), "HOME": str(folder)},
    )
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(server, read_timeout_seconds=TIMEOUT_SECONDS)) as client,
    ):
        yield FuzzedServer(portal, client)


def draw_arguments(data: st.DataObject, tool: PublishedTool) -> dict[str, Any]:
    """Draw arguments: mostly what the schema wants, sometimes anything, sometimes fewer or more."""
    arguments: dict[str, Any] = {}
    for name, schema in tool.input_schema["properties"].items():
        if name in tool.input_schema.get("required", []) or data.draw(st.booleans()):
            arguments[name] = data.draw(st.one_of(valid_values(name, schema), JUNK_VALUES, WORD_VALUES))
    if data.draw(st.integers(0, 9)) == 0:
        arguments[data.draw(UNKNOWN_ARGUMENT_NAMES)] = data.draw(JUNK_VALUES)
    if arguments and data.draw(st.integers(0, 9)) == 0:
        del arguments[data.draw(st.sampled_from(sorted(arguments)))]
    return arguments


def valid_values(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema:
        case {"enum": values}:
            return st.sampled_from(values)
        case {"type": "integer"}:
            return st.integers(schema["minimum"], schema["maximum"])
        case {"type": "boolean"}:
            return st.booleans()
        case _ if name == "id":
            return st.builds(KnownId, st.integers(0, 49))
        case _:
            return WORD_VALUES


def memory_of_children() -> int:
    """Return the memory of this process's children in bytes, if the system can say."""
    children = [
        Path("/proc", child) for task in Path("/proc/self/task").glob("*/children") for child in read_words(task)
    ]
    return sum(int((child / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for child in children)


def read_words(path: Path) -> list[str]:
    return path.read_text().split()


def test_no_call_whatever_breaks_the_server(tmp_path: Path) -> None:
    with fuzzed_server(tmp_path) as fuzzed:
        started_with = 0

        @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=settings().max_examples * 3)
        @given(st.data())
        def call_it(data: st.DataObject) -> None:
            nonlocal started_with
            tool = fuzzed.tools[data.draw(st.sampled_from(sorted(fuzzed.tools)))]
            result = fuzzed.call(tool.name, draw_arguments(data, tool))
            [block] = result.content
            assert isinstance(block, TextContent)
            assert block.text
            assert not block.text.startswith("Error executing tool")
            assert len(block.text) <= MAX_ANSWER_CHARACTERS
            assert len(json.dumps(result.structured_content)) <= MAX_ANSWER_CHARACTERS
            if fuzzed.calls == 100:
                started_with = memory_of_children()

        call_it()

        assert not fuzzed.call("list_access_tokens", {}).is_error
        assert fuzzed.calls >= 3 * settings().max_examples
        assert memory_of_children() - started_with < MAX_GROWTH_BYTES
