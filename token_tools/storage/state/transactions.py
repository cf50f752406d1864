"""Work with the database for callers that must not wait for it: in threads, one after the other, within a time."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from token_tools.storage.state.connections import Connection, Connections
from token_tools.storage.state.schema import upgrade

_Result = TypeVar("_Result")


class Transactions:
    """The transactions of one server on one cluster, in the order in which they were asked for.

    Each may take `timeout_seconds`, its wait for those before it included only as long as that one works.
    """

    def __init__(self, connections: Connections, timeout_seconds: float) -> None:
        self._connections = connections
        self._timeout_seconds = timeout_seconds
        self._queue = anyio.Lock()

    async def read(self, work: Callable[[Connection], _Result], *, if_missing: _Result) -> _Result:
        """Return what some work reads, or `if_missing` if there is no database.

        Raises:
            JournalError: If it cannot be read.
        """
        return await self._run(lambda _: self._connections.read(work, if_missing=if_missing))

    async def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do some work in one transaction, once the tables are up to date, and return its result.

        Raises:
            JournalError: If it cannot be written.
        """
        return await self._run(lambda is_wanted: self._connections.write(_after_upgrade(work), is_wanted=is_wanted))

    async def erase(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do what `write` does with some work that deletes a secret, and let that be overwritten.

        Raises:
            JournalError: If it cannot be written.
        """
        return await self._run(lambda is_wanted: self._connections.erase(_after_upgrade(work), is_wanted=is_wanted))

    async def _run(self, work: Callable[[Callable[[], bool]], _Result]) -> _Result:
        """Do some work with the database in a thread; one that hangs is left alone, and what it writes is undone."""
        with self._connections.explaining("used"):
            async with self._queue:
                with anyio.fail_after(self._timeout_seconds) as scope:
                    return await anyio.to_thread.run_sync(
                        lambda: work(lambda: not scope.cancel_called), abandon_on_cancel=True
                    )

    async def close(self) -> None:
        """Close the connection that waits for the next call, unless that takes too long."""
        with anyio.move_on_after(self._timeout_seconds, shield=True):
            await anyio.to_thread.run_sync(self._connections.close, abandon_on_cancel=True)


def _after_upgrade(work: Callable[[Connection], _Result]) -> Callable[[Connection], _Result]:
    def upgrade_first(connection: Connection) -> _Result:
        upgrade(connection)
        return work(connection)

    return upgrade_first
