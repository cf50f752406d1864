"""Test the log of requests over HTTP: a line of JSON each, which tells who called what, and keeps no text of theirs."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import Client
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

from tests.support.harness import NOW, Harness
from tests.support.json_rpc import INITIALIZE, REQUEST_META
from token_tools.configuration import Profile
from token_tools.http_settings import HttpSettings
from token_tools.operations.caller import Caller
from token_tools.redaction import remember_secret
from token_tools.server.app import Timing, Wire, create_server
from token_tools.server.http.access_log import METADATA_PATH, AccessLog, note_caller, note_message
from token_tools.server.http.app import create_app, create_tools_app
from token_tools.server.http.bounds import BOUNDS, TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.signed_in import Role, SignedIn

pytestmark = pytest.mark.anyio

URL = "http://localhost:8080"
SECRET = "access-v1:b3duIHNlY3JldCBvZiBhIHBlcnNvbg=="
MODERN = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28"}
LEGACY = {"Accept": "application/json, text/event-stream"}
CALLERS: dict[str, tuple[str, Role | None]] = {
    "anna": ("https://login.example.com#anna", "write"),
    "rita": ("key reporting", "read"),
    "nobody": ("https://login.example.com#nobody", None),
    "odd": ('https://login.example.com#"}\n{"caller": "anna" \N{RIGHT-TO-LEFT OVERRIDE}' + 500 * "x", "read"),
}


class SignInOfTests:
    """Lets those in who send their name."""

    async def verify_token(self, token: str, /) -> SignedIn | None:
        """Return who has this name."""
        if token not in CALLERS:
            return None
        caller, role = CALLERS[token]
        return SignedIn(client_id="", scopes=[], caller=Caller(caller, caller), role=role)


@asynccontextmanager
async def serving(harness: Harness, *, is_ending: bool = False) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the harness's cluster over HTTP, without a network, as a server does that ends or that does not."""
    settings = HttpSettings(http_anonymous=True)
    readiness = Readiness(lambda: is_ending)
    server = create_server(
        [Profile(harness.settings)],
        cluster_transport=harness.recorder,
        clock=lambda: NOW,
        timing=Timing(report_delay=harness.report_delay, own_token_patience=None),
        wire=Wire(readiness.begin, observers=[note_message]),
    )
    app = create_app(settings, TimeBounds(create_tools_app(server, settings, BOUNDS)), readiness, SignInOfTests())
    async with (
        server.session_manager.run(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client,
    ):
        yield client


def read_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged; each line has to be JSON."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def post_body(method: str, **params: object) -> dict[str, object]:
    """Return a message of the newer era."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": REQUEST_META}}


async def call(client: httpx.AsyncClient, tool: str, *, caller: str = "anna", **arguments: object) -> httpx.Response:
    """Call a tool."""
    headers = {**MODERN, "Authorization": f"Bearer {caller}", "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return await client.post("/mcp", json=post_body("tools/call", name=tool, arguments=arguments), headers=headers)


async def test_a_call_is_a_line_with_who_called_what_and_what_came_of_it(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(harness) as client:
        answer = await call(client, "list_access_tokens", user="local:jane")

    [line] = read_lines(capsys)
    assert len(line.pop("request")) == 16
    assert line.pop("ms") >= 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "method": "POST",
        "route": "/mcp",
        "status": 200,
        "bytes": len(answer.content),
        "caller": "https://login.example.com#anna",
        "role": "write",
        "mcp_method": "tools/call",
        "tool": "list_access_tokens",
        "outcome": "ok",
        "protocol": "2026-07-28",
    }


@pytest.mark.parametrize(
    ("tool", "given", "outcome"),
    [
        pytest.param("get_access_token", {"caller": "anna", "id": "404"}, "error", id="no such token"),
        pytest.param("delete_access_token", {"caller": "rita", "id": "1"}, "refused", id="not for those who only read"),
    ],
)
async def test_the_outcome_of_a_call_is_told(
    harness: Harness, capsys: pytest.CaptureFixture[str], tool: str, given: dict[str, Any], outcome: str
) -> None:
    async with serving(harness) as client:
        await call(client, tool, **given)

    [line] = read_lines(capsys)
    assert (line["tool"], line["outcome"], line["status"]) == (tool, outcome, 200)


@pytest.mark.parametrize(("caller", "status"), [("stranger", 401), ("nobody", 403)])
async def test_who_is_not_let_in_is_logged_as_far_as_they_are_known(
    harness: Harness, capsys: pytest.CaptureFixture[str], caller: str, status: int
) -> None:
    async with serving(harness) as client:
        await call(client, "list_access_tokens", caller=caller)

    [line] = read_lines(capsys)
    assert line["status"] == status
    assert line.get("caller") == (CALLERS[caller][0] if caller in CALLERS else None)
    assert "tool" not in line
    assert "stranger" not in json.dumps(line)


async def test_no_text_of_a_caller_is_in_a_line(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(harness) as client:
        await call(client, "Corp-Backup-7", **{SECRET: SECRET})
        await client.get(f"/Corp-Backup-7?token={SECRET}", headers={"X-Corp-Backup-7": "Corp-Backup-7"})
        await client.request("CORP-BACKUP-7", "/mcp")
        headers = {**MODERN, "Authorization": "Bearer anna", "Mcp-Method": "corp-backup-7/x"}
        await client.post("/mcp", json=post_body("corp-backup-7/x"), headers=headers)
        await client.post("/mcp", content=b"Corp-Backup-7", headers=headers)

    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert "corp-backup-7" not in written.casefold()
    assert SECRET[10:18] not in written
    assert [line["route"] for line in lines] == ["/mcp", "other", "/mcp", "/mcp", "/mcp"]
    assert [line["method"] for line in lines] == ["POST", "GET", "other", "POST", "POST"]
    assert [line.get("mcp_method") for line in lines] == ["tools/call", None, None, "other", None]
    assert lines[0]["tool"] == "other"


async def test_a_caller_with_an_odd_name_breaks_no_line(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(harness) as client:
        await call(client, "list_access_tokens", caller="odd")

    written = capsys.readouterr().err
    assert written.isascii()
    [line] = [json.loads(line) for line in written.splitlines()]
    assert line["caller"] == CALLERS["odd"][0][:300]


async def test_a_caller_who_repeats_a_secret_is_withheld(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    remember_secret(SecretStr("gH7kq-2mZx0Lw"))
    CALLERS["leak"] = ("https://login.example.com#gH7kq-2mZx0Lw", "read")
    async with serving(harness) as client:
        await call(client, "list_access_tokens", caller="leak")

    [line] = read_lines(capsys)
    assert line["caller"] == "[withheld: it repeats something of a secret]"


async def test_the_way_to_the_issuer_is_one_route_whatever_stands_below_it(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(harness) as client:
        await client.get(f"{METADATA_PATH}/corp-backup-7")

    [line] = read_lines(capsys)
    assert line["route"] == METADATA_PATH


async def test_what_is_not_logged_is_served_all_the_same(harness: Harness) -> None:
    server = create_server(
        [Profile(harness.settings)], cluster_transport=harness.recorder, wire=Wire(observers=[note_message])
    )
    note_caller({"type": "http"}, None)

    async with Client(server, mode=harness.mode) as client:
        assert (await client.list_tools()).tools


async def test_the_older_era_is_told_as_well(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(harness) as client:
        await client.post("/mcp", json=INITIALIZE, headers={**LEGACY, "Authorization": "Bearer anna"})

    [line] = read_lines(capsys)
    assert (line["mcp_method"], line["outcome"], line["caller"]) == ("initialize", "ok", CALLERS["anna"][0])


async def test_probes_are_logged_only_if_they_are_told_that_something_is_wrong(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(harness) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
    async with serving(harness, is_ending=True) as client:
        assert (await client.get("/readyz")).status_code == 503

    [line] = read_lines(capsys)
    assert (line["route"], line["status"]) == ("/readyz", 503)


async def run_app(app: AccessLog, messages: Sequence[Message], scope: Scope) -> list[Message]:
    """Let an application have a request whose messages are these, and return what it sends."""
    waiting, sent = [*messages], list[Message]()

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with anyio.fail_after(5):
        await app(scope, receive, send)
    return sent


HTTP_SCOPE: Scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": []}
DISCONNECT: Message = {"type": "http.disconnect"}


async def test_a_client_that_goes_away_before_the_answer_is_whole_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await receive()

    await run_app(AccessLog(stream), [DISCONNECT], HTTP_SCOPE)

    [line] = read_lines(capsys)
    assert (line["disconnected"], line["status"], line["bytes"]) == (True, 200, 5)


async def test_a_client_that_goes_away_after_its_answer_is_nothing_special(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        await receive()

    await run_app(AccessLog(answer), [{"type": "http.request"}, DISCONNECT], HTTP_SCOPE)

    [line] = read_lines(capsys)
    assert "disconnected" not in line


async def test_a_crash_is_logged_as_the_status_that_the_client_gets(capsys: pytest.CaptureFixture[str]) -> None:
    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError(SECRET)

    with pytest.raises(RuntimeError):
        await run_app(AccessLog(crash), [], HTTP_SCOPE)

    [line] = read_lines(capsys)
    assert line["status"] == 500


async def test_a_stream_is_logged_at_its_end_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert capsys.readouterr().err == ""
        with anyio.move_on_after(timedelta(seconds=0.02).total_seconds()):
            await anyio.sleep_forever()

    await run_app(AccessLog(stream), [], HTTP_SCOPE)

    [line] = read_lines(capsys)
    assert line["ms"] >= 20


async def test_what_is_no_request_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def start(scope: Scope, receive: Receive, send: Send) -> None:
        await send(await receive())

    sent = await run_app(AccessLog(start), [{"type": "lifespan.startup"}], {"type": "lifespan"})

    assert sent == [{"type": "lifespan.startup"}]
    assert capsys.readouterr().err == ""
