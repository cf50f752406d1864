"""Advice that can be followed: it stops nothing that works, ends, and never speaks against what this server knows."""

import json
import os
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import Client
from pydantic import SecretStr

from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    JANE,
    LDAP_BOB,
    NOW,
    TIMEOUT_SECONDS,
    TOKENS_PATH,
    Harness,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    refusal_response,
)
from tests.support.recording_transport import RecordingTransport
from tests.support.server_process import CREATE_REQUEST, running_server, served_cluster
from tests.support.services import create_services
from tests.system.test_stdio import create_call
from tests.tools.test_rotate import find_new_token, forget_outcomes
from tests.tools.test_update import add_token, own_token, replace_answer
from token_tools.cluster.client import connect
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, Timestamp
from token_tools.operations.journal_history import JournalHistory, read_history
from token_tools.operations.next_steps import PERSON_DECIDES
from token_tools.operations.unfinished import find_unfinished, locate_unfinished, may_denote
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import (
    LOOKUP_PRIVILEGE,
    READ_PRIVILEGE,
    WRITE_PRIVILEGE,
    Account,
    Behaviour,
    Cluster,
    Token,
)
from token_tools.sandbox.demo import ADMIN_ID as DEMO_ADMIN
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.settings import Settings
from token_tools.storage.delivery import KeyringDelivery
from token_tools.storage.journal import Attempt, Journal, JournalEntry, Operation

pytestmark = pytest.mark.anyio

AUDIT_TOOL = "audit_access_tokens"
CALL_PATTERN = re.compile(r"(\w+_access_tokens?)\(([^)]*)\)")
ARGUMENT_PATTERN = re.compile(r'(\w+)=("[^"]*"|\w+)')


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a text tells, as whoever follows it makes them."""
    return [
        (tool, {name: json.loads(value) for name, value in ARGUMENT_PATTERN.findall(arguments)})
        for tool, arguments in CALL_PATTERN.findall(text)
    ]


def find_working_tokens(cluster: Cluster) -> dict[str, Token]:
    """The tokens that authenticate somebody."""
    return {token.id: token for token in cluster.tokens.values() if cluster.authenticate(token.bearer_token)}


async def follow_remedies(harness: Harness, **settings: object) -> list[tuple[str, dict[str, Any]]]:
    """Follow each remedy of the audit until none is left; the calls that were made."""
    made: list[tuple[str, dict[str, Any]]] = []
    async with harness.connected(person=ScriptedPerson([AGREES]), **settings) as client:
        while calls := await find_remedies(client):
            for remedy in calls:
                assert remedy not in made
                made.append(remedy)
                told = ToolAnswer.from_result(await client.call_tool(*remedy))
                assert not told.is_error, told.text
            assert len(made) < 100
    return made


async def find_remedies(client: Client) -> list[tuple[str, dict[str, Any]]]:
    told = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}))
    remedies = [remedy for finding in told.fields["findings"] for remedy in parse_calls(finding["mend"])]
    return [remedy for number, remedy in enumerate(remedies) if remedy not in remedies[:number]]


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

    made = await follow_remedies(harness, **settings)

    assert made
    after = find_working_tokens(harness.cluster)
    assert {token_id: after.get(token_id) for token_id in before} == before


async def test_a_month_later_what_was_disabled_may_be_deleted_and_that_ends_too(tmp_path: Path) -> None:
    harness = create_demo_harness("auto", tmp_path, Behaviour(), as_admin=False)
    [first] = [call for call in await follow_remedies(harness) if call[0] == "update_access_token"]
    harness.now += timedelta(days=31)
    harness.cluster.clock = lambda: harness.now
    before = find_working_tokens(harness.cluster)

    made = await follow_remedies(harness)

    assert ("delete_access_token", {"id": first[1]["id"]}) in made
    after = find_working_tokens(harness.cluster)
    assert {token_id: after.get(token_id) for token_id in before} == before


async def test_a_server_that_only_reads_tells_whom_the_remedies_are_for(tmp_path: Path) -> None:
    harness = create_demo_harness("auto", tmp_path, Behaviour(), as_admin=False)

    told = await harness.call(AUDIT_TOOL, read_only=True)

    assert told.fields["note"].startswith("This server only reads")


async def test_a_server_whose_credential_may_only_read_tells_it_with_the_remedies(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset({READ_PRIVILEGE, LOOKUP_PRIVILEGE})))
    add_token(harness, expiration_time=NOW - timedelta(days=3))

    told = await harness.call(AUDIT_TOOL)

    assert f"This server's credential lacks {WRITE_PRIVILEGE}: the calls that mend are for one that has it" in told.text
    assert told.fields["note"] in told.text


@pytest.mark.parametrize(
    "account",
    [
        ADMIN,
        Account(auth_id="501", domain="LOCAL", name="guest"),
        Account(auth_id="4294967297", domain="API_INTERNAL_DOMAIN", name="replication"),
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

    told = await harness.call(AUDIT_TOOL)

    assert [remedy for finding in told.fields["findings"] for remedy in parse_calls(finding["mend"])] == []
    assert "A person decides" in told.text


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

    told = await harness.call(AUDIT_TOOL)

    mends = {finding["finding"]: finding["mend"] for finding in told.fields["findings"]}
    assert mends["never_expires"] == "Whose they are is not known: a person finds out, and decides"


async def test_a_token_that_was_just_disabled_is_not_to_be_deleted_before_that_was_watched(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    at_once = await harness.call(AUDIT_TOOL)
    harness.now += timedelta(days=31)
    later = await harness.call(AUDIT_TOOL)

    assert "disabled_and_old" not in at_once.text
    assert f'disabled_and_old: 1. delete_access_token(id="{token.id}")' in later.text


async def test_what_was_disabled_lately_is_told_so_wherever_it_is_in_the_way(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    other = add_token(harness, creation_time=NOW - timedelta(days=1))

    told = await harness.call(AUDIT_TOOL)
    refused = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert f"{token.id} is disabled since 2026-11-24 09:00 UTC: watch whether anything breaks" in told.text
    assert f"{token.id} is disabled (at 2026-11-24 09:00 UTC by this server); once it is sure" in refused
    assert f'"{other.id}"' not in told.text + refused


async def test_what_somebody_enabled_again_through_this_server_is_not_known_to_be_disabled(harness: Harness) -> None:
    token = add_token(harness)
    for enabled in (False, True):
        await harness.call("update_access_token", {"id": token.id, "enabled": enabled}, confirm="none")
    harness.cluster.tokens[token.id] = replace(token, enabled=False)
    harness.now += timedelta(days=31)

    told = await harness.call(AUDIT_TOOL)

    assert f"Since when {token.id} is disabled is not known here" in told.text
    assert f'delete_access_token(id="{token.id}")' not in told.text


def test_an_orphan_of_a_killed_server_is_told_until_it_is_gone_and_the_token_that_works_is_let_be(
    tmp_path: Path,
) -> None:
    with served_cluster(tmp_path, {"create": "hang-after"}) as stage:
        old = stage.cluster.add_token(JANE.auth_id, creator=ADMIN.auth_id, creation_time=NOW - timedelta(days=40))
        with running_server(stage) as life:
            life.send(create_call(2, "create_access_token", user="local:jane"))
            stage.wait_for(CREATE_REQUEST)
            with anyio.from_thread.start_blocking_portal() as portal:
                while len(stage.cluster.tokens.of_user(JANE.auth_id)) < 2:
                    portal.call(anyio.sleep, 0.01)
        [orphan] = [token for token in stage.cluster.tokens.of_user(JANE.auth_id) if token.id != old.id]
        asked: list[tuple[str, dict[str, str]]] = [
            (AUDIT_TOOL, {}),
            ("list_access_tokens", {"user": "local:jane"}),
            ("list_access_tokens", {}),
            ("get_access_token", {"id": orphan.id}),
            ("get_access_token", {"id": old.id}),
            ("create_access_token", {"user": "local:jane"}),
            ("rotate_access_token", {"id": old.id}),
            ("rotate_access_token", {"id": orphan.id}),
        ]
        for _ in range(2):
            with running_server(stage) as life:
                for number, (tool, arguments) in enumerate(asked, start=3):
                    life.send(create_call(number, tool, **arguments))
                    told = life.read_line().decode().replace('\\"', '"')
                    assert f'update_access_token(id="{orphan.id}", enabled=false)' in told, tool
                    assert f'enabled=false), watch, delete_access_token(id="{old.id}")' not in told
                    assert f'update_access_token(id="{old.id}"' not in told
        del stage.cluster.tokens[orphan.id]
        with running_server(stage) as life:
            for number, (tool, arguments) in enumerate(asked[:3], start=3):
                life.send(create_call(number, tool, **arguments))
                assert b"Unfinished" not in life.read_line()


async def create_as_killed_server(harness: Harness, **arguments: object) -> Token:
    """A create of which a killed server left the token and the intent, but not the bearer token."""
    told = await harness.call("create_access_token", {"user": "local:jane"} | arguments)
    Path(told.fields["bearer_token_in"]).unlink()
    forget_outcomes(harness)
    return harness.cluster.tokens[told.fields["id"]]


async def test_what_is_unfinished_is_told_in_both_channels_first_in_an_audit(harness: Harness) -> None:
    old = add_token(harness)
    orphan = await create_as_killed_server(harness)

    told = await harness.call(AUDIT_TOOL)

    line = told.text.splitlines()[1]
    assert line.startswith("Unfinished: the create for local:jane begun at 2026-11-24 09:00 UTC has no known end.")
    assert line in told.fields["note"]
    [worst] = [entry["id"] for entry in told.fields["worst"] if entry["finding"] == "users_with_two_tokens"]
    assert worst == orphan.id
    assert f'"{old.id}"' not in told.text


async def test_what_is_unfinished_is_told_where_lists_tell_keys_only(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    orphan = await create_as_killed_server(harness)
    bob = harness.cluster.add_token(LDAP_BOB.auth_id, creator="500", creation_time=NOW)

    for told in [
        await harness.call(AUDIT_TOOL),
        await harness.call("list_access_tokens", {"user": "local:jane"}),
        await harness.call("get_access_token", {"id": orphan.id}),
    ]:
        assert f'update_access_token(id="{orphan.id}", enabled=false)' in told.text
        assert f'update_access_token(id="{bob.id}"' not in told.text


async def test_what_was_begun_for_somebody_else_or_long_before_or_made_since_is_no_suspect(harness: Harness) -> None:
    await create_as_killed_server(harness)
    [orphan] = harness.tokens_of(JANE)
    del harness.cluster.tokens[orphan.id]
    add_token(harness, creation_time=NOW - timedelta(hours=1))
    harness.cluster.add_token(AD_JANE.auth_id, creator="500", creation_time=NOW)
    harness.now += timedelta(hours=2)
    harness.cluster.clock = lambda: harness.now
    await harness.call("create_access_token", {"user": "local:jane"})

    for tool in (AUDIT_TOOL, "list_access_tokens"):
        assert "Unfinished" not in (await harness.call(tool)).text


async def test_an_unfinished_create_whose_bearer_token_is_found_is_settled(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"})
    forget_outcomes(harness)

    assert "Unfinished" not in (await harness.call(AUDIT_TOOL)).text
    assert "Unfinished" not in (await harness.call("list_access_tokens", {"user": "local:jane"})).text


async def test_a_rotate_that_was_cut_off_before_its_proof_is_told_until_the_old_token_is_gone(harness: Harness) -> None:
    old = add_token(harness)
    rotated = await harness.call("rotate_access_token", {"id": old.id})
    new, place = rotated.fields["id"], rotated.fields["bearer_token_in"]
    forget_outcomes(harness)

    told = [await harness.call(AUDIT_TOOL), await harness.call("list_access_tokens", {"user": "local:jane"})]
    told += [await harness.call("get_access_token", {"id": token_id}) for token_id in (old.id, new)]
    refused = await harness.call_without_effect("rotate_access_token", {"id": old.id})
    del harness.cluster.tokens[old.id]

    unproved = f"its bearer token is in {place}, and was not proved to work."
    assert all(f"Token {new} " in one.text and unproved in one.text for one in told)
    assert all(f'rotate_access_token(id="{old.id}") tells how to go on' in one.text for one in told)
    assert f'update_access_token(id="{old.id}", enabled=false)' in refused
    assert "Unfinished" not in (await harness.call(AUDIT_TOOL)).text


@pytest.mark.parametrize("rotated", [True, False], ids=["rotate", "create"])
async def test_what_the_server_runs_on_by_now_is_not_told_as_what_nobody_has(
    harness: Harness, *, rotated: bool
) -> None:
    own = own_token(harness)
    tool, asked = ("rotate_access_token", {"id": own.id}) if rotated else ("create_access_token", {"user": "self"})
    told = await harness.call(tool, asked, confirm="none")
    new = harness.cluster.tokens[told.fields["id"]]
    Path(told.fields["bearer_token_in"]).unlink()
    forget_outcomes(harness)
    there: dict[str, Any] = {"bearer_token": SecretStr(new.bearer_token)}

    answers = [
        (await harness.call(AUDIT_TOOL, **there)).text,
        (await harness.call("list_access_tokens", {"user": "self"}, **there)).text,
        (await harness.call("get_access_token", {"id": new.id}, **there)).text,
        await harness.call_refused("create_access_token", {"user": "self"}, **there),
        await harness.call_refused("rotate_access_token", {"id": own.id}, **there),
    ]

    for answer in answers:
        assert "nowhere" not in answer
        assert f'update_access_token(id="{new.id}"' not in answer


async def test_of_two_that_may_be_the_orphan_none_is_told_to_be_stopped(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    second = harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW)

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "a person finds out which is in use" in told
    assert orphan.id in told
    assert second.id in told
    assert parse_calls(told) == []


async def test_what_this_server_made_is_suspected_before_what_others_did(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id, creation_time=NOW)

    told = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert f"{orphan.id} (made 2026-11-24 09:00 UTC) may be what it made" in told.text


async def test_unfinished_attempts_are_told_without_who_am_i(harness: Harness) -> None:
    await create_as_killed_server(harness)
    harness.recorder.on_served = replace_answer("GET", "/v1/session/who-am-i", refusal_response(403))

    assert "Unfinished" in (await harness.call("list_access_tokens", {"user": "local:jane"})).text


async def test_a_token_that_could_not_be_taken_back_is_told_until_it_is_gone(harness: Harness) -> None:
    async def spoil(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "DELETE":
            harness.cluster.tokens[new[0].id] = new[0]
            return refusal_response(403)
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            new.extend(harness.tokens_of(JANE))
            expires = NOW + timedelta(days=900)
            harness.cluster.tokens[new[0].id] = replace(new[0], expiration_time=expires)
        return response

    new: list[Token] = []
    harness.recorder.on_served = spoil
    await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    told = await harness.call(AUDIT_TOOL)
    del harness.cluster.tokens[new[0].id]

    assert "could not be deleted again: it did not prove to work" in told.text
    old = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.cluster.tokens[new[0].id] = new[0]
    refused = await harness.call_without_effect("rotate_access_token", {"id": old.id})
    assert "could not be deleted again: it did not prove to work" in refused
    del harness.cluster.tokens[new[0].id]
    assert "Unfinished" not in (await harness.call(AUDIT_TOOL)).text


@pytest.mark.parametrize("tool", ["update_access_token", "delete_access_token"])
async def test_a_change_without_a_known_end_is_told_with_its_token_until_something_else_was_done(
    harness: Harness, tool: str
) -> None:
    token = add_token(harness)
    arguments = {"enabled": False} if tool == "update_access_token" else {}
    await harness.call(tool, {"id": token.id, **arguments}, confirm="none")
    forget_outcomes(harness)
    harness.cluster.tokens[token.id] = token

    told = [await harness.call(AUDIT_TOOL), await harness.call("get_access_token", {"id": token.id})]
    await harness.call("update_access_token", {"id": token.id, "expiration_time": "60d"}, confirm="none")
    after = await harness.call("get_access_token", {"id": token.id})

    for each in told:
        assert f"of token {token.id}" in each.text
        assert "has no known end. The token is there (enabled: true, expires: 2027-01-13T09:00:00Z)" in each.text
    assert "Unfinished" not in after.text


async def test_a_change_that_is_there_has_come_to_its_end(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    forget_outcomes(harness)

    assert "Unfinished" not in (await harness.call("get_access_token", {"id": token.id})).text


@pytest.mark.parametrize("spoiled", ["folder", "pipe"])
async def test_reading_does_without_the_journal(harness: Harness, spoiled: str) -> None:
    journal = harness.settings.state_dir / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.mkdir() if spoiled == "folder" else os.mkfifo(journal)
    token = add_token(harness)

    asked: list[tuple[str, dict[str, Any]]] = [
        ("list_access_tokens", {}),
        ("get_access_token", {"id": token.id}),
        (AUDIT_TOOL, {}),
    ]
    for tool, arguments in asked:
        told = await harness.call(tool, arguments)
        assert not told.is_error
        assert "What was begun and not finished is not known: The journal" in told.text


async def test_thousands_of_open_intents_make_no_answer_long(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    journal = harness.settings.state_dir / "journal.jsonl"
    intent = json.loads(journal.read_text())
    users = ["local:jane"] * 2_000 + [f'local:"{number} {"x" * 200}"' for number in range(1_000)]
    lines = [f"{json.dumps(intent | {'attempt': f'{number:x}f', 'user': user})}\n" for number, user in enumerate(users)]
    journal.write_text(f"{json.dumps(intent)}\n{''.join(lines)}")

    told = [await harness.call(AUDIT_TOOL), await harness.call("list_access_tokens", {"user": "local:jane"})]
    refused = await harness.call_refused("rotate_access_token", {"id": add_token(harness).id})

    assert all(orphan.id in each.text and len(each.text) < 4_000 for each in told)
    assert len(refused) < 2_000


@pytest.mark.parametrize("operation", ["create", "update"])
def test_thousands_of_open_intents_and_of_tokens_are_held_against_each_other_in_no_time(operation: Operation) -> None:
    users = [Identity(domain="LOCAL", auth_id=str(number), name=f"user{number}") for number in range(10_000)]
    tokens = [
        AccessToken(
            id=f"{number}",
            user=users[number // 2],
            creator=users[0],
            creation_time=Timestamp.parse("2026-11-24T09:00:00Z"),
        )
        for number in range(20_000)
    ]
    intents = [
        JournalEntry(time=NOW, attempt=f"{number:x}", cluster="c", result="intended", user=str(user))
        if operation == "create"
        else JournalEntry(
            time=NOW,
            attempt=f"{number:x}",
            operation="update",
            cluster="c",
            result="intended",
            user=str(user),
            token_id=f"{2 * number}",
            change="enabled: false",
        )
        for number, user in enumerate(users[:2_000])
    ]
    begun = time.process_time()

    found = find_unfinished(JournalHistory([Attempt((intent,)) for intent in intents]), tokens, clock_ahead=timedelta())

    # To compare each with each takes half a minute.
    assert time.process_time() - begun < 5
    assert {token.user.name for each in found for token in each.suspects} == {f"user{n}" for n in range(2_000)}


async def test_the_place_of_bearer_tokens_that_cannot_be_looked_through_is_told(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    harness.settings.delivery_dir.rmdir()
    harness.settings.delivery_dir.write_text("no folder")

    told = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert (
        f"{orphan.id} (made 2026-11-24 09:00 UTC) may be what it made. Where its bearer token is, is not" in told.text
    )


async def test_a_disk_and_a_keyring_that_hang_keep_nobody_from_reading(
    harness: Harness, fake_keyring: FakeKeyring
) -> None:
    orphan = await create_as_killed_server(harness)
    fake_keyring.failing_step = "silent"
    journal = Journal(
        harness.settings.state_dir, cluster=harness.settings.address, clock=lambda: NOW, timeout_seconds=0.05
    )
    jane = {"domain": "LOCAL", "name": "jane"}
    token = AccessToken.model_validate({"id": orphan.id, "user": jane, "creation_time": NOW.isoformat()})
    threads = anyio.to_thread.current_default_thread_limiter()
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with connect(harness.settings, transport=harness.recorder) as cluster:
            services = create_services(cluster, KeyringDelivery("c"), journal)
            [unfinished] = await locate_unfinished(
                services, await read_history(services), [token], timeout_seconds=0.05
            )
            fake_keyring.hang_released.set()
            threads.total_tokens = 1
            await threads.acquire_on_behalf_of(journal)
            memory = await read_history(services)
            threads.release_on_behalf_of(journal)

    assert [*unfinished.lookup_errors.values()] == ["the place of bearer tokens does not answer"]
    assert "its disk does not answer" in str(memory.journal_error)


async def test_a_file_that_does_not_tell_whose_it_is_may_have_the_bearer_token_of_an_orphan(harness: Harness) -> None:
    await create_as_killed_server(harness)
    (harness.settings.delivery_dir / "recovered-1.json").write_text("{}")

    told = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert "it may be in " in told.text
    assert "recovered-1.json, left by a killed server, which does not tell whose it is" in told.text


async def test_an_orphan_that_is_disabled_is_told_as_of_no_use(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    harness.cluster.tokens[orphan.id] = replace(orphan, enabled=False)

    told = await harness.call("get_access_token", {"id": orphan.id})

    assert f'If nobody has its bearer token: delete_access_token(id="{orphan.id}").' in told.text


@pytest.mark.parametrize(
    ("before", "settings", "expected"),
    [
        pytest.param(
            {"expiration_time": None},
            {},
            'update_access_token(id="{id}", enabled=true, expiration_time="never") undoes this, delete',
            id="never",
        ),
        pytest.param(
            {},
            {},
            'update_access_token(id="{id}", enabled=true, expiration_time="2027-01-13T09:00:00Z") undoes this, delete',
            id="later",
        ),
        pytest.param(
            {"expiration_time": None},
            {"max_lifetime": timedelta(days=30), "default_lifetime": timedelta(days=30)},
            'update_access_token(id="{id}", enabled=true) undoes the disabling, delete_access_token(id="{id}") makes '
            "it final. The new expiry stays: QUMULO_MAX_LIFETIME does not allow that it never expired again.",
            id="never-is-not-allowed",
        ),
        pytest.param(
            {},
            {"max_lifetime": timedelta(days=30), "default_lifetime": timedelta(days=30)},
            "QUMULO_MAX_LIFETIME does not allow the expiry of 2027-01-13 09:00 UTC again.",
            id="later-is-not-allowed",
        ),
        pytest.param({"expiration_time": NOW - timedelta(hours=1)}, {}, "update_access", id="longer"),
    ],
)
async def test_what_undoes_a_change_undoes_all_of_it_or_says_what_stays(
    harness: Harness, before: dict[str, Any], settings: dict[str, Any], expected: str
) -> None:
    token = add_token(harness, **before)
    arguments = {"id": token.id, "enabled": False, "expiration_time": "1d"}

    told = await harness.call("update_access_token", arguments, confirm="none", **settings)

    assert expected.format(id=token.id) in told.fields["next_step"]
    if "undoes this" in expected:
        [undo, *_] = parse_calls(told.fields["next_step"])
        await harness.call(*undo, confirm="none", **settings)
        assert harness.cluster.tokens[token.id] == token


async def test_a_token_that_was_only_shortened_is_told_how_to_get_its_expiry_back(harness: Harness) -> None:
    token = add_token(harness)
    told = await harness.call("update_access_token", {"id": token.id, "expiration_time": "1d"}, confirm="none")
    again = await harness.call(
        "update_access_token",
        {"id": token.id, "expiration_time": "1h"},
        confirm="none",
        max_lifetime=timedelta(hours=2),
        default_lifetime=timedelta(hours=1),
    )

    assert told.fields["next_step"] == (
        f'Watch whether anything breaks; update_access_token(id="{token.id}", expiration_time="2027-01-13T09:00:00Z") '
        "undoes this."
    )
    assert again.fields["next_step"] == (
        "Watch whether anything breaks. The new expiry stays: QUMULO_MAX_LIFETIME does not allow the expiry of "
        "2026-11-25 09:00 UTC again."
    )


async def test_an_expiry_that_was_over_is_not_told_to_be_set_again(harness: Harness) -> None:
    token = add_token(harness, expiration_time=NOW - timedelta(hours=1))

    told = await harness.call(
        "update_access_token", {"id": token.id, "enabled": False, "expiration_time": "1d"}, confirm="none"
    )

    [undo, _] = parse_calls(told.fields["next_step"])
    assert undo == ("update_access_token", {"id": token.id, "enabled": True})


async def test_another_like_one_that_is_over_lives_no_longer_than_that(harness: Harness) -> None:
    token = add_token(harness, creation_time=NOW - timedelta(hours=9), expiration_time=NOW - timedelta(hours=1))

    told = await harness.call(
        "delete_access_token",
        {"id": token.id},
        confirm="none",
        max_lifetime=timedelta(hours=12),
        default_lifetime=timedelta(hours=1),
    )

    assert parse_calls(told.fields["next_step"]) == [
        ("create_access_token", {"user": "local:jane", "expiration_time": "8h"})
    ]


@pytest.mark.parametrize(("longest", "written"), [(timedelta(minutes=30), "30min"), (timedelta(seconds=90), "1min")])
async def test_a_short_life_that_is_advised_is_one_that_is_taken(
    harness: Harness, longest: timedelta, written: str
) -> None:
    token = add_token(harness, expiration_time=None)

    async with harness.connected(confirm="none", max_lifetime=longest, default_lifetime=None) as client:
        calls = await find_remedies(client)
        told = ToolAnswer.from_result(await client.call_tool(*calls[0]))

    assert calls[0] == ("rotate_access_token", {"id": token.id, "expiration_time": written})
    assert not told.is_error


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

    told = await harness.call("delete_access_token", {"id": token.id}, confirm="none", **month)

    [(tool, arguments)] = parse_calls(told.fields["next_step"])
    assert arguments["expiration_time"].startswith(again)
    assert not (await harness.call(tool, arguments, **month)).is_error


@pytest.mark.parametrize(
    "privileges",
    [{LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE}, {READ_PRIVILEGE, WRITE_PRIVILEGE}],
    ids=["looked-up", "asked-for"],
)
async def test_the_token_of_a_user_who_is_gone_is_not_rotated_but_disabled(
    harness: Harness, privileges: set[str]
) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset(privileges)))
    token, dead = add_token(harness), add_token(harness, LDAP_BOB, enabled=False)
    for account in (JANE, LDAP_BOB):
        harness.cluster.remove_account(account.auth_id)

    told = await harness.call_refused("rotate_access_token", {"id": token.id})
    other = await harness.call_refused("rotate_access_token", {"id": dead.id})

    assert "there is nothing to rotate" in told
    assert f'update_access_token(id="{token.id}", enabled=false)' in told
    assert "no such thing" not in told
    assert "It does not work as it is." in other


async def test_a_user_whom_the_cluster_finds_is_not_told_as_gone_whatever_else_it_does_not_find(
    harness: Harness,
) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("POST", TOKENS_PATH, refusal_response(404))

    told = await harness.call_without_effect("rotate_access_token", {"id": token.id})

    assert told == "The cluster knows no such thing (404 some_error)."


@pytest.mark.parametrize("expiration_time", ["90d", "10d"])
async def test_of_two_servers_that_rotate_one_token_the_loser_lets_the_winner_s_be(
    harness: Harness, expiration_time: str
) -> None:
    old = add_token(harness)
    is_made, may_go_on = anyio.Event(), anyio.Event()

    async def hold(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            is_made.set()
            await may_go_on.wait()
        return response

    harness.recorder.on_served = hold
    told: list[str] = []
    async with harness.connected() as winner, harness.connected() as loser, anyio.create_task_group() as tasks:
        tasks.start_soon(winner.call_tool, "rotate_access_token", {"id": old.id})
        await is_made.wait()
        asked: list[tuple[str, dict[str, str]]] = [
            ("rotate_access_token", {"id": old.id, "expiration_time": expiration_time}),
            ("create_access_token", {"user": "local:jane"}),
            ("rotate_access_token", {"id": find_new_token(harness, old).id}),
        ]
        told += [ToolAnswer.from_result(await loser.call_tool(*each)).text for each in asked]
        may_go_on.set()
    later = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert f"Token {old.id} is just being rotated" in told[0]
    assert (
        f"It may have just made {find_new_token(harness, old).id}: leave that alone, and wait for its end." in told[1]
    )
    assert [parse_calls(each) for each in told] == [[], [], []]
    assert "What remains: " in later


async def test_a_change_that_is_being_made_is_not_told_as_unfinished(harness: Harness) -> None:
    token = add_token(harness)
    journal = Journal(harness.settings.state_dir, cluster=harness.settings.address, clock=lambda: NOW)
    async with journal.record_intent("local:jane", "delete", token_id=token.id):
        assert "Unfinished" not in (await harness.call("get_access_token", {"id": token.id})).text


@pytest.mark.parametrize("holds", ["another", "the same", "a wrong one", "nothing"])
async def test_a_server_whose_credentials_file_was_replaced_is_to_be_started_again(
    harness: Harness, tmp_path: Path, holds: str
) -> None:
    own = own_token(harness)
    store = tmp_path / "credentials"
    store.write_text(json.dumps({"bearer_token": own.bearer_token, "version": 1}))
    new = add_token(harness, ADMIN)
    bearers = {"another": new.bearer_token, "the same": own.bearer_token, "a wrong one": "access-v1:d3Jvbmc="}
    async with harness.connected(bearer_token=None, credentials_file=store, confirm="none") as client:
        await client.call_tool("list_access_tokens", {})
        store.write_text(json.dumps({"bearer_token": bearers[holds], "version": 1}) if holds in bearers else "")
        told = ToolAnswer.from_result(await client.call_tool("delete_access_token", {"id": own.id})).text

    expected = {
        "another": f"holds token {new.id} by now: start the server again, it still runs on the old one.",
        "a wrong one": "holds another bearer token by now, which the cluster does not take.",
    }
    assert told.endswith(expected.get(holds, "call rotate_access_token and let the server run on the new one."))
    assert new.bearer_token not in told


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

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert f"{live.id} (enabled, expires 2027-01-13 09:00 UTC (in 50 days); made 40 days ago by local:admin)" in told
    assert f"{dead.id} {expected}" in told
    assert f'"{live.id}"' not in told


async def test_the_limit_error_where_both_work_leaves_it_to_a_person(harness: Harness) -> None:
    add_token(harness)
    add_token(harness)

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert told.endswith(PERSON_DECIDES)
    assert parse_calls(told) == []


async def test_a_refusal_that_the_user_s_tokens_do_not_explain_is_told_as_it_is(harness: Harness) -> None:
    harness.recorder.on_served = replace_answer("POST", TOKENS_PATH, refusal_response(400, "some_limit", "some limit"))

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "already" not in told
    assert "declined (400)" in told


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

    told = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert ("already" in told) == is_readable


async def test_a_token_that_this_server_deleted_is_told_as_that(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    known = await harness.call_refused("get_access_token", {"id": token.id})
    unknown = await harness.call_refused("get_access_token", {"id": "123"})

    assert "This server deleted it at 2026-11-24 09:00 UTC; list_access_tokens tells the ids." in known
    assert "deleted" not in unknown


@pytest.mark.parametrize(
    ("spelling", "user", "is_denoted"),
    [
        ("local:jane", Identity(domain="LOCAL", name="jane"), True),
        ("auth_id:1001", Identity(domain="LOCAL", auth_id="1001", name="jane"), True),
        ("jane", Identity(domain="ACTIVE_DIRECTORY", name="CORP\\jane"), True),
        ("local:jane", Identity(domain="ACTIVE_DIRECTORY", name="CORP\\jane"), False),
        ("local:jane", Identity(domain="LOCAL", name="bob"), False),
        ("local:jane", Identity(domain="LOCAL", auth_id="1001"), False),
        ('"jane', Identity(domain="LOCAL", name="jane"), False),
    ],
)
def test_a_user_in_the_journal_is_matched_with_each_form_of_identity(
    spelling: str, user: Identity, *, is_denoted: bool
) -> None:
    assert may_denote(spelling, user) == is_denoted
