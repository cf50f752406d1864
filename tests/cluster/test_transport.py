"""Test the connection to the cluster: TLS, broken answers, and where the credential may go."""

import base64
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote_plus

import anyio
import httpx
import pytest
import trustme
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener, TLSStream
from pydantic import SecretStr

from tests.support.cluster_client import OWN_CREDENTIAL, ScriptedCluster, connected, empty_page_response
from tests.support.waiting import wait_until
from token_tools.cluster.client import ClusterClient
from token_tools.cluster.identity import Identity
from token_tools.credentials import encode_store
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    Rejected,
    Unauthenticated,
    Unreachable,
    Unsent,
    Untrusted,
)
from token_tools.settings import Settings
from token_tools.times import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_retry_backoff")]
JANE = Identity(auth_id="1001")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"hello\r\n\r\n", b""], ids=["ssh", "words", "nothing"])
async def test_what_is_no_http_is_not_told_as_a_broken_connection(tmp_path: Path, said: bytes) -> None:
    async with tls_server(tmp_path, said) as (settings, _), connected(None, settings) as cluster:
        with pytest.raises(Unreachable, match="it ended early, or what came is no HTTP"):
            await cluster.delete_token("1")


async def test_each_request_is_signed_and_says_who_asks() -> None:
    script = ScriptedCluster(empty_page_response())
    async with connected(script) as cluster:
        await cluster.fetch_page()

    [request] = script.requests
    assert request.headers["Authorization"] == f"Bearer {OWN_CREDENTIAL}"
    assert request.headers["User-Agent"].startswith("qumulo-token-tools/")
    assert request.headers["Accept-Encoding"] == "identity"


BEARER = "access-v1:" + base64.b64encode(b"\x9f\xd3OWNSECRET" + bytes(range(100, 151))).decode()
BEARER_BODY = BEARER.removeprefix("access-v1:")


@pytest.mark.parametrize(
    "echo",
    [
        pytest.param(BEARER, id="whole"),
        pytest.param(BEARER_BODY, id="without-its-prefix"),
        pytest.param(f"token {BEARER_BODY[:20]}…", id="its-beginning"),
        pytest.param(f"…{BEARER_BODY[-12:]}", id="its-end"),
        pytest.param(quote_plus(BEARER), id="percent-encoded"),
        pytest.param(quote_plus(quote_plus(BEARER_BODY)), id="percent-encoded-twice"),
        pytest.param(f"{BEARER_BODY[:30]} {BEARER_BODY[30:]}", id="split"),
        pytest.param(BEARER_BODY[:4] + "\n" + BEARER_BODY[4:9], id="short-and-split"),
        pytest.param(BEARER_BODY.replace("/", "\\/"), id="escaped"),
        pytest.param("\\x" + "\\x".join(f"{ord(c):02x}" for c in BEARER_BODY), id="escaped-each"),
        pytest.param(base64.b64decode(BEARER_BODY)[2:11].decode(), id="decoded"),
        pytest.param(base64.b64decode(BEARER_BODY).hex(), id="decoded-in-hexadecimal"),
        pytest.param(base64.b64encode(f"Authorization: Bearer {BEARER}".encode()).decode(), id="encoded-again"),
        pytest.param(base64.urlsafe_b64encode(b"12" + BEARER.encode()).decode().rstrip("="), id="encoded-for-urls"),
        pytest.param(BEARER.swapcase(), id="other-case"),
    ],
)
async def test_an_error_that_repeats_something_of_the_credential_is_not_quoted(echo: str) -> None:
    script = ScriptedCluster(httpx.Response(400, json={"error_class": "x_error", "description": f"you sent {echo}"}))
    async with connected(script, Settings(host="c", bearer_token=SecretStr(BEARER))) as cluster:
        with pytest.raises(Rejected) as failure:
            await cluster.fetch_page()

    assert str(failure.value) == (
        "The cluster declined (400 x_error: its words are withheld, since they repeat something of a credential)."
    )


async def test_a_credential_that_is_no_base64_is_not_quoted_either() -> None:
    script = ScriptedCluster(
        httpx.Response(400, json={"error_class": "x_error", "description": "you sent ~opaque.token"})
    )
    async with connected(script, Settings(host="c", bearer_token=SecretStr("an~opaque.token~12"))) as cluster:
        with pytest.raises(Rejected, match="withheld"):
            await cluster.fetch_page()


@pytest.mark.parametrize("said", ["access-v1: tokens are not supported", "no", "AAAA 100 %", "user%20jane \\x1b"])
async def test_an_error_that_repeats_nothing_of_the_credential_is_quoted(said: str) -> None:
    script = ScriptedCluster(httpx.Response(400, json={"error_class": "x_error", "description": said}))
    async with connected(script, Settings(host="c", bearer_token=SecretStr(BEARER))) as cluster:
        with pytest.raises(Rejected, match=r'x_error: "[^w]'):
            await cluster.fetch_page()


async def test_the_logs_of_the_http_libraries_do_not_tell_what_was_sent_and_received(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = f"HTTP/1.1 400 No\r\nX-Echo: {OWN_CREDENTIAL}\r\nContent-Length: 0\r\n\r\n".encode()
    async with tls_server(tmp_path, answer) as (settings, _), connected(None, settings) as cluster:
        with pytest.raises(BadAnswer):
            await cluster.fetch_page()

    assert OWN_CREDENTIAL not in caplog.text


@pytest.mark.parametrize(
    "tail", [b"\x17\x03\x03\x00\x20" + b"x" * 32, b"HTTP/1.1 502 Bad\r\n\r\n"], ids=["garbage", "plain"]
)
async def test_a_connection_that_turns_to_nonsense_is_no_clear_answer(tmp_path: Path, tail: bytes) -> None:
    """The error of the TLS library passes through all layers unchanged."""
    async with tls_server(tmp_path, plain_answer=tail) as (settings, _), connected(None, settings) as cluster:
        with pytest.raises(Unreachable, match=r"No whole answer from 127\.0\.0\.1") as failure:
            await cluster.create_token(JANE, None)

    assert not isinstance(failure.value, Unsent)


async def test_an_answer_without_an_end_is_given_up() -> None:
    read = 0

    async def pour() -> AsyncGenerator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * (1 << 20)

    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=pour(), request=request)

    async with connected(Endless()) as cluster:
        with pytest.raises(BadAnswer, match="larger than 16 MiB"):
            await cluster.create_token(JANE, None)

    assert read == 17


@pytest.mark.parametrize(
    ("cause", "failure", "expected"),
    [
        (ssl.SSLError("x"), Unsent, "does not speak TLS as expected (tls failed)"),
        (ssl.SSLCertVerificationError("x"), Untrusted, "is not trusted (it was not verified)"),
    ],
    ids=["tls", "certificate"],
)
async def test_a_failure_of_another_system_s_trust_store_is_explained_without_openssl_s_details(
    cause: ssl.SSLError, failure: type[ClusterError], expected: str
) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x") from cause

    async with connected(refuse) as client:
        with pytest.raises(failure) as raised:
            await client.delete_token("1")

    assert expected in str(raised.value)


async def test_the_reason_told_is_the_network_s_and_not_what_the_caller_was_busy_with() -> None:
    def fail_to_keep() -> None:
        raise DeliveryError("the disk") from OSError(1, "Operation not permitted")

    async with connected(ScriptedCluster(httpx.ReadError("cut"))) as cluster:
        try:
            fail_to_keep()
        except DeliveryError:
            with pytest.raises(Unreachable, match="the connection broke"):
                await cluster.delete_token("7")


async def test_an_answer_compressed_against_the_request_is_a_bad_answer() -> None:
    script = ScriptedCluster(
        httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"nonsense"))
    )
    async with connected(script) as cluster:
        with pytest.raises(BadAnswer, match="compressed"):
            await cluster.fetch_page()


@pytest.fixture
def credentials_file(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(encode_store(SecretStr("old")))
    return path


@pytest.fixture
def cluster_accepting_new_login() -> ScriptedCluster:
    class Strict(ScriptedCluster):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = super().__call__(request)
            return answer if request.headers["Authorization"] == "Bearer new" else httpx.Response(401)

    return Strict(empty_page_response())


async def test_a_renewed_login_is_used_at_once_by_what_reads(
    credentials_file: Path, cluster_accepting_new_login: ScriptedCluster
) -> None:
    async with connected(cluster_accepting_new_login, Settings(host="c", credentials_file=credentials_file)) as cluster:
        credentials_file.write_bytes(encode_store(SecretStr("new")))

        assert (await cluster.fetch_page()).entries == ()

    assert len(cluster_accepting_new_login.requests) == 2


async def test_a_look_up_reads_although_it_is_a_post(
    credentials_file: Path, cluster_accepting_new_login: ScriptedCluster
) -> None:
    cluster_accepting_new_login.answers[:] = [httpx.Response(200, json={"auth_id": "1001"})]
    async with connected(cluster_accepting_new_login, Settings(host="c", credentials_file=credentials_file)) as cluster:
        credentials_file.write_bytes(encode_store(SecretStr("new")))

        assert await cluster.resolve_identity(JANE) == JANE


async def test_a_renewed_login_serves_all_requests_that_were_on_their_way_with_the_old_one(
    credentials_file: Path,
) -> None:
    waiting: list[httpx.Request] = []
    go_on = anyio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.headers["Authorization"] == "Bearer new":
                return empty_page_response()
            waiting.append(request)
            if len(waiting) == 3:
                credentials_file.write_bytes(encode_store(SecretStr("new")))
                go_on.set()
            await go_on.wait()
            return httpx.Response(401)

    settings = Settings(host="c", credentials_file=credentials_file)
    async with connected(Slow(), settings) as cluster, anyio.create_task_group() as calls:
        for _ in range(3):
            calls.start_soon(cluster.fetch_page)

    assert len(waiting) == 3


async def test_a_renewed_login_is_used_from_the_next_request_on_by_what_writes(
    credentials_file: Path, cluster_accepting_new_login: ScriptedCluster
) -> None:
    async with connected(cluster_accepting_new_login, Settings(host="c", credentials_file=credentials_file)) as cluster:
        credentials_file.write_bytes(encode_store(SecretStr("new")))

        with pytest.raises(BadAnswer, match="status 401"):
            await cluster.create_token(JANE, None)
        await cluster.fetch_page()

    assert [request.method for request in cluster_accepting_new_login.requests] == ["POST", "GET"]


@pytest.mark.parametrize("content", [b"nonsense", None], ids=["broken", "gone"])
async def test_a_renewed_login_that_cannot_be_read_leaves_the_401_as_it_is(
    credentials_file: Path,
    cluster_accepting_new_login: ScriptedCluster,
    content: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected(cluster_accepting_new_login, Settings(host="c", credentials_file=credentials_file)) as cluster:
        if content is None:
            credentials_file.unlink()
        else:
            credentials_file.write_bytes(content)

        with pytest.raises(Unauthenticated):
            await cluster.fetch_page()

    assert len(cluster_accepting_new_login.requests) == 1
    assert "could not be read again" in caplog.text


class SlowCommand:
    """A program that prints an old credential, and after `slow_down` a new one once `released` exists."""

    def __init__(self, folder: Path) -> None:
        self.program, self.runs, self.released = folder / "program", folder / "runs", folder / "released"
        self._write("echo old")

    def slow_down(self) -> None:
        """Wait in the next run until `released` exists."""
        self._write(f"echo x >> {self.runs}; until [ -e {self.released} ]; do sleep 0.01; done; echo new")

    def _write(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o700)


@pytest.fixture
def slow_command(tmp_path: Path) -> SlowCommand:
    return SlowCommand(tmp_path)


async def test_a_slow_renewal_holds_nothing_up_and_is_shared_by_the_requests_that_wait_for_it(
    slow_command: SlowCommand, cluster_accepting_new_login: ScriptedCluster
) -> None:
    settings = Settings(host="c", credentials_command=(str(slow_command.program),))
    async with connected(cluster_accepting_new_login, settings) as cluster, anyio.create_task_group() as calls:
        slow_command.slow_down()
        for _ in range(3):
            calls.start_soon(cluster.fetch_page)
        await wait_until(lambda: len(cluster_accepting_new_login.requests) == 3 and slow_command.runs.exists())
        slow_command.released.touch()

    assert slow_command.runs.read_text() == "x\n"
    assert len(cluster_accepting_new_login.requests) == 6


async def test_a_renewal_that_takes_too_long_leaves_a_401_what_it_is_and_serves_later_requests(
    slow_command: SlowCommand, caplog: pytest.LogCaptureFixture
) -> None:
    def accept_new_login(request: httpx.Request) -> httpx.Response:
        is_new = request.headers["Authorization"] == "Bearer new"
        return empty_page_response() if is_new else httpx.Response(401, json={"error_class": "unauthenticated_error"})

    settings = Settings(host="c", credentials_command=(str(slow_command.program),), timeout=timedelta(milliseconds=300))
    async with connected(accept_new_login, settings) as cluster:
        slow_command.slow_down()
        for call in (cluster.fetch_page, partial(cluster.delete_token, "7")):
            with pytest.raises(Unauthenticated, match="has to renew QUMULO_CREDENTIALS_COMMAND's output"):
                await call()
        assert "The credential could not be read again in time: QUMULO_CREDENTIALS_COMMAND's output" in caplog.messages

        slow_command.released.touch()
        await wait_until_accepted(cluster)


async def wait_until_accepted(cluster: ClusterClient) -> None:
    """Ask until the cluster accepts the credential."""
    while True:
        with suppress(Unauthenticated):
            await cluster.fetch_page()
            return


async def test_a_401_names_where_the_credential_is_and_how_a_login_is_renewed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_bytes(encode_store(SecretStr("session-v1:b2xk")))
    async with connected(ScriptedCluster(httpx.Response(401)), Settings(host="c", credentials_file=store)) as cluster:
        with pytest.raises(Unauthenticated) as failure:
            await cluster.fetch_page()

    assert str(failure.value).endswith(f"has to renew QUMULO_CREDENTIALS_FILE ({store}), by a login of qq.")


async def test_the_credential_goes_neither_to_a_redirect_nor_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    answer = b"HTTP/1.1 302 Found\r\nLocation: https://localhost:9/\r\nContent-Length: 0\r\n\r\n"
    async with tls_server(tmp_path, answer) as (settings, received), connected(None, settings) as cluster:
        with pytest.raises(BadAnswer, match="redirect"):
            await cluster.fetch_page()

    [request] = received
    assert f"Authorization: Bearer {OWN_CREDENTIAL}".encode() in request


OK_RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"entries": []}'


@asynccontextmanager
async def tls_server(
    folder: Path,
    answer: bytes = OK_RESPONSE,
    *,
    name: str = "127.0.0.1",
    valid_from: timedelta | None = None,
    plain_answer: bytes = b"",
) -> AsyncGenerator[tuple[Settings, list[bytes]]]:
    """Run a TLS server; yield the settings that trust it and the list of what it receives.

    Its certificate is for `name`. With `valid_from`, a time relative to the present, it is valid for one day from
    then on. The server sends `plain_answer`, if given, without TLS instead of `answer`.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    start = None if valid_from is None else utc_now() + valid_from
    certificate = authority.issue_cert(name, not_before=start, not_after=start and start + timedelta(days=1))
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    context.load_cert_chain(folder / "server.pem")
    received: list[bytes] = []

    async def serve(stream: ByteStream) -> None:
        async with stream:
            try:
                received.append(await stream.receive())
            except anyio.EndOfStream:
                # This client only looked at the certificate.
                return
            if plain_answer:
                assert isinstance(stream, TLSStream)
                await stream.transport_stream.send(plain_answer)
                with anyio.move_on_after(1):
                    await stream.receive()
            else:
                await stream.send(answer)

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = plain.extra_attributes[SocketAttribute.local_port]()
    listener = TLSListener(plain, context, standard_compatible=False)
    settings = Settings(host="127.0.0.1", port=port, bearer_token=SecretStr(OWN_CREDENTIAL), ca_file=folder / "ca.pem")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve, None)
        yield settings, received
        tasks.cancel_scope.cancel()


async def test_a_ca_file_is_trusted(tmp_path: Path) -> None:
    async with tls_server(tmp_path) as (settings, _), connected(None, settings) as cluster:
        assert (await cluster.fetch_page()).entries == ()


async def test_verification_can_be_turned_off(tmp_path: Path) -> None:
    async with tls_server(tmp_path, name="elsewhere.example.com") as (settings, _):
        unverified = settings.model_copy(update={"ca_file": None, "verify_tls": False})
        async with connected(None, unverified) as cluster:
            assert (await cluster.fetch_page()).entries == ()


@pytest.mark.parametrize(
    ("name", "begins", "trusted", "expected"),
    [
        pytest.param(
            "127.0.0.1",
            None,
            "nothing",
            r"local issuer certificate\). .* names 127.0.0.1, .* the SHA-256 [0-9A-F:]{95}\. .*can trust it: "
            r"`qumulo-token-tools trust --host 127.0.0.1 --port \d+`",
            id="unknown-authority",
        ),
        pytest.param(
            "127.0.0.1", None, "other", "QUMULO_CA_FILE=.*other.pem does not hold the CA that issued it", id="other-ca"
        ),
        pytest.param(
            "elsewhere.example.com",
            None,
            "it",
            r"'127.0.0.1'\)\. .* operator has to set QUMULO_HOST to a name",
            id="other-name",
        ),
        pytest.param(
            "127.0.0.1",
            timedelta(days=-9),
            "it",
            "clock of this machine is wrong: the cluster.s administrator has to renew it",
            id="expired",
        ),
        pytest.param("127.0.0.1", timedelta(days=9), "it", "clock of this machine", id="not-yet"),
    ],
)
async def test_an_untrusted_certificate_is_explained_with_what_mends_that(
    tmp_path: Path, name: str, begins: timedelta | None, trusted: str, expected: str
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with tls_server(tmp_path, name=name, valid_from=begins) as (settings, received):
        ca_file = {"nothing": None, "other": tmp_path / "other.pem", "it": settings.ca_file}[trusted]
        async with connected(None, settings.model_copy(update={"ca_file": ca_file})) as cluster:
            with pytest.raises(Untrusted, match=expected) as failure:
                await cluster.fetch_page()

    assert ("QUMULO_CA_FILE" in str(failure.value)) == (trusted == "other")
    assert "Nothing was sent" in str(failure.value)
    # The advice names nobody: the operator or the cluster's administrator may have to act.
    assert failure.value.advice == "Trying again does not help before that is mended."
    assert received == []


async def test_certificates_that_cannot_be_read_again_leave_the_trust_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca_file = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(ca_file)
    async with (
        tls_server(tmp_path) as (settings, received),
        connected(None, settings.model_copy(update={"ca_file": ca_file})) as cluster,
    ):
        for content in (ca_file.read_text(), "nothing"):
            ca_file.write_text(content)
            with pytest.raises(Untrusted):
                await cluster.fetch_page()

    assert received == []
    assert "What is trusted could not be read again: QUMULO_CA_FILE names" in caplog.text


async def test_a_refused_connection_and_a_port_without_tls_are_unreachable() -> None:
    async def talk_plainly(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra_attributes[SocketAttribute.local_port]()
        settings = Settings(host="127.0.0.1", port=port, bearer_token=SecretStr(OWN_CREDENTIAL))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, talk_plainly)
            async with connected(None, settings) as cluster:
                with pytest.raises(Unsent, match=f"No connection to 127.0.0.1:{port}.*QUMULO_PORT") as failure:
                    await cluster.fetch_page()
            assert "_ssl" not in str(failure.value)
            tasks.cancel_scope.cancel()
    async with connected(None, settings) as cluster:
        with pytest.raises(
            Unsent, match=r"Connection refused. Are QUMULO_HOST and QUMULO_PORT right, and is the cluster up\?"
        ) as failure:
            await cluster.fetch_page()
        assert f"No connection to 127.0.0.1:{port}: Connection refused." in str(failure.value)
