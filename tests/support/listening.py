"""Ports of this machine, behind which a thread shows a certificate, or does something else than a cluster."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trustme

from token_tools.sandbox.https import LOOPBACK

TIMEOUT_SECONDS = 10


@contextmanager
def listen(serve: Callable[[socket.socket], None]) -> Generator[int]:
    """Let `serve` have each connection to a port, and yield the port."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        ending = threading.Event()

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                if ending.is_set():
                    connection.close()
                    return
                with connection, suppress(OSError):
                    connection.settimeout(TIMEOUT_SECONDS)
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield port
        finally:
            ending.set()
            socket.create_connection((LOOPBACK, port), TIMEOUT_SECONDS).close()
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive()


def say_nothing(connection: socket.socket) -> None:
    """Wait until the other side gives up."""
    while connection.recv(1024):
        pass


def answer_in_plain_http(connection: socket.socket) -> None:
    """Answer whatever comes as a web server does that expects no TLS."""
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@dataclass
class Showing:
    """A server that does nothing but to show a certificate; another one can be put there while it runs."""

    context: ssl.SSLContext
    port: int

    def replace(self, certificate: trustme.LeafCert) -> None:
        """Show another certificate from the next connection on."""
        load_certificate(self.context, certificate)


def load_certificate(context: ssl.SSLContext, certificate: trustme.LeafCert) -> None:
    """Let a server show a certificate, with those that are sent along with it."""
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)


@contextmanager
def show(certificate: trustme.LeafCert) -> Generator[Showing]:
    """Show a certificate on a port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, certificate)

    def shake_hands(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            stream.recv(1024)

    with listen(shake_hands) as port:
        yield Showing(context, port)


@contextmanager
def show_in_turn(*certificates: trustme.LeafCert | None) -> Generator[int]:
    """Show the first connection the first certificate, and so on; None closes it. All later ones see the last one."""
    contexts = [create_context(certificate) for certificate in certificates]

    def shake_hands(connection: socket.socket) -> None:
        context = contexts.pop(0) if len(contexts) > 1 else contexts[0]
        if context is not None:
            with context.wrap_socket(connection, server_side=True) as stream:
                stream.recv(1024)

    with listen(shake_hands) as port:
        yield port


def create_context(certificate: trustme.LeafCert | None) -> ssl.SSLContext | None:
    """Return the context of a server that shows a certificate, None for none."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, certificate)
    return context
