"""The file of the database on the disk: private, in a private folder, and nobody else's.

What is in it is only believed if nobody else can write in it, since a planted entry could tell people to use or to
delete any token. On Windows that cannot be seen: its folder is in the user's
profile, unless the operator named another one, and what is in it is believed.
"""

import errno
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from token_tools.posix import IS_WINDOWS, geteuid
from token_tools.storage.private_files import create_private_file, ensure_private_folder, open_private_folder
from token_tools.system_user import can_others_write

STATE_NAME: Final = "state.db"
_COMPANION_NAMES: Final = (f"{STATE_NAME}-wal", f"{STATE_NAME}-shm", f"{STATE_NAME}-journal")
"""The files that SQLite keeps beside its own, with the same mode."""
_PRIVATE_FILE_MODE: Final = 0o600


class StateFiles(NamedTuple):
    """The device and the number of the database's file and of its log, None if there is no log yet.

    They tell a file from another one of the same name. The log has what is not in the database's own file so far.
    """

    database: tuple[int, int]
    log: tuple[int, int] | None


def find_state_file(folder: Path) -> StateFiles | None:
    """Return which files the database has, None if there is none.

    Raises:
        OSError: If it cannot be read, or not be believed; the text says what mends it.
    """
    if IS_WINDOWS:
        return _check_files(folder, None)
    try:
        folder_fd = open_private_folder(folder)
    except FileNotFoundError:
        return None
    try:
        return _check_files(folder, folder_fd)
    finally:
        os.close(folder_fd)


def ensure_state_file(folder: Path) -> StateFiles:
    """Return which files the database has; it and its folder are created if they are not there, and made private.

    Raises:
        OSError: If there is no such file and none can be created, or what is there is not to be believed.
    """
    if IS_WINDOWS:
        return _ensure_unchecked_file(folder)
    folder_fd = ensure_private_folder(folder)
    try:
        if (file := _check_files(folder, folder_fd)) is not None:
            _make_private(folder_fd)
            return file
        with suppress(FileExistsError):  # another server may have created it meanwhile
            os.close(create_private_file(STATE_NAME, folder_fd))
        return StateFiles(_get_identity(os.stat(STATE_NAME, dir_fd=folder_fd, follow_symlinks=False)), None)
    finally:
        os.close(folder_fd)


def _check_files(folder: Path, folder_fd: int | None) -> StateFiles | None:
    """Return which files the database has, once nobody else can write in it or in what SQLite keeps beside it.

    They are looked at by their names, which only this user can change, and never opened: to close a file takes the
    locks away that this process has on it, those of SQLite too. Source: "How To Corrupt An SQLite Database File", 2.2.
    Without a descriptor of the folder, by their paths.
    """
    log, *_, database = [_check_file(folder / name, folder_fd) for name in (*_COMPANION_NAMES, STATE_NAME)]
    return None if database is None else StateFiles(_get_identity(database), log and _get_identity(log))


def _check_file(path: Path, folder_fd: int | None) -> os.stat_result | None:
    place = path if folder_fd is None else path.name
    try:
        status = os.stat(place, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    check_ownership(path, status)
    return status


def _ensure_unchecked_file(folder: Path) -> StateFiles:
    folder.mkdir(parents=True, exist_ok=True)
    if (files := _check_files(folder, None)) is not None:
        return files
    path = folder / STATE_NAME
    path.touch()
    return StateFiles(_get_identity(path.lstat()), None)


def _get_identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _make_private(folder_fd: int) -> None:
    for name in (*_COMPANION_NAMES, STATE_NAME):
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode
            if stat.S_IMODE(mode) != _PRIVATE_FILE_MODE:
                os.chmod(name, _PRIVATE_FILE_MODE, dir_fd=folder_fd)


def check_ownership(path: Path, status: os.stat_result) -> None:
    """Check that this is an ordinary file in which nobody else can write.

    Raises:
        OSError: If it is none; the text says what mends it.
    """
    quoted_path = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{path.name} is no ordinary file, or a link: move it away")
    if not IS_WINDOWS and status.st_uid != geteuid():
        raise PermissionError(
            errno.EPERM,
            f"{path.name} belongs to another user (uid {status.st_uid}), so what is in it is not believed. "
            f"Look through it, then chown {geteuid()} {quoted_path}, or move it away",
        )
    if can_others_write(status):
        raise PermissionError(
            errno.EPERM,
            f"others can write in {path.name} (mode {stat.S_IMODE(status.st_mode):04o}), so what is in it is not "
            f"believed. Look through it, then chmod 600 {quoted_path}, or move it away",
        )
