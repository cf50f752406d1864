"""Offering a person the page at which a new bearer token waits, if the client can open an address for them.

The token is there by then, and nothing depends on this: whatever becomes of the offer, the model is told the address.
A client of the older era gets the offer during the call. One of the newer era gets it in place of the answer, with the
answer sealed beside it. It calls again for that answer, and any server with the keys gives it.
"""

from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import anyio
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ClientCapabilities, ElicitRequest, ElicitRequestURLParams, InputRequiredResult
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from token_tools.errors import Refusal
from token_tools.server.callers import get_services
from token_tools.server.elicitation.asking import AskingTool
from token_tools.server.elicitation.questions import render_page_offer
from token_tools.storage.delivery import DeliveredToken, PickupLocation

OFFER_TIMEOUT: Final = timedelta(seconds=30)
"""How long an answer waits for a person who is offered a page. Hosts give up a call after a minute."""

_STATE_PREFIX: Final = "answered:"
"""What tells an answer that was put off from what the SDK keeps about questions, which is JSON."""

_OFFER: Final[ContextVar[ElicitRequestURLParams | None]] = ContextVar("offer")
"""The offer that the current tool call has for a person, None as long as it has none."""


class _PutOffAnswer(BaseModel):
    """An answer that its caller, and nobody else, gets once they call again. It has no secret."""

    caller: str
    answer: CallToolResult


class OfferingTool(AskingTool):
    """A tool that creates a token, and offers a person the page at which its bearer token waits."""

    async def execute(self, arguments: dict[str, Any], context: Context[Any, Any], *, convert_result: bool) -> object:
        """Run the tool, and make the offer; or return the answer that was put off for an offer.

        Raises:
            ToolError: If the tool fails; the SDK raises it.
            Refusal: If a question came back without an answer, or if it is somebody else's answer that was put off.
        """
        if (put_off := _find_put_off(context)) is not None:
            return put_off
        _OFFER.set(None)
        answer = await super().execute(arguments, context, convert_result=convert_result)
        offer = _OFFER.get()
        if offer is None or not isinstance(answer, CallToolResult) or not _can_open(context.client_capabilities):
            return answer
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return _put_off(answer, offer, get_services(context).caller.id)
        await _offer_during_call(context, offer)
        return answer


def note_delivered(delivered: DeliveredToken) -> None:
    """Note where the bearer token of the current tool call went; if it waits at a page, that is offered."""
    if isinstance(delivered.location, PickupLocation):
        _OFFER.set(ElicitRequestURLParams(message=render_page_offer(delivered.id), url=delivered.location.url))


def _can_open(capabilities: ClientCapabilities | None) -> bool:
    elicitation = None if capabilities is None else capabilities.elicitation
    return elicitation is not None and elicitation.url is not None


async def _offer_during_call(context: Context[Any, Any], offer: ElicitRequestURLParams) -> None:
    timeout = min(OFFER_TIMEOUT, get_services(context).consent_timeout)
    # The token is there, so the answer is given whatever the client does.
    with suppress(MCPError, ValidationError), anyio.move_on_after(timeout.total_seconds()):
        await context.elicit_url(offer.message, offer.url, str(uuid4()))


def _put_off(answer: CallToolResult, offer: ElicitRequestURLParams, caller: str) -> InputRequiredResult:
    # The SDK seals the state, and binds it to the tool and its arguments.
    state = _PutOffAnswer(caller=caller, answer=answer).model_dump_json(by_alias=True, exclude_none=True)
    return InputRequiredResult(
        input_requests={"page": ElicitRequest(params=offer)}, request_state=f"{_STATE_PREFIX}{state}"
    )


def _find_put_off(context: Context[Any, Any]) -> CallToolResult | None:
    """Return the answer that a call comes back for, None for any other call.

    Raises:
        Refusal: If it is somebody else's.
    """
    state = context.request_state
    if state is None or not state.startswith(_STATE_PREFIX):
        return None
    put_off = _PutOffAnswer.model_validate_json(state.removeprefix(_STATE_PREFIX))
    if put_off.caller != get_services(context).caller.id:
        raise Refusal("This call came back for the answer to somebody else's call.")
    return put_off.answer
