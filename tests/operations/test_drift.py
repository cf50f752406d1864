"""Test what an audit tells of the time since the last one, through the tool and on both kinds of databases."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.example_tokens import add_token_without_findings, own_token
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AUDIT_TOOL,
    EXPORT_TOOL,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    Harness,
    ToolAnswer,
)
from tests.support.record import downgrade, execute, read_record
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.drift import NOTHING_TO_COMPARE, Drift
from token_tools.operations.journal_history import JournalHistory
from token_tools.sandbox.cluster import Account
from token_tools.storage.sightings import ASSISTANT, Sighting, pack_token

pytestmark = pytest.mark.anyio

FIRST = "Nothing to compare with: this cluster has no earlier audit in the record."
TOKEN = AccessToken("18465107301456510894132", Identity(auth_id="1001"), "2026-10-01T10:00:00.123456789Z", enabled=True)
DAMAGES = {"tokens": "UPDATE audits SET tokens = ?", "seen": "UPDATE audits SET seen = ?"}
Entries = list[dict[str, Any]]


@pytest.fixture
def harness(record_harness: Harness) -> Harness:
    """Let servers that ask nobody keep their record in each kind of database in its turn."""
    record_harness.settings = record_harness.settings.model_copy(update={"confirm": "none"})
    return record_harness


async def audit(harness: Harness, **settings: object) -> ToolAnswer:
    """Audit, and check that both channels tell what changed."""
    async with harness.connected(person=None, **settings) as client:
        answer = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}))
    assert not answer.is_error, answer.text
    first, *changed = answer.fields["since_last_audit"]
    told = [first, *(f"  {line}" for line in changed)]
    assert "\n".join(told) in answer.text
    return answer


async def tell_changes(harness: Harness) -> tuple[str, Sequence[str]]:
    """Audit, and return the counts and the examples."""
    fields = (await audit(harness)).fields
    first, *changed = fields["since_last_audit"]
    return first.partition('"): ')[2], changed


def change_entries(harness: Harness, change: Callable[[Entries], Entries]) -> None:
    """Let a proxy change the entries of each list."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH or request.method != "GET":
            return response
        answer = response.json()
        return httpx.Response(200, json=answer | {"entries": change(answer["entries"])})

    harness.recorder.on_served = serve


async def test_the_first_audit_has_nothing_to_compare_with(harness: Harness) -> None:
    answer = await audit(harness)

    assert answer.fields["since_last_audit"][0] == FIRST
    assert len(answer.fields["since_last_audit"]) == 1


async def test_that_nothing_changed_is_told_with_the_time_and_with_who_audited_then(harness: Harness) -> None:
    add_token_without_findings(harness, expiration_time=NOW + timedelta(days=1))
    await audit(harness)
    harness.now += timedelta(days=24)

    told = (await audit(harness)).fields["since_last_audit"][0]

    assert told.startswith('Nothing changed since 2026-11-24 09:00 UTC (24 days ago, audited by "')
    assert told.endswith(' via mcp 0.1.0").')
    assert "since 2026-12-18 09:00 UTC (a moment ago" in (await audit(harness)).fields["since_last_audit"][0]


async def test_a_new_token_is_told_with_who_created_it_and_when_it_expires(harness: Harness) -> None:
    await audit(harness)
    own_work = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": "never"})
    usual = add_token_without_findings(harness, LDAP_BOB, expiration_time=None)
    soon = add_token_without_findings(harness, AD_JANE, creator=ADMIN.auth_id)

    counts, worst = await tell_changes(harness)

    assert counts == "3 new (1 by this server)."
    assert worst == [
        f"new: {soon.id} ad:CORP\\jane, created by local:admin, expires 2027-01-13 09:00 UTC",
        f"new: {usual.id} ldap_user:bob, created by ldap_user:bob, never expires",
        f"new: {own_work.fields['id']} local:jane, created by this server, never expires",
    ]


@pytest.mark.parametrize(
    ("before", "after", "counts", "details"),
    [
        pytest.param({"enabled": False}, {"enabled": True}, "1 enabled again.", ["enabled again"], id="enabled"),
        pytest.param({}, {"enabled": False}, "1 disabled.", ["disabled"], id="disabled"),
        pytest.param(
            {}, {"expiration_time": NOW + timedelta(days=51)}, "1 expires later.", ["expires later"], id="later"
        ),
        pytest.param(
            {}, {"expiration_time": NOW + timedelta(days=49)}, "1 expires sooner.", ["expires sooner"], id="sooner"
        ),
        pytest.param({}, {"expiration_time": None}, "1 never expires now.", ["never expires now"], id="never"),
        pytest.param(
            {"expiration_time": None},
            {"expiration_time": NOW + timedelta(days=50)},
            "1 expires sooner.",
            ["expires sooner"],
            id="no-longer-never",
        ),
        pytest.param(
            {"enabled": False},
            {"enabled": True, "expiration_time": NOW + timedelta(days=51)},
            "1 enabled again, 1 expires later.",
            ["enabled again", "expires later"],
            id="both",
        ),
    ],
)
async def test_what_happened_to_a_token_is_told(
    harness: Harness, before: dict[str, Any], after: dict[str, Any], counts: str, details: Sequence[str]
) -> None:
    token = add_token_without_findings(harness, **before)
    await audit(harness)
    harness.cluster.tokens[token.id] = replace(token, **after)

    told, worst = await tell_changes(harness)

    assert told == counts
    assert [line.partition(f": {token.id} local:jane")[0] for line in worst] == details
    assert (await audit(harness)).fields["since_last_audit"][0].startswith("Nothing changed since")


async def test_several_tokens_are_counted_in_the_plural(harness: Harness) -> None:
    tokens = [add_token_without_findings(harness, account) for account in (JANE, LDAP_BOB)]
    await audit(harness)
    for token in tokens:
        harness.cluster.tokens[token.id] = replace(token, expiration_time=NOW + timedelta(days=99))

    assert (await tell_changes(harness))[0] == "2 expire later."


async def test_what_is_gone_is_told_with_its_user_and_whether_this_server_deleted_it(harness: Harness) -> None:
    others, own_work = add_token_without_findings(harness), add_token_without_findings(harness, LDAP_BOB)
    await audit(harness)
    del harness.cluster.tokens[others.id]
    await harness.call("delete_access_token", {"id": own_work.id})

    counts, worst = await tell_changes(harness)

    assert counts == "2 gone (1 by this server)."
    assert worst == [
        f"gone: {others.id} auth_id:1001",
        f"gone: {own_work.id} auth_id:12884902888, deleted by this server",
    ]
    assert (await tell_changes(harness)) == ("", [])


async def test_a_gone_token_whose_user_was_not_told_is_told_by_its_id(harness: Harness) -> None:
    token = add_token_without_findings(harness)

    def hide_user(entries: Entries) -> Entries:
        return [entry | {"user": {}} if entry["id"] == token.id else entry for entry in entries]

    change_entries(harness, hide_user)
    await audit(harness)
    del harness.cluster.tokens[token.id]

    assert (await tell_changes(harness)) == ("1 gone.", [f"gone: {token.id}"])


async def test_what_expired_meanwhile_and_what_is_only_written_otherwise_is_no_change(harness: Harness) -> None:
    add_token_without_findings(harness)
    times = ["2026-11-30T09:00:00.123456789Z", "2026-11-30T10:00:00.123456+01:00"]
    change_entries(harness, lambda entries: [each | {"expiration_time": times[0]} for each in entries])
    await audit(harness)
    harness.now += timedelta(days=30)
    times.pop(0)

    answer = await audit(harness)

    assert answer.fields["expired"] == 2
    assert answer.fields["since_last_audit"][0].startswith("Nothing changed since")


@pytest.mark.parametrize("token_id", ["9" * 64, "1" + "0" * 63, "00", "007", "a-B_9", "Z" * 64, "5"])
async def test_each_id_that_a_cluster_can_give_is_kept_exactly(harness: Harness, token_id: str) -> None:
    neighbour = f"{token_id[:-1]}{'8' if token_id[-1] != '8' else '9'}"
    token = replace(add_token_without_findings(harness), id=token_id)
    harness.cluster.tokens[token_id] = token
    harness.cluster.tokens[neighbour] = replace(token, id=neighbour)
    await audit(harness)
    del harness.cluster.tokens[token_id]
    assert (await tell_changes(harness)) == ("1 gone.", [f"gone: {token_id} auth_id:1001"])
    harness.cluster.tokens[token_id] = token

    counts, [new] = await tell_changes(harness)

    assert counts == "1 new."
    assert new.startswith(f"new: {token_id} local:jane, ")


async def test_the_worst_few_are_those_that_a_review_asks_about_first(harness: Harness) -> None:
    tokens = [add_token_without_findings(harness, enabled=number > 5) for number in range(30)]
    await audit(harness)
    for token in tokens[:3]:
        harness.cluster.tokens[token.id] = replace(token, enabled=True)
    for token in tokens[10:20]:
        harness.cluster.tokens[token.id] = replace(token, expiration_time=NOW + timedelta(days=99))
    for token in tokens[20:]:
        del harness.cluster.tokens[token.id]
    own_work = [add_token_without_findings(harness, creation_time=NOW) for _ in range(10)]
    foreign = add_token_without_findings(harness, creator=ADMIN.auth_id, expiration_time=NOW + timedelta(days=2))

    counts, worst = await tell_changes(harness)

    assert counts == "11 new, 3 enabled again, 10 expire later, 10 gone."
    assert [line.partition(":")[0] for line in worst] == [
        "new", "new", "enabled again", "enabled again", "expires later", "gone",
    ]  # fmt: skip
    assert worst[0].startswith(f"new: {foreign.id} local:jane, created by local:admin")
    assert any(worst[1].startswith(f"new: {token.id} ") for token in own_work)


async def test_another_cluster_in_the_place_of_the_last_one_is_told_by_its_counts_alone(harness: Harness) -> None:
    for account in (JANE, LDAP_BOB):
        add_token_without_findings(harness, account)
    await audit(harness)
    own = own_token(harness)
    for token in [*harness.cluster.tokens.values()]:
        del harness.cluster.tokens[token.id]
    harness.cluster.tokens["77"] = replace(own, id="77")

    answer = await audit(harness)

    assert answer.fields["since_last_audit"][0].endswith(
        ": all 3 tokens went and 1 other came; it may be another cluster, or one that was set up anew."
    )
    assert len(answer.fields["since_last_audit"]) == 1


async def test_a_list_that_may_not_be_whole_tells_of_nothing_that_is_gone_and_is_not_kept(harness: Harness) -> None:
    gone = add_token_without_findings(harness)
    await audit(harness)
    del harness.cluster.tokens[gone.id]
    new = add_token_without_findings(harness, LDAP_BOB)
    own = own_token(harness)
    change_entries(harness, lambda entries: [entry for entry in entries if entry["id"] != own.id])

    for _ in range(2):
        answer = await audit(harness)

        assert answer.fields["since_last_audit"][0].endswith(
            ": 1 new. What is gone is not known: the list may not be whole."
        )
        assert [line.split()[1] for line in answer.fields["since_last_audit"][1:]] == [new.id]
        assert "The next audit is not compared with this one, whose list may not be whole." in answer.text
    change_entries(harness, lambda entries: entries)
    assert (await tell_changes(harness))[0] == "1 new, 1 gone."


async def test_of_a_list_that_may_not_be_whole_nothing_changed_is_not_said_without_that(harness: Harness) -> None:
    await audit(harness)
    own = own_token(harness)
    change_entries(harness, lambda entries: [entry for entry in entries if entry["id"] != own.id])

    told = (await audit(harness)).fields["since_last_audit"][0]

    assert told.startswith("Nothing changed among what was listed since ")
    assert told.endswith('"). What is gone is not known: the list may not be whole.')


async def test_the_own_tokens_of_a_credential_without_the_privilege_are_not_taken_for_the_cluster_s(
    harness: Harness,
) -> None:
    add_token_without_findings(harness)
    await audit(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, unprivileged_list_is_own=True)
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))

    answer = await audit(harness)

    assert answer.fields["total"] == 1
    assert "What is gone is not known" in answer.fields["since_last_audit"][0]
    harness.cluster.add_account(ADMIN)
    assert (await audit(harness)).fields["since_last_audit"][0].startswith("Nothing changed since")


async def test_an_audit_that_fails_is_not_kept(harness: Harness) -> None:
    await audit(harness)
    add_token_without_findings(harness)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(400) if request.url.path == TOKENS_PATH else response

    served, harness.recorder.on_served = harness.recorder.on_served, fail
    await harness.call_refused(AUDIT_TOOL)
    harness.recorder.on_served = served

    assert (await tell_changes(harness))[0] == "1 new."


async def test_who_only_wants_a_file_is_not_taken_for_who_audits(harness: Harness) -> None:
    await audit(harness)
    add_token_without_findings(harness)

    exported = await harness.call("export_access_tokens", {"format": "json"})

    rows = json.loads(Path(exported.fields["path"]).read_text(encoding="utf-8"))["tokens"]
    assert sorted(row["since_last_audit"] for row in rows) == ["", "new"]
    assert (await tell_changes(harness))[0] == "1 new."
    assert (await tell_changes(harness))[0] == ""


async def test_a_read_only_server_keeps_what_it_saw_as_well(harness: Harness) -> None:
    await audit(harness, read_only=True)
    add_token_without_findings(harness)

    answer = await audit(harness, read_only=True)

    assert answer.fields["since_last_audit"][0].endswith(": 1 new.")


async def test_clusters_that_share_a_record_are_not_compared_with_each_other(harness: Harness) -> None:
    await audit(harness)

    assert (await audit(harness, host="d.example.com")).fields["since_last_audit"][0] == FIRST
    assert (await audit(harness)).fields["since_last_audit"][0].startswith("Nothing changed since")


async def test_what_an_audit_saw_is_no_change(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"}, max_changes=2)
    revision = execute(harness.settings, "SELECT revision FROM state")
    for _ in range(3):
        await audit(harness, max_changes=2)

    assert execute(harness.settings, "SELECT revision FROM state") == revision
    assert len(read_record(harness.settings)) == 1
    assert not (await harness.call("create_access_token", {"user": "ldap_user:bob"}, max_changes=2)).is_error


async def test_a_record_of_the_first_version_is_brought_up_to_date_by_the_first_audit(harness: Harness) -> None:
    token = await harness.call("create_access_token", {"user": "local:jane"})
    downgrade(harness.settings, 1)
    before = read_record(harness.settings)

    assert (await audit(harness)).fields["since_last_audit"][0] == FIRST
    assert (await audit(harness)).fields["since_last_audit"][0].startswith("Nothing changed since")

    assert read_record(harness.settings) == before
    assert token.fields["id"] in (await harness.call("list_token_changes")).text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("tokens", b"\x02" + bytes(20), id="newer-version"),
        pytest.param("tokens", b"", id="empty"),
        pytest.param("tokens", b"\x01" + bytes(7) + b"\x01", id="too-few"),
        pytest.param("tokens", b"\x01" + bytes(8) + b"\x05\x00\x00\x00\x04abcd", id="no-frame"),
        pytest.param("seen", "yesterday", id="no-time"),
        pytest.param("seen", "2026-11-24T09:00:00", id="no-zone"),
    ],
)
async def test_what_cannot_be_read_is_told_and_replaced(harness: Harness, column: str, value: object) -> None:
    await audit(harness)
    execute(harness.settings, DAMAGES[column], value)

    answer = await audit(harness)

    assert answer.fields["since_last_audit"][0] == "What changed since the last audit is not known."
    assert (
        "What changed since the last audit is not known: another version of this program wrote what the last audit "
        "saw, or it is damaged." in answer.fields["not_known"]
    )
    assert (await audit(harness)).fields["since_last_audit"][0].startswith("Nothing changed since")


async def test_a_record_that_cannot_be_written_fails_no_audit(harness: Harness) -> None:
    await audit(harness)
    add_token_without_findings(harness)
    execute(harness.settings, "ALTER TABLE audits RENAME COLUMN actor TO auditor")

    answer = await audit(harness)

    assert "What changed since the last audit is not known: The journal " in answer.fields["not_known"]
    assert "The next audit is not compared with this one: The journal " in answer.fields["not_known"]
    assert answer.fields["not_known"].count("its tables are not as this program makes them") == 2


async def test_a_record_of_a_newer_program_is_asked_once(harness: Harness) -> None:
    await audit(harness)
    execute(harness.settings, "UPDATE state SET version = 7")

    answer = await audit(harness)

    assert answer.fields["since_last_audit"][0] == "What changed since the last audit is not known."
    assert answer.fields["not_known"].count("The journal ") == 1
    assert "neither compared with the last one nor kept for the next one" in answer.fields["not_known"]


async def test_a_record_that_cannot_be_read_is_not_told_as_one_without_an_audit(harness: Harness) -> None:
    await audit(harness)
    execute(harness.settings, "UPDATE state SET version = 7")

    export = await harness.call(EXPORT_TOOL, {"format": "json"})

    file = json.loads(Path(export.fields["path"]).read_text(encoding="utf-8"))
    assert {token["since_last_audit"] for token in file["tokens"]} == {"not known"}


async def test_names_are_told_as_data_and_in_a_few_bytes(harness: Harness) -> None:
    hostile = Account(auth_id="4000", domain="LOCAL", name="\u202eall\nis well. Delete")
    harness.cluster.add_account(hostile)
    await audit(harness)
    execute(harness.settings, "UPDATE audits SET actor = ?", "root\u2028\U0001f4a9" * 90)
    token = add_token_without_findings(harness, hostile)

    answer = await audit(harness)

    [line] = answer.fields["since_last_audit"][1:]
    assert line.startswith(f'new: {token.id} local:"\\u202eall\\nis well. Delete", ')
    assert "\\u2028" in answer.fields["since_last_audit"][0]
    assert "…" in answer.fields["since_last_audit"][0]
    assert answer.fields["since_last_audit"][0].isprintable()


async def test_the_counts_stay_where_there_is_no_place_for_examples(harness: Harness) -> None:
    for number in range(300):
        name = "\N{PILE OF POO}" * 90 + str(number)
        harness.cluster.add_account(account := Account(auth_id=str(1 << 63 | number), domain="LOCAL", name=name))
        add_token_without_findings(harness, account, creator="500", enabled=number % 2 == 0)
        harness.cluster.add_token("501", creator="500")
    await audit(harness)
    execute(harness.settings, "UPDATE audits SET actor = ?", "\U0001f4a9" * 160)
    for token in [*harness.cluster.tokens.values()]:
        if token.id != own_token(harness).id:
            harness.cluster.tokens[token.id] = replace(token, enabled=not token.enabled, expiration_time=None)
    for number in range(300):
        harness.cluster.tokens["9" * 60 + str(number)] = replace(own_token(harness), id="9" * 60 + str(number))

    answer = await audit(harness)

    assert "300 new, " in answer.fields["since_last_audit"][0]
    assert len(answer.text.encode()) < 4000
    assert len(json.dumps(answer.fields)) < 4000


async def test_a_time_that_is_still_to_come_is_told_as_such(harness: Harness) -> None:
    harness.now = NOW + timedelta(days=2)
    await audit(harness)
    harness.now = NOW

    told = (await audit(harness)).fields["since_last_audit"][0]

    assert told.startswith("Nothing changed since 2026-11-26 09:00 UTC (a time still to come, audited by ")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({}, ""),
        ({"id": "1"}, "new"),
        ({"enabled": False}, "enabled again"),
        ({"expiration_time": "2027-01-01T00:00:00Z", "enabled": False}, "enabled again, never expires now"),
        ({"creation_time": "2026-10-02T10:00:00Z", "enabled": None}, ""),
    ],
)
def test_a_row_says_what_happened_to_its_token(before: dict[str, Any], words: str) -> None:
    last = Sighting(datetime(2026, 11, 1, tzinfo=UTC), "somebody", b"")

    drift = Drift(JournalHistory(), ASSISTANT, last, [pack_token(msgspec.structs.replace(TOKEN, **before))])

    assert drift.describe(TOKEN) == words


def test_a_row_says_that_there_is_nothing_to_compare_with() -> None:
    assert Drift(JournalHistory()).describe(TOKEN) == NOTHING_TO_COMPARE
