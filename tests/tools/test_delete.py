"""Test deletions: what is said before a deletion, and what is checked after it."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.example_tokens import add_token, lockout_refusal, own_token
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    DECLINES,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    refusal_response,
)
from tests.support.misbehaving_cluster import (
    FALSE_DELETE_ANSWERS,
    HTML_PAGE,
    block_requests,
    hide_token_ids,
    replace_answer,
)
from tests.support.record import read_outcomes, read_record
from tests.support.remedies import parse_calls

pytestmark = pytest.mark.anyio


async def test_delete_tells_what_was_there_and_how_to_make_it_again(harness: Harness) -> None:
    token = add_token(harness, enabled=False)

    answer = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert token.id not in harness.cluster.tokens
    assert answer.fields == {
        "summary": f"Deleted access token {token.id} of local:jane on c.example.com:8000 for ever: disabled, expires "
        "2027-01-13 09:00 UTC (in 50 days); made 40 days ago by local:admin.",
        "id": token.id,
        "user": "local:jane",
        "creator": "local:admin",
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": False,
        "next_step": 'Another like it: create_access_token(user="local:jane", expiration_time="2027-01-13T09:00:00Z").',
    }
    for fact in (answer.fields["summary"], answer.fields["next_step"]):
        assert fact in answer.text
    assert [
        (entry["operation"], entry["outcome"], entry["token_id"]) for entry in read_record(harness.settings.state_dir)
    ] == [("delete", "done", token.id)]


@pytest.mark.parametrize(
    ("expiration_time", "again"),
    [(NOW - timedelta(days=1), "39d"), (None, "never"), (NOW - timedelta(days=40, seconds=-5), "1min")],
    ids=["expired", "for-ever", "expired-at-once"],
)
async def test_another_token_like_a_deleted_one_can_be_made_as_told(
    harness: Harness, expiration_time: datetime | None, again: str
) -> None:
    token = add_token(harness, expiration_time=expiration_time)

    answer = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert f'create_access_token(user="local:jane", expiration_time="{again}")' in answer.fields["next_step"]
    made = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": again}, confirm="none")
    assert not made.is_error


async def test_the_question_before_a_deletion_tells_whose_and_how_old_and_in_what_state_it_is(harness: Harness) -> None:
    token = add_token(harness, AD_JANE)
    person = ScriptedPerson([AGREES])

    answer = await harness.call("delete_access_token", {"id": token.id}, person=person)

    assert person.questions[0].startswith(
        f"Delete the access token {token.id} of the user ad:CORP\\jane (ACTIVE_DIRECTORY, auth_id 21474836481) on the "
        "cluster c.example.com:8000 for ever? Now: enabled, expires 2027-01-13 09:00 UTC (in 50 days); made 40 days "
        "ago by local:admin. Better disable a token first, watch whether anything breaks, and delete it then. Asked "
        "because this cannot be undone. [question "
    )
    assert answer.fields["next_step"].endswith(
        "The deleted one still worked. Better disable a token first, watch whether anything breaks, and delete it then."
    )


async def test_a_disabled_token_is_deleted_without_advice(harness: Harness) -> None:
    person = ScriptedPerson([AGREES])

    await harness.call("delete_access_token", {"id": add_token(harness, enabled=False).id}, person=person)

    assert "Better disable" not in person.questions[0]


async def test_a_deletion_that_is_turned_down_is_none(harness: Harness) -> None:
    token = add_token(harness)

    refusal = await harness.call_without_effect(
        "delete_access_token", {"id": token.id}, person=ScriptedPerson([DECLINES])
    )

    assert "The question was answered with no, by a person or by the client itself." in refusal
    assert token.id in harness.cluster.tokens
    assert read_outcomes(harness.settings) == ["declined"]


async def test_a_client_that_cannot_ask_is_told_how_to_delete_by_hand(harness: Harness) -> None:
    token = add_token(harness)

    refusal = await harness.call_refused("delete_access_token", {"id": token.id})

    assert refusal.endswith(f"by hand: qq --host c.example.com --port 8000 auth_delete_access_token {token.id}")
    assert token.id in harness.cluster.tokens


async def test_the_token_that_the_server_runs_on_is_not_deleted(harness: Harness) -> None:
    own = own_token(harness)

    refusal = await harness.call_without_effect("delete_access_token", {"id": own.id}, confirm="none")

    assert refusal == lockout_refusal(own, "delete it")
    assert own.id in harness.cluster.tokens


async def test_a_deletion_that_somebody_was_faster_with_is_as_good(harness: Harness) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("DELETE", refusal_response(404), path=TOKENS_PATH + token.id)

    answer = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert answer.text.startswith(f"Deleted access token {token.id} ")


async def test_a_disabled_or_expired_token_is_not_taken_for_the_own_token(harness: Harness) -> None:
    hide_token_ids(harness)
    specials: list[dict[str, Any]] = [{"enabled": False}, {"expiration_time": NOW - timedelta(days=2)}]
    for special in specials:
        dead = add_token(harness, ADMIN, **special)

        answer = await harness.call("delete_access_token", {"id": dead.id}, confirm="none")

        assert not answer.is_error
        assert dead.id not in harness.cluster.tokens


@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
@pytest.mark.usefixtures("no_consent")
async def test_a_deletion_that_did_not_happen_is_never_told(harness: Harness, answer: httpx.Response) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    block_requests(harness, "DELETE", answer)

    refusal = await harness.call_refused("delete_access_token", {"id": token.id})

    assert f"So far, token {token.id} is still there." in refusal
    assert read_outcomes(harness.settings.state_dir) == ["unknown"]
    assert harness.tokens_of(JANE) == [token]


@pytest.mark.parametrize(
    "look", [httpx.Response(404, html=HTML_PAGE), httpx.Response(404), httpx.Response(200, json={})]
)
@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
@pytest.mark.usefixtures("no_consent")
async def test_a_deletion_of_which_nothing_can_be_seen_is_told_as_not_known(
    harness: Harness, answer: httpx.Response, look: httpx.Response
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "DELETE"
        if not is_over:
            return response
        return answer if request.method == "DELETE" else look

    harness.recorder.on_served = serve

    refusal = await harness.call_refused("delete_access_token", {"id": token.id})

    assert f"It could not be found out whether token {token.id} was deleted" in refusal
    assert read_outcomes(harness.settings.state_dir) == ["unknown"]


@pytest.mark.usefixtures("no_consent")
async def test_a_token_that_somebody_else_deleted_first_is_told_as_gone_and_by_whom(harness: Harness) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("DELETE", refusal_response(404))

    answer = await harness.call("delete_access_token", {"id": token.id})

    assert not answer.is_error
    assert "somebody else may have done it" in answer.text
    assert "somebody else may have done it" in answer.fields["warning"]


@pytest.mark.parametrize("remains", [False, True], ids=["gone", "still-there"])
@pytest.mark.usefixtures("no_consent")
async def test_where_a_token_that_is_gone_may_not_be_asked_for_its_user_s_list_decides(
    harness: Harness, remains: bool
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "DELETE"
        if request.method == "DELETE" and remains:
            harness.cluster.tokens[token.id] = token
        is_look = is_over and (request.method, request.url.path) == ("GET", TOKENS_PATH + token.id)
        return refusal_response(403) if is_look else response

    harness.recorder.on_served = serve

    answer = await harness.call("delete_access_token", {"id": token.id})

    assert answer.is_error is remains
    assert ("So far, token" in answer.text) is remains


@pytest.mark.usefixtures("no_consent")
async def test_a_deletion_s_question_tells_no_age_of_what_is_still_to_come(harness: Harness) -> None:
    token = harness.cluster.add_token("1001", creator="500", creation_time=NOW + timedelta(hours=2))
    person = ScriptedPerson([AGREES])

    await harness.call("delete_access_token", {"id": token.id}, person=person, confirm="risky")

    assert "made in 2 hours by local:admin" in person.questions[0]


async def test_another_like_one_that_is_over_lives_no_longer_than_that(harness: Harness) -> None:
    token = add_token(harness, creation_time=NOW - timedelta(hours=9), expiration_time=NOW - timedelta(hours=1))

    answer = await harness.call(
        "delete_access_token",
        {"id": token.id},
        confirm="none",
        max_lifetime=timedelta(hours=12),
        default_lifetime=timedelta(hours=1),
    )

    assert parse_calls(answer.fields["next_step"]) == [
        ("create_access_token", {"user": "local:jane", "expiration_time": "8h"})
    ]


@pytest.mark.parametrize(
    ("expires", "again"), [(None, "30d"), (NOW + timedelta(days=60), "30d"), (NOW + timedelta(days=9), "2026-12-03")]
)
async def test_another_like_a_deleted_one_is_what_the_operator_allows(
    harness: Harness,
    expires: datetime | None,
    again: str,
) -> None:
    token = add_token(harness, expiration_time=expires)
    month: Any = {"max_lifetime": timedelta(days=30), "default_lifetime": timedelta(days=30)}

    answer = await harness.call("delete_access_token", {"id": token.id}, confirm="none", **month)

    [(tool, arguments)] = parse_calls(answer.fields["next_step"])
    assert arguments["expiration_time"].startswith(again)
    assert not (await harness.call(tool, arguments, **month)).is_error


async def test_a_token_that_this_server_deleted_is_told_as_that(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    known = await harness.call_refused("get_access_token", {"id": token.id})
    unknown = await harness.call_refused("get_access_token", {"id": "123"})

    assert "This server deleted it at 2026-11-24 09:00 UTC; list_access_tokens tells the ids." in known
    assert "deleted" not in unknown
