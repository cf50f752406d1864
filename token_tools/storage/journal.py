"""What was intended and what came of it: JSON lines on the user's disk, never with a secret in them.

An intent is written before the cluster is asked to change anything, and its outcome afterwards. Both are on the disk
when the call returns, so a process that is killed leaves at worst an intent without an outcome, and a later process can
say so. The process that works on an intent holds a lock on a file of the intent's own. The system takes that lock when
the process ends, however it ends, and so tells which intents are abandoned.

Several processes may write at once; each line is written under the lock of the whole journal. The journal is bounded:
old lines are dropped, except for those that are still needed. A line that is not complete, or that this program did not
write, is passed over.
"""

import fcntl
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread
from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from token_tools.cluster.normalization import validate_token_id
from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.storage.delivery import Location, StoredLocation
from token_tools.storage.journal_files import JournalFolder, unlock
from token_tools.storage.journal_upgrade import upgrade_location, upgrade_result
from token_tools.storage.private_files import try_lock
from token_tools.times import Clock

ARCHIVE_AFTER_BYTES: Final = 1 << 20
"""Bytes after which the journal is moved aside. One such part is kept, so there are about twice as many at most."""

MAX_LINE_BYTES: Final = 16 << 10
"""Bytes of a line above which it is not read; the longest that is written has a path and a name in it."""

MAX_REMEMBERED_ROTATIONS: Final = 200
"""How many rotations are kept when older lines are dropped."""

Operation = Literal["create", "rotate", "update", "delete"]
Outcome = Literal["created", "not created", "rolled back", "undeletable", "done", "not done", "unknown"]
"""What came of an attempt; `unknown` if no clear answer came.

A create or rotate ends `created`, `not created`, `rolled back` (created and deleted again) or `undeletable` (created,
of no use to anybody, and still there). An update or delete ends `done` or `not done`.
"""

_LOG: Final = logging.getLogger(__name__)
_CURRENT_FILE: Final = "journal.jsonl"
_ARCHIVE_FILE: Final = "journal.1.jsonl"
_LOCK_FILE: Final = "journal.lock"
_MARKS: Final[AbstractSet[str]] = {"reported", "mentioned"}
_OPEN_RESULTS: Final[AbstractSet[str]] = {"intended", "unknown", "undeletable"}
_CREATING_OPERATIONS: Final[frozenset[Operation]] = frozenset({"create", "rotate"})


def _validate_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not in the calendar") from None


def _validate_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has something unprintable in it")
    return text


_PrintableText = Annotated[str, AfterValidator(_validate_printable)]
_TokenId = Annotated[str, AfterValidator(validate_token_id)]


class JournalEntry(BaseModel):
    """A line of the journal. `attempt` joins an intent with what is written about it later.

    `token_id` is the token that is changed or deleted, or that was created. `replaces` is the token for which a rotate
    creates another one. `change` is what an update sends, and `location` is where a new bearer token went.
    """

    model_config = ConfigDict(frozen=True)

    time: Annotated[AwareDatetime, AfterValidator(_validate_utc)]
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    operation: Operation = "create"
    cluster: _PrintableText
    user: _PrintableText
    result: Annotated[Outcome | Literal["intended", "reported", "mentioned"], BeforeValidator(upgrade_result)]
    token_id: _TokenId | None = None
    replaces: _TokenId | None = None
    change: _PrintableText | None = None
    location: Annotated[StoredLocation | None, BeforeValidator(upgrade_location)] = Field(
        default=None, validation_alias=AliasChoices("location", "place")
    )


class Journal:
    """The journal of one user, as one server on one cluster writes it.

    It waits at most `timeout_seconds` seconds for other processes that write. Calls of this process wait for each other
    in the order in which they came, for as long as it takes.
    """

    def __init__(self, folder: Path, *, cluster: str, clock: Clock, timeout_seconds: float = 5) -> None:
        self.folder = folder
        self._path = folder / _CURRENT_FILE
        self._cluster = cluster
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._queue = anyio.Lock()

    @asynccontextmanager
    async def record_intent(
        self,
        user: str,
        operation: Operation = "create",
        *,
        token_id: str | None = None,
        replaces: str | None = None,
        change: str | None = None,
    ) -> AsyncGenerator[JournalEntry]:
        """Write what is about to be done for a user; until the block ends, the intent counts as in flight.

        Raises:
            JournalError: If it cannot be written. The cluster must not be asked to change anything then.
        """
        intent = JournalEntry(
            time=self._clock(),
            attempt=token_hex(8),
            operation=operation,
            cluster=self._cluster,
            user=user,
            result="intended",
            token_id=token_id,
            replaces=replaces,
            change=change,
        )
        async with AsyncExitStack() as cleanup:
            intent_lock = ExitStack()
            cleanup.push_async_callback(_close_in_thread, intent_lock)
            async with self._locked() as folder:
                # In this order: an intent that is on the disk without a lock looks abandoned.
                await anyio.to_thread.run_sync(_lock_intent, intent, folder, intent_lock)
                await anyio.to_thread.run_sync(self._write, folder, [intent])
            yield intent

    async def record_outcome(
        self,
        intent: JournalEntry,
        outcome: Outcome,
        token_id: str | None = None,
        *,
        location: Location | None = None,
        mentioned: Iterable[JournalEntry] = (),
    ) -> str | None:
        """Write what came of an intent, and return None; or return why it could not be written.

        `mentioned` are earlier intents that need not be mentioned again. A failure raises no exception, because the
        change on the cluster has happened in any case.
        """
        changes = {
            "time": self._clock(),
            "result": outcome,
            "token_id": token_id or intent.token_id,
            "location": location,
        }
        try:
            await self._append([intent.model_copy(update=changes), *self._build_marks(mentioned, "mentioned")])
        except JournalError as failure:
            _LOG.warning("%s", failure)
            return str(failure)
        return None

    async def take_unreported(self) -> list[JournalEntry]:
        """Return the abandoned intents that have no outcome; each is returned once, to the first process that asks.

        Raises:
            JournalError: If the journal cannot be read and marked.
        """
        async with self._locked() as folder:
            # New locks are only made under the lock of the journal, which is ours now.
            await anyio.to_thread.run_sync(folder.remove_stale_locks, "journal.", ".lock")
            unreported = [
                attempt.intent
                for attempt in await anyio.to_thread.run_sync(_read_unsettled, folder)
                if attempt.outcome == "intended" and not attempt.marks
            ]
            # The marks come last: once they are written, nothing that can fail stands before the report.
            await anyio.to_thread.run_sync(self._write, folder, self._build_marks(unreported, "reported"))
        return unreported

    async def count_unreadable(self) -> int:
        """Return how many lines are not complete, or not written by this program.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked() as folder:
            return await anyio.to_thread.run_sync(lambda: sum(entry is None for entry in _read_entries(folder)))

    async def list_attempts(self) -> list["Attempt"]:
        """Return all attempts on this cluster, the earliest first, without waiting for processes that write.

        Raises:
            JournalError: If the journal cannot be read.
        """
        with anyio.move_on_after(self._timeout_seconds):
            try:
                return await anyio.to_thread.run_sync(self._list_attempts, abandon_on_cancel=True)
            except OSError as failure:
                raise JournalError(
                    f"The journal {self._path} cannot be read: {failure.strerror}.",
                    advice=RETRY_ONCE_FIXED,
                ) from None
        raise JournalError(
            f"The journal {self._path} cannot be read: its disk does not answer.", advice=RETRY_ONCE_FIXED
        )

    def _list_attempts(self) -> list["Attempt"]:
        try:
            opened = JournalFolder.open(self.folder)
        except FileNotFoundError:
            return []
        with closing(opened) as folder:
            return [
                replace(attempt, is_in_flight=attempt.outcome == "intended" and _is_in_flight(attempt.intent, folder))
                for attempt in _read_attempts(folder)
                if attempt.intent.cluster == self._cluster
            ]

    async def get_concurrent_attempts(self, user: str, *, excluding: JournalEntry) -> tuple[set[str], bool]:
        """Return the ids of the tokens that were created for a user, and whether another one is being created now.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked() as folder:
            attempts = [
                attempt
                for attempt in await anyio.to_thread.run_sync(_read_attempts, folder)
                if self._is_creating_for(user, attempt.intent) and attempt.intent.attempt != excluding.attempt
            ]
            created = {a.last.token_id for a in attempts if a.last.token_id and a.outcome == "created"}
            return created, any(a.outcome == "intended" and _is_in_flight(a.intent, folder) for a in attempts)

    async def list_rotations(self, token_id: str) -> list[JournalEntry]:
        """Return how each earlier rotate of this token ended, the earliest first; its intent if it has no outcome.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked() as folder:
            attempts = await anyio.to_thread.run_sync(_read_attempts, folder)
        return [
            attempt.last
            for attempt in attempts
            if (attempt.intent.cluster, attempt.intent.replaces) == (self._cluster, token_id)
        ]

    def _is_creating_for(self, user: str, intent: JournalEntry) -> bool:
        return (intent.cluster, intent.user) == (self._cluster, user) and intent.operation in _CREATING_OPERATIONS

    def _build_marks(
        self, intents: Iterable[JournalEntry], mark: Literal["reported", "mentioned"]
    ) -> list[JournalEntry]:
        return [intent.model_copy(update={"time": self._clock(), "result": mark}) for intent in intents]

    async def _append(self, entries: list[JournalEntry]) -> None:
        async with self._locked() as folder:
            await anyio.to_thread.run_sync(self._write, folder, entries)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[JournalFolder]:
        """Hold the lock of the journal, which one call among all processes of this user can have.

        Raises:
            JournalError: If the lock cannot be had, or the block raises an `OSError`.
        """
        # A lock of a file is no order: without the queue, calls of this process would overtake each other.
        async with self._queue:
            try:
                folder, lock = await anyio.to_thread.run_sync(self._open_lock)
                with closing(folder):
                    try:
                        await self._wait_for_lock(lock)
                        yield folder
                    finally:
                        unlock(lock)
            except OSError as failure:
                raise JournalError(
                    f"The journal {self._path} cannot be written: {failure.strerror}. Nothing is changed "
                    "without one, so that no token is ever lost sight of: free space, or let the server write to its "
                    "state directory (QUMULO_STATE_DIR).",
                    advice=RETRY_ONCE_FIXED,
                ) from failure

    async def _wait_for_lock(self, lock_fd: int) -> None:
        # Not `fail_after`: a file system that gives up raises a `TimeoutError` as well, which is no lock of a process.
        with anyio.move_on_after(self._timeout_seconds):
            while not try_lock(lock_fd):  # noqa: ASYNC110 - what is waited for is another process
                await anyio.sleep(0.02)
            return
        raise JournalError(f"The journal {self._path} is held by another process.", advice="Try again in a minute.")

    def _open_lock(self) -> tuple[JournalFolder, int]:
        folder = JournalFolder.ensure(self.folder)
        with ExitStack() as rollback:
            rollback.callback(folder.close)
            lock = folder.open_lock(_LOCK_FILE)
            rollback.pop_all()
        return folder, lock

    def _write(self, folder: JournalFolder, entries: list[JournalEntry]) -> None:
        if folder.get_size(_CURRENT_FILE) > ARCHIVE_AFTER_BYTES:
            entries = [*_list_needed_entries(folder), *entries]
            # They are written again, since the part that is the archive now is dropped in its turn. If this process is
            # killed before that, the archive still has them.
            folder.replace(_CURRENT_FILE, _ARCHIVE_FILE)
        if entries:
            lines = b"".join(entry.model_dump_json(exclude_none=True).encode() + b"\n" for entry in entries)
            folder.append_lines(_CURRENT_FILE, lines)


@dataclass(frozen=True)
class Attempt:
    """The entries of one attempt, in the order of writing and each once.

    `is_in_flight` says whether a process is still working on it.
    """

    entries: Sequence[JournalEntry]
    is_in_flight: bool = False

    @property
    def intent(self) -> JournalEntry:
        """The entry with which it began."""
        return self.entries[0]

    @property
    def last(self) -> JournalEntry:
        """The entry with which it ended, or else its intent."""
        return next((entry for entry in reversed(self.entries) if entry.result not in _MARKS), self.intent)

    @property
    def outcome(self) -> str:
        """What came of it, `intended` if that was never written."""
        return self.last.result

    @property
    def marks(self) -> AbstractSet[str]:
        """The marks that say whether people were told that its outcome is not known."""
        return _MARKS & {entry.result for entry in self.entries}

    @property
    def is_creating(self) -> bool:
        """Whether it is to create a token."""
        return self.intent.operation in _CREATING_OPERATIONS

    @property
    def is_open(self) -> bool:
        """Whether its outcome is not known, or it left a token behind that is of no use."""
        return self.outcome in _OPEN_RESULTS

    @property
    def is_settled(self) -> bool:
        """Whether its entries can be dropped.

        A token that it may have created is told about until a search for that token found nothing.
        """
        if self.is_creating:
            return not self.is_open or "mentioned" in self.marks
        return self.outcome != "intended" or "reported" in self.marks


def _list_needed_entries(folder: JournalFolder) -> list[JournalEntry]:
    """Return the entries that are needed after the archive is dropped: what is not settled, and the last rotations.

    A rotate that is repeated looks for the earlier one.
    """
    attempts = _read_attempts(folder)
    rotations = [attempt for attempt in attempts if attempt.intent.replaces is not None][-MAX_REMEMBERED_ROTATIONS:]
    needed = [attempt for attempt in attempts if not attempt.is_settled or attempt in rotations]
    return [entry for attempt in needed for entry in attempt.entries]


def _read_unsettled(folder: JournalFolder) -> list[Attempt]:
    attempts = _read_attempts(folder)
    return [attempt for attempt in attempts if not attempt.is_settled and not _is_in_flight(attempt.intent, folder)]


def _read_attempts(folder: JournalFolder) -> list[Attempt]:
    """Return all attempts, the earliest first."""
    by_attempt: dict[str, dict[JournalEntry, None]] = {}
    for entry in filter(None, _read_entries(folder)):
        by_attempt.setdefault(entry.attempt, {})[entry] = None
    return [Attempt(tuple(entries)) for entries in by_attempt.values()]


def _read_entries(folder: JournalFolder) -> Iterator[JournalEntry | None]:
    """Yield the entry of each line, None for a line that cannot be read."""
    for name in (_ARCHIVE_FILE, _CURRENT_FILE):
        yield from map(_decode_entry, folder.read_lines(name))


def _lock_intent(intent: JournalEntry, folder: JournalFolder, cleanup: ExitStack) -> None:
    """Lock the file of an intent until the stack is closed, which also removes the file."""
    name = _lock_file_of(intent)
    own_folder = folder.duplicate()
    cleanup.callback(own_folder.close)
    lock = own_folder.open_lock(name)
    cleanup.callback(own_folder.unlock_and_remove, lock, name)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_in_flight(intent: JournalEntry, folder: JournalFolder) -> bool:
    return not folder.is_unlocked(_lock_file_of(intent))


def _decode_entry(line: bytes) -> JournalEntry | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None


def _lock_file_of(intent: JournalEntry) -> str:
    return f"journal.{intent.attempt}.lock"


async def _close_in_thread(cleanup: ExitStack) -> None:
    """Close the stack in a thread, so that a disk that hangs does not stop those who need no disk."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(cleanup.close)
