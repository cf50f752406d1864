"""The tables of the record, and every statement on them: the same for each kind of database.

Each change is one transaction that counts up `revision`, which is also the number of its entry. So a server sees
whether the record is still what it read last. Times are texts in UTC of one width: they sort by themselves, and people
can read them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from token_tools.cluster.normalization import validate_token_id
from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.storage.attempts import UNTRIED, Attempt, Settlement
from token_tools.storage.questions import QUESTION_TIMEOUT, OpenQuestion
from token_tools.storage.sightings import ASSISTANT, Sighting, explain_unreadable
from token_tools.storage.state.connections import Connection, Row
from token_tools.storage.state.schema import count_change, find_state, upgrade
from token_tools.times import format_timestamp

LEASE_SECONDS: Final = 45
"""Seconds for which an attempt counts as worked on after its server said so last."""

PRUNED_EVERY: Final = 64
"""The number of entries is looked at once in so many changes, since that takes a while."""

MAX_PRUNED: Final = 500
"""Entries that one change drops at most, so that none takes long."""

MAX_READ: Final = 20_000
"""Changes that an operation looks back on, besides what is unfinished; who asks for all entries gets all."""

_REVISIONS_VERSION: Final = 3
"""The version of the schema from which on an entry has the revision of the record at which it was written last."""

_COLUMNS: Final = (
    "number", "id", "begun", "ended", "cluster", "operation", "user_name", "token_id", "replaces", "tokens_before",
    "state_before", "state_after", "actor", "consent", "question", "outcome", "reason", "location", "settled",
    "settlement",
)  # fmt: skip
_IS_TRIED: Final = f"(outcome NOT IN ({', '.join(repr(outcome) for outcome in sorted(UNTRIED))}))"
_IS_UNSETTLED: Final = "(outcome IN ('intended', 'unknown', 'undeletable') AND settled IS NULL)"
_TIMES: Final = ("begun", "ended", "settled")
_SELECT_SIGHTING: Final = "SELECT seen, actor, tokens, told FROM audits"


class _StoredFile(msgspec.Struct, tag_field="kind", tag="file"):
    path: Annotated[str, msgspec.Meta(pattern=r"^/[^\x00]*$")]


class _StoredAccount(msgspec.Struct, tag_field="kind", tag="keyring"):
    service: str
    account: str


class _StoredCommand(msgspec.Struct, tag_field="kind", tag="command"):
    program: str


class _StoredAnswer(msgspec.Struct, tag_field="kind", tag="inline"):
    pass


class _StoredPage(msgspec.Struct, tag_field="kind", tag="pickup"):
    url: str


_LOCATION: Final = msgspec.json.Decoder(_StoredFile | _StoredAccount | _StoredCommand | _StoredAnswer | _StoredPage)


def insert_attempt(connection: Connection, attempt: Attempt) -> None:
    """Add an entry; one that is intended is leased to this server."""
    _insert_row(connection, _to_row(attempt))
    if attempt.outcome == "intended":
        renew_leases(connection, [attempt.id])


def insert_attempt_once(connection: Connection, attempt: Attempt) -> None:
    """Add an entry unless one with its id is there."""
    if not connection.execute("SELECT 1 FROM changes WHERE id = ?", attempt.id):
        insert_attempt(connection, attempt)


def _insert_row(connection: Connection, row: Mapping[str, object]) -> None:
    revision = count_change(connection)
    values = {**row, "number": revision, "revision": revision}
    marks = ", ".join("?" for _ in values)
    connection.execute(f"INSERT INTO changes ({', '.join(values)}) VALUES ({marks})", *values.values())


def import_attempts(connection: Connection, attempts: Iterable[Attempt]) -> None:
    """Add attempts that nobody works on; of one that is there already, the end is written if it was not known."""
    upgrade(connection)
    known: dict[str, str] = dict(connection.execute("SELECT id, outcome FROM changes"))
    for attempt in attempts:
        if attempt.id not in known:
            _insert_row(connection, _to_row(attempt))
        elif known[attempt.id] == "intended":
            update_attempt(connection, attempt)


def take_question(connection: Connection, entry: Attempt) -> bool:
    """Delete the entry that a person was asked, whose place their answer takes; tell whether it was there.

    From now on, nobody can answer that question.
    """
    where = "WHERE question = ? AND cluster = ? AND outcome = 'asked'"
    asked = connection.execute(f"SELECT id FROM changes {where}", entry.question, entry.cluster)
    connection.execute(f"DELETE FROM changes {where}", entry.question, entry.cluster)
    if entry.question is not None:
        close_question(connection, entry.cluster, entry.question)
    return bool(asked)


def find_question(connection: Connection, cluster: str, caller: str, request: str) -> OpenQuestion | None:
    """Return the question that is open about a caller's request, None if there is none that this program wrote."""
    rows = connection.execute(
        "SELECT id, caller, request, planned, asked, digest FROM questions "
        "WHERE cluster = ? AND caller = ? AND request = ? AND open_until > utc_after(0)",
        cluster,
        caller,
        request,
    )
    try:
        return msgspec.convert(rows[0], OpenQuestion) if rows else None
    except msgspec.ValidationError:
        return None


def replace_question(connection: Connection, cluster: str, question: OpenQuestion) -> None:
    """Write that a question is open, in the place of another one about the same request; drop those that are over."""
    # Without the inner SELECT, the time would be found out anew for each question that is open.
    connection.execute("DELETE FROM questions WHERE open_until <= (SELECT utc_after(0))")
    connection.execute(
        "DELETE FROM questions WHERE cluster = ? AND caller = ? AND request = ?",
        cluster,
        question.caller,
        question.request,
    )
    connection.execute(
        "INSERT INTO questions (id, cluster, caller, request, planned, asked, digest, open_until) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, utc_after(?))",
        question.id,
        cluster,
        question.caller,
        question.request,
        format_timestamp(question.planned),
        format_timestamp(question.asked),
        question.digest,
        QUESTION_TIMEOUT.total_seconds(),
    )


def close_question(connection: Connection, cluster: str, question_id: str) -> bool:
    """Delete a question; tell whether it was open."""
    where = "WHERE id = ? AND cluster = ?"
    still_open = connection.execute(
        f"SELECT 1 FROM questions {where} AND open_until > utc_after(0)", question_id, cluster
    )
    connection.execute(f"DELETE FROM questions {where}", question_id, cluster)
    return bool(still_open)


def update_attempt(connection: Connection, attempt: Attempt) -> None:
    """Write what became of an attempt; it is added if the database was replaced since it began."""
    if not connection.execute("SELECT 1 FROM changes WHERE id = ?", attempt.id):
        _insert_row(connection, _to_row(attempt))
        return
    values = {**_to_row(attempt), "revision": count_change(connection)}
    del values["id"]
    changes = ", ".join(f"{name} = ?" for name in values)
    connection.execute(f"UPDATE changes SET {changes} WHERE id = ?", *values.values(), attempt.id)


def settle_attempts(
    connection: Connection, attempts: Iterable[Attempt], settlement: Settlement, settled: datetime
) -> None:
    """Write why attempts need not be told any more, and which tokens they made if that was found out meanwhile."""
    revision = count_change(connection)
    for attempt in attempts:
        connection.execute(
            "UPDATE changes SET settled = ?, settlement = ?, token_id = COALESCE(token_id, ?), revision = ? "
            f"WHERE id = ? AND {_IS_UNSETTLED}",
            format_timestamp(settled),
            settlement,
            attempt.token_id,
            revision,
            attempt.id,
        )


def renew_leases(connection: Connection, ids: Collection[str]) -> None:
    """Write that attempts are still worked on; that one was taken for dead meanwhile counts as a change."""
    for attempt_id in ids:
        connection.execute(
            "UPDATE state SET revision = revision + 1 "
            "WHERE EXISTS (SELECT 1 FROM changes WHERE id = ? AND leased_until <= utc_after(0))",
            attempt_id,
        )
        connection.execute(
            "UPDATE changes SET leased_until = utc_after(?), revision = (SELECT revision FROM state) WHERE id = ?",
            LEASE_SECONDS,
            attempt_id,
        )


def select_attempts(
    connection: Connection,
    *,
    cluster: str | None = None,
    since: datetime | None = None,
    replaces: str | None = None,
    only_tried: bool = False,
) -> list[Attempt]:
    """Return the entries for which all that is given holds, the earliest first.

    Of those that were tried, only the entries of the last `MAX_READ` changes are returned, and all that are unfinished.

    Raises:
        JournalError: If an entry is none that this program wrote.
    """
    given = {"cluster = ?": cluster, "begun >= ?": since and format_timestamp(since), "replaces = ?": replaces}
    wanted = {condition: value for condition, value in given.items() if value is not None}
    conditions = " AND ".join([*wanted, *([_IS_TRIED] if only_tried else []), "1 = 1"])
    first_too_many = f"SELECT number FROM changes WHERE {conditions} ORDER BY number DESC LIMIT 1 OFFSET {MAX_READ}"
    bound = f" AND (number > coalesce(({first_too_many}), 0) OR {_IS_UNSETTLED})" if only_tried else ""
    return _select(connection, f"{conditions}{bound}", *wanted.values(), *(wanted.values() if only_tried else ()))


def select_changed_attempts(
    connection: Connection, *, cluster: str, revision: int, last: Attempt, in_flight: Sequence[Attempt]
) -> list[Attempt] | None:
    """Return what was tried or written since a revision at which `last` was the last attempt, and `in_flight` again.

    None says that this cannot be told, since the database is another one, or an older version of this program made it.

    Raises:
        JournalError: If an entry is none that this program wrote.
    """
    state = find_state(connection)
    if state is None or state.version < _REVISIONS_VERSION or state.revision < revision:
        return None
    if not connection.execute("SELECT 1 FROM changes WHERE number = ? AND id = ?", last.number, last.id):
        return None
    numbers = [attempt.number for attempt in in_flight]
    is_in_flight = f"number IN ({', '.join('?' for _ in numbers)})" if numbers else "1 = 0"
    conditions = f"(revision > ? OR {is_in_flight}) AND cluster = ? AND {_IS_TRIED}"
    return _select(connection, conditions, revision, *numbers, cluster)


def _select(connection: Connection, conditions: str, *parameters: object) -> list[Attempt]:
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)}, "
        "CASE WHEN outcome = 'intended' AND leased_until > utc_after(0) THEN 1 ELSE 0 END "
        f"FROM changes WHERE {conditions} ORDER BY number",
        *parameters,
    )
    return [decode_entry(dict(zip(_COLUMNS, row, strict=False)), is_in_flight=bool(row[-1])) for row in rows]


def find_oldest_of_last(connection: Connection, count: int, since: datetime) -> datetime | None:
    """Return when the first of the last `count` changes since some time was begun; None if there were fewer."""
    rows = connection.execute(
        f"SELECT begun FROM changes WHERE begun > ? AND {_IS_TRIED} ORDER BY begun DESC LIMIT 1 OFFSET ?",
        format_timestamp(since),
        count - 1,
    )
    return datetime.fromisoformat(rows[0][0]) if rows else None


def prune(connection: Connection, *, before: datetime, max_entries: int) -> None:
    """Drop a few of the entries that were begun before a time, and of those that are too many.

    What was tried and what was not are counted apart, so that no flood of refusals pushes a change out.
    """
    _delete_first(connection, "begun < ?", format_timestamp(before))
    [(revision,)] = connection.execute("SELECT revision FROM state")
    if revision % PRUNED_EVERY:
        return
    for kind in (_IS_TRIED, f"NOT {_IS_TRIED}"):
        first_too_many = f"SELECT number FROM changes WHERE {kind} ORDER BY number DESC LIMIT 1 OFFSET ?"
        _delete_first(connection, f"{kind} AND number <= ({first_too_many})", max_entries)


def _delete_first(connection: Connection, condition: str, parameter: object) -> None:
    connection.execute(
        f"DELETE FROM changes WHERE number IN (SELECT number FROM changes WHERE {condition} AND NOT {_IS_UNSETTLED} "
        f"LIMIT {MAX_PRUNED})",
        parameter,
    )


def select_sighting(connection: Connection, cluster: str, series: str) -> Sighting | None:
    """Return what the last audit of a cluster saw in a series, None if there was none.

    Raises:
        JournalError: If this version of the program wrote no such thing.
    """
    if connection.has_table("audits"):
        condition = "cluster = ? AND series = ?"
        return _decode_sighting(connection.execute(f"{_SELECT_SIGHTING} WHERE {condition}", cluster, series))
    return _select_earlier_sighting(connection, cluster) if series == ASSISTANT else None


def select_latest_sighting(connection: Connection, cluster: str) -> Sighting | None:
    """Return what the last audit of a cluster saw, of whichever series, None if there was none.

    Raises:
        JournalError: If this version of the program wrote no such thing.
    """
    if connection.has_table("audits"):
        latest = "cluster = ? ORDER BY seen DESC LIMIT 1"
        return _decode_sighting(connection.execute(f"{_SELECT_SIGHTING} WHERE {latest}", cluster))
    return _select_earlier_sighting(connection, cluster)


def _select_earlier_sighting(connection: Connection, cluster: str) -> Sighting | None:
    # Who only reads brings no tables up to date, and earlier versions knew no series but the assistant's.
    if not connection.has_table("sightings"):
        return None
    return _decode_sighting(connection.execute("SELECT seen, actor, tokens FROM sightings WHERE cluster = ?", cluster))


def _decode_sighting(rows: Sequence[Row]) -> Sighting | None:
    try:
        return msgspec.convert(rows[0], Sighting) if rows else None
    except msgspec.ValidationError:
        raise explain_unreadable() from None


def replace_sighting(connection: Connection, cluster: str, series: str, sighting: Sighting) -> None:
    """Write what an audit saw in the place of what the last one of its series did."""
    connection.execute(
        "INSERT INTO audits (cluster, series, seen, actor, tokens, told) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (cluster, series) DO UPDATE SET "
        "seen = excluded.seen, actor = excluded.actor, tokens = excluded.tokens, told = excluded.told",
        cluster,
        series,
        format_timestamp(sighting.time),
        sighting.actor,
        sighting.tokens,
        sighting.told,
    )


def renew_sighting(connection: Connection, cluster: str, series: str, last: Sighting, renewed: Sighting) -> None:
    """Write that another audit saw and told what the last one had, unless that was replaced meanwhile."""
    connection.execute(
        "UPDATE audits SET seen = ?, actor = ? WHERE cluster = ? AND series = ? AND seen = ?",
        format_timestamp(renewed.time),
        renewed.actor,
        cluster,
        series,
        format_timestamp(last.time),
    )


def _to_row(attempt: Attempt) -> dict[str, Any]:
    row = msgspec.to_builtins(attempt) | {name: _format(getattr(attempt, name)) for name in _TIMES}
    return {name: row[name] for name in _COLUMNS if name != "number"}


def _format(time: datetime | None) -> str | None:
    return None if time is None else format_timestamp(time)


def decode_entry(values: Mapping[str, Any], *, is_in_flight: bool = False) -> Attempt:
    """Return the attempt of which these are the columns; one that is left out is empty.

    Raises:
        JournalError: If this program wrote no such entry.
    """
    try:
        attempt = msgspec.convert({**values, "is_in_flight": is_in_flight}, Attempt)
        _check_entry(attempt)
    except (msgspec.MsgspecError, ValueError):
        raise JournalError(
            f"Entry {values.get('number')} of the journal is none that this program wrote: look at it, and remove it "
            "from the table `changes` of the database that QUMULO_STATE_DIR or QUMULO_STATE_URL names.",
            advice=RETRY_ONCE_FIXED,
        ) from None
    return attempt


def _check_entry(attempt: Attempt) -> None:
    """Check what the types do not tell. The location is only looked at: to read each path would take long."""
    texts = (attempt.id, attempt.cluster, attempt.user, attempt.actor, attempt.question, attempt.before, attempt.after)
    if not "".join(filter(None, (*texts, attempt.reason, attempt.tokens_before))).isprintable():
        raise ValueError("has something unprintable in it")
    if not all(time is None or time.tzinfo == UTC for time in (attempt.begun, attempt.ended, attempt.settled)):
        raise ValueError("has a time that is not in UTC")
    for token_id in (attempt.token_id, attempt.replaces):
        if token_id is not None:
            validate_token_id(token_id)
    if attempt.stored_location is not None:
        _LOCATION.decode(attempt.stored_location)
