"""Test calls of the newer era whose rounds reach different servers with one database and one set of keys."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.example_tokens import add_token
from tests.support.harness import (
    DECLINES,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.record import execute, forget_outcomes, read_outcomes, read_record
from tests.support.replicas import KEYS, AskedCall, ask, call, calling_as, two_servers
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio
NO_STATE = "^Invalid or expired requestState$"
CREATE, UPDATE, DELETE, ROTATE = (f"{verb}_access_token" for verb in ("create", "update", "delete", "rotate"))
CHANGES: dict[str, dict[str, Any]] = {
    CREATE: {"user": "local:jane", "expiration_time": "90d"},
    UPDATE: {"enabled": False},
    DELETE: {},
    ROTATE: {"expiration_time": "never"},
}
"""The arguments of each tool, besides the token."""


@pytest.fixture
def harness(tmp_path: Path, state: StateSettings) -> Harness:
    """Create a harness whose servers share keys, a database of each kind in its turn, and one token of jane."""
    harness = create_harness("auto", tmp_path).with_state(state)
    harness.state_keys = KEYS[:1]
    harness.settings = harness.settings.model_copy(update={"confirm": "all"})
    add_token(harness)
    return harness


async def ask_about(harness: Harness, client: Client, tool: str) -> AskedCall:
    named = {} if tool == CREATE else {"id": harness.tokens_of(JANE)[0].id}
    return await ask(client, tool, CHANGES[tool] | named)


def count_writes(harness: Harness) -> int:
    requests = harness.recorder.requests
    return sum(request.method != "GET" and request.url.path.startswith(TOKENS_PATH) for request in requests)


@pytest.mark.parametrize("tool", CHANGES)
async def test_a_yes_counts_at_another_server_and_nowhere_a_second_time(harness: Harness, tool: str) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, tool)
        done = await asked.finish(other)
        for server in (one, other):
            await asked.answer(server)

    assert not done.is_error
    assert count_writes(harness) == 1
    [entry] = [entry for entry in read_record(harness.settings) if entry["consent"] == "agreed"]
    assert entry["outcome"] in {"created", "done"}
    assert f"[question {entry['question']}]" in asked.question


async def test_what_is_done_after_a_yes_elsewhere_is_what_was_asked_about(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, CREATE)
        harness.now += timedelta(minutes=5)
        await asked.finish(other)

    assert "It expires 2027-02-22 09:00 UTC (in 90 days)." in asked.question
    assert harness.now + timedelta(days=90, minutes=-5) in {token.expiration_time for token in harness.tokens_of(JANE)}


async def test_a_no_closes_a_question_at_every_server(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        refusal = await asked.answer(other, DECLINES)
        asked_anew = [await asked.is_asked_anew(server) for server in (one, other)]

    assert isinstance(refusal, ToolAnswer)
    assert "was answered with no" in refusal.text
    assert asked_anew == [True, True]
    assert count_writes(harness) == 0
    assert read_outcomes(harness.settings) == ["declined", "asked"]


async def test_an_equal_call_gets_the_same_question_at_every_server(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = [await ask_about(harness, server, UPDATE) for server in (one, other, one)]

    assert len({each.question for each in asked}) == 1
    assert read_outcomes(harness.settings) == ["asked"]


async def test_the_server_that_asked_does_not_plan_again(harness: Harness) -> None:
    lookups: list[int] = []
    async with two_servers(harness) as (one, other):
        for server in (one, other):
            asked = await ask_about(harness, one, DELETE)
            before = len(harness.recorder.requests)
            await asked.finish(server)
            lookups.append(sum(request.method == "GET" for request in harness.recorder.requests[before:]))
            add_token(harness)

    # It looks whether the token is as it was and whether it is the server's own, and then whether it is gone.
    assert lookups == [3, 5]


@pytest.mark.parametrize("subject", ["bob", "ann"], ids=["another-for-the-sdk", "one-for-the-sdk"])
async def test_somebody_else_s_answer_does_nothing(harness: Harness, subject: str) -> None:
    """The SDK binds what a client sends back to what the issuer says of a caller, and the database to who they are."""
    async with two_servers(harness) as (one, other):
        with calling_as("ann"):
            asked = await ask_about(harness, one, DELETE)
        for server in (one, other):
            with calling_as("bob", subject=subject):
                if subject == "ann":
                    assert await asked.is_asked_anew(server)
                else:
                    with pytest.raises(MCPError, match=NO_STATE):
                        await asked.answer(server)
        assert count_writes(harness) == 0
        with calling_as("ann"):
            done = await asked.finish(other)

    assert not done.is_error
    assert [entry["actor"] for entry in read_record(harness.settings) if entry["outcome"] == "done"] == ["ann"]


async def test_an_answer_is_none_to_a_call_with_other_arguments(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, UPDATE)
        for server in (one, other):
            with pytest.raises(MCPError, match=NO_STATE):
                await asked.with_arguments(enabled=True).answer(server)

    assert count_writes(harness) == 0


async def test_a_state_that_was_changed_is_none(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, UPDATE)
        assert asked.state is not None
        middle = len(asked.state) // 2
        letter = "A" if asked.state[middle] != "A" else "B"
        changed = AskedCall(
            asked.tool,
            asked.arguments,
            asked.key,
            asked.question,
            asked.state[:middle] + letter + asked.state[middle + 1 :],
        )
        for server in (one, other):
            with pytest.raises(MCPError, match=NO_STATE):
                await changed.answer(server)

    assert count_writes(harness) == 0


async def test_a_yes_without_a_state_is_asked_about(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        reply = await AskedCall(asked.tool, asked.arguments, asked.key, asked.question, None).answer(other)

    assert isinstance(reply, AskedCall)
    assert count_writes(harness) == 0


async def test_keys_can_be_changed_while_questions_are_open(harness: Harness) -> None:
    old, new = KEYS
    rings = [[old], [old, new], [new, old], [new]]
    for before, after in pairwise(rings):
        harness.state_keys = before
        token = add_token(harness)
        async with harness.connected(person=_nobody) as client:
            asked = await ask(client, DELETE, {"id": token.id})
        harness.state_keys = after
        async with harness.connected(person=_nobody) as client:
            assert not (await asked.finish(client)).is_error, (before, after)


async def test_without_shared_keys_no_other_server_takes_an_answer(harness: Harness) -> None:
    harness.state_keys = ()
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        with pytest.raises(MCPError, match=NO_STATE):
            await asked.answer(other)
        assert not (await asked.finish(one)).is_error


async def _nobody(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    raise AssertionError("the client answers by calling again")


async def test_a_token_that_changed_meanwhile_is_asked_about_anew(harness: Harness) -> None:
    [token] = harness.tokens_of(JANE)
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        harness.cluster.tokens[token.id] = replace(token, expiration_time=NOW + timedelta(days=7))
        anew = await asked.answer(other)
        assert isinstance(anew, AskedCall)
        asked_anew = [await asked.is_asked_anew(server) for server in (one, other)]
        assert count_writes(harness) == 0
        done = await anew.finish(one)

    assert "expires 2026-12-01 09:00 UTC (in 7 days)" in anew.question
    assert asked_anew == [True, True]
    assert not done.is_error
    assert read_outcomes(harness.settings) == ["asked", "done"]


async def test_a_token_that_is_gone_meanwhile_is_told(harness: Harness) -> None:
    [token] = harness.tokens_of(JANE)
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        del harness.cluster.tokens[token.id]
        answers = [await asked.finish(server) for server in (other, one)]

    assert all(answer.text.startswith(f"Nothing was done. There is no access token {token.id}.") for answer in answers)
    assert count_writes(harness) == 0


@pytest.mark.parametrize(
    "damage",
    ["UPDATE questions SET open_until = '2000'", "UPDATE questions SET planned = '2000'"],
    ids=["over", "damaged"],
)
async def test_a_question_whose_time_is_over_or_unreadable_is_asked_anew(harness: Harness, damage: str) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        execute(harness.settings, damage)
        asked_anew = [await asked.is_asked_anew(server) for server in (one, other)]

    assert asked_anew == [True, True]
    assert count_writes(harness) == 0
    assert len(execute(harness.settings, "SELECT * FROM questions")) == 1


async def test_servers_whose_clocks_differ_ask_in_the_same_words(harness: Harness) -> None:
    async def date(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.headers["Date"] = f"{NOW:%a, %d %b %Y %H:%M:%S} GMT"
        return response

    harness.recorder.on_served = date
    harness.now -= timedelta(hours=2)
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, CREATE)
        harness.now += timedelta(minutes=3)
        done = await asked.finish(other)

    assert "Times are by the cluster's clock, which is 2 hours ahead of this machine's." in asked.question
    assert not done.is_error


async def test_a_yes_of_which_nothing_came_is_used_up_all_the_same(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403)

    usual = harness.recorder.on_served
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, DELETE)
        harness.recorder.on_served = refuse
        assert (await asked.finish(one)).is_error
        harness.recorder.on_served = usual
        asked_anew = [await asked.is_asked_anew(server) for server in (one, other)]

    assert asked_anew == [True, True]
    assert count_writes(harness) == 0


async def test_of_one_yes_at_two_servers_at_once_one_counts(harness: Harness) -> None:
    replies: list[AskedCall | ToolAnswer] = []

    async def answer(client: Client) -> None:
        replies.append(await asked.answer(client))

    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, CREATE)
        async with anyio.create_task_group() as calls:
            for server in (one, other) * 2:
                calls.start_soon(answer, server)

    assert count_writes(harness) == 1
    assert sum(isinstance(reply, ToolAnswer) and not reply.is_error for reply in replies) == 1


async def run_first_round_in_between(
    harness: Harness, one: Client, other: Client, then: Callable[[], None]
) -> tuple[AskedCall, AskedCall | ToolAnswer]:
    """Let a server be asked, do something, and let another go on with an equal call, which had looked at the token."""
    between: list[AskedCall] = []
    usual = harness.recorder.on_served

    async def ask_one(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        harness.recorder.on_served = usual
        async with anyio.create_task_group() as calls:
            calls.start_soon(ask_and_note)
        then()
        return response

    async def ask_and_note() -> None:
        between.append(await ask_about(harness, one, DELETE))

    harness.recorder.on_served = ask_one
    reply = await call(other, DELETE, {"id": harness.tokens_of(JANE)[0].id})
    [first] = between
    return first, reply


async def test_of_equal_calls_at_once_all_get_the_question_of_the_first(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        first, second = await run_first_round_in_between(harness, one, other, lambda: None)
        assert isinstance(second, AskedCall)
        done = await second.finish(one)
        again = await first.answer(other)

    assert first.question == second.question
    assert not done.is_error
    assert isinstance(again, ToolAnswer)
    assert again.is_error
    assert count_writes(harness) == 1


async def test_of_equal_calls_at_once_that_find_different_things_one_is_asked_about(harness: Harness) -> None:
    [token] = harness.tokens_of(JANE)

    def change() -> None:
        harness.cluster.tokens[token.id] = replace(token, enabled=False)

    async with two_servers(harness) as (one, other):
        _, refusal = await run_first_round_in_between(harness, one, other, change)

    assert isinstance(refusal, ToolAnswer)
    assert refusal.text == (
        "Nothing was done. An equal call is being asked about, and things have changed since. Call again to see how "
        "they are now."
    )
    assert read_outcomes(harness.settings) == ["asked", "refused"]


async def test_while_one_server_rotates_a_token_no_other_does(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, ROTATE)
        replies: list[AskedCall | ToolAnswer] = []
        usual = harness.recorder.on_served

        async def rotate() -> None:
            replies.append(await call(other, ROTATE, asked.arguments))

        async def rotate_elsewhere(request: httpx.Request, response: httpx.Response) -> httpx.Response:
            if request.method == "POST" and request.url.path == TOKENS_PATH:
                harness.recorder.on_served = usual
                async with anyio.create_task_group() as calls:
                    calls.start_soon(rotate)
            return response

        harness.recorder.on_served = rotate_elsewhere
        done = await asked.finish(one)

    assert not done.is_error
    [refusal] = replies
    assert isinstance(refusal, ToolAnswer)
    assert "is just being rotated by another server" in refusal.text
    assert len(harness.tokens_of(JANE)) == 2


async def test_what_a_killed_server_left_after_a_yes_is_told_by_the_others(harness: Harness) -> None:
    async with two_servers(harness) as (one, other):
        asked = await ask_about(harness, one, CREATE)
        await asked.finish(other)
        forget_outcomes(harness.settings)
        told = await call(one, "list_token_changes", {})

    assert isinstance(told, ToolAnswer)
    assert "Resolved: the create for local:jane begun at 2026-11-24 09:00 UTC" in told.text
    assert f"consent agreed (question {asked.question[-9:-1]})" in told.text
