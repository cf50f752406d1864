"""Serving over stdin and stdout, with an end that is the same however it comes.

The SDK reads stdin and writes stdout in threads that nothing can interrupt: SIGTERM kills them where they stand, and
after SIGINT it waits for input that never comes, or for a client that reads no more. So it is given a pipe instead of
the one, which ends when stdin does or when a signal asks for the end, and a socket instead of the other, which takes
everything from then on. Either way it unwinds as it does at the end of its input.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from mcp.server.mcpserver import MCPServer

from token_tools.workflows import Workflows

GRACE: Final = 500
"""Milliseconds that a client may take no output after the end was asked for; what it has not taken then is dropped."""

_CHUNK: Final = select.PIPE_BUF
"""Bytes that can be written without waiting where there is said to be room."""
_LOG: Final = logging.getLogger(__name__)


async def serve(server: MCPServer[Workflows]) -> None:
    """Serve until stdin ends, nobody reads stdout any more, or SIGINT or SIGTERM comes.

    What a tool has begun and must finish is finished first.
    """
    with _relayed():
        try:
            await server.run_stdio_async()
        except* BrokenPipeError:
            _LOG.info("The client went away while an answer was on its way to it.")


@contextmanager
def _relayed() -> Generator[None]:
    woken, waker = os.pipe()

    def end(_signum: int = 0, _frame: FrameType | None = None) -> None:
        for signum in before:
            # A second signal is meant to be obeyed at once.
            signal.signal(signum, signal.SIG_DFL)
        wake()

    def wake() -> None:
        with suppress(BlockingIOError):  # then it was woken often enough
            os.write(waker, b"\0")

    before = {signum: signal.signal(signum, end) for signum in (signal.SIGINT, signal.SIGTERM)}
    # A handler runs when the loop comes to it, and a loop that is just about to wait does not: this does not need one.
    os.set_blocking(waker, False)
    woken_before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    source, wire = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
    piped, sink = os.pipe()
    os.dup2(piped, sys.stdin.fileno())
    os.close(piped)
    # The SDK never closes its own descriptor of stdout, and only of a socket can the others be told that it is over.
    written, writing = socket.socketpair()
    os.dup2(writing.fileno(), sys.stdout.fileno())
    relays = [
        threading.Thread(target=_relay_input, args=(source, sink, woken, wire, wake)),
        threading.Thread(target=_relay_output, args=(written, wire, woken)),
    ]
    for relay in relays:
        relay.start()
    try:
        yield
    finally:
        end()
        signal.set_wakeup_fd(woken_before)
        os.dup2(wire, sys.stdout.fileno())
        with writing:
            writing.shutdown(socket.SHUT_WR)
        for relay in relays:
            relay.join()


def _relay_input(source: int, sink: int, woken: int, wire: int, wake: Callable[[], None]) -> None:
    """Pass the input on until it ends, somebody asks for the end, or `wire` has nobody left who reads it."""
    # That the reader of `wire` is gone is told unasked.
    news = _watch({source: select.POLLIN, woken: select.POLLIN, wire: 0})
    room = _watch({sink: select.POLLOUT, woken: select.POLLIN})
    while _tell(news) == [source] and (chunk := os.read(source, _CHUNK)) and _tell(room) == [sink]:
        os.write(sink, chunk)
    os.close(sink)
    wake()


def _relay_output(source: socket.socket, wire: int, woken: int) -> None:
    """Pass the output on; once the end is asked for, all of it is dropped when `wire` takes none for a while."""
    news = _watch({wire: select.POLLOUT, woken: select.POLLIN})
    room = _watch({wire: select.POLLOUT})
    with source, suppress(OSError):  # the end of `source` tells the writer that nobody reads any more
        while chunk := source.recv(_CHUNK):
            # After the end was asked for, the first of them no longer waits.
            if wire not in _tell(news) and not room.poll(GRACE):
                break
            os.write(wire, chunk)
        while source.recv(_CHUNK):
            pass


def _watch(events: Mapping[int, int]) -> select.poll:
    watch = select.poll()
    for descriptor, mask in events.items():
        watch.register(descriptor, mask)
    return watch


def _tell(watch: select.poll) -> list[int]:
    return [descriptor for descriptor, _ in watch.poll()]
