"""Test which changes need the consent of a person, and what one consent allows."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, InputRequiredResult

from tests.support.example_tokens import add_token
from tests.support.harness import (
    ADMIN,
    AGREES,
    DECLINES,
    JANE,
    LDAP_BOB,
    NEVER_EXPIRING_REQUEST,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.questions import ExamplePlan, call_until_question, call_with_answers
from token_tools.operations.consent import IRREVERSIBLE, MAX_COUNTED_REQUESTS, MAX_PENDING_PLANS, PendingPlans
from token_tools.operations.next_steps import PERSON_DECIDES

pytestmark = pytest.mark.anyio


async def test_a_risky_token_is_made_once_a_person_agrees(harness: Harness) -> None:
    harness.cluster.add_token(JANE.auth_id, creator="500")
    person = ScriptedPerson([AGREES])

    answer = await harness.call("create_access_token", NEVER_EXPIRING_REQUEST, person=person)

    assert not answer.is_error
    assert len(harness.tokens_of(JANE)) == 2
    [question] = person.questions
    assert question.startswith(
        "Make an access token for the user local:jane (auth_id 1001) on the cluster c.example.com:8000? "
        "Whoever has it can act as that user. It never expires. The user has 1 of 2 possible tokens now. "
        "Asked because it would never expire. [question "
    )


@pytest.mark.parametrize("user", ["local:admin", "admin", "auth_id:500", "self", "sid:S-1-5-21-1-2-3-500"])
async def test_a_token_of_the_built_in_administrator_is_asked_about(harness: Harness, user: str) -> None:
    person = ScriptedPerson([AGREES])

    answer = await harness.call("create_access_token", {"user": user}, person=person)

    assert not answer.is_error
    assert "Asked because it is for the built-in administrator." in person.questions[0]
    assert len(harness.tokens_of(ADMIN)) == 2


async def refuse_lookups(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    return refusal_response(403) if request.url.path.endswith("/identity/find") else response


@pytest.mark.parametrize("user", ["local:admin", "Admin", "auth_id:500", "sid:S-1-5-21-1-2-3-500"])
async def test_the_built_in_administrator_is_known_without_the_cluster_s_help(harness: Harness, user: str) -> None:
    harness.recorder.on_served = refuse_lookups
    person = ScriptedPerson([ElicitResult(action="decline")])

    await harness.call_refused("create_access_token", {"user": user}, person=person)

    assert "Asked because it is for the built-in administrator." in person.questions[0]


async def test_another_user_named_admin_needs_no_consent(harness: Harness) -> None:
    namesake = replace(JANE, auth_id="1500", name="admin")
    harness.cluster.add_account(namesake)
    person = ScriptedPerson([AGREES])

    await harness.call("create_access_token", {"user": "auth_id:1500"}, person=person)

    assert person.questions == []
    assert len(harness.tokens_of(namesake)) == 1


@pytest.mark.parametrize("user", [r"CL\admin", r"local:CL\admin", "ad:admin", "admin@cl", "local:jane"])
async def test_a_name_that_the_cluster_may_not_look_up_for_us_is_asked_about(harness: Harness, user: str) -> None:
    harness.recorder.on_served = refuse_lookups
    person = ScriptedPerson([ElicitResult(action="decline")])

    await harness.call_refused("create_access_token", {"user": user}, person=person)

    [question] = person.questions
    assert "Asked because the cluster did not tell who that is." in question
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@pytest.mark.parametrize(
    ("arguments", "confirm"),
    [({"user": "local:jane"}, "risky"), (NEVER_EXPIRING_REQUEST, "none"), ({"user": "local:admin"}, "none")],
    ids=["ordinary", "for-ever", "administrator"],
)
async def test_nobody_is_asked_where_the_operator_wants_it_so(
    harness: Harness, arguments: dict[str, str], confirm: str
) -> None:
    person = ScriptedPerson([AGREES])

    answer = await harness.call("create_access_token", arguments, person=person, confirm=confirm)

    assert not answer.is_error
    assert person.questions == []


def test_only_the_latest_requests_that_were_asked_in_vain_are_counted() -> None:
    questions = PendingPlans()
    plans = [
        ExamplePlan(request=str(number), time=NOW, confirm="risky", risks=[IRREVERSIBLE])
        for number in range(MAX_COUNTED_REQUESTS + 1)
    ]

    assert {questions.count_no_consent("", plan) for plan in plans} == {1}
    assert [questions.count_no_consent("", plan) for plan in (plans[-1], plans[0])] == [2, 1]


def test_only_the_latest_plans_are_kept() -> None:
    questions = PendingPlans()
    plans = [
        ExamplePlan(question_id=str(number), time=NOW, confirm="risky", risks=[IRREVERSIBLE])
        for number in range(MAX_PENDING_PLANS + 1)
    ]
    for plan in plans:
        questions.add(plan)

    assert [questions.find(plan.question_id) for plan in (plans[0], plans[-1])] == [None, plans[-1]]


async def test_one_answer_to_two_calls_at_once_makes_one_token(tmp_path: Path) -> None:
    harness = create_harness("auto", tmp_path)
    results: list[CallToolResult | InputRequiredResult] = []
    async with harness.connected(person=ScriptedPerson([AGREES])) as client:
        answers, state = await call_until_question(client)

        async def answer_and_note() -> None:
            results.append(await call_with_answers(client, answers, state))

        async with anyio.create_task_group() as calls:
            calls.start_soon(answer_and_note)
            calls.start_soon(answer_and_note)

    assert len(harness.tokens_of(JANE)) == 1
    assert len([result for result in results if isinstance(result, CallToolResult) and not result.is_error]) == 1


async def test_of_two_equal_calls_at_once_each_consent_makes_one_token(harness: Harness) -> None:
    """In the older era, both calls ask at once. In the newer era, the second call asks again."""
    person = ScriptedPerson([AGREES])
    answer: list[ToolAnswer] = []
    async with harness.connected(person=person) as client:

        async def create() -> None:
            answer.append(ToolAnswer.from_result(await client.call_tool("create_access_token", NEVER_EXPIRING_REQUEST)))

        async with anyio.create_task_group() as calls:
            calls.start_soon(create)
            calls.start_soon(create)

    made = [one for one in answer if not one.is_error]
    assert len(harness.tokens_of(JANE)) == len(made)
    assert len(made) == len(set(person.questions))
    assert all("its answer is used up." in one.text for one in answer if one.is_error)


async def test_what_changed_while_the_person_thought_is_seen(harness: Harness) -> None:
    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        for _ in range(2):
            harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
        return AGREES

    refusal = await harness.call_without_effect("create_access_token", NEVER_EXPIRING_REQUEST, person=think)

    first, second = harness.tokens_of(JANE)
    for token in (first, second):
        assert f"{token.id} (enabled, expires 2026-12-03 09:00 UTC (in 9 days); made" in refusal
    assert refusal.startswith("local:jane has 2 access tokens already, as many as a user can have: ")
    assert refusal.endswith(PERSON_DECIDES)
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_an_expiry_that_passes_while_the_person_thinks_is_no_expiry(harness: Harness) -> None:
    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        harness.now += timedelta(minutes=6)
        return AGREES

    arguments = {"user": "local:jane", "expiration_time": "5min"}
    refusal = await harness.call_without_effect("create_access_token", arguments, person=think, confirm="all")

    assert refusal == "The expiry has passed meanwhile."
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@pytest.mark.parametrize(
    ("tool", "change"),
    [
        ("create_access_token", {}),
        ("update_access_token", {"enabled": False}),
        ("delete_access_token", {}),
        ("rotate_access_token", {}),
    ],
    ids=["create", "update", "delete", "rotate"],
)
async def test_concurrent_consent_questions_keep_their_own_answers(
    harness: Harness, tool: str, change: dict[str, Any]
) -> None:
    jane_s, bob_s = add_token(harness), add_token(harness, LDAP_BOB)
    asked: list[str] = []
    both = anyio.Event()

    async def agree_to_bob_s(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        if len(asked) == 2:
            both.set()
        await both.wait()
        return AGREES if "bob" in params.message else DECLINES

    async with harness.connected(person=agree_to_bob_s, confirm="all") as client, anyio.create_task_group() as calls:
        for token in (jane_s, bob_s):
            named = {"user": f"auth_id:{token.user}"} if tool == "create_access_token" else {"id": token.id}
            calls.start_soon(client.call_tool, tool, {**named, **change})

    assert sorted("bob" in question for question in asked) == [False, True]
    assert harness.tokens_of(JANE) == [jane_s]
    assert harness.tokens_of(LDAP_BOB) != [bob_s]
