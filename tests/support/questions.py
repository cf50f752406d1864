"""Calls that a client carries on by hand, from the question to the answer."""

from collections.abc import Mapping

from mcp.client import Client
from mcp.types import CallToolResult, ElicitResult, InputRequiredResult

from tests.support.harness import AGREES, NEVER_EXPIRING_REQUEST


async def call_until_question(client: Client) -> tuple[Mapping[str, ElicitResult], str | None]:
    """The answers to the questions of a first call, and the state that goes with them; only in the newer era."""
    asked = await client.session.call_tool("create_access_token", NEVER_EXPIRING_REQUEST, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult)
    assert asked.input_requests is not None
    return dict.fromkeys(asked.input_requests, AGREES), asked.request_state


async def call_with_answers(
    client: Client, answers: Mapping[str, ElicitResult], state: str | None
) -> CallToolResult | InputRequiredResult:
    """The same call again, with the answers."""
    return await client.session.call_tool(
        "create_access_token",
        NEVER_EXPIRING_REQUEST,
        input_responses={**answers},
        request_state=state,
        allow_input_required=True,
    )
