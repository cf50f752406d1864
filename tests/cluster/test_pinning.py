"""Test that one certificate is trusted by its fingerprint, whatever is written in it, and that no other is."""

import hashlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from pydantic import SecretStr

from tests.support.cluster_client import OWN_CREDENTIAL, connected
from tests.support.harness import ADMIN
from tests.support.twin_clusters import serve_over_https
from token_tools.cluster.identity import Identity
from token_tools.errors import Untrusted
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Cluster
from token_tools.sandbox.https import LOOPBACK
from token_tools.settings import Settings
from token_tools.times import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_retry_backoff")]
EMPTY_PAGE = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"entries": []}'
AUTHORITY = trustme.CA()
GOOD = AUTHORITY.issue_cert(LOOPBACK)
NOW = utc_now()


def fingerprint_of(pem: bytes) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper()


def leaf_fingerprint_of(certificate: trustme.LeafCert) -> str:
    return fingerprint_of(certificate.cert_chain_pems[0].bytes())


def load_certificate(context: ssl.SSLContext, certificate: trustme.LeafCert) -> None:
    """Show this certificate from the next connection on."""
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)


@dataclass
class TlsServer:
    """A server that answers each request with an empty page, over connections that it keeps until the test ends them.

    `accepted` counts the connections, also those whose handshake did not succeed.
    """

    context: ssl.SSLContext
    port: int
    accepted: int = 0
    received: list[bytes] = field(default_factory=list[bytes])
    connections: list[TLSStream] = field(default_factory=list[TLSStream])

    async def serve(self, plain: SocketStream) -> None:
        """Serve one connection."""
        self.accepted += 1
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError):
            async with plain:
                stream = await TLSStream.wrap(
                    plain, server_side=True, ssl_context=self.context, standard_compatible=False
                )
                self.connections.append(stream)
                while True:
                    self.received.append(await stream.receive())
                    await stream.send(EMPTY_PAGE)

    def settings(self, fingerprint: str) -> Settings:
        """Return settings that trust the certificate with this fingerprint."""
        return Settings(host=LOOPBACK, port=self.port, bearer_token=SecretStr(OWN_CREDENTIAL), fingerprint=fingerprint)


@asynccontextmanager
async def tls_server(
    certificate: trustme.LeafCert, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncGenerator[TlsServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    load_certificate(context, certificate)
    async with await anyio.create_tcp_listener(local_host=LOOPBACK) as listener, anyio.create_task_group() as tasks:
        server = TlsServer(context, listener.extra_attributes[SocketAttribute.local_port]())
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(GOOD, id="unknown-issuer"),
        pytest.param(AUTHORITY.issue_cert("elsewhere.example.com"), id="other-name"),
        pytest.param(
            AUTHORITY.issue_cert(LOOPBACK, not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=1)),
            id="expired",
        ),
        pytest.param(
            AUTHORITY.issue_cert(LOOPBACK, not_before=NOW + timedelta(days=1), not_after=NOW + timedelta(days=9)),
            id="not-yet",
        ),
    ],
)
async def test_the_certificate_that_was_named_is_trusted_whatever_is_written_in_it(
    certificate: trustme.LeafCert, version: ssl.TLSVersion
) -> None:
    pinned = leaf_fingerprint_of(certificate)
    async with tls_server(certificate, version) as server, connected(None, server.settings(pinned)) as cluster:
        for _ in range(2):
            assert (await cluster.fetch_page()).entries == ()

    assert [OWN_CREDENTIAL.encode() in request for request in server.received] == [True, True]
    assert server.accepted == 1


async def test_the_sandbox_is_trusted_by_its_fingerprint(tmp_path: Path) -> None:
    cluster = Cluster(clock=utc_now)
    cluster.add_account(ADMIN)
    own = cluster.add_token(ADMIN.auth_id, creator=ADMIN.auth_id)
    with serve_over_https(create_app(cluster), tmp_path) as port:
        pem = await anyio.to_thread.run_sync(ssl.get_server_certificate, (LOOPBACK, port))
        settings = Settings(
            host=LOOPBACK,
            port=port,
            bearer_token=SecretStr(own.bearer_token),
            fingerprint=fingerprint_of(pem.encode()).replace(":", "").lower(),
        )
        async with connected(None, settings) as client:
            assert [token.id for token in (await client.fetch_page()).entries] == [own.id]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_another_certificate_is_refused_once_before_anything_is_sent(version: ssl.TLSVersion) -> None:
    pinned = leaf_fingerprint_of(AUTHORITY.issue_cert(LOOPBACK))
    async with tls_server(GOOD, version) as server, connected(None, server.settings(pinned)) as cluster:
        with pytest.raises(Untrusted) as reading:
            await cluster.fetch_page()
        assert server.accepted == 1
        with pytest.raises(Untrusted) as writing:
            await cluster.create_token(Identity(auth_id="1001"), None)

    assert server.received == []
    assert str(reading.value) == str(writing.value)
    assert str(reading.value) == (
        f"The certificate of {LOOPBACK}:{server.port} has the SHA-256 {leaf_fingerprint_of(GOOD)}. Nothing was sent. "
        f"QUMULO_FINGERPRINT is {pinned}. Unless somebody on the way pretends to be the cluster, its certificate was "
        "replaced. If the cluster's administrator tells the new SHA-256, the operator has to set it; "
        f"`qumulo-token-tools trust --host {LOOPBACK} --port {server.port}` shows it."
    )
    assert reading.value.advice == "Trying again does not help before that is mended."


async def test_the_fingerprint_of_the_issuer_is_told_as_that() -> None:
    issuer = AUTHORITY.create_child_ca()
    certificate = issuer.issue_cert(LOOPBACK)
    pinned = fingerprint_of(issuer.cert_pem.bytes())
    async with tls_server(certificate) as server, connected(None, server.settings(pinned)) as cluster:
        with pytest.raises(Untrusted) as failure:
            await cluster.fetch_page()

    assert server.received == []
    assert str(failure.value).endswith(
        f"has the SHA-256 {leaf_fingerprint_of(certificate)}. Nothing was sent. QUMULO_FINGERPRINT is {pinned}, which "
        "is that of another certificate in its chain: the operator has to set the cluster's own."
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_each_new_connection_is_looked_at(version: ssl.TLSVersion) -> None:
    pinned = leaf_fingerprint_of(GOOD)
    async with tls_server(GOOD, version) as server, connected(None, server.settings(pinned)) as cluster:
        await cluster.fetch_page()
        await server.connections[0].aclose()
        await cluster.fetch_page()
        load_certificate(server.context, AUTHORITY.issue_cert(LOOPBACK))
        await server.connections[1].aclose()
        with pytest.raises(Untrusted, match=pinned):
            await cluster.fetch_page()

    assert server.accepted == 3
    assert len(server.received) == 2
