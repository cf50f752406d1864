"""What was intended and what came of it: JSON lines on the user's disk, never with a secret in them.

An intent is written before the cluster is asked to change anything, its outcome afterwards; each line is on the disk
when the call returns. So a process that is killed leaves at worst an intent without an outcome, and the next one can
say so: whoever works on an intent holds a lock on a file of its own, which the system takes from the dead. Several
processes may write at once. The journal is bounded: what is old is dropped, except for open intents.

Whoever could write in it could send people anywhere: it is only believed where nobody else can, and a line that is
none of ours, or no longer whole, is passed over.
"""

import errno
import fcntl
import logging
import os
import shlex
import stat
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from token_tools.cluster.models import TokenId
from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.storage.private_files import ensure_private_folder, flush, format_path, try_or_log
from token_tools.times import Clock

ARCHIVE_AFTER_BYTES: Final = 1 << 20
"""Bytes after which the journal is moved aside; one such part is kept, so there are never more than about two."""

MAX_READ_BYTES: Final = 16 << 20
"""Bytes in one part above which it is not read; what is open stays in the journal, so it can grow larger."""

MAX_LINE_BYTES: Final = 16 << 10
"""Bytes; the longest that is written has a path and a name in it."""

MAX_REMEMBERED_ROTATIONS: Final = 200
"""How many rotations are remembered longer than that."""

Operation = Literal["create", "rotate", "update", "delete"]
Outcome = Literal["made", "not made", "deleted again", "stranded", "done", "not done", "unknown"]
"""Of a create or a rotate: `stranded`: made, of no use to anybody, and not to be deleted. `unknown`: no clear answer
came. Of an update or a delete: `done` or not, or `unknown`."""

_LOG: Final = logging.getLogger(__name__)
_PRIVATE_FILE_MODE: Final = 0o600
_MARKS: Final[AbstractSet[str]] = {"reported", "mentioned"}
_OPEN_RESULTS: Final[AbstractSet[str]] = {"intended", "unknown", "stranded"}
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


class JournalEntry(BaseModel):
    """One line. `attempt` joins an intent with what is written about it later.

    `token_id` is the token that is changed or deleted, or that was made; `replaces` the one that it is made for, by a
    rotate. `change` is what an update sends, `location` where a new secret went.
    """

    model_config = ConfigDict(frozen=True)

    time: Annotated[AwareDatetime, AfterValidator(_validate_utc)]
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    operation: Operation = "create"
    cluster: _PrintableText
    user: _PrintableText
    result: Outcome | Literal["intended", "reported", "mentioned"]
    token_id: TokenId | None = None
    replaces: TokenId | None = None
    change: _PrintableText | None = None
    place: Annotated[str, Field(pattern=r"^[^\x00]+$")] | None = None


class Journal:
    """The journal of one user, as one server on one cluster writes it.

    It waits `timeout_seconds` seconds for other processes that write. Calls of this process wait for each other as long
    as it takes, in the order in which they came.
    """

    def __init__(self, folder: Path, *, cluster: str, clock: Clock, timeout_seconds: float = 5) -> None:
        self.folder = folder
        self._path = folder / "journal.jsonl"
        self._archive_path = folder / "journal.1.jsonl"
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
        """Write what is about to be done for a user; while the block lasts, it counts as being worked on.

        Raises:
            JournalError: If it cannot be written; then nothing may be asked of the cluster.
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
        async with AsyncExitStack() as ending:
            held = ExitStack()
            ending.push_async_callback(_close_in_thread, held)
            async with self._locked():
                await anyio.to_thread.run_sync(self._lock_intent, intent, held)
                await anyio.to_thread.run_sync(self._write, [intent])
            yield intent

    async def record_outcome(
        self,
        intent: JournalEntry,
        outcome: Outcome,
        token_id: str | None = None,
        *,
        location: str | None = None,
        mentioned: Iterable[JournalEntry] = (),
    ) -> str | None:
        """Write what came of it, and which earlier intents nobody has to be told of any more.

        What has happened has happened: a journal that cannot be written is only told about. Gives why it could not be,
        None if it was.
        """
        done = {"time": self._clock(), "result": outcome, "token_id": token_id or intent.token_id, "place": location}
        try:
            await self._append([intent.model_copy(update=done), *self._build_marks(mentioned, "mentioned")])
        except JournalError as failure:
            _LOG.warning("%s", failure)
            return str(failure)
        return None

    async def take_unreported(self) -> list[JournalEntry]:
        """The intents that nobody works on and that have no outcome; each is reported once, to whoever asks first.

        Raises:
            JournalError: If the journal cannot be read and marked.
        """
        async with self._locked():
            await anyio.to_thread.run_sync(self._remove_stale_locks)
            unreported = [
                attempt.intent
                for attempt in await anyio.to_thread.run_sync(self._read_unsettled)
                if attempt.outcome == "intended" and not attempt.marks
            ]
            # What is marked is told: nothing that could fail comes after it.
            await anyio.to_thread.run_sync(self._write, self._build_marks(unreported, "reported"))
        return unreported

    async def count_unreadable(self) -> int:
        """How many lines are none of ours, or no longer whole.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked():
            return await anyio.to_thread.run_sync(lambda: sum(entry is None for entry in self._read_entries()))

    async def list_attempts(self) -> list["Attempt"]:
        """What is known of all attempts on this cluster, in the order of their beginnings; it waits for nobody.

        Raises:
            JournalError: If the journal cannot be read.
        """
        with anyio.move_on_after(self._timeout_seconds):
            try:
                return await anyio.to_thread.run_sync(self._list_attempts, abandon_on_cancel=True)
            except OSError as failure:
                raise JournalError(
                    f"The journal {format_path(self._path)} cannot be read: {failure.strerror}.",
                    advice=RETRY_ONCE_FIXED,
                ) from None
        raise JournalError(
            f"The journal {format_path(self._path)} cannot be read: its disk does not answer.", advice=RETRY_ONCE_FIXED
        )

    def _list_attempts(self) -> list["Attempt"]:
        return [
            replace(attempt, is_in_flight=attempt.outcome == "intended" and self._is_in_flight(attempt.intent))
            for attempt in self._read_attempts()
            if attempt.intent.cluster == self._cluster
        ]

    async def get_concurrent_attempts(self, user: str, *, excluding: JournalEntry) -> tuple[set[str], bool]:
        """The ids of the tokens that are known to have been made for a user, and whether one is just being made.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked():
            attempts = await anyio.to_thread.run_sync(lambda: [*self._read_attempts()])
            theirs = [
                attempt
                for attempt in attempts
                if self._is_creating_for(user, attempt.intent) and attempt.intent.attempt != excluding.attempt
            ]
            made = {attempt.last.token_id for attempt in theirs if attempt.last.token_id and attempt.outcome == "made"}
            return made, any(attempt.outcome == "intended" and self._is_in_flight(attempt.intent) for attempt in theirs)

    async def list_rotations(self, token_id: str) -> list[JournalEntry]:
        """How each earlier rotate of this token ended, oldest first; of one without an outcome, its intent.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked():
            attempts = await anyio.to_thread.run_sync(lambda: [*self._read_attempts()])
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
        async with self._locked():
            await anyio.to_thread.run_sync(self._write, entries)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """Alone with the journal, among all processes of this user; what fails within is told as our error."""
        async with self._queue:
            try:
                lock = await anyio.to_thread.run_sync(self._open_lock)
                try:
                    await self._wait_for_lock(lock)
                    yield
                finally:
                    _unlock(lock)
            except OSError as failure:
                raise JournalError(
                    f"The journal {format_path(self._path)} cannot be written: {failure.strerror}. Nothing is changed "
                    "without one, so that no token is ever lost sight of: free space, or let the server write to its "
                    "state directory (QUMULO_STATE_DIR).",
                    advice=RETRY_ONCE_FIXED,
                ) from failure

    async def _wait_for_lock(self, lock_fd: int) -> None:
        # Only here: a disk whose time is over raises a `TimeoutError` as well.
        with anyio.move_on_after(self._timeout_seconds):
            while not _try_lock(lock_fd):  # noqa: ASYNC110 - what is waited for is another process
                await anyio.sleep(0.02)
            return
        raise JournalError(
            f"The journal {format_path(self._path)} is held by another process.", advice="Try again in a minute."
        )

    def _open_lock(self) -> int:
        os.close(ensure_private_folder(self.folder))
        return _open_own_file(self.folder / "journal.lock", os.O_RDWR | os.O_CREAT)

    def _write(self, entries: list[JournalEntry]) -> None:
        if self._path.exists() and self._path.stat().st_size > ARCHIVE_AFTER_BYTES:
            # What is not settled begins the new part, since the old one will be dropped in its turn; so do the last
            # rotations, which are looked for when one is repeated.
            attempts = [*self._read_attempts()]
            rotations = [attempt for attempt in attempts if attempt.intent.replaces is not None][
                -MAX_REMEMBERED_ROTATIONS:
            ]
            kept = [attempt for attempt in attempts if not attempt.is_settled or attempt in rotations]
            entries = [*(entry for attempt in kept for entry in attempt.entries), *entries]
            self._path.replace(self._archive_path)
        if entries:
            _append_lines(self._path, entries)

    def _read_unsettled(self) -> list["Attempt"]:
        return [
            attempt
            for attempt in self._read_attempts()
            if not attempt.is_settled and not self._is_in_flight(attempt.intent)
        ]

    def _read_attempts(self) -> Iterable["Attempt"]:
        """In the order of their beginnings."""
        by_attempt: dict[str, dict[JournalEntry, None]] = {}
        for entry in filter(None, self._read_entries()):
            by_attempt.setdefault(entry.attempt, {})[entry] = None
        return [Attempt(tuple(entries)) for entries in by_attempt.values()]

    def _read_entries(self) -> Iterator[JournalEntry | None]:
        """Each line, None for one that cannot be read: half a line is what a killed process leaves."""
        for path in (self._archive_path, self._path):
            yield from map(_decode_entry, _read_lines(path))

    def _lock_intent(self, intent: JournalEntry, cleanup: ExitStack) -> None:
        path = self._lock_path(intent)
        lock = _open_own_file(path, os.O_RDWR | os.O_CREAT)
        cleanup.callback(_unlock_and_remove, lock, path)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_in_flight(self, intent: JournalEntry) -> bool:
        return not _is_unlocked(self._lock_path(intent))

    def _lock_path(self, intent: JournalEntry) -> Path:
        return self.folder / f"journal.{intent.attempt}.lock"

    def _remove_stale_locks(self) -> None:
        """Remove the locks of the dead; new ones are only made by who is alone with the journal, as we are now."""
        for path in self.folder.glob("journal.*.lock"):
            if path.is_file() and not path.is_symlink() and _is_unlocked(path):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Attempt:
    """What the journal has of one attempt, in the order of writing, each line once; whether somebody is still at it."""

    entries: Sequence[JournalEntry]
    is_in_flight: bool = False

    @property
    def intent(self) -> JournalEntry:
        """How it began."""
        return self.entries[0]

    @property
    def last(self) -> JournalEntry:
        """How it ended, or its intent."""
        return next((entry for entry in reversed(self.entries) if entry.result not in _MARKS), self.intent)

    @property
    def outcome(self) -> str:
        """What came of it; `intended` if that was never written."""
        return self.last.result

    @property
    def marks(self) -> AbstractSet[str]:
        """Who was told that the outcome is not known."""
        return _MARKS & {entry.result for entry in self.entries}

    @property
    def is_creating(self) -> bool:
        """Whether it is to make a token."""
        return self.intent.operation in _CREATING_OPERATIONS

    @property
    def is_open(self) -> bool:
        """Whether nobody knows what came of it, or it left a token behind that is of no use."""
        return self.outcome in _OPEN_RESULTS

    @property
    def is_settled(self) -> bool:
        """Whether it can be forgotten: whatever may have been made is told of until it was looked for in vain."""
        if self.is_creating:
            return not self.is_open or "mentioned" in self.marks
        return self.outcome != "intended" or "reported" in self.marks


def _append_lines(path: Path, entries: Iterable[JournalEntry]) -> None:
    lines = b"".join(entry.model_dump_json(exclude_none=True).encode() + b"\n" for entry in entries)
    journal = _open_own_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        size = os.fstat(journal).st_size
        is_torn = size > 0 and os.pread(journal, 1, size - 1) != b"\n"
        with open(journal, "ab", closefd=False) as stream:
            stream.write(b"\n" + lines if is_torn else lines)
        flush(journal)
        if not size:
            _flush_folder(path.parent)
    finally:
        _close(journal)


def _flush_folder(path: Path) -> None:
    """A new file is only there for good when its name is."""
    folder = os.open(path, os.O_RDONLY)
    try:
        flush(folder)
    finally:
        _close(folder)


def _read_lines(path: Path) -> Sequence[bytes]:
    try:
        journal = _open_own_file(path, os.O_RDONLY)
    except (FileNotFoundError, ValueError):
        # Of what no path can be, such as one with a zero in it, there is nothing.
        return []
    try:
        with open(journal, "rb", closefd=False) as stream:
            content = stream.read(MAX_READ_BYTES + 1)
    finally:
        _close(journal)
    if len(content) > MAX_READ_BYTES:
        raise OSError(errno.EFBIG, f"{path.name} is too large to be read; move it away, once it has been looked at")
    return [line for line in content.splitlines() if line]


def _decode_entry(line: bytes) -> JournalEntry | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None


def _open_own_file(path: Path, flags: int) -> int:
    """A descriptor of an ordinary file that only we can write; a pipe in its place would be waited for without an end.

    What is written is for nobody else to read either.
    """
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, _PRIVATE_FILE_MODE)
    with ExitStack() as unless_ours:
        unless_ours.callback(os.close, file)
        status = os.fstat(file)
        _check_ownership(path, status)
        if flags & os.O_CREAT and stat.S_IMODE(status.st_mode) != _PRIVATE_FILE_MODE:
            os.fchmod(file, _PRIVATE_FILE_MODE)
        unless_ours.pop_all()
    return file


def _check_ownership(path: Path, status: os.stat_result) -> None:
    where = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{path.name} is no ordinary file")
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM,
            f"{path.name} belongs to another user (uid {status.st_uid}), so what is in it is not believed. "
            f"Look through it, then chown {os.geteuid()} {where}, or move it away",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            errno.EPERM,
            f"others can write in {path.name} (mode {stat.S_IMODE(status.st_mode):04o}), so what is in it is not "
            f"believed. Look through it, then chmod 600 {where}, or move it away",
        )


def _close(file_fd: int) -> None:
    try_or_log("A file of the journal could not be closed", partial(os.close, file_fd))


def _try_lock(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock_and_remove(lock_fd: int, path: Path) -> None:
    # One that stays is swept away by the next start; what was done must not look failed for it.
    try_or_log(f"{path} could not be removed", partial(path.unlink, missing_ok=True))
    _unlock(lock_fd)


async def _close_in_thread(cleanup: ExitStack) -> None:
    """Close it in a thread: a disk that hangs must not hold up those who need none."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(cleanup.close)


def _unlock(lock_fd: int) -> None:
    try_or_log("A lock of the journal could not be given back", partial(fcntl.flock, lock_fd, fcntl.LOCK_UN))
    _close(lock_fd)


def _is_unlocked(path: Path) -> bool:
    """Whether nobody holds a lock on a file, or there is none."""
    try:
        lock = _open_own_file(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return _try_lock(lock)
    finally:
        _close(lock)
