"""The reason why a server could not start, told where its host shows it: in the answer to the first request.

Most hosts hide stderr and the exit status, and say that the connection was closed.
"""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mcp.types import INTERNAL_ERROR

from token_tools.redaction import redact
from token_tools.server.input_lines import find_requests, split_lines, write_error

PATIENCE: Final = 3.0
"""Seconds that a host has for its first request."""

FOR_ANOTHER: Final = 0.5
"""Seconds that it has for the next: what fails in the newer era is asked for once more in the older."""

MOST_ANSWERED: Final = 10

_INPUT: Final = 1 << 16
"""Bytes that are read at a time."""


def answer_requests(told: str) -> None:
    """Answer the first requests on stdin with an error of this text; there is no wait where a person types.

    It returns when stdin ends or nothing comes in time, at the latest after `MOST_ANSWERED`.
    """
    # What is closed is nobody's, and Python has None for it.
    if not (sys.stdin and sys.stdout) or sys.stdin.isatty():
        return
    listener = _Listener(sys.stdin.fileno(), time.monotonic() + PATIENCE)
    # Whoever went away needs no answer.
    with suppress(OSError):
        for number, _ in zip(listener.hear(), range(MOST_ANSWERED), strict=False):
            os.write(sys.stdout.fileno(), write_error(number, INTERNAL_ERROR, redact(told)))
            listener.deadline = time.monotonic() + FOR_ANOTHER


@dataclass
class _Listener:
    """Hears what comes from `source` until `deadline`, on the monotonic clock."""

    source: int
    deadline: float

    def hear(self) -> Iterator[int | str | None]:
        """The ids of the requests; what is none is passed over."""
        for line in split_lines(self._read()):
            yield from find_requests(line)

    def _read(self) -> Iterator[bytes]:
        news = select.poll()
        news.register(self.source, select.POLLIN)
        while news.poll(max(self.deadline - time.monotonic(), 0) * 1000):
            if time.monotonic() > self.deadline or not (chunk := os.read(self.source, _INPUT)):
                return
            yield chunk
