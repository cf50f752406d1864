"""Test creates: who gets a token, where the bearer token goes, and what the answer says after a failure."""

import hashlib
import json
import os
import shutil
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.support.example_tokens import add_token
from tests.support.harness import ADMIN, JANE, LDAP_BOB, NOW, TOKENS_PATH, WHO_AM_I_PATH, Harness, refusal_response
from tests.support.misbehaving_cluster import (
    FALSE_DELETE_ANSWERS,
    HTML_PAGE,
    REFUSAL_STATUSES,
    block_requests,
    hide_tokens_in_first_list,
    inject_faults,
    lose_delivery_folder,
    replace_answer,
    rewrite_answers,
)
from tests.support.permissions import permission_bits
from tests.support.record import read_outcomes
from tests.support.remedies import parse_calls
from token_tools.operations.next_steps import PERSON_DECIDES
from token_tools.sandbox.cluster import Account, Token

pytestmark = pytest.mark.anyio


async def test_a_new_token_of_which_the_cluster_tells_only_a_key_is_no_reason_to_beware(harness: Harness) -> None:
    async def tell_little(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return refusal_response(404)
        single = request.method == "GET" and request.url.path != TOKENS_PATH
        return (
            httpx.Response(200, json=response.json() | {"user": {"auth_id": LDAP_BOB.auth_id}}) if single else response
        )

    harness.recorder.on_served = tell_little

    answer = await harness.call("create_access_token", {"user": "ldap_user:bob"}, confirm="none")

    assert not answer.is_error
    assert "warning" not in answer.fields


async def test_a_created_token_is_delivered_to_a_private_file_and_not_spoken(harness: Harness) -> None:
    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [new] = [token for token in harness.cluster.tokens.values() if token.user == JANE.auth_id]
    assert harness.recorder.bodies("POST", TOKENS_PATH) == [
        b'{"user":{"auth_id":"1001"},"expiration_time":"2027-02-22T09:00:00Z"}'
    ]
    assert new.expiration_time == NOW + timedelta(days=90)
    path = Path(answer.fields["bearer_token_in"])
    assert path.parent == harness.settings.delivery_dir
    assert json.loads(path.read_text()) == {"bearer_token": new.bearer_token, "version": 1}
    assert permission_bits(path) == 0o600
    assert permission_bits(path.parent) == 0o700
    assert answer.fields == {
        "summary": f"Created access token {new.id} for local:jane on c.example.com:8000; it expires "
        f"2027-02-22 09:00 UTC (in 90 days, the default lifetime). Its bearer token is in {path}.",
        "id": new.id,
        "user": "local:jane",
        "expiration_time": "2027-02-22T09:00:00Z",
        "bearer_token_in": str(path),
        "fingerprint": hashlib.sha256(new.bearer_token.encode()).hexdigest(),
        "next_step": "The file with the bearer token is a credentials store of qq, mode 0600. "
        "To try it: qq --host c.example.com --port 8000 "
        f"--credentials-store {path} who_am_i",
    }
    assert answer.text.splitlines() == [
        answer.fields["summary"],
        f"SHA-256 of the bearer token: {answer.fields['fingerprint']}",
        answer.fields["next_step"],
    ]
    assert new.bearer_token not in answer.text


@pytest.mark.parametrize(
    ("lie", "warning"),
    [
        pytest.param(
            {"expiration_time": None},
            "the cluster did not take the expiry as asked; there, the token never expires.",
            id="no-expiry",
        ),
        pytest.param(
            {"expiration_time": "2030-01-01T00:00:00Z"},
            "there, the token expires 2030-01-01 00:00 UTC (in 1133 days).",
            id="other-expiry",
        ),
        pytest.param(
            {"user": {"auth_id": "500", "domain": "LOCAL", "name": "admin"}},
            "the cluster made it for local:admin.",
            id="other-user",
        ),
    ],
)
async def test_a_token_that_is_not_as_asked_is_told_with_a_warning(
    harness: Harness, lie: dict[str, Any], warning: str
) -> None:
    async def make_it_otherwise(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        single = request.method == "GET" and request.url.path not in {TOKENS_PATH, "/v1/session/who-am-i"}
        return httpx.Response(200, json=response.json() | lie) if single else response

    harness.recorder.on_served = make_it_otherwise

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert warning in answer.fields["warning"]
    assert answer.fields["warning"] in answer.text.splitlines()


async def test_a_certificate_that_changes_before_the_create_is_a_clear_no(harness: Harness) -> None:
    distrust = ssl.SSLCertVerificationError()
    distrust.verify_message = "self-signed certificate"

    async def change_the_certificate(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            raise httpx.ConnectError("no") from distrust
        return response

    harness.recorder.on_served = change_the_certificate

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "is not trusted (self-signed certificate). Nothing was sent." in refusal
    # The README tells the operator how to lift a rule; the model does not need to know.
    assert "VERIFY_TLS" not in refusal
    assert "not known" not in refusal


@pytest.mark.parametrize(
    ("expiration_time", "sent"),
    [
        pytest.param("12h", "2026-11-24T21:00:00Z", id="duration"),
        pytest.param("P30D", "2026-12-24T09:00:00Z", id="iso-duration"),
        pytest.param("2027-01-31T18:00:00+01:00", "2027-01-31T17:00:00Z", id="offset"),
        pytest.param("never", None, id="never"),
    ],
)
async def test_an_expiry_is_sent_as_it_was_meant(harness: Harness, expiration_time: str, sent: str | None) -> None:
    answer = await harness.call(
        "create_access_token", {"user": "local:jane", "expiration_time": expiration_time}, confirm="none"
    )

    [body] = harness.recorder.bodies("POST", TOKENS_PATH)
    assert json.loads(body).get("expiration_time") == sent
    assert answer.fields.get("expiration_time") == sent
    assert "default" not in answer.text
    assert ("it never expires" in answer.text) == (sent is None)


async def test_an_operator_can_let_tokens_live_for_ever_by_default(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"}, default_lifetime=None, confirm="none")

    assert harness.recorder.bodies("POST", TOKENS_PATH) == [b'{"user":{"auth_id":"1001"}}']


@pytest.mark.parametrize(
    "expiration_time", ["2027-02-01T17:00:00", "2027-02-01", "2026-11-24T08:59:59Z", "tomorrow", "3m", "0d"]
)
async def test_an_expiry_in_doubt_is_refused_with_the_time_before_anything_is_asked(
    harness: Harness, expiration_time: str
) -> None:
    refusal = await harness.call_refused(
        "create_access_token", {"user": "local:jane", "expiration_time": expiration_time}
    )

    assert harness.recorder.request_lines() == []
    assert "rite " in refusal
    assert "It is now 2026-11-24 09:00 UTC." in refusal


async def test_inline_delivery_puts_the_token_into_both_channels(harness: Harness) -> None:
    answer = await harness.call("create_access_token", {"user": "local:jane"}, delivery="inline")

    [new] = [token for token in harness.cluster.tokens.values() if token.user == JANE.auth_id]
    assert answer.fields["bearer_token"] == new.bearer_token
    assert new.bearer_token in answer.text.splitlines()
    assert "the conversation and its logs" in answer.text
    assert not harness.settings.delivery_dir.exists()


async def test_a_third_token_is_refused_before_it_is_asked_for(harness: Harness) -> None:
    two = [harness.cluster.add_token(JANE.auth_id, creator="500").id for _ in range(2)]

    refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})

    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert all(token_id in refusal for token_id in two)
    assert "a person has to say which can go: better disable that one first" in refusal


async def test_a_third_token_beside_a_dead_one_is_for_the_cluster_to_judge(harness: Harness) -> None:
    for enabled in (True, False):
        harness.cluster.add_token(JANE.auth_id, creator="500", enabled=enabled)

    refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})

    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) == 1
    assert refusal.startswith("The cluster declined")
    assert list(harness.settings.delivery_dir.iterdir()) == []


@pytest.mark.parametrize("place", ["tokens", "state.db"])
async def test_where_the_operator_s_machine_fails_they_have_to_mend_it(harness: Harness, place: str) -> None:
    state = harness.settings.delivery_dir.parent
    state.mkdir(mode=0o700)
    # A pipe is neither a folder nor an ordinary file.
    os.mkfifo(state / place)

    refusal = await harness.with_folder("state_dir", state).call_without_effect(
        "create_access_token", {"user": "local:jane"}
    )

    assert place in refusal
    assert refusal.endswith(
        " Try again once the operator has mended that.\nFor the operator: run `qumulo-token-tools doctor`."
    )


async def test_a_name_of_two_users_gets_no_token(harness: Harness) -> None:
    refusal = await harness.call_without_effect("create_access_token", {"user": "jane"})

    assert refusal.startswith("The cluster did not tell which user jane is. The cluster declined (400")
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_a_group_gets_no_token(harness: Harness) -> None:
    before = dict(harness.cluster.tokens)

    harness.cluster.add_account(Account(auth_id="1600", domain="LOCAL", name="Editors", is_group=True))

    refusal = await harness.call_refused("create_access_token", {"user": "local:Editors"})

    assert harness.cluster.tokens == before
    assert "declined" in refusal


@pytest.mark.parametrize(
    "user",
    [
        "ldap_group:devs",
        "world:Everyone",
        "gid:5",
        "auth_id:513",
        "auth_id:17179869189",
        "sid:S-1-5-88-2-5",
        "sid:S-1-1-0",
        "sid:S-1-5-11",
        "sid:S-1-5-32-544",
        "sid:S-1-5-21-1-2-3-512",
        "sid:S-1-5-21-1-2-3-572",
    ],
)
async def test_what_can_only_be_a_group_is_refused_before_the_cluster_is_asked(harness: Harness, user: str) -> None:
    assert "is a group" in await harness.call_refused("create_access_token", {"user": user})
    assert harness.recorder.request_lines() == []


async def test_a_name_that_turns_out_to_be_a_known_group_is_refused_before_the_create(harness: Harness) -> None:
    assert "is a group" in await harness.call_refused("create_access_token", {"user": "local:Users"})
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_a_name_that_turns_out_to_have_a_group_s_number_is_refused_before_the_create(harness: Harness) -> None:
    harness.cluster.add_account(Account(auth_id="17179869190", domain="LOCAL", name="devs", gid=6))

    assert "is a group" in await harness.call_refused("create_access_token", {"user": "devs"})
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_a_create_without_the_right_to_look_up_sends_what_was_said(harness: Harness) -> None:
    async def refuse_lookups(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.url.path.endswith("/identity/find") else response

    harness.recorder.on_served = refuse_lookups

    answer = await harness.call(
        "create_access_token", {"user": "local:jane", "expiration_time": "never"}, confirm="none"
    )

    assert not answer.is_error
    assert harness.recorder.bodies("POST", TOKENS_PATH) == [b'{"user":{"domain":"LOCAL","name":"jane"}}']


async def test_a_create_without_the_right_to_list_goes_on(harness: Harness) -> None:
    async def refuse_lists(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.method == "GET" else response

    harness.recorder.on_served = refuse_lists

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert not answer.is_error


async def test_a_cluster_that_finds_somebody_else_is_not_believed(harness: Harness) -> None:
    async def find_another(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return httpx.Response(200, json={"domain": "ACTIVE_DIRECTORY", "auth_id": "7", "name": "CORP\\jane"})
        return response

    harness.recorder.on_served = find_another

    refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})

    assert refusal.startswith(r"The cluster takes local:jane for ad:CORP\jane, which is somebody else.")
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_without_a_place_for_the_secret_no_token_is_asked_for(harness: Harness) -> None:
    harness.settings.delivery_dir.parent.write_text("a file where the folder should be")

    refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})

    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert refusal.startswith("A new bearer token cannot be kept in")
    assert "The operator names the folder by QUMULO_DELIVERY_DIR, or without it by QUMULO_STATE_DIR;" in refusal


async def test_a_token_whose_secret_cannot_be_kept_is_deleted_again(harness: Harness) -> None:
    before = dict(harness.cluster.tokens)

    async def lose_the_folder(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            shutil.rmtree(harness.settings.delivery_dir)
        return response

    harness.recorder.on_served = lose_the_folder

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert harness.cluster.tokens == before
    [deleted, looked_for] = harness.recorder.request_lines()[-2:]
    assert deleted.startswith(f"DELETE {TOKENS_PATH}")
    assert looked_for == deleted.replace("DELETE", "GET")
    assert "was deleted again; no token is left of this.\n" in refusal


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(502, html="gone"), id="gateway"),
        pytest.param(httpx.Response(200, content=b'{"id": "12'), id="half-an-answer"),
        pytest.param(httpx.ReadError("cut"), id="cut"),
    ],
)
async def test_a_create_without_a_clear_answer_is_not_repeated_and_says_what_may_be(
    harness: Harness, answer: httpx.Response | httpx.ReadError
) -> None:
    async def lose_the_answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method != "POST" or request.url.path != TOKENS_PATH:
            return response
        if isinstance(answer, httpx.ReadError):
            raise answer
        return answer

    harness.recorder.on_served = lose_the_answer

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = [token for token in harness.cluster.tokens.values() if token.user == JANE.auth_id]
    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) == 1
    assert f"{orphan.id} (made 2026-11-24 09:00 UTC) is new for local:jane." in refusal
    assert refusal.endswith(f"qq --host c.example.com --port 8000 auth_delete_access_token {orphan.id}")
    assert list(harness.settings.delivery_dir.iterdir()) == []


async def test_a_cancelled_create_still_delivers_what_it_made(harness: Harness) -> None:
    made, go_on = anyio.Event(), anyio.Event()

    async def hold_the_answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            made.set()
            await go_on.wait()
        return response

    harness.recorder.on_served = hold_the_answer
    async with harness.connected() as client, anyio.create_task_group() as calls:
        calls.start_soon(client.call_tool, "create_access_token", {"user": "local:jane"})
        await made.wait()
        calls.cancel_scope.cancel()
        go_on.set()

    [new] = [token for token in harness.cluster.tokens.values() if token.user == JANE.auth_id]
    [file] = harness.settings.delivery_dir.iterdir()
    assert json.loads(file.read_text())["bearer_token"] == new.bearer_token


@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token"])
@pytest.mark.usefixtures("no_consent")
async def test_a_new_token_that_was_not_taken_back_is_named(
    harness: Harness, answer: httpx.Response, tool: str
) -> None:
    """A create fails to deliver or a rotate to prove, and the rollback does not delete the new token."""
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
    block_requests(harness, "DELETE", answer)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if tool == "create_access_token" and request.method == "POST" and request.url.path == TOKENS_PATH:
            [pending] = harness.settings.delivery_dir.iterdir()
            pending.unlink()
        is_proof = request.url.path == WHO_AM_I_PATH and request.headers["Authorization"] != own
        return httpx.Response(401) if is_proof else response

    assert harness.settings.bearer_token is not None
    own = f"Bearer {harness.settings.bearer_token.get_secret_value()}"
    harness.recorder.on_served = fail

    refusal = await harness.call_refused(
        tool, {"user": "local:jane"} if tool == "create_access_token" else {"id": old.id}
    )

    [new] = [token for token in harness.tokens_of(JANE) if token.id != old.id]
    assert "ould not be deleted again: " in refusal
    assert f'delete_access_token(id="{new.id}")' in refusal
    assert "no token is left" not in refusal.lower()
    assert read_outcomes(harness.settings.state_dir) == ["undeletable"]


@pytest.mark.usefixtures("no_consent")
async def test_a_new_token_of_which_it_is_not_known_whether_it_was_taken_back_is_named(harness: Harness) -> None:

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            [pending] = harness.settings.delivery_dir.iterdir()
            pending.unlink()
        is_after = request.url.path.startswith(TOKENS_PATH) and request.url.path != TOKENS_PATH
        return httpx.Response(502, html=HTML_PAGE) if is_after else response

    harness.recorder.on_served = serve

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, timeout=timedelta(seconds=1))

    [deleted] = [request for request in harness.recorder.requests if request.method == "DELETE"]
    token_id = deleted.url.path.removeprefix(TOKENS_PATH)
    assert f"Whether the new token {token_id} was deleted again is not known" in refusal
    assert f'delete_access_token(id="{token_id}")' in refusal


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
@pytest.mark.usefixtures("no_consent")
async def test_a_create_whose_answer_was_blocked_names_the_orphan(harness: Harness, status: int) -> None:
    harness.recorder.on_served = replace_answer("POST", httpx.Response(status, html=HTML_PAGE))

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert "PRIVILEGE" not in refusal
    assert read_outcomes(harness.settings.state_dir) == ["unknown"]


@pytest.mark.usefixtures("no_consent")
async def test_a_create_that_is_answered_with_a_token_from_before_touches_that_one_never(harness: Harness) -> None:
    before = harness.cluster.add_token(JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return response

    harness.recorder.on_served = mix_up

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    [orphan] = [token for token in harness.tokens_of(JANE) if token != before]
    assert f"The answer is about token {before.id}, which was there before." in refusal
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert [request for request in harness.recorder.requests if request.method == "DELETE"] == []
    assert read_outcomes(harness.settings.state_dir) == ["unknown"]


@pytest.mark.usefixtures("no_consent")
async def test_where_it_is_not_known_what_there_was_before_a_token_is_only_deleted_if_it_is_new(
    harness: Harness,
) -> None:
    before = harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - timedelta(days=30))

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = mix_up

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "it could be one of those, and was not touched" in refusal
    assert before in harness.tokens_of(JANE)


@pytest.mark.usefixtures("no_consent")
async def test_where_it_is_not_known_what_there_was_before_a_new_token_is_still_taken_back(harness: Harness) -> None:

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            token = harness.cluster.tokens[response.json()["id"]]
            harness.cluster.tokens[token.id] = replace(token, expiration_time=None)
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = serve

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "It was deleted again." in refusal
    assert harness.tokens_of(JANE) == []


@pytest.mark.parametrize("is_stuck", [False, True], ids=["removed", "not-to-be-removed"])
@pytest.mark.usefixtures("no_consent")
async def test_a_create_that_is_answered_with_a_token_of_nobody_s_names_the_one_that_was_made(
    harness: Harness, is_stuck: bool
) -> None:

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": "12345678901234567890123"})
        if request.url.path.startswith(TOKENS_PATH + "1234") and is_stuck:
            [file] = harness.settings.delivery_dir.iterdir()
            file.unlink()
            file.mkdir()
        return response

    harness.recorder.on_served = mix_up

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert (" What was delivered is still in " in refusal) is is_stuck
    assert [file for file in harness.settings.delivery_dir.iterdir() if file.is_file()] == []


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "another"])
@pytest.mark.parametrize("case", ["rotate", "create", "limited", "lost"])
@pytest.mark.usefixtures("no_consent")
async def test_a_create_that_is_answered_with_somebody_else_s_token_touches_that_one_never(
    harness: Harness, case: str, is_own: bool
) -> None:
    jane = add_token(harness)
    bob = harness.cluster.add_token(LDAP_BOB.auth_id, creator="500", creation_time=NOW - timedelta(days=30))
    [own] = harness.tokens_of(ADMIN)
    other = own if is_own else bob
    before = dict(harness.cluster.tokens)
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda refusal: refusal | {"id": other.id})
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

    refusal = await harness.call_refused(
        tool, arguments, max_lifetime=timedelta(days=90) if case == "limited" else None
    )

    [orphan] = [token for token in harness.tokens_of(JANE) if token != jane]
    assert {key: value for key, value in harness.cluster.tokens.items() if key != orphan.id} == before
    assert f"The answer was about token {other.id}" in refusal
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert f'delete_access_token(id="{other.id}")' not in refusal
    assert "o token is left" not in refusal


@pytest.mark.usefixtures("no_consent")
async def test_no_token_is_said_to_be_left_of_an_answer_about_nobody_s_that_could_not_be_delivered(
    harness: Harness,
) -> None:
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda refusal: refusal | {"id": "12345678901234567890123"})
    lose_delivery_folder(harness)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert "o token is left" not in refusal


@pytest.mark.usefixtures("no_consent")
async def test_of_a_token_that_cannot_be_read_back_it_is_said_that_nobody_looked_at_it(harness: Harness) -> None:
    inject_faults(harness, {"get": "page-404"})

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert "It could not be read back" in answer.fields["warning"]


@pytest.mark.usefixtures("no_consent")
async def test_the_server_s_own_credential_is_no_new_bearer_token(harness: Harness) -> None:
    [own] = harness.tokens_of(ADMIN)
    rewrite_answers(harness, "POST", TOKENS_PATH, lambda refusal: refusal | {"bearer_token": own.bearer_token})

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in refusal
    assert [*harness.settings.delivery_dir.iterdir()] == []


@pytest.mark.usefixtures("no_consent")
async def test_of_a_token_that_is_older_than_the_request_it_is_said_that_it_may_be_in_use(harness: Harness) -> None:
    jane = add_token(harness)
    inject_faults(harness, {"create": "cut-before"})
    hide_tokens_in_first_list(harness)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert jane.id in refusal
    assert "unless the clocks differ, it was there before and may be in use" in refusal


@pytest.mark.usefixtures("no_consent")
async def test_what_is_new_and_seems_to_be_made_by_others_is_named(harness: Harness) -> None:
    """Who-am-i named another user, so our own token seems to be made by somebody else."""
    inject_faults(harness, {"create": "cut-after"})
    rewrite_answers(harness, "GET", WHO_AM_I_PATH, lambda refusal: refusal | {"id": LDAP_BOB.auth_id})

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f"as far as can be seen: new are only {orphan.id} (made 2026-11-24 09:00 UTC by local:admin)" in refusal


@pytest.mark.usefixtures("no_consent")
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

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=30))

    assert "which the cluster does not know" in refusal
    assert "deleted again" not in refusal
    assert [request for request in harness.recorder.requests if request.method == "DELETE"] == []
    assert [*harness.settings.delivery_dir.iterdir()] == []


@pytest.mark.usefixtures("no_consent")
async def test_a_fresh_token_of_somebody_else_is_not_taken_back_either(harness: Harness) -> None:
    made: list[Token] = []

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) != ("POST", TOKENS_PATH):
            return response
        made.append(harness.cluster.add_token(LDAP_BOB.auth_id, creator="500"))
        return httpx.Response(200, json=response.json() | {"id": made[0].id})

    harness.recorder.on_served = serve
    lose_delivery_folder(harness)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "the cluster says that it is of ldap_user:bob, so it was not touched" in refusal
    assert harness.tokens_of(LDAP_BOB) == made


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "nowhere"])
@pytest.mark.usefixtures("no_consent")
async def test_a_new_token_that_cannot_be_read_is_only_taken_back_if_the_list_has_it(
    harness: Harness, is_listed: bool
) -> None:
    old = add_token(harness)
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

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert (harness.tokens_of(JANE) == [old]) is is_listed
    assert ("It is not known to be new, and was not touched." in refusal) is not is_listed


@pytest.mark.usefixtures("no_consent")
async def test_a_good_token_that_is_said_to_be_gone_but_is_listed_is_kept(harness: Harness) -> None:
    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_look = request.method == "GET" and request.url.path not in {TOKENS_PATH, WHO_AM_I_PATH}
        return refusal_response(404) if is_look else response

    harness.recorder.on_served = serve

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert not answer.is_error
    [token] = harness.tokens_of(JANE)
    [file] = harness.settings.delivery_dir.iterdir()
    assert json.loads(file.read_text())["bearer_token"] == token.bearer_token


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({"enabled": False}, "is disabled (since when is not known here); once it is sure that nobody wants it back"),
        ({"expiration_time": NOW - timedelta(days=1)}, "has expired; if nobody wants it back: delete_access_token(id="),
    ],
    ids=["disabled", "expired"],
)
async def test_the_limit_error_of_create_tells_the_state_of_each_and_points_at_the_dead_one(
    harness: Harness, special: dict[str, Any], expected: str
) -> None:
    live, dead = add_token(harness), add_token(harness, **special)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert f"{live.id} (enabled, expires 2027-01-13 09:00 UTC (in 50 days); made 40 days ago by local:admin)" in refusal
    assert f"{dead.id} {expected}" in refusal
    assert f'"{live.id}"' not in refusal


async def test_the_limit_error_where_both_work_leaves_it_to_a_person(harness: Harness) -> None:
    add_token(harness)
    add_token(harness)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert refusal.endswith(PERSON_DECIDES)
    assert parse_calls(refusal) == []


async def test_a_refusal_that_the_user_s_tokens_do_not_explain_is_told_as_it_is(harness: Harness) -> None:
    harness.recorder.on_served = replace_answer(
        "POST", refusal_response(400, "some_limit", "some limit"), path=TOKENS_PATH
    )

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "already" not in refusal
    assert "declined (400)" in refusal


@pytest.mark.parametrize("is_readable", [False, True])
async def test_a_refusal_is_explained_by_the_tokens_that_came_meanwhile_if_they_can_be_read(
    harness: Harness, *, is_readable: bool
) -> None:
    is_asked = False

    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_asked
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            is_asked = True
            for _ in range(2 if is_readable else 0):
                add_token(harness)
            return refusal_response(400, "some_limit", "some limit")
        return refusal_response(500) if is_asked and not is_readable else response

    harness.recorder.on_served = refuse

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert ("already" in refusal) == is_readable
