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

from token_tools.operations.services import Services
from token_tools.server.input_lines import sort_line, split_lines
from token_tools.shutdown import Shutdown

OUTPUT_TIMEOUT_MS: Final = 500
"""Milliseconds that a client may take no output after the end was asked for; what it has not taken then is dropped."""

_CHUNK_BYTES: Final = select.PIPE_BUF
"""Bytes that can be written without waiting where there is said to be room."""

_READ_BYTES: Final = 1 << 16
"""Bytes that are read at a time: all that a pipe has."""

_NON_ENDING_SIGNALS: Final = {
    # Reports of a fault in the program itself, after which it cannot go on.
    *("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
    # They stop the process and let it go on, or do nothing.
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
    # Nobody can catch them.
    *("SIGKILL", "SIGSTOP"),
}
"""The signals that do not ask for the end; all others do, the real-time ones included."""

_LOG: Final = logging.getLogger(__name__)


async def serve(server: MCPServer[Services], ending: Shutdown) -> None:
    """Serve until stdin ends, nobody reads stdout any more, or a signal comes that would end the process.

    What a tool has begun and must finish is finished first, within what `ending` allows.
    """
    with _relaying_stdio(ending):
        try:
            await server.run_stdio_async()
        except* BrokenPipeError:
            _LOG.info("The client went away while an answer was on its way to it.")


@contextmanager
def _relaying_stdio(ending: Shutdown) -> Generator[None]:
    woken, waker = os.pipe()
    os.set_blocking(waker, False)

    def end() -> None:
        ending.request()
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
def _signals_caught(waker_fd: int) -> Generator[None]:
    """Each signal that would end the process writes to `waker_fd` instead; after the block none has an effect.

    One that whoever started the process wanted to be ignored, as `nohup` does, still is.
    """
    ending = [
        signum
        for signum in signal.valid_signals()
        if getattr(signum, "name", "") not in _NON_ENDING_SIGNALS and signal.getsignal(signum) is not signal.SIG_IGN
    ]
    # A handler runs when the loop comes to it, and a loop that is just about to wait does not: this does not need one.
    before = signal.set_wakeup_fd(waker_fd, warn_on_full_buffer=False)
    for signum in ending:
        signal.signal(signum, _ignore_signal)
    try:
        yield
    finally:
        for signum in ending:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(before)


def _ignore_signal(_signum: int, _frame: FrameType | None) -> None:
    """What a signal does is to write to the waker."""


@dataclass(frozen=True)
class _InputRelay:
    """From the client's `stdin_fd` to the SDK's `sink`, line by line.

    What is no message is answered over `refusal_sender`.

    It ends when `stdin_fd` does, when `wakeup_fd` has something to read, or when `stdout_fd` has nobody left who reads
    it, and calls `end` then.
    """

    stdin_fd: int
    sdk_input_fd: int
    refusal_sender: socket.socket
    stdout_fd: int
    wakeup_fd: int
    end: Callable[[], None]

    def run(self) -> None:
        """Work until the end."""
        # A terminal that was closed, or a connection that broke: an end like any other.
        with suppress(OSError):
            for line in split_lines(self._read()):
                message, refusal = sort_line(line)
                if not (self._write(self.sdk_input_fd, message) and self._write(self.refusal_sender.fileno(), refusal)):
                    break
        self.end()
        os.close(self.sdk_input_fd)

    def _read(self) -> Iterator[bytes]:
        # That the reader of `stdout_fd` is gone is told unasked.
        news = _make_poll({self.stdin_fd: select.POLLIN, self.wakeup_fd: select.POLLIN, self.stdout_fd: 0})
        while _ready_fds(news) == [self.stdin_fd] and (chunk := os.read(self.stdin_fd, _READ_BYTES)):
            yield chunk

    def _write(self, sink_fd: int, content: bytes) -> bool:
        """Whether it could be written before the end was asked for."""
        room = _make_poll({sink_fd: select.POLLOUT, self.wakeup_fd: select.POLLIN})
        for start in range(0, len(content), _CHUNK_BYTES):
            if _ready_fds(room) != [sink_fd]:
                return False
            os.write(sink_fd, content[start : start + _CHUNK_BYTES])
        return True


@dataclass(frozen=True)
class _OutputRelay:
    """From the SDK's `sdk_output`, and from `refusal_receiver`, to the client's `stdout_fd`.

    Once `wakeup_fd` has something to read, all of it is dropped when `stdout_fd` takes none for a while. It calls `end`
    when `stdout_fd` is broken, or `sdk_output` has ended.
    """

    sdk_output: socket.socket
    refusal_receiver: socket.socket
    stdout_fd: int
    wakeup_fd: int
    end: Callable[[], None]

    def run(self) -> None:
        """Work until the end."""
        news = _make_poll({self.stdout_fd: select.POLLOUT, self.wakeup_fd: select.POLLIN})
        room = _make_poll({self.stdout_fd: select.POLLOUT})
        # The end of `sdk_output` tells the writer that nobody reads any more.
        with self.sdk_output, self.refusal_receiver, suppress(OSError):
            for chunk in self._receive():
                # A terminal, or a socket that does not block, may take a part of it.
                left = memoryview(chunk)
                # After the end was asked for, the first of them no longer waits.
                while left and (self.stdout_fd in _ready_fds(news) or room.poll(OUTPUT_TIMEOUT_MS)):
                    left = left[os.write(self.stdout_fd, left) :]
                if left:
                    break
            while self.sdk_output.recv(_CHUNK_BYTES):
                pass
        self.end()

    def _receive(self) -> Iterator[bytes]:
        """What comes from both, in pieces, but never one within a message of the other, until `sdk_output` ends."""
        either = _make_poll({self.sdk_output.fileno(): select.POLLIN, self.refusal_receiver.fileno(): select.POLLIN})
        while True:
            source = self.refusal_receiver if self.refusal_receiver.fileno() in _ready_fds(either) else self.sdk_output
            chunk = b""
            while not chunk.endswith(b"\n"):
                if not (chunk := source.recv(_CHUNK_BYTES)):
                    return
                yield chunk


def _make_poll(events: Mapping[int, int]) -> select.poll:
    watch = select.poll()
    for descriptor, mask in events.items():
        watch.register(descriptor, mask)
    return watch


def _ready_fds(watch: select.poll) -> list[int]:
    return [descriptor for descriptor, _ in watch.poll()]
