"""Serves over stdin and stdout, and ends in the same orderly way whatever ends it.

The SDK reads stdin and writes stdout in threads that nothing can interrupt: they wait for input that never comes, or
for a client that no longer reads, and a signal would kill them in the middle of a change. So the SDK never sees the
client's own descriptors, but a pipe instead of stdin and a socket instead of stdout:

    client's stdin  ─► _InputRelay  ─► pipe   ─► SDK
    client's stdout ◄─ _OutputRelay ◄─ socket ◄─ SDK

Whatever ends the session (the end of stdin, a signal, a client that is gone), the pipe ends, which the SDK takes for
the usual end of its input, and the socket accepts everything until the SDK has finished.

On Windows, where a pipe cannot be waited for with something else, `fed_stdin` stands for both.
"""

import logging
import os
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

from token_tools.operations.fleet import Fleet
from token_tools.posix import IS_WINDOWS, PIPE_BUF, POLLIN, POLLOUT, Poll, create_poll, set_blocking
from token_tools.server.fed_stdin import feeding_stdin
from token_tools.server.input_lines import sort_line, split_lines
from token_tools.shutdown import Shutdown, list_ending_signals

OUTPUT_TIMEOUT_MS: Final = 500
"""Milliseconds that a client may take no output once the shutdown has begun; then the rest of the output is dropped."""

_WRITE_BYTES: Final = PIPE_BUF
"""Bytes that are written at a time: no write of so few waits after a poll has found room."""

_READ_BYTES: Final = 1 << 16
"""Bytes that are read at a time: all that a pipe holds."""

_LOG: Final = logging.getLogger(__name__)


async def serve(server: MCPServer[Fleet], shutdown: Shutdown) -> None:
    """Serve until stdin ends, nobody reads stdout any more, or a signal comes that would end the process.

    A change that a tool has begun is finished first, within the time that `shutdown` allows.
    """
    with (feeding_stdin if IS_WINDOWS else _relaying_stdio)(shutdown):
        try:
            await server.run_stdio_async()
        except* BrokenPipeError:
            _LOG.info("The client went away while an answer was on its way to it.")


@contextmanager
def _relaying_stdio(shutdown: Shutdown) -> Generator[None]:
    """Put a pipe and a socket in the place of stdin and stdout, and relay between them and the client."""
    # Both relays poll the reading end beside what they wait for. Nobody ever reads the byte, so it wakes both.
    wakeup_fd, waker_fd = os.pipe()
    set_blocking(waker_fd, False)

    def begin_shutdown() -> None:
        shutdown.begin()
        # A pipe that is full has woken them already.
        with suppress(BlockingIOError):
            os.write(waker_fd, b"\0")

    with _waking_by_signals(waker_fd):
        client_stdin_fd, client_stdout_fd = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
        sdk_stdin_fd, sdk_input_fd = os.pipe()
        os.dup2(sdk_stdin_fd, sys.stdin.fileno())
        os.close(sdk_stdin_fd)
        # A socket, because the SDK never closes its own descriptor of stdout: `shutdown` ends a socket all the same,
        # and a pipe only ends when all its descriptors are closed.
        sdk_output, sdk_stdout = socket.socketpair()
        os.dup2(sdk_stdout.fileno(), sys.stdout.fileno())
        refusal_receiver, refusal_sender = socket.socketpair()
        input_relay = _InputRelay(
            client_stdin_fd, sdk_input_fd, refusal_sender, client_stdout_fd, wakeup_fd, begin_shutdown
        )
        output_relay = _OutputRelay(sdk_output, refusal_receiver, client_stdout_fd, wakeup_fd, begin_shutdown)
        threads = [threading.Thread(target=relay.run) for relay in (input_relay, output_relay)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            begin_shutdown()
            os.dup2(client_stdout_fd, sys.stdout.fileno())
            with refusal_sender, sdk_stdout:
                sdk_stdout.shutdown(socket.SHUT_WR)
                for thread in threads:
                    thread.join()


@contextmanager
def _waking_by_signals(waker_fd: int) -> Generator[None]:
    """Let each signal that would end the process write to `waker_fd` instead; after the block none has an effect."""
    caught = list_ending_signals()
    # Python runs a handler between two bytecodes of the main thread, so a loop that is about to block could miss the
    # signal. The wake-up descriptor closes that gap: C code writes to it at once.
    previous_fd = signal.set_wakeup_fd(waker_fd, warn_on_full_buffer=False)
    for signum in caught:
        signal.signal(signum, _ignore_signal)
    try:
        yield
    finally:
        # What is left is only the exit, and a second signal must not turn its status into that of a killed process.
        for signum in caught:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(previous_fd)


def _ignore_signal(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing: Python only writes to the wake-up descriptor for signals that have a handler."""


@dataclass(frozen=True)
class _InputRelay:
    """Relays lines from the client's stdin to the SDK, and sends an answer to each line that is no message.

    It ends when `stdin_fd` does, when `wakeup_fd` has something to read, or when nobody reads `stdout_fd` any more. It
    calls `begin_shutdown` then.
    """

    stdin_fd: int
    sdk_input_fd: int
    refusal_sender: socket.socket
    stdout_fd: int
    wakeup_fd: int
    begin_shutdown: Callable[[], None]

    def run(self) -> None:
        """Relay until the end."""
        # An error of a terminal that was closed, or of a connection that broke, is an end like any other.
        with suppress(OSError):
            for line in split_lines(self._read_chunks()):
                message, refusal = sort_line(line)
                if not (self._write(self.sdk_input_fd, message) and self._write(self.refusal_sender.fileno(), refusal)):
                    break
        self.begin_shutdown()
        os.close(self.sdk_input_fd)

    def _read_chunks(self) -> Iterator[bytes]:
        # A descriptor whose reader is gone is reported even with an empty event mask.
        poll = _create_poll({self.stdin_fd: POLLIN, self.wakeup_fd: POLLIN, self.stdout_fd: 0})
        while _ready_fds(poll) == [self.stdin_fd] and (chunk := os.read(self.stdin_fd, _READ_BYTES)):
            yield chunk

    def _write(self, fd: int, content: bytes) -> bool:
        """Write all of `content`, and return whether that was possible before the shutdown began."""
        poll = _create_poll({fd: POLLOUT, self.wakeup_fd: POLLIN})
        for start in range(0, len(content), _WRITE_BYTES):
            if _ready_fds(poll) != [fd]:
                return False
            os.write(fd, content[start : start + _WRITE_BYTES])
        return True


@dataclass(frozen=True)
class _OutputRelay:
    """Relays what the SDK writes, and the answers of the input relay, to the client's stdout.

    Once `wakeup_fd` has something to read, it drops everything as soon as `stdout_fd` takes nothing for a while. It
    calls `begin_shutdown` when `stdout_fd` is broken, or when `sdk_output` has ended.
    """

    sdk_output: socket.socket
    refusal_receiver: socket.socket
    stdout_fd: int
    wakeup_fd: int
    begin_shutdown: Callable[[], None]

    def run(self) -> None:
        """Relay until the end."""
        poll_until_shutdown = _create_poll({self.stdout_fd: POLLOUT, self.wakeup_fd: POLLIN})
        poll_stdout = _create_poll({self.stdout_fd: POLLOUT})
        # Closing `sdk_output` tells the SDK, which may be in the middle of a write, that nobody reads any more.
        with self.sdk_output, self.refusal_receiver, suppress(OSError):
            for chunk in self._receive_chunks():
                rest = memoryview(chunk)
                # A terminal or a non-blocking socket may take only a part. The first poll waits without a bound, but
                # returns at once after the shutdown has begun; then the second one bounds the wait.
                while rest and (
                    self.stdout_fd in _ready_fds(poll_until_shutdown) or poll_stdout.poll(OUTPUT_TIMEOUT_MS)
                ):
                    rest = rest[os.write(self.stdout_fd, rest[:_WRITE_BYTES]) :]
                if rest:
                    break
            # Take what comes and drop it, so that the SDK can finish.
            while self.sdk_output.recv(_READ_BYTES):
                pass
        self.begin_shutdown()

    def _receive_chunks(self) -> Iterator[bytes]:
        """Yield what both sockets send until `sdk_output` ends; no message is interrupted by one of the other."""
        poll = _create_poll({self.sdk_output.fileno(): POLLIN, self.refusal_receiver.fileno(): POLLIN})
        while True:
            receiver = self.refusal_receiver if self.refusal_receiver.fileno() in _ready_fds(poll) else self.sdk_output
            chunk = b""
            # Stay with one socket to the end of its line: a line is a message.
            while not chunk.endswith(b"\n"):
                if not (chunk := receiver.recv(_READ_BYTES)):
                    return
                yield chunk


def _create_poll(events: Mapping[int, int]) -> Poll:
    poll = create_poll()
    for fd, mask in events.items():
        poll.register(fd, mask)
    return poll


def _ready_fds(poll: Poll) -> list[int]:
    """Wait until at least one descriptor is ready, broken or at its end, and return all that are."""
    return [fd for fd, _ in poll.poll()]
