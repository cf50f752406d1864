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
from token_tools.server.input_lines import find_request_ids, format_error, split_lines

FIRST_REQUEST_TIMEOUT_SECONDS: Final = 3.0
"""Seconds that a host has for its first request."""

NEXT_REQUEST_TIMEOUT_SECONDS: Final = 0.5
"""Seconds that it has for the next: what fails in the newer era is asked for once more in the older."""

MAX_ANSWERED_REQUESTS: Final = 10

_READ_BYTES: Final = 1 << 16
"""Bytes that are read at a time."""


def answer_requests(message: str) -> None:
    """Answer the first requests on stdin with an error of this text; there is no wait where a person types.

    It returns when stdin ends or nothing comes in time, at the latest after `MAX_ANSWERED_REQUESTS`.
    """
    # What is closed is nobody's, and Python has None for it.
    if not (sys.stdin and sys.stdout) or sys.stdin.isatty():
        return
    listener = _RequestReader(sys.stdin.fileno(), time.monotonic() + FIRST_REQUEST_TIMEOUT_SECONDS)
    # Whoever went away needs no answer.
    with suppress(OSError):
        for number, _ in zip(listener.read_request_ids(), range(MAX_ANSWERED_REQUESTS), strict=False):
            os.write(sys.stdout.fileno(), format_error(number, INTERNAL_ERROR, redact(message)))
            listener.deadline = time.monotonic() + NEXT_REQUEST_TIMEOUT_SECONDS


@dataclass
class _RequestReader:
    """Hears what comes from `source_fd` until `deadline`, on the monotonic clock."""

    source_fd: int
    deadline: float

    def read_request_ids(self) -> Iterator[int | str | None]:
        """The ids of the requests; what is none is passed over."""
        for line in split_lines(self._read()):
            yield from find_request_ids(line)

    def _read(self) -> Iterator[bytes]:
        news = select.poll()
        news.register(self.source_fd, select.POLLIN)
        while news.poll(max(self.deadline - time.monotonic(), 0) * 1000):
            if time.monotonic() > self.deadline or not (chunk := os.read(self.source_fd, _READ_BYTES)):
                return
            yield chunk
