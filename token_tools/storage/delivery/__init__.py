"""Where a new bearer token goes: the only place besides the cluster that ever holds it.

Each module is one destination, with the type of its locations; `base` says what a destination is. A new one is a new
module, its lines here, and its name in the setting `QUMULO_DELIVERY`.
"""

from typing import Annotated

import anyio
from pydantic import Field

from token_tools.cluster.qq import Qq
from token_tools.settings import Settings
from token_tools.storage.delivery.base import (
    AskedToken,
    DeliveredToken,
    Delivery,
    Location,
    Reservation,
    TimeoutContext,
)
from token_tools.storage.delivery.child_process import Bounds
from token_tools.storage.delivery.command import CommandDelivery, CommandLocation
from token_tools.storage.delivery.file import FileDelivery, FileLocation
from token_tools.storage.delivery.inline import InlineDelivery, InlineLocation
from token_tools.storage.delivery.keyring import KeyringDelivery, KeyringLocation
from token_tools.storage.delivery.nowhere import NoDelivery

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
    "Reservation",
    "StoredLocation",
    "choose_delivery",
]

StoredLocation = Annotated[
    FileLocation | KeyringLocation | CommandLocation | InlineLocation, Field(discriminator="kind")
]
"""A location of any destination, for pydantic to write into the journal and to read from it."""


def choose_delivery(settings: Settings, qq: Qq, *, timeout_context: TimeoutContext = anyio.fail_after) -> Delivery:
    """Return the destination that `QUMULO_DELIVERY` names.

    It bounds with `timeout_context` the steps that must not stop half way.
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
    }
    return destinations[settings.delivery]
