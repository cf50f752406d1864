"""Only what the cluster itself said is believed, and only what was looked at is told."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.support.harness import AD_JANE, ADMIN, AGREES, JANE, NOW, PATH, Bench, Human, refusal
from token_tools.sandbox.cluster import Account, Token

pytestmark = pytest.mark.anyio

FIND = "/v1/identity/find"
WHO_AM_I = "/v1/session/who-am-i"
PAGE = "<html><body><h1>Sorry</h1></body></html>"
BACKUP = Account(auth_id="1002", domain="LOCAL", name="backup", sid="S-1-5-21-1-2-3-1002")

Serve = Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]]


def results(bench: Bench) -> list[str]:
    lines = (bench.settings.state_dir / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["result"] for line in lines]


def say(method: str, answer: httpx.Response, *, path: str = PATH) -> Serve:
    """Something in front of the cluster answers, once the cluster has done what was asked."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answer if request.method == method and request.url.path.startswith(path) else response

    return serve


class Unlistening(httpx.AsyncBaseTransport):
    """Something in front of the cluster answers requests of one kind, and passes none of them on."""

    def __init__(self, cluster: httpx.AsyncBaseTransport, method: str, answer: httpx.Response) -> None:
        self.cluster, self.method, self.answer = cluster, method, answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """That answer, or the cluster's."""
        is_it = request.method == self.method and request.url.path.startswith(PATH)
        return self.answer if is_it else await self.cluster.handle_async_request(request)


def deafen(bench: Bench, method: str, answer: httpx.Response) -> None:
    bench.recorder.cluster = Unlistening(bench.recorder.cluster, method, answer)


def calm(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"confirm": "none"})


FALSE_DELETIONS = [
    pytest.param(httpx.Response(404, html=PAGE), id="404-page"),
    pytest.param(httpx.Response(404), id="404-bare"),
    pytest.param(refusal(404), id="404-of-the-vendor-s"),
    pytest.param(httpx.Response(200, html=PAGE), id="200-page"),
    pytest.param(httpx.Response(200, text="garbage"), id="200-garbage"),
    pytest.param(httpx.Response(200, json=None), id="200-null"),
    pytest.param(httpx.Response(200), id="200-empty"),
    pytest.param(httpx.Response(204), id="204"),
    pytest.param(httpx.Response(202), id="202"),
    pytest.param(httpx.Response(403, html=PAGE), id="403-page"),
    pytest.param(httpx.Response(401), id="401-bare"),
]


@pytest.mark.parametrize("answer", FALSE_DELETIONS)
async def test_a_deletion_that_did_not_happen_is_never_told(bench: Bench, answer: httpx.Response) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    deafen(bench, "DELETE", answer)

    told = await bench.refused("delete_access_token", {"id": token.id})

    assert f"So far, token {token.id} is still there." in told
    assert results(bench) == ["intended", "unknown"]
    assert bench.tokens_of(JANE) == [token]


@pytest.mark.parametrize("look", [httpx.Response(404, html=PAGE), httpx.Response(404), httpx.Response(200, json={})])
@pytest.mark.parametrize("answer", FALSE_DELETIONS)
async def test_a_deletion_of_which_nothing_can_be_seen_is_told_as_not_known(
    bench: Bench, answer: httpx.Response, look: httpx.Response
) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "DELETE"
        if not is_over:
            return response
        return answer if request.method == "DELETE" else look

    bench.recorder.on_served = serve

    told = await bench.refused("delete_access_token", {"id": token.id})

    assert f"It could not be found out whether token {token.id} was deleted" in told
    assert results(bench) == ["intended", "unknown"]


async def test_a_token_that_somebody_else_deleted_first_is_told_as_gone_and_by_whom(bench: Bench) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    bench.recorder.on_served = say("DELETE", refusal(404))

    told = await bench.call("delete_access_token", {"id": token.id})

    assert not told.is_error
    assert "somebody else may have done it" in told.text
    assert "somebody else may have done it" in told.fields["warning"]


@pytest.mark.parametrize("remains", [False, True], ids=["gone", "still-there"])
async def test_where_a_token_that_is_gone_may_not_be_asked_for_its_user_s_list_decides(
    bench: Bench, remains: bool
) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    is_over = False

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_over
        is_over = is_over or request.method == "DELETE"
        if request.method == "DELETE" and remains:
            bench.cluster.tokens[token.id] = token
        is_look = is_over and (request.method, request.url.path) == ("GET", PATH + token.id)
        return refusal(403) if is_look else response

    bench.recorder.on_served = serve

    told = await bench.call("delete_access_token", {"id": token.id})

    assert told.is_error is remains
    assert ("So far, token" in told.text) is remains


@pytest.mark.parametrize("answer", FALSE_DELETIONS)
@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token"])
async def test_a_new_token_that_was_not_taken_back_is_named(bench: Bench, answer: httpx.Response, tool: str) -> None:
    """A create cannot deliver, a rotate not prove; in both, what should delete the new token does not."""
    calm(bench)
    old = bench.cluster.create_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
    deafen(bench, "DELETE", answer)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if tool == "create_access_token" and request.method == "POST" and request.url.path == PATH:
            [pending] = bench.settings.delivery_dir.iterdir()
            pending.unlink()
        is_proof = request.url.path == WHO_AM_I and request.headers["Authorization"] != own
        return httpx.Response(401) if is_proof else response

    assert bench.settings.bearer_token is not None
    own = f"Bearer {bench.settings.bearer_token.get_secret_value()}"
    bench.recorder.on_served = fail

    told = await bench.refused(tool, {"user": "local:jane"} if tool == "create_access_token" else {"id": old.id})

    [new] = [token for token in bench.tokens_of(JANE) if token.id != old.id]
    assert "ould not be deleted again: " in told
    assert f'delete_access_token(id="{new.id}")' in told
    assert "no token is left" not in told.lower()
    assert results(bench) == ["intended", "stranded"]


async def test_a_new_token_of_which_it_is_not_known_whether_it_was_taken_back_is_named(bench: Bench) -> None:
    calm(bench)

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            [pending] = bench.settings.delivery_dir.iterdir()
            pending.unlink()
        is_after = request.url.path.startswith(PATH) and request.url.path != PATH
        return httpx.Response(502, html=PAGE) if is_after else response

    bench.recorder.on_served = serve

    told = await bench.refused("create_access_token", {"user": "local:jane"}, timeout=timedelta(seconds=1))

    [deleted] = [request for request in bench.recorder.requests if request.method == "DELETE"]
    token_id = deleted.url.path.removeprefix(PATH)
    assert f"Whether the new token {token_id} was deleted again is not known" in told
    assert f'delete_access_token(id="{token_id}")' in told


REFUSALS = [400, 401, 403, 404, 405, 407, 409, 413, 421, 451]


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_create_whose_answer_was_blocked_names_the_orphan(bench: Bench, status: int) -> None:
    calm(bench)
    bench.recorder.on_served = say("POST", httpx.Response(status, html=PAGE))

    told = await bench.refused("create_access_token", {"user": "local:jane"})

    [orphan] = bench.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert "PRIVILEGE" not in told
    assert results(bench) == ["intended", "unknown"]


@pytest.mark.parametrize("status", REFUSALS)
async def test_an_update_whose_answer_was_blocked_is_looked_at(bench: Bench, status: int) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    bench.recorder.on_served = say("PATCH", httpx.Response(status, html=PAGE))

    told = await bench.call("update_access_token", {"id": token.id, "enabled": False})

    assert not told.is_error
    assert told.fields["enabled"] is False
    assert results(bench) == ["intended", "done"]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_a_page_from_in_front_of_the_cluster_is_told_as_that(bench: Bench, tool: str, status: int) -> None:
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    bench.recorder.on_served = say("GET", httpx.Response(status, html=PAGE))

    told = await bench.refused(tool, {"id": token.id} if tool == "get_access_token" else {})

    assert f"The answer (status {status}) is not in the form of a Qumulo cluster's." in told
    assert "privilege" not in told
    assert "deleted" not in told


def tell_of_another(other: Token) -> Serve:
    """A cache or a mixed-up proxy gives the answer to another request."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.startswith(PATH) and request.url.path != PATH and response.content:
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
    bench: Bench, tool: str, arguments: dict[str, Any]
) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    other = bench.cluster.create_token(AD_JANE.auth_id, creator="500")
    bench.recorder.on_served = tell_of_another(other)

    told = await bench.refused(tool, {"id": token.id, **arguments})

    assert f"The answer is about another access token than {token.id}" in told
    assert {request.method for request in bench.recorder.requests} <= {"GET"}
    assert bench.tokens_of(AD_JANE) == [other]


async def test_a_change_that_is_answered_with_another_token_is_told_by_a_look(bench: Bench) -> None:
    calm(bench)
    token = bench.cluster.create_token(JANE.auth_id, creator="500")
    other = bench.cluster.create_token(AD_JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=response.json() | {"id": other.id}) if request.method == "PATCH" else response

    bench.recorder.on_served = mix_up

    told = await bench.call("update_access_token", {"id": token.id, "enabled": False})

    assert told.fields["id"] == token.id
    assert told.fields["enabled"] is False


async def test_a_create_that_is_answered_with_a_token_from_before_touches_that_one_never(bench: Bench) -> None:
    calm(bench)
    before = bench.cluster.create_token(JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return response

    bench.recorder.on_served = mix_up

    told = await bench.refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    [orphan] = [token for token in bench.tokens_of(JANE) if token != before]
    assert f"The answer is about token {before.id}, which was there before." in told
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert [request for request in bench.recorder.requests if request.method == "DELETE"] == []
    assert results(bench) == ["intended", "unknown"]


async def test_where_it_is_not_known_what_there_was_before_a_token_is_only_deleted_if_it_is_new(bench: Bench) -> None:
    calm(bench)
    before = bench.cluster.create_token(JANE.auth_id, creator="500", creation_time=NOW - timedelta(days=30))

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            return httpx.Response(200, json=response.json() | {"id": before.id})
        return refusal(403) if "user" in request.url.params else response

    bench.recorder.on_served = mix_up

    told = await bench.refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "it could be one of those, and was not touched" in told
    assert before in bench.tokens_of(JANE)


async def test_where_it_is_not_known_what_there_was_before_a_new_token_is_still_taken_back(bench: Bench) -> None:
    calm(bench)

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            token = bench.cluster.tokens[response.json()["id"]]
            bench.cluster.tokens[token.id] = replace(token, expiration_time=None)
        return refusal(403) if "user" in request.url.params else response

    bench.recorder.on_served = serve

    told = await bench.refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert "It was deleted again." in told
    assert bench.tokens_of(JANE) == []


@pytest.mark.parametrize("is_stuck", [False, True], ids=["removed", "not-to-be-removed"])
async def test_a_create_that_is_answered_with_a_token_of_nobody_s_names_the_one_that_was_made(
    bench: Bench, is_stuck: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calm(bench)

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            return httpx.Response(200, json=response.json() | {"id": "12345678901234567890123"})
        if request.url.path.startswith(PATH + "1234") and is_stuck:
            [file] = bench.settings.delivery_dir.iterdir()
            file.unlink()
            file.mkdir()
        return response

    bench.recorder.on_served = mix_up

    told = await bench.refused("create_access_token", {"user": "local:jane"})

    [orphan] = bench.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in told
    assert ("cannot be kept in" in caplog.text) is is_stuck
    assert [file for file in bench.settings.delivery_dir.iterdir() if file.is_file()] == []


@pytest.mark.parametrize("user", ["local:backup", "backup", r"local:CLUSTER\backup"])
async def test_a_local_user_is_only_taken_for_one_of_that_name(bench: Bench, user: str) -> None:
    calm(bench)
    bench.cluster.add_account(BACKUP)
    bench.recorder.on_served = say("POST", httpx.Response(200, json=JANE.identity()), path=FIND)

    told = await bench.refused("create_access_token", {"user": user})

    assert "somebody else" in told
    assert bench.recorder.bodies("POST", PATH) == []


@pytest.mark.parametrize("user", ["local:BACKUP", "backup", r"local:CLUSTER\backup"])
async def test_a_local_name_may_be_written_in_several_ways(bench: Bench, user: str) -> None:
    calm(bench)
    bench.cluster.add_account(BACKUP)
    bench.recorder.on_served = say("POST", httpx.Response(200, json=BACKUP.identity()), path=FIND)

    told = await bench.call("create_access_token", {"user": user})

    assert not told.is_error
    assert len(bench.tokens_of(BACKUP)) == 1


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
    bench: Bench, user: str, name: str, is_asked: bool
) -> None:
    domain = "POSIX_USER" if user.startswith("ldap") else "ACTIVE_DIRECTORY"
    found = {"domain": domain, "auth_id": AD_JANE.auth_id, "name": name}
    bench.recorder.on_served = say("POST", httpx.Response(200, json=found), path=FIND)
    human = Human([AGREES])

    told = await bench.call("create_access_token", {"user": user}, human=human)

    assert not told.is_error
    assert bool(human.asked) is is_asked
    if is_asked:
        assert "Asked because the cluster calls that user" in human.asked[0]


@pytest.mark.parametrize("user", ["uid:0", "auth_id:500", "sid:S-1-5-21-1-2-3-1001", "gid:0", "local:jane", "jane"])
async def test_whom_the_cluster_did_not_identify_is_asked_about(bench: Bench, user: str) -> None:
    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal(403) if request.url.path == FIND else response

    bench.recorder.on_served = hide

    told = await bench.refused("create_access_token", {"user": user})

    assert ("A person has to agree to this first" in told) or ("is a group" in told)
    assert bench.recorder.bodies("POST", PATH) == []


async def test_oneself_is_identified_by_who_am_i(bench: Bench) -> None:
    """Whoever may not look up identities may still make a token of their own."""
    service = replace(ADMIN, auth_id="1010", name="service")
    bench.cluster.add_account(service)
    own = bench.cluster.create_token("1010", creator="500")

    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal(403) if request.url.path == FIND else response

    bench.recorder.on_served = hide

    told = await bench.call("create_access_token", {"user": "self"}, bearer_token=SecretStr(own.bearer_token))

    assert not told.is_error


async def test_a_list_without_the_token_that_the_server_runs_on_is_said_not_to_be_whole(bench: Bench) -> None:
    bench.recorder.on_served = say("GET", httpx.Response(200, json={"entries": []}))

    listed = await bench.call("list_access_tokens")
    audited = await bench.call("audit_access_tokens")

    assert "The list is not whole: it lacks the access token that this server itself runs on." in listed.text
    assert "The list is not whole" in listed.fields["summary"]
    assert "Nothing found." not in audited.text
    assert "Nothing found among what was listed." in audited.text
    assert "The list is not whole" in audited.fields["not_known"]


async def test_a_list_with_other_tokens_alone_is_said_not_to_be_whole_either(bench: Bench) -> None:
    token = bench.cluster.create_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=300))
    told = (await bench.call("get_access_token", {"id": token.id})).fields
    entry = {"id": token.id, "user": JANE.identity(), "creation_time": told["creation_time"]}
    bench.recorder.on_served = say("GET", httpx.Response(200, json={"entries": [entry]}))

    audited = await bench.call("audit_access_tokens")

    assert "The list is not whole" in audited.fields["not_known"]


async def test_an_empty_list_of_whom_is_not_known_to_run_on_a_token_is_told_as_it_is(bench: Bench) -> None:
    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(500) if request.url.path == WHO_AM_I else httpx.Response(200, json={"entries": []})

    bench.recorder.on_served = serve

    told = await bench.call("list_access_tokens")

    assert told.text == "0 access tokens on c.example.com:8000. It is 2026-11-24 09:00 UTC."


@pytest.mark.parametrize("shape", ["0{}", " {} ", "{}.0", "0x{:x}", "{}x"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("update_access_token", {"enabled": False}), ("delete_access_token", {})],
)
async def test_the_own_token_is_safe_however_who_am_i_writes_its_id(
    bench: Bench, shape: str, tool: str, arguments: dict[str, Any]
) -> None:
    calm(bench)
    [own] = bench.tokens_of(ADMIN)

    async def rewrite(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I:
            told_id = shape.format(int(own.id) if "x}" in shape else own.id)
            return httpx.Response(200, json=response.json() | {"access_token_id": told_id})
        return response

    bench.recorder.on_served = rewrite

    told = await bench.refused(tool, {"id": own.id, **arguments})

    assert told.endswith("it could lock itself out. A person can do it with qq.")
    assert bench.tokens_of(ADMIN) == [own]
