"""Test rotations: the second token is created and proved, calls are repeated, and the token limit is reached."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.example_tokens import add_token, find_new_token, own_token
from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import (
    ADMIN,
    AGREES,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    WHO_AM_I_PATH,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    refusal_response,
)
from tests.support.misbehaving_cluster import (
    deny_lists,
    hide_token_ids,
    hide_tokens_in_first_list,
    inject_faults,
    replace_answer,
)
from tests.support.record import forget_outcomes, read_record
from tests.support.recording_transport import OnServed
from tests.support.remedies import find_remedies, parse_calls
from token_tools.operations.next_steps import PERSON_DECIDES
from token_tools.sandbox.cluster import LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE, Token

pytestmark = pytest.mark.anyio


async def test_rotate_makes_a_second_token_that_is_proved_and_tells_what_remains(harness: Harness) -> None:
    old = add_token(harness)

    answer = await harness.call("rotate_access_token", {"id": old.id})

    [new] = [token for token in harness.tokens_of(JANE) if token != old]
    assert len(harness.tokens_of(JANE)) == 2
    place = answer.fields["bearer_token_in"]
    assert json.loads(Path(place).read_text())["bearer_token"] == new.bearer_token
    [proof] = [r for r in harness.recorder.requests if r.headers["Authorization"] == f"Bearer {new.bearer_token}"]
    assert (proof.method, proof.url.path) == ("GET", WHO_AM_I_PATH)
    assert answer.fields["summary"] == (
        f"Rotated: new access token {new.id} for local:jane on c.example.com:8000; it expires 2027-02-22 09:00 UTC "
        f"(in 90 days, the default lifetime), and it works. Its bearer token is in {place}. The old one, {old.id}, is "
        "as it was."
    )
    assert answer.fields["replaces"] == old.id
    assert answer.fields["next_step"].startswith(
        f"What remains: 1. Put it where the old one is used. 2. Test that. "
        f'3. update_access_token(id="{old.id}", enabled=false). '
        f'4. Once nothing breaks, delete_access_token(id="{old.id}").'
    )
    for fact in (answer.fields["summary"], answer.fields["next_step"], answer.fields["fingerprint"]):
        assert fact in answer.text
    [entry] = read_record(harness.settings.state_dir)
    assert (entry["operation"], entry["outcome"]) == ("rotate", "created")
    assert (entry["replaces"], entry["token_id"]) == (old.id, new.id)
    assert json.loads(entry["location"]) == {"kind": "file", "path": place}


async def test_rotating_the_server_s_own_token_says_how_to_hand_the_new_one_over(harness: Harness) -> None:
    own = own_token(harness)

    answer = await harness.call("rotate_access_token", {"id": own.id}, confirm="none")

    assert "1. This server runs on the old one: replace QUMULO_BEARER_TOKEN (" in answer.fields["next_step"]
    assert harness.cluster.tokens[own.id] == own


async def test_rotating_for_the_administrator_or_for_ever_is_asked_about(harness: Harness) -> None:
    person = ScriptedPerson([AGREES])

    answer = await harness.call(
        "rotate_access_token", {"id": own_token(harness).id, "expiration_time": "never"}, person=person
    )

    assert not answer.is_error
    assert person.questions[0].startswith(
        f"Make a second access token, to replace {own_token(harness).id}, for the user local:admin (auth_id 500) "
        "on the cluster c.example.com:8000? Whoever has it can act as that user. It never expires. The user has 1 of 2 "
    )
    assert "Asked because it is for the built-in administrator and it would never expire." in person.questions[0]


async def test_a_token_that_is_gone_when_the_person_agrees_is_not_rotated(harness: Harness) -> None:
    old = add_token(harness)

    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del harness.cluster.tokens[old.id]
        return AGREES

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id}, person=think, confirm="all")

    assert refusal.startswith(f"There is no access token {old.id}.")
    assert harness.tokens_of(JANE) == []


async def test_with_both_places_in_use_the_other_token_is_named_and_nothing_made(harness: Harness) -> None:
    old, other = add_token(harness), add_token(harness, expiration_time=None)

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")

    assert refusal == (
        "local:jane has 2 access tokens already, as many as a user can have, so there is no place for a new one. "
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, which never expires. {PERSON_DECIDES}"
    )
    assert {token.id for token in harness.tokens_of(JANE)} == {old.id, other.id}
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_rotate_explains_a_token_limit_that_a_dead_token_fills(harness: Harness) -> None:
    """Only the cluster knows whether disabled tokens count."""
    old, other = add_token(harness), add_token(harness, enabled=False)

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")

    assert refusal.endswith(
        "local:jane has 2 access tokens already, and disabled and expired ones seem to count here. "
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, disabled, expires 2027-01-13 09:00 UTC (in 50 days). "
        f"{other.id} is disabled (since when is not known here); once it is sure that nobody wants it back: "
        f'delete_access_token(id="{other.id}").'
    )
    assert len(harness.tokens_of(JANE)) == 2


FAILED_PROOFS = [
    pytest.param(httpx.Response(401), "The cluster does not accept it.", id="not-accepted"),
    pytest.param(
        httpx.Response(200, json={"id": "1001", "access_token_id": "99"}),
        "another user or another token",
        id="other-token",
    ),
    pytest.param(
        httpx.Response(200, json={"id": "1001"}), "does not tell the id of the token that a caller", id="no-token"
    ),
    pytest.param(httpx.Response(500), "cannot answer now (500)", id="no-answer"),
]


def fail_proofs(harness: Harness, proof: httpx.Response) -> OnServed:
    """Return a hook that answers requests with a new bearer token with `proof`."""
    own = f"Bearer {own_token(harness).bearer_token}"

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return served if request.headers["Authorization"] == own else proof

    return answer


@pytest.mark.parametrize(("proof", "why"), FAILED_PROOFS)
async def test_a_new_token_that_does_not_prove_to_work_is_deleted_again(
    harness: Harness, proof: httpx.Response, why: str
) -> None:
    old = add_token(harness)
    harness.recorder.on_served = fail_proofs(harness, proof)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "was made and delivered, but did not prove to work." in refusal
    assert why in refusal
    assert refusal.endswith("It was deleted again. The old token is as it was.")
    assert harness.tokens_of(JANE) == [old]
    assert [*harness.settings.delivery_dir.iterdir()] == []
    assert [line["outcome"] for line in read_record(harness.settings.state_dir)] == ["rolled back"]


async def test_a_new_token_of_somebody_else_is_no_proof(harness: Harness) -> None:
    old = add_token(harness)
    own = f"Bearer {own_token(harness).bearer_token}"

    async def lie(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.headers["Authorization"] == own:
            return served
        return httpx.Response(200, json=served.json() | {"id": "1002"})

    harness.recorder.on_served = lie

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "With it, the cluster takes the caller for another user or another token." in refusal
    assert harness.tokens_of(JANE) == [old]


async def test_an_unproved_token_that_cannot_be_deleted_is_named_with_its_place(harness: Harness) -> None:
    old = add_token(harness)
    disprove = fail_proofs(harness, httpx.Response(401))

    async def refuse_deletions(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method == "DELETE":
            harness.cluster.tokens[token.id] = token
            return refusal_response(403)
        return await disprove(request, served)

    token = old
    harness.recorder.on_served = refuse_deletions

    async def remember(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        nonlocal token
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            [token] = [made for made in harness.tokens_of(JANE) if made.id != old.id]
        return await refuse_deletions(request, served)

    harness.recorder.on_served = remember

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    [file] = harness.settings.delivery_dir.iterdir()
    assert "It could not be deleted again: " in refusal
    assert f"It is in {file}." in refusal
    assert f'delete_access_token(id="{token.id}")' in refusal
    assert [line["outcome"] for line in read_record(harness.settings.state_dir)] == ["undeletable"]

    again = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert again == (
        f"Token {old.id} was rotated before, at 2026-11-24 09:00 UTC. The new token {token.id} "
        "is no good: it did not prove to work, and it could not be deleted. "
        f'delete_access_token(id="{token.id}"), then rotate again.'
    )
    assert len(harness.tokens_of(JANE)) == 2


async def test_what_was_delivered_for_a_token_that_is_deleted_again_may_have_to_stay(harness: Harness) -> None:
    old = add_token(harness)
    disprove = fail_proofs(harness, httpx.Response(401))

    async def replace_the_file(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method == "DELETE":
            [file] = harness.settings.delivery_dir.iterdir()
            file.unlink()
            file.mkdir()
        return await disprove(request, served)

    harness.recorder.on_served = replace_the_file

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "It was deleted again. What was delivered is still in " in refusal
    assert harness.tokens_of(JANE) == [old]


async def test_a_rotate_that_is_repeated_makes_no_third_token_but_tells_of_the_second(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    harness.cluster.tokens[old.id] = replace(old, enabled=False)

    again = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert again == (
        f"Token {old.id} was rotated before, at 2026-11-24 09:00 UTC. The new token is "
        f"{first.fields['id']}; it is enabled, expires 2027-02-22 09:00 UTC (in 90 days), and its bearer token is in "
        f"{first.fields['bearer_token_in']}. What remains: 1. Put it where the old one is used. 2. Test that. "
        f'3. Once nothing breaks, delete_access_token(id="{old.id}").'
    )
    assert len(harness.tokens_of(JANE)) == 2


async def test_a_rotate_is_repeated_once_the_token_it_made_is_gone(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    del harness.cluster.tokens[first.fields["id"]]

    again = await harness.call("rotate_access_token", {"id": old.id})

    assert not again.is_error
    assert len(harness.tokens_of(JANE)) == 2


async def test_a_rotate_whose_answer_was_lost_is_not_piled_upon(harness: Harness) -> None:
    old = add_token(harness)

    async def lose(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return httpx.Response(504) if (request.method, request.url.path) == ("POST", TOKENS_PATH) else served

    harness.recorder.on_served = lose
    lost = await harness.call_refused("rotate_access_token", {"id": old.id})
    [orphan] = [token for token in harness.tokens_of(JANE) if token != old]

    again = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert orphan.id in lost
    assert again.endswith(
        f"the new token seems to be {orphan.id}, it is enabled, expires 2027-02-22 09:00 UTC (in 90 days). Unless "
        "somebody else made it at that time, its bearer token is lost. If nothing uses it: "
        f'update_access_token(id="{orphan.id}", enabled=false), watch, delete_access_token(id="{orphan.id}"), and '
        "rotate again."
    )
    assert len(harness.tokens_of(JANE)) == 2


async def test_a_rotate_that_was_killed_is_told_as_what_may_have_made_the_other_token(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    Path(first.fields["bearer_token_in"]).unlink()
    forget_outcomes(harness.settings.state_dir)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert (
        "An attempt that was begun at 2026-11-24 09:00 UTC and never finished may have made it; then nobody has its "
        "bearer token." in refusal
    )
    assert len(harness.tokens_of(JANE)) == 2


async def test_rotate_goes_on_where_tokens_may_not_be_listed(harness: Harness) -> None:
    old = add_token(harness)
    harness.recorder.on_served = replace_answer("GET", refusal_response(403), path=TOKENS_PATH)

    answer = await harness.call("rotate_access_token", {"id": old.id})

    assert not answer.is_error


def render_delete_steps(token_id: str) -> str:
    return f'delete_access_token(id="{token_id}"), then rotate again.'


def change_while_asked(harness: Harness, *tokens: Token) -> ScriptedPerson:
    """Return a person who agrees, and before whose answer the cluster gets these tokens."""

    class Slow(ScriptedPerson):
        async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            for token in tokens:
                harness.cluster.tokens[token.id] = token
            return await super().__call__(context, params)

    return Slow([AGREES])


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        pytest.param({"enabled": False}, "disabled, expires 2027-02-22 09:00 UTC (in 90 days)", id="disabled"),
        pytest.param(
            {"expiration_time": NOW - timedelta(days=1)},
            "enabled, expired 2026-11-23 09:00 UTC (a day ago)",
            id="expired",
        ),
    ],
)
async def test_a_repeated_rotate_tells_that_the_new_token_is_dead_and_what_makes_another(
    harness: Harness, changes: dict[str, Any], state: str
) -> None:
    old = add_token(harness)
    await harness.call("rotate_access_token", {"id": old.id})
    new = find_new_token(harness, old)
    harness.cluster.tokens[new.id] = replace(new, **changes)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert refusal.endswith(
        f"The new token is {new.id}; it is {state}. It does not work like that: {render_delete_steps(new.id)}"
    )


async def test_a_repeated_rotate_tells_that_the_file_of_the_new_token_is_gone(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    Path(first.fields["bearer_token_in"]).unlink()

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert refusal.endswith(
        f"but its bearer token is no longer in {first.fields['bearer_token_in']}. Unless that was moved to where it is "
        f"used: {render_delete_steps(first.fields['id'])}"
    )


async def test_a_repeated_rotate_finds_a_file_that_moved_with_its_folder(harness: Harness, tmp_path: Path) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    folder = harness.settings.delivery_dir.rename(tmp_path / "moved")

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery_dir=folder)

    assert f"its bearer token is in {folder / Path(first.fields['bearer_token_in']).name}. What remains: " in refusal


async def test_a_repeated_rotate_tells_that_the_bearer_token_went_into_an_earlier_answer(harness: Harness) -> None:
    old = add_token(harness)
    await harness.call("rotate_access_token", {"id": old.id}, delivery="inline")

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="inline")

    assert "its bearer token is in the answer to that call, and with it the conversation and its logs." in refusal


async def test_a_repeated_rotate_tells_of_a_new_token_that_was_never_delivered(harness: Harness) -> None:
    old = new = add_token(harness)

    async def lose_the_folder(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        nonlocal new
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            new = find_new_token(harness, old)
            shutil.rmtree(harness.settings.delivery_dir)
        if request.method == "DELETE":
            harness.cluster.tokens[new.id] = new
            return refusal_response(403)
        return served

    harness.recorder.on_served = lose_the_folder
    await harness.call_refused("rotate_access_token", {"id": old.id})

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert refusal.endswith(
        f"The new token {new.id} is no good: its bearer token was not delivered, and it could not be deleted. "
        f"{render_delete_steps(new.id)}"
    )


async def test_a_rotate_that_was_killed_after_the_delivery_is_told_with_the_place(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    forget_outcomes(harness.settings.state_dir)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    new, place = first.fields["id"], first.fields["bearer_token_in"]
    assert (
        f"may have made it; its bearer token is in {place}, not proved to work yet. To go on with it: What" in refusal
    )
    assert refusal.endswith(f'delete_access_token(id="{old.id}").')
    assert f'(id="{new}"' not in refusal
    report = await harness.read_start_report(caplog)
    assert f"unless a file in {harness.settings.delivery_dir} has its id in its name" in report


@pytest.mark.parametrize("name", [".pending-0a_{}", "recovered-0a_{}.json"])
async def test_a_bearer_token_that_a_killed_server_left_is_told_with_its_place(harness: Harness, name: str) -> None:
    old = add_token(harness)
    async with harness.connected() as client:
        first = ToolAnswer.from_result(await client.call_tool("rotate_access_token", {"id": old.id}))
        forget_outcomes(harness.settings.state_dir)
        new, file = first.fields["id"], Path(first.fields["bearer_token_in"])
        file.rename(file.with_name(name.format(new)))

        # The other server was killed after this server had started.
        answer = ToolAnswer.from_result(await client.call_tool("rotate_access_token", {"id": old.id})).text

    place = file.with_name(f"recovered-0a_{new}.json")
    assert f"its bearer token is in {place}, not proved to work yet. To go on with it: " in answer
    assert place.exists()


async def test_a_file_that_does_not_tell_whose_it_is_may_have_the_bearer_token(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    file = Path(first.fields["bearer_token_in"])
    one = file.rename(file.with_name("recovered-1.json"))
    gone = await harness.call_refused("rotate_access_token", {"id": old.id})
    forget_outcomes(harness.settings.state_dir)
    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})
    one.with_name("recovered-2.json").write_bytes(one.read_bytes())
    twice = await harness.call_refused("rotate_access_token", {"id": old.id})

    left = "which a killed server left and which does not tell whose it is."
    assert f"is no longer in {file}. It may be in {one}, {left} Unless that was moved" in gone
    assert f"where its bearer token is, nothing tells for sure. It may be in {one}, {left} If nothing" in refusal
    assert f"It may be in one of the 2 files {file.with_name('recovered-*.json')}, {left}" in twice
    assert "nobody has" not in refusal + twice


async def test_a_bearer_token_that_is_nowhere_is_told_to_be_lost(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    forget_outcomes(harness.settings.state_dir)
    Path(first.fields["bearer_token_in"]).unlink()

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now." in refusal


async def test_a_bearer_token_that_a_killed_server_put_into_the_keyring_is_told_with_its_account(
    harness: Harness, fake_keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id}, delivery="keyring")
    forget_outcomes(harness.settings.state_dir)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")
    fake_keyring.secrets.clear()
    lost = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")

    assert (
        f"its bearer token is in {first.fields['bearer_token_in']}, not proved to work yet. To go on with it" in refusal
    )
    assert "then nobody has its bearer token" in lost
    report = await harness.read_start_report(caplog, delivery="keyring")
    assert "unless it is in the system's keyring" in report
    assert "account 'local:jane ID', with its id for ID" in report


async def test_a_repeated_rotate_tells_that_the_account_of_the_new_token_is_gone(
    harness: Harness, fake_keyring: FakeKeyring
) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id}, delivery="keyring")
    there = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")
    fake_keyring.secrets.clear()

    gone = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")

    assert f"its bearer token is in {first.fields['bearer_token_in']}. What remains" in there
    assert f"its bearer token is no longer in {first.fields['bearer_token_in']}. Unless" in gone


async def test_a_place_that_is_taken_while_a_person_is_asked_is_told_in_the_same_words(harness: Harness) -> None:
    old, other = add_token(harness), add_token(harness)
    del harness.cluster.tokens[other.id]

    refusal = await harness.call_without_effect(
        "rotate_access_token", {"id": old.id}, person=change_while_asked(harness, other), confirm="all"
    )

    assert refusal.startswith(
        "local:jane has 2 access tokens already, as many as a user can have, so there is no place"
    )
    assert refusal.endswith(
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, which expires 2027-01-13 09:00 UTC. {PERSON_DECIDES}"
    )
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@pytest.mark.parametrize("expiration_times", [("90d", "90d"), ("10d", "20d")], ids=["alike", "different"])
async def test_of_two_rotates_at_once_one_makes_a_token_and_the_other_tells_of_it(
    harness: Harness, expiration_times: Sequence[str]
) -> None:
    old = add_token(harness)
    answers: list[ToolAnswer] = []
    async with harness.connected() as client, anyio.create_task_group() as tasks:

        async def rotate(expiration_time: str) -> None:
            arguments = {"id": old.id, "expiration_time": expiration_time}
            answers.append(ToolAnswer.from_result(await client.call_tool("rotate_access_token", arguments)))

        for expiration_time in expiration_times:
            tasks.start_soon(rotate, expiration_time)

    [refused] = [answer for answer in answers if answer.is_error]
    assert f"2026-11-24 09:00 UTC. The new token is {find_new_token(harness, old).id}; " in refused.text
    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) == 1


async def test_a_place_that_is_taken_just_before_the_request_is_told_by_the_token_in_it(harness: Harness) -> None:
    old, other = add_token(harness), add_token(harness)
    del harness.cluster.tokens[other.id]

    async def be_faster(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) != ("POST", TOKENS_PATH):
            return served
        del harness.cluster.tokens[find_new_token(harness, old).id]
        harness.cluster.tokens[other.id] = other
        return refusal_response(409)

    harness.recorder.on_served = be_faster

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert refusal.startswith("local:jane has 2 access tokens already")
    assert refusal.endswith(
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, which expires 2027-01-13 09:00 UTC. {PERSON_DECIDES}"
    )


async def test_a_refusal_that_no_other_token_explains_is_told_as_it_is(harness: Harness) -> None:
    old = add_token(harness)

    async def refuse(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) != ("POST", TOKENS_PATH):
            return served
        del harness.cluster.tokens[find_new_token(harness, old).id]
        return refusal_response(409)

    harness.recorder.on_served = refuse

    assert (
        await harness.call_without_effect("rotate_access_token", {"id": old.id})
        == "The cluster declined (409 some_error)."
    )


async def test_a_refusal_where_tokens_may_not_be_listed_tells_how_many_there_can_be(harness: Harness) -> None:
    old = add_token(harness)
    add_token(harness)
    deny_lists(harness)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert refusal.endswith("The user's tokens cannot be listed; a user can have 2.")


async def test_a_refusal_that_cannot_be_looked_into_is_told_as_it_is(harness: Harness) -> None:
    old = add_token(harness)
    add_token(harness, enabled=False)
    is_sent = False

    async def go_blind(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        nonlocal is_sent
        if is_sent:
            return httpx.Response(500)
        is_sent = (request.method, request.url.path) == ("POST", TOKENS_PATH)
        return served

    harness.recorder.on_served = go_blind

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert refusal == "The cluster declined (400 access_token_limit_error)."


async def test_a_repeated_rotate_makes_no_third_token_where_lists_are_forbidden(harness: Harness) -> None:
    old = add_token(harness)
    deny_lists(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})

    again = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert f"was rotated before, at 2026-11-24 09:00 UTC. The new token is {first.fields['id']}" in again
    del harness.cluster.tokens[first.fields["id"]]
    assert not (await harness.call("rotate_access_token", {"id": old.id})).is_error


async def test_what_could_not_be_proved_is_not_made_for_a_rotate_nor_advised(harness: Harness) -> None:
    hide_token_ids(harness)
    old = add_token(harness, expiration_time=None)

    refusal = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")
    audit = await harness.call("audit_access_tokens")

    assert "could not be proved to work, and would be deleted again." in refusal
    assert refusal.endswith('create_access_token(user="local:jane").')
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert "never_expires: 2. A person decides" in audit.text
    assert "rotate_access_token" not in audit.text


async def test_the_id_of_the_own_token_may_be_told_as_a_number(harness: Harness) -> None:
    hide_token_ids(harness, numeric=True)

    answer = await harness.call("get_access_token", {"id": own_token(harness).id})
    rotated = await harness.call("rotate_access_token", {"id": add_token(harness).id})

    assert answer.fields["is_own"] is True
    assert not rotated.is_error


@pytest.mark.parametrize(("caller", "is_proved"), [("jane", True), ("bob", False)])
async def test_a_new_token_is_proved_by_name_where_no_number_of_its_user_is_known(
    harness: Harness, caller: str, *, is_proved: bool
) -> None:
    """The old token has only the domain and name of its user, and neither look-ups nor lists are allowed."""
    old = add_token(harness)
    own = f"Bearer {own_token(harness).bearer_token}"

    async def tell_names_only(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.url.path == "/v1/identity/find" or "user" in request.url.params:
            return refusal_response(403)
        if request.url.path == TOKENS_PATH + old.id:
            return httpx.Response(200, json=served.json() | {"user": {"domain": "LOCAL", "name": "jane"}})
        return served if request.headers["Authorization"] == own else tell_caller(served)

    def tell_caller(served: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=served.json() | {"name": caller})

    harness.recorder.on_served = tell_names_only

    answer = await harness.call("rotate_access_token", {"id": old.id}, confirm="none")

    assert answer.is_error is not is_proved
    assert ("for another user or another token" in answer.text) is not is_proved


@pytest.mark.parametrize("delivery", ["file", "inline"])
@pytest.mark.parametrize("is_stored", [False, True], ids=["variable", "store"])
async def test_handing_over_the_own_token_names_the_credentials_file_once_and_only_for_a_file(
    harness: Harness, delivery: str, *, is_stored: bool
) -> None:
    # A file among the new bearer tokens has an id in its name, so this server does not put another token into it.
    store = harness.settings.delivery_dir / "c.example.com_8000_local_admin_1.json"
    store.parent.mkdir(mode=0o700, parents=True)
    store.write_text(json.dumps({"bearer_token": own_token(harness).bearer_token, "version": 1}))
    changes: dict[str, Any] = {"bearer_token": None, "credentials_file": store} if is_stored else {}

    answer = await harness.call(
        "rotate_access_token", {"id": own_token(harness).id}, confirm="none", delivery=delivery, **changes
    )

    [_, step, *_] = answer.fields["next_step"].split(". ", 2)
    credential = f"QUMULO_CREDENTIALS_FILE ({store})" if is_stored else "QUMULO_BEARER_TOKEN"
    named = f" (or let {'it name the new one' if is_stored else 'QUMULO_CREDENTIALS_FILE name the new one instead'})"
    expected = f"replace {credential}{named if delivery == 'file' else ''} and start it again"
    assert step == f"This server runs on the old one: {expected}"


async def test_the_own_token_rotated_again_is_told_that_the_server_has_to_change_first(harness: Harness) -> None:
    own = next(iter(harness.cluster.tokens))
    await harness.call("rotate_access_token", {"id": own}, confirm="none")

    again = await harness.call_without_effect("rotate_access_token", {"id": own}, confirm="none")

    assert "1. This server runs on the old one: replace QUMULO_BEARER_TOKEN and start it again. 2. Test that." in again


async def test_an_old_token_that_has_expired_is_not_told_to_be_disabled(harness: Harness) -> None:
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW - timedelta(days=1))

    answer = await harness.call("rotate_access_token", {"id": old.id}, confirm="none")

    assert f'2. Test that. 3. Once nothing breaks, delete_access_token(id="{old.id}").' in answer.text


@pytest.mark.usefixtures("no_consent")
async def test_a_token_that_a_list_lacked_is_not_blamed_for_being_new(harness: Harness) -> None:
    jane = add_token(harness)
    inject_faults(harness, {"create": "cut-before"})
    hide_tokens_in_first_list(harness)

    refusal = await harness.call_refused("rotate_access_token", {"id": jane.id})

    assert f'delete_access_token(id="{jane.id}")' not in refusal
    assert "It could not be found out whether a token was made for local:jane" in refusal


@pytest.mark.parametrize(("longest", "written"), [(timedelta(minutes=30), "30min"), (timedelta(seconds=90), "1min")])
async def test_a_short_life_that_is_advised_is_one_that_is_taken(
    harness: Harness, longest: timedelta, written: str
) -> None:
    token = add_token(harness, expiration_time=None)

    async with harness.connected(confirm="none", max_lifetime=longest, default_lifetime=None) as client:
        calls = await find_remedies(client)
        answer = ToolAnswer.from_result(await client.call_tool(*calls[0]))

    assert calls[0] == ("rotate_access_token", {"id": token.id, "expiration_time": written})
    assert not answer.is_error


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

    refusal = await harness.call_refused("rotate_access_token", {"id": token.id})
    other = await harness.call_refused("rotate_access_token", {"id": dead.id})

    assert "there is nothing to rotate" in refusal
    assert f'update_access_token(id="{token.id}", enabled=false)' in refusal
    assert "no such thing" not in refusal
    assert "It does not work as it is." in other


async def test_a_user_whom_the_cluster_finds_is_not_told_as_gone_whatever_else_it_does_not_find(
    harness: Harness,
) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("POST", refusal_response(404), path=TOKENS_PATH)

    refusal = await harness.call_without_effect("rotate_access_token", {"id": token.id})

    assert refusal == "The cluster knows no such thing (404 some_error)."


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
    answer: list[str] = []
    async with harness.connected() as winner, harness.connected() as loser, anyio.create_task_group() as tasks:
        tasks.start_soon(winner.call_tool, "rotate_access_token", {"id": old.id})
        await is_made.wait()
        asked: list[tuple[str, dict[str, str]]] = [
            ("rotate_access_token", {"id": old.id, "expiration_time": expiration_time}),
            ("create_access_token", {"user": "local:jane"}),
            ("rotate_access_token", {"id": find_new_token(harness, old).id}),
        ]
        answer += [ToolAnswer.from_result(await loser.call_tool(*each)).text for each in asked]
        may_go_on.set()
    later = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert f"Token {old.id} is just being rotated" in answer[0]
    assert (
        f"It may have just made {find_new_token(harness, old).id}: leave that alone, and wait for its end." in answer[1]
    )
    assert [parse_calls(each) for each in answer] == [[], [], []]
    assert "What remains: " in later


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
        answer = ToolAnswer.from_result(await client.call_tool("delete_access_token", {"id": own.id})).text

    expected = {
        "another": f"holds token {new.id} by now: start the server again, it still runs on the old one.",
        "a wrong one": "holds another bearer token by now, which the cluster does not take.",
    }
    assert answer.endswith(expected.get(holds, "call rotate_access_token and let the server run on the new one."))
    assert new.bearer_token not in answer
