"""What has a program started, and is all of it gone?

A descendant is known by a variable that it has inherited, by its session, or by its parents. Neither `setsid` nor a
second fork nor an empty environment hides it; only all three at once do.
"""

import time
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from typing import Final

import psutil

from token_tools.posix import getsid

_PAUSE_SECONDS: Final = 0.005


def kill_all(leader: int, variable: str, value: str, *, time_limit: timedelta) -> bool:
    """Kill a program and what it has started, until nothing is found any more; tell whether that was reached in time.

    `leader` is the id of its process, which leads a session. What it has started has inherited a variable.
    """
    deadline = time.monotonic() + time_limit.total_seconds()
    # What forks while it is looked for is found the next time.
    while started := _find_started(leader, variable, value):
        if time.monotonic() > deadline:
            return False
        for process in started:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(_PAUSE_SECONDS)
    return True


def _find_started(leader: int, variable: str, value: str) -> Collection[psutil.Process]:
    processes = [*psutil.process_iter(["ppid", "status"])]
    started = {process.pid for process in processes if _is_known(process, leader, variable, value)}
    # psutil looks for children by /proc/stat, which a hardened service may not read.
    while children := {process.pid for process in processes if process.info["ppid"] in started} - started:
        started |= children
    # A process that nobody has taken leave of is dead all the same.
    return [each for each in processes if each.pid in started and each.info["status"] != psutil.STATUS_ZOMBIE]


def _is_known(process: psutil.Process, leader: int, variable: str, value: str) -> bool:
    """Whether a process is in the leader's session or has its variable."""
    with suppress(psutil.Error, OSError):
        return getsid(process.pid) == leader or process.environ().get(variable) == value
    return False
