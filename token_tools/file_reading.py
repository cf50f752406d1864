"""How is a file read that a setting names? Of the right kind only, and with a bound on its size and on the time.

A setting may name a folder, a device, a pipe that never ends, or a file that is far too large. Each refusal is a
`ValueError` whose text is a predicate for the file: `does not exist`, `is a folder and not a file`.
"""

import codecs
import os
import select
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from token_tools.paths import is_systemd_credential

READ_TIMEOUT_SECONDS: Final = 10.0
"""Seconds in which a pipe must have delivered its whole content."""

_KIND_NAMES: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFREG: "a file",
}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def open_checked(path: Path, *, kind: int = stat.S_IFREG) -> Generator[int]:
    """Open the file that a setting names, if it is of this kind (a `stat.S_IF…`), and yield its descriptor.

    Raises:
        ValueError: If it cannot be opened, is of another kind, or if reading it in the `with` block fails.
    """
    try:
        # Opening a device may already do something, so check before it; check again after it, since a path can change.
        _check_kind(os.stat(path), kind)  # noqa: PTH116 - beside `os.fstat`
        file_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _check_kind(os.fstat(file_fd), kind)
            yield file_fd
        finally:
            os.close(file_fd)
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except OSError as failure:
        raise ValueError(f"cannot be read: {failure.strerror}") from None


def read_mode(path: Path) -> int:
    """Return the `st_mode` (kind and permissions) of the file at a path, or 0 if it cannot be looked at."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def can_others_read(path: Path, mode: int) -> bool:
    """Tell whether other users of this machine may read the file at a path that has this `st_mode`.

    The group's bits of a credential of systemd are the mask of the entry that lets the service in. Source: acl(5).
    """
    return bool(mode & (stat.S_IROTH if is_systemd_credential(path) else stat.S_IRGRP | stat.S_IROTH))


def _check_kind(status: os.stat_result, kind: int) -> None:
    found = stat.S_IFMT(status.st_mode)
    if found != kind:
        raise ValueError(f"is {_KIND_NAMES.get(found, 'something else')} and not {_KIND_NAMES[kind]}")


def read_whole(file_fd: int, *, max_bytes: int, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> bytes:
    """Return the whole content of a file or of a pipe.

    Raises:
        ValueError: If it has more than `max_bytes`, or does not end within `timeout_seconds`.
    """
    deadline, ready, content = time.monotonic() + timeout_seconds, select.poll(), bytearray()
    ready.register(file_fd, select.POLLIN)
    while ready.poll(max(deadline - time.monotonic(), 0) * 1000):
        chunk = os.read(file_fd, max_bytes + 1)
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"is larger than {max_bytes >> 10} KiB")
        if not chunk:
            return bytes(content)
    raise ValueError(f"has no end: whoever writes into it took longer than {timeout_seconds:g} seconds")


def decode_text(content: bytes) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, with U+FFFD for what is no text."""
    return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig", errors="replace")
