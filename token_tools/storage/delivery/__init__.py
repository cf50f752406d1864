"""Where a new bearer token goes: the only place besides the cluster that ever holds it.

Each module is one destination, with the type of its locations; `base` says what a destination is. A new one is a new
module, its lines here, and its name in the setting `QUMULO_DELIVERY`.
"""

from typing import TYPE_CHECKING, Annotated

import anyio
from pydantic import Field

from token_tools.cluster.qq import Qq
from token_tools.settings import Settings
from token_tools.storage.delivery.base import (
    AskedToken,
    DeliveredToken,
    Delivery,
    Location,
    Recipient,
    Reservation,
    TimeoutContext,
)
from token_tools.storage.delivery.child_process import Bounds
from token_tools.storage.delivery.command import CommandDelivery, CommandLocation
from token_tools.storage.delivery.file import FileDelivery, FileLocation
from token_tools.storage.delivery.inline import InlineDelivery, InlineLocation
from token_tools.storage.delivery.keyring import KeyringDelivery, KeyringLocation
from token_tools.storage.delivery.nowhere import NoDelivery
from token_tools.storage.delivery.pickup import PickupDelivery, PickupLocation, TakenPage, WaitingPage

if TYPE_CHECKING:
    from token_tools.storage.pickups import Pickups

__all__ = [
    "AskedToken",
    "CommandDelivery",
    "CommandLocation",
    "DeliveredToken",
    "Delivery",
    "FileDelivery",
    "FileLocation",
    "InlineDelivery",
    "InlineLocation",
    "KeyringDelivery",
    "KeyringLocation",
    "Location",
    "NoDelivery",
    "PickupDelivery",
    "PickupLocation",
    "Recipient",
    "Reservation",
    "StoredLocation",
    "TakenPage",
    "WaitingPage",
    "choose_delivery",
]

StoredLocation = Annotated[
    FileLocation | KeyringLocation | CommandLocation | InlineLocation | PickupLocation, Field(discriminator="kind")
]
"""A location of any destination, for pydantic to write into the journal and to read from it."""


def choose_delivery(
    settings: Settings,
    qq: Qq,
    *,
    pickups: "Pickups | None" = None,
    timeout_context: TimeoutContext = anyio.fail_after,
) -> Delivery:
    """Return the destination that `QUMULO_DELIVERY` names.

    `pickups` are the bearer tokens that wait for people, None where this server has no pages for them. The steps that
    must not stop half way are bounded with `timeout_context`.
    """
    destinations: dict[str, Delivery] = {
        "file": FileDelivery(settings.delivery_dir, qq, timeout_context=timeout_context),
        "keyring": KeyringDelivery(settings.address, timeout_context=timeout_context),
        "command": CommandDelivery(
            settings.delivery_command or (),
            settings.delivery_check,
            settings.address,
            Bounds(timeout_context=timeout_context),
        ),
        "inline": InlineDelivery(),
        "none": NoDelivery(),
        "pickup": NoDelivery() if pickups is None else PickupDelivery(pickups),
    }
    return destinations[settings.delivery]
