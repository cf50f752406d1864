"""A folder that nobody else can enter, and files in it that are whole or not there."""

import errno
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import Final

MOST_PARTS: Final = 256
"""Names in a path, with those that links add; more is a loop."""


def open_private_folder(path: Path, *, make: bool = True) -> int:
    """A descriptor of the folder, which is made if it is not there, and which nobody else can enter.

    A folder that others can enter is only made private where that takes nothing from anyone: while it is empty.

    Raises:
        FileNotFoundError: If it is not there and is not to be made.
        OSError: If that cannot be had.
    """
    folder = _walk(path, make=make)
    try:
        _make_private(folder)
    except OSError:
        os.close(folder)
        raise
    return folder


def create_private_file(name: str, folder: int) -> int:
    """A descriptor of a new file that only its owner can read.

    Raises:
        OSError: If there is one of that name, or none can be made.
    """
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)


def is_in(file: int, name: str, folder: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def publish(pending: str, name: str, folder: int) -> None:
    """Give a file its final name, durably; it loses both names if that fails half way.

    Raises:
        OSError: If it could not be done, or there is such a file.
    """
    if _exists(name, folder):
        raise FileExistsError(errno.EEXIST, f"{name} exists already")
    with ExitStack() as unless_durable:
        os.rename(pending, name, src_dir_fd=folder, dst_dir_fd=folder)
        unless_durable.callback(discard, name, folder)
        os.fsync(folder)
        unless_durable.pop_all()


def discard(name: str, folder: int) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _walk(path: Path, *, make: bool) -> int:
    """Part by part from the top, so that nothing can be put in the way between a look and the opening."""
    folder, left = _open_top(), [*reversed(path.absolute().parts[1:])]
    try:
        for _ in range(MOST_PARTS):
            if not left:
                return folder
            name = left.pop()
            if _is_link(name, folder):
                target = PurePath(_read_system_link(name, folder, is_last=not left))
                left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                following = _open_top() if target.is_absolute() else os.dup(folder)
            else:
                following = _step(name, folder, make=make)
            os.close(folder)
            folder = following
    except OSError:
        os.close(folder)
        raise
    os.close(folder)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _open_top() -> int:
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY)


def _step(name: str, folder: int, *, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, stat.S_IRWXU, dir_fd=folder)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _read_system_link(name: str, folder: int, *, is_last: bool) -> str:
    """Where a link leads that is how the system is laid out, such as `/tmp` on some; any other may be a trap.

    Such a link is root's. What root itself works with is told from the system by where it is.
    """
    is_root_s = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid == 0
    is_at_top = os.path.samestat(os.fstat(folder), Path("/").stat())
    if is_last or not is_root_s or (os.geteuid() == 0 and not is_at_top):
        raise OSError(errno.ELOOP, f"{name} is a symbolic link, and none is followed but the system's own")
    return os.readlink(name, dir_fd=folder)


def _make_private(folder: int) -> None:
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if stat.S_IMODE(status.st_mode) != stat.S_IRWXU:
        if os.listdir(folder):
            raise PermissionError(errno.EPERM, "others can enter it (chmod 700 it, or name another)")
        os.fchmod(folder, stat.S_IRWXU)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
