"""Asking a person over the protocol: the form, the time for an answer, and what it means if no yes comes back."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Annotated, Any, Final, cast

import anyio
from mcp.server.elicitation import AcceptedElicitation, DeclinedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from token_tools.errors import Refusal, TokenToolsError
from token_tools.operations.consent import NoConsent, NotAgreed
from token_tools.operations.fleet import Fleet
from token_tools.operations.services import Services
from token_tools.server.callers import get_services, record_refusal
from token_tools.server.elicitation.questions import AnyPlan, render_no_consent
from token_tools.server.strict_tool import StrictTool
from token_tools.storage.attempts import Mandate, Operation

CONSENT_TIMEOUT: Final = timedelta(minutes=5)
"""How long a call waits for a person's answer."""

_CALL_SCOPE: Final[ContextVar[anyio.CancelScope]] = ContextVar("call_scope")
"""The scope of the current tool call, whose deadline is the consent timeout while a question is open."""

_REFUSE: Final[ContextVar[Callable[[NoConsent], Refusal]]] = ContextVar("refuse")
"""The function that builds the refusal of the current tool call, once a question was asked in it."""


class ConsentAnswer(BaseModel):
    """What a person answers; `agree` is None if the client sent neither true nor false."""

    agree: Annotated[bool | None, BeforeValidator(lambda given: given if isinstance(given, bool) else None)] = None

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the form. It uses only what the specification lists, since some clients take no more.

        Without the default, other clients show the form with the tick set.
        """
        tick = {
            "type": "boolean",
            "title": "Yes, do this",
            "description": "Set this tick to agree; accepting without it does nothing.",
            "default": False,
        }
        return {"type": "object", "properties": {"agree": tick}, "required": ["agree"]}


class AskingTool(StrictTool):
    """A tool that asks a person before it does what needs their consent."""

    async def execute(self, arguments: dict[str, Any], context: Context[Any, Any], *, convert_result: bool) -> object:
        """Run the tool; a question that is asked in it has to be answered in time.

        Raises:
            ToolError: If the tool fails; the SDK raises it.
            Refusal: If a question came back without an answer.
        """
        with anyio.CancelScope() as scope:
            _CALL_SCOPE.set(scope)
            try:
                return await super().execute(arguments, context, convert_result=convert_result)
            except MCPError:
                # The only thing that a client is asked for during a call is a person's answer.
                raise _REFUSE.get()("failed") from None
            except ToolError as failure:
                if isinstance(failure.__cause__, ToolError):
                    # Only the SDK raises these, about an answer without the field that was asked for.
                    raise _REFUSE.get()("not_boolean") from None
                raise
        raise _REFUSE.get()("timed_out")

    async def on_failure(
        self, failure: TokenToolsError, arguments: Mapping[str, Any], context: Context[Any, Any]
    ) -> None:
        """Record a call that was refused, or that a person did not agree to."""
        if not isinstance(failure, Refusal):
            return
        operation = cast(Operation, self.name.partition("_")[0])
        await record_refusal(get_services(context), operation, arguments, failure)


def consent_resolver(plan_resolver: Callable[..., Awaitable[AnyPlan]]) -> Resolve:
    """Return the resolver that asks a person about a plan, or answers yes where nobody has to be asked."""

    async def ask_for_consent(
        ctx: Context[Fleet], plan: Annotated[AnyPlan, Resolve(plan_resolver)]
    ) -> Elicit[ConsentAnswer] | ConsentAnswer:
        if plan.question is None:
            return ConsentAnswer(agree=True)
        services = get_services(ctx)
        _CALL_SCOPE.get().deadline = anyio.current_time() + services.consent_timeout.total_seconds()
        _REFUSE.set(lambda no_consent: _explain_no_consent(services, plan, no_consent))
        # The SDK accepts an answer only for exactly the text that was asked.
        return Elicit(plan.question, ConsentAnswer)

    return Resolve(ask_for_consent)


async def require_consent(ctx: Context[Fleet], answer: ElicitationResult[ConsentAnswer], plan: AnyPlan) -> Services:
    """Return the services that carry out the plan, if a person agreed to it or no consent was needed.

    An answer counts once, over all servers.

    Raises:
        Refusal: If consent was needed and there is none, or if the answer was used before.
        JournalError: If it cannot be written that the question is answered.
    """
    # The question is answered, so the consent timeout no longer bounds the call.
    _CALL_SCOPE.get().deadline = math.inf
    services = get_services(ctx)
    if plan.question is not None:
        services.pending_plans.discard(plan)
        await services.journal.spend_question(plan.question_id)
    if (no_consent := _find_no_consent(answer)) is not None:
        raise _explain_no_consent(services, plan, no_consent)
    services.pending_plans.reset_no_consent_count(services.caller.id, plan)
    return services


def _find_no_consent(answer: ElicitationResult[ConsentAnswer]) -> NoConsent | None:
    """Return why an answer is no consent; None if it is a yes."""
    match answer:
        case AcceptedElicitation(data=ConsentAnswer(agree=None)):
            return "not_boolean"
        case AcceptedElicitation(data=ConsentAnswer(agree=agree)):
            return None if agree else "not_ticked"
        case DeclinedElicitation():
            return "declined"
        case _:
            return "dismissed"


def _explain_no_consent(services: Services, plan: AnyPlan, no_consent: NoConsent) -> Refusal:
    """Explain why a plan is not carried out that was asked about without a yes, and what leads on."""
    times = services.pending_plans.count_no_consent(services.caller.id, plan)
    entry = plan.draft_entry(
        services.journal,
        Mandate(services.actor, "declined", plan.question_id),
        "declined",
        reason=no_consent.replace("_", " "),
    )
    return NotAgreed(render_no_consent(plan, services.qq, no_consent, times=times), entry)
