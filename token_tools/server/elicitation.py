"""Asking a person over the protocol: the form, the question, and what it means if no yes comes back.

A question tells everything as the server found it, and nothing as a model said it. What a person has to agree to, and
which plans wait for an answer, is in `operations.consent`.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Annotated, Any, Final, assert_never

import anyio
from mcp.server.elicitation import AcceptedElicitation, DeclinedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp.types import ClientCapabilities
from pydantic import BaseModel, BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from token_tools.cluster.clock import render_clock_note
from token_tools.cluster.identity import Identity, format_name
from token_tools.cluster.qq import Qq
from token_tools.errors import Refusal
from token_tools.operations.consent import NoConsent
from token_tools.operations.create import CreatePlan
from token_tools.operations.delete import DeletePlan
from token_tools.operations.next_steps import DISABLE_FIRST_ADVICE
from token_tools.operations.rotate import RotatePlan
from token_tools.operations.services import Services
from token_tools.operations.token_limit import MAX_TOKENS_PER_USER
from token_tools.operations.update import UpdatePlan
from token_tools.quoting import truncate
from token_tools.redaction import redact
from token_tools.server.strict_tool import StrictTool
from token_tools.views.new_tokens import render_expiry, render_open_intents

REPEATS_BEFORE_NOTICE: Final = 2
"""Once so many questions in a row got no yes, the answer says how many there were."""

AnyPlan = CreatePlan | UpdatePlan | DeletePlan
"""A plan of any kind; a rotate is planned as a create."""

_CALL_SCOPE: Final[ContextVar[anyio.CancelScope]] = ContextVar("call_scope")
"""The scope of the current tool call, whose deadline is the consent timeout while a question is open."""

_REFUSE: Final[ContextVar[Callable[[NoConsent], Refusal]]] = ContextVar("refuse")
"""The function that builds the refusal of the current tool call, once a question was asked in it."""

_NO_CONSENT_TEXTS: Final[Mapping[NoConsent, tuple[str, str]]] = {
    "declined": (
        "The question was answered with no, by a person or by the client itself.",
        "Call again only if a person wants it all the same.",
    ),
    "dismissed": (
        "The question was not answered (dismissed by a person or by the client).",
        "Call again only if a person wants to be asked again.",
    ),
    "not_ticked": (
        "The form was sent without its tick, which some clients do for a no; only the tick means yes.",
        "Ask the person, and call again only if they meant yes.",
    ),
    "not_boolean": (
        "The client sent no answer to `agree` that is true or false.",
        "Ask the person, and call again only if they meant yes and this client shows them a tick to set.",
    ),
    "failed": (
        "The question came back with an error or with what cannot be read: whether a person saw it is not known.",
        "Call again only if a person wants to be asked again.",
    ),
    "timed_out": ("Nobody answered the question in time.", "Call again when a person is there to answer."),
}
"""What happened, as far as it is known, and when it makes sense to ask again."""


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


def consent_resolver(plan_resolver: Callable[..., Awaitable[AnyPlan]]) -> Resolve:
    """Return the resolver that asks a person about a plan, or answers yes where nobody has to be asked."""

    async def ask_for_consent(
        ctx: Context[Services], plan: Annotated[AnyPlan, Resolve(plan_resolver)]
    ) -> Elicit[ConsentAnswer] | ConsentAnswer:
        if not plan.needs_consent:
            return ConsentAnswer(agree=True)
        services = ctx.request_context.lifespan_context
        if not _can_show_forms(ctx.client_capabilities):
            raise Refusal(
                f"A person has to agree to this first ({_render_reasons(plan)}), and this client cannot ask them. "
                f"{_render_manual_command(plan, services.qq)}"
            )
        _CALL_SCOPE.get().deadline = anyio.current_time() + services.consent_timeout.total_seconds()
        _REFUSE.set(lambda no_consent: _explain_no_consent(services, plan, no_consent))
        # The SDK accepts an answer only for exactly the text that was asked, so a repeated question needs the same
        # text.
        question = services.pending_plans.get_question(
            plan, lambda: redact(truncate(_render_question(plan, services.address)))
        )
        return Elicit(question, ConsentAnswer)

    return Resolve(ask_for_consent)


def _can_show_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether the client shows forms. An empty declaration means them: once there was nothing else to declare."""
    elicitation = None if capabilities is None else capabilities.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def require_consent(ctx: Context[Services], answer: ElicitationResult[ConsentAnswer], plan: AnyPlan) -> Services:
    """Return the services that carry out the plan, if a person agreed to it or no consent was needed.

    Raises:
        Refusal: If consent was needed and there is none.
    """
    # The question is answered, so the consent timeout no longer bounds the call.
    _CALL_SCOPE.get().deadline = math.inf
    services = ctx.request_context.lifespan_context
    if (no_consent := _find_no_consent(answer)) is not None:
        services.pending_plans.consume(plan)
        raise _explain_no_consent(services, plan, no_consent)
    services.pending_plans.reset_no_consent_count(plan)
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
    """Explain why a plan is not carried out for lack of consent, and what to do instead."""
    what, when = _NO_CONSENT_TEXTS[no_consent]
    times = services.pending_plans.count_no_consent(plan)
    if times >= REPEATS_BEFORE_NOTICE:
        when = f"The same was asked {times} times now without a yes: ask again only if a person wants to be."
    return Refusal(
        f"{what} It is asked because {_render_reasons(plan)}. {when} {_render_manual_command(plan, services.qq)}"
    )


def _render_reasons(plan: AnyPlan) -> str:
    return " and ".join(risk.reason for risk in plan.risks) or "QUMULO_CONFIRM=all"


def _render_question(plan: AnyPlan, address: str) -> str:
    """Render the whole question: what would be done to whom on which cluster, and why it is asked."""
    match plan:
        case CreatePlan():
            question = _render_create_question(plan, address)
        case UpdatePlan():
            question = _render_update_question(plan, address)
        case DeletePlan():
            question = _render_delete_question(plan, address)
        case _:  # pragma: no cover - the type checkers know that there is no other kind
            assert_never(plan)
    text = " ".join(filter(None, [question, render_clock_note(plan.clock_ahead)]))
    return f"{text} Asked because {_render_reasons(plan)}. [question {plan.question_id}]"


def _render_manual_command(plan: AnyPlan, qq: Qq) -> str:
    """Render what to do if no person can be asked: run the command that does the same, or use another client."""
    match plan:
        case CreatePlan():
            request = plan.create_request
            command: str | None = qq.create_token(request.user, request.expires, f"access-token-{plan.question_id}")
        case UpdatePlan():
            command = qq.update_token(plan.token.id, plan.token.state, plan.wanted)
        case DeletePlan():
            command = qq.delete_token(plan.token.id)
        case _:  # pragma: no cover - the type checkers know that there is no other kind
            assert_never(plan)
    if command is None:
        return "qq cannot clear an expiry, so it takes a client that shows a person this server's questions."
    return f"It is not for you to run, but a person can do it by hand: {command}"


def _render_create_question(plan: CreatePlan, address: str) -> str:
    user, current_tokens = plan.create_request.user, plan.create_request.current_tokens
    action = (
        f"Make a second access token, to replace {plan.old_token.id}, for"
        if isinstance(plan, RotatePlan)
        else "Make an access token for"
    )
    used = (
        f"How many of the {MAX_TOKENS_PER_USER} possible tokens the user has now is not known."
        if current_tokens is None
        else f"The user has {len(current_tokens)} of {MAX_TOKENS_PER_USER} possible tokens now."
    )
    sentences = [
        f"{action} the user {_render_user(user)} on the cluster {address}? Whoever has it can act as that user.",
        f"It {render_expiry(plan)}.",
        used,
        render_open_intents(plan),
    ]
    return " ".join(filter(None, sentences))


def _render_update_question(plan: UpdatePlan, address: str) -> str:
    token, now = plan.token, plan.time
    return (
        f"Change the access token {token.id} of the user {_render_user(token.user)} on the cluster {address}? "
        f"Now: {token.render_lifetime(now=now)}. Then: {plan.wanted.render(now=now)}."
    )


def _render_delete_question(plan: DeletePlan, address: str) -> str:
    token, now = plan.token, plan.time
    advice = f" {DISABLE_FIRST_ADVICE}" if token.is_live(now=now) else ""
    return (
        f"Delete the access token {token.id} of the user {_render_user(token.user)} on the cluster {address} "
        f"for ever? Now: {token.render_lifetime(now=now)}.{advice}"
    )


def _render_user(user: Identity) -> str:
    """Render a user with the cluster's own number, and with the domain where the spelling does not begin with it."""
    domain = format_name(user.domain) if user.domain else "domain not known"
    details = [] if str(user).startswith(f"{domain.lower()}:") else [domain]
    details += [f"auth_id {user.auth_id}"] if user.auth_id else []
    return f"{user} ({', '.join(details)})" if details else str(user)
