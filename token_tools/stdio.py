"""Serving over stdin and stdout, with an end that is the same however it comes.

The SDK reads stdin in a thread that nothing can interrupt: SIGTERM kills it where it stands, and after SIGINT it waits
for input that never comes. So it is given a pipe instead, which ends when stdin does or when a signal asks for the end;
either way it unwinds as it does at the end of its input.
"""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from mcp.server.mcpserver import MCPServer

from token_tools.workflows import Workflows

CHUNK = 65_536
_LOG: Final = logging.getLogger(__name__)


async def serve(server: MCPServer[Workflows]) -> None:
    """Serve until stdin ends, nobody reads stdout any more, or SIGINT or SIGTERM comes.

    What a tool has begun and must finish is finished first.
    """
    with _input_until_signal():
        try:
            await server.run_stdio_async()
        except* BrokenPipeError:
            _LOG.info("The client went away while an answer was on its way to it.")


@contextmanager
def _input_until_signal() -> Generator[None]:
    source = os.dup(sys.stdin.fileno())
    piped, sink = os.pipe()
    woken, waker = os.pipe()
    os.dup2(piped, sys.stdin.fileno())
    os.close(piped)

    def end_input(_signum: int = 0, _frame: FrameType | None = None) -> None:
        for signum in before:
            # A second signal is meant to be obeyed at once.
            signal.signal(signum, signal.SIG_DFL)
        os.write(waker, b"\0")

    before = {signum: signal.signal(signum, end_input) for signum in (signal.SIGINT, signal.SIGTERM)}
    # Serving diverts stdout itself.
    wire = os.dup(sys.stdout.fileno())
    relay = threading.Thread(target=_relay, args=(source, woken, wire, sink))
    relay.start()
    try:
        yield
    finally:
        end_input()
        relay.join()


def _relay(source: int, woken: int, wire: int, sink: int) -> None:
    """Pass the input on until it ends, somebody asks for the end, or `wire` has nobody left who reads it."""
    news = select.poll()
    news.register(source, select.POLLIN)
    news.register(woken, select.POLLIN)
    news.register(wire, 0)  # that its reader is gone is told unasked
    with open(sink, "wb", buffering=0) as pipe:
        while all(told == source for told, _ in news.poll()):
            chunk = os.read(source, CHUNK)
            if not chunk:
                return
            while chunk:
                chunk = chunk[pipe.write(chunk) :]
