"""The words of a question to a person, and of the refusal if no yes comes back.

A question tells everything as the server found it, and nothing as a model said it.
"""

from collections.abc import Mapping
from typing import Final, assert_never

from mcp.types.version import LATEST_MODERN_VERSION

from token_tools.cluster.clock import render_clock_note
from token_tools.cluster.identity import Identity, format_name
from token_tools.cluster.qq import Qq
from token_tools.operations.consent import NoConsent
from token_tools.operations.create import CreatePlan
from token_tools.operations.delete import DeletePlan
from token_tools.operations.next_steps import DISABLE_FIRST_ADVICE
from token_tools.operations.rotate import RotatePlan
from token_tools.operations.token_limit import MAX_TOKENS_PER_USER
from token_tools.operations.update import UpdatePlan
from token_tools.views.new_tokens import render_expiry, render_unfinished_notes

REPEATS_BEFORE_NOTICE: Final = 2
"""Once so many questions in a row got no yes, the answer says how many there were."""

AnyPlan = CreatePlan | UpdatePlan | DeletePlan
"""A plan of any kind; a rotate is planned as a create."""

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


def render_question(plan: AnyPlan, address: str) -> str:
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


def render_no_consent(plan: AnyPlan, qq: Qq, no_consent: NoConsent, *, times: int) -> str:
    """Render why a plan is not carried out that was asked about `times` times without a yes, and what leads on."""
    what, when = _NO_CONSENT_TEXTS[no_consent]
    if times >= REPEATS_BEFORE_NOTICE:
        when = f"The same was asked {times} times now without a yes: ask again only if a person wants to be."
    return f"{what} It is asked because {_render_reasons(plan)}. {when} {_render_manual_command(plan, qq)}"


def render_cannot_ask(plan: AnyPlan, qq: Qq, *, is_known: bool) -> str:
    """Render why a plan is not carried out where nobody can be asked, and what leads on.

    It `is_known` what the client can do, unless it speaks the older protocol to one of several replicas.
    """
    obstacle = (
        "this client cannot ask them"
        if is_known
        else "this client cannot ask them here: this server has replicas, to which a person's answer comes only in the "
        f"protocol of {LATEST_MODERN_VERSION}, and this client speaks an older one. One that speaks that can ask"
    )
    return (
        f"A person has to agree to this first ({_render_reasons(plan)}), and {obstacle}. "
        f"{_render_manual_command(plan, qq)}"
    )


def _render_reasons(plan: AnyPlan) -> str:
    return " and ".join(risk.reason for risk in plan.risks) or "QUMULO_CONFIRM=all"


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


def render_page_offer(token_id: str) -> str:
    """Render the offer to open the page at which the bearer token of a new token waits."""
    return (
        f"Access token {token_id} is made. Open the page at which its bearer token waits? You sign in there, and see "
        "the bearer token once."
    )


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
        _render_place(plan),
        used,
        render_unfinished_notes(plan),
        "If you agree, this is not told again." if plan.create_request.unfinished else "",
    ]
    return " ".join(filter(None, sentences))


def _render_place(plan: CreatePlan) -> str:
    """Render that the server itself goes on with the new token, or where its bearer token will wait, if it does."""
    place = plan.create_request.place
    if place is None:
        return plan.announcement or ""
    return f"This server runs on that one, writes the new one to {place.location.render()}, and goes on with it."


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
