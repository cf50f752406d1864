"""Test the command that serves over HTTP as a process: how it starts, and how it ends."""

import os
import signal
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.harness import JANE
from tests.support.http_in_process import JSON_HEADERS, NO_TLS, create_tool_call
from tests.support.http_process import TIMEOUT_SECONDS, HttpProcess, running_http
from tests.support.json_rpc import COMMAND, INITIALIZE
from tests.support.server_process import CREATE_REQUEST, ServedCluster, served_cluster
from token_tools.shutdown import CLEANUP_TIMEOUT

SLACK_SECONDS = 3
DEMO = ("--demo", "--http-anonymous", "--delivery=inline")
NO_PLACE = (
    "No token can be created: QUMULO_HTTP_CLIENT_ID lets people pick up new bearer tokens at a page of this server, "
    "and QUMULO_DELIVERY names other places."
)
PICKED_UP = (
    "People sign in to pick up new bearer tokens below http://127.0.0.1:PORT/pickup. At the issuer, that needs the "
    "redirect URI http://127.0.0.1:PORT/pickup/callback"
)
CREATE = create_tool_call("create_access_token", user="local:jane")
CALL_HEADERS = JSON_HEADERS | {
    "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "create_access_token",
}  # fmt: skip


@contextmanager
def serving_cluster(cluster: ServedCluster, **settings: str) -> Generator[HttpProcess]:
    environment = cluster.create_environment(QUMULO_HTTP_ANONYMOUS="true", QUMULO_DELIVERY="file", **settings)
    with running_http(cluster.folder, environment=environment) as server:
        yield server


def open_client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT_SECONDS, verify=NO_TLS)


def create_token(server: HttpProcess) -> httpx.Response:
    with open_client() as client:
        return client.post(server.url, json=CREATE, headers=CALL_HEADERS)


def is_refused(server: HttpProcess) -> bool:
    """Tell whether a new call is refused; for some moments after the signal, connections still are not."""
    try:
        return create_token(server).status_code == 503
    except httpx.ConnectError:
        return True


@pytest.mark.parametrize(
    "signums",
    [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGTERM]],
    ids=lambda signums: "-".join(signum.name for signum in signums),
)
def test_a_signal_lets_what_is_at_work_finish_and_those_go_who_only_wait(
    signums: list[signal.Signals], tmp_path: Path
) -> None:
    with (
        served_cluster(tmp_path) as cluster,
        serving_cluster(cluster) as server,
        open_client() as client,
        ThreadPoolExecutor() as threads,
    ):
        cluster.before_serving = cluster.hold_creates
        session = client.post(server.url, json=INITIALIZE, headers=JSON_HEADERS).headers["Mcp-Session-Id"]
        waiting = {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25", "Accept": "text/event-stream"}
        with client.stream("GET", server.url, headers=waiting) as stream:
            call = threads.submit(create_token, server)
            cluster.wait_for(CREATE_REQUEST)
            for signum in signums:
                server.process.send_signal(signum)
            stream.read()
        assert is_refused(server)
        assert not call.done()
        cluster.creates_released.set()

        assert server.wait_for_exit() == (0, [])
        [token] = cluster.cluster.tokens.of_user(JANE.auth_id)
        assert token.id in call.result().text
        assert cluster.read_delivered() == {token.id: token.bearer_token}
        assert cluster.read_outcomes() == ["created"]


def test_a_cluster_that_hangs_does_not_hold_up_the_end_longer_than_is_told(tmp_path: Path) -> None:
    with (
        served_cluster(tmp_path, {"create": "hang-after"}) as cluster,
        serving_cluster(cluster, QUMULO_TIMEOUT="1s") as server,
        ThreadPoolExecutor() as threads,
    ):
        call = threads.submit(create_token, server)
        cluster.wait_for(CREATE_REQUEST)
        asked_at = time.monotonic()

        assert server.end() == (0, [])
        assert time.monotonic() - asked_at < 1 + CLEANUP_TIMEOUT.total_seconds() + SLACK_SECONDS
        call.exception()
        [outcome] = cluster.read_outcomes()
        assert outcome in {"unknown", "rolled back", "undeletable"}


def test_a_unix_socket_is_gone_after_the_end_and_replaced_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running_http(tmp_path, *DEMO, listen=f"unix:{path}") as killed:
        killed.process.kill()
        killed.process.wait(TIMEOUT_SECONDS)
    assert path.is_socket()
    with running_http(tmp_path, *DEMO, listen=f"unix:{path}") as server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/readyz").status_code == 200
        assert server.end() == (0, [])
    assert not path.exists()


def test_the_port_that_was_given_is_told_and_one_that_is_taken_is_refused_in_a_line(tmp_path: Path) -> None:
    with running_http(tmp_path, *DEMO) as server:
        assert server.port > 0
        second = subprocess.run(
            [COMMAND, "http", *DEMO, f"--http-listen=127.0.0.1:{server.port}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"qumulo-token-tools: QUMULO_HTTP_LISTEN: cannot listen on 127.0.0.1:{server.port}: Address already in use.\n"
    )


def test_a_client_s_secret_that_cannot_be_read_is_told_before_anybody_has_to_sign_in(tmp_path: Path) -> None:
    options = ["--http-issuer=https://issuer.example.com", "--http-client-id=token-tools"]
    secret = tmp_path / "client-secret"
    ended = subprocess.run(
        [COMMAND, "http", "--demo", *options, f"--http-client-secret-file={secret}"],
        env=os.environ | {"QUMULO_HTTP_STATE_KEYS": "A" * 44},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr == (
        f"qumulo-token-tools: QUMULO_HTTP_CLIENT_SECRET_FILE names {secret}, which does not exist; "
        "run `qumulo-token-tools doctor`\n"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--http-anonymous"], [NO_PLACE]),
        (["--http-anonymous", "--read-only"], []),
        (["--http-anonymous", "--delivery=file"], []),
        (["--http-issuer=https://issuer.example.com", "--http-client-id=token-tools"], [PICKED_UP]),
    ],
    ids=["nowhere", "reading", "file", "pickup"],
)
def test_a_start_tells_how_people_get_new_bearer_tokens_or_that_there_is_no_way(
    options: list[str], told: list[str], tmp_path: Path
) -> None:
    keys = {"QUMULO_HTTP_STATE_KEYS": "A" * 44}
    with running_http(tmp_path, "--demo", *options, environment=os.environ | keys) as server:
        assert [line.replace(str(server.port), "PORT") for line in server.told] == told
        assert server.end() == (0, [])
