"""Every statement on the table of the bearer tokens that wait to be picked up.

A row outlives its secret: `sealed` is emptied once the bearer token is handed out, or once the time for that is over.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.storage.pickup_states import Ending, Pickup
from token_tools.storage.state.connections import Connection
from token_tools.times import format_timestamp

LEASE_SECONDS: Final = 45
"""Seconds for which a server has what is overdue for itself."""

CONFIRMATION_SECONDS: Final = 300
"""Seconds in which a browser has to confirm that it got a bearer token."""

RESERVED_SECONDS: Final = 600
"""Seconds after which a row that never got a bearer token is dropped; a create is over long before."""

KEPT_SECONDS: Final = 30 * 24 * 3600
"""Seconds for which a page tells what became of its bearer token."""


class SealedToken(NamedTuple):
    """A bearer token as a row has it, with the id of its token and its own fingerprint."""

    token_id: str
    fingerprint: str
    sealed: bytes


_COLUMNS: Final = (
    "id", "cluster", "user_name", "recipient", "recipient_name", "asked", "expires", "token_id", "created",
    "fingerprint", "open_until", "state", "ended", "leased_until",
)  # fmt: skip
_TABLE: Final = "pickups"
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM pickups"
# Once a server has begun to delete a token, no clock that is put back brings its bearer token back.
_IS_WAITING: Final = "(state = 'waiting' AND open_until > utc_after(0) AND leased_until IS NULL)"
_IS_OVERDUE: Final = (
    "(state IN ('waiting', 'handed out') AND open_until <= utc_after(0) "
    "AND (leased_until IS NULL OR leased_until <= utc_after(0)))"
)
_IS_UNTOLD: Final = "(state IN ('deleted', 'left') AND told IS NULL)"


def insert_reserved(connection: Connection, pickup: Pickup, filler: bytes) -> None:
    """Add a row for a bearer token that is still to come, with something of its size; drop what is very old."""
    connection.execute(
        "DELETE FROM pickups WHERE (ended IS NOT NULL AND ended <= utc_after(?)) "
        "OR (state = 'reserved' AND open_until <= utc_after(0))",
        -KEPT_SECONDS,
    )
    connection.execute(
        "INSERT INTO pickups (id, cluster, user_name, recipient, recipient_name, asked, expires, state, sealed, "
        "open_until) VALUES (?, ?, ?, ?, ?, ?, ?, 'reserved', ?, utc_after(?))",
        pickup.id,
        pickup.cluster,
        pickup.user_name,
        pickup.recipient,
        pickup.recipient_name,
        format_timestamp(pickup.asked),
        None if pickup.expires is None else format_timestamp(pickup.expires),
        filler,
        RESERVED_SECONDS,
    )


def fill_reserved(connection: Connection, pickup_id: str, content: SealedToken, *, seconds: float) -> bool:
    """Put a sealed bearer token into its row, where it waits for so many seconds; tell whether there is such a row."""
    where = "WHERE id = ? AND state = 'reserved'"
    is_there = connection.execute(f"SELECT 1 FROM pickups {where}", pickup_id)
    connection.execute(
        "UPDATE pickups SET state = 'waiting', token_id = ?, fingerprint = ?, sealed = ?, open_until = utc_after(?) "
        f"{where}",
        content.token_id,
        content.fingerprint,
        content.sealed,
        seconds,
        pickup_id,
    )
    return bool(is_there)


def note_created(connection: Connection, cluster: str, token_id: str, created: datetime) -> None:
    """Write when the cluster says that it created the token of a row."""
    connection.execute(
        "UPDATE pickups SET created = ? WHERE cluster = ? AND token_id = ?",
        format_timestamp(created),
        cluster,
        token_id,
    )


def delete(connection: Connection, pickup_id: str) -> None:
    """Drop a row."""
    connection.execute("DELETE FROM pickups WHERE id = ?", pickup_id)


def delete_of_token(connection: Connection, cluster: str, token_id: str) -> None:
    """Drop the rows with the bearer token of a token."""
    connection.execute("DELETE FROM pickups WHERE cluster = ? AND token_id = ?", cluster, token_id)


def select_by_id(connection: Connection, cluster: str, pickup_id: str) -> Pickup | None:
    """Return the row of a page, None if there is none of this cluster."""
    return _select_one(connection, "id = ? AND cluster = ?", pickup_id, cluster)


def select_by_token(connection: Connection, cluster: str, token_id: str) -> Pickup | None:
    """Return the row of a token, None if there is none."""
    return _select_one(connection, "token_id = ? AND cluster = ?", token_id, cluster)


def read_sealed(connection: Connection, pickup_id: str) -> bytes | None:
    """Return the sealed bearer token of a row, None if it does not wait there."""
    rows = connection.execute(f"SELECT sealed FROM pickups WHERE id = ? AND {_IS_WAITING}", pickup_id)
    return bytes(rows[0][0]) if rows else None


def empty_sealed(connection: Connection, pickup_id: str) -> None:
    """Write that a bearer token is handed out, whose receipt is to be confirmed; it is gone from its row."""
    connection.execute(
        f"UPDATE pickups SET state = 'handed out', sealed = NULL, open_until = utc_after(?) "
        f"WHERE id = ? AND {_IS_WAITING}",
        CONFIRMATION_SECONDS,
        pickup_id,
    )


def end(connection: Connection, pickup_id: str, ending: Ending) -> bool:
    """Write what became of a bearer token; tell whether that was not known before."""
    is_open = connection.execute("SELECT 1 FROM pickups WHERE id = ? AND ended IS NULL", pickup_id)
    connection.execute(
        "UPDATE pickups SET state = ?, sealed = NULL, ended = utc_after(0) WHERE id = ? AND ended IS NULL",
        ending,
        pickup_id,
    )
    return bool(is_open)


def end_as_gone(connection: Connection, pickup_id: str) -> None:
    """Write that the token of what waits is gone; once its time is over, it may be a server that deleted it."""
    connection.execute(
        f"UPDATE pickups SET state = 'gone', sealed = NULL, ended = utc_after(0) WHERE id = ? AND {_IS_WAITING}",
        pickup_id,
    )


def end_by_receipt(connection: Connection, pickup_id: str) -> bool:
    """Write that a bearer token is picked up; tell whether the receipt came in time, and for the first time."""
    where = "WHERE id = ? AND state = 'handed out' AND open_until > utc_after(0) AND leased_until IS NULL"
    is_in_time = connection.execute(f"SELECT 1 FROM pickups {where}", pickup_id)
    connection.execute(f"UPDATE pickups SET state = 'picked up', ended = utc_after(0) {where}", pickup_id)
    return bool(is_in_time)


def has_overdue(connection: Connection, cluster: str) -> bool:
    """Tell whether something is overdue that no server works on."""
    return _has_table(connection) and bool(
        connection.execute(f"SELECT 1 FROM pickups WHERE cluster = ? AND {_IS_OVERDUE} LIMIT 1", cluster)
    )


def claim_overdue(connection: Connection, cluster: str) -> Sequence[Pickup]:
    """Return what is overdue and that no server works on, empty its secrets, and lease it to this server."""
    claimed = _select(connection, f"cluster = ? AND {_IS_OVERDUE}", cluster)
    for pickup in claimed:
        connection.execute(
            "UPDATE pickups SET sealed = NULL, leased_until = utc_after(?) WHERE id = ?", LEASE_SECONDS, pickup.id
        )
    return claimed


def has_untold(connection: Connection, cluster: str) -> bool:
    """Tell whether a token was deleted, or left, and nobody was told that yet."""
    return _has_table(connection) and bool(
        connection.execute(f"SELECT 1 FROM pickups WHERE cluster = ? AND {_IS_UNTOLD} LIMIT 1", cluster)
    )


def tell_ended(connection: Connection, cluster: str, is_wanted: Callable[[Pickup], bool]) -> Sequence[Pickup]:
    """Return what became of tokens, where it is wanted and nobody was told yet; from now on it is told."""
    told = [*filter(is_wanted, _select(connection, f"cluster = ? AND {_IS_UNTOLD}", cluster))]
    for pickup in told:
        connection.execute("UPDATE pickups SET told = utc_after(0) WHERE id = ?", pickup.id)
    return told


def _select_one(connection: Connection, condition: str, *parameters: object) -> Pickup | None:
    return next(iter(_select(connection, condition, *parameters)), None) if _has_table(connection) else None


def _select(connection: Connection, condition: str, *parameters: object) -> Sequence[Pickup]:
    rows = connection.execute(f"{_SELECT} WHERE {condition} ORDER BY asked", *parameters)
    try:
        return [msgspec.convert(dict(zip(_COLUMNS, row, strict=True)), Pickup) for row in rows]
    except msgspec.ValidationError:
        raise JournalError(
            "Another version of this program wrote of a bearer token that waits to be picked up, or that is damaged.",
            advice=RETRY_ONCE_FIXED,
        ) from None


def _has_table(connection: Connection) -> bool:
    """Tell whether the tables are of a version that has this one; who only reads brings none up to date."""
    return connection.has_table(_TABLE)
