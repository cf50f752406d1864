"""The end of the process: within one bound, whatever was begun, and whatever hangs.

What was begun is finished first, so everything that takes time asks here how much of it is left. A keyring may wait for
a human, a name server for ever; the calls that do are given up, but not the threads that they are made in. Python joins
those at its end, and asyncio already at that of its loop.
"""

import asyncio
import logging
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, NoReturn

import anyio

THREAD_JOIN_TIMEOUT_SECONDS: Final = 0.3
"""Seconds that a thread has to end by itself, as one does that has nothing to do."""

CLEANUP_TIMEOUT: Final = timedelta(seconds=5)
"""How much longer than the requests everything else may take, once the end was asked for."""


class Shutdown:
    """When the process has to end: never, until somebody asks for it.

    From then on, requests to the cluster may take `timeout` altogether. A process that is still there `CLEANUP_TIMEOUT`
    later says so on stderr and is gone at once, with status 1.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._timeout_seconds = timeout.total_seconds()
        self._requested_at = math.inf
        self._shorten_callbacks: set[Callable[[], object]] = set()

    @property
    def is_requested(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._requested_at < math.inf

    def request(self) -> None:
        """Ask for the end, from any thread; the first time counts."""
        if self.is_requested:
            return
        self._requested_at = time.monotonic()
        bound = self._timeout_seconds + CLEANUP_TIMEOUT.total_seconds()
        watchdog = threading.Timer(bound, _exit_after_timeout, [bound])
        watchdog.daemon = True
        watchdog.start()
        for shorten in tuple(self._shorten_callbacks):
            shorten()

    def seconds_left(self) -> float:
        """Seconds that requests may still take; without an end as many as you like."""
        return max(self._requested_at + self._timeout_seconds - time.monotonic(), 0)

    def request_timeout(self, seconds: float) -> AbstractContextManager[None]:
        """Like `anyio.fail_after`, for what is asked of the cluster; once the end is asked for, what is left counts.

        Raises:
            TimeoutError: If the block took longer.
        """
        return self._timeout(seconds, self.seconds_left)

    def delivery_timeout(self, seconds: float) -> AbstractContextManager[None]:
        """The same for a delivery: half of what is left, since a token that is not delivered has to be deleted again.

        Raises:
            TimeoutError: If the block took longer.
        """
        return self._timeout(seconds, lambda: max(self.seconds_left(), CLEANUP_TIMEOUT.total_seconds()) / 2)

    @contextmanager
    def _timeout(self, seconds: float, seconds_left: Callable[[], float]) -> Generator[None]:
        loop = asyncio.get_running_loop()
        with anyio.fail_after(seconds) as scope:

            def shorten() -> None:
                if self.is_requested:
                    scope.deadline = min(scope.deadline, loop.time() + seconds_left())

            limit = partial(loop.call_soon_threadsafe, shorten)
            # In this order: an end that is asked for in between is noticed twice, and not never.
            self._shorten_callbacks.add(limit)
            shorten()
            try:
                yield
            finally:
                self._shorten_callbacks.remove(limit)


def _exit_after_timeout(seconds: float) -> NoReturn:
    told = (
        f"ERROR {__name__}: Something still hangs {seconds:g} s after the end was asked for, and is given up. What was "
        "begun is in the journal; the next start names what has no outcome there.\n"
    )
    with suppress(OSError, ValueError):
        # Whoever no longer reads stderr must not hold this up as well.
        for stderr in select.select([], [2], [], 0)[1]:
            os.write(stderr, told.encode())
    os._exit(1)


class _NonWaitingExecutor(ThreadPoolExecutor):
    """Worker threads that are left alone when the loop is closed."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as inherited
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop that does not wait for look-ups of names when it is closed."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_NonWaitingExecutor())
    return loop


def exit_now(status: int) -> NoReturn:
    """End the process with this status, whatever its threads are waiting for."""
    latest = time.monotonic() + THREAD_JOIN_TIMEOUT_SECONDS
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    for thread in others:
        thread.join(max(latest - time.monotonic(), 0))
    if any(thread.is_alive() for thread in others):
        # All that had to be put in order is; the usual end would wait for that thread first.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
