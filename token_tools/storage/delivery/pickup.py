"""Delivery of new bearer tokens to the person who asked, who signs in at a page of this server and sees it once."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Final, Literal
from urllib.parse import urlsplit

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.errors import DeliveryError, JournalError, Refusal
from token_tools.quoting import quote_untrusted
from token_tools.storage.delivery.base import AskedToken, DeliveredToken, KeepsNoFiles, Location, Recipient
from token_tools.times import format_duration, format_time

if TYPE_CHECKING:
    # It works with the record, whose entries have the locations of this package.
    from token_tools.storage.pickups import Pickups

_LOG: Final = logging.getLogger(__name__)
_MAX_NAME_CHARS: Final = 160


@dataclass(frozen=True)
class PickupLocation:
    """A page of a server, at which one person can pick a bearer token up."""

    url: str
    kind: Literal["pickup"] = "pickup"
    naming_setting: ClassVar[str | None] = None

    def render(self) -> str:
        """Return the address of the page, with what it is."""
        return f"the pick-up page {self.url}"

    def find_current(self) -> "PickupLocation":
        """Return the page itself; whether the bearer token still waits there is told by the page."""
        return self

    def remove(self) -> None:
        """Refuse: only the server with that page can.

        Raises:
            DeliveryError: Always.
        """
        raise DeliveryError(f"Only the server with the page {self.url} can remove it.")


@dataclass(frozen=True, kw_only=True)
class WaitingPage(PickupLocation):
    """A page at which a bearer token waits: for whom, and until when."""

    recipient_name: str
    open_until: datetime

    def render(self) -> str:
        """Return the address of the page, with for whom it waits there, and until when."""
        until = format_time(self.open_until)
        return (
            f"{super().render()}, where it waits for {_quote(self.recipient_name)} until {until}: they open it, and "
            "sign in"
        )


@dataclass(frozen=True, kw_only=True)
class TakenPage(PickupLocation):
    """A page at which a bearer token waited until somebody took it.

    `confirm_by` is until when their browser can confirm that, None if it has.
    """

    recipient_name: str
    confirm_by: datetime | None

    def render(self) -> str:
        """Return who has it, and what becomes of its token if they do not confirm that."""
        taken = f"the hands of {_quote(self.recipient_name)}, who was given it at {self.url}"
        if self.confirm_by is None:
            return taken
        return f"{taken} (unless that is confirmed there by {format_time(self.confirm_by)}, the token is deleted again)"


@dataclass(frozen=True)
class PickupDelivery(KeepsNoFiles):
    """The destination "a page for the person who asked"."""

    pickups: "Pickups"

    def announce(self, recipient: Recipient | None, /) -> str:
        """Name the page's server and the person.

        Raises:
            Refusal: If it is no person who can sign in.
        """
        if recipient is None:
            raise Refusal(
                "A new bearer token waits for the person who asked for it, who signs in to pick it up. This caller is "
                "no such person: it has a named key, or a token of its own. The operator can let a program take new "
                "bearer tokens instead: QUMULO_DELIVERY=command."
            )
        origin = urlsplit(self.pickups.offer.url).netloc
        return (
            f"Its bearer token will wait for {_quote(recipient.name)} at a page of {origin}, for "
            f"{format_duration(self.pickups.patience)}, and nobody else can see it."
        )

    async def reserve(self, asked: AskedToken | None = None, /) -> "ReservedPickup":
        """Write a row of the size that it will have, with the keys that will seal it."""
        if asked is None or asked.recipient is None:
            raise DeliveryError("A bearer token can only wait for a person who can sign in.")
        try:
            return ReservedPickup(self.pickups, await self.pickups.reserve(asked, asked.recipient), asked.recipient)
        except JournalError as failure:
            raise DeliveryError(str(failure)) from failure

    async def locate(
        self, token_id: str, _location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the page at which the bearer token of a token waits, or was taken; None if there is none."""
        try:
            pickup = await self.pickups.find_by_token(token_id)
        except JournalError as failure:
            raise DeliveryError(str(failure)) from failure
        if pickup is None:
            return None
        url = self.pickups.format_url(pickup.id)
        if pickup.state == "waiting" and not self.pickups.is_overdue(pickup):
            return WaitingPage(url=url, recipient_name=pickup.recipient_name, open_until=pickup.open_until)
        if pickup.state not in {"handed out", "picked up"}:
            return None
        confirm_by = pickup.open_until if pickup.state == "handed out" else None
        return TakenPage(url=url, recipient_name=pickup.recipient_name, confirm_by=confirm_by)

    def render_possible_location(self, _user: str, /) -> None:
        """Return None: where no token is recorded, none waits."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Drop the row with the bearer token.

        Raises:
            DeliveryError: If it is still there.
        """
        try:
            await self.pickups.discard(delivered.id)
        except JournalError as failure:
            raise DeliveryError(str(failure)) from failure


@dataclass(frozen=True)
class ReservedPickup:
    """A row that waits for a bearer token."""

    pickups: "Pickups"
    id: str
    recipient: Recipient

    async def store(self, token: NewAccessToken, _user: Identity, /) -> DeliveredToken:
        """Seal the bearer token into the row."""
        try:
            fingerprint = await self.pickups.store(self.id, token, self.recipient)
        except JournalError as failure:
            raise DeliveryError(str(failure)) from failure
        return DeliveredToken(
            token.id,
            fingerprint,
            location=PickupLocation(self.pickups.format_url(self.id)),
            how_to_use=(
                f"Give {_quote(self.recipient.name)} that address: they open it, sign in, and get the bearer token, "
                f"once; it opens for nobody else. It waits until {format_time(self.pickups.find_deadline())} "
                f"({format_duration(self.pickups.patience)}). Not picked up by then, the token is deleted again."
            ),
        )

    async def release(self) -> None:
        """Drop the row; one that is left is dropped by a later create."""
        try:
            await self.pickups.release(self.id)
        except JournalError as failure:
            _LOG.warning("%s", failure)


def _quote(name: str) -> str:
    # People choose a part of their names at their identity provider.
    return quote_untrusted(name, max_chars=_MAX_NAME_CHARS)
