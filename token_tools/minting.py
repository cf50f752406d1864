"""Making one token, from the reserved destination to the written outcome: the part that must not stop half way.

The order is the safety: a place for the secret, the intent on disk, one POST, the secret in its place, the outcome on
disk. Each step can fail, and each failure ends in a text that says what is the case and what to do.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from token_tools.client import ClusterClient
from token_tools.delivery import Delivered, Delivery
from token_tools.editing import delete_once, uninterrupted
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    Rejected,
    Unauthenticated,
    Unavailable,
    UnknownOutcome,
    Unproved,
    Unreachable,
    Unsent,
)
from token_tools.identity import Identity
from token_tools.journal import Entry, Journal
from token_tools.listing import read_user
from token_tools.models import AccessToken, NewAccessToken
from token_tools.qq import Qq
from token_tools.times import tell_time

SLOTS: Final = 2
"""Tokens that one user can have at a time, says the vendor's guide."""


@dataclass(frozen=True)
class Order:
    """What is to be made: a token for `user` that expires at `expires`, or never.

    `present` are the user's tokens just before, None if they could not be read. `open_intents` are earlier attempts for
    the same user of which the journal knows no outcome; the answer will mention them. `replaces` is the token that the
    new one is to replace; the new one then has to prove itself.
    """

    user: Identity
    expires: datetime | None
    present: Sequence[AccessToken] | None
    open_intents: Sequence[Entry] = ()
    replaces: AccessToken | None = None


@dataclass(frozen=True)
class Minted:
    """A token that was made and whose secret is where it belongs.

    `found` is the token as the cluster tells it since, None if that could not be read; `unwritten` says why the journal
    does not know the outcome, None if it does.
    """

    delivered: Delivered
    found: AccessToken | None
    unwritten: str | None


@dataclass(frozen=True)
class Mint:
    """Where tokens are made, where their secrets go, and where it is written down."""

    cluster: ClusterClient
    delivery: Delivery
    journal: Journal
    qq: Qq

    async def make(self, order: Order) -> Minted:
        """One new token. Cancellation waits until this is over; each of its steps has a deadline of its own.

        Raises:
            DeliveryError: If the secret had no place to go: before the token was made, or after, when it was deleted.
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; no token was made.
            Unproved: If the new token is to replace another and does not work; it was deleted again.
            UnknownOutcome: If the cluster may have made a token whose secret nobody has.
        """
        with uninterrupted():
            async with AsyncExitStack() as unless_made:
                reservation = await self.delivery.reserve()
                unless_made.push_async_callback(reservation.drop)
                intent = await self._intend(order)
                new = await self._ask_for(order, intent)
                unless_made.pop_all()
            try:
                delivered = await reservation.keep(new, order.user)
            except DeliveryError as failure:
                raise await self._withdraw(new, intent, failure) from failure
            if order.replaces is not None:
                await self._prove(order, intent, new, delivered)
            unwritten = await self.journal.conclude(
                intent, "made", new.id, place=delivered.place, mentioned=order.open_intents
            )
            return Minted(delivered, await self._read_back(new.id), unwritten)

    async def _intend(self, order: Order) -> Entry:
        if order.replaces is None:
            return await self.journal.intend(str(order.user))
        return await self.journal.intend(str(order.user), "rotate", replaces=order.replaces.id)

    async def _ask_for(self, order: Order, intent: Entry) -> NewAccessToken:
        try:
            return await self.cluster.create_token(order.user.as_key(), order.expires)
        except (BadAnswer, Unavailable, Unreachable) as failure:
            if isinstance(failure, Unsent):
                await self.journal.conclude(intent, "not made")
                raise
            raise await self._find_out(order, intent, failure) from failure
        except Rejected as failure:
            await self.journal.conclude(intent, "not made")
            raise _blame_slots(order, failure) from failure
        except ClusterError:
            await self.journal.conclude(intent, "not made")
            raise

    async def _prove(self, order: Order, intent: Entry, new: NewAccessToken, delivered: Delivered) -> None:
        """Nothing if the new token works, as itself and for its user; else it is deleted again."""
        try:
            caller = await self.cluster.prove(new.bearer_token)
        except Unauthenticated:
            failure = "The cluster does not accept it."
        except ClusterError as unproved:
            failure = str(unproved)
        else:
            if caller.access_token_id == new.id and order.user.covers(caller.identity):
                return
            failure = "With it, the cluster takes the caller for another user or another token."
        raise await self._take_back(new, delivered, intent, failure)

    async def _take_back(self, new: NewAccessToken, delivered: Delivered, intent: Entry, failure: str) -> Unproved:
        """Delete a token that did not prove to work, first on the cluster, then where it was delivered."""
        told = f"The new token {new.id} was made and delivered, but did not prove to work. {failure}"
        try:
            await delete_once(self.cluster, new.id)
        except ClusterError as second:
            await self.journal.conclude(intent, "stranded", new.id, place=delivered.place)
            return Unproved(
                f"{told} It could not be deleted again: {second} It is in {delivered.place}. "
                f"{self._tell_deletion(new.id)}"
            )
        try:
            await self.delivery.retract(delivered)
        except DeliveryError as second:
            left = f"What was delivered is still in {delivered.place}, and of no use: {second}"
        else:
            left = "The old token is as it was."
        await self.journal.conclude(intent, "deleted again", new.id)
        return Unproved(f"{told} It was deleted again. {left}")

    async def _find_out(self, order: Order, intent: Entry, failure: ClusterError) -> ClusterError:
        """What became of a POST without a clear answer, told by the tokens that the user has now."""
        try:
            suspects = await self._find_suspects(order)
        except ClusterError as second:
            await self.journal.conclude(intent, "unknown")
            return UnknownOutcome(
                f"{failure} It could not be found out whether a token was made for {order.user}: {second} "
                "Its bearer token would be lost. List the user's tokens before creating again."
            )
        if not suspects:
            await self.journal.conclude(intent, "not made")
            return UnknownOutcome(f"{failure} No token was made for {order.user}: so far, none of theirs is new.")
        await self.journal.conclude(intent, "unknown", suspects[0].id)
        told = " and ".join(f"{token.id} (made {tell_time(token.created)})" for token in suspects)
        return UnknownOutcome(
            f"{failure} The cluster seems to have made a token all the same: {told} is new for {order.user}. Unless "
            "somebody else made it just now, its bearer token is lost and nobody can use it. It was not touched. "
            f"{self._tell_deletion(suspects[0].id)}"
        )

    async def _find_suspects(self, order: Order) -> list[AccessToken]:
        """The user's tokens that were not there before, made by ourselves as far as is known."""
        if order.present is None:
            raise BadAnswer("their tokens were not known before.")
        before = {token.id for token in order.present}
        me = (await self.cluster.who_am_i()).identity
        return [
            token
            for token in await read_user(self.cluster, order.user)
            if token.id not in before and (token.creator is None or me.covers(token.creator))
        ]

    async def _withdraw(self, new: NewAccessToken, intent: Entry, failure: DeliveryError) -> DeliveryError:
        """Delete a token whose secret has no place, and tell both."""
        try:
            await delete_once(self.cluster, new.id)
        except ClusterError as second:
            await self.journal.conclude(intent, "stranded", new.id)
            return DeliveryError(
                f"{failure} The new token {new.id} could not be deleted again: {second} "
                f"Its bearer token is lost. {self._tell_deletion(new.id)}"
            )
        await self.journal.conclude(intent, "deleted again", new.id)
        return DeliveryError(f"{failure} The new token {new.id} was deleted again; no token is left of this.")

    def _tell_deletion(self, token_id: str) -> str:
        return f'To delete it: delete_access_token(id="{token_id}"), or by hand {self.qq.delete_token(token_id)}'

    async def _read_back(self, token_id: str) -> AccessToken | None:
        """The new token, to see whether the cluster did what was asked; the success does not depend on it."""
        try:
            return await self.cluster.get_token(token_id)
        except ClusterError:
            return None


def _blame_slots(order: Order, failure: Rejected) -> Rejected:
    """The cluster's refusal, with what it most likely means where the user's places are all taken."""
    if len(order.present or ()) < SLOTS:
        return failure
    ids = " and ".join(token.id for token in order.present or ())
    return Rejected(
        f"{failure} {order.user} has {ids} already, and a user can have {SLOTS} tokens, disabled and expired ones "
        "included. Delete one of them first."
    )
