"""The journal of earlier versions, JSON lines in the state folder, which is taken over into the database once.

Its files are renamed once its attempts are durable there. A line that is not complete, or that no such version wrote,
is passed over, as those versions did.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Annotated, Any, Final

import msgspec

from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.posix import O_NOFOLLOW, O_NONBLOCK
from token_tools.storage.attempts import Attempt
from token_tools.storage.private_files import (
    list_names,
    open_private_folder,
    remove_if_exists,
    rename,
    try_lock,
    try_or_log,
)
from token_tools.storage.state import record
from token_tools.storage.state.connections import WAIT_SECONDS, Connections
from token_tools.storage.state.file import check_ownership
from token_tools.times import format_timestamp

MAX_BYTES: Final = 16 << 20
"""Bytes of a file above which it is not read; those versions kept 2 MB."""

_LOCK_NAME: Final = "journal.lock"
_LOCK_INTERVAL_SECONDS: Final = 0.02
"""Seconds between two looks at a lock that somebody holds."""

_ATTEMPT_LOCK: Final = re.compile(r"journal\.[0-9a-f]+\.lock")
_MARKS: Final = {"reported", "mentioned"}
_RESULTS: Final = {
    "made": "created",
    "not made": "not created",
    "deleted again": "rolled back",
    "stranded": "undeletable",
}
"""The present words for those of the first version, which also had a text or a path under `place`."""
_INLINE_PLACE: Final = "this answer, and with it the conversation and its logs"
_KEYRING_PLACE: Final = re.compile(r"the system's keyring, service '(?P<service>[^']*)', account '(?P<account>.*)'")


class _Line(msgspec.Struct):
    """A line of that journal; `attempt` joins an intent with what was written about it later."""

    time: Annotated[datetime, msgspec.Meta(tz=True)]
    attempt: str
    cluster: str
    user: str
    result: str
    operation: str = "create"
    token_id: str | None = None
    replaces: str | None = None
    change: str | None = None
    location: dict[str, str] | None = None
    place: str | None = None


def import_journal(folder: Path, possible_names: Sequence[str], connections: Connections) -> None:
    """Take the attempts of the files that are in a folder over into the database, and rename the files then.

    `possible_names` has the older file first.

    Raises:
        JournalError: If they cannot be read or not be believed, or if the database cannot be written.
    """
    try:
        folder_fd = open_private_folder(folder)
        try:
            _import_files(folder, folder_fd, possible_names, connections)
        finally:
            os.close(folder_fd)
    except FileNotFoundError:
        return  # another server, which began together with this one, has taken it over
    except OSError as failure:
        raise JournalError(
            f"The journal of an earlier version in {folder} cannot be taken over: {failure.strerror}. QUMULO_STATE_DIR "
            "names that folder.",
            advice=RETRY_ONCE_FIXED,
        ) from None


def _import_files(folder: Path, folder_fd: int, possible_names: Sequence[str], connections: Connections) -> None:
    with ExitStack() as stack:
        if _LOCK_NAME in list_names(folder_fd):
            _wait_for_lock(stack.enter_context(_opened(folder / _LOCK_NAME, folder_fd)))
        present = list_names(folder_fd)
        names = [name for name in possible_names if name in present]
        attempts = [*_build_attempts(line for name in names for line in _read_lines(folder / name, folder_fd))]
        connections.write(lambda connection: record.import_attempts(connection, attempts), is_wanted=lambda: True)
        for name in names:
            # If this fails, the next server reads them again, and finds each attempt in the database.
            _rename_imported(folder / name, folder_fd)
        for name in filter(_ATTEMPT_LOCK.fullmatch, present):
            _remove_free_lock(folder / name, folder_fd)
        if _LOCK_NAME in present:
            remove_if_exists(_LOCK_NAME, folder_fd)


def _wait_for_lock(lock: FileIO) -> None:
    """Wait for a server of an earlier version, which writes a line, or for one that takes the journal over as well."""
    deadline = monotonic() + WAIT_SECONDS
    while not try_lock(lock.fileno()):
        if monotonic() > deadline:
            raise OSError(errno.EBUSY, f"another process holds {_LOCK_NAME}")
        sleep(_LOCK_INTERVAL_SECONDS)


def _rename_imported(path: Path, folder_fd: int) -> None:
    new = f"{path.name}.{token_hex(4)}.imported"
    try_or_log(f"{path} could not be renamed", lambda: rename(path.name, new, folder_fd))


def _remove_free_lock(path: Path, folder_fd: int) -> None:
    with suppress(OSError), _opened(path, folder_fd) as lock:
        if try_lock(lock.fileno()):
            os.unlink(path.name, dir_fd=folder_fd)


def _opened(path: Path, folder_fd: int) -> closing[FileIO]:
    """Open an ordinary file in which nobody else can write.

    Raises:
        OSError: If it is none.
    """
    check_ownership(path, os.stat(path.name, dir_fd=folder_fd, follow_symlinks=False))
    return closing(FileIO(os.open(path.name, os.O_RDONLY | O_NOFOLLOW | O_NONBLOCK, dir_fd=folder_fd)))


def _read_lines(path: Path, folder_fd: int) -> Sequence[bytes]:
    with _opened(path, folder_fd) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{path.name} is too large to be read; move it away")
        return file.readall().splitlines()


def _build_attempts(lines: Iterable[bytes]) -> Iterator[Attempt]:
    """Yield each attempt as its last line tells it."""
    by_attempt: dict[str, list[_Line]] = {}
    for line in lines:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = msgspec.json.decode(line, type=_Line)
            by_attempt.setdefault(decoded.attempt, []).append(decoded)
    for written in by_attempt.values():
        with suppress(JournalError, OverflowError):
            yield record.decode_entry(_build_entry(written))


def _build_entry(written: Sequence[_Line]) -> dict[str, Any]:
    last = next((line for line in reversed(written) if line.result not in _MARKS), written[0])
    outcome = _RESULTS.get(last.result, last.result)
    # Those versions told of an attempt to create a token until somebody was told, and of others once, at a start.
    mark = "mentioned" if last.operation in {"create", "rotate"} else "reported"
    told = next((format_timestamp(line.time) for line in written if line.result == mark), None)
    return {
        "id": last.attempt,
        "begun": format_timestamp(written[0].time),
        "ended": None if outcome == "intended" else format_timestamp(last.time),
        "cluster": last.cluster,
        "operation": last.operation,
        "user_name": last.user,
        "token_id": last.token_id,
        "replaces": last.replaces,
        "state_after": last.change,
        "actor": "not recorded",
        "consent": "not needed",
        "outcome": outcome,
        "location": _build_location(last),
        "settled": told,
        "settlement": told and "told to a person",
    }


def _build_location(line: _Line) -> str | None:
    if line.place is None:
        location = line.location
    elif line.place == _INLINE_PLACE:
        location = {"kind": "inline"}
    elif keyring := _KEYRING_PLACE.fullmatch(line.place):
        location = {"kind": "keyring", **keyring.groupdict()}
    else:
        location = {"kind": "file", "path": line.place}
    return None if location is None else msgspec.json.encode(location).decode()
