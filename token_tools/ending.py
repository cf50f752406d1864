"""The end of the process, which no thread that hangs can hold up.

A keyring may wait for a human, a name server for ever; the calls that do are given up, but not the threads that they
are made in. Python joins those at its end, and asyncio already at that of its loop.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

GRACE: Final = 0.3
"""Seconds that a thread has to end by itself, as one does that has nothing to do."""


class _Abandoning(ThreadPoolExecutor):
    """Worker threads that are left alone when the loop is closed."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as inherited
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def make_loop() -> asyncio.AbstractEventLoop:
    """An event loop that does not wait for look-ups of names when it is closed."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_Abandoning())
    return loop


def leave(status: int) -> NoReturn:
    """End the process with this status, whatever its threads are waiting for."""
    latest = time.monotonic() + GRACE
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    for thread in others:
        thread.join(max(latest - time.monotonic(), 0))
    if any(thread.is_alive() for thread in others):
        # All that had to be put in order is; the usual end would wait for that thread first.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
