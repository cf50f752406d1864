"""What was intended and what came of it: JSON lines on the user's disk, never with a secret in them.

An intent is written before the cluster is asked to change anything, its outcome afterwards; each line is on the disk
when the call returns. So a process that is killed leaves at worst an intent without an outcome, and the next one can
say so. Several processes may write at once. The journal is bounded: what is old is dropped, except for open intents.
"""

import fcntl
import logging
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Final, Literal

import anyio
import anyio.to_thread
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from token_tools.errors import JournalError
from token_tools.times import Clock

LARGEST: Final = 1 << 20
"""Bytes after which the journal is moved aside; one such part is kept, so there are never more than about two."""

IN_FLIGHT: Final = timedelta(minutes=15)
"""After this an intent has come to its end, even if a process with its number is alive."""

Operation = Literal["create", "rotate", "update", "delete"]
Outcome = Literal["made", "not made", "deleted again", "stranded", "done", "not done", "unknown"]
"""Of a create or a rotate: `stranded`: made, of no use to anybody, and not to be deleted. `unknown`: no clear answer
came. Of an update or a delete: `done` or not, or `unknown`."""

_LOG: Final = logging.getLogger(__name__)
_MARKS: Final = {"reported", "mentioned"}
_MAKING: Final[frozenset[Operation]] = frozenset({"create", "rotate"})


class Entry(BaseModel):
    """One line. `attempt` joins an intent with what is written about it later.

    `token_id` is the token that is changed or deleted, or that was made; `replaces` the one that it is made for, by a
    rotate. `change` is what an update sends, `place` where a new secret went.
    """

    model_config = ConfigDict(frozen=True)

    time: AwareDatetime
    attempt: str
    operation: Operation = "create"
    cluster: str
    user: str
    result: Outcome | Literal["intended", "reported", "mentioned"]
    token_id: str | None = None
    replaces: str | None = None
    change: str | None = None
    place: str | None = None
    process: int
    server: str


class Journal:
    """The journal of one user, as one server on one cluster writes it.

    It waits `patience` seconds for other processes that write.
    """

    def __init__(self, folder: Path, *, cluster: str, clock: Clock, patience: float = 5) -> None:
        self._folder = folder
        self._path = folder / "journal.jsonl"
        self._older = folder / "journal.1.jsonl"
        self._cluster = cluster
        self._clock = clock
        self._patience = patience
        self._server = token_hex(8)

    async def intend(
        self,
        user: str,
        operation: Operation = "create",
        *,
        token_id: str | None = None,
        replaces: str | None = None,
        change: str | None = None,
    ) -> Entry:
        """Write what is about to be done for a user.

        Raises:
            JournalError: If it cannot be written; then nothing may be asked of the cluster.
        """
        intent = Entry(
            time=self._clock(),
            attempt=token_hex(8),
            operation=operation,
            cluster=self._cluster,
            user=user,
            result="intended",
            token_id=token_id,
            replaces=replaces,
            change=change,
            process=os.getpid(),
            server=self._server,
        )
        await self._append([intent])
        return intent

    async def conclude(
        self,
        intent: Entry,
        outcome: Outcome,
        token_id: str | None = None,
        *,
        place: str | None = None,
        mentioned: Iterable[Entry] = (),
    ) -> str | None:
        """Write what came of it, and which earlier intents without an outcome the answer mentions.

        What has happened has happened: a journal that cannot be written is only told about. Gives why it could not be,
        None if it was.
        """
        done = {"time": self._clock(), "result": outcome, "token_id": token_id or intent.token_id, "place": place}
        try:
            await self._append([intent.model_copy(update=done), *self._mark(mentioned, "mentioned")])
        except JournalError as failure:
            _LOG.warning("%s", failure)
            return str(failure)
        return None

    async def report_open(self) -> list[Entry]:
        """The intents of servers that ended before the outcome; each is reported once, to whoever asks first.

        Raises:
            JournalError: If the journal cannot be read and marked.
        """
        async with self._locked():
            unreported = await anyio.to_thread.run_sync(self._find_open, {"reported", "mentioned"})
            await anyio.to_thread.run_sync(self._write, self._mark(unreported, "reported"))
        return unreported

    async def find_open(self, user: str) -> list[Entry]:
        """The intents to make a token for one user of this cluster that have no outcome and were not mentioned yet.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked():
            unmentioned = await anyio.to_thread.run_sync(self._find_open, {"mentioned"})
        return [
            intent
            for intent in unmentioned
            if (intent.cluster, intent.user) == (self._cluster, user) and intent.operation in _MAKING
        ]

    async def find_rotations(self, token_id: str) -> list[Entry]:
        """How each earlier rotate of this token ended, oldest first; of one without an outcome, its intent.

        Raises:
            JournalError: If the journal cannot be read.
        """
        async with self._locked():
            entries = await anyio.to_thread.run_sync(lambda: [*self._read()])
        return [
            ended[-1]
            for ended in _group(entry for entry in entries if entry.result not in _MARKS)
            if (ended[-1].cluster, ended[-1].replaces) == (self._cluster, token_id)
        ]

    def _mark(self, intents: Iterable[Entry], mark: Literal["reported", "mentioned"]) -> list[Entry]:
        return [intent.model_copy(update={"time": self._clock(), "result": mark}) for intent in intents]

    async def _append(self, entries: list[Entry]) -> None:
        async with self._locked():
            await anyio.to_thread.run_sync(self._write, entries)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """Alone with the journal, among all processes of this user; what fails within is told as our error."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _open(self._folder / "journal.lock", os.O_RDWR)
            try:
                with anyio.fail_after(self._patience):
                    while not _try_lock(lock):  # noqa: ASYNC110 - what is waited for is another process
                        await anyio.sleep(0.02)
                yield
            finally:
                os.close(lock)
        except TimeoutError:
            raise JournalError(f"The journal {self._path} is held by another process. Nothing was asked.") from None
        except OSError as failure:
            raise JournalError(
                f"The journal {self._path} cannot be written: {failure.strerror}. It has to be, so that no token is "
                "ever lost sight of; free space, or let the server write to its state directory."
            ) from failure

    def _write(self, entries: list[Entry]) -> None:
        if self._path.exists() and self._path.stat().st_size > LARGEST:
            # What is still open begins the new part, since the old one will be dropped in its turn.
            entries = [*self._find_open(set()), *entries]
            self._path.replace(self._older)
        if entries:
            _append_lines(self._path, entries)

    def _find_open(self, unless_marked: set[str]) -> list[Entry]:
        """Intents without an outcome, of no process that still works on them, and without any of these marks."""
        return [
            entries[0]
            for entries in _group(self._read())
            if {entry.result for entry in entries} <= {"intended"} | _MARKS - unless_marked
            and not self._is_in_flight(entries[0])
        ]

    def _read(self) -> Iterable[Entry]:
        for path in (self._older, self._path):
            if path.exists():
                for line in path.read_bytes().splitlines():
                    with suppress(ValidationError):  # half a line is all that a killed process can leave
                        yield Entry.model_validate_json(line)

    def _is_in_flight(self, intent: Entry) -> bool:
        if intent.server == self._server:
            return True
        # A process with our own number that is not us is one of an earlier life, as in a container.
        is_ours = intent.process == os.getpid()
        return not is_ours and self._clock() - intent.time < IN_FLIGHT and _is_alive(intent.process)


def _group(entries: Iterable[Entry]) -> Iterable[list[Entry]]:
    """The entries of each attempt, in the order of their writing."""
    by_attempt: dict[str, list[Entry]] = {}
    for entry in entries:
        by_attempt.setdefault(entry.attempt, []).append(entry)
    return by_attempt.values()


def _append_lines(path: Path, entries: Iterable[Entry]) -> None:
    lines = b"".join(entry.model_dump_json(exclude_none=True).encode() + b"\n" for entry in entries)
    journal = _open(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(journal).st_size
        is_torn = size > 0 and os.pread(journal, 1, size - 1) != b"\n"
        with open(journal, "ab", closefd=False) as stream:
            stream.write(b"\n" + lines if is_torn else lines)
        os.fsync(journal)
    finally:
        os.close(journal)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        with suppress(PermissionError):  # then it is there, and somebody else's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
