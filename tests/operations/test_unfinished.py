"""Test the advice about unfinished changes: it stops no working token, it ends, and it agrees with the journal."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr

from tests.support.example_tokens import add_token, own_token
from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    AUDIT_TOOL,
    DECLINES,
    JANE,
    LDAP_BOB,
    NOW,
    TIMEOUT_SECONDS,
    TOKENS_PATH,
    Harness,
    Mode,
    ScriptedPerson,
    create_harness,
    refusal_response,
)
from tests.support.json_rpc import create_call
from tests.support.misbehaving_cluster import replace_answer
from tests.support.record import add_entries, end_leases, forget_outcomes, read_record, state_file
from tests.support.remedies import parse_calls
from tests.support.server_process import CREATE_REQUEST, running_server, served_cluster
from tests.support.services import create_services, open_journal
from token_tools.cluster.client import connect
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.journal_history import JournalHistory, read_history
from token_tools.operations.unfinished import find_unfinished, locate_unfinished, may_denote
from token_tools.sandbox.cluster import Token
from token_tools.server.app import MAX_LOGGED
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Attempt, Mandate, Operation
from token_tools.storage.delivery import KeyringDelivery
from token_tools.storage.journal import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture
def harness(harness: Harness, state: StateSettings) -> Harness:
    """Create a harness whose servers keep their record in each kind of database in its turn."""
    return harness.with_state(state)


async def test_a_change_that_was_never_finished_is_told_by_each_server_that_starts(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_token(harness)
    await harness.call("delete_access_token", {"id": token.id}, confirm="none")
    forget_outcomes(harness.settings)

    for read_only in (False, False, True):
        report = await harness.read_start_report(caplog, read_only=read_only)
        assert (
            "The delete of an access token for local:jane on c.example.com:8000 at 2026-11-24 09:00 UTC was" in report
        )
        assert f"look at token {token.id}" in report


def render_disable_steps(token_id: str) -> str:
    return (
        f'If nothing uses it: update_access_token(id="{token_id}", enabled=false), watch, '
        f'delete_access_token(id="{token_id}"), and rotate again.'
    )


async def test_a_create_that_was_killed_after_the_delivery_is_told_with_the_place(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("create_access_token", {"user": "local:jane"})
    forget_outcomes(harness.settings)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="file")

    assert refusal.endswith(
        f"its bearer token is in {first.fields['bearer_token_in']}, not proved to work yet. "
        f"{render_disable_steps(first.fields['id'])}"
    )


async def test_a_start_tells_the_latest_of_very_many_and_how_many_there_are(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that works on something, or was killed just now, is asked again once its lease has run out."""
    async with (
        open_journal(harness.settings, cluster=harness.settings.address) as journal,
        journal.record_intent(journal.draft("create", "local:jane", Mandate("somebody"))),
    ):
        add_entries(harness.settings, [{"operation": "create"}] * (MAX_LOGGED + 5))

        report = await harness.read_start_report(caplog)

    assert report.count("has no known end") == MAX_LOGGED
    assert "5 more: see `qumulo-token-tools journal --unfinished`" in report


async def test_a_start_without_files_says_nothing_of_them(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await harness.call("rotate_access_token", {"id": add_token(harness).id}, delivery="inline")
    forget_outcomes(harness.settings)

    report = await harness.read_start_report(caplog, delivery="inline")

    assert report.rstrip().endswith("a token whose bearer token nobody has may be among theirs")


def test_an_orphan_of_a_killed_server_is_told_until_it_is_gone_and_the_token_that_works_is_let_be(
    tmp_path: Path,
) -> None:
    with served_cluster(tmp_path, {"create": "hang-after"}) as cluster:
        old = cluster.cluster.add_token(JANE.auth_id, creator=ADMIN.auth_id, creation_time=NOW - timedelta(days=40))
        with running_server(cluster) as server:
            server.send(create_call(2, "create_access_token", user="local:jane"))
            cluster.wait_for(CREATE_REQUEST)
            with anyio.from_thread.start_blocking_portal() as portal:
                while len(cluster.cluster.tokens.of_user(JANE.auth_id)) < 2:
                    portal.call(anyio.sleep, 0.01)
        [orphan] = [token for token in cluster.cluster.tokens.of_user(JANE.auth_id) if token.id != old.id]
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
        end_leases(cluster.state_folder)
        for _ in range(2):
            with running_server(cluster) as server:
                for number, (tool, arguments) in enumerate(asked, start=3):
                    server.send(create_call(number, tool, **arguments))
                    answer = server.read_line().decode().replace('\\"', '"')
                    assert f'update_access_token(id="{orphan.id}", enabled=false)' in answer, tool
                    assert f'enabled=false), watch, delete_access_token(id="{old.id}")' not in answer
                    assert f'update_access_token(id="{old.id}"' not in answer
        del cluster.cluster.tokens[orphan.id]
        with running_server(cluster) as server:
            for number, (tool, arguments) in enumerate(asked[:3], start=3):
                server.send(create_call(number, tool, **arguments))
                answer = server.read_line().decode()
                # Only that it is gone since the last audit is told of it.
                assert orphan.id not in answer.replace(f"gone: {orphan.id}", "")


async def create_as_killed_server(harness: Harness, **arguments: object) -> Token:
    """Create a token, and leave what a killed server leaves: the token and the intent, but no bearer token."""
    answer = await harness.call("create_access_token", {"user": "local:jane"} | arguments)
    Path(answer.fields["bearer_token_in"]).unlink()
    forget_outcomes(harness.settings)
    return harness.cluster.tokens[answer.fields["id"]]


async def test_what_is_unfinished_is_told_in_both_channels_first_in_an_audit(harness: Harness) -> None:
    old = add_token(harness)
    orphan = await create_as_killed_server(harness)

    answer = await harness.call(AUDIT_TOOL)

    line = answer.text.splitlines()[1]
    assert line.startswith("Unfinished: the create for local:jane begun at 2026-11-24 09:00 UTC has no known end.")
    assert line in answer.fields["note"]
    [worst] = [entry["id"] for entry in answer.fields["worst"] if entry["finding"] == "users_with_two_tokens"]
    assert worst == orphan.id
    assert f'"{old.id}"' not in answer.text


async def test_what_is_unfinished_is_told_where_lists_tell_keys_only(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    orphan = await create_as_killed_server(harness)
    bob = harness.cluster.add_token(LDAP_BOB.auth_id, creator="500", creation_time=NOW)

    for answer in [
        await harness.call(AUDIT_TOOL),
        await harness.call("list_access_tokens", {"user": "local:jane"}),
        await harness.call("get_access_token", {"id": orphan.id}),
    ]:
        assert f'update_access_token(id="{orphan.id}", enabled=false)' in answer.text
        assert f'update_access_token(id="{bob.id}"' not in answer.text


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
    forget_outcomes(harness.settings)

    assert "Unfinished" not in (await harness.call(AUDIT_TOOL)).text
    assert "Unfinished" not in (await harness.call("list_access_tokens", {"user": "local:jane"})).text


async def test_a_rotate_that_was_cut_off_before_its_proof_is_told_until_the_old_token_is_gone(harness: Harness) -> None:
    old = add_token(harness)
    rotated = await harness.call("rotate_access_token", {"id": old.id})
    new, place = rotated.fields["id"], rotated.fields["bearer_token_in"]
    forget_outcomes(harness.settings)

    answer = [await harness.call(AUDIT_TOOL), await harness.call("list_access_tokens", {"user": "local:jane"})]
    answer += [await harness.call("get_access_token", {"id": token_id}) for token_id in (old.id, new)]
    refused = await harness.call_without_effect("rotate_access_token", {"id": old.id})
    del harness.cluster.tokens[old.id]

    unproved = f"its bearer token is in {place}, and was not proved to work."
    assert all(f"Token {new} " in one.text and unproved in one.text for one in answer)
    assert all(f'rotate_access_token(id="{old.id}") tells how to go on' in one.text for one in answer)
    assert f'update_access_token(id="{old.id}", enabled=false)' in refused
    assert "Unfinished" not in (await harness.call(AUDIT_TOOL)).text


@pytest.mark.parametrize("rotated", [True, False], ids=["rotate", "create"])
async def test_what_the_server_runs_on_by_now_is_not_told_as_what_nobody_has(
    harness: Harness, *, rotated: bool
) -> None:
    own = own_token(harness)
    tool, asked = ("rotate_access_token", {"id": own.id}) if rotated else ("create_access_token", {"user": "self"})
    reply = await harness.call(tool, asked, confirm="none")
    new = harness.cluster.tokens[reply.fields["id"]]
    Path(reply.fields["bearer_token_in"]).unlink()
    forget_outcomes(harness.settings)
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


async def test_of_two_possible_orphans_the_answer_advises_to_disable_neither(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    second = harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "a person finds out which is in use" in refusal
    assert orphan.id in refusal
    assert second.id in refusal
    assert parse_calls(refusal) == []


async def test_what_this_server_made_is_suspected_before_what_others_did(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id, creation_time=NOW)

    answer = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert f"{orphan.id} (made 2026-11-24 09:00 UTC) may be what it made" in answer.text


async def test_unfinished_attempts_are_told_without_who_am_i(harness: Harness) -> None:
    await create_as_killed_server(harness)
    harness.recorder.on_served = replace_answer("GET", refusal_response(403), path="/v1/session/who-am-i")

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

    answer = await harness.call(AUDIT_TOOL)
    del harness.cluster.tokens[new[0].id]

    assert "could not be deleted again: it did not prove to work" in answer.text
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
    forget_outcomes(harness.settings)
    harness.cluster.tokens[token.id] = token

    answer = [await harness.call(AUDIT_TOOL), await harness.call("get_access_token", {"id": token.id})]
    await harness.call("update_access_token", {"id": token.id, "expiration_time": "60d"}, confirm="none")
    after = await harness.call("get_access_token", {"id": token.id})

    for each in answer:
        assert f"of token {token.id}" in each.text
        assert "has no known end. The token is there (enabled: true, expires: 2027-01-13T09:00:00Z)" in each.text
    assert "Unfinished" not in after.text


async def test_a_change_that_is_there_has_come_to_its_end(harness: Harness) -> None:
    token = add_token(harness)
    await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    forget_outcomes(harness.settings)

    assert "Unfinished" not in (await harness.call("get_access_token", {"id": token.id})).text


@pytest.mark.parametrize("spoiled", ["folder", "pipe"])
async def test_reading_does_without_the_journal(mode: Mode, tmp_path: Path, spoiled: str) -> None:
    harness = create_harness(mode, tmp_path)
    journal = state_file(harness.settings.state_dir)
    journal.parent.mkdir(parents=True)
    journal.mkdir() if spoiled == "folder" else os.mkfifo(journal)
    token = add_token(harness)

    asked: list[tuple[str, dict[str, Any]]] = [
        ("list_access_tokens", {}),
        ("get_access_token", {"id": token.id}),
        (AUDIT_TOOL, {}),
    ]
    for tool, arguments in asked:
        answer = await harness.call(tool, arguments)
        assert not answer.is_error
        assert "What was begun and not finished is not known: The journal" in answer.text


async def test_thousands_of_open_intents_make_no_answer_long(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    users = ["local:jane"] * 2_000 + [f'local:"{number} {"x" * 200}"' for number in range(1_000)]
    add_entries(harness.settings, [{"operation": "create", "user_name": user} for user in users])

    answer = [await harness.call(AUDIT_TOOL), await harness.call("list_access_tokens", {"user": "local:jane"})]
    refused = await harness.call_refused("rotate_access_token", {"id": add_token(harness).id}, max_changes=0)

    assert all(orphan.id in each.text and len(each.text) < 4_000 for each in answer)
    assert len(refused) < 2_000


@pytest.mark.parametrize("operation", ["create", "update"])
def test_thousands_of_open_intents_and_of_tokens_are_held_against_each_other_in_no_time(operation: Operation) -> None:
    users = [Identity(domain="LOCAL", auth_id=str(number), name=f"user{number}") for number in range(10_000)]
    tokens = [
        AccessToken(
            id=f"{number}",
            user=users[number // 2],
            creator=users[0],
            creation_time="2026-11-24T09:00:00Z",
        )
        for number in range(20_000)
    ]
    attempts = [
        Attempt(
            id=f"{number:x}",
            begun=NOW,
            cluster="c",
            operation=operation,
            user=str(user),
            actor="somebody",
            token_id=None if operation == "create" else f"{2 * number}",
            after="enabled: false",
        )
        for number, user in enumerate(users[:2_000])
    ]
    begun = time.process_time()

    found = find_unfinished(JournalHistory(attempts), tokens, clock=ClusterClock(lambda: NOW))

    # Comparing each intent with each token would take half a minute.
    assert time.process_time() - begun < 5
    assert {token.user.name for each in found for token in each.suspects} == {f"user{n}" for n in range(2_000)}


async def test_the_place_of_bearer_tokens_that_cannot_be_looked_through_is_told(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    harness.settings.delivery_dir.rmdir()
    harness.settings.delivery_dir.write_text("no folder")

    answer = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert (
        f"{orphan.id} (made 2026-11-24 09:00 UTC) may be what it made. Where its bearer token is, is not" in answer.text
    )


async def test_a_disk_and_a_keyring_that_hang_keep_nobody_from_reading(
    harness: Harness, fake_keyring: FakeKeyring
) -> None:
    orphan = await create_as_killed_server(harness)
    fake_keyring.failing_step = "silent"
    jane = Identity(domain="LOCAL", name="jane")
    token = AccessToken(id=orphan.id, user=jane, creation_time=NOW.isoformat())
    threads = anyio.to_thread.current_default_thread_limiter()
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with (
            connect(harness.settings, cluster_transport=harness.recorder) as cluster,
            open_journal(
                harness.settings, cluster=harness.settings.address, limits=Limits(timeout_seconds=0.5)
            ) as journal,
        ):
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
    assert "does not answer" in str(memory.journal_error)


async def test_a_file_that_does_not_tell_whose_it_is_may_have_the_bearer_token_of_an_orphan(harness: Harness) -> None:
    await create_as_killed_server(harness)
    (harness.settings.delivery_dir / "recovered-1.json").write_text("{}")

    answer = await harness.call("list_access_tokens", {"user": "local:jane"})

    assert "it may be in " in answer.text
    assert "recovered-1.json, left by a killed server, which does not tell whose it is" in answer.text


@pytest.mark.parametrize("remedy", ["update_access_token", "delete_access_token", "by hand"])
async def test_an_orphan_that_is_disabled_or_deleted_is_settled(harness: Harness, remedy: str) -> None:
    orphan = await create_as_killed_server(harness)
    if remedy == "by hand":
        harness.cluster.tokens[orphan.id] = replace(orphan, enabled=False)
    else:
        disabling = {"enabled": False} if remedy == "update_access_token" else {}
        await harness.call(remedy, {"id": orphan.id, **disabling}, confirm="none")
        [attempt, _] = read_record(harness.settings)
        assert attempt["settlement"] == ("disabled" if disabling else "deleted")

    for tool in (AUDIT_TOOL, "list_access_tokens"):
        assert "Unfinished" not in (await harness.call(tool)).text


async def test_of_two_possible_orphans_the_one_that_is_deleted_settles_it_and_the_other_is_let_be(
    harness: Harness,
) -> None:
    orphan = await create_as_killed_server(harness)
    harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW)

    await harness.call("delete_access_token", {"id": orphan.id}, confirm="none")

    assert "Unfinished" not in (await harness.call("list_access_tokens", {"user": "local:jane"})).text


async def list_user(harness: Harness, token: Token) -> str:
    return (await harness.call("list_access_tokens", {"user": "local:jane"})).text


async def get_token(harness: Harness, token: Token) -> str:
    return (await harness.call("get_access_token", {"id": token.id})).text


@pytest.mark.parametrize("look", [list_user, get_token])
async def test_an_attempt_of_which_no_token_is_there_is_told_where_its_user_is_looked_at_and_then_settled(
    harness: Harness, look: Callable[[Harness, Token], Awaitable[str]]
) -> None:
    orphan = await create_as_killed_server(harness)
    del harness.cluster.tokens[orphan.id]
    other = add_token(harness, creation_time=NOW - timedelta(days=1))
    person = ScriptedPerson([DECLINES])

    audited = (await harness.call(AUDIT_TOOL)).text
    bobs = (await harness.call("list_access_tokens", {"user": "ldap_user:bob"})).text
    await harness.call("create_access_token", {"user": "local:jane"}, person=person, confirm="all")
    looked_at = [await look(harness, other) for _ in range(2)]

    untraced = "begun at 2026-11-24 09:00 UTC has no known end, and no token of it is seen."
    assert audited.splitlines()[1] == "Of 1 unfinished no token is seen: list_token_changes tells more."
    assert untraced in person.questions[0]
    assert [f"{untraced} So it is settled." in text for text in looked_at] == [True, False]
    assert "Unfinished" not in bobs + looked_at[1]


async def test_what_a_person_was_told_before_they_agreed_is_settled(harness: Harness) -> None:
    orphan = await create_as_killed_server(harness)
    old = harness.cluster.add_token(LDAP_BOB.auth_id, creator="500")
    person = ScriptedPerson([AGREES])

    await harness.call("rotate_access_token", {"id": old.id}, person=person, confirm="all")
    told_before = (await harness.call("list_access_tokens", {"user": "local:jane"})).text
    await harness.call("create_access_token", {"user": "local:jane"}, person=person, confirm="all")
    told_after = (await harness.call("list_access_tokens", {"user": "local:jane"})).text

    assert "Unfinished" not in person.questions[0]
    assert f"Token {orphan.id} (made 2026-11-24 09:00 UTC) may be what it made" in person.questions[1]
    assert "Unfinished" in told_before
    assert "Unfinished" not in told_after


async def test_what_another_server_may_still_be_at_is_told_as_such(harness: Harness) -> None:
    token = add_token(harness, creation_time=NOW)
    async with (
        open_journal(harness.settings, cluster=harness.settings.address) as journal,
        journal.record_intent(journal.draft("create", "local:jane", Mandate("somebody"))),
    ):
        at_work = (await harness.call("get_access_token", {"id": token.id})).text
        end_leases(harness.settings)
        cut_off = (await harness.call("get_access_token", {"id": token.id})).text

    assert f"It may have just made {token.id}: leave that alone" in at_work
    assert (
        f"Unfinished: the create for local:jane begun at 2026-11-24 09:00 UTC has no known end. Token {token.id}"
        in cut_off
    )


async def test_a_change_that_is_being_made_is_not_told_as_unfinished(harness: Harness) -> None:
    token = add_token(harness)
    async with (
        open_journal(harness.settings, cluster=harness.settings.address) as journal,
        journal.record_intent(journal.draft("delete", "local:jane", Mandate("somebody"), token_id=token.id)),
    ):
        assert "Unfinished" not in (await harness.call("get_access_token", {"id": token.id})).text


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
