"""Test which requests to the cluster are retried, how many run at once, and how long each may take."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import anyio
import httpx
import pytest
import stamina
from pydantic import SecretStr

from tests.support.cluster_client import EMPTY_PAGE, OWN_CREDENTIAL, ScriptedCluster, connected, empty_page_response
from tests.support.harness import refusal_response
from token_tools.cluster.identity import Identity
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    Refusal,
    Rejected,
    Unauthenticated,
    Unavailable,
    Unreachable,
    Unsent,
)
from token_tools.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_retry_backoff")]
JANE = Identity(auth_id="1001")


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(httpx.ConnectError("refused"), id="refused"),
        pytest.param(httpx.RemoteProtocolError("cut"), id="cut"),
        pytest.param(httpx.Response(502), id="502"),
        pytest.param(httpx.Response(503, headers={"Retry-After": "0"}), id="503"),
        pytest.param(httpx.Response(504), id="504"),
        pytest.param(httpx.Response(429, headers={"Retry-After": "1"}), id="429"),
    ],
)
async def test_a_request_that_reads_is_repeated_until_it_is_answered(
    trouble: httpx.Response | httpx.TransportError,
) -> None:
    script = ScriptedCluster(trouble, trouble, empty_page_response())
    async with connected(script) as cluster:
        assert (await cluster.fetch_page()).entries == ()

    assert len(script.requests) == 3


async def test_a_wait_that_does_not_fit_any_more_is_told_and_not_a_missing_answer() -> None:
    script = ScriptedCluster(httpx.Response(429, headers={"Retry-After": "1"}))
    settings = Settings(host="c", bearer_token=SecretStr(OWN_CREDENTIAL), timeout=timedelta(seconds=1.5))
    with stamina.set_testing(testing=False):
        async with connected(script, settings) as cluster:
            with pytest.raises(Unavailable, match="It asks to wait a second") as failure:
                await cluster.fetch_page()

    assert failure.value.advice == "Try again after that, and not before."
    assert len(script.requests) == 2


async def test_a_request_that_reads_is_given_up_in_the_end() -> None:
    script = ScriptedCluster(httpx.Response(503))
    async with connected(script) as cluster:
        with pytest.raises(Unavailable):
            await cluster.resolve_identity(JANE)

    assert len(script.requests) == 4


@pytest.mark.parametrize(
    ("trouble", "failure"),
    [
        pytest.param(refusal_response(400), Rejected, id="400"),
        pytest.param(httpx.Response(401), Unauthenticated, id="401"),
        pytest.param(httpx.Response(500), Unavailable, id="500"),
        pytest.param(httpx.Response(429, headers={"Retry-After": "3600"}), Unavailable, id="too-long-a-wait"),
        pytest.param(httpx.Response(200, html="<p>"), BadAnswer, id="html"),
        pytest.param(httpx.Response(302, headers={"Location": "https://c/x"}), BadAnswer, id="redirect"),
    ],
)
async def test_what_would_not_get_better_is_not_repeated(trouble: httpx.Response, failure: type[ClusterError]) -> None:
    script = ScriptedCluster(trouble)
    async with connected(script) as cluster:
        with pytest.raises(failure):
            await cluster.fetch_page()

    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("cut"),
        httpx.Response(401),
        httpx.Response(429),
        httpx.Response(503),
        httpx.Response(200, html="<p>"),
    ],
    ids=["refused", "cut", "401", "429", "503", "html"],
)
@pytest.mark.parametrize("write", ["create", "delete"])
async def test_a_request_that_writes_is_sent_once(trouble: httpx.Response | httpx.TransportError, write: str) -> None:
    script = ScriptedCluster(trouble)
    async with connected(script) as cluster:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": partial(cluster.create_token, JANE, None),
            "delete": partial(cluster.delete_token, "7"),
        }
        with pytest.raises(ClusterError):
            await calls[write]()

    assert len(script.requests) == 1


async def test_no_request_goes_out_for_a_user_of_whom_nothing_is_known() -> None:
    script = ScriptedCluster(empty_page_response())
    async with connected(script) as cluster:
        for call in (
            partial(cluster.create_token, Identity(domain="LOCAL"), None),
            partial(cluster.resolve_identity, Identity()),
        ):
            with pytest.raises(Refusal):
                await call()

    assert script.requests == []


@pytest.mark.parametrize("text", ["k" * 70_000, "\ud800"], ids=["too-long", "half-a-character"])
async def test_what_no_request_can_carry_is_refused_before_it_is_asked(text: str) -> None:
    script = ScriptedCluster(empty_page_response())
    async with connected(script) as cluster:
        for call in (partial(cluster.fetch_page, cursor=text), partial(cluster.fetch_page, user=text)):
            with pytest.raises(Refusal, match="Nothing was asked"):
                await call()

    assert script.requests == []


async def test_an_answer_that_does_not_come_ends_at_the_deadline() -> None:
    class Silence(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.sleep_forever()
            raise AssertionError(request)

    settings = Settings(host="c", bearer_token=SecretStr(OWN_CREDENTIAL), timeout=timedelta(milliseconds=50))
    async with connected(Silence(), settings) as cluster:
        for call in (cluster.fetch_page, cluster.who_am_i, partial(cluster.create_token, JANE, None)):
            with pytest.raises(Unreachable, match=r"No whole answer from c:8000 within .* \(QUMULO_TIMEOUT\)"):
                await call()


async def test_no_more_than_eight_requests_are_on_their_way_at_once() -> None:
    at_once: list[int] = []
    go_on = anyio.Event()

    class Counter(httpx.AsyncBaseTransport):
        now = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.now += 1
            at_once.append(self.now)
            if len(at_once) == 8:
                go_on.set()
            await go_on.wait()
            await anyio.lowlevel.checkpoint()
            self.now -= 1
            return httpx.Response(200, json=EMPTY_PAGE, request=request)

    async with connected(Counter()) as cluster, anyio.create_task_group() as calls:
        for _ in range(30):
            calls.start_soon(cluster.fetch_page)

    assert (len(at_once), max(at_once)) == (30, 8)


async def test_calls_have_their_turns_in_the_order_in_which_they_came() -> None:
    keys: list[str] = []
    go_on = anyio.Event()

    class Queue(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            keys.append(request.url.params["after"])
            if len(keys) == 8:
                go_on.set()
            await go_on.wait()
            return httpx.Response(200, json=EMPTY_PAGE, request=request)

    async with connected(Queue()) as cluster, anyio.create_task_group() as calls:
        for number in range(30):
            calls.start_soon(partial(cluster.fetch_page, cursor=str(number)))

    assert keys == [str(number) for number in range(30)]


async def test_waiting_for_a_turn_is_not_counted_as_the_time_of_a_request() -> None:
    class Slowness(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.sleep(0.6)
            return httpx.Response(200, json=EMPTY_PAGE, request=request)

    settings = Settings(host="c", bearer_token=SecretStr(OWN_CREDENTIAL), timeout=timedelta(seconds=1))
    async with connected(Slowness(), settings) as cluster, anyio.create_task_group() as calls:
        for _ in range(16):
            calls.start_soon(cluster.fetch_page)


async def test_a_request_whose_turn_never_comes_is_told_as_never_sent() -> None:
    sent = 0
    failures: list[Unreachable] = []

    class Silence(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal sent
            sent += 1
            await anyio.sleep_forever()
            raise AssertionError(request)

    settings = Settings(host="c", bearer_token=SecretStr(OWN_CREDENTIAL), timeout=timedelta(milliseconds=100))
    async with connected(Silence(), settings) as cluster, anyio.create_task_group() as calls:

        async def create() -> None:
            with pytest.raises(Unreachable) as failure:
                await cluster.create_token(JANE, None)
            failures.append(failure.value)

        for _ in range(40):
            calls.start_soon(create)

    unsent = [str(failure) for failure in failures if isinstance(failure, Unsent)]
    assert unsent
    assert sent + len(unsent) == 40
    assert {*unsent} == {
        "c:8000 was not asked: 8 other requests of this server were not through within a moment "
        "(QUMULO_TIMEOUT), and this one was never sent."
    }
    assert {failure.advice for failure in failures if isinstance(failure, Unsent)} == {
        "Try again when less is asked at once."
    }
