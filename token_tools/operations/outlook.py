"""What is due on a cluster: what is not finished, and what expires next. Read from what is known already."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import anyio.to_thread

from token_tools.errors import JournalError
from token_tools.operations.journal_history import JournalHistory
from token_tools.operations.services import Services
from token_tools.storage.sightings import decode_tokens, find_expiries


class Outlook(NamedTuple):
    """What is due on a cluster.

    `unfinished_since` is when the oldest change without a known end began, None if there is none; `is_record_read` is
    false if that is not known. `next_expiry` is when the next of the tokens expires that the last audit saw, and
    `own_expiry` when the server's own does; each is None if none expires, or if that is not known.
    """

    is_record_read: bool = False
    unfinished_since: datetime | None = None
    next_expiry: datetime | None = None
    own_expiry: datetime | None = None


async def read_outlook(services: Services) -> Outlook:
    """Return what is due. The cluster is asked for nothing but the server's own token, once an hour."""
    own_expiry = await _find_own_expiry(services)
    try:
        history = JournalHistory(await services.journal.list_attempts())
        next_expiry = await _find_next_expiry(services, history.deleted_at.keys())
    except JournalError:
        # A call that needs the record says what is wrong with it.
        return Outlook(own_expiry=own_expiry)
    begun = [attempt.begun for attempt in history.attempts if attempt.is_unfinished]
    return Outlook(
        is_record_read=True,
        unfinished_since=min(begun, default=None),
        next_expiry=next_expiry,
        own_expiry=own_expiry,
    )


async def _find_own_expiry(services: Services) -> datetime | None:
    if services.own_token_watch is None:
        return None
    services.own_token_watch.begin()
    own = await services.own_token_watch.find()
    return None if own is None or own.token is None else own.token.expires


async def _find_next_expiry(services: Services, deleted: Collection[str]) -> datetime | None:
    """Return when the next of the tokens expires that the last audit saw, and that were not deleted since."""
    sighting = await services.journal.read_latest_sighting()
    if sighting is None:
        return None
    now = services.clock()

    def find() -> datetime | None:
        expiries = find_expiries(decode_tokens(sighting.tokens), excluding=deleted)
        return min((expiry for expiry in expiries if expiry > now), default=None)

    return await anyio.to_thread.run_sync(find, abandon_on_cancel=True)
