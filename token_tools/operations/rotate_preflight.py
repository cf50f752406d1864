"""What other tokens a user has when one is to be rotated: an earlier successor, or one that leaves no room for it.

A repeated rotate must not create a third token. So each refusal here names the token that is there, and the calls that
lead on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import DeliveryError, Forbidden, NotFound, Refusal, Rejected, TokenToolsError
from token_tools.operations.next_steps import (
    HAND_OVER_STEP,
    PERSON_DECIDES,
    choose_earlier_hand_over,
    choose_first_step,
    render_delete_and_rotate,
    render_retirement,
    render_steps,
)
from token_tools.operations.services import Services
from token_tools.operations.token_limit import MAX_TOKENS_PER_USER, render_way_out
from token_tools.operations.unfinished import (
    Unfinished,
    UserHistory,
    find_unfinished,
    read_user_history,
    render_unfinished,
)
from token_tools.quoting import MAX_ITEMS_SHOWN
from token_tools.storage.attempts import Attempt
from token_tools.storage.journal import explain_concurrent_rotation
from token_tools.times import format_time

_FAILED_OUTCOMES: Final = {"undeletable", "rolled back"}
_NO_LOCATION: Final = "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now."


@dataclass(frozen=True)
class ExistingTokens:
    """The tokens of a user who has a token that can be rotated.

    `current_tokens` are all of the user's tokens, None if they could not be read, and `other_tokens` those besides the
    one to be rotated, as far as is known. `history` is what the journal knows of the user, and `earlier_rotations` are
    the earlier rotations of that token.
    """

    current_tokens: Sequence[AccessToken] | None
    other_tokens: Sequence[AccessToken]
    history: UserHistory
    earlier_rotations: Sequence[Attempt]


async def collect_existing_tokens(
    services: Services, old: AccessToken, user: Identity, hand_over: str = HAND_OVER_STEP
) -> ExistingTokens:
    """Return a user's tokens if `old` can be rotated; `hand_over` is the first step to a successor that exists.

    Raises:
        Refusal: If the token was rotated before and the new one is still there, or if the user can have no other token.
        ClusterError: If the cluster cannot be asked.
        DeliveryError: If the destination of bearer tokens cannot be searched.
        JournalError: If the journal cannot be read.
    """
    await _check_no_concurrent_rotation(services, old)
    # The journal is read before the list: a token that it knows of by then is on the list, and a token that it does not
    # know of yet will be seen as new.
    earlier = await services.journal.list_rotations(old.id)
    try:
        current_tokens = await fetch_user_tokens(services.cluster, user)
    except (Forbidden, NotFound, Rejected):
        current_tokens = None
    others = [token for token in current_tokens or () if token.id != old.id]
    if old.id not in {token.id for token in current_tokens or ()}:
        # A list without this token may lack its successors too, and does not show what is new.
        current_tokens = None
        others += await _read_successors(services, earlier, known={token.id for token in others})
    await _check_not_rotated_before(services, old, others, earlier, hand_over)
    history = await read_user_history(services, user, current_tokens)
    if current_tokens is None:
        history = replace(history, tokens=[old, *others])
    existing = ExistingTokens(current_tokens, others, history, earlier)
    await _check_room_for_second(services, old, user, existing)
    return existing


async def _check_no_concurrent_rotation(services: Services, old: AccessToken) -> None:
    # Within this process, a lock keeps rotations of one token apart. This finds those of other processes.
    at_work = [attempt for attempt in await services.journal.list_rotations(old.id) if attempt.is_in_flight]
    if at_work:
        raise explain_concurrent_rotation(at_work[-1])


async def _read_successors(services: Services, earlier: Sequence[Attempt], *, known: set[str]) -> list[AccessToken]:
    """Return the tokens that earlier rotations created, without the `known` ones, each read by itself."""
    found: list[AccessToken] = []
    for token_id in sorted({entry.token_id for entry in earlier if entry.token_id} - known):
        try:
            found.append(await services.cluster.get_token(token_id))
        except NotFound:
            continue
    return found


async def _check_not_rotated_before(
    services: Services,
    old: AccessToken,
    others: Sequence[AccessToken],
    earlier: Sequence[Attempt],
    hand_over: str,
) -> None:
    tokens = {token.id: token for token in others}
    for rotation in reversed(earlier):
        if rotation.token_id in tokens:
            new = tokens[rotation.token_id]
            raise Refusal(
                f"Token {old.id} was rotated before, at {format_time(rotation.last_seen)}. "
                f"{await _render_earlier_rotation(services, old, rotation, new, hand_over)}"
            )


async def _render_earlier_rotation(
    services: Services, old: AccessToken, rotation: Attempt, new: AccessToken, hand_over: str
) -> str:
    """Render what an earlier rotation created, what is the matter with it, and how to go on."""
    now = services.clock()
    state = f"it is {new.state.render(now=now)}"
    if rotation.outcome in _FAILED_OUTCOMES:
        flaw = "its bearer token was not delivered" if rotation.location is None else "it did not prove to work"
        return (
            f"The new token {new.id} is no good: {flaw}, and it could not be deleted. "
            f"{render_delete_and_rotate(new.id)}."
        )
    if rotation.outcome == "unknown":
        return (
            f"No clear answer came then; the new token seems to be {new.id}, {state}. Unless somebody else made it "
            f"at that time, its bearer token is lost. {render_retirement(new.id)}"
        )
    created = f"The new token is {new.id}; {state}"
    if not new.is_live(now=now):
        return f"{created}. It does not work like that: {render_delete_and_rotate(new.id)}."
    location = await services.delivery.locate(new.id, rotation.location, [rotation.user])
    if location is None:
        recorded = rotation.location.render() if rotation.location else "the place where it was put"
        return (
            f"{created}, but its bearer token is no longer in "
            f"{recorded}.{await _render_unidentified_files(services)} Unless "
            f"that was moved to where it is used: {render_delete_and_rotate(new.id)}."
        )
    steps = render_steps(old, now, choose_earlier_hand_over(services, location, hand_over))
    return f"{created}, and its bearer token is in {location.render()}. {steps}"


async def _check_room_for_second(
    services: Services, old: AccessToken, user: Identity, existing: ExistingTokens
) -> None:
    # Only live tokens count here: whether disabled and expired ones count too, only the cluster knows.
    now = services.clock()
    live = [token for token in existing.other_tokens if user.may_be(token.user) and token.is_live(now=now)]
    if live:
        described = [await _describe_other(services, old, token, existing.history) for token in live[:MAX_ITEMS_SHOWN]]
        ways_out = [way_out for _, way_out in described if way_out is not None]
        raise Refusal(
            f"{user} has {len(live) + 1:,} access tokens already, as many as a user can have, so there is no place "
            f"for a new one. {' '.join([*(text for text, _ in described), *(ways_out or [PERSON_DECIDES])])}"
        )


async def _describe_other(
    services: Services, old: AccessToken, token: AccessToken, history: UserHistory
) -> tuple[str, str | None]:
    """Return a sentence that names another token, and the next step; None for the step if only the state is known."""
    expires = "never expires" if token.expires is None else f"expires {format_time(token.expires)}"
    other = f"The other is {token.id}, made {format_time(token.created)}, which {expires}."
    open_attempts = find_unfinished(history.journal_history, history.tokens, me=history.me, clock=services.clock)
    origins = [
        each
        for each in open_attempts
        if each.attempt.is_creating and token.id in {suspect.id for suspect in each.suspects}
    ]
    if not origins:
        return other, " ".join(render_unfinished(history.unfinished)) or None
    latest = origins[0]
    if latest.attempt.is_in_flight or latest.attempt.outcome == "undeletable":
        return other, " ".join(render_unfinished([latest]))
    return other, await _render_suspect(services, old, token, latest)


async def _render_suspect(services: Services, old: AccessToken, token: AccessToken, unfinished: Unfinished) -> str:
    """Render what is known of a token that an unfinished attempt may have created."""
    intent = unfinished.attempt
    attempt = f"An attempt that was begun at {format_time(intent.begun)} and never finished may have made it;"
    try:
        location = await services.delivery.locate(token.id, None, {intent.user, str(token.user)})
    except DeliveryError as failure:
        return f"{attempt} where its bearer token is, is not known: {failure} {render_retirement(token.id)}"
    if location is None:
        return f"{attempt} {await _render_lost_location(services)} {render_retirement(token.id)}"
    # Only one way is named: a caller who made both the calls to go on and the calls to go back would disable both
    # tokens.
    leads_on = (
        f"To go on with it: {render_steps(old, services.clock(), choose_first_step(location, HAND_OVER_STEP))}"
        if intent.replaces == old.id
        else render_retirement(token.id)
    )
    return f"{attempt} its bearer token is in {location.render()}, not proved to work yet. {leads_on}"


async def _render_lost_location(services: Services) -> str:
    """Render what is known of a bearer token whose location is not recorded."""
    files = await _render_unidentified_files(services)
    return f"where its bearer token is, nothing tells for sure.{files}" if files else _NO_LOCATION


async def _render_unidentified_files(services: Services) -> str:
    """Render the files that may hold the bearer token but do not say whose it is; empty if there are none."""
    paths = await services.delivery.list_unidentified_files()
    if not paths:
        return ""
    files = (
        f"{paths[0]}" if len(paths) == 1 else f"one of the {len(paths)} files {paths[0].with_name('recovered-*.json')}"
    )
    return f" It may be in {files}, which a killed server left and which does not tell whose it is."


async def explain_rejected_rotate(services: Services, old: AccessToken, user: Identity, failure: Rejected) -> Exception:
    """Explain why the cluster most likely declined to create a second token."""
    try:
        existing = await collect_existing_tokens(services, old, user)
    except Refusal as refusal:
        return refusal
    except TokenToolsError:
        return failure
    if existing.current_tokens is None and not existing.other_tokens:
        return Rejected(f"{failure} The user's tokens cannot be listed; a user can have {MAX_TOKENS_PER_USER}.")
    if not existing.other_tokens:
        return failure
    return Rejected(
        f"{failure} {user} has {len(existing.other_tokens) + 1:,} access tokens already, and disabled and "
        f"expired ones seem to count here. {_render_others(services, existing)}"
    )


def _render_others(services: Services, existing: ExistingTokens) -> str:
    others = [
        f"The other is {token.id}, made {format_time(token.created)}, {token.state.render(now=services.clock())}."
        for token in existing.other_tokens[:MAX_ITEMS_SHOWN]
    ]
    return " ".join([*others, render_way_out(existing.other_tokens, existing.history, services.clock)])
