"""A folder that nobody else can enter, and files in it that are whole or not there.

What counts is what a look at them tells after they were made: there are file systems that take each mode and keep
none, and folders in which others can put something else in the place of what was looked at.
"""

import errno
import fcntl
import grp
import logging
import os
import pwd
import secrets
import shlex
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import Final

HOW_TO_SET_FOLDER: Final = "The operator names the folder by QUMULO_DELIVERY_DIR, or without it by QUMULO_STATE_DIR"

MAX_PATH_PARTS: Final = 256
"""Names in a path, with those that links add; more is a loop."""

_LOG: Final = logging.getLogger(__name__)
_PRIVATE_FILE_MODE: Final = 0o600
_ACCESS_BY_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FSYNC_UNSUPPORTED: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has no fsync, for a folder or at all."""
_TRAVERSE_FLAGS: Final[int] = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""How to open a folder that others may not list, which is no reason not to pass through it."""


class ModeNotKeptError(PermissionError):
    """A file system that lets others at what was made for its owner alone, with another mode than it has."""

    def __init__(self, wanted: int, mode: int) -> None:
        told = f"what is made there with mode {wanted:04o} has mode {stat.S_IMODE(mode):04o}"
        super().__init__(errno.EPERM, f"its file system does not keep modes: {told}. Name a folder on another one")


def ensure_private_folder(path: Path) -> int:
    """A descriptor of our own folder, which is made if it is not there, and which nobody else can enter.

    A folder that others can enter is only made private where that takes nothing from anyone: while it is empty.

    Raises:
        OSError: If that cannot be had; the text says what mends it.
    """
    folder = _open_by_parts(path, _ensure_folder)
    with ExitStack() as unless_private:
        unless_private.callback(os.close, folder)
        if _is_open_to_others(folder) and _is_empty(folder):
            with suppress(OSError):
                os.fchmod(folder, stat.S_IRWXU)
        _check_folder(path, folder)
        unless_private.pop_all()
    return folder


def open_private_folder(path: Path) -> int:
    """A descriptor of our own folder, which nobody else can enter, or which is empty.

    Raises:
        FileNotFoundError: If it is not there.
        OSError: If others can enter it, or replace it; the text says what mends it.
    """
    folder = _open_by_parts(path, _open_folder)
    with ExitStack() as unless_private:
        unless_private.callback(os.close, folder)
        if not _is_empty(folder):
            _check_folder(path, folder)
        unless_private.pop_all()
    return folder


def create_private_file(name: str, folder_fd: int) -> int:
    """A descriptor of a new file that only its owner can read.

    Raises:
        OSError: If there is one of that name, or none can be made.
    """
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _PRIVATE_FILE_MODE, dir_fd=folder_fd)
    with ExitStack() as unless_private:
        unless_private.callback(remove_if_exists, name, folder_fd)
        unless_private.callback(os.close, file)
        # Whatever the umask took away; what cannot be changed is looked at all the same.
        with suppress(OSError):
            os.fchmod(file, _PRIVATE_FILE_MODE)
        read_private_mode(file)
        unless_private.pop_all()
    return file


def read_private_mode(file_fd: int) -> int:
    """The mode of a file, which lets nobody else in.

    Raises:
        OSError: If it does, is another user's, or is no ordinary file.
    """
    status = os.fstat(file_fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "what was made there is no ordinary file")
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"what was made there belongs to another user (uid {status.st_uid})")
    if status.st_mode & _ACCESS_BY_OTHERS:
        raise ModeNotKeptError(_PRIVATE_FILE_MODE, status.st_mode)
    return stat.S_IMODE(status.st_mode)


def has_name(file_fd: int, name: str, folder_fd: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file_fd), os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


def rename(old: str, new: str, folder_fd: int) -> None:
    """Give a file another name; `flush` of the folder makes that last.

    Raises:
        OSError: If it could not be done, or there is such a file.
    """
    if _exists(new, folder_fd):
        raise FileExistsError(errno.EEXIST, f"{new} exists already")
    os.rename(old, new, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def flush(fd: int) -> None:
    """Let a file or a folder reach the disk, as far as its file system knows how to.

    Raises:
        OSError: If it did not.
    """
    try:
        os.fsync(fd)
    except OSError as failure:
        if failure.errno not in _FSYNC_UNSUPPORTED:
            raise


def list_names(folder_fd: int) -> list[str]:
    """Return the names in an open folder, sorted."""
    return sorted(os.listdir(folder_fd))


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file if that is possible now, and tell whether it was; `kind` can also be `fcntl.LOCK_SH`.

    The system gives the lock back when the process ends, however it ends.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_if_exists(name: str, folder_fd: int) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)


def try_or_log(failure_text: str, action: Callable[[], object]) -> str | None:
    """Do what nothing depends on any more; gives how `failure_text` is told, which is logged, or None."""
    try:
        action()
    except OSError as failure:
        told = f"{failure_text}: {failure.strerror}"
        _LOG.warning("%s", told)
        return told
    return None


def _open_by_parts(path: Path, open_part: Callable[[str, int], int]) -> int:
    """Part by part from the top, so that nothing can be put in the way between a look and the opening."""
    _check_path_text(path)
    at, folder, left = Path("/"), os.open("/", _TRAVERSE_FLAGS), [*reversed(path.absolute().parts[1:])]
    try:
        for _ in range(MAX_PATH_PARTS):
            if not left:
                return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
            _check_parent(at, folder)
            name = left.pop()
            if _is_link(name, folder):
                target = PurePath(_read_system_link(name, folder, is_last=not left))
                left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                following = os.open("/", _TRAVERSE_FLAGS) if target.is_absolute() else os.dup(folder)
                at = Path("/") if target.is_absolute() else at
            else:
                following = open_part(name, folder)
                at /= name
            os.close(folder)
            folder = following
    finally:
        os.close(folder)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _check_path_text(path: Path) -> None:
    """What is not text cannot be told where it is; what holds a zero is no path."""
    try:
        told = str(path).encode()
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "its name is not UTF-8, so no answer could tell it. Name another folder") from None
    if b"\0" in told:
        raise OSError(errno.EINVAL, "its name has a zero in it. Name another folder")


def _open_folder(name: str, folder_fd: int) -> int:
    return os.open(name, _TRAVERSE_FLAGS | os.O_NOFOLLOW, dir_fd=folder_fd)


def _ensure_folder(name: str, folder_fd: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, stat.S_IRWXU, dir_fd=folder_fd)
        # Whatever the umask took away; what cannot be changed is looked at all the same.
        with suppress(OSError):
            os.chmod(name, stat.S_IRWXU, dir_fd=folder_fd)
    return _open_folder(name, folder_fd)


def _is_link(name: str, folder_fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _read_system_link(name: str, folder_fd: int, *, is_last: bool) -> str:
    """Where a link leads that is how the system is laid out, such as `/tmp` on some; any other may be a trap.

    Such a link is root's. What root itself works with is told from the system by where it is.
    """
    is_root_s = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_uid == 0
    is_at_top = os.path.samestat(os.fstat(folder_fd), Path("/").stat())
    if is_last or not is_root_s or (os.geteuid() == 0 and not is_at_top):
        raise OSError(errno.ELOOP, f"{name} is a symbolic link, and none is followed but the system's own")
    return os.readlink(name, dir_fd=folder_fd)


def _check_parent(path: Path, folder_fd: int) -> None:
    """Whoever else can write in a folder on the way could put another one in the place of ours, as for sshd's keys.

    Whose the top is can do as they like in any case: root, or in a container whoever stands for them.
    """
    status = os.fstat(folder_fd)
    if status.st_uid not in {0, os.geteuid(), Path("/").stat().st_uid}:
        raise PermissionError(
            errno.EPERM,
            f"{path} on the way to it belongs to another user (uid {status.st_uid}), who can replace what is in it: "
            f"chown root {shlex.quote(str(path))}, or name another folder",
        )
    if _is_writable_by_others(status):
        mode = stat.S_IMODE(status.st_mode)
        raise _explain_mode(
            folder_fd,
            f"others can replace what is in {path} on the way to it (mode {mode:04o}): "
            f"chmod go-w {shlex.quote(str(path))}, or name another folder",
        )


def _is_writable_by_others(status: os.stat_result) -> bool:
    """Whether others can replace what is in a folder; where it is sticky, they can only add to it."""
    if status.st_mode & stat.S_ISVTX:
        return False
    by_group = status.st_mode & stat.S_IWGRP and not any(
        _is_alone_in_group(user, status.st_gid) for user in {status.st_uid, os.geteuid()}
    )
    return bool(by_group or status.st_mode & stat.S_IWOTH)


def _is_alone_in_group(user: int, group: int) -> bool:
    """Whether a group is the one that some systems make for each user, of the same name, with nobody else in it."""
    try:
        account, members = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    is_own = (account.pw_gid, account.pw_name) == (group, members.gr_name)
    return is_own and {*members.gr_mem} <= {account.pw_name}


def _check_folder(path: Path, folder_fd: int) -> None:
    status = os.fstat(folder_fd)
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM,
            f"it belongs to another user (uid {status.st_uid}): "
            f"chown {os.geteuid()} {shlex.quote(str(path))}, or name another folder",
        )
    if _is_open_to_others(folder_fd):
        mode = stat.S_IMODE(status.st_mode)
        raise _explain_mode(
            folder_fd,
            f"others can enter it (mode {mode:04o}): chmod 700 {shlex.quote(str(path))}, or name another folder",
        )


def _is_open_to_others(folder_fd: int) -> bool:
    return bool(os.fstat(folder_fd).st_mode & _ACCESS_BY_OTHERS)


def _is_empty(folder_fd: int) -> bool:
    with os.scandir(folder_fd) as entries:
        return next(entries, None) is None


def _explain_mode(folder_fd: int, reason: str) -> OSError:
    """Why the mode of a folder will not do: as told, unless no command can change it."""
    probe, mode = f".probe-{secrets.token_hex(8)}", 0
    # Where it is not ours to write in, whether it keeps modes cannot be tried.
    with suppress(OSError):
        os.mkdir(probe, stat.S_IRWXU, dir_fd=folder_fd)
        mode = os.stat(probe, dir_fd=folder_fd, follow_symlinks=False).st_mode
        os.rmdir(probe, dir_fd=folder_fd)
    return ModeNotKeptError(stat.S_IRWXU, mode) if mode & _ACCESS_BY_OTHERS else PermissionError(errno.EPERM, reason)


def _exists(name: str, folder_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
