"""What is done if a create fails after its request: the new token is deleted, or the answer says what may be left.

No token is ever deleted that is not known to be new.
"""

from collections.abc import Sequence
from typing import NamedTuple

from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import BadAnswer, ClusterError, DeliveryError, JournalError, StillThere, UnknownOutcome
from token_tools.operations.calls import format_call
from token_tools.operations.create_request import CreateRequest
from token_tools.operations.delete import delete_and_verify
from token_tools.operations.journal_history import CLOCK_TOLERANCE
from token_tools.operations.new_token_checks import StrayAnswer, read_certainly_new
from token_tools.operations.services import Services
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.storage.attempts import Attempt
from token_tools.storage.delivery import DeliveredToken
from token_tools.times import format_time


async def rollback_undelivered(services: Services, request: CreateRequest, token_id: str, intent: Attempt) -> str:
    """Delete a new token whose bearer token nobody has; return what came of that, as text."""
    try:
        await _delete_new(services, request, token_id)
    except StrayAnswer as stray:
        return str(await explain_unknown_outcome(services, request, intent, stray))
    except ClusterError as failure:
        await services.journal.record_outcome(intent, "undeletable", token_id)
        return (
            f"{_render_undeleted(f'the new token {token_id}', failure)} "
            f"Nobody is known to have its bearer token. {_render_delete_commands(services, token_id)}"
        )
    await services.journal.record_outcome(intent, "rolled back", token_id)
    return f"The new token {token_id} was deleted again; no token is left of this."


async def rollback_delivered(
    services: Services, request: CreateRequest, delivered: DeliveredToken, intent: Attempt
) -> str:
    """Delete a new token that is no good, then what was delivered of it; return what came of that, as text."""
    try:
        await _delete_new(services, request, delivered.id)
    except StrayAnswer as stray:
        return str(await remove_and_explain_stray(services, request, delivered, intent, stray))
    except ClusterError as failure:
        await services.journal.record_outcome(intent, "undeletable", delivered.id, location=delivered.location)
        return (
            f"{_render_undeleted('it', failure)} It is in {delivered.location.render()}. "
            f"{_render_delete_commands(services, delivered.id)}"
        )
    await services.journal.record_outcome(intent, "rolled back", delivered.id)
    try:
        await services.delivery.remove(delivered)
    except DeliveryError as failure:
        rest = f"What was delivered is still in {delivered.location.render()}, and of no use: {failure}"
    else:
        rest = "No token is left of this." if request.replaces is None else "The old token is as it was."
    return f"It was deleted again. {rest}"


async def remove_and_explain_stray(
    services: Services, request: CreateRequest, delivered: DeliveredToken, intent: Attempt, stray: StrayAnswer
) -> UnknownOutcome:
    """Remove what was delivered of a token that is not ours or is gone; explain what the create may have left."""
    try:
        await services.delivery.remove(delivered)
    except DeliveryError as failure:
        rest = f" What was delivered is still in {delivered.location.render()}, and is to be removed: {failure}"
    else:
        rest = ""
    return UnknownOutcome(f"{await explain_unknown_outcome(services, request, intent, stray)}{rest}")


async def _delete_new(services: Services, request: CreateRequest, token_id: str) -> None:
    """Delete a token that was created just now, and check that it is gone.

    Raises:
        StrayAnswer: If it is not the token that was created.
        ClusterError: If it may still be there, also because it is not known to be new.
    """
    await read_certainly_new(services, request, token_id)
    await delete_and_verify(services.cluster, token_id, request.user)


class _Suspects(NamedTuple):
    """The user's `new` tokens, and in `tokens` those of them that the create may have created.

    `are_older` says that all of `tokens` were created before the create began, unless the clocks differ.
    `is_being_created` says that another call creates a token for the same user just now.
    """

    new: Sequence[AccessToken]
    tokens: Sequence[AccessToken]
    are_older: bool
    is_being_created: bool


async def explain_unknown_outcome(
    services: Services, request: CreateRequest, intent: Attempt, failure: ClusterError
) -> UnknownOutcome:
    """Record that a create ended without a clear answer; explain it by the tokens that the user has now."""
    try:
        suspects = await _find_suspects(services, request, intent)
    except (ClusterError, JournalError) as second:
        await services.journal.record_outcome(intent, "unknown")
        return UnknownOutcome(
            f"{failure} It could not be found out whether a token was made for {request.user}: {second} "
            "Its bearer token would be lost. List the user's tokens before creating again."
        )
    is_clear = len(suspects.tokens) == 1 and not suspects.is_being_created
    await services.journal.record_outcome(intent, "unknown", suspects.tokens[0].id if is_clear else None)
    if not suspects.tokens:
        return _explain_nothing_found(request, suspects.new, failure)
    return _explain_suspects(services, request, suspects, failure)


async def _find_suspects(services: Services, request: CreateRequest, intent: Attempt) -> _Suspects:
    """Return the tokens that a create without a clear answer may have ended with.

    Raises:
        ClusterError: If that cannot be found out.
        JournalError: If the journal cannot be read.
    """
    if request.current_tokens is None:
        raise BadAnswer("their tokens were not known before.")
    me = await services.cluster.who_am_i()
    now = await fetch_user_tokens(services.cluster, request.user)
    created, is_being_created = await services.journal.list_concurrent(str(request.user), excluding=intent)
    known_ids = {me.access_token_id, *created}
    new = [token for token in now if not request.is_preexisting(token.id) and token.id not in known_ids]
    ours = [token for token in new if token.creator is None or me.identity.may_be(token.creator)]
    # The clocks may differ, so creation times only narrow down the suspects if at least one of them is left.
    begun = intent.begun + services.clock.ahead - CLOCK_TOLERANCE
    recent = [token for token in ours if token.created > begun]
    return _Suspects(new, recent or ours, are_older=not recent, is_being_created=is_being_created)


def _explain_nothing_found(request: CreateRequest, new: Sequence[AccessToken], failure: ClusterError) -> UnknownOutcome:
    others = [f"{token.id} (made {format_time(token.created)} by {token.creator})" for token in new]
    seen = (
        f" is of this server, as far as can be seen: new are only {render_first_items(others)}."
        if others
        else " is there."
    )
    return UnknownOutcome(
        f"{failure} So far, no new token of {request.user}{seen} The cluster may still "
        "be at it, so list the user's tokens again before creating another."
    )


def _explain_suspects(
    services: Services, request: CreateRequest, suspects: _Suspects, failure: ClusterError
) -> UnknownOutcome:
    tokens = render_first_items([f"{token.id} (made {format_time(token.created)})" for token in suspects.tokens])
    concurrent = (
        " Another call is making one for the same user just now; that may be it." if suspects.is_being_created else ""
    )
    older = (
        " By its time it is older than what was asked for: unless the clocks differ, it was there before and may "
        "be in use."
        if suspects.are_older
        else ""
    )
    commands = [_render_delete_commands(services, token.id) for token in suspects.tokens[:MAX_ITEMS_SHOWN]]
    return UnknownOutcome(
        f"{failure} The cluster seems to have made a token all the same: {tokens} is new for {request.user}."
        f"{concurrent}{older} Unless somebody else made it just now, its bearer token is lost and nobody can use it. "
        f"It was not touched. {' '.join(commands)}"
    )


def _render_delete_commands(services: Services, token_id: str) -> str:
    deletion = format_call("delete_access_token", id=token_id)
    return f"To delete it: {deletion}, or by hand {services.qq.delete_token(token_id)}"


def _render_undeleted(token: str, failure: ClusterError) -> str:
    """Render what a failed deletion means for a new token; `token` are the words for it."""
    if isinstance(failure, UnknownOutcome) and not isinstance(failure, StillThere):
        return f"Whether {token} was deleted again is not known: {failure}"
    return f"{token[:1].upper()}{token[1:]} could not be deleted again: {failure}"
