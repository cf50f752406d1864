"""Test the socket that the server listens on, and the certificate that it shows there."""

import socket
import ssl
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
import trustme
from anyio.streams.tls import TLSAttribute
from cryptography import x509

from tests.support.harness import Harness
from tests.support.http_in_process import ANONYMOUS, ANY_PORT, Setup, serving
from tests.support.waiting import wait_until
from token_tools.errors import UsageError
from token_tools.http_settings import HttpSettings, SocketAddress, TcpAddress
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.http.bounds import Bounds
from token_tools.server.http.listening import ServerTls, find_address, listening, load_tls

pytestmark = pytest.mark.anyio


@pytest.fixture
def unix(tmp_path: Path) -> HttpSettings:
    """Listen on a Unix socket."""
    return HttpSettings(http_listen=SocketAddress(tmp_path / "socket"), http_anonymous=True)


def find_path(settings: HttpSettings) -> Path:
    assert isinstance(settings.http_listen, SocketAddress)
    return settings.http_listen.path


async def test_a_unix_socket_is_for_its_user_alone_and_gone_at_the_end(harness: Harness, unix: HttpSettings) -> None:
    path = find_path(unix)
    async with serving(harness, Setup(unix)) as server:
        status = path.stat()
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            answer = await client.get("http://localhost/livez")

    assert (answer.status_code, str(server.settings.http_listen)) == (200, f"unix:{path}")
    assert (stat.S_ISSOCK(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o600)
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_behind_is_replaced(unix: HttpSettings) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(find_path(unix)))

    with listening(unix) as bound:
        assert find_address(bound) == unix.http_listen


def test_a_socket_on_which_somebody_listens_is_left_to_them(unix: HttpSettings) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(find_path(unix)))
        living.listen()
        with pytest.raises(UsageError, match=r"QUMULO_HTTP_LISTEN: cannot listen on unix:.*: Address already in use"):
            enter(unix)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(find_path(unix)))


def enter(settings: HttpSettings) -> None:
    with listening(settings):
        pass


def put_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("put", [Path.touch, Path.mkdir, put_link])
def test_what_is_no_socket_is_not_touched(unix: HttpSettings, put: Callable[[Path], None]) -> None:
    path = find_path(unix)
    put(path)
    before = path.lstat()

    with pytest.raises(UsageError, match="Address already in use"):
        enter(unix)

    assert path.lstat() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = HttpSettings(http_listen=SocketAddress(tmp_path / "none" / "socket"), http_anonymous=True)

    with pytest.raises(UsageError, match="none/socket: No such file or directory"):
        enter(settings)


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    settings = HttpSettings(http_listen=SocketAddress(tmp_path / ("x" * 200)), http_anonymous=True)

    with pytest.raises(UsageError, match=r"QUMULO_HTTP_LISTEN: cannot listen on .*path too long"):
        enter(settings)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        settings = HttpSettings(http_listen=TcpAddress(LOOPBACK, port), http_anonymous=True)

        with pytest.raises(UsageError) as refused:
            enter(settings)

    assert str(refused.value) == f"QUMULO_HTTP_LISTEN: cannot listen on {LOOPBACK}:{port}: Address already in use."


@pytest.mark.parametrize("host", ["203.0.113.1", "nowhere.invalid"])
def test_an_address_that_is_not_this_machine_s_is_named(host: str) -> None:
    settings = HttpSettings(http_listen=TcpAddress(host, 0), http_tls_in_front=True, http_keys_file=Path("/keys"))

    with pytest.raises(UsageError, match=f"QUMULO_HTTP_LISTEN: cannot listen on {host}:0: "):
        enter(settings)


def test_an_address_of_version_6_is_written_as_in_a_url() -> None:
    settings = HttpSettings(http_listen=TcpAddress("::1", 0), http_anonymous=True)

    with listening(settings) as bound:
        settled = settings.at_address(find_address(bound))

    assert settled.resource == f"http://[::1]:{bound_port(settled)}/mcp"


def bound_port(settings: HttpSettings) -> int:
    assert isinstance(settings.http_listen, TcpAddress)
    return settings.http_listen.port


@pytest.fixture
def authority() -> trustme.CA:
    """Create somebody whom a client trusts."""
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> tuple[Path, Path]:
    """Write a certificate and its key."""
    return write_certificate(authority, tmp_path)


def write_certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert(LOOPBACK)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def trust(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


async def read_serial(port: int, context: ssl.SSLContext) -> int:
    """Connect, and return the number of the certificate that is shown."""
    async with await anyio.connect_tcp(LOOPBACK, port, ssl_context=context, tls_standard_compatible=False) as stream:
        shown = stream.extra_attributes[TLSAttribute.peer_certificate_binary]()
    return x509.load_der_x509_certificate(shown).serial_number


async def read_next_serial(port: int, context: ssl.SSLContext, before: int) -> int:
    """Connect until another certificate is shown, and return the number of that one."""
    after = before
    while after == before:
        after = await read_serial(port, context)
    return after


async def test_a_certificate_that_was_replaced_is_shown_from_then_on(
    harness: Harness,
    files: tuple[Path, Path],
    authority: trustme.CA,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = HttpSettings(
        http_listen=ANY_PORT, http_tls_certificate=files[0], http_tls_key=files[1], http_anonymous=True
    )
    context, bounds = trust(authority), Bounds(certificate_period=timedelta(seconds=0.05))
    async with serving(harness, Setup(settings, bounds=bounds, tls=load_tls(settings))) as server:
        assert server.settings.resource == f"https://{LOOPBACK}:{server.port}/mcp"
        before = await read_serial(server.port, context)
        write_certificate(authority, tmp_path)
        after = await read_next_serial(server.port, context, before)
        files[1].write_text("nothing")
        await wait_until(lambda: "The former certificate is shown until that is mended." in caplog.text)
        still = await read_serial(server.port, context)
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"https://{server.address}/livez")

    assert before != after == still
    assert answer.status_code == 200


async def test_versions_of_tls_that_are_not_safe_are_refused(
    harness: Harness, files: tuple[Path, Path], authority: trustme.CA
) -> None:
    settings = HttpSettings(
        http_listen=ANY_PORT, http_tls_certificate=files[0], http_tls_key=files[1], http_anonymous=True
    )
    context = trust(authority)
    # Without this, the client would not offer the version to begin with.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    async with serving(harness, Setup(settings, tls=ServerTls(*files))) as server:
        await read_serial(server.port, context)
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, anyio.EndOfStream)):
            await read_serial(server.port, context)


@pytest.mark.parametrize("broken", ["no-file", "no-pem", "key-of-another", "folder"])
def test_files_that_are_no_certificate_and_its_key_are_named(
    files: tuple[Path, Path], broken: str, tmp_path: Path
) -> None:
    certificate, key = files
    match broken:
        case "no-file":
            key = tmp_path / "none.pem"
        case "no-pem":
            certificate.write_text("nothing")
        case "key-of-another":
            trustme.CA().issue_cert("c").private_key_pem.write_to_path(key)
        case _:
            certificate = tmp_path

    with pytest.raises(UsageError) as refused:
        ServerTls(certificate, key)

    assert str(refused.value).startswith(f"QUMULO_HTTP_TLS_CERTIFICATE and QUMULO_HTTP_TLS_KEY name {certificate} and ")
    assert str(refused.value).count("\n") == 0


def test_without_the_settings_there_is_no_certificate() -> None:
    assert load_tls(ANONYMOUS) is None
