"""Tells the reason why the server could not start where a host shows it: in the answer to the first request.

Most hosts hide stderr and the exit status, and only say that the connection was closed.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, Queue
from typing import Final

from mcp.types import INTERNAL_ERROR

from token_tools.redaction import redact
from token_tools.server.input_lines import find_request_ids, format_error, split_lines

FIRST_REQUEST_TIMEOUT_SECONDS: Final = 3.0
"""Seconds to wait for the first request of a host."""

NEXT_REQUEST_TIMEOUT_SECONDS: Final = 0.5
"""Seconds to wait for the next: a client tries the newer version of the protocol, and if that fails, the older."""

MAX_ANSWERED_REQUESTS: Final = 10
"""Requests that are answered before the process ends."""

_READ_BYTES: Final = 1 << 16
"""Bytes that are read at a time."""

_MAX_WAITING_CHUNKS: Final = 16
"""Pieces of input that are read ahead."""


def answer_requests(message: str) -> None:
    """Answer the first requests on stdin with an error of this text, unless stdin is a terminal.

    It returns when stdin ends, when no request comes in time, or after `MAX_ANSWERED_REQUESTS`.
    """
    # Python has None for a stream that is closed.
    if not (sys.stdin and sys.stdout) or sys.stdin.isatty():
        return
    reader = _RequestReader(sys.stdin.fileno(), time.monotonic() + FIRST_REQUEST_TIMEOUT_SECONDS)
    # A client that is gone needs no answer.
    with suppress(OSError):
        for request_id in islice(reader.read_request_ids(), MAX_ANSWERED_REQUESTS):
            os.write(sys.stdout.fileno(), format_error(request_id, INTERNAL_ERROR, redact(message)))
            reader.deadline = time.monotonic() + NEXT_REQUEST_TIMEOUT_SECONDS


@dataclass
class _RequestReader:
    """Reads requests from `stdin_fd` until `deadline`, a time of the monotonic clock."""

    stdin_fd: int
    deadline: float
    chunks: "Queue[bytes]" = field(default_factory=lambda: Queue(_MAX_WAITING_CHUNKS))

    def read_request_ids(self) -> Iterator[int | str | None]:
        """Yield the id of each request; everything else is skipped."""
        # Not everywhere can a pipe be waited for with a bound. A daemon does not hold up the end of the process.
        threading.Thread(target=self._fill_chunks, daemon=True).start()
        for line in split_lines(self._take_chunks()):
            yield from find_request_ids(line)

    def _fill_chunks(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self.stdin_fd, _READ_BYTES):
                self.chunks.put(chunk)
        self.chunks.put(b"")

    def _take_chunks(self) -> Iterator[bytes]:
        # A client that never stops sending must not keep the process alive.
        with suppress(Empty):
            while (left := self.deadline - time.monotonic()) > 0 and (chunk := self.chunks.get(timeout=left)):
                yield chunk
