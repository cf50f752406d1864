"""Arguments of the wrong kind end at the tool: the cluster hears nothing, and the answer alone says what to write."""

from typing import Annotated, Any

import anyio
import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from tests.bench import PATIENCE, Bench, Told
from token_tools.calls import StrictTool

pytestmark = pytest.mark.anyio


class Switched(BaseModel):
    """What the switch of a test gives."""

    enabled: bool


@pytest.mark.parametrize("tool", ["list_access_tokens", "create_access_token"])
@pytest.mark.parametrize(
    "user", [{"oops": 1}, {}, True, ["jane"], 1e30], ids=["other", "empty", "truth", "list", "float"]
)
async def test_a_user_that_is_no_text_is_refused_with_the_forms_that_there_are(
    bench: Bench, tool: str, user: object
) -> None:
    told = await bench.refused(tool, {"user": user})

    assert bench.recorder.requests == []
    assert "`user` must be text. " in told
    assert r"self, local:NAME, ad:DOMAIN\NAME" in told


async def test_a_flood_of_arguments_is_refused_in_one_sentence(bench: Bench) -> None:
    told = await bench.refused("list_access_tokens", {f"a{number}": 1 for number in range(2_000)})

    assert told == "These are 2,000 arguments. list_access_tokens takes user, after, limit."


@pytest.mark.parametrize("arguments", [{"limit": True}, {"limit": False}], ids=["true", "false"])
async def test_a_truth_value_is_no_number(bench: Bench, arguments: dict[str, Any]) -> None:
    told = await bench.refused("list_access_tokens", arguments)

    assert bench.recorder.requests == []
    assert told == "`limit` must be a whole number from 1 to 200."


async def test_a_truth_value_is_taken_where_one_belongs_and_nothing_else_is() -> None:
    def switch(enabled: Annotated[bool, Field(description="On or off.")]) -> Switched:
        return Switched(enabled=enabled)

    tool = StrictTool.publish(switch, title="Switch", annotations=ToolAnnotations())
    with anyio.fail_after(PATIENCE):
        async with Client(MCPServer("switches", tools=[tool])) as client:
            switched = Told.of(await client.call_tool("switch", {"enabled": True}))
            refused = Told.of(await client.call_tool("switch", {"enabled": "perhaps"}))

    assert switched.fields == {"enabled": True}
    assert refused.text == "Nothing was done. `enabled` must be true or false, as JSON writes them."


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"user": 500},
            "`user` must be text. Write uid:500, auth_id:500 or name:500.",
        ),
        ({"user": {"auth_id": "500"}}, "`user` must be text. Write auth_id:500."),
        (
            {"user": "jane", "expiration_time": 90},
            "`expiration_time` must be text with a unit: write 90d or 90h or 90s.",
        ),
        (
            {"user": "jane", "expiration_time": 1801414800},
            "`expiration_time` must be text with a unit: write 2027-01-31T17:00:00Z if it counts from 1970.",
        ),
        (
            {"user": "jane", "ttl": "90d"},
            'create_access_token has no argument "ttl"; nearest is `expiration_time`: Duration from now (90d, 12h, '
            "P90D), time with offset (2027-01-31T17:00:00Z), or never. The operator's default if absent. "
            "It takes user, expiration_time.",
        ),
    ],
    ids=["number", "object", "number-without-unit", "number-of-seconds", "unknown"],
)
async def test_one_answer_is_enough_to_write_it_right(bench: Bench, arguments: dict[str, Any], told: str) -> None:
    assert told in await bench.refused("create_access_token", arguments)
