"""A TCP port in front of PostgreSQL's socket, which can be closed, or hang, as a network or a machine does."""

import selectors
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BUFFER_BYTES = 1 << 16


@dataclass
class TcpProxy:
    """A port on loopback that leads to a Unix socket. While it hangs, nothing goes through and nothing is closed."""

    target: Path
    port: int = 0
    _flows: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket | None = None
    _sockets: list[socket.socket] = field(default_factory=list[socket.socket])

    def open(self) -> None:
        """Listen, on the port of before if there was one."""
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def close(self) -> None:
        """Close the port and every connection, as a server does that is stopped."""
        self._flows.set()
        if self._listener is not None:
            # Without this, the thread that accepts would hold the port open.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        self._listener = None

    def hang(self) -> None:
        """Let nothing through any more."""
        self._flows.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.target))
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=[client, server], daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        others = {client: server, server: client}
        with selectors.DefaultSelector() as selector:
            try:
                for each in others:
                    selector.register(each, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        source = client if key.fileobj is client else server
                        data = source.recv(BUFFER_BYTES)
                        self._flows.wait()
                        others[source].sendall(data)
                        if not data:
                            return
            except (OSError, ValueError):
                return
            finally:
                client.close()
                server.close()


@contextmanager
def running_proxy(target: Path) -> Generator[TcpProxy]:
    """Open a port that leads to a Unix socket, and close it afterwards."""
    proxy = TcpProxy(target)
    proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()
