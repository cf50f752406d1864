"""Servers in processes that are forked from one which has imported everything, so that they start at once.

Such a process can kill itself (SIGKILL) at the n-th of its steps: its operations on files, sockets and the database.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final

from token_tools.cli.commands import run_command
from token_tools.shutdown import exit_now

_CONTEXT: Final = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["__main__", __name__, "psycopg", "tests.support.one_call", "token_tools.cli.http"])
_FILE_EVENTS: Final = frozenset({"os.rename", "os.remove", "os.truncate", "os.link", "socket.connect"})
_WRITING: Final = os.O_WRONLY | os.O_RDWR


@dataclass
class Kill:
    """The end of a process at the n-th step, counted from when the file `armed` is there."""

    steps: int
    armed: Path

    def count_step(self) -> None:
        """Count a step, and end the process if it is the one."""
        if not os.path.exists(self.armed):  # noqa: PTH110 - pathlib would make steps of its own
            return
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_files(self, event: str, args: tuple[Any, ...]) -> None:
        """Count what is done with files and sockets."""
        is_opened_to_write = event == "open" and _is_ours(args[0]) and args[2] & _WRITING
        if event in _FILE_EVENTS or is_opened_to_write:
            self.count_step()

    def watch_statements(self, frame: FrameType, event: str, _arg: object) -> None:
        """Count the statements; between two that only read, nothing changes that a kill could spoil."""
        is_ours = frame.f_code.co_name == "execute" and "token_tools" in frame.f_code.co_filename
        if event == "call" and is_ours and not frame.f_locals["statement"].startswith(("SELECT", "SET")):
            self.count_step()


def _is_ours(path: object) -> bool:
    return isinstance(path, str | int) and str(path).rpartition("/")[2][:1] in ".j0123456789"


def start_replica(
    environment: Mapping[str, str], log: Path, *, kill: Kill | None = None, log_level: int = logging.WARNING
) -> ForkServerProcess:
    """Start a server over HTTP with this environment, and no other, which writes to this file."""
    return start_forked(partial(_serve, log_level), environment, log, kill=kill)


def start_forked(
    run: Callable[[], int], environment: Mapping[str, str], log: Path, *, kill: Kill | None = None
) -> ForkServerProcess:
    """Run a function in a process with this environment, and no other, which writes to this file."""
    process = _CONTEXT.Process(target=_run, args=(run, dict(environment), log, kill))
    process.start()
    return process


def _serve(log_level: int) -> int:
    logging.basicConfig(level=log_level)
    return run_command(["http"])


def _run(run: Callable[[], int], environment: Mapping[str, str], log: Path, kill: Kill | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    if kill is not None:
        sys.addaudithook(kill.watch_files)
        threading.setprofile(kill.watch_statements)
    exit_now(run())
