"""Creating one token, from the reserved destination to the recorded outcome: the part that must not stop half way.

The order is the safety: a place for the bearer token, the intent on disk, one POST, the bearer token in its place, the
outcome on disk. Each step can fail, and each failure ends in a text that says what is the case and what to do.
"""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import anyio
import anyio.lowlevel

from token_tools.cluster.models import AccessToken, NewAccessToken
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    JournalError,
    Unavailable,
    Undelivered,
    Unproved,
    Unreachable,
    Unsent,
)
from token_tools.operations.cancellation import shielded
from token_tools.operations.create_request import CreateRequest
from token_tools.operations.hand_over import hand_over, remove_copy
from token_tools.operations.new_token_checks import StrayAnswer, find_flaw, read_back
from token_tools.operations.rollback import (
    explain_unknown_outcome,
    remove_and_explain_stray,
    rollback_delivered,
    rollback_undelivered,
)
from token_tools.operations.services import Services
from token_tools.operations.unfinished import tell_not_picked_up
from token_tools.storage.attempts import Attempt
from token_tools.storage.delivery import AskedToken, DeliveredToken, Reservation

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class CreatedToken:
    """A token that was created and whose bearer token is where it belongs.

    `token` is the token as the cluster tells it since, None if that could not be read. `journal_error` says why the
    journal does not know the outcome, None if it does. The cluster's clock is known to be `clock_ahead` of ours.
    `is_adopted` says that the server runs on it now, and `hand_over_failure` why it does not although it was to.
    `copy_left` says where else its bearer token is then, None if nowhere. `not_picked_up` tells which earlier tokens of
    the user were deleted again.
    """

    delivered: DeliveredToken
    token: AccessToken | None
    journal_error: str | None
    clock_ahead: timedelta = timedelta()
    is_adopted: bool = False
    hand_over_failure: str | None = None
    copy_left: str | None = None
    not_picked_up: Sequence[str] = ()


async def create_new_token(services: Services, request: CreateRequest, draft: Attempt) -> CreatedToken:
    """Create a token and deliver it. Cancellation waits until this is over; each of its steps has a timeout.

    `draft` is the intent, which is not written yet.

    Raises:
        DeliveryError: If the bearer token has no place to go; no token was created.
        Undelivered: If it had none after the token was created; the text tells whether that could be deleted again.
        JournalError: If the intent could not be written; nothing was asked of the cluster.
        Refusal: If there were too many changes, or if another call or server was faster.
        ClusterError: If the cluster declined, or could not be asked; no token was created.
        Unproved: If the new token lives too long or not at all, or is to replace another and does not work; the
            text tells whether it could be deleted again.
        UnknownOutcome: If the cluster may have created a token whose bearer token nobody has.
    """
    # A keyring may wait for a person here. Nothing has begun yet, so that can be cancelled.
    reservation = await services.delivery.reserve(AskedToken(request.user, request.expires, services.caller.recipient))
    with shielded():
        intent, created = await _create(services, request, draft, reservation)
    if created.delivered.bearer_token is not None:
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except anyio.get_cancelled_exc_class():
            # The bearer token is nowhere but in an answer that nobody will get.
            with shielded():
                await rollback_undelivered(services, request, created.delivered.id, intent)
            raise
    return replace(created, not_picked_up=await tell_not_picked_up(services, request.user))


async def _create(
    services: Services, request: CreateRequest, draft: Attempt, reservation: Reservation
) -> tuple[Attempt, CreatedToken]:
    async with AsyncExitStack() as cleanup:
        async with AsyncExitStack() as rollback:
            rollback.push_async_callback(reservation.release)
            intent = await cleanup.enter_async_context(
                services.journal.record_intent(draft, known_rotations={each.id for each in request.earlier_rotations})
            )
            new = await _create_on_cluster(services, request, intent)
            # From here on, the reservation is used.
            rollback.pop_all()
        delivered = await _deliver(services, request, reservation, new, intent)
        token = await _verify(services, request, new, delivered, intent)
        handed = await hand_over(services, request.place, new, delivered)
        location = handed.delivered.location
        journal_error = await services.journal.record_outcome(intent, "created", new.id, location=location)
        await _settle_told(services, request, intent)
        copy_left = await remove_copy(services, delivered, journal_error) if handed.is_adopted else None
        return intent, CreatedToken(
            handed.delivered,
            token,
            journal_error,
            services.clock.ahead,
            is_adopted=handed.is_adopted,
            hand_over_failure=handed.failure,
            copy_left=copy_left,
        )


async def _settle_told(services: Services, request: CreateRequest, intent: Attempt) -> None:
    """Settle the earlier attempts that the answer tells, or of which a person was told before they agreed."""
    await services.journal.settle(request.untraced, "not found")
    if intent.consent == "agreed":
        await services.journal.settle([each.attempt for each in request.unfinished], "told to a person")


async def _create_on_cluster(services: Services, request: CreateRequest, intent: Attempt) -> NewAccessToken:
    """Ask the cluster once for the token.

    Raises:
        ClusterError: If no token was created.
        UnknownOutcome: If one may have been created.
    """
    try:
        return await _post(services, request)
    except (BadAnswer, Unavailable, Unreachable) as failure:
        if isinstance(failure, Unsent):
            await services.journal.record_outcome(intent, "not created")
            raise
        raise await explain_unknown_outcome(services, request, intent, failure) from failure
    except ClusterError:
        await services.journal.record_outcome(intent, "not created")
        raise
    except Exception as crash:  # noqa: BLE001 - it is logged, and the answer says what is known
        # Whatever it was, the token may have been created, and that must not go unsaid.
        _LOG.error("This server stumbled over a %s while it asked for a token", type(crash).__name__)
        bad_answer = BadAnswer("Its answer made this server stumble.")
        raise await explain_unknown_outcome(services, request, intent, bad_answer) from None


async def _post(services: Services, request: CreateRequest) -> NewAccessToken:
    new = await services.cluster.create_token(request.user.as_minimal_identity(), request.expires)
    if request.is_preexisting(new.id):
        raise BadAnswer(f"The answer is about token {new.id}, which was there before.")
    return new


async def _deliver(
    services: Services, request: CreateRequest, reservation: Reservation, new: NewAccessToken, intent: Attempt
) -> DeliveredToken:
    """Put the bearer token where it belongs.

    Raises:
        Undelivered: If that failed. The text tells whether the token could be deleted again.
    """
    try:
        return await reservation.store(new, request.user)
    except DeliveryError as failure:
        outcome = await rollback_undelivered(services, request, new.id, intent)
        raise Undelivered(f"{failure} {outcome}") from failure
    except Exception as crash:  # noqa: BLE001 - it is logged, and the token is deleted again
        _LOG.error("This server stumbled over a %s while it delivered a token", type(crash).__name__)
        outcome = await rollback_undelivered(services, request, new.id, intent)
        raise Undelivered(f"The new bearer token could not be delivered: this server stumbled. {outcome}") from None


async def _verify(
    services: Services, request: CreateRequest, new: NewAccessToken, delivered: DeliveredToken, intent: Attempt
) -> AccessToken | None:
    """Return the new token as the cluster tells it now, None if it cannot be read.

    Raises:
        UnknownOutcome: If it is not the token that was asked for.
        Unproved: If it lives too long or not at all, or is to replace another and does not work.
    """
    try:
        found = await read_back(services, request, new.id)
    except StrayAnswer as stray:
        raise await remove_and_explain_stray(services, request, delivered, intent, stray) from stray
    if found is not None and request.current_tokens is not None and request.may_be_for(found):
        services.clock.observe_creation(found.created, started=intent.begun)
    flaw = await find_flaw(services, request, new, found)
    if flaw is not None:
        outcome = await rollback_delivered(services, request, delivered, intent)
        raise Unproved(f"The new token {new.id} was made and delivered, but {flaw} {outcome}")
    if found is not None:
        await _note_created(services, found)
    return found


async def _note_created(services: Services, token: AccessToken) -> None:
    """Write by what a token is known again if nobody picks its bearer token up."""
    if services.pickups is not None:
        try:
            await services.pickups.note_created(token.id, token.created)
        except JournalError as failure:
            # Without it, the time by our clock has to do.
            _LOG.warning("%s", failure)
