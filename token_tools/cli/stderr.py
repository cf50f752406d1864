"""The process's stderr, on which no line repeats something of a secret.

Whatever writes there writes through it: logs, warnings, argparse, tracebacks of every thread.
"""

import io
import os
import sys
import threading
from contextlib import suppress

from token_tools.redaction import redact


class RedactedStream(io.TextIOWrapper):
    """Text that is redacted line by line on its way out; that nobody reads it is no error."""

    _pending = ""
    # Whatever is cleaned up while a line is written may have something to say too.
    _lock = threading.RLock()

    def write(self, text: str, /) -> int:
        """Write the lines that are complete; what is left waits for its end, or for `flush`."""
        with self._lock:
            lines, end, self._pending = (self._pending + text).rpartition("\n")
            self._write_redacted(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write what is there, complete or not."""
        with self._lock:
            pending, self._pending = self._pending, ""
            self._write_redacted(pending)
            with suppress(OSError, ValueError):
                super().flush()

    def _write_redacted(self, text: str) -> None:
        with suppress(OSError, ValueError):
            super().write(redact(text))


def redact_stderr() -> None:
    """From now on, what is written to `sys.stderr` is redacted. If it is closed, it goes nowhere."""
    stream = sys.stderr
    if stream is None:
        # Otherwise the next file that is opened would be the descriptor that C code writes its errors to.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the life of the process
        return
    sys.stderr = RedactedStream(stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)
