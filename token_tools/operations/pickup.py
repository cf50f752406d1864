"""Picking a new bearer token up: handing it out once, confirming that, and deleting what nobody picked up.

Handing out takes the bearer token out of the database first. If it is lost on its way to the browser, nobody confirms
the receipt, and so its token is deleted like one that was never picked up. No token is left whose bearer token nobody
has.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
from pydantic import SecretStr

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import ClusterError, DeliveryError, JournalError, NotFound, Refusal
from token_tools.operations.caller import THIS_SERVER
from token_tools.operations.cancellation import shielded
from token_tools.operations.delete import delete_and_verify
from token_tools.operations.fleet import Fleet
from token_tools.operations.journal_history import CLOCK_TOLERANCE, MAX_CREATION_DELAY, format_change
from token_tools.operations.services import Services
from token_tools.operations.user_lookup import identify
from token_tools.storage.attempts import Attempt, Mandate
from token_tools.storage.delivery import Recipient
from token_tools.storage.pickup_states import Pickup
from token_tools.storage.pickups import Pickups

NOT_PICKED_UP: Final = "its bearer token was not picked up in time"

_LOG: Final = logging.getLogger(__name__)


class NothingThere(Refusal):
    """There is no such page: the id names none, or what became of its bearer token is forgotten by now."""


class ForSomebodyElse(Refusal):
    """Somebody else asked for the bearer token of this page."""


class NotWaiting(Refusal):
    """The bearer token does not wait any more; the page, read again, tells what became of it."""


class Unopenable(Refusal):
    """The bearer token is there, but nothing opens it: the state keys are other ones now. It is deleted in time."""


@dataclass(frozen=True)
class FoundPickup:
    """The bearer token of a page, for the person who asked for it, and the cluster of its token.

    `is_overdue` says that its time is over although it is `waiting` or `handed out`: its token is about to be deleted.
    """

    services: Services
    pickups: Pickups
    pickup: Pickup
    is_overdue: bool


class HandedOut(NamedTuple):
    """A bearer token on its way to a browser.

    `warning` says why its token is of no use as it is, None if nothing is known against it.
    """

    bearer_token: SecretStr
    warning: str | None


async def find_pickup(fleet: Fleet, pickup_id: str, recipient: Recipient) -> FoundPickup:
    """Return the bearer token of a page for the one who asked for it.

    Raises:
        NothingThere: If there is none.
        ForSomebodyElse: If somebody else asked for it; once for each of them, the record tells that they came.
        JournalError: If the database fails.
    """
    for services in fleet.members:
        pickups = services.pickups
        pickup = None if pickups is None else await pickups.find(pickup_id)
        # What is only reserved has no bearer token yet, and its answer has not told the address yet.
        if pickups is None or pickup is None or pickup.state == "reserved":
            continue
        if pickup.recipient != recipient.id:
            await _record_stranger(services, pickups, pickup, recipient)
            raise ForSomebodyElse("This is for somebody else.")
        return FoundPickup(services, pickups, pickup, is_overdue=pickups.is_overdue(pickup))
    raise NothingThere("There is nothing at this page.")


async def _record_stranger(services: Services, pickups: Pickups, pickup: Pickup, stranger: Recipient) -> None:
    entry = services.journal.draft(
        "pickup",
        pickup.user_name,
        Mandate(stranger.name),
        outcome="refused",
        token_id=pickup.token_id,
        reason="somebody else asked for it",
    )
    digest = sha256(f"{pickup.id} {stranger.id}".encode()).hexdigest()
    await pickups.note_once(msgspec.structs.replace(entry, id=f"stranger-{digest[:32]}"))


async def hand_out(found: FoundPickup) -> HandedOut:
    """Return a bearer token, which is not in the database any more then.

    Raises:
        NotWaiting: If it does not wait any more, or if its token does not exist any more.
        Unopenable: If the keys that sealed it are not there any more.
        JournalError: If it cannot be recorded; it waits on then.
    """
    services, pickups, pickup = found.services, found.pickups, found.pickup
    try:
        token = await services.cluster.get_token(str(pickup.token_id))
    except NotFound:
        await pickups.end_as_gone(pickup)
        raise NotWaiting("Its token was deleted on the cluster, so its bearer token is of no use.") from None
    except ClusterError:
        token = None
    try:
        with shielded():
            bearer_token = await pickups.hand_out(pickup, _draft_entry(services, pickup, "handed out"))
    except DeliveryError as failure:
        raise Unopenable(str(failure)) from failure
    if bearer_token is None:
        raise NotWaiting("It was handed out before, or its time is over.")
    return HandedOut(bearer_token, None if token is None else _find_flaw(token, services.clock()))


async def confirm_receipt(found: FoundPickup) -> bool:
    """Write that a browser got its bearer token; tell whether that came in time and once.

    Raises:
        JournalError: If it cannot be recorded.
    """
    entry = _draft_entry(found.services, found.pickup, "picked up")
    ended = msgspec.structs.replace(entry, ended=entry.begun)
    return await found.pickups.end_by_receipt(found.pickup, ended)


def _draft_entry(services: Services, pickup: Pickup, outcome: Literal["handed out", "picked up"]) -> Attempt:
    entry = services.journal.draft(
        "pickup", pickup.user_name, Mandate(pickup.recipient_name), outcome=outcome, token_id=pickup.token_id
    )
    # One entry tells both: the receipt takes the place of the hand-out.
    return msgspec.structs.replace(entry, id=f"pickup-{pickup.id}")


async def watch_overdue(services: Services, pickups: Pickups, period: timedelta) -> None:
    """Delete again and again the tokens of what was not picked up in time; log once what stands against that."""
    logged: Sequence[str] = ()
    while True:
        try:
            failures = await _delete_overdue(services, pickups)
        except JournalError as failure:
            failures = [str(failure)]
        for text in failures:
            if text not in logged:
                _LOG.warning("%s", text)
        # What other servers have for themselves just now is not known to have failed less.
        logged = failures or logged
        await anyio.sleep(period.total_seconds())


async def _delete_overdue(services: Services, pickups: Pickups) -> Sequence[str]:
    """Delete the tokens of what was not picked up in time; return why some are still there.

    What the cluster does not let go is tried again later, by this server or another one.

    Raises:
        JournalError: If the database fails.
    """
    failures: list[str] = []
    claimed = await pickups.claim_overdue(lambda pickup: _draft_deletion(services, pickup))
    for pickup in claimed:
        try:
            with shielded():
                await _delete(services, pickups, pickup)
        except ClusterError as failure:
            await services.journal.record_outcome(_draft_deletion(services, pickup), "unknown")
            failures.append(f"Token {pickup.token_id} was not picked up, and cannot be deleted yet: {failure}")
    return failures


def _draft_deletion(services: Services, pickup: Pickup) -> Attempt:
    entry = services.journal.draft(
        "delete", pickup.user_name, Mandate(THIS_SERVER.name), token_id=pickup.token_id, reason=NOT_PICKED_UP
    )
    return msgspec.structs.replace(entry, id=f"overdue-{pickup.id}")


async def _delete(services: Services, pickups: Pickups, pickup: Pickup) -> None:
    """Delete the token of what was not picked up, if it is certainly that token, and check that it is gone."""
    token_id = str(pickup.token_id)
    entry = msgspec.structs.replace(_draft_deletion(services, pickup), ended=services.clock() - services.clock.ahead)
    done = msgspec.structs.replace(entry, outcome="done")
    try:
        token = await services.cluster.get_token(token_id)
    except NotFound:
        if pickup.leased_until is None:
            reason = f"{NOT_PICKED_UP}; by then, somebody else had deleted it"
            await pickups.end(pickup, "gone", msgspec.structs.replace(entry, outcome="not done", reason=reason))
        else:
            # Who tried it before did it, and did not live to write that.
            await pickups.end(pickup, "deleted", done)
        return
    if not await _is_certainly_created(services, pickup, token):
        reason = f"{NOT_PICKED_UP}, but the cluster tells another user or time of creation than it should have"
        await pickups.end(pickup, "left", msgspec.structs.replace(entry, outcome="not done", reason=reason))
        return
    await delete_and_verify(services.cluster, token_id, token.user)
    await pickups.end(pickup, "deleted", msgspec.structs.replace(done, before=format_change(token.state)))


async def _is_certainly_created(services: Services, pickup: Pickup, token: AccessToken) -> bool:
    """Tell whether a token is of the user for whom it was created, and of that time.

    The cluster's own time of creation is compared, if the server that created it lived to read that: its clock may be
    set meanwhile.

    Raises:
        ClusterError: If the cluster cannot be asked.
    """
    begun = pickup.asked + services.clock.ahead
    is_of_that_time = (
        begun - CLOCK_TOLERANCE <= token.created <= begun + MAX_CREATION_DELAY
        if pickup.created is None
        else token.created == pickup.created
    )
    if not is_of_that_time:
        return False
    try:
        # A token may tell no more of its user than a number, of which a name says nothing.
        meant = await identify(services, Identity.parse(pickup.user_name))
    except (Refusal, ValueError):
        return False
    return meant.identity.may_be(token.user)


def _find_flaw(token: AccessToken, now: datetime) -> str | None:
    if not token.enabled:
        return "Its token is disabled, so the cluster does not accept it until somebody enables that again."
    if not token.is_live(now=now):
        return "Its token has expired, so the cluster does not accept it any more."
    return None
