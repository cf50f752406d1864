"""The state as a file of SQLite, for the servers of one user on one machine."""

from __future__ import annotations  # to evaluate them would load SQLite at the start

import sqlite3
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from token_tools.quoting import quote_untrusted
from token_tools.storage.state.connections import WAIT_SECONDS, Cause
from token_tools.storage.state.file import STATE_NAME, StateFiles, ensure_state_file, find_state_file
from token_tools.times import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from token_tools.storage.state.connections import Connection, Row
    from token_tools.times import Clock

_RETRY_SECONDS: Final = 0.01
_DISK: Final = "QUMULO_STATE_DIR has to be a folder on a disk of this machine, in which the server may write."
_FOLDER: Final = "QUMULO_STATE_DIR names its folder."
_FULL: Final = Cause("its disk is full", "Free space on the disk of QUMULO_STATE_DIR.")
_CAUSES: Final = {
    "SQLITE_FULL": _FULL,
    "SQLITE_IOERR_SHMSIZE": _FULL,
    "SQLITE_CORRUPT": Cause(
        "it is damaged",
        f"Move {STATE_NAME} and the files {STATE_NAME}-* out of QUMULO_STATE_DIR; they tell what is unfinished.",
    ),
    "SQLITE_NOTADB": Cause(
        f"{STATE_NAME} is no database", f"Look at it, and move it and the files {STATE_NAME}-* out of QUMULO_STATE_DIR."
    ),
    "SQLITE_ERROR": Cause(
        "its tables are not as this program makes them",
        f"Look at it, and move it and the files {STATE_NAME}-* out of QUMULO_STATE_DIR.",
    ),
    "SQLITE_BUSY": Cause(
        "another process holds it, or its file system has no locks",
        "End what uses the files in QUMULO_STATE_DIR, which has to be a folder on a disk of this machine.",
    ),
    "SQLITE_READONLY": Cause("it may only be read", _DISK),
    "SQLITE_CANTOPEN": Cause("a file of it cannot be opened or created", _DISK),
    "SQLITE_PROTOCOL": Cause("its file system has no locks that work", _DISK),
    "SQLITE_IOERR": Cause("its disk fails, or its file system has no locks", _DISK),
}
"""Causes by the beginnings of SQLite's names for its errors. Source: https://sqlite.org/rescode.html."""


class SqliteDatabase:
    """The file `state.db` in a folder, both of which only this user can enter. Times are those of `clock`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.where = str(folder / STATE_NAME)
        self._folder = folder
        self._clock = clock

    def connect(self) -> Connection | None:
        """Open the file.

        Raises:
            OSError: If it is not to be believed.
            sqlite3.Error: If it cannot be opened.
        """
        file = find_state_file(self._folder)
        return None if file is None else _SqliteConnection(self._folder, file, self._clock)

    def connect_or_create(self) -> Connection:
        """Open the file, which is created with its folder if it is not there.

        Raises:
            OSError: If it is not to be believed, or cannot be created.
            sqlite3.Error: If it cannot be opened.
        """
        return _SqliteConnection(self._folder, ensure_state_file(self._folder), self._clock)

    def find_cause(self, failure: Exception, /) -> Cause | None:
        """Return what the system or SQLite says, in words."""
        if isinstance(failure, OSError):
            return Cause(failure.strerror or "its disk does not answer", _FOLDER)
        if not isinstance(failure, sqlite3.Error):
            return None
        name = getattr(failure, "sqlite_errorname", "")
        known = (cause for code, cause in _CAUSES.items() if name.startswith(code))
        return next(known, Cause(f"SQLite says {quote_untrusted(str(failure), max_chars=100)}", _DISK))


class _SqliteConnection:
    def __init__(self, folder: Path, file: StateFiles, clock: Clock) -> None:
        self._folder = folder
        self._file = file
        self._connection = sqlite3.connect(
            f"{(folder / STATE_NAME).as_uri()}?mode=rw",
            uri=True,
            timeout=WAIT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

        def time_after(seconds: int) -> str:
            return format_timestamp(clock() + timedelta(seconds=seconds))

        try:
            self._connection.create_function("utc_after", 1, time_after)
            # Nothing is written outside of the private folder, and what is committed is on the disk.
            # What an audit saw is read once: 2 MB of it would stay in the cache for nothing. Its unit is a kilobyte.
            # What is deleted is overwritten with zeros: a secret that was picked up is not left there, sealed as it is.
            for setting in ("temp_store = MEMORY", "synchronous = FULL", "cache_size = -256", "secure_delete = ON"):
                self.execute(f"PRAGMA {setting}")
            self._keep_log()
        except sqlite3.Error:
            self._connection.close()
            raise

    def _keep_log(self) -> None:
        """Let what is written go to a log first; wait for another process that is just doing that in a new file.

        SQLite does not wait here by itself, whatever its timeout is.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as failure:  # pragma: no cover - two servers seldom meet here
                if failure.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def execute(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        return self._connection.execute(statement, parameters).fetchall()

    def begin(self) -> None:
        """Begin a transaction once no other one writes."""
        self._connection.execute("BEGIN IMMEDIATE")

    def has_table(self, name: str) -> bool:
        """Tell whether there is such a table."""
        return bool(self.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", name))

    def prepare_schema(self) -> None:
        """Do nothing: the connection has all that is needed."""

    def is_current(self) -> bool:
        """Tell whether the files still have their names, and nobody else can write in them."""
        files = find_state_file(self._folder)
        if files is not None and self._file.log is None:
            # The first change of all makes the log.
            self._file = self._file._replace(log=files.log)
        return files == self._file

    def scrub(self) -> None:
        """Overwrite what was deleted, and empty the log, which has it too; while another connection reads, it stays."""
        with suppress(sqlite3.Error):
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
