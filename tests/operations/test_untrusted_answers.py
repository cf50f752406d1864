"""Test that only answers of the cluster itself are believed, and that only checked facts are reported."""

from typing import Any

import httpx
import pytest

from tests.support.example_tokens import add_token
from tests.support.harness import TOKENS_PATH, Harness, refusal_response
from tests.support.misbehaving_cluster import replace_answer
from tests.support.record import read_outcomes

pytestmark = pytest.mark.anyio


async def test_a_write_without_an_answer_is_looked_after(harness: Harness) -> None:
    """The request was executed but its answer was lost; a look-up shows that the token is changed."""
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("PATCH", httpx.Response(504), path=TOKENS_PATH + token.id)
    changed = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    harness.recorder.on_served = replace_answer("DELETE", httpx.Response(504), path=TOKENS_PATH + token.id)
    deleted = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert changed.text.startswith("Changed access token")
    assert deleted.text.startswith("Deleted access token")
    assert read_outcomes(harness.settings) == ["done", "done"]


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        pytest.param(
            "update_access_token", {"enabled": False}, "So far, token {id} is not changed as asked.", id="update"
        ),
        pytest.param("delete_access_token", {}, "So far, token {id} is still there.", id="delete"),
    ],
)
async def test_a_write_without_an_answer_and_without_effect_is_said_to_be_open(
    harness: Harness, tool: str, arguments: dict[str, Any], said: str
) -> None:
    token = add_token(harness)

    async def undo(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method in {"PATCH", "DELETE"}:
            harness.cluster.tokens[token.id] = token
            return httpx.Response(502)
        return served

    harness.recorder.on_served = undo

    refusal = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    assert said.format(id=token.id) in refusal
    assert refusal.endswith("Look at it with get_access_token before you try again.")
    assert len([request for request in harness.recorder.requests if request.method in {"PATCH", "DELETE"}]) == 1
    assert read_outcomes(harness.settings) == ["unknown"]


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        pytest.param("update_access_token", {"enabled": False}, "whether token {id} was changed", id="update"),
        pytest.param("delete_access_token", {}, "whether token {id} was deleted", id="delete"),
    ],
)
async def test_a_write_of_which_nothing_can_be_found_out_says_so(
    harness: Harness, tool: str, arguments: dict[str, Any], said: str
) -> None:
    token = add_token(harness)
    is_sent = False

    async def go_blind(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        nonlocal is_sent
        is_sent = is_sent or request.method in {"PATCH", "DELETE"}
        return httpx.Response(500) if is_sent else served

    harness.recorder.on_served = go_blind

    refusal = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    assert f"It could not be found out {said.format(id=token.id)}" in refusal
    assert read_outcomes(harness.settings) == ["unknown"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("update_access_token", {"enabled": False}, id="update"),
        pytest.param("delete_access_token", {}, id="delete"),
    ],
)
@pytest.mark.parametrize("failure", ["refused", "declined"])
async def test_a_write_that_was_never_done_is_told_and_written_down(
    harness: Harness, tool: str, arguments: dict[str, Any], failure: str
) -> None:
    token = add_token(harness)

    async def fail(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method not in {"PATCH", "DELETE"}:
            return served
        if failure == "refused":
            raise httpx.ConnectError("refused")
        return refusal_response(403)

    harness.recorder.on_served = fail

    refusal = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    expected = "No connection to" if failure == "refused" else "can grant PRIVILEGE_ACCESS_TOKENS_WRITE"
    assert expected in refusal
    assert read_outcomes(harness.settings) == ["not done"]
