"""Making one token, from the reserved destination to the written outcome: the part that must not stop half way.

The order is the safety: a place for the secret, the intent on disk, one POST, the secret in its place, the outcome on
disk. Each step can fail, and each failure ends in a text that says what is the case and what to do.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import anyio

from token_tools.client import ClusterClient
from token_tools.delivery import Delivered, Delivery
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    JournalError,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unsent,
)
from token_tools.identity import Identity
from token_tools.journal import Entry, Journal, Outcome
from token_tools.models import AccessToken, NewAccessToken
from token_tools.qq import Qq
from token_tools.times import tell_time

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What is to be made: a token for `user` that expires at `expires`, or never.

    `present` are the user's tokens just before, None if they could not be read. `open_intents` are earlier creates for
    the same user of which the journal knows no outcome; the answer will mention them.
    """

    user: Identity
    expires: datetime | None
    present: Sequence[AccessToken] | None
    open_intents: Sequence[Entry] = ()


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
            UnknownOutcome: If the cluster may have made a token whose secret nobody has.
        """
        with _uninterrupted():
            async with AsyncExitStack() as unless_made:
                reservation = await self.delivery.reserve()
                unless_made.push_async_callback(reservation.drop)
                intent = await self.journal.intend(str(order.user))
                new = await self._ask_for(order, intent)
                unless_made.pop_all()
            try:
                delivered = await reservation.keep(new, order.user)
            except DeliveryError as failure:
                raise await self._withdraw(new, intent, failure) from failure
            unwritten = await self._conclude(intent, "made", new.id, mentioned=order.open_intents)
            return Minted(delivered, await self._read_back(new.id), unwritten)

    async def _ask_for(self, order: Order, intent: Entry) -> NewAccessToken:
        try:
            return await self.cluster.create_token(order.user.as_key(), order.expires)
        except (BadAnswer, Unavailable, Unreachable) as failure:
            if isinstance(failure, Unsent):
                await self._conclude(intent, "not made")
                raise
            raise await self._find_out(order, intent, failure) from failure
        except ClusterError:
            await self._conclude(intent, "not made")
            raise

    async def _find_out(self, order: Order, intent: Entry, failure: ClusterError) -> ClusterError:
        """What became of a POST without a clear answer, told by the tokens that the user has now."""
        try:
            suspects = await self._find_suspects(order)
        except ClusterError as second:
            await self._conclude(intent, "unknown")
            return UnknownOutcome(
                f"{failure} It could not be found out whether a token was made for {order.user}: {second} "
                "Its bearer token would be lost. List the user's tokens before creating again."
            )
        if not suspects:
            await self._conclude(intent, "not made")
            return UnknownOutcome(f"{failure} No token was made for {order.user}: so far, none of theirs is new.")
        await self._conclude(intent, "unknown", suspects[0].id)
        told = " and ".join(f"{token.id} (made {tell_time(token.created)})" for token in suspects)
        return UnknownOutcome(
            f"{failure} The cluster seems to have made a token all the same: {told} is new for {order.user}. Unless "
            "somebody else made it just now, its bearer token is lost and nobody can use it. It was not touched. "
            f"To delete it: {self.qq.delete_token(suspects[0].id)}"
        )

    async def _find_suspects(self, order: Order) -> list[AccessToken]:
        """The user's tokens that were not there before, made by ourselves as far as is known."""
        if order.present is None:
            raise BadAnswer("their tokens were not known before.")
        before = {token.id for token in order.present}
        me = (await self.cluster.who_am_i()).identity
        page = await self.cluster.list_tokens(user=order.user.as_query())
        return [
            token
            for token in page.entries
            if token.id not in before
            and order.user.covers(token.user)
            and (token.creator is None or me.covers(token.creator))
        ]

    async def _withdraw(self, new: NewAccessToken, intent: Entry, failure: DeliveryError) -> DeliveryError:
        """Delete a token whose secret has no place, and tell both."""
        try:
            await self.cluster.delete_token(new.id)
        except ClusterError as second:
            await self._conclude(intent, "stranded", new.id)
            return DeliveryError(
                f"{failure} The new token {new.id} could not be deleted again: {second} "
                f"Its bearer token is lost. To delete it: {self.qq.delete_token(new.id)}"
            )
        await self._conclude(intent, "deleted again", new.id)
        return DeliveryError(f"{failure} The new token {new.id} was deleted again; no token is left of this.")

    async def _read_back(self, token_id: str) -> AccessToken | None:
        """The new token, to see whether the cluster did what was asked; the success does not depend on it."""
        try:
            return await self.cluster.get_token(token_id)
        except ClusterError:
            return None

    async def _conclude(
        self, intent: Entry, outcome: Outcome, token_id: str | None = None, *, mentioned: Sequence[Entry] = ()
    ) -> str | None:
        """Write the outcome. What has happened has happened: a journal that cannot be written is only told about."""
        try:
            await self.journal.conclude(intent, outcome, token_id, mentioned=mentioned)
        except JournalError as failure:
            _LOG.warning("%s", failure)
            return str(failure)
        return None


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Half of what is done within would be worse than none or all of it, so a cancelled call still comes to its end."""
    with anyio.CancelScope(shield=True):
        yield
