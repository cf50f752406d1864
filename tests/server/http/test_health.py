"""Test what a probe learns: that the process lives, whether it can serve, and nothing else."""

from datetime import timedelta

import anyio
import httpx
import pytest
from mcp.client import Client
from pydantic import SecretStr
from starlette.requests import Request

from tests.support.harness import TIMEOUT_SECONDS, Harness
from tests.support.http_in_process import ASKS_NOBODY, ASKS_WHO, HttpServer, Setup, serving
from tests.support.record import state_file
from tests.support.recording_transport import RecordingTransport
from token_tools.configuration import Profile
from token_tools.server.app import Wire, create_server
from token_tools.server.http.bounds import Bounds
from token_tools.server.http.health import Readiness

pytestmark = pytest.mark.anyio


async def probe(server: HttpServer) -> tuple[int, int]:
    """Ask both, by the address that a kubelet uses; check that nothing is told besides the status."""
    answers = [await server.ask("GET", path, headers={"Host": "10.0.0.7:8080"}) for path in ("/livez", "/readyz")]
    for answer in answers:
        assert answer.content == b""
        assert {*answer.headers} == {"date", "content-length"}
    return answers[0].status_code, answers[1].status_code


async def test_a_server_that_can_serve_is_ready_and_asks_the_cluster_once_in_a_while(harness: Harness) -> None:
    async with serving(harness, ASKS_WHO) as server:
        results = [await probe(server) for _ in range(5)]

    assert results == [(200, 200)] * 5
    assert harness.recorder.request_lines() == ["GET /v1/version"]


async def test_without_its_cluster_it_lives_and_is_not_ready(harness: Harness) -> None:
    async def fail(request: httpx.Request, _response: httpx.Response) -> httpx.Response:
        raise httpx.ConnectError("secret detail", request=request)

    harness.recorder.on_served = fail
    async with serving(harness, ASKS_NOBODY) as server:
        assert await probe(server) == (200, 503)


async def test_the_log_tells_once_what_is_in_the_way_and_when_it_is_gone(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    away_for = [True, True, False, False]

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if away_for[len(statuses)]:
            raise httpx.ConnectError("nobody is there", request=request)
        return response

    harness.recorder.on_served = fail
    readiness = Readiness(lambda: False, period=-timedelta(seconds=1))
    statuses = list[int]()
    server = create_server([Profile(harness.settings)], cluster_transport=harness.recorder, wire=Wire(readiness.begin))
    async with Client(server):
        for _ in away_for:
            statuses.append((await readiness.answer(Request({"type": "http"}))).status_code)

    assert statuses == [503, 503, 200, 200]
    [away, back] = [record.message for record in caplog.records if record.name.endswith(".health")]
    assert away.startswith("Not ready: ")
    assert back == "Ready again."


async def test_without_its_record_it_lives_and_is_not_ready(harness: Harness) -> None:
    path = state_file(harness.settings.state_dir)
    path.mkdir(parents=True)
    async with serving(harness, ASKS_NOBODY) as server:
        assert await probe(server) == (200, 503)


async def test_without_its_database_it_lives_and_is_not_ready(harness: Harness) -> None:
    url = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")
    harness.settings = harness.settings.model_copy(update={"state_url": url})
    async with serving(harness, ASKS_NOBODY) as server:
        assert await probe(server) == (200, 503)


async def test_a_cluster_that_hangs_is_not_waited_for(harness: Harness) -> None:
    async def hang(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        await anyio.sleep_forever()
        return response

    harness.recorder.on_served = hang
    async with serving(harness, Setup(bounds=Bounds(readiness_period=timedelta(seconds=0.1)))) as server:
        assert await probe(server) == (200, 503)
        harness.recorder.on_served = RecordingTransport(harness.recorder).on_served
        with anyio.fail_after(TIMEOUT_SECONDS):
            while await probe(server) != (200, 200):
                pass


async def test_a_server_that_ends_lives_and_is_not_ready(harness: Harness) -> None:
    async with serving(harness) as server:
        before = await probe(server)
        server.shutdown.begin()
        assert (before, await probe(server)) == ((200, 200), (200, 503))


async def test_probes_at_once_ask_once(harness: Harness) -> None:
    async with serving(harness, ASKS_NOBODY) as server, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(probe, server)

    assert harness.recorder.request_lines() == ["GET /v1/version"]
