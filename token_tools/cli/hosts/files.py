"""Reads and writes the files of hosts: whole or not at all, with a backup beside them, and with their mode kept.

These files belong to other programs and may have secrets of other servers in them.
"""

import os
import secrets
import stat
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from token_tools.file_reading import open_checked, read_whole
from token_tools.storage.atomic_file import replace_file

MAX_FILE_BYTES: Final = 32 << 20
"""Claude Code keeps all else that it knows in its file too, which grows to some MiB."""

_BACKUP_TIME: Final = "%Y%m%dT%H%M%SZ"


class Access(NamedTuple):
    """Who may do what with a file."""

    mode: int
    user_id: int
    group_id: int


class HostFile(NamedTuple):
    """A host's file as it was read: `path` is where links lead, and `access` is None if it is not there."""

    path: Path
    text: str
    access: Access | None


def read_host_file(path: Path) -> HostFile:
    """Return a host's file; one that is not there is empty.

    Raises:
        ValueError: If it cannot be read or is no text; the text is a predicate for the file.
    """
    real = Path(os.path.realpath(path))
    if not os.path.lexists(real):
        return HostFile(real, "", None)
    with open_checked(real) as file_fd:
        status = os.fstat(file_fd)
        content = read_whole(file_fd, max_bytes=MAX_FILE_BYTES)
    try:
        access = Access(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        return HostFile(real, content.decode(), access)
    except UnicodeDecodeError:
        raise ValueError("is not in UTF-8") from None


def check_writable(file: HostFile) -> None:
    """Check that nobody has made the file read-only; to put another one in its place needs no permission on it.

    Raises:
        ValueError: If somebody has; the text is a predicate for the file.
    """
    if file.access is not None and not file.access.mode & stat.S_IWUSR:
        raise ValueError("is read-only")


def back_up(file: HostFile, now: Callable[[], datetime]) -> Path | None:
    """Write what was read beside the file, and return where; None if there was no file.

    Raises:
        OSError: If it cannot be written.
    """
    if file.access is None:
        return None
    backup = file.path.with_name(f"{file.path.name}.{now():{_BACKUP_TIME}}-{secrets.token_hex(2)}.bak")
    replace_file(backup, file.text.encode(), like=file.path)
    return backup


def replace(file: HostFile, text: str) -> None:
    """Give the file another content, at once, if nobody has changed it since it was read.

    Raises:
        OSError: If it cannot be written.
        ValueError: If it should not be; the text is a predicate for the file.
    """
    replace_file(file.path, text.encode(), check=partial(_check_unchanged, file))


def _check_unchanged(file: HostFile) -> None:
    if read_host_file(file.path) != file:
        raise ValueError("was changed by another program just now: try again")
