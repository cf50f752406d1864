"""People who pick bearer tokens up, without a browser: what the pages do for them, and what is in the database."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.support.harness import Harness, ToolAnswer
from tests.support.record import LONG_AGO, execute
from tests.support.replicas import calling
from tests.support.waiting import wait_until
from token_tools.operations.caller import Caller
from token_tools.operations.fleet import Fleet
from token_tools.operations.pickup import FoundPickup, HandedOut, confirm_receipt, find_pickup, hand_out
from token_tools.sealing import Sealer
from token_tools.storage.delivery import Recipient
from token_tools.storage.pickups import SEALING_PURPOSE, PickupOffer

URL: Final = "https://tokens.example.com/pickup"
ANN: Final = Caller("https://idp.example.com#ann", "https://idp.example.com#ann (Ann)", is_person=True)
SAM: Final = Caller("https://idp.example.com#sam", "https://idp.example.com#sam (Sam)", is_person=True)
JOB: Final = Caller("key:job", "named key job")


def offer_pickup(harness: Harness, key: bytes = b"k" * 32) -> Harness:
    """Let bearer tokens wait at pages, sealed with this key; return the harness."""
    harness.pickup = PickupOffer(URL, Sealer([key], SEALING_PURPOSE))
    harness.settings = harness.settings.model_copy(update={"delivery": "pickup"})
    return harness


async def call_as(
    harness: Harness,
    tool: str,
    caller: Caller = ANN,
    arguments: dict[str, Any] | None = None,
    **settings: object,
) -> ToolAnswer:
    """Call a tool of a new server as somebody."""
    with calling(caller):
        return await harness.call(tool, arguments, person=None, **settings)


@dataclass(frozen=True)
class Desk:
    """What the pages of a server do, for one page."""

    fleet: Fleet
    pickup_id: str

    async def find(self, caller: Caller = ANN) -> FoundPickup:
        """Look at the page."""
        return await find_pickup(self.fleet, self.pickup_id, Recipient(caller.id, caller.name))

    async def hand_out(self) -> HandedOut:
        """Take the bearer token."""
        return await hand_out(await self.find())

    async def confirm(self) -> bool:
        """Confirm the receipt."""
        return await confirm_receipt(await self.find())


@asynccontextmanager
async def at_page(harness: Harness, url: str) -> AsyncGenerator[Desk]:
    """Start a server with this page."""
    async with harness.connected():
        yield Desk(harness.opened[-1], url.removeprefix(f"{URL}/"))


def read_pickups(harness: Harness) -> list[dict[str, Any]]:
    """Return the rows of what waits, or waited."""
    return execute(harness.settings, "SELECT * FROM pickups ORDER BY asked, open_until")


def make_overdue(harness: Harness) -> None:
    """Let the time of everything be over, and no server work on it."""
    execute(harness.settings, "UPDATE pickups SET open_until = ?", LONG_AGO)
    execute(harness.settings, "UPDATE pickups SET leased_until = ? WHERE leased_until IS NOT NULL", LONG_AGO)


async def let_servers_look(harness: Harness) -> None:
    """Start a server, and wait until it has looked after all that is overdue."""
    make_overdue(harness)
    async with harness.connected():
        await wait_until(lambda: not _list_untouched(harness))


def _list_untouched(harness: Harness) -> list[dict[str, Any]]:
    """Return what is overdue and that no server has tried to delete, or is at work on."""
    return execute(
        harness.settings,
        "SELECT id FROM pickups WHERE state IN ('waiting', 'handed out') AND (leased_until IS NULL OR leased_until = ?)"
        " UNION SELECT id FROM changes WHERE operation = 'delete' AND outcome = 'intended'",
        LONG_AGO,
    )
