"""The question that a client shows to a person: its text, its form, and every answer but a yes."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.client import ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, ErrorData, InputRequiredResult

from tests.support.harness import (
    ADMIN,
    AGREES,
    JANE,
    NEVER_EXPIRING_REQUEST,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.questions import call_until_question, call_with_answers

pytestmark = pytest.mark.anyio
DECLINED_TEXT = "was answered with no, by a person or by the client itself."
DISMISSED_TEXT = "was not answered (dismissed by a person or by the client)."
UNTICKED_TEXT = "The form was sent without its tick"
BLANK_TEXT = "The client sent no answer to `agree` that is true or false."
ASK_AGAIN_TEXT = "ask again only if a person wants to be."
BY_HAND_TEXT = "It is not for you to run, but a person can do it by hand: "


async def test_the_question_tells_the_expiry_in_both_ways(harness: Harness) -> None:
    person = ScriptedPerson([AGREES])

    await harness.call(
        "create_access_token", {"user": "local:jane", "expiration_time": "12h"}, person=person, confirm="all"
    )

    [question] = person.questions
    assert "It expires 2026-11-24 21:00 UTC (in 12 hours)." in question
    assert "Asked because QUMULO_CONFIRM=all." in question


async def test_the_question_says_what_could_not_be_found_out(harness: Harness) -> None:
    async def refuse_lists(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.method == "GET" else response

    harness.recorder.on_served = refuse_lists
    person = ScriptedPerson([AGREES])

    answer = await harness.call("create_access_token", NEVER_EXPIRING_REQUEST, person=person)

    assert not answer.is_error
    assert "How many of the 2 possible tokens the user has now is not known." in person.questions[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(ElicitResult(action="decline"), DECLINED_TEXT, id="declined"),
        pytest.param(ElicitResult(action="cancel"), DISMISSED_TEXT, id="cancelled"),
        pytest.param(ElicitResult(action="accept", content={"agree": False}), UNTICKED_TEXT, id="not-ticked"),
        pytest.param(ElicitResult(action="accept", content={}), BLANK_TEXT, id="no-fields"),
        pytest.param(ElicitResult(action="accept"), BLANK_TEXT, id="no-content"),
        pytest.param(ElicitResult(action="accept", content={"sure": True}), BLANK_TEXT, id="other-field"),
        pytest.param(ElicitResult(action="accept", content={"agree": None}), BLANK_TEXT, id="null"),
        pytest.param(ElicitResult(action="accept", content={"agree": "x"}), BLANK_TEXT, id="text"),
        pytest.param(ElicitResult(action="accept", content={"agree": "true"}), BLANK_TEXT, id="yes-as-text"),
        pytest.param(ElicitResult(action="accept", content={"agree": 1}), BLANK_TEXT, id="number"),
        pytest.param(ElicitResult(action="accept", content={"agree": ["true"]}), BLANK_TEXT, id="list"),
    ],
)
async def test_each_answer_but_a_clear_yes_does_nothing_and_is_told_as_what_it_is(
    harness: Harness, answer: ElicitResult, said: str
) -> None:
    refusal = await harness.call_without_effect(
        "create_access_token", NEVER_EXPIRING_REQUEST, person=ScriptedPerson([answer])
    )

    assert [words for words in (DECLINED_TEXT, DISMISSED_TEXT, UNTICKED_TEXT, BLANK_TEXT) if words in refusal] == [said]
    assert "It is asked because it would never expire." in refusal
    assert BY_HAND_TEXT in refusal
    assert harness.tokens_of(JANE) == []
    assert not harness.settings.delivery_dir.exists()


@pytest.mark.parametrize(
    "answer",
    [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"agree": False}),
        ElicitResult(action="accept"),
    ],
    ids=["declined", "cancelled", "not-ticked", "no-content"],
)
async def test_after_answers_other_than_yes_another_question_is_no_longer_advised(
    harness: Harness, answer: ElicitResult
) -> None:
    async with harness.connected(person=ScriptedPerson([answer, answer, answer, AGREES, answer])) as client:
        reply = [
            ToolAnswer.from_result(await client.call_tool("create_access_token", NEVER_EXPIRING_REQUEST))
            for _ in range(5)
        ]

    assert [ASK_AGAIN_TEXT in one.text for one in reply] == [False, True, True, False, False]
    assert "call again" in reply[0].text.lower()
    assert not any("call again" in one.text.lower() for one in reply[1:3])
    assert "asked 3 times now" in reply[2].text
    assert len(harness.tokens_of(JANE)) == 1


async def test_answers_other_than_yes_are_counted_for_each_request_alone(harness: Harness) -> None:
    async with harness.connected(person=ScriptedPerson([ElicitResult(action="cancel")])) as client:
        for user in ("local:jane", "auth_id:1001"):
            answer = ToolAnswer.from_result(
                await client.call_tool("create_access_token", NEVER_EXPIRING_REQUEST | {"user": user})
            )

            assert ASK_AGAIN_TEXT not in answer.text


async def test_a_client_that_cannot_ask_is_told_how_a_person_does_it_and_not_what_relaxes_the_rule(
    harness: Harness,
) -> None:
    refusal = await harness.call_without_effect(
        "create_access_token", {"user": "local:admin", "expiration_time": "30d"}
    )

    assert re.search(
        r"a person can do it by hand: \(umask 077; set -C; : > (~/access-token-\w{8}) && \{ "
        r"qq --host c\.example\.com --port 8000 auth_create_access_token auth_id:500 "
        r"--expiration-time 2026-12-24T09:00:00Z --file \1 > /dev/null \|\| \{ rm \1; exit 1; \}; \}\)$",
        refusal,
    )
    assert "QUMULO_" not in refusal
    assert len(harness.tokens_of(ADMIN)) == 1


async def test_the_text_of_the_question_is_the_server_s_own(harness: Harness) -> None:
    """A name that somebody chose cannot put words into the question."""
    hostile = replace(JANE, name="jane? It expires soon.\n\nJust agree")
    harness.cluster.add_account(hostile)
    person = ScriptedPerson([AGREES])

    await harness.call("create_access_token", NEVER_EXPIRING_REQUEST | {"user": "auth_id:1001"}, person=person)

    assert r'for the user local:"jane? It expires soon.\n\nJust agree" (auth_id 1001)' in person.questions[0]
    assert person.questions[0].isprintable()


async def test_a_question_that_nobody_answers_ends_in_time_with_nothing_done(tmp_path: Path) -> None:
    """Only in the older era does the server wait. In the newer era, the client calls again with the answer."""

    async def never_answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    harness = create_harness("legacy", tmp_path)
    harness.consent_timeout = timedelta(milliseconds=50)

    refusal = await harness.call_without_effect("create_access_token", NEVER_EXPIRING_REQUEST, person=never_answer)

    assert (
        "Nobody answered the question in time. It is asked because it would never expire. Call again when " in refusal
    )
    assert BY_HAND_TEXT in refusal
    assert harness.tokens_of(JANE) == []


async def test_a_slow_cluster_after_a_quick_answer_is_not_taken_for_no_answer(harness: Harness) -> None:
    harness.consent_timeout = timedelta(milliseconds=200)

    async def take_longer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            with anyio.move_on_after(0.4):
                await anyio.sleep_forever()
        return response

    harness.recorder.on_served = take_longer

    answer = await harness.call("create_access_token", NEVER_EXPIRING_REQUEST, person=ScriptedPerson([AGREES]))

    assert not answer.is_error


async def test_each_call_asks_anew(harness: Harness) -> None:
    person = ScriptedPerson([AGREES])
    async with harness.connected(person=person) as client:
        for _ in range(2):
            await client.call_tool("create_access_token", NEVER_EXPIRING_REQUEST)

    assert len(harness.tokens_of(JANE)) == 2
    assert len(set(person.questions)) == 2


async def test_a_replayed_answer_does_not_make_a_second_token(tmp_path: Path) -> None:
    harness = create_harness("auto", tmp_path)
    async with harness.connected(person=ScriptedPerson([AGREES])) as client:
        answers, state = await call_until_question(client)
        first = await call_with_answers(client, answers, state)
        replayed = await call_with_answers(client, answers, state)

    assert isinstance(first, CallToolResult)
    assert not first.is_error
    assert isinstance(replayed, InputRequiredResult)
    assert len(harness.tokens_of(JANE)) == 1


async def test_a_client_that_fails_to_ask_is_told_that_nothing_was_done(tmp_path: Path) -> None:
    """Only in the older era does the server ask the client. In the newer era it calls again with the answer."""

    async def fail(context: ClientRequestContext, params: ElicitRequestParams) -> ErrorData:
        return ErrorData(code=-32603, message="the dialogue crashed")

    harness = create_harness("legacy", tmp_path)

    refusal = await harness.call_without_effect("create_access_token", NEVER_EXPIRING_REQUEST, person=fail)

    assert "The question came back with an error or with what cannot be read" in refusal
    assert BY_HAND_TEXT in refusal
    assert harness.tokens_of(JANE) == []
