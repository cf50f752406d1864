"""What a human is asked before something is done, and how to do it by hand where they cannot be asked.

Everything in a question is as the server found it, nothing as a model said it.
"""

from collections.abc import Mapping
from typing import Final

from token_tools.cluster.clock import render_clock_note
from token_tools.cluster.identity import Identity, format_name
from token_tools.cluster.qq import Qq
from token_tools.operations.consent import NoConsent, Plan
from token_tools.operations.create import MAX_TOKENS_PER_USER
from token_tools.operations.plans import CreatePlan, DeletePlan, RotatePlan, UpdatePlan
from token_tools.views.new_tokens import render_expiry, render_open_intents
from token_tools.views.tokens import DISABLE_FIRST_ADVICE, render_lifetime, render_state

REPEATS_BEFORE_NOTICE: Final = 2
"""How often the same is asked about without a yes until it is told how often it was."""

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


def render_no_consent(plan: Plan, qq: Qq, no_consent: NoConsent, *, times: int) -> str:
    """Why a plan is not carried out that was asked about without a yes, so many times in a row, and what leads on."""
    what, when = _NO_CONSENT_TEXTS[no_consent]
    if times >= REPEATS_BEFORE_NOTICE:
        when = f"The same was asked {times} times now without a yes: ask again only if a person wants to be."
    return f"{what} It is asked because {' and '.join(plan.reasons)}. {when} {render_manual_command(plan, qq)}"


def render_question(plan: Plan, *, address: str) -> str:
    """The whole question: what would be done to whom on which cluster, and why it is asked."""
    match plan:
        case RotatePlan():
            question = _render_create_question(
                plan, address, f"Make a second access token, to replace {plan.old_token.id}, for"
            )
        case CreatePlan():
            question = _render_create_question(plan, address, "Make an access token for")
        case UpdatePlan():
            question = _render_update_question(plan, address)
        case DeletePlan():
            question = _render_delete_question(plan, address)
        case _:
            raise AssertionError  # pragma: no cover - there is no other kind of plan
    told = " ".join(filter(None, [question, render_clock_note(plan.clock_ahead)]))
    return f"{told} Asked because {' and '.join(plan.reasons)}. [question {plan.question_id}]"


def render_manual_command(plan: Plan, qq: Qq) -> str:
    """What leads on where no human can be asked: the command with which one does the same, or another client."""
    match plan:
        case CreatePlan():
            command: str | None = qq.create_token(
                plan.create_request.user, plan.create_request.expires, f"access-token-{plan.question_id}"
            )
        case UpdatePlan():
            command = qq.update_token(plan.token.id, plan.token.state, plan.wanted)
        case DeletePlan():
            command = qq.delete_token(plan.token.id)
        case _:
            raise AssertionError  # pragma: no cover - the same
    if command is None:
        return "qq cannot clear an expiry, so it takes a client that shows a person this server's questions."
    return f"It is not for you to run, but a person can do it by hand: {command}"


def _render_create_question(plan: CreatePlan, address: str, action: str) -> str:
    user, present = plan.create_request.user, plan.create_request.current_tokens
    used = (
        f"How many of the {MAX_TOKENS_PER_USER} possible tokens the user has now is not known."
        if present is None
        else f"The user has {len(present)} of {MAX_TOKENS_PER_USER} possible tokens now."
    )
    intents = render_open_intents(plan)
    return (
        f"{action} the user {_render_user(user)} on the cluster {address}? Whoever has it can act as that user. "
        f"It {render_expiry(plan)}. {used}{' ' if intents else ''}{intents}"
    )


def _render_update_question(plan: UpdatePlan, address: str) -> str:
    token, now = plan.token, plan.time
    return (
        f"Change the access token {token.id} of the user {_render_user(token.user)} on the cluster {address}? "
        f"Now: {render_lifetime(token, now)}. Then: {render_state(plan.wanted, now)}."
    )


def _render_delete_question(plan: DeletePlan, address: str) -> str:
    token, now = plan.token, plan.time
    advice = f" {DISABLE_FIRST_ADVICE}" if token.is_live(now=now) else ""
    return (
        f"Delete the access token {token.id} of the user {_render_user(token.user)} on the cluster {address} "
        f"for ever? Now: {render_lifetime(token, now)}.{advice}"
    )


def _render_user(user: Identity) -> str:
    """The spelling, with the domain where that does not begin with its name, and with the cluster's own number."""
    domain = format_name(user.domain) if user.domain else "domain not known"
    told = [] if str(user).startswith(f"{domain.lower()}:") else [domain]
    told += [f"auth_id {user.auth_id}"] if user.auth_id else []
    return f"{user} ({', '.join(told)})" if told else str(user)
