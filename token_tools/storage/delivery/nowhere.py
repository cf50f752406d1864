"""No destination: a server that may change tokens, and can create none."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn

from token_tools.errors import DeliveryError
from token_tools.storage.delivery.base import (
    AskedToken,
    DeliveredToken,
    ForAnybody,
    KeepsNoFiles,
    Location,
    locate_recorded,
)


@dataclass(frozen=True)
class NoDelivery(ForAnybody, KeepsNoFiles):
    """The destination "nowhere"."""

    async def reserve(self, _asked: AskedToken | None = None, /) -> NoReturn:
        """Refuse.

        Raises:
            DeliveryError: Always.
        """
        raise DeliveryError(
            "A new bearer token has no place to go: QUMULO_DELIVERY names none.",
            advice="The operator sets it to command, file, keyring or inline.",
        )

    async def locate(
        self, _token_id: str, location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the recorded location: there may have been a destination then."""
        return await locate_recorded(location)

    def render_possible_location(self, _user: str, /) -> None:
        """Return None: nothing was delivered."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Do nothing: nothing was delivered."""
