"""The end of the process: when it has to be over, and how it comes although threads still wait.

What was begun is finished first, so everything that takes time asks here how much of it is left. A keyring may wait for
a person and a name server may never answer. Such a call is given up, but the thread that makes it cannot be stopped.
Python joins these threads when it exits, and asyncio already when its loop is closed: neither may happen here.
"""

import asyncio
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, NoReturn

import anyio

THREAD_JOIN_TIMEOUT_SECONDS: Final = 0.3
"""Seconds that all threads together have to end by themselves; an idle one does so at once."""

CLEANUP_TIMEOUT: Final = timedelta(seconds=5)
"""How much longer than requests to the cluster everything else may take during a shutdown."""


_NON_ENDING_SIGNALS: Final = {
    # Reports of a fault in the program itself, after which it cannot go on.
    *("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
    # They stop the process and let it go on, or do nothing.
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
    # Nobody can catch them.
    *("SIGKILL", "SIGSTOP"),
}
"""The signals that end no process, or that it cannot survive; all others end it, the real-time ones included."""


class Shutdown:
    """The time that is left: without end, until `begin` is called.

    From then on, requests to the cluster may take `timeout` altogether. If the process still exists `CLEANUP_TIMEOUT`
    later, it says so on stderr and exits at once with status 1.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._timeout_seconds = timeout.total_seconds()
        self._begun_at = math.inf
        self._callbacks: set[Callable[[], object]] = set()

    @property
    def timeout_seconds(self) -> float:
        """Seconds that requests to the cluster may take altogether once the shutdown has begun."""
        return self._timeout_seconds

    @property
    def has_begun(self) -> bool:
        """Whether the process has to end."""
        return self._begun_at < math.inf

    async def wait_begun(self) -> None:
        """Wait until the process has to end."""
        begun = anyio.Event()
        set_in_loop = partial(asyncio.get_running_loop().call_soon_threadsafe, begun.set)
        # Register before looking, so that a beginning in between is not missed.
        self._callbacks.add(set_in_loop)
        try:
            if not self.has_begun:
                await begun.wait()
        finally:
            self._callbacks.remove(set_in_loop)

    def begin(self) -> None:
        """Begin the shutdown, from any thread; only the first call has an effect."""
        if self.has_begun:
            return
        self._begun_at = time.monotonic()
        bound_seconds = self._timeout_seconds + CLEANUP_TIMEOUT.total_seconds()
        watchdog = threading.Timer(bound_seconds, _exit_after_timeout, [bound_seconds])
        watchdog.daemon = True
        watchdog.start()
        for shorten in tuple(self._callbacks):
            shorten()

    def seconds_left(self) -> float:
        """Return the seconds that requests to the cluster may still take; infinite unless the shutdown has begun."""
        return max(self._begun_at + self._timeout_seconds - time.monotonic(), 0)

    def request_timeout(self, seconds: float) -> AbstractContextManager[None]:
        """Limit a request to the cluster to so many seconds, and in a shutdown to what is left of its time.

        Raises:
            TimeoutError: If the block took longer.
        """
        return self._timeout(seconds, self.seconds_left)

    def delivery_timeout(self, seconds: float) -> AbstractContextManager[None]:
        """Limit a delivery to so many seconds, and in a shutdown to half of what is left of its time.

        The other half is for deleting the token, in case it cannot be delivered.

        Raises:
            TimeoutError: If the block took longer.
        """
        return self._timeout(seconds, lambda: max(self.seconds_left(), CLEANUP_TIMEOUT.total_seconds()) / 2)

    @contextmanager
    def _timeout(self, seconds: float, seconds_left: Callable[[], float]) -> Generator[None]:
        loop = asyncio.get_running_loop()
        with anyio.fail_after(seconds) as scope:

            def shorten() -> None:
                if self.has_begun:
                    scope.deadline = min(scope.deadline, loop.time() + seconds_left())

            # `begin` may be called in another thread, and only the loop's own may move the deadline of a scope.
            shorten_in_loop = partial(loop.call_soon_threadsafe, shorten)
            # Register before looking: a shutdown that begins in between is then noticed twice, and not never.
            self._callbacks.add(shorten_in_loop)
            shorten()
            try:
                yield
            finally:
                self._callbacks.remove(shorten_in_loop)


def list_ending_signals() -> Sequence[int]:
    """Return the signals that would end this process.

    One stays ignored if the parent process ignored it for this one, as `nohup` does, and is none of these.
    """
    return [
        signum
        for signum in signal.valid_signals()
        if getattr(signum, "name", "") not in _NON_ENDING_SIGNALS and signal.getsignal(signum) is not signal.SIG_IGN
    ]


@contextmanager
def catching_signals(signums: Iterable[int]) -> Generator[Callable[[], None]]:
    """Yield what waits for one of these signals, in any thread; in the block they do nothing else.

    At the end of the block each wait ends as well. After it, the signals have no effect.
    """
    caught = [*signums]
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.settimeout(0)

        def wait() -> None:
            # Nobody reads the byte, so it ends each wait.
            receiver.recv(1, socket.MSG_PEEK)

        # Python runs a handler between two bytecodes of the main thread alone; C code writes to this socket at once.
        previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for signum in caught:
            signal.signal(signum, lambda _number, _frame: None)
        try:
            yield wait
        finally:
            # What is left is only the exit, and a second signal must not turn its status into that of a killed process.
            for signum in caught:
                signal.signal(signum, signal.SIG_IGN)
            signal.set_wakeup_fd(previous_fd)
            with suppress(BlockingIOError):
                sender.send(b"\0")


@contextmanager
def deferring_signals() -> Generator[None]:
    """Let a signal that would end the process do so after the `with` block and not in the middle of it."""
    came: list[int] = []
    previous = {
        signum: signal.signal(signum, lambda number, _frame: came.append(number)) for signum in list_ending_signals()
    }
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        for signum in came[:1]:
            signal.raise_signal(signum)


def _exit_after_timeout(seconds: float) -> NoReturn:
    message = (
        f"ERROR {__name__}: Something still hangs {seconds:g} s after the end was asked for, and is given up. What was "
        "begun is in the journal; the next start names what has no outcome there.\n"
    )
    with suppress(OSError, ValueError):
        # Write only if it cannot block: a full pipe that nobody reads must not hold up the exit as well. `sys.stderr`
        # has a lock, which the thread that hangs may hold, so this writes to the descriptor itself.
        for stderr_fd in select.select([], [2], [], 0)[1]:
            os.write(stderr_fd, message.encode())
    os._exit(1)


class _NonWaitingExecutor(ThreadPoolExecutor):
    """Worker threads that are not waited for when their loop is closed."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as inherited
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that can be closed while a thread still waits for the address of a name."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_NonWaitingExecutor())
    return loop


def exit_now(status: int) -> NoReturn:
    """End the process with this status, even if threads are still waiting for something."""
    deadline = time.monotonic() + THREAD_JOIN_TIMEOUT_SECONDS
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    for thread in others:
        thread.join(max(deadline - time.monotonic(), 0))
    if any(thread.is_alive() for thread in others):
        # Python's own exit would first join that thread, which may never end. All else is already put in order.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
