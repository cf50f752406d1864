"""Speaks with a server over its pipes without a client: each request is a line, and so is each answer.

A client adds its own time to that of the server, 2 ms for a list. This adds a tenth of a millisecond at most: it waits
in the operating system, without a thread or an event loop, and does not parse the answers.
"""

import json
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import IO, Any, Final

PROTOCOL_VERSION: Final = "2025-11-25"
"""The last protocol that begins with a handshake. Most clients speak it, or one before it."""


@dataclass(frozen=True)
class LineSession:
    """A session with a server that reads `requests` and writes `answers`."""

    requests: IO[bytes]
    answers: IO[bytes]
    ids: "count[int]" = field(default_factory=lambda: count(1))

    def initialize(self) -> None:
        """Shake hands, which comes before every call."""
        client = {"name": "bare-lines", "version": "1"}
        self.request("initialize", {"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client})
        self._send({"method": "notifications/initialized"})

    def call(self, tool: str, arguments: Mapping[str, Any]) -> bytes:
        """Return the line that answers the call of a tool.

        Raises:
            AssertionError: If the call failed.
        """
        line = self.request("tools/call", {"name": tool, "arguments": arguments})
        if b'"isError":true' in line:
            raise AssertionError(line[:400])
        return line

    def request(self, method: str, params: Mapping[str, Any]) -> bytes:
        """Send a request, wait for the next line, and return it.

        Raises:
            AssertionError: If the line is no answer to this request, or is an error.
        """
        request_id = next(self.ids)
        self._send({"id": request_id, "method": method, "params": params})
        line = self.answers.readline()
        if not line.startswith(b'{"jsonrpc":"2.0","id":%d,"result":' % request_id):
            raise AssertionError(line[:400])
        return line

    def _send(self, message: Mapping[str, Any]) -> None:
        self.requests.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.requests.flush()


@contextmanager
def running_line_server(command: Sequence[str], environment: Mapping[str, str]) -> Generator[LineSession]:
    """Run a server as a child process as long as the block, and yield a session that has shaken hands."""
    # At the end of the block, Popen closes stdin. That ends a server, and Popen waits for it.
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError(process)
        session = LineSession(process.stdin, process.stdout)
        session.initialize()
        yield session
