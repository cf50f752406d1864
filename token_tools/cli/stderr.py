"""The process's stderr, on which no line repeats something of a secret.

Everything that writes to `sys.stderr` is covered: logs, warnings, argparse, tracebacks of every thread.
"""

import io
import os
import sys
import threading
from contextlib import suppress

from token_tools.redaction import redact


class RedactedStream(io.TextIOWrapper):
    """A text stream that redacts line by line, and ignores that nobody reads it."""

    _pending = ""
    # Threads write at the same time. The lock is reentrant, because the garbage collector can run a finalizer that
    # writes to stderr while this thread is in the middle of a write.
    _lock = threading.RLock()

    def write(self, text: str, /) -> int:
        """Write the lines that are complete; the rest waits for its line end, or for `flush`."""
        with self._lock:
            # A secret that arrives in pieces is only recognised in the whole line.
            lines, end, self._pending = (self._pending + text).rpartition("\n")
            self._write_redacted(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write everything that waits, complete or not."""
        with self._lock:
            pending, self._pending = self._pending, ""
            self._write_redacted(pending)
            with suppress(OSError, ValueError):
                super().flush()

    def _write_redacted(self, text: str) -> None:
        with suppress(OSError, ValueError):
            super().write(redact(text))


def redact_stderr() -> None:
    """Redact what is written to `sys.stderr` from now on; if stderr is closed, discard it."""
    stream = sys.stderr
    if stream is None:
        # Python and C code write errors to descriptor 2. Unless this takes it, the next file that is opened would.
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
        return
    sys.stderr = RedactedStream(stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)
