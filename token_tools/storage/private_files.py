"""A folder that nobody else can enter, and files in it that are whole or not there.

What counts is what a look at them tells after they were made: there are file systems that take each mode and keep
none, and folders in which others can put something else in the place of what was looked at.
"""

import errno
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

from token_tools.quoting import quote

HOW_TO_NAME_A_FOLDER: Final = "The operator names the folder by QUMULO_DELIVERY_DIR, or without it by QUMULO_STATE_DIR"

MOST_PARTS: Final = 256
"""Names in a path, with those that links add; more is a loop."""

_LOG: Final = logging.getLogger(__name__)
_PRIVATE_FILE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WITHOUT_FLUSH: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has no fsync, for a folder or at all."""
_ON_THE_WAY: Final[int] = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""How to open a folder that others may not list, which is no reason not to pass through it."""
_LONGEST_PATH: Final = 4096


class ModeNotKeptError(PermissionError):
    """A file system that lets others at what was made for its owner alone, with another mode than it has."""

    def __init__(self, wanted: int, mode: int) -> None:
        told = f"what is made there with mode {wanted:04o} has mode {stat.S_IMODE(mode):04o}"
        super().__init__(errno.EPERM, f"its file system does not keep modes: {told}. Name a folder on another one")


def make_private_folder(path: Path) -> int:
    """A descriptor of our own folder, which is made if it is not there, and which nobody else can enter.

    A folder that others can enter is only made private where that takes nothing from anyone: while it is empty.

    Raises:
        OSError: If that cannot be had; the text says what mends it.
    """
    folder = _walk(path, _make)
    with ExitStack() as unless_private:
        unless_private.callback(os.close, folder)
        if _lets_others_in(folder) and _is_empty(folder):
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
    folder = _walk(path, _enter)
    with ExitStack() as unless_private:
        unless_private.callback(os.close, folder)
        if not _is_empty(folder):
            _check_folder(path, folder)
        unless_private.pop_all()
    return folder


def create_private_file(name: str, folder: int) -> int:
    """A descriptor of a new file that only its owner can read.

    Raises:
        OSError: If there is one of that name, or none can be made.
    """
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _PRIVATE_FILE, dir_fd=folder)
    with ExitStack() as unless_private:
        unless_private.callback(discard, name, folder)
        unless_private.callback(os.close, file)
        # Whatever the umask took away; what cannot be changed is looked at all the same.
        with suppress(OSError):
            os.fchmod(file, _PRIVATE_FILE)
        find_private_mode(file)
        unless_private.pop_all()
    return file


def find_private_mode(file: int) -> int:
    """The mode of a file, which lets nobody else in.

    Raises:
        OSError: If it does, is another user's, or is no ordinary file.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "what was made there is no ordinary file")
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"what was made there belongs to another user (uid {status.st_uid})")
    if status.st_mode & _OTHERS:
        raise ModeNotKeptError(_PRIVATE_FILE, status.st_mode)
    return stat.S_IMODE(status.st_mode)


def is_in(file: int, name: str, folder: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def rename(old: str, new: str, folder: int) -> None:
    """Give a file another name; `flush` of the folder makes that last.

    Raises:
        OSError: If it could not be done, or there is such a file.
    """
    if _exists(new, folder):
        raise FileExistsError(errno.EEXIST, f"{new} exists already")
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def flush(descriptor: int) -> None:
    """Let a file or a folder reach the disk, as far as its file system knows how to.

    Raises:
        OSError: If it did not.
    """
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in _WITHOUT_FLUSH:
            raise


def discard(name: str, folder: int) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def attempt(failing: str, step: Callable[[], object]) -> str | None:
    """Do what nothing depends on any more; gives how `failing` is told, which is logged, or None."""
    try:
        step()
    except OSError as failure:
        told = f"{failing}: {failure.strerror}"
        _LOG.warning("%s", told)
        return told
    return None


def tell_path(path: Path) -> str:
    """A path as it is, or quoted where an answer could not hold it so."""
    told = str(path)
    return told if told.isprintable() else quote(told, longest=_LONGEST_PATH)


def _walk(path: Path, step: Callable[[str, int], int]) -> int:
    """Part by part from the top, so that nothing can be put in the way between a look and the opening."""
    _check_text(path)
    at, folder, left = Path("/"), os.open("/", _ON_THE_WAY), [*reversed(path.absolute().parts[1:])]
    try:
        for _ in range(MOST_PARTS):
            if not left:
                return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
            _check_parent(at, folder)
            name = left.pop()
            if _is_link(name, folder):
                target = PurePath(_read_system_link(name, folder, is_last=not left))
                left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                following = os.open("/", _ON_THE_WAY) if target.is_absolute() else os.dup(folder)
                at = Path("/") if target.is_absolute() else at
            else:
                following = step(name, folder)
                at /= name
            os.close(folder)
            folder = following
    finally:
        os.close(folder)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _check_text(path: Path) -> None:
    """What is not text cannot be told where it is; what holds a zero is no path."""
    try:
        told = str(path).encode()
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "its name is not UTF-8, so no answer could tell it. Name another folder") from None
    if b"\0" in told:
        raise OSError(errno.EINVAL, "its name has a zero in it. Name another folder")


def _enter(name: str, folder: int) -> int:
    return os.open(name, _ON_THE_WAY | os.O_NOFOLLOW, dir_fd=folder)


def _make(name: str, folder: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, stat.S_IRWXU, dir_fd=folder)
        # Whatever the umask took away; what cannot be changed is looked at all the same.
        with suppress(OSError):
            os.chmod(name, stat.S_IRWXU, dir_fd=folder)
    return _enter(name, folder)


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


def _check_parent(path: Path, folder: int) -> None:
    """Whoever else can write in a folder on the way could put another one in the place of ours, as for sshd's keys.

    Whose the top is can do as they like in any case: root, or in a container whoever stands for them.
    """
    status = os.fstat(folder)
    if status.st_uid not in {0, os.geteuid(), Path("/").stat().st_uid}:
        raise PermissionError(
            errno.EPERM,
            f"{path} on the way to it belongs to another user (uid {status.st_uid}), who can replace what is in it: "
            f"chown root {shlex.quote(str(path))}, or name another folder",
        )
    if _lets_others_write(status):
        mode = stat.S_IMODE(status.st_mode)
        raise _refuse_mode(
            folder,
            f"others can replace what is in {path} on the way to it (mode {mode:04o}): "
            f"chmod go-w {shlex.quote(str(path))}, or name another folder",
        )


def _lets_others_write(status: os.stat_result) -> bool:
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


def _check_folder(path: Path, folder: int) -> None:
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM,
            f"it belongs to another user (uid {status.st_uid}): "
            f"chown {os.geteuid()} {shlex.quote(str(path))}, or name another folder",
        )
    if _lets_others_in(folder):
        mode = stat.S_IMODE(status.st_mode)
        raise _refuse_mode(
            folder,
            f"others can enter it (mode {mode:04o}): chmod 700 {shlex.quote(str(path))}, or name another folder",
        )


def _lets_others_in(folder: int) -> bool:
    return bool(os.fstat(folder).st_mode & _OTHERS)


def _is_empty(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _refuse_mode(folder: int, told: str) -> OSError:
    """Why the mode of a folder will not do: as told, unless no command can change it."""
    probe, mode = f".probe-{secrets.token_hex(8)}", 0
    # Where it is not ours to write in, whether it keeps modes cannot be tried.
    with suppress(OSError):
        os.mkdir(probe, stat.S_IRWXU, dir_fd=folder)
        mode = os.stat(probe, dir_fd=folder, follow_symlinks=False).st_mode
        os.rmdir(probe, dir_fd=folder)
    return ModeNotKeptError(stat.S_IRWXU, mode) if mode & _OTHERS else PermissionError(errno.EPERM, told)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
