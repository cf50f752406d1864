"""Feeds the SDK's stdin from the client's, where no relay can wait for a pipe and a signal together: on Windows.

A thread that waits for input cannot be interrupted. It is a daemon here, so it holds nothing up, and the pipe behind it
is ended by whatever comes first, the end of stdin or a signal. The SDK writes to the client's stdout itself, so nobody
answers a line that is no message.
"""

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Final

from token_tools.server.input_lines import sort_line, split_lines
from token_tools.shutdown import Shutdown, catching_signals, list_ending_signals

_READ_BYTES: Final = 1 << 16
"""Bytes that are read at a time."""


@contextmanager
def feeding_stdin(shutdown: Shutdown) -> Generator[None]:
    """Put a pipe in the place of stdin that ends with it, or when a signal comes that would end the process."""
    client_stdin_fd = os.dup(sys.stdin.fileno())
    sdk_stdin_fd, sdk_input_fd = os.pipe()
    os.dup2(sdk_stdin_fd, sys.stdin.fileno())
    os.close(sdk_stdin_fd)
    feed = _Feed(client_stdin_fd, os.fdopen(sdk_input_fd, "wb"), shutdown.begin)
    with catching_signals(list_ending_signals()) as wait_for_signal:

        def end_by_signal() -> None:
            wait_for_signal()
            feed.end()

        waiting = threading.Thread(target=end_by_signal)
        waiting.start()
        threading.Thread(target=feed.run, daemon=True).start()
        yield
    waiting.join()


@dataclass(frozen=True)
class _Feed:
    """Passes lines on from `stdin_fd` to `sdk_input`; it calls `begin_shutdown` when it ends."""

    stdin_fd: int
    sdk_input: IO[bytes]
    begin_shutdown: Callable[[], None]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Pass messages on until stdin ends or nobody takes them any more."""
        with suppress(OSError, ValueError):
            for line in split_lines(iter(lambda: os.read(self.stdin_fd, _READ_BYTES), b"")):
                message, _ = sort_line(line)
                with self.lock:
                    self.sdk_input.write(message)
                    self.sdk_input.flush()
        self.end()

    def end(self) -> None:
        """Let the SDK see the end of its input; to do that twice changes nothing."""
        self.begin_shutdown()
        with self.lock, suppress(OSError):
            self.sdk_input.close()
