"""The record as it is in the database, and what a killed server leaves there: the one helper that knows its table."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg

from token_tools.settings import StateSettings

LONG_AGO: Final = "2000-01-01T00:00:00.000000Z"
_COLUMNS = (
    "number", "id", "begun", "cluster", "operation", "user_name", "token_id", "replaces", "state_after", "actor",
    "consent", "question", "outcome", "reason", "location", "settled", "settlement", "leased_until", "tokens_before",
    "state_before", "ended",
)  # fmt: skip
_INSERT = """
INSERT INTO changes (
    number, id, begun, cluster, operation, user_name, token_id, replaces, state_after, actor,
    consent, question, outcome, reason, location, settled, settlement, leased_until, tokens_before,
    state_before, ended
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ABANDONED: Final[dict[str, object]] = {
    "number": None,
    "id": None,
    "begun": "2026-11-24T09:00:00.000000Z",
    "cluster": "c.example.com:8000",
    "operation": "rotate",
    "user_name": "local:jane",
    "actor": "somebody",
    "consent": "not needed",
    "outcome": "intended",
    "leased_until": LONG_AGO,
}
"""An intent of a server that is dead."""


def state_file(state_dir: Path) -> Path:
    """Return the path of the database in a state folder."""
    return state_dir / "state.db"


def state_environment(state: StateSettings) -> dict[str, str]:
    """Return the variables that name this database to a process."""
    url = {} if state.state_url is None else {"QUMULO_STATE_URL": state.state_url.get_secret_value()}
    return {"QUMULO_STATE_DIR": str(state.state_dir), **url}


def execute(state: StateSettings | Path, statement: str, *parameters: object) -> list[dict[str, Any]]:
    """Run a statement in the database of a state folder, or of these settings; return its rows, none if there is none.

    Each parameter is a `?`.
    """
    if (url := _find_url(state)) is not None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET search_path = token_tools")
            try:
                cursor = connection.execute(statement.replace("?", "%s").encode(), parameters)
            except psycopg.errors.UndefinedTable:
                # Nothing was written yet, just as where there is no file.
                return []
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
    if not _find_file(state).exists():
        return []
    with closing(sqlite3.connect(_find_file(state), isolation_level=None)) as database:
        rows = database.execute(statement, parameters)
        names = [name for name, *_ in rows.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]


def _find_url(state: StateSettings | Path) -> str | None:
    url = None if isinstance(state, Path) else state.state_url
    return None if url is None else url.get_secret_value()


def _find_file(state: StateSettings | Path) -> Path:
    return state_file(state.state_dir if isinstance(state, StateSettings) else state)


def read_record(state: StateSettings | Path) -> list[dict[str, Any]]:
    """Read all entries in order, without what they do not tell."""
    rows = execute(state, "SELECT * FROM changes ORDER BY number")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def read_outcomes(state: StateSettings | Path) -> list[str]:
    """Read the outcome of each entry, in order."""
    return [row["outcome"] for row in read_record(state)]


def forget_outcomes(state: StateSettings | Path) -> None:
    """Leave of each change what a server leaves that was killed long ago, before it wrote an outcome."""
    execute(
        state,
        "UPDATE changes SET outcome = 'intended', ended = NULL, location = NULL, settled = NULL, settlement = NULL, "
        "token_id = CASE WHEN operation IN ('create', 'rotate') THEN NULL ELSE token_id END, leased_until = ?",
        LONG_AGO,
    )
    execute(state, "UPDATE state SET revision = revision + 1")


_DOWNGRADES: Final = {
    4: (
        "CREATE TABLE sightings"
        " (cluster TEXT PRIMARY KEY, seen TEXT NOT NULL, actor TEXT NOT NULL, tokens BYTEA NOT NULL)",
        "INSERT INTO sightings SELECT cluster, seen, actor, tokens FROM audits WHERE series = 'assistant'",
        "DROP TABLE audits",
    ),
    3: ("DROP TABLE pickups",),
    2: ("DROP TABLE questions", "DROP INDEX changes_by_revision", "ALTER TABLE changes DROP COLUMN revision"),
    1: ("DROP TABLE sightings",),
}
"""The statements that lead to each version of the schema from the one after it."""


def downgrade(state: StateSettings | Path, version: int) -> None:
    """Leave a database as an earlier version of the program wrote it."""
    for earlier, statements in _DOWNGRADES.items():
        if earlier >= version:
            for statement in statements:
                execute(state, statement)
    execute(state, "UPDATE state SET version = ?", version)


def end_leases(state: StateSettings | Path) -> None:
    """Let the leases of all servers run out."""
    execute(state, "UPDATE changes SET leased_until = ?", LONG_AGO)


def add_entries(state: StateSettings | Path, entries: Sequence[Mapping[str, object]]) -> None:
    """Add entries to a database that is there, each with what it tells and the rest of an intent of a dead server."""
    [[first]] = [[row["revision"] + 1] for row in execute(state, "SELECT revision FROM state")]
    complete = [_ABANDONED | {"number": each, "id": f"{each:x}", **entry} for each, entry in enumerate(entries, first)]
    _execute_many(state, _INSERT, [[entry.get(name) for name in _COLUMNS] for entry in complete])
    execute(state, "UPDATE state SET revision = ?", first + len(entries) - 1)


def _execute_many(state: StateSettings | Path, statement: str, rows: Sequence[Sequence[object]]) -> None:
    if (url := _find_url(state)) is not None:
        with psycopg.connect(url) as connection:
            connection.execute("SET search_path = token_tools")
            connection.cursor().executemany(statement.replace("?", "%s").encode(), rows)
        return
    with closing(sqlite3.connect(_find_file(state))) as database:
        database.executemany(statement, rows)
        database.commit()
