"""Answers about something else than what was asked, also two at a time: nothing is believed or done for them."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.harness import (
    ADMIN,
    AGREES,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    refusal_response,
)
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Token
from token_tools.sandbox.faults import Endpoint, Fault, Faults

pytestmark = pytest.mark.anyio

FIND_PATH = "/v1/identity/find"
WHO_AM_I_PATH = "/v1/session/who-am-i"
MONTH = timedelta(days=30)


@pytest.fixture(autouse=True)
def no_consent(harness: Harness) -> None:
    """Nobody is asked unless a test wants it."""
    harness.settings = harness.settings.model_copy(update={"confirm": "none"})


def rewrite_answers(
    harness: Harness, method: str, path: str, rewrite: Callable[[dict[str, Any]], dict[str, Any]], *, first: int = 1
) -> None:
    """From the so-manieth answer of a kind on, its JSON is another."""
    before: Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]] = harness.recorder.on_served
    seen = 0

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        if (request.method, request.url.path) != (method, path):
            return await before(request, response)
        seen += 1
        return httpx.Response(200, json=rewrite(response.json())) if seen >= first else response

    harness.recorder.on_served = serve


def inject_faults(harness: Harness, plan: dict[Endpoint, Fault]) -> None:
    harness.recorder.cluster = httpx.ASGITransport(Faults(create_app(harness.cluster), plan))


def add_token_of_jane(harness: Harness) -> Token:
    return harness.cluster.add_token("1001", creator="500", creation_time=NOW - MONTH, expiration_time=NOW + MONTH)


def lose_delivery_folder(harness: Harness) -> None:
    before = harness.recorder.on_served

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            for file in harness.settings.delivery_dir.iterdir():
                file.unlink()
        return await before(request, response)

    harness.recorder.on_served = serve


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "another"])
@pytest.mark.parametrize("case", ["rotate", "create", "limited", "lost"])
async def test_a_create_that_is_answered_with_somebody_else_s_token_touches_that_one_never(
    harness: Harness, case: str, is_own: bool
) -> None:
    jane = add_token_of_jane(harness)
    bob = harness.cluster.add_token(LDAP_BOB.auth_id, creator="500", creation_time=NOW - MONTH)
    [own] = harness.tokens_of(ADMIN)
    other = own if is_own else bob
    before = dict(harness.cluster.tokens)
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda told: told | {"id": other.id})
    if case == "lost":
        lose_delivery_folder(harness)
    tool, arguments = (
        ("rotate_access_token", {"id": jane.id})
        if case == "rotate"
        else (
            "create_access_token",
            {"user": "local:jane"},
        )
    )

    told = await harness.call_refused(tool, arguments, max_lifetime=timedelta(days=90) if case == "limited" else None)

    [orphan] = [token for token in harness.tokens_of(JANE) if token != jane]
    assert {key: value for key, value in harness.cluster.tokens.items() if key != orphan.id} == before
    assert f"The answer was about token {other.id}" in told
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert f'delete_access_token(id="{other.id}")' not in told
    assert "o token is left" not in told


async def test_no_token_is_said_to_be_left_of_an_answer_about_nobody_s_that_could_not_be_delivered(
    harness: Harness,
) -> None:
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda told: told | {"id": "12345678901234567890123"})
    lose_delivery_folder(harness)

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert "o token is left" not in told


async def test_of_a_token_that_cannot_be_read_back_it_is_said_that_nobody_looked_at_it(harness: Harness) -> None:
    inject_faults(harness, {"get": "page-404"})

    told = await harness.call("create_access_token", {"user": "local:jane"})

    assert "It could not be read back" in told.fields["warning"]


async def test_the_server_s_own_credential_is_no_new_bearer_token(harness: Harness) -> None:
    [own] = harness.tokens_of(ADMIN)
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda told: told | {"bearer_token": own.bearer_token})

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert [*harness.settings.delivery_dir.iterdir()] == []


def hide_tokens_in_first_list(harness: Harness) -> None:
    """A cluster whose first list has no tokens, and the next has them."""
    seen = 0

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        seen += request.url.path == TOKENS_PATH
        return httpx.Response(200, json={"entries": []}) if request.url.path == TOKENS_PATH and seen == 1 else response

    harness.recorder.on_served = answer


async def test_a_token_that_a_list_lacked_is_not_blamed_for_being_new(harness: Harness) -> None:
    jane = add_token_of_jane(harness)
    inject_faults(harness, {"create": "cut-before"})
    hide_tokens_in_first_list(harness)

    told = await harness.call_refused("rotate_access_token", {"id": jane.id})

    assert f'delete_access_token(id="{jane.id}")' not in told
    assert "It could not be found out whether a token was made for local:jane" in told


async def test_of_a_token_that_is_older_than_the_request_it_is_said_that_it_may_be_in_use(harness: Harness) -> None:
    jane = add_token_of_jane(harness)
    inject_faults(harness, {"create": "cut-before"})
    hide_tokens_in_first_list(harness)

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert jane.id in told
    assert "unless the clocks differ, it was there before and may be in use" in told


async def test_what_is_new_and_seems_to_be_made_by_others_is_named(harness: Harness) -> None:
    """Who-am-i told of somebody else, so that our own seems to be another's."""
    inject_faults(harness, {"create": "cut-after"})
    rewrite_answers(harness, "GET", WHO_AM_I_PATH, lambda told: told | {"id": LDAP_BOB.auth_id})

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f"as far as can be seen: new are only {orphan.id} (made 2026-11-24 09:00 UTC by local:admin)" in told


ANSWERS_ABOUT_NOBODY: list[dict[str, Any]] = [{}, {"message": "Request blocked"}, {"domain": "LOCAL"}]


@pytest.mark.parametrize("answer", ANSWERS_ABOUT_NOBODY, ids=["empty", "gateway", "domain"])
@pytest.mark.parametrize("user", ["local:jane", "uid:1000", "sid:S-1-5-21-1-2-3-1001"])
async def test_an_answer_about_nobody_identifies_nobody(harness: Harness, answer: dict[str, Any], user: str) -> None:
    rewrite_answers(harness, "POST", FIND_PATH, lambda _: answer)

    told = await harness.call_refused("create_access_token", {"user": user})

    assert "The answer is not an identity" in told
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@pytest.mark.parametrize("user", ["uid:1000", "sid:S-1-5-88-1-1000", "local:jane"])
async def test_an_identity_found_without_the_requested_field_is_asked_about(harness: Harness, user: str) -> None:
    rewrite_answers(harness, "POST", FIND_PATH, lambda _: {"auth_id": "500"})
    human = ScriptedPerson([AGREES])

    told = await harness.call("create_access_token", {"user": user}, person=human, confirm="risky")

    assert "Asked because the cluster did not tell who that is" in human.questions[0]
    assert not told.is_error
    assert len(harness.tokens_of(ADMIN)) == 1


@pytest.mark.parametrize("tool", ["list_access_tokens", "create_access_token"])
async def test_a_list_of_somebody_else_s_tokens_is_not_taken_for_an_empty_one(harness: Harness, tool: str) -> None:
    add_token_of_jane(harness)
    others = {"id": "77", "user": {"auth_id": "500"}, "creation_time": "2026-01-01T00:00:00Z"}
    rewrite_answers(harness, "GET", TOKENS_PATH, lambda _: {"entries": [others]})

    told = await harness.call_refused(tool, {"user": "local:jane"})

    assert "The answer lists the tokens of another user than local:jane" in told


async def test_a_token_that_is_listed_twice_is_told_once(harness: Harness) -> None:
    rewrite_answers(harness, "GET", TOKENS_PATH, lambda told: {"entries": [*told["entries"], *told["entries"]]})

    told = await harness.call("list_access_tokens")

    assert told.text.startswith("1 access token on")
    assert len(told.fields["tokens"]) == 1


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"expiration_time": "90d"}], ids=["disable", "extend"])
async def test_a_change_that_is_answered_with_what_was_before_is_looked_at(
    harness: Harness, arguments: dict[str, Any]
) -> None:
    jane = add_token_of_jane(harness)
    old: httpx.Response | None = None

    async def repeat(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal old
        if request.method == "GET" and request.url.path == TOKENS_PATH + jane.id and old is None:
            old = response
        return old if request.method == "PATCH" and old is not None else response

    harness.recorder.on_served = repeat

    told = await harness.call("update_access_token", {"id": jane.id} | arguments)

    assert told.fields["changed"]
    assert told.text.startswith("Changed access token")


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_change_of_which_nothing_can_be_seen_afterwards_is_told_as_not_known(
    harness: Harness, status: int
) -> None:
    jane = add_token_of_jane(harness)
    told_before: list[httpx.Response] = []

    async def repeat(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH + jane.id:
            return response
        if request.method == "PATCH":
            return told_before[0]
        told_before.append(response)
        return response if len(told_before) == 1 else refusal_response(status)

    harness.recorder.on_served = repeat

    told = await harness.call_refused("update_access_token", {"id": jane.id, "enabled": False})

    assert f"It could not be found out whether token {jane.id} was changed" in told
    last = (harness.settings.state_dir / "journal.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["result"] == "unknown"


async def test_the_date_of_what_is_no_answer_of_the_cluster_is_not_its_time(harness: Harness) -> None:
    seen = 0

    async def be_busy_first(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        seen += 1
        page = httpx.Response(503, html="<h1>busy</h1>", headers={"Date": "Wed, 25 Nov 2026 09:00:00 GMT"})
        return page if seen == 1 else response

    harness.recorder.on_served = be_busy_first

    told = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": "1h"})

    assert told.fields["expiration_time"] == "2026-11-24T10:00:00Z"


async def test_the_date_of_an_answer_that_a_cache_kept_is_not_the_present(harness: Harness) -> None:
    async def keep(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.headers.update({"Date": "Mon, 23 Nov 2026 09:00:00 GMT", "Age": "86400"})
        return response

    harness.recorder.on_served = keep

    told = await harness.call("list_access_tokens")

    assert "It is 2026-11-24 09:00 UTC." in told.text


async def test_a_deletion_s_question_tells_no_age_of_what_is_still_to_come(harness: Harness) -> None:
    token = harness.cluster.add_token("1001", creator="500", creation_time=NOW + timedelta(hours=2))
    human = ScriptedPerson([AGREES])

    await harness.call("delete_access_token", {"id": token.id}, person=human, confirm="risky")

    assert "made in 2 hours by local:admin" in human.questions[0]


async def test_an_audit_of_nothing_by_who_knows_not_on_what_it_runs_does_not_find_nothing(harness: Harness) -> None:
    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I_PATH:
            return refusal_response(404)
        return httpx.Response(200, json={"entries": []}) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = hide

    audited = await harness.call("audit_access_tokens")

    assert "Nothing found." not in audited.text


async def test_a_flawed_token_that_is_gone_when_it_is_to_be_taken_back_is_not_said_to_be_deleted(
    harness: Harness,
) -> None:
    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_look = request.method == "GET" and request.url.path not in {TOKENS_PATH, WHO_AM_I_PATH}
        if not is_look or response.status_code != 200:
            return response
        del harness.cluster.tokens[response.json()["id"]]
        return httpx.Response(200, json=response.json() | {"expiration_time": None})

    harness.recorder.on_served = serve

    told = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=MONTH)

    assert "which the cluster does not know" in told
    assert "deleted again" not in told
    assert [request for request in harness.recorder.requests if request.method == "DELETE"] == []
    assert [*harness.settings.delivery_dir.iterdir()] == []


async def test_a_fresh_token_of_somebody_else_is_not_taken_back_either(harness: Harness) -> None:
    made: list[Token] = []

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) != ("POST", TOKENS_PATH):
            return response
        made.append(harness.cluster.add_token(LDAP_BOB.auth_id, creator="500"))
        return httpx.Response(200, json=response.json() | {"id": made[0].id})

    harness.recorder.on_served = serve
    lose_delivery_folder(harness)

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "the cluster says that it is of ldap_user:bob, so it was not touched" in told
    assert harness.tokens_of(LDAP_BOB) == made


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "nowhere"])
async def test_a_new_token_that_cannot_be_read_is_only_taken_back_if_the_list_has_it(
    harness: Harness, is_listed: bool
) -> None:
    old = add_token_of_jane(harness)
    lose_delivery_folder(harness)
    before = harness.recorder.on_served
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "POST"
        if is_over and request.method == "GET" and request.url.path not in {TOKENS_PATH, WHO_AM_I_PATH}:
            return response if response.status_code == 404 else httpx.Response(405)
        if is_over and request.url.path == TOKENS_PATH and request.method == "GET" and not is_listed:
            entries = [entry for entry in response.json()["entries"] if entry["id"] == old.id]
            return httpx.Response(200, json={"entries": entries})
        return await before(request, response)

    harness.recorder.on_served = serve

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert (harness.tokens_of(JANE) == [old]) is is_listed
    assert ("It is not known to be new, and was not touched." in told) is not is_listed


async def test_an_audit_believes_no_look_up_that_is_about_somebody_else(harness: Harness) -> None:
    for key in ("2001", "2002"):
        harness.cluster.add_token(key, creator="500", expiration_time=NOW + MONTH)

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=JANE.identity()) if request.url.path == FIND_PATH else response

    harness.recorder.on_served = serve

    told = await harness.call("audit_access_tokens")

    assert not told.is_error
    assert any(finding["finding"] == "user_has_no_name" for finding in told.fields["findings"])


async def test_a_good_token_that_is_said_to_be_gone_but_is_listed_is_kept(harness: Harness) -> None:
    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_look = request.method == "GET" and request.url.path not in {TOKENS_PATH, WHO_AM_I_PATH}
        return refusal_response(404) if is_look else response

    harness.recorder.on_served = serve

    told = await harness.call("create_access_token", {"user": "local:jane"})

    assert not told.is_error
    [token] = harness.tokens_of(JANE)
    [file] = harness.settings.delivery_dir.iterdir()
    assert json.loads(file.read_text())["bearer_token"] == token.bearer_token


async def test_self_is_refused_if_who_am_i_answers_about_another_user(harness: Harness) -> None:
    rewrite_answers(harness, "GET", WHO_AM_I_PATH, lambda told: told | {"id": LDAP_BOB.auth_id, "name": "bob"})

    told = await harness.call_refused("create_access_token", {"user": "self"})

    assert "among their tokens is not the one that it runs on." in told
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert harness.tokens_of(LDAP_BOB) == []
