"""Serving over stdin and stdout, with an end that is the same however it comes.

The SDK reads stdin and writes stdout in threads that nothing can interrupt: a signal kills them where they stand, or
leaves them waiting for input that never comes, or for a client that reads no more. So it is given a pipe instead of the
one, which ends when stdin does or when a signal asks for the end, and a socket instead of the other, which takes
everything from then on. Either way it unwinds as it does at the end of its input.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from mcp.server.mcpserver import MCPServer

from token_tools.operations.services import Workflows
from token_tools.server.input_lines import sort_line, split_lines
from token_tools.shutdown import Ending

GRACE: Final = 500
"""Milliseconds that a client may take no output after the end was asked for; what it has not taken then is dropped."""

_CHUNK: Final = select.PIPE_BUF
"""Bytes that can be written without waiting where there is said to be room."""

_INPUT: Final = 1 << 16
"""Bytes that are read at a time: all that a pipe has."""

_SPARED: Final = {
    # Reports of a fault in the program itself, after which it cannot go on.
    *("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
    # They stop the process and let it go on, or do nothing.
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
    # Nobody can catch them.
    *("SIGKILL", "SIGSTOP"),
}
"""The signals that do not ask for the end; all others do, the real-time ones included."""

_LOG: Final = logging.getLogger(__name__)


async def serve(server: MCPServer[Workflows], ending: Ending) -> None:
    """Serve until stdin ends, nobody reads stdout any more, or a signal comes that would end the process.

    What a tool has begun and must finish is finished first, within what `ending` allows.
    """
    with _relayed(ending):
        try:
            await server.run_stdio_async()
        except* BrokenPipeError:
            _LOG.info("The client went away while an answer was on its way to it.")


@contextmanager
def _relayed(ending: Ending) -> Generator[None]:
    woken, waker = os.pipe()
    os.set_blocking(waker, False)

    def end() -> None:
        ending.ask()
        with suppress(BlockingIOError):  # then it was woken often enough
            os.write(waker, b"\0")

    with _signals_caught(waker):
        source, wire = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
        piped, sink = os.pipe()
        os.dup2(piped, sys.stdin.fileno())
        os.close(piped)
        # The SDK never closes its own descriptor of stdout, and the other end of a socket can be told all the same.
        written, writing = socket.socketpair()
        os.dup2(writing.fileno(), sys.stdout.fileno())
        refused, refusing = socket.socketpair()
        input_relay = _InputRelay(source, sink, refusing, wire, woken, end)
        output_relay = _OutputRelay(written, refused, wire, woken, end)
        relays = [threading.Thread(target=relay.run) for relay in (input_relay, output_relay)]
        for relay in relays:
            relay.start()
        try:
            yield
        finally:
            end()
            os.dup2(wire, sys.stdout.fileno())
            with refusing, writing:
                writing.shutdown(socket.SHUT_WR)
                for relay in relays:
                    relay.join()


@contextmanager
def _signals_caught(waker: int) -> Generator[None]:
    """Each signal that would end the process writes to `waker` instead; after the block none has an effect.

    One that whoever started the process wanted to be ignored, as `nohup` does, still is.
    """
    ending = [
        signum
        for signum in signal.valid_signals()
        if getattr(signum, "name", "") not in _SPARED and signal.getsignal(signum) is not signal.SIG_IGN
    ]
    # A handler runs when the loop comes to it, and a loop that is just about to wait does not: this does not need one.
    before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for signum in ending:
        signal.signal(signum, _catch)
    try:
        yield
    finally:
        for signum in ending:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(before)


def _catch(_signum: int, _frame: FrameType | None) -> None:
    """What a signal does is to write to the waker."""


@dataclass(frozen=True)
class _InputRelay:
    """From the client's `source` to the SDK's `sink`, line by line; what is no message is answered over `refusing`.

    It ends when `source` does, when `woken` has something to read, or when `wire` has nobody left who reads it, and
    calls `end` then.
    """

    source: int
    sink: int
    refusing: socket.socket
    wire: int
    woken: int
    end: Callable[[], None]

    def run(self) -> None:
        """Work until the end."""
        # A terminal that was closed, or a connection that broke: an end like any other.
        with suppress(OSError):
            for line in split_lines(self._read()):
                message, refusal = sort_line(line)
                if not (self._write(self.sink, message) and self._write(self.refusing.fileno(), refusal)):
                    break
        self.end()
        os.close(self.sink)

    def _read(self) -> Iterator[bytes]:
        # That the reader of `wire` is gone is told unasked.
        news = _watch({self.source: select.POLLIN, self.woken: select.POLLIN, self.wire: 0})
        while _tell(news) == [self.source] and (chunk := os.read(self.source, _INPUT)):
            yield chunk

    def _write(self, sink: int, content: bytes) -> bool:
        """Whether it could be written before the end was asked for."""
        room = _watch({sink: select.POLLOUT, self.woken: select.POLLIN})
        for start in range(0, len(content), _CHUNK):
            if _tell(room) != [sink]:
                return False
            os.write(sink, content[start : start + _CHUNK])
        return True


@dataclass(frozen=True)
class _OutputRelay:
    """From the SDK's `written`, and from `refused`, to the client's `wire`.

    Once `woken` has something to read, all of it is dropped when `wire` takes none for a while. It calls `end` when
    `wire` is broken, or `written` has ended.
    """

    written: socket.socket
    refused: socket.socket
    wire: int
    woken: int
    end: Callable[[], None]

    def run(self) -> None:
        """Work until the end."""
        news = _watch({self.wire: select.POLLOUT, self.woken: select.POLLIN})
        room = _watch({self.wire: select.POLLOUT})
        # The end of `written` tells the writer that nobody reads any more.
        with self.written, self.refused, suppress(OSError):
            for chunk in self._receive():
                # A terminal, or a socket that does not block, may take a part of it.
                left = memoryview(chunk)
                # After the end was asked for, the first of them no longer waits.
                while left and (self.wire in _tell(news) or room.poll(GRACE)):
                    left = left[os.write(self.wire, left) :]
                if left:
                    break
            while self.written.recv(_CHUNK):
                pass
        self.end()

    def _receive(self) -> Iterator[bytes]:
        """What comes from both, in pieces, but never one within a message of the other, until `written` ends."""
        either = _watch({self.written.fileno(): select.POLLIN, self.refused.fileno(): select.POLLIN})
        while True:
            source = self.refused if self.refused.fileno() in _tell(either) else self.written
            chunk = b""
            while not chunk.endswith(b"\n"):
                if not (chunk := source.recv(_CHUNK)):
                    return
                yield chunk


def _watch(events: Mapping[int, int]) -> select.poll:
    watch = select.poll()
    for descriptor, mask in events.items():
        watch.register(descriptor, mask)
    return watch


def _tell(watch: select.poll) -> list[int]:
    return [descriptor for descriptor, _ in watch.poll()]
