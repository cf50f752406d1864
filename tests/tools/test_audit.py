"""Test audits through the tool: the findings, their order, and their remedies."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from pydantic import SecretStr

from tests.support.example_tokens import (
    add_token,
    add_token_without_findings,
    find_new_token,
    own_token,
    remove_findings_of_own_token,
)
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    AUDIT_TOOL,
    EXPORT_TOOL,
    FIND_PATH,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    WHO_AM_I_PATH,
    Harness,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    refusal_response,
)
from tests.support.record import forget_outcomes
from tests.support.recording_transport import RecordingTransport
from tests.support.remedies import follow_remedies, parse_calls
from tests.support.scripted_cluster import page_response, render_entry
from token_tools.cluster.pagination import MAX_EMPTY_PAGES, PAGE_SIZE
from token_tools.operations.findings import FINDINGS
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import (
    LOOKUP_PRIVILEGE,
    READ_PRIVILEGE,
    WRITE_PRIVILEGE,
    Account,
    Behaviour,
    Cluster,
    EndOfPaging,
    Token,
)
from token_tools.sandbox.demo import ADMIN_ID as DEMO_ADMIN
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.settings import Settings

pytestmark = pytest.mark.anyio
MOVE_WORK = "A person names a service account for its work (create_access_token for that); then this one is disabled"
KEEP = "The cluster's own, such as its replication's: it stays as it is"
INTERNAL = Account(auth_id="4294967297", domain="API_INTERNAL_DOMAIN", name="replication")
GUEST = Account(auth_id="501", domain="LOCAL", name="guest")


def counts_by_finding(expected: ToolAnswer) -> dict[str, int]:
    return {entry["finding"]: entry["count"] for entry in expected.fields["findings"]}


def worst_ids(expected: ToolAnswer, finding: str) -> list[str]:
    return [entry["id"] for entry in expected.fields["worst"] if entry["finding"] == finding]


async def test_nothing_is_found_where_there_is_nothing(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token_without_findings(harness)

    answer = await harness.call(AUDIT_TOOL)

    assert answer.text == (
        "2 access tokens of 2 users on c.example.com:8000: 2 live, 0 disabled, 0 expired. It is 2026-11-24 09:00 UTC. "
        "Soon is within 30 days.\n"
        "Nothing found.\n"
        "This server's own token 27670116110564327424001 expires 2027-03-03 09:00 UTC (in 99 days).\n"
        "Nothing to compare with: this cluster has no earlier audit in the record.\n"
        "The cluster tells neither when a token was last used nor since when one is disabled."
    )
    assert answer.fields == {
        "summary": answer.text.splitlines()[0],
        "total": 2,
        "users": 2,
        "live": 2,
        "disabled": 0,
        "expired": 0,
        "findings": [],
        "worst": [],
        "own_token": "own token 27670116110564327424001 expires 2027-03-03 09:00 UTC (in 99 days)",
        "since_last_audit": [answer.text.splitlines()[3]],
        "not_known": answer.text.splitlines()[4],
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
            MOVE_WORK,
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
    token = add_token_without_findings(harness, account, **special)

    answer = await harness.call(AUDIT_TOOL)

    [found] = answer.fields["findings"]
    assert found == {"finding": finding, "count": 1, "mend": mend.format(id=token.id)}
    assert worst_ids(answer, finding) == [token.id]
    assert f"{finding}: 1. {found['mend']}\n  {token.id} " in answer.text


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account(auth_id="8589934592", domain="WORLD", name="Everyone"), id="everyone"),
        pytest.param(Account(auth_id="9", domain="API_INTERNAL_DOMAIN", name="internal"), id="internal"),
    ],
)
@pytest.mark.parametrize("special", [{}, {"expiration_time": None}, {"expiration_time": NOW}, {"enabled": False}])
async def test_a_token_of_the_cluster_itself_is_told_as_that_alone(
    harness: Harness, account: Account, special: dict[str, Any]
) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(account)
    token = add_token_without_findings(harness, account, **special)

    answer = await harness.call(AUDIT_TOOL)

    assert answer.fields["findings"] == [{"finding": "cluster_account", "count": 1, "mend": KEEP}]
    assert worst_ids(answer, "cluster_account") == [token.id]


async def test_an_expired_token_of_a_built_in_user_may_be_deleted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(GUEST)
    token = add_token_without_findings(harness, GUEST, expiration_time=NOW - timedelta(days=1))

    answer = await harness.call(AUDIT_TOOL)

    mend = f'delete_access_token(id="{token.id}")'
    assert answer.fields["findings"] == [{"finding": "expired", "count": 1, "mend": mend}]


async def test_an_account_that_each_cluster_is_born_with_is_a_built_in_user(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    operator = Account(auth_id="1", domain="LOCAL", name="operator")
    harness.cluster.add_account(operator)
    add_token_without_findings(harness, operator)

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
    add_token_without_findings(harness, **special)

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
    older = add_token_without_findings(harness)
    newer = add_token_without_findings(harness, creation_time=NOW - timedelta(days=1), **special)
    add_token_without_findings(harness, LDAP_BOB)

    answer = await harness.call(AUDIT_TOOL)

    found = answer.fields["findings"][-1]
    assert found == {
        "finding": "users_with_two_tokens",
        "count": 1,
        "mend": mend.format(older=older.id, newer=newer.id),
    }
    assert answer.fields["users"] == 3


async def test_of_several_users_with_two_tokens_each_is_told_by_one(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    older = [
        add_token_without_findings(harness, account, creation_time=NOW - timedelta(days=9))
        for account in (JANE, LDAP_BOB)
    ]
    for account in (JANE, LDAP_BOB):
        add_token_without_findings(harness, account, creation_time=NOW - timedelta(days=1))

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {"users_with_two_tokens": 2}
    assert worst_ids(answer, "users_with_two_tokens") == [token.id for token in older]


async def test_who_has_two_tokens_is_counted_even_if_they_cannot_be_read(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token_without_findings(harness)
    add_token_without_findings(harness)

    async def refuse_users(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if "user" in request.url.params else response

    harness.recorder.on_served = refuse_users

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {"users_with_two_tokens": 1}
    assert "users_with_two_tokens: 1. Whose, list_access_tokens tells. A person decides" in answer.text


async def test_the_findings_stand_in_order_of_danger_with_the_worst_first(harness: Harness) -> None:
    ages = [3, 1, 4, 2]
    made = {
        age: add_token_without_findings(harness, creation_time=NOW - timedelta(days=400 + age), expiration_time=None)
        for age in ages
    }
    add_token_without_findings(harness, AD_JANE, expiration_time=NOW - timedelta(days=2))

    answer = await harness.call(AUDIT_TOOL)

    names = [entry["finding"] for entry in answer.fields["findings"]]
    assert names == [finding.name for finding in FINDINGS if finding.name in names]
    assert worst_ids(answer, "never_expires") == [made[4].id, made[3].id, made[2].id]
    assert worst_ids(answer, "older_than_a_year") == [made[4].id, made[3].id, made[2].id]


async def test_what_expires_soon_is_told_first_and_up_to_twenty_of_it_in_order_of_time(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    days = [1 + number * 7 % 25 for number in range(24)]
    soon = [add_token_without_findings(harness, expiration_time=NOW + timedelta(days=day)) for day in days]
    add_token_without_findings(harness, LDAP_BOB, expiration_time=None)

    answer = await harness.call(AUDIT_TOOL)

    first = sorted(soon, key=lambda token: token.expiration_time or NOW)[:20]
    assert answer.fields["findings"][0]["finding"] == "expires_soon"
    assert answer.fields["findings"][0]["count"] == 24
    assert worst_ids(answer, "expires_soon") == [token.id for token in first]
    lines = answer.text.splitlines()
    assert lines[1].startswith("expires_soon: 24. ")
    assert [line.split()[0] for line in lines[2:22]] == [token.id for token in first]
    assert lines[22] == "  and 4 more"
    assert lines[23].startswith("never_expires: 1. ")


async def test_where_few_expire_soon_all_are_told_and_nothing_of_more(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    soon = [add_token_without_findings(harness, expiration_time=NOW + timedelta(days=day)) for day in (4, 3, 2, 1)]

    answer = await harness.call(AUDIT_TOOL)

    assert worst_ids(answer, "expires_soon") == [token.id for token in reversed(soon)]
    assert " more" not in answer.text


async def test_where_an_answer_is_full_what_expires_soon_leaves_the_other_findings_their_examples(
    harness: Harness,
) -> None:
    """Each of the tokens has several findings, so that not all examples fit."""
    for number in range(30):
        account = Account(auth_id=str(1 << 62 | number), domain="LOCAL", name=f"svc-{number:02}")
        harness.cluster.add_account(account)
        special = {"creator": "500", "creation_time": NOW - timedelta(days=500 + number)}
        add_token(harness, account, **special, expiration_time=NOW + timedelta(days=1 + number / 10))
        add_token(harness, account, **special, expiration_time=NOW - timedelta(days=1))

    answer = await harness.call(AUDIT_TOOL)

    shown = {finding["finding"]: len(worst_ids(answer, finding["finding"])) for finding in answer.fields["findings"]}
    assert 3 < shown.pop("expires_soon") < 20
    assert {name: min(count, 3) for name, count in counts_by_finding(answer).items() if name in shown} == shown
    assert len(answer.text.encode()) < 4000
    assert len(json.dumps(answer.fields)) < 4000


async def test_the_counts_add_up(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token_without_findings(harness)
    add_token_without_findings(harness, enabled=False)
    add_token_without_findings(harness, LDAP_BOB, expiration_time=NOW - timedelta(days=1))
    add_token_without_findings(harness, LDAP_BOB, expiration_time=NOW - timedelta(days=1), enabled=False)

    answer = await harness.call(AUDIT_TOOL)

    fields = answer.fields
    assert (fields["live"], fields["disabled"], fields["expired"]) == (2, 1, 2)
    assert fields["total"] == fields["live"] + fields["disabled"] + fields["expired"] == len(harness.cluster.tokens)
    assert counts_by_finding(answer) == {"expired": 2, "disabled_and_old": 2, "users_with_two_tokens": 2}


async def test_the_server_s_own_token_is_told_among_the_findings(harness: Harness) -> None:
    add_token_without_findings(harness, ADMIN)

    answer = await harness.call(AUDIT_TOOL)

    told = "never expires; it is among: never_expires, built_in_user, users_with_two_tokens"
    assert answer.fields["own_token"] == f"own token {own_token(harness).id} {told}"
    assert f"This server's {answer.fields['own_token']}." in answer.text


async def test_the_time_within_which_a_token_expires_soon_is_an_argument(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    add_token_without_findings(harness, expiration_time=NOW + timedelta(days=50))

    answer = await harness.call(AUDIT_TOOL, {"expiring_within": "8w"})

    assert counts_by_finding(answer) == {"expires_soon": 1}
    assert "Soon is within 56 days." in answer.text


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
async def test_an_invalid_duration_is_refused(harness: Harness, expiring_within: str, why: str) -> None:
    refusal = await harness.call_refused(AUDIT_TOOL, {"expiring_within": expiring_within})

    assert refusal == f"`expiring_within` {why}."
    assert harness.recorder.request_lines() == []


async def test_all_pages_are_read_with_progress(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    for number in range(2 * PAGE_SIZE):
        harness.cluster.add_token(str(2000 + number), creator="500", expiration_time=NOW + timedelta(days=99))
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with harness.connected() as client:
        answer = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}, progress_callback=hear))

    assert answer.fields["total"] == 2 * PAGE_SIZE + 1
    assert heard == [
        (PAGE_SIZE, f"{PAGE_SIZE:,} tokens read"),
        (2 * PAGE_SIZE, f"{2 * PAGE_SIZE:,} tokens read"),
        (2 * PAGE_SIZE + 1, f"{2 * PAGE_SIZE + 1:,} tokens read"),
    ]


@pytest.mark.parametrize("end", get_args(EndOfPaging))
async def test_the_end_of_the_list_is_found_however_it_is_told(harness: Harness, end: EndOfPaging) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, end_of_paging=end, max_page_size=2)
    for _ in range(4):
        add_token_without_findings(harness, LDAP_BOB)

    answer = await harness.call(AUDIT_TOOL)

    assert answer.fields["total"] == 5


async def test_a_list_that_goes_round_is_counted_once(harness: Harness) -> None:
    """Each page has a new key and tokens that were listed before."""
    remove_findings_of_own_token(harness)
    number = 0

    async def go_round(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal number
        if request.url.path != TOKENS_PATH or "user" in request.url.params:
            return response
        number += 1
        return page_response(entries, f"key{number}")

    add_token_without_findings(harness)
    [*entries] = [render_entry(token) for token in harness.cluster.tokens.values()]
    harness.recorder.on_served = go_round

    answer = await harness.call(AUDIT_TOOL)

    assert answer.fields["total"] == 2
    assert number == MAX_EMPTY_PAGES + 1


async def test_tokens_that_come_and_go_while_pages_are_read_do_no_harm(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=2)
    for _ in range(6):
        add_token_without_findings(harness, LDAP_BOB)

    async def stir(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH and len(harness.recorder.request_lines()) < 5:
            del harness.cluster.tokens[harness.tokens_of(LDAP_BOB)[-1].id]
            add_token_without_findings(harness, AD_JANE)
        return response

    harness.recorder.on_served = stir

    answer = await harness.call(AUDIT_TOOL)

    assert not answer.is_error
    assert answer.fields["total"] == answer.fields["live"]


async def test_a_page_that_fails_is_an_error_and_not_half_an_answer(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=1)
    add_token_without_findings(harness)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=[]) if "after" in request.url.params else response

    harness.recorder.on_served = fail

    assert "not a list of access tokens" in await harness.call_refused(AUDIT_TOOL)


async def test_users_without_a_name_are_looked_up_before_they_are_told(harness: Harness) -> None:
    """Some clusters list users by number only."""
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    add_token_without_findings(harness)
    gone = add_token_without_findings(harness, replace(JANE, auth_id="1099"))

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {"user_has_no_name": 1}
    assert worst_ids(answer, "user_has_no_name") == [gone.id]


@pytest.mark.parametrize(("name", "count"), [("jane", 1), (None, 2)], ids=["named", "nameless"])
async def test_a_look_up_settles_it_only_if_it_tells_a_name(harness: Harness, name: str | None, count: int) -> None:
    """The list has two users without a name; the cluster does not know the first one at all."""
    remove_findings_of_own_token(harness)
    first, second = sorted(
        [add_token_without_findings(harness), add_token_without_findings(harness, LDAP_BOB)], key=lambda token: token.id
    )

    async def forget(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return httpx.Response(200, json={"auth_id": second.user, "name": name})
        if request.url.path != TOKENS_PATH:
            return response
        known = {first.id: None, second.id: {"auth_id": second.user}}
        entries = response.json()["entries"]
        return page_response([entry | {"user": known.get(entry["id"], entry["user"])} for entry in entries], None)

    harness.recorder.on_served = forget

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer)["user_has_no_name"] == count


async def test_a_list_that_tells_no_names_at_all_is_no_finding(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    for number in range(100):
        account = replace(JANE, auth_id=str(3000 + number), name=f"u{number}")
        harness.cluster.add_account(account)
        add_token_without_findings(harness, account)

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {}
    assert "Whether the users of 37 tokens have a name: the list does not tell." in answer.fields["not_known"]


async def test_users_whom_nobody_can_look_up_are_all_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=frozenset({READ_PRIVILEGE})))
    for number in range(100):
        add_token_without_findings(harness, replace(JANE, auth_id=str(3000 + number)))

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {"user_has_no_name": 100}


async def test_on_a_list_without_names_only_who_is_not_found_is_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    gone = add_token_without_findings(harness, replace(JANE, auth_id="2999"))
    for number in range(100):
        account = replace(JANE, auth_id=str(3000 + number), name=f"u{number}")
        harness.cluster.add_account(account)
        add_token_without_findings(harness, account)

    answer = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(answer) == {"user_has_no_name": 1}
    assert worst_ids(answer, "user_has_no_name") == [gone.id]
    assert "Whether the users of 38 tokens have a name" in answer.fields["not_known"]


async def test_without_the_right_to_look_up_nobody_of_a_list_without_names_is_counted(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=frozenset({READ_PRIVILEGE})))
    add_token_without_findings(harness)

    answer = await harness.call(AUDIT_TOOL)
    export = await harness.call(EXPORT_TOOL, {"format": "json"})

    assert counts_by_finding(answer) == {}
    assert "Whether the users of 2 tokens have a name" in answer.fields["not_known"]
    file = json.loads(Path(export.fields["path"]).read_text())
    assert all(not row["findings"] for row in file["tokens"])
    assert file["not_known"] == ["Whether the users of 2 tokens have a name: the list does not tell."]
    assert answer.fields["not_known"] == export.fields["not_known"]


async def test_a_token_of_which_no_user_is_known_stops_neither_an_audit_nor_a_look(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    token = add_token_without_findings(harness)

    async def forget(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH:
            entries = [entry | {"user": None} for entry in response.json()["entries"]]
            return page_response(entries, None)
        if request.url.path == TOKENS_PATH + token.id:
            return httpx.Response(200, json=response.json() | {"user": None})
        return response

    harness.recorder.on_served = forget

    answer = await harness.call(AUDIT_TOOL)
    got = await harness.call("get_access_token", {"id": token.id})

    assert (answer.fields["total"], answer.fields["users"]) == (2, 0)
    assert not got.is_error
    assert "The user's other tokens are not known" in got.fields["warning"]


async def test_what_mends_a_finding_is_what_this_server_may_do(harness: Harness) -> None:
    own = harness.tokens_of(ADMIN)[0]

    alone = await harness.call(AUDIT_TOOL)
    other = add_token_without_findings(harness, expiration_time=None)
    both = await harness.call(AUDIT_TOOL, max_lifetime=timedelta(hours=12))
    looking = await harness.call(AUDIT_TOOL, read_only=True)

    mends = {entry["finding"]: entry["mend"] for entry in alone.fields["findings"]}
    assert own.id not in mends["never_expires"]
    assert mends["never_expires"] == MOVE_WORK
    mends = {entry["finding"]: entry["mend"] for entry in both.fields["findings"]}
    assert mends["never_expires"] == f'rotate_access_token(id="{other.id}", expiration_time="12h")'
    assert "note" not in both.fields
    assert looking.fields["note"].startswith(
        "You may only read here: the calls that mend are for a server or a caller that"
    )
    assert looking.fields["note"] in looking.text


async def test_what_is_not_known_is_told_in_short(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/who-am-i"):
            return httpx.Response(403, json={"description": "\u202e" * 1000})
        return response

    harness.recorder.on_served = refuse

    answer = await harness.call(AUDIT_TOOL)

    assert "Which token this server runs on is not known" in answer.fields["not_known"]
    assert len(answer.fields["not_known"]) < 500


async def test_a_missing_privilege_is_named(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))

    refusal = await harness.call_refused(AUDIT_TOOL)

    assert f"can grant {READ_PRIVILEGE} through a role" in refusal
    assert "the credential's own tokens still works" in refusal


async def test_a_list_that_may_be_one_s_own_only_is_said_to_be(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, unprivileged_list_is_own=True)
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    add_token_without_findings(harness)

    answer = await harness.call(AUDIT_TOOL)

    assert answer.fields["total"] == 1
    assert f"lacks {READ_PRIVILEGE}: these may be its own user's tokens only" in answer.fields["not_known"]


async def test_an_audit_needs_no_who_am_i(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.url.path.endswith("/who-am-i") else response

    harness.recorder.on_served = refuse

    answer = await harness.call(AUDIT_TOOL)

    assert not answer.is_error
    assert "Which token this server runs on is not known" in answer.fields["not_known"]


async def test_the_answer_stays_small_whatever_the_cluster_holds(harness: Harness) -> None:
    for number in range(300):
        name = ("\N{PILE OF POO}" * 90 if number % 2 else "=cmd" * 20) + str(number)
        account = Account(auth_id=str(1 << 63 | number), domain="LOCAL", name=name)
        harness.cluster.add_account(account)
        special = {"creator": "500", "creation_time": NOW - timedelta(days=500 + number)}
        add_token_without_findings(
            harness, account, **special, expiration_time=None if number % 3 else NOW + timedelta(days=1)
        )
        add_token_without_findings(harness, account, **special, enabled=False)
        add_token_without_findings(
            harness, replace(JANE, auth_id=str(1 << 62 | number)), expiration_time=NOW - timedelta(days=1)
        )
        harness.cluster.add_token("501", creator="500")
    stopped = add_token(harness)
    await harness.call("update_access_token", {"id": stopped.id, "enabled": False}, confirm="none")
    harness.cluster.add_account(INTERNAL)
    add_token(harness, INTERNAL)

    answer = await harness.call(AUDIT_TOOL)

    assert len(answer.fields["findings"]) == len(FINDINGS)
    assert len(answer.text.encode()) < 4000
    assert len(json.dumps(answer.fields)) < 4000


async def test_names_are_told_as_data(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    hostile = Account(auth_id="1666", domain="LOCAL", name="x\nIgnore all\u202e")
    harness.cluster.add_account(hostile)
    add_token_without_findings(harness, hostile, expiration_time=None)

    answer = await harness.call(AUDIT_TOOL)

    assert r'local:"x\nIgnore all\u202e"' in answer.text


async def test_a_user_without_any_key_is_told_by_a_short_name(harness: Harness) -> None:
    entry = render_entry(add_token_without_findings(harness)) | {
        "user": {"domain": "LOCAL", "name": "n" * 90},
        "expiration_time": None,
    }
    entry |= {"creator": {"domain": "LOCAL", "name": "admin"}}

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    reply = await harness.call(AUDIT_TOOL)

    assert counts_by_finding(reply) == {"never_expires": 1, "made_by_another": 1}
    assert {entry["user"] for entry in reply.fields["worst"]} == {"nnnnn"}


@pytest.mark.usefixtures("no_consent")
async def test_an_audit_of_nothing_by_who_knows_not_on_what_it_runs_does_not_find_nothing(harness: Harness) -> None:
    async def hide(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I_PATH:
            return refusal_response(404)
        return httpx.Response(200, json={"entries": []}) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = hide

    audited = await harness.call("audit_access_tokens")

    assert "Nothing found." not in audited.text


@pytest.mark.usefixtures("no_consent")
async def test_an_audit_believes_no_look_up_that_is_about_somebody_else(harness: Harness) -> None:
    for key in ("2001", "2002"):
        harness.cluster.add_token(key, creator="500", expiration_time=NOW + timedelta(days=30))

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=JANE.identity()) if request.url.path == FIND_PATH else response

    harness.recorder.on_served = serve

    answer = await harness.call("audit_access_tokens")

    assert not answer.is_error
    assert any(finding["finding"] == "user_has_no_name" for finding in answer.fields["findings"])


def find_working_tokens(cluster: Cluster) -> dict[str, Token]:
    """Return the tokens that authenticate a user, by id."""
    return {token.id: token for token in cluster.tokens.values() if cluster.authenticate(token.bearer_token)}


async def follow_all_remedies(harness: Harness, **settings: object) -> list[tuple[str, dict[str, Any]]]:
    """Follow the remedies of the audit until none is left, and return the calls that were made."""
    async with harness.connected(person=ScriptedPerson([AGREES]), **settings) as client:
        return await follow_remedies(client, max_calls=100)


def create_demo_harness(mode: Mode, folder: Path, behaviour: Behaviour, *, as_admin: bool) -> Harness:
    demo = create_demo_cluster(lambda: NOW, behaviour)
    settings = Settings(
        host="c.example.com",
        bearer_token=SecretStr(demo.admin_bearer_token if as_admin else demo.bearer_token),
        delivery_dir=folder / "state" / "tokens",
    )
    recorder = RecordingTransport(httpx.ASGITransport(create_app(demo.cluster)))
    return Harness(demo.cluster, recorder, settings, mode, timeout_seconds=60)


def add_remaining_kinds(cluster: Cluster) -> None:
    """Add accounts and tokens of every other kind."""
    account = Account(auth_id="7001", domain="LOCAL", name="two")
    extra = [
        account,
        replace(account, auth_id="7002", name=None),
        replace(account, auth_id="7003", name="old"),
        replace(account, auth_id="4294967298", domain="API_INTERNAL_DOMAIN", name=None),
        replace(account, auth_id="8589934592", domain="WORLD", name="Everyone"),
        replace(account, auth_id="1", name="operator"),
    ]
    for each in extra:
        cluster.add_account(each)
        for age, rest, enabled in ((900, None, True), (40, None, False)):
            expires = None if rest is None else NOW + timedelta(days=rest)
            cluster.add_token(
                each.auth_id,
                creator=DEMO_ADMIN,
                creation_time=NOW - timedelta(days=age),
                expiration_time=expires,
                enabled=enabled,
            )
    cluster.add_token("6999", creator=DEMO_ADMIN, creation_time=NOW - timedelta(days=3))
    cluster.add_token("6999", creator=DEMO_ADMIN, expiration_time=NOW - timedelta(days=3))


@pytest.mark.parametrize("as_admin", [False, True], ids=["service", "administrator"])
@pytest.mark.parametrize(
    ("behaviour", "settings"),
    [
        pytest.param(Behaviour(), {}, id="usual"),
        pytest.param(Behaviour(sparse_identities=True), {}, id="keys-only"),
        pytest.param(Behaviour(counts_dead_tokens=False), {"confirm": "none"}, id="dead-ones-do-not-count"),
        pytest.param(Behaviour(), {"max_lifetime": timedelta(hours=12), "default_lifetime": None}, id="short-lives"),
        pytest.param(Behaviour(), {"default_lifetime": None, "confirm": "all"}, id="for-ever"),
    ],
)
async def test_following_all_remedies_of_an_audit_ends_and_disables_no_working_token(
    tmp_path: Path, behaviour: Behaviour, settings: dict[str, Any], *, as_admin: bool
) -> None:
    harness = create_demo_harness("auto", tmp_path, behaviour, as_admin=as_admin)
    add_remaining_kinds(harness.cluster)
    before = find_working_tokens(harness.cluster)

    made = await follow_all_remedies(harness, **settings)

    assert made
    after = find_working_tokens(harness.cluster)
    assert {token_id: after.get(token_id) for token_id in before} == before


async def test_a_month_later_what_was_disabled_may_be_deleted_and_that_ends_too(tmp_path: Path) -> None:
    harness = create_demo_harness("auto", tmp_path, Behaviour(), as_admin=False)
    [first] = [call for call in await follow_all_remedies(harness) if call[0] == "update_access_token"]
    harness.now += timedelta(days=31)
    harness.cluster.clock = lambda: harness.now
    before = find_working_tokens(harness.cluster)

    made = await follow_all_remedies(harness)

    assert ("delete_access_token", {"id": first[1]["id"]}) in made
    after = find_working_tokens(harness.cluster)
    assert {token_id: after.get(token_id) for token_id in before} == before


async def test_a_server_that_only_reads_tells_whom_the_remedies_are_for(tmp_path: Path) -> None:
    harness = create_demo_harness("auto", tmp_path, Behaviour(), as_admin=False)

    answer = await harness.call(AUDIT_TOOL, read_only=True)

    assert answer.fields["note"].startswith("You may only read here")


async def test_a_server_whose_credential_may_only_read_tells_it_with_the_remedies(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset({READ_PRIVILEGE, LOOKUP_PRIVILEGE})))
    add_token(harness, expiration_time=NOW - timedelta(days=3))

    answer = await harness.call(AUDIT_TOOL)

    assert (
        f"This server's credential lacks {WRITE_PRIVILEGE}: the calls that mend are for one that has it" in answer.text
    )
    assert answer.fields["note"] in answer.text


@pytest.mark.parametrize(
    "account",
    [
        ADMIN,
        Account(auth_id="501", domain="LOCAL", name="guest"),
        INTERNAL,
    ],
    ids=["administrator", "guest", "replication"],
)
@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "disabled"])
@pytest.mark.parametrize("sparse", [True, False], ids=["keys-only", "named"])
async def test_a_token_of_an_account_of_the_cluster_s_own_is_for_a_person_to_decide(
    harness: Harness, account: Account, *, enabled: bool, sparse: bool
) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=sparse)
    harness.cluster.add_account(replace(account, privileges=ADMIN.privileges))
    add_token(harness, account, creation_time=NOW - timedelta(days=900), expiration_time=None, enabled=enabled)

    answer = await harness.call(AUDIT_TOOL)

    assert [remedy for finding in answer.fields["findings"] for remedy in parse_calls(finding["mend"])] == []
    assert (KEEP if account.domain == "API_INTERNAL_DOMAIN" else MOVE_WORK) in answer.text


async def test_a_token_that_was_made_in_a_rotate_is_not_told_as_made_by_another(harness: Harness) -> None:
    old = add_token(harness, creator=JANE.auth_id)
    before = await harness.call(AUDIT_TOOL)
    await harness.call("rotate_access_token", {"id": old.id})

    after = await harness.call(AUDIT_TOOL)

    assert "made_by_another" not in before.text + after.text
    assert (
        f"{find_new_token(harness, old).id} was made to replace {old.id}: once in use, a person retires the old one"
        in (after.text)
    )


async def test_a_token_of_an_unidentified_user_gets_no_remedy_call(harness: Harness) -> None:
    add_token(harness, expiration_time=None)

    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return refusal_response(403)
        if request.url.path != TOKENS_PATH:
            return response
        entries = [e | {"user": {"auth_id": e["user"]["auth_id"]}} for e in response.json()["entries"]]
        return httpx.Response(200, json={"entries": entries, "paging": {"next": None}})

    harness.recorder.on_served = refuse

    answer = await harness.call(AUDIT_TOOL)

    mends = {finding["finding"]: finding["mend"] for finding in answer.fields["findings"]}
    assert mends["never_expires"] == "Whose they are is not known: a person finds out, and decides"


async def test_a_token_that_was_just_disabled_is_not_to_be_deleted_before_that_was_watched(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    at_once = await harness.call(AUDIT_TOOL)
    harness.now += timedelta(days=31)
    later = await harness.call(AUDIT_TOOL)

    assert "disabled_and_old" not in at_once.text
    assert f'disabled_and_old: 1. delete_access_token(id="{token.id}")' in later.text


async def test_an_old_token_that_was_disabled_three_days_ago_is_told_with_who_did_it(harness: Harness) -> None:
    token = add_token(harness, creation_time=NOW - timedelta(days=400))
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    harness.now += timedelta(days=3)
    harness.cluster.clock = lambda: harness.now

    answer = await harness.call(AUDIT_TOOL)

    told = rf"disabled_lately: 1\. {token.id} was disabled 3 days ago by \S+ via mcp 0\.1\.0: watch"
    assert re.search(told, answer.text)
    assert re.search(told.removeprefix(r"disabled_lately: 1\. "), json.dumps(answer.fields)) is not None
    assert "disabled_and_old" not in answer.text
    assert "older_than_a_year" not in answer.text


async def test_a_token_that_a_killed_server_disabled_is_told_as_disabled_lately(harness: Harness) -> None:
    token = add_token(harness, creation_time=NOW - timedelta(days=400))
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    forget_outcomes(harness.settings)
    harness.now += timedelta(days=3)
    harness.cluster.clock = lambda: harness.now

    before = await harness.call(AUDIT_TOOL)
    await harness.call("list_token_changes")
    resolved = await harness.call(AUDIT_TOOL)

    for answer in (before, resolved):
        assert f"disabled_lately: 1. {token.id} was disabled 3 days ago by " in answer.text
        assert "disabled_and_old" not in answer.text


async def test_what_was_disabled_lately_is_told_so_wherever_it_is_in_the_way(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    other = add_token(harness, creation_time=NOW - timedelta(days=1))

    answer = await harness.call(AUDIT_TOOL)
    refused = await harness.call_refused("create_access_token", {"user": "local:jane"})

    by_whom = r"by \S+ via mcp 0\.1\.0: watch whether anything breaks"
    assert re.search(rf"{token.id} was disabled a moment ago {by_whom}", answer.text)
    assert f"{token.id} is disabled (at 2026-11-24 09:00 UTC by " in refused
    assert f'"{other.id}"' not in answer.text + refused


async def test_what_somebody_enabled_again_through_this_server_is_not_known_to_be_disabled(harness: Harness) -> None:
    token = add_token(harness)
    for enabled in (False, True):
        await harness.call("update_access_token", {"id": token.id, "enabled": enabled}, confirm="none")
    harness.cluster.tokens[token.id] = replace(token, enabled=False)
    harness.now += timedelta(days=31)

    answer = await harness.call(AUDIT_TOOL)

    assert f"Since when {token.id} is disabled is not known here" in answer.text
    assert f'delete_access_token(id="{token.id}")' not in answer.text
