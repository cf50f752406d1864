"""Serves an application over HTTPS on a loopback port, with a certificate of its own."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import httpx
import trustme
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from token_tools.errors import UsageError
from token_tools.shutdown import catching_signals

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """What a client needs to connect."""

    host: str
    port: int
    ca_file: Path


class AbortableH11Protocol(H11Protocol):
    """HTTP that cuts its connection, without another byte, when the application raises `httpx.TransportError`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap the application of a new connection."""
        super().connection_made(cast(asyncio.Transport, transport))
        app = self.app

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except httpx.TransportError:
                self.transport.abort()
                # uvicorn would log an application that returns without an answer while the client is still there.
                while (await receive())["type"] != "http.disconnect":
                    pass

        self.app = serve


def serve_https(app: ASGIApp, *, port: int, folder: Path, on_started: Callable[[Address], None]) -> None:
    """Serve until SIGINT or SIGTERM; `port` 0 takes any free one.

    The certificate of the CA is written into `folder`. `on_started` is called when the port accepts connections.

    Raises:
        UsageError: If the port is taken, or this user may not use it.
    """
    ca_file, key_file = folder / "ca.pem", folder / "server.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert(LOOPBACK, "localhost", "::1").private_key_and_cert_chain_pem.write_to_path(key_file)
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as failure:
        raise UsageError(f"--port {port} cannot be served: {os.strerror(failure.errno or 0)}.") from None
    # asyncio sets this only on sockets that it creates itself. Without it, an answer may wait 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # uvicorn runs in a thread, because in the main thread it handles signals itself and then kills the process by them.
    server = uvicorn.Server(
        uvicorn.Config(app, http=AbortableH11Protocol, ssl_certfile=key_file, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    with catching_signals([signal.SIGINT, signal.SIGTERM]) as wait_for_signal:
        thread.start()
        try:
            on_started(Address(LOOPBACK, listener.getsockname()[1], ca_file))
            wait_for_signal()
        finally:
            server.should_exit = True
            thread.join()
