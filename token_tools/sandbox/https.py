"""An application over HTTPS on a loopback port, with a certificate of its own."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import trustme
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from token_tools.errors import SettingsError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """What a client needs to connect."""

    host: str
    port: int
    ca_file: Path


class AbortableH11Protocol(H11Protocol):
    """HTTP whose connection is cut, without another byte, where the application raises the error that says so."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve through the connection, or end it; uvicorn narrows the argument in the same way."""
        super().connection_made(transport)
        app = self.app

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except httpx.TransportError:
                transport.abort()
                while (await receive())["type"] != "http.disconnect":
                    pass

        self.app = serve


def serve_https(app: ASGIApp, *, port: int, folder: Path, on_started: Callable[[Address], None]) -> None:
    """Serve until SIGINT or SIGTERM; `port` 0 takes any free one.

    `on_started` is called once the port accepts connections. The CA's certificate is written into the folder.

    Raises:
        SettingsError: If the port is taken, or not ours to take.
    """
    ca_file, key_file = folder / "ca.pem", folder / "server.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert(LOOPBACK, "localhost", "::1").private_key_and_cert_chain_pem.write_to_path(key_file)
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as failure:
        raise SettingsError(f"--port {port} cannot be served: {os.strerror(failure.errno or 0)}.") from None
    # asyncio does this only for sockets that it makes itself; without, an answer may wait 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # uvicorn's own handling of signals, which ends the process by the signal, is only for the main thread.
    server = uvicorn.Server(
        uvicorn.Config(app, http=AbortableH11Protocol, ssl_certfile=key_file, log_level="warning", access_log=False)
    )
    ending = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        on_started(Address(LOOPBACK, listener.getsockname()[1], ca_file))
        signal.sigwait(ending)
    finally:
        server.should_exit = True
        thread.join()
