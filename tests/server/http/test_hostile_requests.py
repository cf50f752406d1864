"""Test that no bytes from a stranger get a fault of this server, a traceback, a secret or an endless log."""

import gzip
import json

import anyio
import pytest

from tests.support.harness import Harness
from tests.support.http_in_process import (
    ASKS_NOBODY,
    ASKS_WHO,
    JSON_HEADERS,
    HttpServer,
    create_request,
    create_tool_call,
    read_all,
    serving,
)
from token_tools.sandbox.https import LOOPBACK

pytestmark = pytest.mark.anyio

SECRET = "access-v1:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg=="
LIST = create_request("tools/list")
HEADERS = JSON_HEADERS | {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
BODY = json.dumps(LIST).encode()
MAX_LOG_LINES = 5
POST = "POST /mcp HTTP/1.1"


def write_head(start: str, *lines: str, host: str = "Host: localhost") -> bytes:
    """Return the head of a request, which is the last one of its connection."""
    named = [f"{name}: {value}" for name, value in HEADERS.items()]
    return "\r\n".join([start, host, "Connection: close", *named, *lines, "", ""]).encode("latin-1")


def read_statuses(answer: bytes) -> list[int]:
    """Return the statuses of the answers on a connection."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def assert_harmless(caplog: pytest.LogCaptureFixture) -> None:
    logged = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert [record.getMessage() for record in logged if record.exc_info] == []
    assert len(logged) <= MAX_LOG_LINES, [record.getMessage() for record in logged]
    assert "QUJDREVG" not in caplog.text


SMUGGLED = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(
            write_head(POST, "Content-Length: 4", "Transfer-Encoding: chunked")
            + b"0\r\n\r\n" + SMUGGLED.encode(), [400], id="length-and-chunks",
        ),
        pytest.param(
            write_head(POST, "Transfer-Encoding: chunked", "Content-Length: 4")
            + b"0\r\n\r\n" + SMUGGLED.encode(), [400], id="chunks-and-length",
        ),
        pytest.param(write_head(POST, "Content-Length: 4", "Content-Length: 5") + b"{}  ", [400], id="two-lengths"),
        pytest.param(write_head(POST, "Content-Length: +2") + b"{}", [400], id="signed-length"),
        pytest.param(write_head(POST, "Content-Length: -1"), [400], id="negative-length"),
        pytest.param(write_head(POST, "Content-Length: 0x2") + b"{}", [400], id="hexadecimal-length"),
        pytest.param(write_head(POST, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", [400], id="coding"),
        pytest.param(write_head(POST, "Transfer-Encoding: xchunked") + b"0\r\n\r\n", [400], id="other-coding"),
        pytest.param(write_head(POST, "Transfer-Encoding : chunked") + b"0\r\n\r\n", [400], id="space-before-colon"),
        pytest.param(write_head(POST, "Transfer-Encoding: chunked") + b"zz\r\n", [400], id="no-chunk-size"),
        pytest.param(write_head("GET /livez HTTP/1.1", "X: a", "Y: b\0c"), [400], id="nul"),
        pytest.param(write_head("GET /livez HTTP/1.1", "X: a\rGET / HTTP/1.1"), [400], id="bare-cr"),
        pytest.param(write_head("GET /livez HTTP/1.1", "X" * 900_000 + ": a"), [400], id="long-name"),
        pytest.param(write_head("GET /livez HTTP/1.1", *["X: a"] * 150_000), [400], id="many-headers"),
        pytest.param(write_head(f"GET /{'a' * 900_000} HTTP/1.1"), [400], id="long-target"),
        pytest.param(write_head("GET /livez HTTP/1.1", "no colon"), [400], id="no-colon"),
        pytest.param(write_head("GET /livez HTTP/1.1", host="Host: a\r\nHost: b"), [400], id="two-hosts"),
        pytest.param(write_head("GET /livez HTTP/1.1", host="X: y"), [400], id="no-host"),
        pytest.param(write_head("GET /livez HTTP/2.0"), [200], id="unknown-version"),
        pytest.param(write_head("GET /livez"), [400], id="no-version"),
        pytest.param(b"GET /livez\r\n\r\n", [400], id="http-0.9"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400], id="tls"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [404, 400], id="http-2"),
        pytest.param(f"GET /livez?{SECRET} {SECRET}\r\n\r\n".encode(), [400], id="secret"),
        pytest.param(write_head("GET /livez HTTP/1.1").replace(b"\r\n", b"\n"), [200], id="bare-line-feeds"),
        pytest.param(write_head("GET /livez HTTP/1.1", "X: a\r\n folded"), [200], id="folded"),
        pytest.param(write_head("GET /%2e%2e/livez HTTP/1.1"), [404], id="encoded-dots"),
        pytest.param(write_head("GET /livez%00 HTTP/1.1"), [404], id="encoded-nul"),
        pytest.param(write_head("GET /%ff HTTP/1.1"), [404], id="no-utf-8"),
        pytest.param(write_head("GET http://evil.example.com/livez HTTP/1.1"), [404], id="absolute-target"),
        pytest.param(write_head("CONNECT localhost:80 HTTP/1.1"), [404], id="connect"),
        pytest.param(write_head("OPTIONS * HTTP/1.1"), [404], id="asterisk"),
        pytest.param(write_head("TRACE /mcp HTTP/1.1", f"X: {SECRET}"), [405], id="trace"),
        pytest.param(write_head("PUT /mcp HTTP/1.1"), [405], id="put"),
        pytest.param(write_head("PATCH /mcp HTTP/1.1"), [405], id="patch"),
        pytest.param(write_head("POST /livez HTTP/1.1"), [405], id="post-to-livez"),
        pytest.param(
            write_head("GET /mcp HTTP/1.1", "Upgrade: websocket", "Connection: upgrade"), [405], id="websocket",
        ),
        pytest.param(write_head("HEAD /livez HTTP/1.1"), [200], id="head"),
    ],
)  # fmt: skip
async def test_what_is_hardly_http_is_answered_with_what_is_wrong(
    harness: Harness, caplog: pytest.LogCaptureFixture, request_bytes: bytes, statuses: list[int]
) -> None:
    async with serving(harness) as server:
        answer = await server.send_raw(request_bytes)
        assert (await server.ask("GET", "/livez")).status_code == 200

    assert read_statuses(answer) == statuses, answer[:300]
    assert b"QUJDREVG" not in answer
    assert_harmless(caplog)


async def test_nonsense_after_an_answer_that_came_early_ends_the_connection(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer does not wait for the body, which then turns out to be none."""
    head = write_head(POST, "Transfer-Encoding: chunked").replace(b"Connection: close\r\n", b"")
    async with serving(harness, ASKS_WHO) as server, await anyio.connect_tcp(LOOPBACK, server.port) as stream:
        await stream.send(head)
        answer = await stream.receive()
        await stream.send(b"zz\r\n")
        rest = await read_all(stream)
        at_once = await server.send_raw(head + b"zz\r\n")

    assert read_statuses(answer + rest) == [401]
    assert read_statuses(at_once) == [400]
    assert_harmless(caplog)


async def test_pipelined_requests_are_answered_in_turn(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    length = f"Content-Length: {len(BODY)}"
    call = write_head(POST, length).replace(b"Connection: close\r\n", b"") + BODY
    async with serving(harness) as server:
        answer = await server.send_raw(SMUGGLED.encode() + call + write_head("GET /none HTTP/1.1"))

    assert read_statuses(answer) == [200, 200, 404]
    assert_harmless(caplog)


DEEP = b"[" * 10_000 + b"]" * 10_000
BODIES = {
    "empty": b"",
    "no-json": b"{",
    "deep": DEEP,
    "deep-arguments": BODY.replace(b'"_meta"', b'"a": ' + DEEP + b', "_meta"'),
    "no-utf-8": b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe"}',
    "batch": b"[" + BODY + b"," + BODY + b"]",
    "empty-batch": b"[]",
    "large-batch": b"[" + b"1," * 100_000 + b"1]",
    "number": b"1",
    "null": b"null",
    "infinity": b'{"jsonrpc": "2.0", "id": Infinity, "method": "tools/list"}',
    "long-number": b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "tools/list"}',
    "lone-surrogate": BODY.replace(b'"tools/list"', b'"\\ud800"'),
    "gzip": gzip.compress(BODY),
    "secret": BODY.replace(b"tools/list", SECRET.encode()),
    "secret-as-id": BODY.replace(b'"id": 1', b'"id": ["' + SECRET.encode() + b'"]'),
    "params-list": BODY.replace(b'"params": {', b'"params": [], "other": {'),
    "name-list": json.dumps(create_request("tools/call", name=["a"], arguments=[])).encode(),
    "arguments-list": json.dumps(create_request("tools/call", name="delete_access_token", arguments=[1])).encode(),
    "name-object": json.dumps(create_request("prompts/get", name={"a": 1})).encode(),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("era", ["2026-07-28", "2025-11-25", "a session of 2025-11-25"])
async def test_what_is_hardly_a_message_is_answered_with_an_error(
    harness: Harness, caplog: pytest.LogCaptureFixture, name: str, era: str
) -> None:
    async with serving(harness, ASKS_WHO) as server:
        headers = await list_headers(server, era) | {"Authorization": "Bearer reader"}
        headers |= {"Content-Encoding": "gzip"} if name == "gzip" else {}
        answer = await server.ask("POST", content=BODIES[name], headers=headers)
        assert (await server.post(LIST, "reader")).status_code == 200

    assert answer.status_code < 500, answer.text
    # In a session, what has an id that is none is a notification, which has no answer.
    assert answer.status_code in {202, 400, 415} or "error" in answer.text.lower(), answer.text[:1_000]
    assert "Internal" not in answer.text
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert_harmless(caplog)


async def list_headers(server: HttpServer, era: str) -> dict[str, str]:
    match era:
        case "2026-07-28":
            return {**HEADERS}
        case "2025-11-25":
            return {**JSON_HEADERS}
        case _:
            session = await server.open_session("reader")
            return {**JSON_HEADERS, "Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}


async def test_of_a_key_that_comes_twice_the_last_counts_for_all_who_look(harness: Harness) -> None:
    """Whoever decides on what may be called sees the value that is called then."""
    body = BODY.replace(b'"method": "tools/list"', b'"method": "ping", "method": "tools/list"')
    call = json.dumps(create_tool_call("list_access_tokens")).encode()
    twice = call.replace(
        b'"name": "list_access_tokens"', b'"name": "list_access_tokens", "name": "delete_access_token"'
    )
    headers = HEADERS | {"Authorization": "Bearer reader"}
    async with serving(harness, ASKS_WHO) as server:
        listed = await server.ask("POST", content=body, headers=headers)
        names = {"Mcp-Method": "tools/call", "Mcp-Name": "delete_access_token"}
        refused = await server.ask("POST", content=twice, headers=headers | names)

    assert "list_access_tokens" in listed.text
    assert "You may read the access tokens" in refused.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Accept": "text/html"}, {"MCP-Protocol-Version": "1"},
        {"MCP-Protocol-Version": SECRET}, {"Mcp-Method": "tools/call"}, {"Mcp-Method": SECRET},
        {"Mcp-Session-Id": SECRET, "MCP-Protocol-Version": "2025-11-25"},
    ],
)  # fmt: skip
async def test_headers_that_do_not_fit_are_refused(
    harness: Harness, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    async with serving(harness) as server:
        answer = await server.ask("POST", content=BODY, headers=HEADERS | headers)

    assert 400 <= answer.status_code < 500
    assert SECRET not in answer.text
    assert_harmless(caplog)


async def test_a_flood_of_nonsense_fills_no_log(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(harness, ASKS_NOBODY) as server:
        for _ in range(30):
            await server.send_raw(b"nonsense\r\n\r\n")
            await server.ask("POST", content=b"{", headers=HEADERS)
            await server.ask("POST", content=BODY, headers=HEADERS | {"Host": "evil.example.com"})
            await server.ask("POST", content=BODY, headers=JSON_HEADERS | {"Mcp-Session-Id": "x"})

    assert_harmless(caplog)
