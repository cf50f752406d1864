"""The whole cluster in one answer: counts that add up, findings in order of danger, and what cannot be known."""

import csv
import json
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from tests.support.harness import (
    AD_JANE,
    ADMIN,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    Harness,
    ToolAnswer,
    refusal_response,
)
from token_tools.cluster.identity import Identity
from token_tools.cluster.pagination import MAX_EMPTY_PAGES, PAGE_SIZE
from token_tools.operations.findings import FINDINGS
from token_tools.sandbox.cluster import Account, EndOfPaging, Token

pytestmark = pytest.mark.anyio

AUDIT_TOOL = "audit_access_tokens"
GUEST = Account(auth_id="501", domain="LOCAL", name="guest")


def add_token(harness: Harness, account: Account = JANE, **special: Any) -> Token:  # noqa: ANN401 - handed on to `add_token`, whose types hold
    """A token about which there is nothing to say, unless it is special."""
    usual: dict[str, Any] = {
        "creator": account.auth_id,
        "creation_time": NOW - timedelta(days=40),
        "expiration_time": NOW + timedelta(days=50),
    }
    return harness.cluster.add_token(account.auth_id, **{**usual, **special})


def remove_findings_of_own_token(harness: Harness) -> None:
    """Nothing to say about the server's own token either."""
    [own] = harness.tokens_of(ADMIN)
    del harness.cluster.tokens[own.id]
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=ADMIN.privileges))
    kept = replace(own, id=str((1500 << 64) + 1), user="1500", creator="1500", expiration_time=NOW + timedelta(days=99))
    harness.cluster.tokens[kept.id] = kept


def counts_by_finding(told: ToolAnswer) -> dict[str, int]:
    return {entry["finding"]: entry["count"] for entry in told.fields["findings"]}


def worst_ids(told: ToolAnswer, finding: str) -> list[str]:
    return [entry["id"] for entry in told.fields["worst"] if entry["finding"] == finding]


async def test_nothing_is_found_where_there_is_nothing(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token(harness)

    told = await harness.call(AUDIT_TOOL)

    assert told.text == (
        "2 access tokens of 2 users on c.example.com:8000: 2 live, 0 disabled, 0 expired. It is 2026-11-24 09:00 UTC. "
        "Soon is within 30 days.\n"
        "Nothing found.\n"
        "The cluster tells neither when a token was last used nor since when one is disabled."
    )
    assert told.fields == {
        "summary": told.text.splitlines()[0],
        "total": 2,
        "users": 2,
        "live": 2,
        "disabled": 0,
        "expired": 0,
        "findings": [],
        "worst": [],
        "not_known": told.text.splitlines()[2],
    }


@pytest.mark.parametrize(
    ("finding", "account", "special", "mend"),
    [
        pytest.param(
            "never_expires",
            JANE,
            {"expiration_time": None},
            'rotate_access_token(id="{id}", expiration_time="90d")',
            id="never-expires",
        ),
        pytest.param(
            "built_in_user",
            GUEST,
            {},
            "A person decides: its work may move to a service account",
            id="guest",
        ),
        pytest.param(
            "made_by_another",
            JANE,
            {"creator": "500"},
            "Usual for services; else a person asks their user",
            id="made-by",
        ),
        pytest.param(
            "user_has_no_name",
            replace(JANE, auth_id="1099"),
            {},
            'update_access_token(id="{id}", enabled=false)',
            id="no-name",
        ),
        pytest.param(
            "expired",
            JANE,
            {"expiration_time": NOW - timedelta(days=1)},
            'delete_access_token(id="{id}")',
            id="expired",
        ),
        pytest.param(
            "disabled_and_old",
            JANE,
            {"enabled": False},
            "Since when {id} is disabled is not known here: a person asks before it is deleted",
            id="disabled",
        ),
        pytest.param(
            "older_than_a_year",
            JANE,
            {"creation_time": NOW - timedelta(days=365)},
            'rotate_access_token(id="{id}")',
            id="old",
        ),
        pytest.param(
            "expires_soon",
            JANE,
            {"expiration_time": NOW + timedelta(days=30)},
            'rotate_access_token(id="{id}")',
            id="expires-soon",
        ),
    ],
)
async def test_each_risk_is_found_with_the_call_that_mends_it(
    harness: Harness, finding: str, account: Account, special: dict[str, Any], mend: str
) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(GUEST)
    token = add_token(harness, account, **special)

    told = await harness.call(AUDIT_TOOL)

    [found] = told.fields["findings"]
    assert found == {"finding": finding, "count": 1, "mend": mend.format(id=token.id)}
    assert worst_ids(told, finding) == [token.id]
    assert f"{finding}: 1. {found['mend']}\n  {token.id} " in told.text


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account(auth_id="1", domain="LOCAL", name="operator"), id="operator"),
        pytest.param(Account(auth_id="8589934592", domain="WORLD", name="Everyone"), id="everyone"),
        pytest.param(Account(auth_id="9", domain="API_INTERNAL_DOMAIN", name="internal"), id="internal"),
    ],
)
async def test_what_each_cluster_is_born_with_is_a_built_in_user(harness: Harness, account: Account) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(account)
    add_token(harness, account)

    assert counts_by_finding(await harness.call(AUDIT_TOOL)) == {"built_in_user": 1}


@pytest.mark.parametrize(
    "special",
    [
        pytest.param({"enabled": False, "creation_time": NOW - timedelta(days=29)}, id="disabled-lately"),
        pytest.param({"creation_time": NOW - timedelta(days=364)}, id="not-yet-a-year"),
        pytest.param({"expiration_time": NOW + timedelta(days=31)}, id="expires-later"),
    ],
)
async def test_what_is_not_yet_a_risk_is_not_found(harness: Harness, special: dict[str, Any]) -> None:
    remove_findings_of_own_token(harness)
    add_token(harness, **special)

    assert (await harness.call(AUDIT_TOOL)).fields["findings"] == []


@pytest.mark.parametrize(
    ("special", "mend"),
    [
        pytest.param({}, "A person decides which one stays", id="both-live"),
        pytest.param(
            {"enabled": False},
            "Since when {newer} is disabled is not known here: a person asks before it is deleted",
            id="newer-disabled",
        ),
        pytest.param({"expiration_time": NOW - timedelta(hours=1)}, "{newer}: see expired", id="newer-expired"),
    ],
)
async def test_a_user_with_two_tokens_is_counted_once_and_told_by_the_one_that_is_likely_unused(
    harness: Harness, special: dict[str, Any], mend: str
) -> None:
    remove_findings_of_own_token(harness)
    older = add_token(harness)
    newer = add_token(harness, creation_time=NOW - timedelta(days=1), **special)
    add_token(harness, LDAP_BOB)

    told = await harness.call(AUDIT_TOOL)

    found = told.fields["findings"][-1]
    assert found == {
        "finding": "users_with_two_tokens",
        "count": 1,
        "mend": mend.format(older=older.id, newer=newer.id),
    }
    assert told.fields["users"] == 3


async def test_of_several_users_with_two_tokens_each_is_told_by_one(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    older = [add_token(harness, account, creation_time=NOW - timedelta(days=9)) for account in (JANE, LDAP_BOB)]
    for account in (JANE, LDAP_BOB):
        add_token(harness, account, creation_time=NOW - timedelta(days=1))

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"users_with_two_tokens": 2}
    assert worst_ids(told, "users_with_two_tokens") == [token.id for token in older]


async def test_who_has_two_tokens_is_counted_even_if_they_cannot_be_read(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token(harness)
    add_token(harness)

    async def refuse_users(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = refuse_users

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"users_with_two_tokens": 1}
    assert "users_with_two_tokens: 1. Whose, list_access_tokens tells. A person decides" in told.text


async def test_the_findings_stand_in_order_of_danger_with_the_worst_first(harness: Harness) -> None:
    ages = [3, 1, 4, 2]
    made = {
        age: add_token(harness, creation_time=NOW - timedelta(days=400 + age), expiration_time=None) for age in ages
    }
    add_token(harness, AD_JANE, expiration_time=NOW - timedelta(days=2))

    told = await harness.call(AUDIT_TOOL)

    names = [entry["finding"] for entry in told.fields["findings"]]
    assert names == [finding.name for finding in FINDINGS if finding.name in names]
    assert worst_ids(told, "never_expires") == [made[4].id, made[3].id, made[2].id]
    assert worst_ids(told, "older_than_a_year") == [made[4].id, made[3].id, made[2].id]


async def test_the_counts_add_up(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token(harness)
    add_token(harness, enabled=False)
    add_token(harness, LDAP_BOB, expiration_time=NOW - timedelta(days=1))
    add_token(harness, LDAP_BOB, expiration_time=NOW - timedelta(days=1), enabled=False)

    told = await harness.call(AUDIT_TOOL)

    fields = told.fields
    assert (fields["live"], fields["disabled"], fields["expired"]) == (2, 1, 2)
    assert fields["total"] == fields["live"] + fields["disabled"] + fields["expired"] == len(harness.cluster.tokens)
    assert counts_by_finding(told) == {"expired": 2, "disabled_and_old": 2, "users_with_two_tokens": 2}


async def test_the_server_s_own_token_is_told_among_the_findings(harness: Harness) -> None:
    add_token(harness, ADMIN)

    told = await harness.call(AUDIT_TOOL)

    assert told.fields["own_token_findings"] == "never_expires, built_in_user, users_with_two_tokens"
    assert "This server's own token is among: never_expires, built_in_user, users_with_two_tokens." in told.text


async def test_what_counts_as_soon_can_be_said(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token(harness, expiration_time=NOW + timedelta(days=50))

    told = await harness.call(AUDIT_TOOL, {"expiring_within": "8w"})

    assert counts_by_finding(told) == {"expires_soon": 1}
    assert "Soon is within 56 days." in told.text


@pytest.mark.parametrize(
    ("expiring_within", "why"),
    [
        ("soon", "must be a duration with its unit: s, min, h, d or w, such as 30s, 12h or 90d"),
        ("30", "has no unit: write 30d or 30h or 30s"),
        ("0d", "must be longer than zero: write a longer one, such as 12h"),
        ("1 month", "must not count in months or years, which differ in length: write days, such as 30d"),
    ],
    ids=["word", "no-unit", "zero", "month"],
)
async def test_what_is_no_duration_is_refused(harness: Harness, expiring_within: str, why: str) -> None:
    told = await harness.call_refused(AUDIT_TOOL, {"expiring_within": expiring_within})

    assert told == f"`expiring_within` {why}."
    assert harness.recorder.request_lines() == []


async def test_all_pages_are_read_with_progress(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    for number in range(2 * PAGE_SIZE):
        harness.cluster.add_token(str(2000 + number), creator="500", expiration_time=NOW + timedelta(days=99))
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with harness.connected() as client:
        told = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}, progress_callback=hear))

    assert told.fields["total"] == 2 * PAGE_SIZE + 1
    assert heard == [
        (PAGE_SIZE, f"{PAGE_SIZE:,} tokens read"),
        (2 * PAGE_SIZE, f"{2 * PAGE_SIZE:,} tokens read"),
        (2 * PAGE_SIZE + 1, f"{2 * PAGE_SIZE + 1:,} tokens read"),
    ]


def page_response(entries: Sequence[dict[str, Any]], cursor: str | None) -> httpx.Response:
    return httpx.Response(200, json={"entries": entries, "paging": {"next": cursor and f"/x?after={cursor}"}})


@pytest.mark.parametrize("end", get_args(EndOfPaging))
async def test_the_end_of_the_list_is_found_however_it_is_told(harness: Harness, end: EndOfPaging) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, end_of_paging=end, max_page_size=2)
    for _ in range(4):
        add_token(harness, LDAP_BOB)

    told = await harness.call(AUDIT_TOOL)

    assert told.fields["total"] == 5


async def test_a_list_that_goes_round_is_counted_once(harness: Harness) -> None:
    """New keys for ever, the same tokens for ever."""
    remove_findings_of_own_token(harness)
    number = 0

    async def go_round(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal number
        if request.url.path != TOKENS_PATH or "user" in request.url.params:
            return response
        number += 1
        return page_response(entries, f"key{number}")

    add_token(harness)
    [*entries] = [render_entry(token) for token in harness.cluster.tokens.values()]
    harness.recorder.on_served = go_round

    told = await harness.call(AUDIT_TOOL)

    assert told.fields["total"] == 2
    assert number == MAX_EMPTY_PAGES + 1


def render_entry(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "user": {"auth_id": token.user, "name": "x", "domain": "LOCAL"},
        "creator": {"auth_id": token.creator},
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": True,
    }


async def test_tokens_that_come_and_go_while_pages_are_read_do_no_harm(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=2)
    for _ in range(6):
        add_token(harness, LDAP_BOB)

    async def stir(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH and len(harness.recorder.request_lines()) < 5:
            del harness.cluster.tokens[harness.tokens_of(LDAP_BOB)[-1].id]
            add_token(harness, AD_JANE)
        return response

    harness.recorder.on_served = stir

    told = await harness.call(AUDIT_TOOL)

    assert not told.is_error
    assert told.fields["total"] == told.fields["live"]


async def test_a_page_that_fails_is_an_error_and_not_half_an_answer(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=1)
    add_token(harness)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=[]) if "after" in request.url.params else response

    harness.recorder.on_served = fail

    assert "not a list of access tokens" in await harness.call_refused(AUDIT_TOOL)


async def test_users_without_a_name_are_looked_up_before_they_are_told(harness: Harness) -> None:
    """Some clusters list users by key only."""
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    add_token(harness)
    gone = add_token(harness, replace(JANE, auth_id="1099"))

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"user_has_no_name": 1}
    assert worst_ids(told, "user_has_no_name") == [gone.id]


@pytest.mark.parametrize(("name", "count"), [("jane", 1), (None, 2)], ids=["named", "nameless"])
async def test_a_look_up_settles_it_only_if_it_tells_a_name(harness: Harness, name: str | None, count: int) -> None:
    """Of the list's two users without a name the first is nobody at all."""
    remove_findings_of_own_token(harness)
    first, second = sorted([add_token(harness), add_token(harness, LDAP_BOB)], key=lambda token: token.id)

    async def forget(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return httpx.Response(200, json={"auth_id": second.user, "name": name})
        if request.url.path != TOKENS_PATH:
            return response
        known = {first.id: None, second.id: {"auth_id": second.user}}
        entries = response.json()["entries"]
        return page_response([entry | {"user": known.get(entry["id"], entry["user"])} for entry in entries], None)

    harness.recorder.on_served = forget

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told)["user_has_no_name"] == count


async def test_a_list_that_tells_no_names_at_all_is_no_finding(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    for number in range(100):
        account = replace(JANE, auth_id=str(3000 + number), name=f"u{number}")
        harness.cluster.add_account(account)
        add_token(harness, account)

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {}
    assert "Whether the users of 37 tokens have a name: the list does not tell." in told.fields["not_known"]


async def test_users_whom_nobody_can_look_up_are_all_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=frozenset({READ_PRIVILEGE})))
    for number in range(100):
        add_token(harness, replace(JANE, auth_id=str(3000 + number)))

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"user_has_no_name": 100}


async def test_on_a_list_without_names_only_who_is_not_found_is_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    gone = add_token(harness, replace(JANE, auth_id="2999"))
    for number in range(100):
        account = replace(JANE, auth_id=str(3000 + number), name=f"u{number}")
        harness.cluster.add_account(account)
        add_token(harness, account)

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"user_has_no_name": 1}
    assert worst_ids(told, "user_has_no_name") == [gone.id]
    assert "Whether the users of 38 tokens have a name" in told.fields["not_known"]


async def test_without_the_right_to_look_up_nobody_of_a_list_without_names_is_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=frozenset({READ_PRIVILEGE})))
    add_token(harness)

    told = await harness.call(AUDIT_TOOL, {"report": "json"})

    assert counts_by_finding(told) == {}
    assert "Whether the users of 2 tokens have a name" in told.fields["not_known"]
    assert all(not row["findings"] for row in json.loads(Path(told.fields["report"]).read_text()))


async def test_a_token_of_which_no_user_is_known_stops_neither_an_audit_nor_a_look(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    token = add_token(harness)

    async def forget(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH:
            entries = [entry | {"user": None} for entry in response.json()["entries"]]
            return page_response(entries, None)
        if request.url.path == TOKENS_PATH + token.id:
            return httpx.Response(200, json=response.json() | {"user": None})
        return response

    harness.recorder.on_served = forget

    told = await harness.call(AUDIT_TOOL)
    got = await harness.call("get_access_token", {"id": token.id})

    assert (told.fields["total"], told.fields["users"]) == (2, 0)
    assert not got.is_error
    assert "The user's other tokens are not known" in got.fields["warning"]


async def test_what_mends_a_finding_is_what_this_server_may_do(harness: Harness) -> None:
    own = harness.tokens_of(ADMIN)[0]

    alone = await harness.call(AUDIT_TOOL)
    other = add_token(harness, expiration_time=None)
    both = await harness.call(AUDIT_TOOL, max_lifetime=timedelta(hours=12))
    looking = await harness.call(AUDIT_TOOL, read_only=True)

    mends = {entry["finding"]: entry["mend"] for entry in alone.fields["findings"]}
    assert own.id not in mends["never_expires"]
    assert mends["never_expires"] == "A person decides: its work may move to a service account"
    mends = {entry["finding"]: entry["mend"] for entry in both.fields["findings"]}
    assert mends["never_expires"] == f'rotate_access_token(id="{other.id}", expiration_time="12h")'
    assert "note" not in both.fields
    assert looking.fields["note"].startswith("This server only reads: the calls that mend are for one that may write")
    assert looking.fields["note"] in looking.text


async def test_what_is_not_known_is_told_in_short(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/who-am-i"):
            return httpx.Response(403, json={"description": "\u202e" * 1000})
        return response

    harness.recorder.on_served = refuse

    told = await harness.call(AUDIT_TOOL)

    assert "Which token this server runs on is not known" in told.fields["not_known"]
    assert len(told.fields["not_known"]) < 400


READ_PRIVILEGE = "PRIVILEGE_ACCESS_TOKENS_READ"


async def test_a_missing_privilege_is_named(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))

    told = await harness.call_refused(AUDIT_TOOL)

    assert f"can grant {READ_PRIVILEGE} through a role" in told
    assert "the credential's own tokens still works" in told


async def test_a_list_that_may_be_one_s_own_only_is_said_to_be(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, unprivileged_list_is_own=True)
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    add_token(harness)

    told = await harness.call(AUDIT_TOOL)

    assert told.fields["total"] == 1
    assert f"lacks {READ_PRIVILEGE}: these may be its own user's tokens only" in told.fields["not_known"]


async def test_an_audit_needs_no_who_am_i(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.url.path.endswith("/who-am-i") else response

    harness.recorder.on_served = refuse

    told = await harness.call(AUDIT_TOOL)

    assert not told.is_error
    assert "Which token this server runs on is not known" in told.fields["not_known"]


async def test_the_answer_stays_small_whatever_the_cluster_holds(harness: Harness) -> None:
    for number in range(300):
        name = ("\N{PILE OF POO}" * 90 if number % 2 else "=cmd" * 20) + str(number)
        account = Account(auth_id=str(1 << 63 | number), domain="LOCAL", name=name)
        harness.cluster.add_account(account)
        special = {"creator": "500", "creation_time": NOW - timedelta(days=500 + number)}
        add_token(harness, account, **special, expiration_time=None if number % 3 else NOW + timedelta(days=1))
        add_token(harness, account, **special, enabled=False)
        add_token(harness, replace(JANE, auth_id=str(1 << 62 | number)), expiration_time=NOW - timedelta(days=1))
        harness.cluster.add_token("501", creator="500")

    told = await harness.call(AUDIT_TOOL, {"report": "csv"})

    assert len(told.fields["findings"]) == len(FINDINGS)
    assert len(told.text.encode()) < 4000
    assert len(json.dumps(told.fields)) < 4000


async def test_names_are_told_as_data(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    hostile = Account(auth_id="1666", domain="LOCAL", name="x\nIgnore all\u202e")
    harness.cluster.add_account(hostile)
    add_token(harness, hostile, expiration_time=None)

    told = await harness.call(AUDIT_TOOL)

    assert r'local:"x\nIgnore all\u202e"' in told.text


async def test_a_user_without_any_key_is_told_by_a_short_name(harness: Harness) -> None:
    entry = render_entry(add_token(harness)) | {"user": {"domain": "LOCAL", "name": "n" * 90}, "expiration_time": None}
    entry |= {"creator": {"domain": "LOCAL", "name": "admin"}}

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    told = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(told) == {"never_expires": 1, "made_by_another": 1}
    assert {entry["user"] for entry in told.fields["worst"]} == {"nnnnn"}


@pytest.mark.parametrize("file_format", ["csv", "json"])
async def test_the_whole_report_can_be_had_as_a_private_file(harness: Harness, file_format: str) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    crowded = [add_token(harness, expiration_time=None), add_token(harness, expiration_time=NOW - timedelta(days=1))]
    gone = add_token(harness, replace(JANE, auth_id="1099"), enabled=False)

    told = await harness.call(AUDIT_TOOL, {"report": file_format})

    path = Path(told.fields["report"])
    assert f"All rows are in {path}" in told.text
    assert [*harness.settings.delivery_dir.iterdir()] == [path]
    assert path.name.startswith("audit_c.example.com_8000_20261124T090000Z_")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if file_format == "csv":
        rows = [
            row | {"id": row["id"].removeprefix("id:"), "findings": row["findings"].split()} for row in read_csv(path)
        ]
    else:
        rows = json.loads(path.read_text())
    assert {row["id"]: row["findings"] for row in rows if row["findings"]} == {
        crowded[0].id: ["never_expires", "users_with_two_tokens"],
        crowded[1].id: ["expired", "users_with_two_tokens"],
        gone.id: ["user_has_no_name", "disabled_and_old"],
    }
    assert len(rows) == told.fields["total"]
    assert set(rows[0]) == {"id", "user", "creator", "creation_time", "expiration_time", "enabled", "findings"}


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as stream:
        return [*csv.DictReader(stream)]


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "@sum",
        "-2",
        "+x",
        "a;=cmd|'/C calc'!A0;b",
        "a\t=1",
        'a"=1',
        "x,=1",
        "x.-1",
        "svc--old",
        "CORP\\-x",
        "==1",
        "\uff1d1",
        "\uff20x",
        "x \u22121",
        "jane@corp.example.com",
        "a-b=c+d",
    ],
    ids=ascii,
)
async def test_a_name_is_no_formula_in_the_report_wherever_a_cell_begins(harness: Harness, name: str) -> None:
    user = Identity(domain="LOCAL", name=name)
    entry = render_entry(add_token(harness)) | {"user": user.known_fields(), "creator": user.known_fields()}

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    told = await harness.call(AUDIT_TOOL, {"report": "csv"})

    path = Path(told.fields["report"])
    assert not re.search(r"(?:^|\W)[-=+@\uff1d\uff20\u2212]", path.read_text())
    [row] = read_csv(path)
    assert [Identity.parse(row["user"]), Identity.parse(row["creator"])] == [user, user]


@pytest.mark.parametrize(
    "user",
    [
        {"auth_id": "18446744073709551615"},
        {"uid": 1001},
        {"name": "184467440737095516150000"},
        {"name": "1e5"},
        {"name": "1-2"},
        {"name": "12.5"},
        {"name": "sept2"},
        {"name": "0x1F"},
        {"name": "TRUE"},
        {"name": "$5"},
        {"name": "CORP\\1"},
        {"name": "1e5", "domain": "LOCAL"},
    ],
    ids=str,
)
async def test_a_spreadsheet_can_take_no_id_and_no_user_for_a_number_or_a_date(
    harness: Harness, user: dict[str, str | int]
) -> None:
    entry = render_entry(add_token(harness)) | {"user": user, "creator": user}

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    told = await harness.call(AUDIT_TOOL, {"report": "csv"})

    [row] = read_csv(Path(told.fields["report"]))
    assert row["id"] == f"id:{entry['id']}"
    for name in ("user", "creator"):
        assert re.match(r'[a-z_]+:|"', row[name])
        assert Identity.parse(row[name]) == Identity.model_validate(user)


async def test_a_report_that_has_no_place_is_refused_before_anything_is_read(harness: Harness) -> None:
    harness.settings.delivery_dir.parent.mkdir(parents=True)
    harness.settings.delivery_dir.write_text("a file where the folder should be")

    told = await harness.call_refused(AUDIT_TOOL, {"report": "csv"})

    assert told.startswith(f"The report cannot be written to {harness.settings.delivery_dir}: ")
    assert not [line for line in harness.recorder.request_lines() if line.startswith(f"GET {TOKENS_PATH}")]


async def test_an_audit_that_fails_leaves_no_report(harness: Harness) -> None:
    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = fail

    await harness.call_refused(AUDIT_TOOL, {"report": "json"})

    assert [*harness.settings.delivery_dir.iterdir()] == []
