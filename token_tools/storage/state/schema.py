"""Which tables are there, in which version, and how an older database is brought up to date."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.storage.state.connections import Connection

_UPGRADES: Final[Sequence[Sequence[str]]] = (
    (
        "CREATE TABLE state (version BIGINT NOT NULL, revision BIGINT NOT NULL, probed TEXT)",
        "INSERT INTO state (version, revision) VALUES (0, 0)",
        """CREATE TABLE changes (
            number BIGINT PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            begun TEXT NOT NULL, -- all times are in UTC
            ended TEXT,
            cluster TEXT NOT NULL,
            operation TEXT NOT NULL,
            user_name TEXT NOT NULL,
            token_id TEXT,
            replaces TEXT,
            tokens_before TEXT,
            state_before TEXT,
            state_after TEXT,
            actor TEXT NOT NULL,
            consent TEXT NOT NULL,
            question TEXT,
            outcome TEXT NOT NULL, -- 'intended' is worked on, or unfinished once leased_until is over
            reason TEXT,
            location TEXT,
            settled TEXT, -- since when it need not be told any more that it is unfinished
            settlement TEXT,
            leased_until TEXT
        )""",
        "CREATE INDEX changes_by_time ON changes (begun)",
        "CREATE INDEX changes_by_replaced_token ON changes (cluster, replaces)",
        "CREATE INDEX changes_by_question ON changes (question)",
    ),
    (
        """CREATE TABLE sightings (
            cluster TEXT PRIMARY KEY,
            seen TEXT NOT NULL, -- by the cluster's clock
            actor TEXT NOT NULL,
            tokens BYTEA NOT NULL -- which SQLite takes for a word of no meaning, and keeps bytes as they are
        )""",
    ),
    (
        """CREATE TABLE questions (
            id TEXT PRIMARY KEY,
            cluster TEXT NOT NULL,
            caller TEXT NOT NULL, -- who alone can answer it
            request TEXT NOT NULL, -- a digest
            planned TEXT NOT NULL, -- by the cluster's clock
            asked TEXT NOT NULL, -- the moment of `planned`, by the server's clock
            digest TEXT NOT NULL, -- of its text
            open_until TEXT NOT NULL,
            UNIQUE (cluster, caller, request)
        )""",
        "CREATE INDEX questions_by_end ON questions (open_until)",
        # That of the record when the entry was written last.
        "ALTER TABLE changes ADD COLUMN revision BIGINT",
        "CREATE INDEX changes_by_revision ON changes (revision)",
    ),
    (
        """CREATE TABLE pickups (
            id TEXT PRIMARY KEY, -- names a page, and opens nothing
            cluster TEXT NOT NULL,
            user_name TEXT NOT NULL,
            recipient TEXT NOT NULL, -- who alone may have it
            recipient_name TEXT NOT NULL,
            asked TEXT NOT NULL,
            expires TEXT,
            token_id TEXT,
            created TEXT, -- when the cluster says that it created the token, once that was read
            fingerprint TEXT,
            sealed BYTEA, -- empty once it is handed out, or overdue
            open_until TEXT NOT NULL,
            state TEXT NOT NULL,
            leased_until TEXT,
            ended TEXT,
            told TEXT
        )""",
        "CREATE INDEX pickups_by_end ON pickups (open_until)",
        "CREATE INDEX pickups_by_token ON pickups (token_id)",
    ),
    (
        """CREATE TABLE audits (
            cluster TEXT NOT NULL,
            series TEXT NOT NULL, -- audits of one series are compared with each other
            seen TEXT NOT NULL, -- by the cluster's clock
            actor TEXT NOT NULL,
            tokens BYTEA NOT NULL,
            told BYTEA NOT NULL, -- which findings of which tokens
            PRIMARY KEY (cluster, series)
        )""",
        """INSERT INTO audits (cluster, series, seen, actor, tokens, told)
            SELECT cluster, 'assistant', seen, actor, tokens, '' FROM sightings""",
        "DROP TABLE sightings",
    ),
)
"""For each version of the schema, the statements that lead to it from the one before."""


class State(NamedTuple):
    """What a database tells of itself: the version of its tables, and the number of the last change."""

    version: int
    revision: int


def read_revision(connection: Connection) -> int | None:
    """Return the number of the last change, 0 if there was none, None if there is no table yet.

    Raises:
        JournalError: If a newer version of this program wrote the record, or none did.
    """
    return None if (state := find_state(connection)) is None else state.revision


def probe(connection: Connection) -> None:
    """Write something of no meaning: a database that is full or may only be read fails here."""
    connection.execute("UPDATE state SET probed = utc_after(0)")


def upgrade(connection: Connection) -> None:
    """Create the tables if there are none, and bring them up to date.

    Raises:
        JournalError: If a newer version of this program wrote the record, or none did.
    """
    state = find_state(connection)
    if state is None:
        connection.prepare_schema()
    version = 0 if state is None else state.version
    for statements in _UPGRADES[version:]:
        for statement in statements:
            connection.execute(statement)
    if version < len(_UPGRADES):
        connection.execute("UPDATE state SET version = ?", len(_UPGRADES))


def find_state(connection: Connection) -> State | None:
    """Return what the database tells of itself, None if there is no table yet."""
    if not connection.has_table("state"):
        return None
    match connection.execute("SELECT version, revision FROM state"):
        case [(int(version), int(revision))] if version > 0:
            _check_version(version)
            return State(version, revision)
        case _:
            raise JournalError(
                "The table `state` of the journal is not as this program writes it. Look at the database that "
                "QUMULO_STATE_DIR or QUMULO_STATE_URL names, and move it away.",
                advice=RETRY_ONCE_FIXED,
            )


def _check_version(version: int) -> None:
    if version > len(_UPGRADES):
        raise JournalError(
            f"The journal was written by a newer version of this program (schema {version}; this one knows "
            f"{len(_UPGRADES)}). Update qumulo-token-tools, or name another QUMULO_STATE_DIR or QUMULO_STATE_URL.",
            advice=RETRY_ONCE_FIXED,
        )


def count_change(connection: Connection) -> int:
    """Count a change and return its number."""
    connection.execute("UPDATE state SET revision = revision + 1")
    [(revision,)] = connection.execute("SELECT revision FROM state")
    return int(revision)
