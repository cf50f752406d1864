"""Test that no request takes more room or time than there is for it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from tests.support.harness import TIMEOUT_SECONDS, Harness
from tests.support.http_in_process import (
    ANONYMOUS,
    ASKS_WHO,
    JSON_HEADERS,
    NO_TLS,
    WITH_ISSUER,
    Doorkeeper,
    HttpServer,
    Setup,
    create_caller,
    create_request,
    create_tool_call,
    end,
    read_all,
    serving,
)
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.http.bounds import Bounds

pytestmark = pytest.mark.anyio

SOON = timedelta(seconds=0.2)
MAX_SECONDS = 5
HEAD = (
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Accept: application/json, text/event-stream\r\n"
)
LIST = create_request("tools/list")
CALL = create_tool_call("get_access_token", id="1")


async def never_answer(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
    await anyio.sleep_forever()
    return response


async def test_a_body_that_is_too_large_is_not_read(harness: Harness) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(body_bytes=1_000))) as server:
        declared = await server.send_raw(HEAD + b"Content-Length: 1001\r\n\r\n", b"x")
        chunked = await server.send_raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1_001)
        fits = await server.post(create_request("tools/list", x="x" * 100))

    assert declared.startswith(b"HTTP/1.1 413 ")
    assert chunked.startswith(b"HTTP/1.1 413 ")
    assert fits.status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(harness: Harness) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(body_timeout=SOON))) as server:
        with anyio.fail_after(MAX_SECONDS):
            answer = await server.send_raw(HEAD + b"Content-Length: 10\r\n\r\n", b"{")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


WHOLE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_the_end_does_not_wait_for_a_body(harness: Harness) -> None:
    async with serving(harness) as server, await anyio.connect_tcp(LOOPBACK, server.port) as stream:
        await stream.send(HEAD + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        # The server asks for the body only when it reads it.
        asked = await stream.receive()
        with anyio.fail_after(MAX_SECONDS):
            end()
            answer = await read_all(stream)

    assert asked.startswith(b"HTTP/1.1 100 ")
    assert answer.startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_leaves_before_its_body_is_there_leaves_no_trace(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(harness) as server:
        for headers in (b"", b"MCP-Protocol-Version: 2026-07-28\r\n"):
            async with await anyio.connect_tcp(LOOPBACK, server.port) as stream:
                await stream.send(HEAD + headers + b"Content-Length: 10\r\n\r\n{")
        assert (await server.post(LIST)).status_code == 200

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("start", [b"G", b"GET /livez HTTP/1.1\r\nHost: loc", WHOLE + b"GET", b""])
async def test_a_head_that_does_not_come_is_not_waited_for(harness: Harness, start: bytes) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(header_timeout=SOON))) as server:
        with anyio.fail_after(MAX_SECONDS):
            answer = await server.send_raw(start)

    assert answer.count(b"HTTP/1.1 200 ") == start.count(b"\r\n\r\n")


async def test_a_slow_drip_of_a_head_does_not_buy_time(harness: Harness) -> None:
    drip = [b"X"] * 20
    async with (
        serving(harness, Setup(ANONYMOUS, bounds=Bounds(header_timeout=SOON))) as server,
        await anyio.connect_tcp(LOOPBACK, server.port) as stream,
    ):
        with pytest.raises(anyio.BrokenResourceError):
            await send_slowly(stream, drip)


async def send_slowly(stream: SocketStream, chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        await stream.send(chunk)
        await anyio.sleep(SOON.total_seconds() / 4)


async def let_a_head_be_late(server: HttpServer) -> None:
    """Wait until the server has closed a connection of its own, on which no request came."""
    with anyio.fail_after(MAX_SECONDS):
        assert await server.send_raw() == b""


async def test_an_idle_connection_is_kept_for_the_next_request(harness: Harness) -> None:
    """The time for a head begins with its first byte."""
    async with (
        serving(harness, Setup(ANONYMOUS, bounds=Bounds(header_timeout=SOON))) as server,
        await anyio.connect_tcp(LOOPBACK, server.port) as stream,
    ):
        for _ in range(2):
            await stream.send(WHOLE)
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
            await let_a_head_be_late(server)


async def test_of_too_many_connections_the_one_ends_that_has_waited_the_longest(harness: Harness) -> None:
    async with (
        serving(harness, Setup(ANONYMOUS, bounds=Bounds(connections=2))) as server,
        await anyio.connect_tcp(LOOPBACK, server.port) as first,
        await anyio.connect_tcp(LOOPBACK, server.port) as second,
    ):
        answered = await server.post(LIST)
        with pytest.raises(anyio.EndOfStream):
            await first.receive()
        await second.send(WHOLE)
        assert (await second.receive()).startswith(b"HTTP/1.1 200 ")

    assert answered.status_code == 200


async def test_more_requests_than_there_is_room_for_are_told_to_come_back_and_probes_are_not(harness: Harness) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(requests=0))) as server:
        full = await server.post(LIST)
        probed = await server.ask("GET", "/livez")

    assert (full.status_code, probed.status_code) == (503, 200)


async def test_more_sessions_than_there_is_room_for_are_told_to_come_back(harness: Harness) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(sessions=1))) as server:
        session = await server.open_session()
        with pytest.raises(AssertionError):
            await server.open_session()
        assert (await server.ask_in_session(session, method="DELETE")).status_code == 200
        await server.open_session()


async def test_a_caller_who_begins_a_session_too_many_ends_their_own_that_was_used_the_longest_ago(
    harness: Harness,
) -> None:
    clients = [create_caller("ann", "read"), create_caller("ann", "read").model_copy(update={"client_id": "bot"})]
    people = Doorkeeper({"ann": clients[0], "bot of ann": clients[1], "bob": create_caller("bob", "read")})
    bounds = Bounds(sessions_of_caller=2)
    async with serving(harness, Setup(WITH_ISSUER, people, bounds=bounds)) as server:
        theirs = await server.open_session("bob")
        first, second = [await server.open_session("ann") for _ in range(2)]
        await server.ask_in_session(first, "ann")
        third = await server.open_session("bot of ann")
        statuses = [(await server.ask_in_session(session, "ann")).status_code for session in (first, second)]
        fourth = await server.open_session("ann")
        own = {third: "bot of ann", first: "ann", fourth: "ann", theirs: "bob"}
        left = [(await server.ask_in_session(session, person)).status_code for session, person in own.items()]

    assert statuses == [200, 404]
    assert left == [404, 200, 200, 200]


async def test_a_session_that_was_ended_makes_room_for_the_next(harness: Harness) -> None:
    async with serving(harness, replace(ASKS_WHO, bounds=Bounds(sessions_of_caller=2))) as server:
        kept = await server.open_session("reader")
        for _ in range(3):
            session = await server.open_session("reader")
            ends = [(await server.ask_in_session(session, "reader", method="DELETE")).status_code for _ in range(2)]
            assert ends == [200, 404]
        answer = await server.ask_in_session(kept, "reader")

    assert answer.status_code == 200


async def test_a_session_in_which_somebody_waits_is_not_ended(harness: Harness) -> None:
    async with serving(harness, replace(ASKS_WHO, bounds=Bounds(sessions_of_caller=1))) as server:
        waiting = await server.open_session("reader")
        headers = {**JSON_HEADERS, "Mcp-Session-Id": waiting, "Authorization": "Bearer reader"}
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, verify=NO_TLS) as http,
            http.stream("GET", server.url, headers=headers) as stream,
        ):
            assert stream.status_code == 200
            await server.open_session("reader")
            answer = await server.ask_in_session(waiting, "reader")

    assert answer.status_code == 200


async def test_a_session_that_ended_by_itself_takes_no_room(harness: Harness) -> None:
    bounds = Bounds(sessions=1, session_idle_timeout=SOON, header_timeout=SOON * 3)
    async with serving(harness, replace(ASKS_WHO, bounds=bounds)) as server:
        ended = await server.open_session("reader")
        await let_a_head_be_late(server)
        await server.open_session("writer")
        answer = await server.ask_in_session(ended, "reader")

    assert answer.status_code == 404


async def test_an_idle_session_ends(harness: Harness) -> None:
    bounds = Bounds(session_idle_timeout=SOON, header_timeout=SOON * 3)
    async with serving(harness, Setup(ANONYMOUS, bounds=bounds)) as server:
        session = await server.open_session()
        await let_a_head_be_late(server)
        answer = await server.ask_in_session(session)

    assert answer.status_code == 404


async def test_a_call_that_takes_too_long_is_ended(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.recorder.on_served = never_answer
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(call_timeout=SOON))) as server:
        with anyio.fail_after(MAX_SECONDS):
            answer = await server.post(CALL)

    assert answer.status_code == 504
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def test_a_stream_on_which_a_client_waits_ends_and_can_be_opened_again(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(harness, Setup(ANONYMOUS, bounds=Bounds(stream_timeout=SOON))) as server:
        session = await server.open_session()
        with anyio.fail_after(MAX_SECONDS):
            streams = [await read_stream(server.port, session) for _ in range(2)]

    assert [stream[:13] for stream in streams] == [b"HTTP/1.1 200 "] * 2
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def read_stream(port: int, session: str) -> bytes:
    async with await anyio.connect_tcp(LOOPBACK, port) as stream:
        await stream.send(write_stream_request(session))
        return await read_all(stream)


def write_stream_request(session: str) -> bytes:
    return (
        f"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n"
        "MCP-Protocol-Version: 2025-11-25\r\nConnection: close\r\n\r\n"
    ).encode()
