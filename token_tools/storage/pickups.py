"""Bearer tokens that wait in the database until the person who asked for them picks them up.

A bearer token is sealed before it is written, and bound to its row, its token and its recipient. It is handed out once,
and is gone from the database with that. Picked up it is once the recipient's browser has confirmed the receipt; what is
not confirmed in time is overdue, and its token is to be deleted on the cluster.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from token_tools.cluster.models import NewAccessToken
from token_tools.errors import DeliveryError
from token_tools.storage.attempts import Attempt
from token_tools.storage.delivery.base import AskedToken, Recipient, sha256_fingerprint
from token_tools.storage.pickup_states import Ending, Pickup
from token_tools.storage.state import pickups as table
from token_tools.storage.state import record
from token_tools.storage.state.connections import Connection
from token_tools.storage.state.transactions import Transactions
from token_tools.times import Clock

if TYPE_CHECKING:
    # To import it would load the cryptography at the start.
    from token_tools.sealing import Sealer

SEALING_PURPOSE: Final = "bearer tokens to be picked up"
RESERVED_BYTES: Final = 1024
"""Bytes that are written for a bearer token before it is there, so that a disk that is full is known then.

Those of the cluster have some 140; a longer one is stored too, if there is room.
"""


@dataclass(frozen=True)
class PickupOffer:
    """What a service with pages has for bearer tokens that wait: the URL above those pages, and what seals."""

    url: str
    sealer: "Sealer"


class Pickups:
    """The bearer tokens of one cluster that wait; each of them for as long as `patience` says."""

    def __init__(
        self, transactions: Transactions, offer: PickupOffer, *, cluster: str, patience: timedelta, clock: Clock
    ) -> None:
        self.offer = offer
        self.patience = patience
        self._transactions = transactions
        self._cluster = cluster
        self._clock = clock

    def format_url(self, pickup_id: str) -> str:
        """Return the address of a page."""
        return f"{self.offer.url}/{pickup_id}"

    def find_deadline(self) -> datetime:
        """Return until when a bearer token waits that is stored now."""
        return self._clock() + self.patience

    def is_overdue(self, pickup: Pickup) -> bool:
        """Tell whether the time of a bearer token that is not picked up is over."""
        return pickup.state in {"waiting", "handed out"} and pickup.open_until <= self._clock()

    async def reserve(self, asked: AskedToken, recipient: Recipient) -> str:
        """Write a row of the size that it will have once the bearer token is there, and return its id.

        Raises:
            JournalError: If it cannot be written.
        """
        now = self._clock()
        pickup = Pickup(
            # What looks random by its capitals would be withheld, with the sentence around it.
            id=token_hex(16),
            cluster=self._cluster,
            user_name=str(asked.user),
            recipient=recipient.id,
            recipient_name=recipient.name,
            asked=now,
            expires=asked.expires,
            open_until=now,
        )
        filler = self.offer.sealer.seal(bytes(RESERVED_BYTES), "")
        await self._transactions.write(lambda connection: table.insert_reserved(connection, pickup, filler))
        return pickup.id

    async def store(self, pickup_id: str, token: NewAccessToken, recipient: Recipient) -> str:
        """Seal a bearer token into the row that was reserved for it; return its fingerprint.

        Raises:
            JournalError: If it cannot be written.
            DeliveryError: If the row is gone, as it is after some minutes without a token.
        """
        fingerprint = sha256_fingerprint(token.bearer_token)
        bound_to = _bind(pickup_id, self._cluster, token.id, recipient.id)
        sealed = self.offer.sealer.seal(token.bearer_token.get_secret_value().encode(), bound_to)
        content = table.SealedToken(token.id, fingerprint, sealed)
        seconds = self.patience.total_seconds()
        if not await self._transactions.write(
            lambda connection: table.fill_reserved(connection, pickup_id, content, seconds=seconds)
        ):
            raise DeliveryError("The place that was reserved for it in the database is gone: that took too long.")
        return fingerprint

    async def release(self, pickup_id: str) -> None:
        """Drop a row that was reserved.

        Raises:
            JournalError: If it cannot be written.
        """
        await self._transactions.write(lambda connection: table.delete(connection, pickup_id))

    async def note_created(self, token_id: str, created: datetime) -> None:
        """Write when the cluster says that it created the token of a bearer token, to know it again by that.

        Raises:
            JournalError: If it cannot be written.
        """
        await self._transactions.write(
            lambda connection: table.note_created(connection, self._cluster, token_id, created)
        )

    async def discard(self, token_id: str) -> None:
        """Drop the bearer token of a token, as if it had never waited.

        Raises:
            JournalError: If it cannot be written.
        """
        await self._transactions.erase(lambda connection: table.delete_of_token(connection, self._cluster, token_id))

    async def find(self, pickup_id: str) -> Pickup | None:
        """Return the bearer token of a page, None if there is none of this cluster.

        Raises:
            JournalError: If that cannot be read.
        """
        return await self._transactions.read(
            lambda connection: table.select_by_id(connection, self._cluster, pickup_id), if_missing=None
        )

    async def find_by_token(self, token_id: str) -> Pickup | None:
        """Return what waits, or what became of it, of a token; None if its bearer token never waited.

        Raises:
            JournalError: If that cannot be read.
        """
        return await self._transactions.read(
            lambda connection: table.select_by_token(connection, self._cluster, token_id), if_missing=None
        )

    async def hand_out(self, pickup: Pickup, entry: Attempt) -> SecretStr | None:
        """Take a bearer token out of the database, and write the entry that it was handed out, in one transaction.

        None says that it does not wait any more: only one of several calls gets it. From now on, its recipient has a
        while to confirm the receipt.

        Raises:
            JournalError: If that cannot be written; it waits on then.
            DeliveryError: If it was sealed with a key that is not there any more; it waits on then.
        """

        def take(connection: Connection) -> SecretStr | None:
            sealed = table.read_sealed(connection, pickup.id)
            if sealed is None:
                return None
            bearer_token = self._open(pickup, sealed)
            table.empty_sealed(connection, pickup.id)
            record.insert_attempt(connection, entry)
            return bearer_token

        return await self._transactions.erase(take)

    def _open(self, pickup: Pickup, sealed: bytes) -> SecretStr:
        bound_to = _bind(pickup.id, self._cluster, str(pickup.token_id), pickup.recipient)
        opened = self.offer.sealer.open(sealed, bound_to)
        if opened is None:
            raise DeliveryError(
                "It cannot be opened: it was sealed with none of the keys of QUMULO_HTTP_STATE_KEYS. The operator puts "
                "the former key back, at the end of the list; or else its token is deleted again in time."
            )
        return SecretStr(opened.decode())

    async def end(self, pickup: Pickup, ending: Ending, entry: Attempt | None = None) -> bool:
        """Write what became of a bearer token, with an entry about that; tell whether this was not known before.

        Raises:
            JournalError: If that cannot be written.
        """

        def write(connection: Connection) -> bool:
            is_first = table.end(connection, pickup.id, ending)
            if is_first and entry is not None:
                record.update_attempt(connection, entry)
            return is_first

        return await self._transactions.erase(write)

    async def end_as_gone(self, pickup: Pickup) -> None:
        """Write that the token of a bearer token does not exist any more, unless its time is over.

        Raises:
            JournalError: If that cannot be written.
        """
        await self._transactions.erase(lambda connection: table.end_as_gone(connection, pickup.id))

    async def end_by_receipt(self, pickup: Pickup, entry: Attempt) -> bool:
        """Write that a bearer token was picked up, with an entry; tell whether that came in time, and once.

        Raises:
            JournalError: If that cannot be written.
        """

        def write(connection: Connection) -> bool:
            is_in_time = table.end_by_receipt(connection, pickup.id)
            if is_in_time:
                record.update_attempt(connection, entry)
            return is_in_time

        return await self._transactions.write(write)

    async def end_by_deletion(self, token_id: str) -> None:
        """Write that a token was deleted, if its bearer token waits.

        Raises:
            JournalError: If that cannot be written.
        """
        if (pickup := await self.find_by_token(token_id)) is not None:
            await self.end(pickup, "gone")

    async def note_once(self, entry: Attempt) -> None:
        """Write an entry about a bearer token unless one with its id is there.

        Raises:
            JournalError: If it cannot be written.
        """
        await self._transactions.write(lambda connection: record.insert_attempt_once(connection, entry))

    async def claim_overdue(self, draft: Callable[[Pickup], Attempt]) -> Sequence[Pickup]:
        """Return the overdue bearer tokens that no other server works on, for this server to delete their tokens.

        What was sealed of them is gone from the database with that. `draft` returns the intent to delete the token of
        one, whose id is the same at each try; it is written with that.

        Raises:
            JournalError: If that cannot be written.
        """
        if not await self._transactions.read(
            lambda connection: table.has_overdue(connection, self._cluster), if_missing=False
        ):
            return ()

        def claim(connection: Connection) -> Sequence[Pickup]:
            claimed = table.claim_overdue(connection, self._cluster)
            for pickup in claimed:
                intent = draft(pickup)
                record.update_attempt(connection, intent)
                record.renew_leases(connection, [intent.id])
            return claimed

        return await self._transactions.erase(claim)

    async def tell_ended(self, is_wanted: Callable[[Pickup], bool]) -> Sequence[Pickup]:
        """Return the bearer tokens that are wanted and whose tokens were deleted, and nobody was told that yet.

        They are told with this.

        Raises:
            JournalError: If that cannot be written.
        """
        if not await self._transactions.read(
            lambda connection: table.has_untold(connection, self._cluster), if_missing=False
        ):
            return ()
        return await self._transactions.write(lambda connection: table.tell_ended(connection, self._cluster, is_wanted))


def _bind(pickup_id: str, cluster: str, token_id: str, recipient: str) -> str:
    return json.dumps([pickup_id, cluster, token_id, recipient])
