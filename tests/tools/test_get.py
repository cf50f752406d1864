"""Test the tool that gets one token."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.support.example_tokens import add_token, own_token
from tests.support.harness import AD_JANE, ADMIN, JANE, LDAP_BOB, TOKENS_PATH, WHO_AM_I_PATH, Harness, refusal_response
from tests.support.misbehaving_cluster import (
    HTML_PAGE,
    REFUSAL_STATUSES,
    answer_about_another,
    hide_token_ids,
    replace_answer,
)

pytestmark = pytest.mark.anyio


async def test_get_tells_everything_in_both_channels(harness: Harness) -> None:
    token, other = add_token(harness, LDAP_BOB), add_token(harness, LDAP_BOB, enabled=False, expiration_time=None)

    answer = await harness.call("get_access_token", {"id": token.id})

    assert answer.fields == {
        "summary": f"Access token {token.id} of ldap_user:bob on c.example.com:8000: enabled, expires 2027-01-13 09:00 "
        "UTC (in 50 days); made 40 days ago by local:admin. This server does not run on it. It is 2026-11-24 09:00 "
        "UTC.",
        "id": token.id,
        "user": "ldap_user:bob",
        "creator": "local:admin",
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": True,
        "user_domain": "POSIX_USER",
        "user_auth_id": "12884902888",
        "user_uid": 1000,
        "user_sid": "S-1-5-88-1-1000",
        "user_name": "bob",
        "creator_domain": "LOCAL",
        "creator_auth_id": "500",
        "creator_sid": "S-1-5-21-1-2-3-500",
        "creator_name": "admin",
        "is_own": False,
        "other_tokens": [
            f"{other.id} | ldap_user:bob | never | 2026-10-15 09:00 | disabled | local:admin",
        ],
    }
    for fact in (token.id, "S-1-5-88-1-1000", "1000", "S-1-5-21-1-2-3-500", other.id, "disabled"):
        assert fact in answer.text


async def test_get_says_that_the_server_runs_on_a_token(harness: Harness) -> None:
    answer = await harness.call("get_access_token", {"id": own_token(harness).id})

    assert answer.fields["is_own"] is True
    assert answer.fields["other_tokens"] == []
    assert "This server runs on it." in answer.text
    assert "The user has no other token." in answer.text


async def test_get_tells_what_it_could_not_find_out(harness: Harness) -> None:
    token = add_token(harness)

    async def refuse_the_rest(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return served if request.url.path == TOKENS_PATH + token.id else refusal_response(403)

    harness.recorder.on_served = refuse_the_rest

    answer = await harness.call("get_access_token", {"id": token.id})

    assert not answer.is_error
    assert answer.fields.keys().isdisjoint({"is_own", "other_tokens"})
    assert "Whether this server runs on it is not known" in answer.fields["warning"]
    assert "The user's other tokens are not known" in answer.fields["warning"]
    assert answer.fields["warning"] in answer.text


@pytest.mark.parametrize("tool", ["get_access_token", "delete_access_token", "rotate_access_token"])
async def test_an_id_that_no_token_has_is_said_to_be_none(harness: Harness, tool: str) -> None:
    refusal = await harness.call_without_effect(tool, {"id": "123"})

    assert refusal.startswith("There is no access token 123. The cluster knows no such thing (404")
    assert refusal.endswith("list_access_tokens tells the ids.")


@pytest.mark.parametrize(
    ("tool", "privilege"),
    [
        pytest.param("get_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="get"),
        pytest.param("update_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="update"),
        pytest.param("delete_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="delete"),
        pytest.param("rotate_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="rotate"),
    ],
)
async def test_a_missing_privilege_is_named_with_what_still_works(harness: Harness, tool: str, privilege: str) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    token = add_token(harness)
    arguments = {"id": token.id} | ({"enabled": False} if tool == "update_access_token" else {})

    refusal = await harness.call_refused(tool, arguments, confirm="none")

    assert f"An administrator can grant {privilege} through a role." in refusal
    assert "the credential's own tokens still works" in refusal


async def test_one_s_own_tokens_can_be_administered_without_a_privilege(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    other = add_token(harness, ADMIN)

    got = await harness.call("get_access_token", {"id": other.id})
    changed = await harness.call("update_access_token", {"id": other.id, "enabled": False}, confirm="none")
    deleted = await harness.call("delete_access_token", {"id": other.id}, confirm="none")
    rotated = await harness.call("rotate_access_token", {"id": own_token(harness).id}, confirm="none")

    assert [answer.is_error for answer in (got, changed, deleted, rotated)] == [False] * 4


async def test_get_does_not_know_its_own_token_where_the_cluster_does_not_tell_it(harness: Harness) -> None:
    hide_token_ids(harness)

    answer = await harness.call("get_access_token", {"id": own_token(harness).id})

    assert "is_own" not in answer.fields
    assert "This server runs on it" not in answer.text
    assert answer.fields["warning"] == (
        "Whether this server runs on it is not known: the cluster does not tell which access token the server's "
        "credential is."
    )


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_a_page_from_in_front_of_the_cluster_is_told_as_that(harness: Harness, tool: str, status: int) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("GET", httpx.Response(status, html=HTML_PAGE))

    refusal = await harness.call_refused(tool, {"id": token.id} if tool == "get_access_token" else {})

    assert f"The answer (status {status}) is not in the form of a Qumulo cluster's." in refusal
    assert "privilege" not in refusal
    assert "deleted" not in refusal


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("get_access_token", {}),
        ("update_access_token", {"enabled": False}),
        ("delete_access_token", {}),
        ("rotate_access_token", {}),
    ],
)
@pytest.mark.usefixtures("no_consent")
async def test_nothing_is_done_to_a_token_that_was_not_asked_for(
    harness: Harness, tool: str, arguments: dict[str, Any]
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    other = harness.cluster.add_token(AD_JANE.auth_id, creator="500")
    harness.recorder.on_served = answer_about_another(other)

    refusal = await harness.call_refused(tool, {"id": token.id, **arguments})

    assert f"The answer is about another access token than {token.id}" in refusal
    assert {request.method for request in harness.recorder.requests} <= {"GET"}
    assert harness.tokens_of(AD_JANE) == [other]


@pytest.mark.parametrize("shape", ["0{}", " {} ", "{}.0", "0x{:x}", "{}x"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("update_access_token", {"enabled": False}), ("delete_access_token", {})],
)
@pytest.mark.usefixtures("no_consent")
async def test_the_own_token_is_safe_however_who_am_i_writes_its_id(
    harness: Harness, shape: str, tool: str, arguments: dict[str, Any]
) -> None:
    [own] = harness.tokens_of(ADMIN)

    async def rewrite(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I_PATH:
            told_id = shape.format(int(own.id) if "x}" in shape else own.id)
            return httpx.Response(200, json=response.json() | {"access_token_id": told_id})
        return response

    harness.recorder.on_served = rewrite

    refusal = await harness.call_refused(tool, {"id": own.id, **arguments})

    assert refusal.endswith("it could lock itself out. A person can do it with qq.")
    assert harness.tokens_of(ADMIN) == [own]
