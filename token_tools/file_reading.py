"""How is a file read that a setting names? Of the right kind only, and with a bound on its size and on the time.

A setting may name a folder, a device, a pipe that never ends, or a file that is far too large. Each refusal is a
`ValueError` whose text is a predicate for the file: `does not exist`, `is a folder and not a file`.
"""

import codecs
import os
import stat
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from token_tools.paths import is_systemd_credential
from token_tools.posix import IS_WINDOWS, O_BINARY, O_NOCTTY, O_NONBLOCK, POLLIN, create_poll

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
        file_fd = os.open(path, os.O_RDONLY | O_BINARY | O_NONBLOCK | O_NOCTTY)
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

    On Windows that is not known, and False. The group's bits of a credential of systemd are the mask of the entry that
    lets the service in. Source: acl(5).
    """
    return not IS_WINDOWS and bool(
        mode & (stat.S_IROTH if is_systemd_credential(path) else stat.S_IRGRP | stat.S_IROTH)
    )


def _check_kind(status: os.stat_result, kind: int) -> None:
    found = stat.S_IFMT(status.st_mode)
    if found != kind:
        raise ValueError(f"is {_KIND_NAMES.get(found, 'something else')} and not {_KIND_NAMES[kind]}")


def read_whole(file_fd: int, *, max_bytes: int, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> bytes:
    """Return the whole content of a file or of a pipe.

    Raises:
        ValueError: If it has more than `max_bytes`, or does not end within `timeout_seconds`.
    """
    read = _read_in_thread if IS_WINDOWS else _read_when_ready
    content = read(file_fd, max_bytes + 1, timeout_seconds)
    if content is None:
        raise ValueError(f"has no end: whoever writes into it took longer than {timeout_seconds:g} seconds")
    if len(content) > max_bytes:
        raise ValueError(f"is larger than {max_bytes >> 10} KiB")
    return content


def _read_when_ready(file_fd: int, enough_bytes: int, timeout_seconds: float) -> bytes | None:
    """Return what there is to read, until its end or at least so many bytes; None if the time was over before that."""
    deadline, ready, content = time.monotonic() + timeout_seconds, create_poll(), bytearray()
    ready.register(file_fd, POLLIN)
    while ready.poll(max(deadline - time.monotonic(), 0) * 1000):
        chunk = os.read(file_fd, enough_bytes)
        content += chunk
        if not chunk or len(content) >= enough_bytes:
            return bytes(content)
    return None


def _read_in_thread(file_fd: int, enough_bytes: int, timeout_seconds: float) -> bytes | None:
    """Do what `_read_when_ready` does where only sockets can be polled; a thread that is too late goes on by itself."""

    def read() -> bytes:
        content = bytearray()
        while len(content) < enough_bytes and (chunk := os.read(file_fd, enough_bytes)):
            content += chunk
        return bytes(content)

    executor = ThreadPoolExecutor(1)
    reading = executor.submit(read)
    executor.shutdown(wait=False)
    try:
        return reading.result(timeout_seconds)
    except TimeoutError:
        return None


def decode_text(content: bytes) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, with U+FFFD for what is no text."""
    return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig", errors="replace")
