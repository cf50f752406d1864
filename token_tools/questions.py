"""What a human is asked before something is done, and how to do it by hand where they cannot be asked.

Everything in a question is as the server found it, nothing as a model said it.
"""

from token_tools.clock import tell_clock
from token_tools.consent import Plan
from token_tools.identity import Identity, tell_name
from token_tools.minting import SLOTS
from token_tools.plans import CreationPlan, DeletionPlan, RotationPlan, UpdatePlan
from token_tools.qq import Qq
from token_tools.summary import ADVICE, tell_expiry, tell_intents, tell_life, tell_state


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
    """What leads on where no human can be asked: the command with which one does the same, or the operator."""
    match plan:
        case CreationPlan():
            command: str | None = qq.create_token(plan.order.user, plan.order.expires)
        case UpdatePlan():
            command = qq.modify_token(plan.token.id, plan.token.state, plan.wanted)
        case DeletionPlan():
            command = qq.delete_token(plan.token.id)
        case _:
            raise AssertionError  # pragma: no cover - the same
    if command is None:
        return "qq cannot clear an expiry either, but the operator can set QUMULO_CONFIRM=none."
    return f"A human can do it by hand: {command} ; or the operator can set QUMULO_CONFIRM=none."


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
