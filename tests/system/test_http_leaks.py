"""Test that no secret leaves replicas over HTTP, with full logging: in no answer, header, log, row or file.

The one place that is left out is where the bearer token of a new token belongs.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.support.harness import JANE, Mode
from tests.support.http_replicas import DATABASE_PASSWORD, NAMES, STATE_KEY, Replicas, running_replicas
from tests.support.http_server import READER, WRITER, create_body, create_headers, parse_answer
from tests.support.issuer import SmallIssuer
from tests.support.json_rpc import Message, create_call
from tests.support.nginx import needs_nginx
from tests.support.secret_scan import find_secrets
from token_tools.http_settings import MCP_PATH
from token_tools.sandbox.faults import Endpoint, Fault
from token_tools.times import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_nginx]

USER = "local:jane"
LIST = "list_access_tokens"
PLANS: list[dict[Endpoint, Fault]] = [
    {},
    {"create": "cut-after"},
    {"create": "half"},
    {"create": "page-200-after"},
    {"create": "error-500"},
    {"delete": "page-502-after"},
]
CALLS: dict[str, dict[str, object]] = {
    "rotate_access_token": {},
    "update_access_token": {"enabled": False},
    "delete_access_token": {},
    "audit_access_tokens": {},
}
LEGACY_HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}


@dataclass
class Told:
    """What clients were told, and the bearer tokens that it was to have."""

    answers: bytes = b""
    headers: bytes = b""
    new: list[str] = field(default_factory=list[str])

    async def post(self, client: httpx2.AsyncClient, body: Message, headers: Mapping[str, str]) -> httpx2.Response:
        """Post a request, and note what comes back."""
        response = await client.post(MCP_PATH, json=body, headers=headers)
        self.answers += response.content
        self.headers += repr(response.headers.raw).encode()
        return response

    async def call(self, client: httpx2.AsyncClient, era: Mode, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool as a client of an era does, and return the fields of the result."""
        if era == "auto":
            response = await self.post(client, create_body(tool, arguments), create_headers(tool))
        else:
            response = await self.post(client, create_call(1, tool, **arguments), LEGACY_HEADERS)
        fields: dict[str, Any] = parse_answer(response)["result"].get("structuredContent", {})
        self.new += [fields["bearer_token"]] if "bearer_token" in fields else []
        return fields


@pytest.mark.parametrize("delivery", ["inline", "file"])
async def test_no_secret_leaves_replicas_but_to_its_destination(
    postgres_server: str, tmp_path: Path, delivery: str
) -> None:
    issuer, told, wrong = SmallIssuer(utc_now), Told(), secrets.token_urlsafe(32)
    with issuer.served(tmp_path) as ca_file:
        settings = {
            "QUMULO_DELIVERY": delivery,
            "QUMULO_CONFIRM": "none",
            "QUMULO_TIMEOUT": "1s",
            "QUMULO_HTTP_ISSUER": issuer.url,
            "QUMULO_HTTP_ISSUER_CA_FILE": str(ca_file),
            "QUMULO_HTTP_AUDIENCE": issuer.audience,
        }
        jwt = issuer.sign(scope="tokens:write")
        expired = issuer.sign(exp=0)
        async with running_replicas(postgres_server, settings, log_level=logging.DEBUG) as replicas:
            made = await work(replicas, told, callers=[("auto", WRITER), ("legacy", jwt)], strangers=[wrong, expired])
            leftovers = {
                "rows": dump_database(replicas),
                "logs": b"".join(replicas.read_log(name).encode() for name in NAMES),
                "files": read_files(replicas.cluster.state_folder),
            }
    assert b"DEBUG" in leftovers["logs"]
    assert b"unknown" in leftovers["rows"]
    assert len(told.new) > 3 if delivery == "inline" else not told.new
    for bearer_token in told.new:
        # The answer to a create has it once in its text and once in its fields.
        assert told.answers.count(bearer_token.encode()) == 2
        told.answers = told.answers.replace(bearer_token.encode(), b"")
    known = [*made, WRITER, READER, jwt, wrong, expired, STATE_KEY, DATABASE_PASSWORD]
    places = leftovers | {"answers": told.answers, "headers": told.headers}
    assert {place: find_secrets(content, known) for place, content in places.items()} == {place: [] for place in places}


async def work(
    replicas: Replicas, told: Told, *, callers: Sequence[tuple[Mode, str]], strangers: Sequence[str]
) -> set[str]:
    """Let callers of both eras do everything, while the cluster fails in each way; return the secrets it ever had."""
    cluster, had = replicas.cluster.cluster, set[str]()
    async with AsyncExitStack() as opened:
        clients = list[tuple[Mode, httpx2.AsyncClient]]()
        for era, key in callers:
            clients.append((era, await opened.enter_async_context(replicas.front.connected(key))))
        reader = await opened.enter_async_context(replicas.front.connected(READER))
        for plan in PLANS:
            replicas.cluster.faults.plan = plan
            for era, client in clients:
                created = await told.call(client, era, "create_access_token", user=USER)
                had |= {token.bearer_token for token in cluster.tokens.values()}
                for tool, arguments in CALLS.items():
                    named = {"id": created.get("id", "1")} if tool != "audit_access_tokens" else {}
                    await told.call(client, era, tool, **named, **arguments)
                    had |= {token.bearer_token for token in cluster.tokens.values()}
                for token in cluster.tokens.of_user(JANE.auth_id):
                    del cluster.tokens[token.id]
        await told.call(reader, "auto", "create_access_token", user=USER)
        for bearer in strangers:
            stranger = await opened.enter_async_context(replicas.front.connected(bearer))
            refused = await told.post(stranger, create_body(LIST, {}), create_headers(LIST))
            assert refused.status_code == 401
    return had


def dump_database(replicas: Replicas) -> bytes:
    """Return everything in every table."""
    url = replicas.cluster.state.state_url
    assert url is not None
    with psycopg.connect(url.get_secret_value()) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'token_tools'").fetchall()
        assert len(names) > 2
        tables = [connection.execute(b"TABLE token_tools." + name.encode()).fetchall() for (name,) in names]
    return repr(tables).encode()


def read_files(folder: Path) -> bytes:
    """Return the names of all files of a folder, and what is in them, but for the secrets that belong there."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return b"".join(str(file).encode() + (b"" if file.parent.name == "tokens" else file.read_bytes()) for file in files)
