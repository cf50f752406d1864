"""What POSIX systems offer and Windows lacks: each name is here on every system, so that each module can be loaded.

Only this module knows on which system it is. On Windows the flags are 0 and the functions raise `NotOnWindows`; what
calls them there has asked `IS_WINDOWS` first, and does something else or says why it does nothing.
"""

import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, NoReturn, Protocol, TypeVar

IS_WINDOWS: Final[bool] = sys.platform == "win32"

_Found = TypeVar("_Found")


class NotOnWindows(OSError):
    """Windows does not offer what is needed; the text says so as a clause."""


class Account(Protocol):
    """A user in the system's list of users."""

    @property
    def pw_name(self) -> str: ...  # noqa: D102 - as the system calls it
    @property
    def pw_uid(self) -> int: ...  # noqa: D102 - as the system calls it
    @property
    def pw_gid(self) -> int: ...  # noqa: D102 - as the system calls it
    @property
    def pw_dir(self) -> str: ...  # noqa: D102 - as the system calls it


class Group(Protocol):
    """A group in the system's list of groups."""

    @property
    def gr_name(self) -> str: ...  # noqa: D102 - as the system calls it
    @property
    def gr_mem(self) -> Sequence[str]: ...  # noqa: D102 - as the system calls it


class Poll(Protocol):
    """A set of descriptors that are waited for together."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Add a descriptor."""
        ...

    def poll(self, timeout: float | None = None, /) -> Sequence[tuple[int, int]]:
        """Wait for at most so many milliseconds; return the descriptors that are ready, each with what for."""
        ...


def refuse(*_: object) -> NoReturn:
    """Say what Windows lacks.

    Raises:
        NotOnWindows: Always.
    """
    raise NotOnWindows(
        errno.ENOTSUP,
        "Windows has no owner and mode of a file by which this server could see that nobody else can read it",
    )


def _find(module: str, name: str, otherwise: _Found) -> _Found:
    try:
        return getattr(import_module(module), name, otherwise)
    except ImportError:
        return otherwise


O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
"""Only Windows has it: without it, line ends are translated there, and a Ctrl-Z ends the file."""
O_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)
O_NOCTTY: Final[int] = getattr(os, "O_NOCTTY", 0)
O_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
O_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
O_TEMPORARY: Final[int] = getattr(os, "O_TEMPORARY", 0)
"""Only Windows has it: it removes a file as soon as nobody has it open."""
LOCK_EX: Final[int] = _find("fcntl", "LOCK_EX", 0)
LOCK_NB: Final[int] = _find("fcntl", "LOCK_NB", 0)
FIONREAD: Final[int] = _find("termios", "FIONREAD", 0)
AF_UNIX: Final[int] = getattr(socket, "AF_UNIX", 0)
POLLIN: Final[int] = getattr(select, "POLLIN", 0)
POLLOUT: Final[int] = getattr(select, "POLLOUT", 0)
PIPE_BUF: Final[int] = getattr(select, "PIPE_BUF", 512)
SIGKILL: Final[int] = getattr(signal, "SIGKILL", 0)

create_poll: Final[Callable[[], Poll]] = getattr(select, "poll", refuse)
fchmod: Final[Callable[[int, int], None]] = getattr(os, "fchmod", refuse)
fchown: Final[Callable[[int, int, int], None]] = getattr(os, "fchown", refuse)
flock: Final[Callable[[int, int], None]] = _find("fcntl", "flock", refuse)
ioctl: Final[Callable[[int, int, bytes], bytes]] = _find("fcntl", "ioctl", refuse)
set_blocking: Final[Callable[[int, bool], None]] = getattr(os, "set_blocking", refuse)
getsid: Final[Callable[[int], int]] = getattr(os, "getsid", refuse)
killpg: Final[Callable[[int, int], None]] = getattr(os, "killpg", refuse)
getuid: Final[Callable[[], int]] = getattr(os, "getuid", refuse)
geteuid: Final[Callable[[], int]] = getattr(os, "geteuid", refuse)
getxattr: Final[Callable[[str, str], bytes]] = getattr(os, "getxattr", refuse)
"""macOS has none either: ACLs are something else there."""
getpwuid: Final[Callable[[int], Account]] = _find("pwd", "getpwuid", refuse)
getpwall: Final[Callable[[], Sequence[Account]]] = _find("pwd", "getpwall", refuse)
getgrgid: Final[Callable[[int], Group]] = _find("grp", "getgrgid", refuse)
