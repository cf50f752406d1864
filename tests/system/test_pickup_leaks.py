"""Test that a bearer token that waits leaves a server once: in the answer to the one who asked, at its page.

It is in no other answer, header, redirect, cookie, log, span, row or file, and neither is what lets people sign in.
"""

import logging
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg
import pytest
from pydantic import SecretStr

from tests.support.collector import running_collector
from tests.support.harness import JANE
from tests.support.http_replicas import DATABASE_PASSWORD, NAMES, STATE_KEY, running_replicas
from tests.support.http_server import Place, create_body, create_headers, parse_answer, running_http_server
from tests.support.issuer import WEB_CLIENT_SECRET, SmallIssuer
from tests.support.json_rpc import COMMAND
from tests.support.nginx import needs_nginx
from tests.support.pickup_visitor import PROOF, Visitor, offer_pickup, read_handed_out, visiting
from tests.support.record import LONG_AGO, execute
from tests.support.secret_scan import MIN_MATCH_CHARACTERS, find_secrets
from tests.support.server_process import ServedCluster, served_cluster
from tests.support.waiting import wait_until
from token_tools.credentials import encode_store
from token_tools.http_settings import MCP_PATH
from token_tools.times import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DIALOGUE: Final = ("list_access_tokens", "audit_access_tokens", "list_token_changes")


@dataclass(frozen=True)
class Desk:
    """A running service with pages: the way to it, its cluster, and what it has written so far.

    `begin_again` starts a server, which looks at once for what was not picked up; those that run do that in a while.
    """

    place: Place
    cluster: ServedCluster
    read_log: Callable[[], str]
    begin_again: Callable[[], Awaitable[None]]


@asynccontextmanager
async def running_single(folder: Path, settings: Mapping[str, str]) -> AsyncGenerator[Desk]:
    """Start one server, with a file for its record."""
    (served := folder / "cluster").mkdir()
    with served_cluster(served) as cluster:
        start = partial(running_http_server, cluster, socket=None, QUMULO_HTTP_STATE_KEYS=STATE_KEY, **settings)

        async def begin_again() -> None:
            async with start():
                await wait_until(lambda: len(cluster.cluster.tokens.of_user(JANE.auth_id)) == 1)

        async with start() as server:
            yield Desk(server.place, cluster, server.read_log, begin_again)


@asynccontextmanager
async def running_both(postgres_server: str, settings: Mapping[str, str]) -> AsyncGenerator[Desk]:
    """Start two replicas behind nginx, which log all that they can."""
    async with running_replicas(postgres_server, settings, log_level=logging.DEBUG) as replicas:

        def read_log() -> str:
            return "".join(map(replicas.read_log, NAMES))

        async def begin_again() -> None:
            replicas.stop("b")
            await replicas.start("b")

        yield Desk(replicas.front, replicas.cluster, read_log, begin_again)


@dataclass
class Seen:
    """What each place has after bearer tokens were picked up, or were not. What was handed out is left out of it."""

    places: dict[str, bytes] = field(default_factory=dict[str, bytes])
    browser_secrets: set[str] = field(default_factory=set[str])

    def note(self, place: str, content: bytes) -> None:
        """Note what came to a place."""
        self.places[place] = self.places.get(place, b"") + content

    def note_browser(self, visitor: Visitor, *, without: httpx2.Response | None = None) -> None:
        """Note what a browser was answered, but for one answer, and what is secret of what it was given."""
        for response in visitor.responses:
            self.note("pages", response.content if response is not without else b"")
            self.note("headers", repr(response.headers.raw).encode())
            self.note("addresses", str(response.url).encode())
            self.browser_secrets |= {*PROOF.findall(response.text)}
        self.browser_secrets |= {value for value in visitor.cookies.values() if len(value) > MIN_MATCH_CHARACTERS}

    async def call(self, client: httpx2.AsyncClient, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool, note the answer, and return its fields."""
        response = await client.post(MCP_PATH, json=create_body(tool, arguments), headers=create_headers(tool))
        self.note("answers", response.content)
        self.note("headers", repr(response.headers.raw).encode())
        fields: dict[str, Any] = parse_answer(response)["result"]["structuredContent"]
        return fields

    def note_record(self, cluster: ServedCluster) -> None:
        """Note what the database and the files have now."""
        self.note("files", read_files(cluster.state_folder))
        if cluster.state_url is not None:
            self.note("rows", dump_database(cluster.state_url))

    def find_places(self, secrets: Collection[str]) -> set[str]:
        """Return the places that have a part of one of these."""
        return {place for place, content in self.places.items() if find_secrets(content, secrets)}


def dump_database(url: SecretStr) -> bytes:
    """Return everything in the tables that tell of bearer tokens that wait."""
    with psycopg.connect(url.get_secret_value()) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'token_tools'").fetchall()
        assert ("pickups",) in names
        tables = [connection.execute(b"TABLE token_tools." + name.encode()).fetchall() for (name,) in names]
    return repr(tables).encode() + b"".join(
        value for table in tables for row in table for value in row if isinstance(value, bytes)
    )


def read_files(folder: Path) -> bytes:
    """Return the names of all files of a folder, and what is in them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return b"".join(str(file).encode() + file.read_bytes() for file in files)


def print_journal(cluster: ServedCluster) -> bytes:
    """Return what the command prints of the record."""
    command = [COMMAND, "journal", "--format", "json"]
    printed = subprocess.run(command, capture_output=True, env=cluster.create_environment(), check=True, timeout=60)
    assert b"create" in printed.stdout
    return printed.stdout + printed.stderr


async def pick_up(desk: Desk, issuer: SmallIssuer, client: httpx2.AsyncClient, seen: Seen) -> None:
    """Let Jane pick a bearer token up, after somebody else tried, and note what is where meanwhile."""
    url = (await seen.call(client, "create_access_token", user="local:jane"))["bearer_token_in"]
    seen.note_record(desk.cluster)
    async with visiting(desk.place, issuer) as visitor, visiting(desk.place, issuer) as stranger:
        await visitor.open(url)
        await stranger.sign_in(url, "sam")
        page = await visitor.sign_in(url, "jane")
        handed_out = await visitor.take(page)
        seen.note_record(desk.cluster)
        assert (await visitor.take(page)).status_code == 409
        assert (await visitor.confirm(page)).is_success
        await visitor.open(url)
        seen.note_browser(visitor, without=handed_out)
        seen.note_browser(stranger)
    [token] = desk.cluster.cluster.tokens.of_user(JANE.auth_id)
    assert read_handed_out(handed_out) == token.bearer_token
    # Once by itself, and once in the file of qq.
    assert handed_out.text.count(token.bearer_token) == 2
    assert handed_out.json()["credentials_file"] == encode_store(SecretStr(token.bearer_token)).decode()


async def leave(desk: Desk, client: httpx2.AsyncClient, seen: Seen) -> str:
    """Let the successor of a token wait until its time is over; return its bearer token."""
    tokens = desk.cluster.cluster.tokens
    [old] = tokens.of_user(JANE.auth_id)
    rotated = await seen.call(client, "rotate_access_token", id=old.id)
    bearer_token = tokens[rotated["id"]].bearer_token
    seen.note_record(desk.cluster)
    execute(desk.cluster.state, "UPDATE pickups SET open_until = ? WHERE state = 'waiting'", LONG_AGO)
    await desk.begin_again()
    await wait_until(lambda: rotated["id"] not in tokens)
    for tool in DIALOGUE:
        await seen.call(client, tool)
    return bearer_token


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=needs_nginx)])
async def test_a_bearer_token_leaves_once_to_the_one_who_asked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str
) -> None:
    issuer, seen = SmallIssuer(utc_now), Seen()
    with issuer.served(tmp_path) as ca_file, running_collector() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        settings = offer_pickup(issuer, ca_file)
        jwt = issuer.sign(scope="tokens:write")
        running = (
            running_single(tmp_path, settings)
            if database == "sqlite"
            else running_both(request.getfixturevalue("postgres_server"), settings)
        )
        async with running as desk, desk.place.connected(jwt) as client:
            await pick_up(desk, issuer, client, seen)
            made = [token.bearer_token for token in desk.cluster.cluster.tokens.values()]
            made.append(await leave(desk, client, seen))
            seen.note_record(desk.cluster)
            seen.note("log", desk.read_log().encode())
            seen.note("journal", print_journal(desk.cluster))
    for path, sent in collector.received.items():
        seen.note(path, sent)
    exchanged = [exchange[name] for exchange in issuer.web_client.exchanges for name in ("code", "code_verifier")]
    signing_in = [*exchanged, *issuer.web_client.id_tokens, jwt, WEB_CLIENT_SECRET, STATE_KEY, DATABASE_PASSWORD]
    kept = "files" if database == "sqlite" else "rows"
    filled = {place for place, content in seen.places.items() if content}
    assert filled >= {"answers", "pages", "headers", "addresses", kept, "journal", "log", "/v1/traces", "/v1/metrics"}
    assert seen.find_places(made) == set()
    # The issuer sends browsers back with a code in the address.
    assert seen.find_places(signing_in) == {"addresses"}
    # A cookie of the sign-in and one of the session, and the proof of a page.
    assert len(seen.browser_secrets) >= 3
    assert seen.find_places(seen.browser_secrets) == {"pages", "headers"}
