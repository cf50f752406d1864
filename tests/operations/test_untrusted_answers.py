"""Only what the cluster itself said is believed, and only what was looked at is told."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    refusal_response,
)
from token_tools.sandbox.cluster import Account, Token

pytestmark = pytest.mark.anyio

FIND_PATH = "/v1/identity/find"
WHO_AM_I_PATH = "/v1/session/who-am-i"
HTML_PAGE = "<html><body><h1>Sorry</h1></body></html>"
BACKUP = Account(auth_id="1002", domain="LOCAL", name="backup", sid="S-1-5-21-1-2-3-1002")

OnServed = Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]]


def journal_outcomes(harness: Harness) -> list[str]:
    lines = (harness.settings.state_dir / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["result"] for line in lines]


def replace_answer(method: str, answer: httpx.Response, *, path: str = TOKENS_PATH) -> OnServed:
    """Something in front of the cluster answers, once the cluster has done what was asked."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answer if request.method == method and request.url.path.startswith(path) else response

    return serve


class BlockingTransport(httpx.AsyncBaseTransport):
    """Something in front of the cluster answers requests of one kind, and passes none of them on."""

    def __init__(self, cluster: httpx.AsyncBaseTransport, method: str, answer: httpx.Response) -> None:
        self.cluster, self.method, self.answer = cluster, method, answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """That answer, or the cluster's."""
        is_it = request.method == self.method and request.url.path.startswith(TOKENS_PATH)
        return self.answer if is_it else await self.cluster.handle_async_request(request)


def block_requests(harness: Harness, method: str, answer: httpx.Response) -> None:
    harness.recorder.cluster = BlockingTransport(harness.recorder.cluster, method, answer)


def disable_consent(harness: Harness) -> None:
    harness.settings = harness.settings.model_copy(update={"confirm": "none"})


FALSE_DELETE_ANSWERS = [
    pytest.param(httpx.Response(404, html=HTML_PAGE), id="404-page"),
    pytest.param(httpx.Response(404), id="404-bare"),
    pytest.param(refusal_response(404), id="404-of-the-vendor-s"),
    pytest.param(httpx.Response(200, html=HTML_PAGE), id="200-page"),
    pytest.param(httpx.Response(200, text="garbage"), id="200-garbage"),
    pytest.param(httpx.Response(200, json=None), id="200-null"),
    pytest.param(httpx.Response(200), id="200-empty"),
    pytest.param(httpx.Response(204), id="204"),
    pytest.param(httpx.Response(202), id="202"),
    pytest.param(httpx.Response(403, html=HTML_PAGE), id="403-page"),
    pytest.param(httpx.Response(401), id="401-bare"),
]


@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
async def test_a_deletion_that_did_not_happen_is_never_told(harness: Harness, answer: httpx.Response) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    block_requests(harness, "DELETE", answer)

    told = await harness.call_refused("delete_access_token", {"id": token.id})

    assert f"So far, token {token.id} is still there." in told
    assert journal_outcomes(harness) == ["intended", "unknown"]
    assert harness.tokens_of(JANE) == [token]


@pytest.mark.parametrize(
    "look", [httpx.Response(404, html=HTML_PAGE), httpx.Response(404), httpx.Response(200, json={})]
)
@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
async def test_a_deletion_of_which_nothing_can_be_seen_is_told_as_not_known(
    harness: Harness, answer: httpx.Response, look: httpx.Response
) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "DELETE"
        if not is_over:
            return response
        return answer if request.method == "DELETE" else look

    harness.recorder.on_served = serve

    told = await harness.call_refused("delete_access_token", {"id": token.id})

    assert f"It could not be found out whether token {token.id} was deleted" in told
    assert journal_outcomes(harness) == ["intended", "unknown"]


async def test_a_token_that_somebody_else_deleted_first_is_told_as_gone_and_by_whom(harness: Harness) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("DELETE", refusal_response(404))

    told = await harness.call("delete_access_token", {"id": token.id})

    assert not told.is_error
    assert "somebody else may have done it" in told.text
    assert "somebody else may have done it" in told.fields["warning"]


@pytest.mark.parametrize("remains", [False, True], ids=["gone", "still-there"])
async def test_where_a_token_that_is_gone_may_not_be_asked_for_its_user_s_list_decides(
    harness: Harness, remains: bool
) -> None:
    disable_consent(harness)
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

    told = await harness.call("delete_access_token", {"id": token.id})

    assert told.is_error is remains
    assert ("So far, token" in told.text) is remains


@pytest.mark.parametrize("answer", FALSE_DELETE_ANSWERS)
@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token"])
async def test_a_new_token_that_was_not_taken_back_is_named(
    harness: Harness, answer: httpx.Response, tool: str
) -> None:
    """A create cannot deliver, a rotate not prove; in both, what should delete the new token does not."""
    disable_consent(harness)
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

    told = await harness.call_refused(tool, {"user": "local:jane"} if tool == "create_access_token" else {"id": old.id})

    [new] = [token for token in harness.tokens_of(JANE) if token.id != old.id]
    assert "ould not be deleted again: " in told
    assert f'delete_access_token(id="{new.id}")' in told
    assert "no token is left" not in told.lower()
    assert journal_outcomes(harness) == ["intended", "undeletable"]


async def test_a_new_token_of_which_it_is_not_known_whether_it_was_taken_back_is_named(harness: Harness) -> None:
    disable_consent(harness)

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            [pending] = harness.settings.delivery_dir.iterdir()
            pending.unlink()
        is_after = request.url.path.startswith(TOKENS_PATH) and request.url.path != TOKENS_PATH
        return httpx.Response(502, html=HTML_PAGE) if is_after else response

    harness.recorder.on_served = serve

    told = await harness.call_refused("create_access_token", {"user": "local:jane"}, timeout=timedelta(seconds=1))

    [deleted] = [request for request in harness.recorder.requests if request.method == "DELETE"]
    token_id = deleted.url.path.removeprefix(TOKENS_PATH)
    assert f"Whether the new token {token_id} was deleted again is not known" in told
    assert f'delete_access_token(id="{token_id}")' in told


REFUSAL_STATUSES = [400, 401, 403, 404, 405, 407, 409, 413, 421, 451]


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
async def test_a_create_whose_answer_was_blocked_names_the_orphan(harness: Harness, status: int) -> None:
    disable_consent(harness)
    harness.recorder.on_served = replace_answer("POST", httpx.Response(status, html=HTML_PAGE))

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert "PRIVILEGE" not in told
    assert journal_outcomes(harness) == ["intended", "unknown"]


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
async def test_an_update_whose_answer_was_blocked_is_looked_at(harness: Harness, status: int) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("PATCH", httpx.Response(status, html=HTML_PAGE))

    told = await harness.call("update_access_token", {"id": token.id, "enabled": False})

    assert not told.is_error
    assert told.fields["enabled"] is False
    assert journal_outcomes(harness) == ["intended", "done"]


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_a_page_from_in_front_of_the_cluster_is_told_as_that(harness: Harness, tool: str, status: int) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("GET", httpx.Response(status, html=HTML_PAGE))

    told = await harness.call_refused(tool, {"id": token.id} if tool == "get_access_token" else {})

    assert f"The answer (status {status}) is not in the form of a Qumulo cluster's." in told
    assert "privilege" not in told
    assert "deleted" not in told


def answer_about_another(other: Token) -> OnServed:
    """A cache or a mixed-up proxy gives the answer to another request."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.startswith(TOKENS_PATH) and request.url.path != TOKENS_PATH and response.content:
            told = response.json() | {"id": other.id}
            return httpx.Response(200, json=told)
        return response

    return serve


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("get_access_token", {}),
        ("update_access_token", {"enabled": False}),
        ("delete_access_token", {}),
        ("rotate_access_token", {}),
    ],
)
async def test_nothing_is_done_to_a_token_that_was_not_asked_for(
    harness: Harness, tool: str, arguments: dict[str, Any]
) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    other = harness.cluster.add_token(AD_JANE.auth_id, creator="500")
    harness.recorder.on_served = answer_about_another(other)

    told = await harness.call_refused(tool, {"id": token.id, **arguments})

    assert f"The answer is about another access token than {token.id}" in told
    assert {request.method for request in harness.recorder.requests} <= {"GET"}
    assert harness.tokens_of(AD_JANE) == [other]


async def test_a_change_that_is_answered_with_another_token_is_told_by_a_look(harness: Harness) -> None:
    disable_consent(harness)
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    other = harness.cluster.add_token(AD_JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=response.json() | {"id": other.id}) if request.method == "PATCH" else response

    harness.recorder.on_served = mix_up

    told = await harness.call("update_access_token", {"id": token.id, "enabled": False})

    assert told.fields["id"] == token.id
    assert told.fields["enabled"] is False


async def test_a_create_that_is_answered_with_a_token_from_before_touches_that_one_never(harness: Harness) -> None:
    disable_consent(harness)
    before = harness.cluster.add_token(JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return response

    harness.recorder.on_served = mix_up

    told = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    [orphan] = [token for token in harness.tokens_of(JANE) if token != before]
    assert f"The answer is about token {before.id}, which was there before." in told
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert [request for request in harness.recorder.requests if request.method == "DELETE"] == []
    assert journal_outcomes(harness) == ["intended", "unknown"]


async def test_where_it_is_not_known_what_there_was_before_a_token_is_only_deleted_if_it_is_new(
    harness: Harness,
) -> None:
    disable_consent(harness)
    before = harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - timedelta(days=30))

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = mix_up

    told = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "it could be one of those, and was not touched" in told
    assert before in harness.tokens_of(JANE)


async def test_where_it_is_not_known_what_there_was_before_a_new_token_is_still_taken_back(harness: Harness) -> None:
    disable_consent(harness)

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            token = harness.cluster.tokens[response.json()["id"]]
            harness.cluster.tokens[token.id] = replace(token, expiration_time=None)
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = serve

    told = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "It was deleted again." in told
    assert harness.tokens_of(JANE) == []


@pytest.mark.parametrize("is_stuck", [False, True], ids=["removed", "not-to-be-removed"])
async def test_a_create_that_is_answered_with_a_token_of_nobody_s_names_the_one_that_was_made(
    harness: Harness, is_stuck: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disable_consent(harness)

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            return httpx.Response(200, json=response.json() | {"id": "12345678901234567890123"})
        if request.url.path.startswith(TOKENS_PATH + "1234") and is_stuck:
            [file] = harness.settings.delivery_dir.iterdir()
            file.unlink()
            file.mkdir()
        return response

    harness.recorder.on_served = mix_up

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert ("cannot be kept in" in caplog.text) is is_stuck
    assert [file for file in harness.settings.delivery_dir.iterdir() if file.is_file()] == []


@pytest.mark.parametrize("user", ["local:backup", "backup", r"local:CLUSTER\backup"])
async def test_a_local_user_is_only_taken_for_one_of_that_name(harness: Harness, user: str) -> None:
    disable_consent(harness)
    harness.cluster.add_account(BACKUP)
    harness.recorder.on_served = replace_answer("POST", httpx.Response(200, json=JANE.identity()), path=FIND_PATH)

    told = await harness.call_refused("create_access_token", {"user": user})

    assert "somebody else" in told
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@pytest.mark.parametrize("user", ["local:BACKUP", "backup", r"local:CLUSTER\backup"])
async def test_a_local_name_may_be_written_in_several_ways(harness: Harness, user: str) -> None:
    disable_consent(harness)
    harness.cluster.add_account(BACKUP)
    harness.recorder.on_served = replace_answer("POST", httpx.Response(200, json=BACKUP.identity()), path=FIND_PATH)

    told = await harness.call("create_access_token", {"user": user})

    assert not told.is_error
    assert len(harness.tokens_of(BACKUP)) == 1


@pytest.mark.parametrize(
    ("user", "name", "is_asked"),
    [
        (r"ad:CORP\jane", r"CORP\jane", False),
        ("ad:jane@corp.example.com", r"CORP\jane", False),
        ("ad:CN=Jane,DC=corp", r"CORP\jane", False),
        (r"ad:CORP\bob", r"CORP\jane", True),
        ("ldap_user:bob", "jane", True),
    ],
)
async def test_a_user_whom_a_directory_calls_otherwise_is_asked_about(
    harness: Harness, user: str, name: str, is_asked: bool
) -> None:
    domain = "POSIX_USER" if user.startswith("ldap") else "ACTIVE_DIRECTORY"
    found = {"domain": domain, "auth_id": AD_JANE.auth_id, "name": name}
    harness.recorder.on_served = replace_answer("POST", httpx.Response(200, json=found), path=FIND_PATH)
    human = ScriptedPerson([AGREES])

    told = await harness.call("create_access_token", {"user": user}, person=human)

    assert not told.is_error
    assert bool(human.questions) is is_asked
    if is_asked:
        assert "Asked because the cluster calls that user" in human.questions[0]


@pytest.mark.parametrize("user", ["uid:0", "auth_id:500", "sid:S-1-5-21-1-2-3-1001", "gid:0", "local:jane", "jane"])
async def test_whom_the_cluster_did_not_identify_is_asked_about(harness: Harness, user: str) -> None:
    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.url.path == FIND_PATH else response

    harness.recorder.on_served = hide

    told = await harness.call_refused("create_access_token", {"user": user})

    assert ("A person has to agree to this first" in told) or ("is a group" in told)
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_self_is_resolved_by_who_am_i(harness: Harness) -> None:
    """Whoever may not look up identities may still make a token of their own."""
    service = replace(ADMIN, auth_id="1010", name="service")
    harness.cluster.add_account(service)
    own = harness.cluster.add_token("1010", creator="500")

    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.url.path == FIND_PATH else response

    harness.recorder.on_served = hide

    told = await harness.call("create_access_token", {"user": "self"}, bearer_token=SecretStr(own.bearer_token))

    assert not told.is_error


async def test_a_list_without_the_token_that_the_server_runs_on_is_said_not_to_be_whole(harness: Harness) -> None:
    harness.recorder.on_served = replace_answer("GET", httpx.Response(200, json={"entries": []}))

    listed = await harness.call("list_access_tokens")
    audited = await harness.call("audit_access_tokens")

    assert "The list is not whole: it lacks the access token that this server itself runs on." in listed.text
    assert "The list is not whole" in listed.fields["summary"]
    assert "Nothing found." not in audited.text
    assert "Nothing found among what was listed." in audited.text
    assert "The list is not whole" in audited.fields["not_known"]


async def test_a_list_with_other_tokens_alone_is_said_not_to_be_whole_either(harness: Harness) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=300))
    told = (await harness.call("get_access_token", {"id": token.id})).fields
    entry = {"id": token.id, "user": JANE.identity(), "creation_time": told["creation_time"]}
    harness.recorder.on_served = replace_answer("GET", httpx.Response(200, json={"entries": [entry]}))

    audited = await harness.call("audit_access_tokens")

    assert "The list is not whole" in audited.fields["not_known"]


async def test_an_empty_list_of_whom_is_not_known_to_run_on_a_token_is_told_as_it_is(harness: Harness) -> None:
    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(500) if request.url.path == WHO_AM_I_PATH else httpx.Response(200, json={"entries": []})

    harness.recorder.on_served = serve

    told = await harness.call("list_access_tokens")

    assert told.text == "0 access tokens on c.example.com:8000. It is 2026-11-24 09:00 UTC."


@pytest.mark.parametrize("shape", ["0{}", " {} ", "{}.0", "0x{:x}", "{}x"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("update_access_token", {"enabled": False}), ("delete_access_token", {})],
)
async def test_the_own_token_is_safe_however_who_am_i_writes_its_id(
    harness: Harness, shape: str, tool: str, arguments: dict[str, Any]
) -> None:
    disable_consent(harness)
    [own] = harness.tokens_of(ADMIN)

    async def rewrite(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I_PATH:
            told_id = shape.format(int(own.id) if "x}" in shape else own.id)
            return httpx.Response(200, json=response.json() | {"access_token_id": told_id})
        return response

    harness.recorder.on_served = rewrite

    told = await harness.call_refused(tool, {"id": own.id, **arguments})

    assert told.endswith("it could lock itself out. A person can do it with qq.")
    assert harness.tokens_of(ADMIN) == [own]
