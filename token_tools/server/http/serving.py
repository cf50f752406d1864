"""Serves an HTTP application until a signal asks for the end, and ends in an orderly way.

Then no new connection is taken, what is at work is finished, and clients that only wait are let go.
"""

import logging
import math
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Final, NamedTuple

import anyio
import uvicorn
from starlette.types import ASGIApp

from token_tools.errors import UsageError
from token_tools.server.http.bounds import TimeBounds, create_protocol
from token_tools.server.http.listening import ServerTls
from token_tools.shutdown import CLEANUP_TIMEOUT, Shutdown, list_ending_signals

KEEP_ALIVE_SECONDS: Final = 65
"""Seconds for which an idle connection is kept: longer than proxies keep theirs, so that they close it first."""

LOG_LEVELS: Final = {
    # They have a warning for each request of a stranger, with texts of theirs in it.
    "uvicorn.error": logging.ERROR,
    "mcp.server.transport_security": logging.ERROR,
    "mcp.server.streamable_http_manager": logging.ERROR,
    # At DEBUG it writes down whole answers; that to a create may have the new bearer token.
    "sse_starlette": logging.WARNING,
}
"""What is logged of libraries at the least severe."""

_LOG: Final = logging.getLogger(__name__)


class Service(NamedTuple):
    """What is served: an application, of which the part on which clients wait is `bounded`. Without `tls`, as HTTP."""

    app: ASGIApp
    bounded: TimeBounds
    tls: ServerTls | None


async def serve(
    service: Service, bound: socket.socket, shutdown: Shutdown, on_started: Callable[[], object] = lambda: None
) -> None:
    """Serve on a socket until a signal comes that would end the process.

    `on_started` is called when clients can connect.
    """
    app, bounded, tls = service
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    server = _Server(
        uvicorn.Config(
            app,
            http=create_protocol(bounded.bounds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(shutdown.timeout_seconds + CLEANUP_TIMEOUT.total_seconds() / 2),
            h11_max_incomplete_event_size=bounded.bounds.header_bytes,
            ssl_context_factory=None if tls is None else tls.find_context,
        ),
        shutdown.begin,
        on_started,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_waiting, shutdown, bounded)
        if tls is not None:
            tasks.start_soon(_renew_certificate, tls, bounded.bounds.certificate_period)
        await server.serve([bound])
        tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """A server that every signal ends in the same way."""

    def __init__(
        self, config: uvicorn.Config, begin_shutdown: Callable[[], object], on_started: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._begin_shutdown = begin_shutdown
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Let a signal that would end the process end the service instead."""
        previous = {signum: signal.signal(signum, self.handle_exit) for signum in list_ending_signals()}
        try:
            yield
        finally:
            # What is left is only the exit, and another signal must not turn its status into that of a killed process.
            for signum in previous:
                signal.signal(signum, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as inherited
        """Begin the end; another signal changes nothing about it."""
        self._begin_shutdown()
        self.should_exit = True


async def _end_waiting(shutdown: Shutdown, bounded: TimeBounds) -> None:
    await shutdown.wait_begun()
    bounded.end_waiting()


async def _renew_certificate(tls: ServerTls, period: timedelta) -> None:
    while True:
        await anyio.sleep(period.total_seconds())
        try:
            tls.read_if_changed()
        except UsageError as failure:
            _LOG.warning("%s The former certificate is shown until that is mended.", failure)
