"""What a human is asked before something is done, and how to do it by hand where they cannot be asked.

Everything in a question is as the server found it, nothing as a model said it.
"""

from collections.abc import Mapping
from typing import Final

from token_tools.cluster.clock import tell_clock
from token_tools.cluster.identity import Identity, tell_name
from token_tools.cluster.qq import Qq
from token_tools.operations.consent import NoYes, Plan
from token_tools.operations.create import SLOTS
from token_tools.operations.plans import CreationPlan, DeletionPlan, RotationPlan, UpdatePlan
from token_tools.views.tokens import ADVICE, tell_expiry, tell_intents, tell_life, tell_state

MOST_ASKED: Final = 2
"""How often the same is asked about without a yes until it is told how often it was."""

_NO_YES: Final[Mapping[NoYes, tuple[str, str]]] = {
    "declined": (
        "The question was answered with no, by a person or by the client itself.",
        "Call again only if a person wants it all the same.",
    ),
    "dismissed": (
        "The question was not answered (dismissed by a person or by the client).",
        "Call again only if a person wants to be asked again.",
    ),
    "unticked": (
        "The form was sent without its tick, which some clients do for a no; only the tick means yes.",
        "Ask the person, and call again only if they meant yes.",
    ),
    "blank": (
        "The client sent no answer to `agree` that is true or false.",
        "Ask the person, and call again only if they meant yes and this client shows them a tick to set.",
    ),
    "failed": (
        "The question came back with an error or with what cannot be read: whether a person saw it is not known.",
        "Call again only if a person wants to be asked again.",
    ),
    "late": ("Nobody answered the question in time.", "Call again when a person is there to answer."),
}
"""What happened, as far as it is known, and when it makes sense to ask again."""


def tell_no_yes(plan: Plan, qq: Qq, no_yes: NoYes, *, times: int) -> str:
    """Why a plan is not carried out that was asked about without a yes, so many times in a row, and what leads on."""
    what, when = _NO_YES[no_yes]
    if times >= MOST_ASKED:
        when = f"The same was asked {times} times now without a yes: ask again only if a person wants to be."
    return f"{what} It is asked because {' and '.join(plan.reasons)}. {when} {tell_by_hand(plan, qq)}"


def tell_question(plan: Plan, *, address: str) -> str:
    """The whole question: what would be done to whom on which cluster, and why it is asked."""
    match plan:
        case RotationPlan():
            question = _tell_creation(plan, address, f"Make a second access token, to replace {plan.old.id}, for")
        case CreationPlan():
            question = _tell_creation(plan, address, "Make an access token for")
        case UpdatePlan():
            question = _tell_update(plan, address)
        case DeletionPlan():
            question = _tell_deletion(plan, address)
        case _:
            raise AssertionError  # pragma: no cover - there is no other kind of plan
    told = " ".join(filter(None, [question, tell_clock(plan.ahead)]))
    return f"{told} Asked because {' and '.join(plan.reasons)}. [question {plan.number}]"


def tell_by_hand(plan: Plan, qq: Qq) -> str:
    """What leads on where no human can be asked: the command with which one does the same, or another client."""
    match plan:
        case CreationPlan():
            command: str | None = qq.create_token(plan.order.user, plan.order.expires, f"access-token-{plan.number}")
        case UpdatePlan():
            command = qq.modify_token(plan.token.id, plan.token.state, plan.wanted)
        case DeletionPlan():
            command = qq.delete_token(plan.token.id)
        case _:
            raise AssertionError  # pragma: no cover - the same
    if command is None:
        return "qq cannot clear an expiry, so it takes a client that shows a person this server's questions."
    return f"It is not for you to run, but a person can do it by hand: {command}"


def _tell_creation(plan: CreationPlan, address: str, deed: str) -> str:
    user, present = plan.order.user, plan.order.present
    used = (
        f"How many of the {SLOTS} possible tokens the user has now is not known."
        if present is None
        else f"The user has {len(present)} of {SLOTS} possible tokens now."
    )
    intents = tell_intents(plan)
    return (
        f"{deed} the user {_tell_whose(user)} on the cluster {address}? Whoever has it can act as that user. "
        f"It {tell_expiry(plan)}. {used}{' ' if intents else ''}{intents}"
    )


def _tell_update(plan: UpdatePlan, address: str) -> str:
    token, now = plan.token, plan.time
    return (
        f"Change the access token {token.id} of the user {_tell_whose(token.user)} on the cluster {address}? "
        f"Now: {tell_life(token, now)}. Then: {tell_state(plan.wanted, now)}."
    )


def _tell_deletion(plan: DeletionPlan, address: str) -> str:
    token, now = plan.token, plan.time
    advice = f" {ADVICE}" if token.is_live(now=now) else ""
    return (
        f"Delete the access token {token.id} of the user {_tell_whose(token.user)} on the cluster {address} "
        f"for ever? Now: {tell_life(token, now)}.{advice}"
    )


def _tell_whose(user: Identity) -> str:
    """The spelling, with the domain where that does not begin with its name, and with the cluster's own number."""
    domain = tell_name(user.domain) if user.domain else "domain not known"
    told = [] if str(user).startswith(f"{domain.lower()}:") else [domain]
    told += [f"auth_id {user.auth_id}"] if user.auth_id else []
    return f"{user} ({', '.join(told)})" if told else str(user)
