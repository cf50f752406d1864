"""Test what clients over HTTP do to a server: they go away, repeat themselves, do not read, and come in crowds."""

import json
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp.client import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.harness import ADMIN, JANE, LDAP_BOB, Mode
from tests.support.http_server import (
    WRITER,
    HttpServer,
    connect,
    create_body,
    create_headers,
    parse_answer,
    running_http_server,
)
from tests.support.json_rpc import INITIALIZE
from tests.support.server_process import CREATE_REQUEST, ServedCluster, served_cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SESSIONS = 100
LONG_ANSWER_TOKENS = 200
"""So many tokens make an answer of the greatest length."""

LIST = "list_access_tokens"
CREATE = "create_access_token"


@pytest.fixture
def cluster(tmp_path: Path) -> Generator[ServedCluster]:
    with served_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def server(cluster: ServedCluster) -> AsyncGenerator[HttpServer]:
    """Start a server that ends in an orderly way, whatever its clients did, and soon."""
    async with running_http_server(cluster, QUMULO_TIMEOUT="3s") as server:
        yield server


async def test_a_client_that_leaves_in_the_middle_of_a_create_leaves_a_known_end(
    cluster: ServedCluster, server: HttpServer, mode: Mode
) -> None:
    cluster.before_serving = cluster.hold_creates

    async def create() -> None:
        async with connect(server.place, mode) as client:
            await client.client.call_tool(CREATE, {"user": "local:jane"})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        await anyio.to_thread.run_sync(cluster.wait_for, CREATE_REQUEST)
        tasks.cancel_scope.cancel()
    cluster.creates_released.set()

    await wait_until(lambda: cluster.read_outcomes() == ["created"])
    [token] = cluster.cluster.tokens.of_user(JANE.auth_id)
    assert cluster.read_delivered() == {token.id: token.bearer_token}
    async with connect(server.place, mode) as client:
        assert not (await client.client.call_tool(LIST, {})).is_error


async def test_a_client_that_leaves_with_a_question_open_changes_nothing(cluster: ServedCluster) -> None:
    """Only a client of the older era has a call open meanwhile."""
    is_asked = anyio.Event()

    async def wait(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        is_asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def create(server: HttpServer) -> None:
        async with connect(server.place, "legacy", person=wait) as client:
            await client.client.call_tool(CREATE, {"user": "local:jane"})

    async with running_http_server(cluster, QUMULO_CONFIRM="all", QUMULO_TIMEOUT="3s") as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, server)
            await is_asked.wait()
            tasks.cancel_scope.cancel()
        async with connect(server.place, "legacy") as client:
            assert not (await client.client.call_tool(LIST, {})).is_error

    assert not [*cluster.cluster.tokens.of_user(JANE.auth_id)]
    assert cluster.read_outcomes() == ["asked"]


async def test_calls_with_one_id_get_each_its_own_answer(cluster: ServedCluster, server: HttpServer) -> None:
    users = {"local:jane": JANE, "ldap_user:bob": LDAP_BOB}
    tokens = {
        user: cluster.cluster.add_token(account.auth_id, creator=ADMIN.auth_id) for user, account in users.items()
    }
    answers = dict[str, dict[str, Any]]()

    async def ask(user: str) -> None:
        body = create_body(LIST, {"user": user}, number=7)
        async with server.place.connected() as client:
            answers[user] = parse_answer(await client.post("/mcp", json=body, headers=create_headers(LIST)))

    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(ask, user)

    assert {answer["id"] for answer in answers.values()} == {7}
    listed = {user: answer["result"]["structuredContent"]["tokens"] for user, answer in answers.items()}
    assert {user: [entry["id"] for entry in entries] for user, entries in listed.items()} == {
        user: [token.id] for user, token in tokens.items()
    }


async def test_clients_that_do_not_read_their_answers_stop_nobody(cluster: ServedCluster, server: HttpServer) -> None:
    for _ in range(LONG_ANSWER_TOKENS):
        cluster.cluster.add_token(LDAP_BOB.auth_id, creator=ADMIN.auth_id)
    request = create_raw_request(create_body(LIST, {}))
    host, port = server.place.url.removeprefix("http://").split(":")
    with ExitStack() as opened:
        for _ in range(20):
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.connect((host, int(port)))
            connection.sendall(request)
        async with connect(server.place, "auto") as client:
            assert not (await client.client.call_tool(LIST, {})).is_error
        server.stop()


def create_raw_request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    headers = create_headers(LIST) | {
        "Host": "localhost",
        "Authorization": f"Bearer {WRITER}",
        "Content-Length": str(len(content)),
    }
    lines = ["POST /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


async def test_sessions_that_nobody_ends_stop_nobody(server: HttpServer) -> None:
    headers = {"Accept": "application/json, text/event-stream"}
    async with server.place.connected() as client:
        opened = [await client.post("/mcp", json=INITIALIZE, headers=headers) for _ in range(SESSIONS)]

    assert len({response.headers["Mcp-Session-Id"] for response in opened}) == SESSIONS
    async with connect(server.place, "legacy") as client:
        assert not (await client.client.call_tool(LIST, {})).is_error
    server.stop()
