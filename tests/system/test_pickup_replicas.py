"""Test servers that are killed while bearer tokens wait: another one hands them out, or deletes their tokens."""

import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp.client import ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitRequestURLParams, ElicitResult, InputRequiredResult

from tests.support.harness import JANE, TOKENS_PATH, ToolAnswer
from tests.support.http_replicas import STATE_KEY, Replicas, running_replicas
from tests.support.http_server import HttpClient, Place, connect, create_body, create_headers, running_http_server
from tests.support.issuer import SmallIssuer
from tests.support.nginx import needs_nginx
from tests.support.pickup_visitor import SITE, offer_pickup, read_handed_out, visiting
from tests.support.record import LONG_AGO, end_leases, execute, read_record
from tests.support.replica_process import Kill
from tests.support.server_process import CREATE_REQUEST, TIMEOUT_SECONDS, ServedCluster, served_cluster
from tests.support.waiting import wait_until
from token_tools.http_settings import MCP_PATH
from token_tools.sandbox.cluster import Token
from token_tools.times import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CREATE: Final = "create_access_token"
FOR_JANE: Final[dict[str, Any]] = {"user": "local:jane"}


@pytest.fixture
def issuer(tmp_path: Path) -> Generator[SmallIssuer]:
    """Serve an identity provider, whose authority is in `issuer-ca.pem`."""
    issuer = SmallIssuer(utc_now)
    with issuer.served(tmp_path):
        yield issuer


@dataclass
class Opening:
    """A person whose client opens every page that it is offered."""

    opened: list[str]

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """Open the page."""
        assert isinstance(params, ElicitRequestURLParams)
        self.opened.append(params.url)
        return ElicitResult(action="accept")


@asynccontextmanager
async def running_desks(postgres_server: str, issuer: SmallIssuer, folder: Path) -> AsyncGenerator[Replicas]:
    """Start two replicas at whose pages people pick bearer tokens up."""
    async with running_replicas(postgres_server, offer_pickup(issuer, folder / "issuer-ca.pem")) as replicas:
        yield replicas


@asynccontextmanager
async def calling(place: Place, issuer: SmallIssuer, person: Opening | None = None) -> AsyncGenerator[HttpClient]:
    """Connect a client of Jane, who may do everything; it opens pages if there is a person."""
    async with connect(place, "auto", key=issuer.sign(scope="tokens:write"), person=person) as client:
        await client.client.session.list_tools()
        yield client


async def create(client: HttpClient) -> str:
    """Create a token, and return the address of its page."""
    answer = ToolAnswer.from_result(await client.client.call_tool(CREATE, FOR_JANE))
    return read_url(answer)


def read_url(answer: ToolAnswer) -> str:
    assert not answer.is_error, answer.text
    url = str(answer.fields["bearer_token_in"])
    assert url.startswith(f"{SITE}/pickup/")
    return url


def find_tokens(cluster: ServedCluster) -> list[Token]:
    """Return the tokens of the user for whom some are made."""
    return cluster.cluster.tokens.of_user(JANE.auth_id)


def make_overdue(cluster: ServedCluster) -> None:
    """Let the time of all that waits be over long since."""
    execute(cluster.state, "UPDATE pickups SET open_until = ?", LONG_AGO)


def count_deletes(cluster: ServedCluster) -> int:
    """Return how many deletes came since the last look."""
    requests = [cluster.requests.get() for _ in range(cluster.requests.qsize())]
    return sum(request.startswith("DELETE ") for request in requests)


def read_deletions(cluster: ServedCluster) -> list[dict[str, Any]]:
    """Return the entries of the record about deleted tokens."""
    return [entry for entry in read_record(cluster.state) if entry["operation"] == "delete"]


def read_changes(cluster: ServedCluster) -> list[tuple[str, str, str]]:
    """Return each operation in the record, with who did it and its outcome."""
    return [(entry["operation"], entry["actor"], entry["outcome"]) for entry in read_record(cluster.state)]


async def list_tokens(client: HttpClient) -> str:
    """Return what is told about the user."""
    return ToolAnswer.from_result(await client.client.call_tool("list_access_tokens", FOR_JANE)).text


@contextmanager
def holding(cluster: ServedCluster, is_held: Callable[[str], bool]) -> Generator[threading.Event]:
    """Hold such requests until the end of the block; the event says that there is one."""
    reached, released = threading.Event(), threading.Event()

    async def hold(request: str) -> None:
        if is_held(request):
            reached.set()
            await anyio.to_thread.run_sync(released.wait, TIMEOUT_SECONDS)

    before, cluster.before_serving = cluster.before_serving, hold
    try:
        yield reached
    finally:
        released.set()
        cluster.before_serving = before


async def create_in_vain(replicas: Replicas, issuer: SmallIssuer) -> None:
    """Create a token at a replica that is killed meanwhile."""
    async with replicas.place("a").connected(issuer.sign(scope="tokens:write")) as client:
        with pytest.raises(httpx2.TransportError):
            await client.post(MCP_PATH, json=create_body(CREATE, FOR_JANE), headers=create_headers(CREATE))


async def kill_before_outcome(replicas: Replicas, issuer: SmallIssuer) -> Token:
    """Let a replica create a token and put its bearer token in the database, and kill it before it records that."""
    earlier = [token.id for token in find_tokens(replicas.cluster)]

    def reads_new_token(request: str) -> bool:
        new = [token.id for token in find_tokens(replicas.cluster) if token.id not in earlier]
        return request in {f"GET {TOKENS_PATH}{token_id}" for token_id in new}

    with holding(replicas.cluster, reads_new_token) as reached:
        async with anyio.create_task_group() as calls:
            calls.start_soon(create_in_vain, replicas, issuer)
            assert await anyio.to_thread.run_sync(reached.wait, TIMEOUT_SECONDS)
            replicas.kill("a")
    [new] = [token for token in find_tokens(replicas.cluster) if token.id not in earlier]
    return new


@needs_nginx
async def test_what_waits_at_a_replica_that_is_killed_is_picked_up_at_the_other(
    postgres_server: str, issuer: SmallIssuer, tmp_path: Path
) -> None:
    person = Opening([])
    async with running_desks(postgres_server, issuer, tmp_path) as replicas:
        async with calling(replicas.place("a"), issuer, person) as client:
            offered = await client.client.session.call_tool(CREATE, FOR_JANE, allow_input_required=True)
        assert isinstance(offered, InputRequiredResult)
        replicas.kill("a")

        async with calling(replicas.place("b"), issuer, person) as client:
            put_off = await client.client.session.call_tool(
                CREATE,
                FOR_JANE,
                input_responses={"page": ElicitResult(action="accept")},
                request_state=offered.request_state,
                allow_input_required=True,
            )
        assert isinstance(put_off, CallToolResult)
        url = read_url(ToolAnswer.from_result(put_off))
        await replicas.start("a")
        # Each request goes to the other replica than the one before.
        async with visiting(replicas.front, issuer) as visitor:
            page = await visitor.sign_in(url, "jane")
            handed_out = read_handed_out(await visitor.take(page))
            again = [(await visitor.take(page)).status_code for _ in range(2)]
            confirmed = await visitor.confirm(page)
            after = [await visitor.open(url) for _ in range(2)]

    [token] = find_tokens(replicas.cluster)
    assert handed_out == token.bearer_token
    assert again == [409, 409]
    assert confirmed.status_code == 200
    assert {response.headers["X-Replica"] for response in visitor.responses} == {
        f"unix:{replicas.socket(name)}" for name in ("a", "b")
    }
    assert all(
        "picked" in response.text and "data-proof" not in response.text.partition("<main")[0] for response in after
    )
    assert sorted((operation, outcome) for operation, _, outcome in read_changes(replicas.cluster)) == [
        ("create", "created"),
        ("pickup", "picked up"),
    ]


@needs_nginx
async def test_the_replica_that_is_left_deletes_once_what_nobody_has(
    postgres_server: str, issuer: SmallIssuer, tmp_path: Path
) -> None:
    async with running_desks(postgres_server, issuer, tmp_path) as replicas:
        cluster = replicas.cluster
        async with calling(replicas.place("b"), issuer) as client, visiting(replicas.place("b"), issuer) as visitor:
            page = await visitor.sign_in(await create(client), "jane")
            read_handed_out(await visitor.take(page))
            [handed_out] = find_tokens(cluster)
            # It is in its row by now, and the outcome is not recorded yet.
            waiting = await kill_before_outcome(replicas, issuer)
            assert count_deletes(cluster) == 0

            make_overdue(cluster)
            end_leases(cluster.state)
            await replicas.start("a")
            await wait_until(lambda: [entry["outcome"] for entry in read_deletions(cluster)] == ["done", "done"])
            told = [await list_tokens(client) for _ in range(2)]
            late = await visitor.confirm(page)

    assert count_deletes(cluster) == 2
    for token in (handed_out, waiting):
        assert f"the bearer token of token {token.id} for local:jane" in told[0]
    assert "picked up" not in told[1]
    assert late.status_code == 409
    assert find_tokens(cluster) == []
    assert {(entry["token_id"], entry["actor"], entry["outcome"]) for entry in read_deletions(cluster)} == {
        (token.id, "this server", "done") for token in (handed_out, waiting)
    }


@needs_nginx
async def test_a_token_whose_bearer_token_died_with_a_replica_is_told_by_the_other(
    postgres_server: str, issuer: SmallIssuer, tmp_path: Path
) -> None:
    async with running_desks(postgres_server, issuer, tmp_path) as replicas:
        cluster, armed = replicas.cluster, replicas.folder / "armed"

        async def arm(request: str) -> None:
            if request == CREATE_REQUEST:
                armed.touch()

        replicas.stop("a")
        # The next thing that it writes once the cluster has made the token is the row of the bearer token.
        await replicas.start("a", kill=Kill(1, armed))
        cluster.before_serving = arm
        await create_in_vain(replicas, issuer)
        assert replicas.has_ended("a")
        armed.unlink()
        end_leases(cluster.state)
        async with calling(replicas.place("b"), issuer) as client:
            told = await list_tokens(client)
        await replicas.start("a")

    [lost] = find_tokens(cluster)
    assert "Unfinished: the create for local:jane" in told
    assert lost.id in told


async def test_a_server_that_was_away_deletes_at_its_start_what_nobody_picked_up(
    issuer: SmallIssuer, tmp_path: Path
) -> None:
    person = Opening([])
    settings = offer_pickup(issuer, tmp_path / "issuer-ca.pem")
    # What is served of one folder has one certificate.
    (folder := tmp_path / "cluster").mkdir()
    with served_cluster(folder) as cluster:
        async with running_http_server(cluster, socket=None, QUMULO_HTTP_STATE_KEYS=STATE_KEY, **settings) as server:
            key = issuer.sign(scope="tokens:write")
            async with connect(server.place, "legacy", key=key, person=person) as client:
                url = await create(client)
            server.kill()
        make_overdue(cluster)
        count_deletes(cluster)

        async with running_http_server(cluster, socket=None, QUMULO_HTTP_STATE_KEYS=STATE_KEY, **settings) as server:
            await wait_until(lambda: [entry["outcome"] for entry in read_deletions(cluster)] == ["done"])
            async with visiting(server.place, issuer) as visitor:
                page = await visitor.sign_in(url, "jane")
            async with calling(server.place, issuer) as client:
                told = [await list_tokens(client) for _ in range(2)]

    assert person.opened == [url]
    assert count_deletes(cluster) == 1
    assert "deleted" in page.text
    assert "Not picked up in time: " in told[0]
    assert "picked up" not in told[1]
    assert ("delete", "this server", "done") in read_changes(cluster)
