"""A folder that nobody else can enter, and files in it that are whole or not there."""

import errno
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path


def open_private_folder(path: Path) -> int:
    """A descriptor of the folder, which is made if it is not there, and which nobody else can enter.

    A folder that others can enter is only made private where that takes nothing from anyone: while it is empty.

    Raises:
        OSError: If that cannot be had.
    """
    path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    for part in path.parents:
        # A link that root or we ourselves made is how the system is laid out; anyone else's is a trap.
        if part.is_symlink() and part.lstat().st_uid not in {0, os.geteuid()}:
            raise OSError(errno.ELOOP, f"{part} is somebody else's symbolic link")
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
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
