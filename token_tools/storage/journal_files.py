"""The files of the journal on the disk: lines that are appended durably, and locks that end with their process.

Each file is opened through the descriptor of the folder that was checked. What is in a file is only believed if nobody
else can write in it, since a planted line could tell people to use or to delete any token.
"""

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from token_tools.storage.private_files import (
    ensure_private_folder,
    flush,
    open_private_folder,
    remove_if_exists,
    try_lock,
    try_or_log,
)

MAX_READ_BYTES: Final = 16 << 20
"""Bytes above which a file of lines is not read. It can grow so large, since open intents stay in the journal."""

_PRIVATE_FILE_MODE: Final = 0o600
_NOT_ORDINARY: Final = {errno.ELOOP, errno.EISDIR, errno.ENXIO}
"""The errors with which a link, a folder and a socket are not opened."""


@dataclass(frozen=True)
class JournalFolder:
    """The open folder of the journal; `path` only serves to tell people where it is."""

    path: Path
    fd: int

    @classmethod
    def ensure(cls, path: Path) -> Self:
        """Open the folder, which is created if it is not there.

        Raises:
            OSError: If there is no such private folder; the text says what mends it.
        """
        return cls(path, ensure_private_folder(path))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder.

        Raises:
            FileNotFoundError: If it is not there.
            OSError: If it is not private; the text says what mends it.
        """
        return cls(path, open_private_folder(path))

    def duplicate(self) -> Self:
        """Return the folder with a descriptor of its own, which outlives this one."""
        return type(self)(self.path, os.dup(self.fd))

    def close(self) -> None:
        """Close the descriptor."""
        close_or_log(self.fd)

    def get_size(self, name: str) -> int:
        """Return the bytes of a file, 0 if it is not there."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def replace(self, old: str, new: str) -> None:
        """Give a file the name of another one, which is dropped."""
        os.replace(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def read_lines(self, name: str) -> Sequence[bytes]:
        """Return the lines of a file, none if it is not there.

        Raises:
            OSError: If it cannot be read, or not be believed.
        """
        try:
            file = self._open_own_file(name, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            with open(file, "rb", closefd=False) as stream:
                content = stream.read(MAX_READ_BYTES + 1)
        finally:
            close_or_log(file)
        if len(content) > MAX_READ_BYTES:
            raise OSError(errno.EFBIG, f"{name} is too large to be read; move it away, once it has been looked at")
        return [line for line in content.splitlines() if line]

    def append_lines(self, name: str, lines: bytes) -> None:
        """Append lines to a file and wait until they are on the disk.

        Raises:
            OSError: If they may not be there.
        """
        file = self._open_own_file(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            # A process that was killed while it wrote leaves half a line. That must not spoil the first of ours.
            is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            with open(file, "ab", closefd=False) as stream:
                stream.write(b"\n" + lines if is_torn else lines)
            flush(file)
            if not size:
                # A new file is only durable once its name is, and the name is in the folder. It comes last, so that
                # the name never outlives a crash without the lines.
                flush(self.fd)
        finally:
            close_or_log(file)

    def open_lock(self, name: str) -> int:
        """Return a descriptor of a lock file, which is created if it is not there.

        Raises:
            OSError: If it cannot be opened, or others can write in it.
        """
        return self._open_own_file(name, os.O_RDWR | os.O_CREAT)

    def is_unlocked(self, name: str) -> bool:
        """Tell whether no process holds a lock on a file, or there is no such file."""
        try:
            lock = self._open_own_file(name, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            # A shared lock, so that two processes that look at the same time do not take each other for the holder.
            return try_lock(lock, fcntl.LOCK_SH)
        finally:
            close_or_log(lock)

    def remove_stale_locks(self, prefix: str, suffix: str) -> None:
        """Remove the lock files that no process holds; the caller makes sure that no new ones are created meanwhile."""
        with os.scandir(self.fd) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        for name in names:
            if name.startswith(prefix) and name.endswith(suffix) and self.is_unlocked(name):
                remove_if_exists(name, self.fd)

    def unlock_and_remove(self, lock_fd: int, name: str) -> None:
        """Remove a lock file and give the lock back.

        A failure is logged and no more: what was done under the lock must not look failed, and the next start removes
        what stays.
        """
        try_or_log(f"{self.path / name} could not be removed", partial(remove_if_exists, name, self.fd))
        unlock(lock_fd)

    def _open_own_file(self, name: str, flags: int) -> int:
        """Return a descriptor of an ordinary file in which nobody else can write.

        A file that is written becomes private as well. Opening does not wait, as it would for a pipe in its place.
        """
        try:
            file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, _PRIVATE_FILE_MODE, dir_fd=self.fd)
        except OSError as failure:
            if failure.errno in _NOT_ORDINARY:
                raise _explain_not_ordinary(name) from None
            raise
        with ExitStack() as rollback:
            rollback.callback(os.close, file)
            status = os.fstat(file)
            _check_ownership(self.path / name, status)
            if flags & os.O_CREAT and stat.S_IMODE(status.st_mode) != _PRIVATE_FILE_MODE:
                os.fchmod(file, _PRIVATE_FILE_MODE)
            rollback.pop_all()
        return file


def _check_ownership(path: Path, status: os.stat_result) -> None:
    quoted_path = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise _explain_not_ordinary(path.name)
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM,
            f"{path.name} belongs to another user (uid {status.st_uid}), so what is in it is not believed. "
            f"Look through it, then chown {os.geteuid()} {quoted_path}, or move it away",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            errno.EPERM,
            f"others can write in {path.name} (mode {stat.S_IMODE(status.st_mode):04o}), so what is in it is not "
            f"believed. Look through it, then chmod 600 {quoted_path}, or move it away",
        )


def _explain_not_ordinary(name: str) -> OSError:
    return OSError(errno.EINVAL, f"{name} is no ordinary file, or a link: move it away")


def unlock(lock_fd: int) -> None:
    """Give a lock back and close its file; a failure is logged."""
    try_or_log("A lock of the journal could not be given back", partial(fcntl.flock, lock_fd, fcntl.LOCK_UN))
    close_or_log(lock_fd)


def close_or_log(fd: int) -> None:
    """Close a descriptor; a failure is logged."""
    try_or_log("A file of the journal could not be closed", partial(os.close, fd))
