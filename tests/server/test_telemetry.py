"""Test what OpenTelemetry is told of a server: calls, requests, what is due, and nothing of who asks for what."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult, EmptyResult, Request, RequestParamsMeta
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.example_tokens import add_token, own_token
from tests.support.fleet import NAMES, create_fleet
from tests.support.harness import (
    AGREES,
    AUDIT_TOOL,
    DECLINES,
    NEVER_EXPIRING_REQUEST,
    NOW,
    Harness,
    Mode,
    ScriptedPerson,
    refusal_response,
)
from tests.support.record import forget_outcomes
from tests.support.recorded_telemetry import RecordedTelemetry
from tests.support.secret_scan import find_secrets
from tests.support.waiting import wait_until
from token_tools.configuration import Profile
from token_tools.server.app import Wire, create_server
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio

LIST_TOOL = "list_access_tokens"
CREATE_TOOL = "create_access_token"
CALLS = "qumulo.token_tools.calls"
AGE = "qumulo.token_tools.unfinished.age"
EXPIRY = "qumulo.token_tools.next_expiry"
OUTCOME = "qumulo.token_tools.outcome"
SECRET = "access-v1:b3duIHNlY3JldCBvZiBhIHBlcnNvbg=="
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def recorded(harness: Harness) -> RecordedTelemetry:
    """Let servers of the harness tell what happens."""
    recorded = RecordedTelemetry(lambda: harness.now)
    harness.telemetry = recorded.telemetry
    return recorded


def identify(span: ReadableSpan) -> int:
    """Return the id of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def outcomes(recorded: RecordedTelemetry) -> list[tuple[object, object]]:
    """Return the tool and the outcome of each kind of call, in order."""
    return [(point.attributes["gen_ai.tool.name"], point.attributes[OUTCOME]) for point in recorded.read(CALLS)]


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        pytest.param(LIST_TOOL, {}, (LIST_TOOL, "ok"), id="an answer"),
        pytest.param(LIST_TOOL, {"limit": 0}, (LIST_TOOL, "error"), id="a wrong argument"),
        pytest.param("get_access_token", {"id": "404"}, ("get_access_token", "error"), id="no such token"),
        pytest.param(CREATE_TOOL, NEVER_EXPIRING_REQUEST, (CREATE_TOOL, "refused"), id="nobody can be asked"),
        pytest.param("delete_everything", {}, ("other", "error"), id="no such tool"),
    ],
)
async def test_a_call_is_counted_by_its_tool_and_its_outcome(
    harness: Harness,
    recorded: RecordedTelemetry,
    tool: str,
    arguments: dict[str, Any],
    told: tuple[str, str],
) -> None:
    await harness.call(tool, arguments)

    assert outcomes(recorded) == [told]
    [seconds] = [
        point
        for point in recorded.read("mcp.server.operation.duration")
        if point.attributes["mcp.method.name"] == "tools/call"
    ]
    assert seconds.value == 1
    assert seconds.attributes["gen_ai.tool.name"] == told[0]
    assert seconds.attributes.get("error.type") == ("tool_error" if told[1] == "error" else None)


@pytest.mark.parametrize(("answer", "outcome"), [(AGREES, "ok"), (DECLINES, "refused")], ids=["yes", "no"])
async def test_a_question_counts_as_one_where_it_is_the_answer_to_a_call(
    harness: Harness, recorded: RecordedTelemetry, answer: ElicitResult, outcome: str
) -> None:
    await harness.call(CREATE_TOOL, NEVER_EXPIRING_REQUEST, person=ScriptedPerson([answer]))

    # In the older era the person is asked while the call waits.
    asked = [] if harness.mode == "legacy" else [(CREATE_TOOL, "asked")]
    assert outcomes(recorded) == [*asked, (CREATE_TOOL, outcome)]


async def test_a_call_has_a_span_with_one_inside_for_each_attempt_of_a_request(
    harness: Harness, recorded: RecordedTelemetry, no_retry_backoff: None
) -> None:
    refusals = [refusal_response(503)]

    async def refuse_once(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusals.pop() if refusals else response

    harness.recorder.on_served = refuse_once

    await harness.call(LIST_TOOL)

    call = recorded.find_span(f"tools/call {LIST_TOOL}")
    first, second = [span for span in recorded.spans if span.name == "list_tokens"]
    assert call.kind is SpanKind.SERVER
    assert call.status.status_code is StatusCode.UNSET
    assert [span.status.status_code for span in (first, second)] == [StatusCode.ERROR, StatusCode.UNSET]
    assert {(span.kind, span.parent and span.parent.span_id) for span in (first, second)} == {
        (SpanKind.CLIENT, identify(call))
    }
    place = {"server.address": "c.example.com", "server.port": 8000, "http.request.method": "GET"}
    named = {**place, "qumulo.token_tools.endpoint": "list_tokens"}
    assert dict(first.attributes or {}) == {**named, "http.response.status_code": 503, "error.type": "Unavailable"}
    assert dict(second.attributes or {}) == {**named, "http.response.status_code": 200}
    assert [point.attributes for point in recorded.read("http.client.request.duration")] == [
        first.attributes,
        second.attributes,
    ]


async def test_a_request_without_an_answer_is_told_without_a_status(
    harness: Harness, recorded: RecordedTelemetry, no_retry_backoff: None
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    harness.recorder.cluster = httpx.MockTransport(fail)

    await harness.call(LIST_TOOL)

    [point] = recorded.read("http.client.request.duration")
    assert point.attributes["error.type"] == "Unsent"
    assert "http.response.status_code" not in point.attributes


async def test_the_trace_of_a_client_goes_on_and_nothing_else_of_what_it_says(
    harness: Harness, recorded: RecordedTelemetry
) -> None:
    given = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=jane", "baggage": "user=jane"}

    async with harness.connected() as client:
        await client.call_tool(LIST_TOOL, {}, meta=cast(RequestParamsMeta, given))

    span = recorded.find_span(f"tools/call {LIST_TOOL}")
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == PARENT_ID
    assert not span.parent.trace_state
    assert "jane" not in recorded.render()


@pytest.mark.parametrize("given", ["", "00-nonsense", f"00-{'0' * 32}-{PARENT_ID}-01", 7, None])
async def test_a_trace_that_is_none_begins_a_new_one(
    harness: Harness, recorded: RecordedTelemetry, given: object
) -> None:
    async with harness.connected() as client:
        await client.call_tool(LIST_TOOL, {}, meta=cast(RequestParamsMeta, {"traceparent": given}))

    assert recorded.find_span(f"tools/call {LIST_TOOL}").parent is None


async def test_no_user_id_argument_name_or_secret_is_told(harness: Harness, recorded: RecordedTelemetry) -> None:
    token = add_token(harness)
    words = ["jane", "bob", "Corp-Backup-7", token.id, "SECRET-ARGUMENT", "quoted by the cluster"]
    calls: list[tuple[str, dict[str, object]]] = [
        (LIST_TOOL, {"user": "local:jane"}),
        (LIST_TOOL, {"user": "ldap_user:bob", "SECRET-ARGUMENT": 1}),
        ("get_access_token", {"id": token.id}),
        ("rotate_access_token", {"id": token.id}),
        ("update_access_token", {"id": token.id, "enabled": False}),
        ("delete_access_token", {"id": token.id}),
        (CREATE_TOOL, {"user": "local:jane", "expiration_time": "SECRET-ARGUMENT"}),
        (AUDIT_TOOL, {}),
        ("Corp-Backup-7", {}),
        (SECRET, {"id": SECRET}),
    ]

    async with harness.connected(person=ScriptedPerson([AGREES])) as client:
        for tool, arguments in calls:
            with suppress(MCPError):
                await client.call_tool(tool, arguments)
        for prompt in ("Corp-Backup-7", SECRET):
            with suppress(MCPError):
                await client.get_prompt(prompt, {"user": "jane"})
        with suppress(MCPError):
            await client.read_resource("file:///Corp-Backup-7")
    harness.recorder.cluster = httpx.MockTransport(lambda _: refusal_response(403, "jane", "quoted by the cluster"))
    await harness.call(LIST_TOOL, {"user": "jane"})

    told = recorded.render()
    assert [word for word in words if word in told] == []
    bearers = [each.bearer_token for each in harness.cluster.tokens.values()]
    assert find_secrets(told.encode(), [*bearers, token.bearer_token, SECRET]) == []
    assert {span.name for span in recorded.spans} >= {"tools/call", "create_token", "tools/call list_access_tokens"}


async def test_a_method_that_is_not_known_is_not_told(harness: Harness, recorded: RecordedTelemetry) -> None:
    async with harness.connected() as client:
        with pytest.raises(MCPError):
            await client.session.send_request(
                Request[dict[str, Any], str](method="jane/secret", params={}), EmptyResult
            )

    [span] = [span for span in recorded.spans if span.name == "other"]
    assert (span.attributes or {})["error.type"] == "-32601"
    assert "jane" not in recorded.render()


def test_the_tracing_of_the_sdk_is_taken_out_whoever_watches(harness: Harness, recorded: RecordedTelemetry) -> None:
    profiles = [Profile(harness.settings)]
    unwatched, watched = create_server(profiles), create_server(profiles, wire=Wire(telemetry=recorded.telemetry))

    first = "mcp.server.request_state"
    assert [type(each).__module__ for each in unwatched.middleware][:1] == [first]
    assert [type(each).__module__ for each in watched.middleware][:2] == ["token_tools.server.observation", first]


async def test_the_age_of_the_oldest_unfinished_change_is_told(
    record_harness: Harness, no_consent: None, state: StateSettings
) -> None:
    harness = record_harness
    harness.settings = harness.settings.model_copy(update={"confirm": "none"})
    recorded = RecordedTelemetry(lambda: harness.now)
    harness.telemetry = recorded.telemetry
    async with harness.connected():
        await wait_until(lambda: recorded.read(AGE) != [])
    assert recorded.read(AGE) == [(0, {})]

    await harness.call(CREATE_TOOL, {"user": "local:jane"})
    forget_outcomes(state)
    harness.now = NOW + timedelta(minutes=11)
    async with harness.connected():
        await wait_until(lambda: recorded.read(AGE) != [(0, {})])

    assert recorded.read(AGE) == [(660, {})]


async def test_the_next_expiry_is_told_of_the_audited_tokens_and_of_the_own_one(
    harness: Harness, recorded: RecordedTelemetry
) -> None:
    harness.own_token_patience = timedelta(seconds=5)
    own = replace(own_token(harness), expiration_time=NOW + timedelta(days=30))
    harness.cluster.tokens[own.id] = own
    soon = add_token(harness, expiration_time=NOW + timedelta(days=3))
    add_token(harness, expiration_time=NOW + timedelta(days=2), enabled=False)
    add_token(harness, expiration_time=NOW - timedelta(days=2))
    add_token(harness, expiration_time=NOW + timedelta(days=12))
    await harness.call(AUDIT_TOOL)

    async with harness.connected():
        await wait_until(lambda: len(recorded.read(EXPIRY)) == 2)
    kind = "qumulo.token_tools.token"
    assert sorted(point.value for point in recorded.read(EXPIRY)) == [3, 30]
    assert (30, {kind: "own"}) in recorded.read(EXPIRY)

    harness.settings = harness.settings.model_copy(update={"confirm": "none"})
    await harness.call("delete_access_token", {"id": soon.id})
    async with harness.connected():
        await wait_until(lambda: (12, {kind: "audited"}) in recorded.read(EXPIRY))


async def test_what_is_not_known_is_not_told(harness: Harness, recorded: RecordedTelemetry, tmp_path: Path) -> None:
    harness.settings.state_dir.parent.mkdir(parents=True, exist_ok=True)
    harness.settings.state_dir.write_text("no folder")

    await harness.call(LIST_TOOL)

    assert recorded.read(AGE) == []
    assert recorded.read(EXPIRY) == []


async def test_a_fault_in_looking_at_what_is_due_ends_no_server(
    harness: Harness, recorded: RecordedTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    add_token(harness, expiration_time=NOW + timedelta(days=3))
    await harness.call(AUDIT_TOOL)
    harness.now = NOW.replace(tzinfo=None)

    async with harness.connected() as client:
        await wait_until(lambda: "stumbled over a TypeError while it looked at what is due" in caplog.text)
        assert (await client.list_tools()).tools


async def test_clusters_are_told_by_their_names_where_they_have_some(mode: Mode, tmp_path: Path) -> None:
    fleet = create_fleet(mode, tmp_path)
    recorded = RecordedTelemetry(lambda: NOW)
    fleet.clusters["production"].telemetry = recorded.telemetry

    async with fleet.connected() as client:
        await client.call_tool(AUDIT_TOOL, {})
        await wait_until(lambda: len(recorded.read(AGE)) == len(NAMES))

    cluster = "qumulo.token_tools.cluster"
    assert {point.attributes[cluster] for point in recorded.read(AGE)} == {*NAMES}
    assert {point.attributes[cluster] for point in recorded.read("http.client.request.duration")} == {*NAMES}
