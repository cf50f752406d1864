"""Test the warning that the server's own token expires soon: in each answer, at little cost, and never in the way."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import Client

from tests.support.example_tokens import add_token, own_token
from tests.support.fleet import FleetHarness
from tests.support.harness import (
    ADMIN,
    AGREES,
    AUDIT_TOOL,
    EXPORT_TOOL,
    JANE,
    NOW,
    TOKENS_PATH,
    WHO_AM_I_PATH,
    Harness,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from token_tools.sandbox.cluster import Token
from token_tools.views.tokens import MAX_LIMIT

pytestmark = pytest.mark.anyio

LIST_TOOL = "list_access_tokens"
PATIENCE = timedelta(seconds=5)
"""How long an answer waits in a test in which the cluster answers."""


@pytest.fixture
def harness(mode: Mode, tmp_path: Path) -> Harness:
    """Create a harness whose servers look at their own token, which expires in 9 days."""
    harness = create_harness(mode, tmp_path)
    harness.own_token_patience = PATIENCE
    expire_in(harness, timedelta(days=9))
    return harness


def expire_in(harness: Harness, lifetime: timedelta | None) -> Token:
    """Let the server's own token expire so much later, or never, and return it."""
    expires = None if lifetime is None else NOW + lifetime
    own = replace(own_token(harness), expiration_time=expires)
    harness.cluster.tokens[own.id] = own
    return own


def render_warning(own: Token, mend: str, *, when: str = "2026-12-03 09:00 UTC (in 9 days)") -> str:
    return f"This server's own token {own.id} expires {when}: {mend}."


def count_requests(harness: Harness, own: Token) -> tuple[int, int]:
    """Return how often the cluster was asked who the server is, and for its own token."""
    lines = harness.recorder.request_lines()
    return lines.count(f"GET {WHO_AM_I_PATH}"), lines.count(f"GET {TOKENS_PATH}{own.id}")


async def call(client: Client, tool: str = LIST_TOOL, **arguments: object) -> ToolAnswer:
    return ToolAnswer.from_result(await client.call_tool(tool, arguments))


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (LIST_TOOL, {}),
        ("get_access_token", {"id": "JANE"}),
        (AUDIT_TOOL, {}),
        (EXPORT_TOOL, {}),
        ("list_token_changes", {}),
        ("create_access_token", {"user": "local:jane"}),
        ("update_access_token", {"id": "JANE", "enabled": False}),
        ("rotate_access_token", {"id": "JANE"}),
        ("delete_access_token", {"id": "JANE"}),
    ],
)
async def test_the_first_answer_of_each_tool_warns_in_the_text_and_in_a_field(
    harness: Harness, tool: str, arguments: dict[str, Any]
) -> None:
    own, jane = own_token(harness), add_token(harness)
    given = {name: jane.id if value == "JANE" else value for name, value in arguments.items()}

    answer = await harness.call(tool, given, confirm="all", person=ScriptedPerson([AGREES]))

    call = f'rotate_access_token(id="{own.id}")'
    expected = render_warning(
        own, f"{call} makes its successor, and the operator then has to replace QUMULO_BEARER_TOKEN"
    )
    assert not answer.is_error
    assert answer.text.endswith(f"\n{expected}")
    assert answer.fields["warning"].endswith(expected)


async def test_a_refusal_warns_too(harness: Harness) -> None:
    refusal = await harness.call_refused("get_access_token", {"id": "1"})

    assert refusal.splitlines()[-1].startswith(f"This server's own token {own_token(harness).id} expires ")


@pytest.mark.parametrize(
    ("lifetime", "is_told"),
    [(timedelta(days=14), True), (timedelta(days=14, minutes=1), False), (timedelta(minutes=1), True), (None, False)],
)
async def test_what_lives_longer_than_14_days_is_not_warned_of(
    harness: Harness, lifetime: timedelta | None, *, is_told: bool
) -> None:
    own = expire_in(harness, lifetime)

    answer = await harness.call(LIST_TOOL)

    assert (f"own token {own.id}" in answer.text) is is_told
    assert ("warning" in answer.fields) is is_told


async def test_an_answer_without_a_warning_is_what_it_is_where_nobody_looks(harness: Harness) -> None:
    expire_in(harness, timedelta(days=90))
    answers = list[ToolAnswer]()
    for harness.own_token_patience in (PATIENCE, None):
        answers.append(await harness.call(LIST_TOOL))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("caller", [{"access_token_id": None}, {}])
async def test_a_credential_that_is_no_known_token_is_not_warned_of(harness: Harness, caller: dict[str, Any]) -> None:
    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != WHO_AM_I_PATH:
            return response
        told = {name: value for name, value in response.json().items() if name != "access_token_id"}
        return httpx.Response(200, json=told | caller)

    harness.recorder.on_served = on_served
    answer = await harness.call(LIST_TOOL)

    assert "own token" not in answer.text
    assert count_requests(harness, own_token(harness))[1] == 0


async def test_where_the_credential_can_be_written_the_server_goes_on_by_itself(
    harness: Harness, tmp_path: Path
) -> None:
    own, path = own_token(harness), tmp_path / "own"
    path.write_text(own.bearer_token)
    path.chmod(0o600)

    async with harness.connected(bearer_token=None, bearer_token_file=path, confirm="none") as client:
        before = await call(client)
        rotated = await call(client, "rotate_access_token", id=own.id)
        after = await call(client)

    assert before.fields["warning"] == render_warning(
        own,
        f'rotate_access_token(id="{own.id}") makes its successor, and this server goes on with that if it can write '
        f"QUMULO_BEARER_TOKEN_FILE ({path})",
    )
    assert "own token" not in rotated.text + after.text


@pytest.mark.parametrize("why", ["read-only", "no privilege", "no destination"])
async def test_where_the_server_may_not_write_the_operator_has_to_act(harness: Harness, why: str) -> None:
    own = own_token(harness)
    if why == "no privilege":
        harness.cluster.add_account(replace(ADMIN, privileges=frozenset({"PRIVILEGE_ACCESS_TOKENS_READ"})))

    delivery = "none" if why == "no destination" else "file"

    answer = await harness.call(LIST_TOOL, read_only=why == "read-only", delivery=delivery)

    assert answer.fields["warning"] == render_warning(
        own, "the operator has to replace QUMULO_BEARER_TOKEN, which this server may not do itself"
    )


async def test_the_cluster_is_asked_once_an_hour_and_after_a_change_of_the_credential(
    harness: Harness, tmp_path: Path
) -> None:
    own, path = own_token(harness), tmp_path / "own"
    path.write_text(own.bearer_token)
    path.chmod(0o600)
    counts = list[tuple[int, int]]()
    async with harness.connected(bearer_token=None, bearer_token_file=path) as client:
        for later in (timedelta(), timedelta(minutes=59), timedelta(minutes=61)):
            harness.now = NOW + later
            await call(client, "list_token_changes")
            counts.append(count_requests(harness, own))
        other = add_token(harness, ADMIN, expiration_time=NOW + timedelta(days=3))
        path.write_text(other.bearer_token)
        del harness.cluster.tokens[own.id]
        await call(client)
        answer = await call(client)

    assert counts == [(1, 1), (1, 1), (2, 2)]
    assert f"This server's own token {other.id} expires " in answer.fields["warning"]
    assert count_requests(harness, other)[1] == 1


async def test_a_cluster_that_does_not_tell_is_asked_again_five_minutes_later(harness: Harness) -> None:
    own, failing = own_token(harness), [True]

    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if failing[0] and request.url.path == f"{TOKENS_PATH}{own.id}" else response

    harness.recorder.on_served = on_served
    answers = list[ToolAnswer]()
    async with harness.connected() as client:
        for later in (0, 4, 6):
            harness.now = NOW + timedelta(minutes=later)
            answers.append(await call(client))
            failing[0] = False

    assert [answer.is_error for answer in answers] == [False] * 3
    assert ["own token" in answer.text for answer in answers] == [False, False, True]


def raise_crash() -> httpx.Response:
    raise RuntimeError("secret")


def raise_break() -> httpx.Response:
    raise httpx.ReadError("gone")


@pytest.mark.parametrize("fail", [raise_crash, raise_break])
async def test_whatever_happens_beside_it_a_call_succeeds(
    harness: Harness, caplog: pytest.LogCaptureFixture, fail: Callable[[], httpx.Response]
) -> None:
    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return fail() if request.url.path == WHO_AM_I_PATH else response

    harness.recorder.on_served = on_served
    answer = await harness.call("list_token_changes")

    assert not answer.is_error
    assert "own token" not in answer.text
    assert ("stumbled over a RuntimeError" in caplog.text) is (fail is raise_crash)
    assert "secret" not in caplog.text


async def test_a_certificate_that_is_gone_ends_no_server(harness: Harness, tmp_path: Path) -> None:
    async with harness.connected(ca_file=tmp_path / "gone.pem") as client:
        changes = await call(client, "list_token_changes")
        tokens = await call(client)

    assert (changes.is_error, tokens.is_error) == (False, True)
    assert "QUMULO_CA_FILE" in tokens.text


async def test_a_cluster_that_is_slow_to_tell_holds_up_no_answer_and_the_next_one_warns(harness: Harness) -> None:
    own, released = own_token(harness), anyio.Event()
    harness.own_token_patience = timedelta(milliseconds=20)

    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == f"{TOKENS_PATH}{own.id}":
            await released.wait()
        return response

    harness.recorder.on_served = on_served
    async with harness.connected() as client:
        first, second = await call(client), await call(client)
        released.set()
        third = await call(client, AUDIT_TOOL)
        fourth = await call(client)

    assert ["own token" in answer.text for answer in (first, second, fourth)] == [False, False, True]
    assert not third.is_error
    assert count_requests(harness, own)[1] == 1


async def test_an_answer_that_fills_all_room_is_cut_for_the_warning(harness: Harness) -> None:
    for number in range(400):
        account = replace(JANE, auth_id=str(5000 + number), name=f"user-{number}-{'x' * 60}", sid=None)
        harness.cluster.add_account(account)
        add_token(harness, account)

    answer = await harness.call(LIST_TOOL, {"limit": MAX_LIMIT})

    assert "own token" in answer.text.splitlines()[-1]
    assert "own token" in answer.fields["warning"]
    assert len(answer.text) < 25_000
    assert len(json.dumps(answer.fields)) < 25_000


async def test_each_cluster_of_a_server_is_warned_of_by_its_name(mode: Mode, tmp_path: Path) -> None:
    clusters = {name: create_harness(mode, tmp_path / name) for name in ("lab", "production", "replica")}
    for name, harness in clusters.items():
        changes = {"host": f"{name}.example.com", "state_dir": tmp_path / "state"}
        harness.settings = harness.settings.model_copy(update=changes)
        harness.own_token_patience = PATIENCE
    lab, production = (expire_in(clusters[name], timedelta(days=9)) for name in ("lab", "production"))

    async with FleetHarness(clusters, mode).connected() as client:
        everywhere = await call(client, AUDIT_TOOL)
        narrowed = await call(client, cluster="lab")
        silent = await call(client, cluster="replica")

    warnings = [
        f"{name}: {render_warning(own, f'{rotation} makes its successor, and the operator then has to replace')[:-1]}"
        for name, own in (("lab", lab), ("production", production))
        for rotation in [f'rotate_access_token(cluster="{name}", id="{own.id}")']
    ]
    assert [warning in everywhere.text for warning in warnings] == [True, True]
    assert [warning in everywhere.fields["warning"] for warning in warnings] == [True, True]
    assert [warning in narrowed.fields["warning"] for warning in warnings] == [True, False]
    assert "warning" not in silent.fields
