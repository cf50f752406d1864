"""Transactions on a database, whichever it is, and what is said when it fails.

All of this waits for a disk or for a network, so it is called in threads. A connection serves one call at a time and is
kept for the next one; a call that hangs keeps its connection to itself.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from token_tools.errors import RETRY_ONCE_FIXED, JournalError

WAIT_SECONDS: Final = 5
"""Seconds to wait for a database that is away, or that another server writes to."""

Row = tuple[Any, ...]
WorkResult = TypeVar("WorkResult")


class Cause(NamedTuple):
    """Why a database fails: `reason` goes on after a colon, and `remedy` is a sentence that names the setting."""

    reason: str
    remedy: str


class Connection(Protocol):
    """An open connection.

    Its statements have `?` for each parameter, and `utc_after(seconds)` for a time by the database's clock.
    """

    def execute(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    def begin(self) -> None:
        """Begin a transaction once no other one writes; outside of one, each statement is a transaction of its own."""
        ...

    def has_table(self, name: str) -> bool:
        """Tell whether there is such a table."""
        ...

    def prepare_schema(self) -> None:
        """Create what has to be there before the first table."""
        ...

    def is_current(self) -> bool:
        """Tell whether a new connection would lead to the same database, as far as this can be seen from here."""
        ...

    def scrub(self) -> None:
        """Overwrite what was deleted, as far as that can be asked for; that it failed changes nothing."""
        ...

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""
        ...


class Database(Protocol):
    """A kind of database. `where` goes on after "The journal"."""

    where: str

    def connect(self) -> Connection | None:
        """Open a connection; None if there is no database."""
        ...

    def connect_or_create(self) -> Connection:
        """Open a connection to the database, which is created if it is not there."""
        ...

    def find_cause(self, failure: Exception, /) -> Cause | None:
        """Return why it failed; None if it is no failure of this database."""
        ...


class Connections:
    """The connections of one server to its database. `on_first_use` is called before anything is read or written."""

    def __init__(self, database: Database, on_first_use: Callable[["Connections"], None] | None = None) -> None:
        self.database = database
        self._on_first_use = on_first_use
        self._idle: Connection | None = None
        self._is_closed = False
        self._lock = Lock()

    def read(self, work: Callable[[Connection], WorkResult], *, if_missing: WorkResult) -> WorkResult:
        """Return what some work reads, or `if_missing` if there is no database.

        Raises:
            JournalError: If the database fails; the text says what mends that.
        """
        self._prepare()
        with self.explaining("read"):
            connection = self._take_current() or self.database.connect()
            if connection is None:
                return if_missing
            with self._keeping(connection):
                return work(connection)

    def write(self, work: Callable[[Connection], WorkResult], *, is_wanted: Callable[[], bool]) -> WorkResult:
        """Do some work in one transaction, and return its result once that is durable.

        It is undone if it raises, or if it is not wanted any more once it is done.

        Raises:
            JournalError: If the database fails; the text says what mends that.
        """
        return self._write(work, is_wanted, lambda _: None)

    def erase(self, work: Callable[[Connection], WorkResult], *, is_wanted: Callable[[], bool]) -> WorkResult:
        """Do what `write` does with some work that deletes a secret, and let that be overwritten.

        Raises:
            JournalError: If the database fails; the text says what mends that.
        """
        return self._write(work, is_wanted, lambda connection: connection.scrub())

    def _write(
        self,
        work: Callable[[Connection], WorkResult],
        is_wanted: Callable[[], bool],
        after_commit: Callable[[Connection], None],
    ) -> WorkResult:
        self._prepare()
        with self.explaining("written"):
            connection = self._take_current() or self.database.connect_or_create()
            with self._keeping(connection):
                connection.begin()
                result = work(connection)
                if not is_wanted():
                    raise TimeoutError
                connection.execute("COMMIT")
                after_commit(connection)
                return result

    def _prepare(self) -> None:
        """Do once what the first use needs; if that fails, the next use does it again."""
        on_first_use, self._on_first_use = self._on_first_use, None
        if on_first_use is not None:
            try:
                on_first_use(self)
            except BaseException:
                self._on_first_use = on_first_use
                raise

    def close(self) -> None:
        """Close the connection that waits for the next call; from now on, none is kept."""
        self._is_closed = True
        if (connection := self._take()) is not None:
            connection.close()

    @contextmanager
    def explaining(self, done: str) -> Generator[None]:
        """Explain a failure of the database: why the journal cannot be `read` or `written`, and what mends that.

        Raises:
            JournalError: If the block raises such a failure.
        """
        try:
            yield
        except Exception as failure:
            cause = self.database.find_cause(failure)
            if cause is None:
                raise
            rule = "" if done == "read" else " No change is begun without it, so that no token is ever lost sight of."
            raise JournalError(
                f"The journal {self.database.where} cannot be {done}: {cause.reason}.{rule} {cause.remedy}",
                advice=RETRY_ONCE_FIXED,
            ) from failure

    @contextmanager
    def _keeping(self, connection: Connection) -> Generator[None]:
        """Keep a connection for the next call, or close it if the block raises."""
        try:
            yield
        except BaseException:
            connection.close()
            raise
        with self._lock:
            surplus, self._idle = (connection, self._idle) if self._is_closed else (self._idle, connection)
        if surplus is not None:
            surplus.close()

    def _take_current(self) -> Connection | None:
        connection = self._take()
        if connection is None or connection.is_current():
            return connection
        connection.close()
        return None

    def _take(self) -> Connection | None:
        with self._lock:
            connection, self._idle = self._idle, None
        return connection
