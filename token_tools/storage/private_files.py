"""Which folder counts as private, and files in it that are complete or not there at all.

One rule holds for the journal, for delivery and for exported files. The folder belongs to the user of the server and
lets nobody else in, and nobody else can put another folder in its place. sshd checks its keys in this way (StrictModes:
the owner and the mode of each folder on the way). Four things differ here:

- Each folder is checked through the descriptor with which the next one is opened, so nothing can change in between.
- A sticky folder such as `/tmp` may be on the way, since others can add to it but not replace what is there. What they
  added is recognised by its owner.
- A symbolic link is followed if root or the user created it. sshd does not look at who created a link.
- A group may write if the user is its only member, as many systems make one for each user.

The mode of a folder or file is read back after it was set, because some file systems accept every mode and keep none.

Windows has neither owners nor modes as these rules need them. There, each function that opens a folder refuses.
"""

import errno
import logging
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from token_tools.posix import (
    IS_WINDOWS,
    LOCK_EX,
    LOCK_NB,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_NONBLOCK,
    fchmod,
    flock,
    geteuid,
    getgrgid,
    getpwall,
    getpwuid,
    getxattr,
    refuse,
)
from token_tools.quoting import is_visible

HOW_TO_SET_FOLDER: Final = "The operator names the folder by QUMULO_DELIVERY_DIR, or without it by QUMULO_STATE_DIR"

MAX_PATH_STEPS: Final = 1024
"""Folders and links that are opened on the way to a folder; more is a loop of links."""

_LOG: Final = logging.getLogger(__name__)
_PRIVATE_FILE_MODE: Final = 0o600
_ACCESS_BY_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FSYNC_UNSUPPORTED: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""The errors by which a file system says that it has no fsync, for folders or at all."""
_TRAVERSE_FLAGS: Final[int] = O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""Flags that open a folder without the permission to list it, where the system can do that."""


def check_privacy_is_told() -> None:
    """Check that this system tells who can read a file. Without that, no folder here counts as private.

    Raises:
        NotOnWindows: If it does not.
    """
    if IS_WINDOWS:
        refuse()


def ensure_private_folder(path: Path) -> int:
    """Return a descriptor of the server's own private folder, which is created if it is not there.

    A folder that others can enter is only made private while it is empty, since that takes nothing away from anyone.

    Raises:
        OSError: If there is no such folder and none can be created; the text names the folder and what mends it.
    """
    real_path, folder = _open_by_parts(path, _ensure_folder)
    with ExitStack() as rollback:
        rollback.callback(os.close, folder)
        if _is_open_to_others(folder) and _is_empty(folder):
            with suppress(OSError):
                fchmod(folder, stat.S_IRWXU)
        _check_folder(real_path, folder)
        rollback.pop_all()
    return folder


def open_private_folder(path: Path) -> int:
    """Return a descriptor of the server's own private folder, or of an empty folder.

    Raises:
        FileNotFoundError: If it is not there.
        OSError: If others can enter or replace it; the text names the folder and what mends it.
    """
    real_path, folder = _open_by_parts(path, _open_folder)
    with ExitStack() as rollback:
        rollback.callback(os.close, folder)
        if not _is_private(folder) and not _is_empty(folder):
            _check_folder(real_path, folder)
        rollback.pop_all()
    return folder


def create_private_file(name: str, folder_fd: int) -> int:
    """Create a file that only its owner can read, and return its descriptor.

    Raises:
        OSError: If there is a file of that name, or none can be created.
    """
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | O_NOFOLLOW, _PRIVATE_FILE_MODE, dir_fd=folder_fd)
    with ExitStack() as rollback:
        rollback.callback(remove_if_exists, name, folder_fd)
        rollback.callback(os.close, file)
        # The umask may have taken bits away. If this fails, the check below still decides.
        with suppress(OSError):
            fchmod(file, _PRIVATE_FILE_MODE)
        read_private_mode(file)
        rollback.pop_all()
    return file


def open_own_file(name: str, folder_fd: int) -> int:
    """Return a descriptor that reads an ordinary file of this user's; a link is followed nowhere.

    Raises:
        FileNotFoundError: If it is not there.
        OSError: If it is no ordinary file, or is another user's; the text is a clause about it.
    """
    # To open something else than a file can have an effect, or wait for ever.
    _check_own_file(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    file = os.open(name, os.O_RDONLY | O_NOFOLLOW | O_NONBLOCK, dir_fd=folder_fd)
    with ExitStack() as rollback:
        rollback.callback(os.close, file)
        _check_own_file(os.fstat(file))
        rollback.pop_all()
    return file


def _check_own_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    if status.st_uid != geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to another user (uid {status.st_uid})")


def read_private_mode(file_fd: int) -> int:
    """Return the mode of a file that lets nobody else in.

    Raises:
        OSError: If it lets others in, belongs to another user, or is no ordinary file.
    """
    status = os.fstat(file_fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "what was made there is no ordinary file")
    if status.st_uid != geteuid():
        raise PermissionError(errno.EPERM, f"what was made there belongs to another user (uid {status.st_uid})")
    if status.st_mode & _ACCESS_BY_OTHERS:
        raise _explain_lost_mode(_PRIVATE_FILE_MODE, status.st_mode)
    return stat.S_IMODE(status.st_mode)


def has_name(file_fd: int, name: str, folder_fd: int) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file_fd), os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


def rename(old: str, new: str, folder_fd: int) -> None:
    """Give a file another name; it is on the disk once the folder is flushed.

    Raises:
        OSError: If the file cannot be renamed, or another one has the new name.
    """
    if _exists(new, folder_fd):
        raise FileExistsError(errno.EEXIST, f"{new} exists already")
    os.rename(old, new, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def flush(fd: int) -> None:
    """Wait until a file or a folder is on the disk; a file system that has no fsync is accepted.

    Raises:
        OSError: If it could not be written.
    """
    try:
        os.fsync(fd)
    except OSError as failure:
        if failure.errno not in _FSYNC_UNSUPPORTED:
            raise


def list_names(folder_fd: int) -> list[str]:
    """Return the names in an open folder, sorted."""
    return sorted(os.listdir(folder_fd))


def try_lock(fd: int) -> bool:
    """Lock an open file if that is possible now, and tell whether it was.

    The system gives the lock back when the process ends, however it ends.
    """
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_if_exists(name: str, folder_fd: int) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)


def try_or_log(failure_text: str, action: Callable[[], object]) -> str | None:
    """Do something on which nothing depends any more; log a failure and return it in words, None if there is none."""
    try:
        action()
    except OSError as failure:
        sentence = f"{failure_text}: {failure.strerror}"
        _LOG.warning("%s", sentence)
        return sentence
    return None


def _open_by_parts(path: Path, open_part: Callable[[str, int], int]) -> tuple[Path, int]:
    """Open a folder part by part from the top, and return its path without links and its descriptor."""
    check_privacy_is_told()
    at, folder, names = Path("/"), os.open("/", _TRAVERSE_FLAGS), [*reversed(path.absolute().parts[1:])]
    try:
        for _ in range(MAX_PATH_STEPS):
            if not names:
                return at, os.open(".", os.O_RDONLY | O_DIRECTORY, dir_fd=folder)
            _check_parent(at, folder)
            name = names.pop()
            if (target := _read_link(at / name, folder)) is not None:
                # A relative target begins at the folder of the link, and `/` drops that before an absolute one.
                names += reversed((at / target).parts[1:])
                at, following = Path("/"), os.open("/", _TRAVERSE_FLAGS)
            else:
                with _naming(at / name):
                    following = open_part(name, folder)
                at = at.parent if name == ".." else at / name
            os.close(folder)
            folder = following
    finally:
        os.close(folder)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


@contextmanager
def _naming(part: Path) -> Generator[None]:
    """Let an error of the system name the part of the path that it is about."""
    try:
        yield
    except OSError as failure:
        raise type(failure)(failure.errno, f"{failure.strerror} ({part})") from failure


def _open_folder(name: str, folder_fd: int) -> int:
    return os.open(name, _TRAVERSE_FLAGS | O_NOFOLLOW, dir_fd=folder_fd)


def _ensure_folder(name: str, folder_fd: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, stat.S_IRWXU, dir_fd=folder_fd)
        # The umask may have taken bits away. If this fails, the checks of the opened folder still decide.
        with suppress(OSError):
            os.chmod(name, stat.S_IRWXU, dir_fd=folder_fd)
    return _open_folder(name, folder_fd)


def _read_link(path: Path, parent_fd: int) -> str | None:
    """Return where a symbolic link leads, None if no link has this name.

    Between the two looks only its owner or that of the checked parent could replace the link, and both are trusted.
    """
    try:
        status = os.stat(path.name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return None
    if not _is_trusted(status.st_uid):
        fact = f"{path} on the way to it is a symbolic link of another user (uid {status.st_uid}), who can redirect it"
        raise _explain_refusal(fact, "chown -h root", path)
    target = os.readlink(path.name, dir_fd=parent_fd)
    if not is_visible(target):
        raise OSError(errno.EILSEQ, f"{path} leads to a name that no answer could show. Name another folder")
    return target


def _check_parent(path: Path, folder_fd: int) -> None:
    """Check that nobody else can put something in the place of what is in a folder on the way."""
    status = os.fstat(folder_fd)
    if not _is_trusted(status.st_uid):
        fact = f"{path} on the way to it belongs to another user (uid {status.st_uid}), who can replace what is in it"
        raise _explain_refusal(fact, "chown root", path)
    if _is_writable_by_others(folder_fd, status):
        mode = stat.S_IMODE(status.st_mode)
        _check_modes_are_kept(folder_fd)
        fact = f"others can replace what is in {path} on the way to it (mode {mode:04o})"
        raise _explain_refusal(fact, "chmod go-w", path)


def _is_trusted(user: int) -> bool:
    """Tell whether a user is us, root, or the owner of `/`.

    In a container root can have another number; whoever owns `/` can replace everything in any case.
    """
    return user in {0, geteuid()} or user == Path("/").stat().st_uid


def _is_writable_by_others(folder_fd: int, status: os.stat_result) -> bool:
    """Tell whether others can replace what is in a folder; in a sticky one they can only add."""
    if status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    is_own_group = any(_is_alone_in_group(user, status.st_gid) for user in {status.st_uid, geteuid()})
    by_group = status.st_mode & stat.S_IWGRP and (not is_own_group or _has_acl(folder_fd))
    return bool(by_group or status.st_mode & stat.S_IWOTH)


def _has_acl(folder_fd: int) -> bool:
    """Tell whether a folder has a POSIX ACL; the bits of the group then also stand for others that the ACL names."""
    # A descriptor that was opened with O_PATH has no attributes but by this path. On macOS bits and ACLs are apart.
    with suppress(OSError):
        getxattr(f"/proc/self/fd/{folder_fd}", "system.posix_acl_access")
        return True
    return False


def _is_alone_in_group(user: int, group: int) -> bool:
    """Tell whether a group is the private one of a user: of the same name, the user's first, and nobody else's.

    Many systems make such a group for each user and let it write by default.
    """
    try:
        account, members = getpwuid(user), getgrgid(group)
    except KeyError:
        return False
    if (account.pw_gid, account.pw_name) != (group, members.gr_name) or {*members.gr_mem} - {account.pw_name}:
        return False
    # A group does not list those who have it as their first.
    return all(other.pw_uid == user for other in getpwall() if other.pw_gid == group)


def _check_folder(path: Path, folder_fd: int) -> None:
    status = os.fstat(folder_fd)
    # A command that made such a folder private would break the system for everybody else.
    if path == Path("/") or (status.st_mode & stat.S_ISVTX and status.st_mode & stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(errno.EPERM, f"{path} is there for everybody (mode {mode:04o}). Name a folder in it")
    if status.st_uid != geteuid():
        fact = f"{path} belongs to another user (uid {status.st_uid})"
        raise _explain_refusal(fact, f"chown {geteuid()}", path)
    if _is_open_to_others(folder_fd):
        _check_modes_are_kept(folder_fd)
        fact = f"others can enter {path} (mode {stat.S_IMODE(status.st_mode):04o})"
        raise _explain_refusal(fact, "chmod 700", path)


def _explain_refusal(fact: str, command: str, path: Path) -> PermissionError:
    return PermissionError(errno.EPERM, f"{fact}: {command} {shlex.quote(str(path))}, or name another folder")


def _explain_lost_mode(wanted: int, mode: int) -> PermissionError:
    modes = f"what is made there with mode {wanted:04o} has mode {stat.S_IMODE(mode):04o}"
    return PermissionError(errno.EPERM, f"its file system does not keep modes: {modes}. Name a folder on another one")


def _is_private(folder_fd: int) -> bool:
    return os.fstat(folder_fd).st_uid == geteuid() and not _is_open_to_others(folder_fd)


def _is_open_to_others(folder_fd: int) -> bool:
    return bool(os.fstat(folder_fd).st_mode & _ACCESS_BY_OTHERS)


def _is_empty(folder_fd: int) -> bool:
    with os.scandir(folder_fd) as entries:
        return next(entries, None) is None


def _check_modes_are_kept(folder_fd: int) -> None:
    """Raise if a new folder gets another mode than it was created with: then no command mends its parent."""
    probe, mode = f".probe-{secrets.token_hex(8)}", 0
    # In a folder in which we cannot write this cannot be tried.
    with suppress(OSError):
        os.mkdir(probe, stat.S_IRWXU, dir_fd=folder_fd)
        mode = os.stat(probe, dir_fd=folder_fd, follow_symlinks=False).st_mode
        os.rmdir(probe, dir_fd=folder_fd)
    if mode & _ACCESS_BY_OTHERS:
        raise _explain_lost_mode(stat.S_IRWXU, mode)


def _exists(name: str, folder_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
