"""A bearer token that waits to be picked up, as it is in the database, and what became of it."""

from datetime import datetime
from typing import Literal

import msgspec

PickupState = Literal["reserved", "waiting", "handed out", "picked up", "deleted", "gone", "left"]
"""What became of a bearer token.

It is `reserved` before its token is there, `waiting` for its recipient, `handed out` to their browser, and `picked up`
once that has confirmed it. Otherwise its token is `deleted` in time, `gone` because somebody else deleted it, or `left`
on the cluster because it is not the one that was created.
"""
Ending = Literal["picked up", "deleted", "gone", "left"]
"""The states in which nothing is to be done any more."""


class Pickup(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token that waits, or what became of it, as the database has it; never the bearer token itself.

    `id` names its page, and opens nothing by itself. `recipient` is the id of the caller who asked for it at `asked`,
    and alone may get it; `recipient_name` is how the record tells them. `expires` is when its token does, None for
    never. `created` is when the cluster says that it created the token, None if that was not read. `fingerprint` is the
    SHA-256 of the bearer token. From `open_until` on it is overdue. `ended` is when it was picked up, deleted or
    missed. `leased_until` is until when a server had it for itself to delete its token, None if none tried. Times are
    in UTC.
    """

    id: str
    cluster: str
    user_name: str
    recipient: str
    recipient_name: str
    asked: datetime
    expires: datetime | None = None
    token_id: str | None = None
    created: datetime | None = None
    fingerprint: str | None = None
    open_until: datetime
    state: PickupState = "reserved"
    ended: datetime | None = None
    leased_until: datetime | None = None
