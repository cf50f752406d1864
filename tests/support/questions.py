"""The two rounds of a call that needs consent, as a client of the newer era makes them, and a plan to ask about."""

from collections.abc import Mapping

from mcp.client import Client
from mcp.types import CallToolResult, ElicitResult, InputRequiredResult

from tests.support.harness import AGREES, NEVER_EXPIRING_REQUEST
from token_tools.operations.consent import Plan
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal


async def call_until_question(client: Client, **others: str) -> tuple[Mapping[str, ElicitResult], str | None]:
    """Make the first call. Return an agreeing answer to each of its questions, and the state to send with them."""
    asked = await client.session.call_tool(
        "create_access_token", NEVER_EXPIRING_REQUEST | others, allow_input_required=True
    )
    assert isinstance(asked, InputRequiredResult)
    assert asked.input_requests is not None
    return dict.fromkeys(asked.input_requests, AGREES), asked.request_state


async def call_with_answers(
    client: Client, answers: Mapping[str, ElicitResult], state: str | None, **others: str
) -> CallToolResult | InputRequiredResult:
    """Repeat the call with answers and state."""
    return await client.session.call_tool(
        "create_access_token",
        NEVER_EXPIRING_REQUEST | others,
        input_responses={**answers},
        request_state=state,
        allow_input_required=True,
    )


class ExamplePlan(Plan):
    """A plan to create a token for somebody."""

    def draft_entry(self, journal: Journal, mandate: Mandate, outcome: Outcome, reason: str | None = None) -> Attempt:
        """Return an entry that tells as little as one can."""
        return journal.draft("create", "somebody", mandate, outcome=outcome, reason=reason)
