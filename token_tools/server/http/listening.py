"""The socket on which the server listens, and the certificate that it shows there."""

import os
import socket
import ssl
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from token_tools.errors import UsageError
from token_tools.http_settings import Address, HttpSettings, SocketAddress, TcpAddress
from token_tools.operator_input import format_input
from token_tools.posix import AF_UNIX


@contextmanager
def listening(settings: HttpSettings) -> Generator[socket.socket]:
    """Give a socket at the address of the settings; of a Unix socket, nothing is left afterwards.

    Raises:
        UsageError: If nobody can listen there.
    """
    address = settings.http_listen
    try:
        bound = _bind_path(address.path) if isinstance(address, SocketAddress) else _bind_port(address)
    except OSError as failure:
        raise UsageError(f"QUMULO_HTTP_LISTEN: cannot listen on {address}: {failure.strerror or failure}.") from None
    with bound:
        try:
            yield bound
        finally:
            if isinstance(address, SocketAddress):
                address.path.unlink(missing_ok=True)


def _bind_port(address: TcpAddress) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_path(path: Path) -> socket.socket:
    """Return a socket that only this user may use. One that a killed server left behind is replaced."""
    _remove_dead_socket(path)
    bound = socket.socket(AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(previous)
    return bound


def _remove_dead_socket(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


class ServerTls:
    """The certificate that the server shows, read again when its files change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._read_at = self._look()
        self.read()

    def find_context(self, *_: object) -> ssl.SSLContext:
        """Return the context, as uvicorn asks for it."""
        return self.context

    def read(self) -> None:
        """Read the files.

        Raises:
            UsageError: If they are no certificate and its key. What was read before is kept.
        """
        try:
            self.context.load_cert_chain(*self._files)
        except OSError as failure:
            certificate, key = (format_input(str(file)) for file in self._files)
            raise UsageError(
                f"QUMULO_HTTP_TLS_CERTIFICATE and QUMULO_HTTP_TLS_KEY name {certificate} and {key}, "
                f"which are no certificate and its key in PEM: {failure.strerror or 'they do not fit'}."
            ) from None

    def read_if_changed(self) -> None:
        """Read the files if they are others than before.

        Raises:
            UsageError: If they are unusable now.
        """
        seen = self._look()
        if seen != self._read_at:
            self._read_at = seen
            self.read()

    def _look(self) -> list[tuple[int, int]]:
        statuses = list[tuple[int, int]]()
        for file in self._files:
            with suppress(OSError):
                status = file.stat()
                statuses.append((status.st_mtime_ns, status.st_ino))
        return statuses


def load_tls(settings: HttpSettings) -> ServerTls | None:
    """Return the certificate of the settings, None if there is none.

    Raises:
        UsageError: If it is unusable.
    """
    if settings.http_tls_certificate is None or settings.http_tls_key is None:
        return None
    return ServerTls(settings.http_tls_certificate, settings.http_tls_key)


def find_address(bound: socket.socket) -> Address:
    """Return where a socket listens, with the port that it was given."""
    place = bound.getsockname()
    return SocketAddress(Path(place)) if isinstance(place, str) else TcpAddress(place[0], place[1])
