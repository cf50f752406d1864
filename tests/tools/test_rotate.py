"""A rotate that is repeated, meets another, or finds both places taken: it says what there is and what leads on."""

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

from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import (
    ADMIN,
    AGREES,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    refusal_response,
)
from tests.tools.test_update import add_token, lockout_refusal, own_token, replace_answer
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import Caller
from token_tools.operations.rotate import PERSON_DECIDES
from token_tools.sandbox.cluster import Token

pytestmark = pytest.mark.anyio

WHO_AM_I_PATH = "/v1/session/who-am-i"


def render_disable_steps(token_id: str) -> str:
    return (
        f'If nothing uses it: update_access_token(id="{token_id}", enabled=false), watch, '
        f'delete_access_token(id="{token_id}"), and rotate again.'
    )


def render_delete_steps(token_id: str) -> str:
    return f'delete_access_token(id="{token_id}"), then rotate again.'


def find_new_token(harness: Harness, old: Token) -> Token:
    """The one token of jane besides the old one."""
    [new] = [token for token in harness.tokens_of(JANE) if token.id != old.id]
    return new


def forget_outcomes(harness: Harness) -> None:
    """Leave of the journal what a server leaves that is killed before the outcome is written."""
    journal = harness.settings.state_dir / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines()[0] + "\n")


def deny_lists(harness: Harness) -> None:
    """A cluster that lets a user's tokens be read one by one only."""

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return refusal_response(403) if "user" in request.url.params else served

    harness.recorder.on_served = answer


def change_while_asked(harness: Harness, *tokens: Token) -> ScriptedPerson:
    """A human who agrees, and while they think, the cluster gets these tokens."""

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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert told.endswith(
        f"The new token is {new.id}; it is {state}. It does not work like that: {render_delete_steps(new.id)}"
    )


async def test_a_repeated_rotate_tells_that_the_file_of_the_new_token_is_gone(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    Path(first.fields["bearer_token_in"]).unlink()

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert told.endswith(
        f"but its bearer token is no longer in {first.fields['bearer_token_in']}. Unless that was moved to where it is "
        f"used: {render_delete_steps(first.fields['id'])}"
    )


async def test_a_repeated_rotate_finds_a_file_that_moved_with_its_folder(harness: Harness, tmp_path: Path) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    folder = harness.settings.delivery_dir.rename(tmp_path / "moved")

    told = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery_dir=folder)

    assert f"its bearer token is in {folder / Path(first.fields['bearer_token_in']).name}. What remains: " in told


async def test_a_repeated_rotate_tells_that_the_bearer_token_went_into_an_earlier_answer(harness: Harness) -> None:
    old = add_token(harness)
    await harness.call("rotate_access_token", {"id": old.id}, delivery="inline")

    told = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="inline")

    assert "its bearer token is in the answer to that call, and with it the conversation and its logs." in told


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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert told.endswith(
        f"The new token {new.id} is no good: its bearer token is lost, and it could not be deleted. "
        f"{render_delete_steps(new.id)}"
    )


async def test_a_rotate_that_was_killed_after_the_delivery_is_told_with_the_place(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    forget_outcomes(harness)

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    new, place = first.fields["id"], first.fields["bearer_token_in"]
    assert f"may have made it; its bearer token is in {place}, not proved to work yet. To go on with it: What" in told
    assert told.endswith(f'delete_access_token(id="{old.id}").')
    assert f'(id="{new}"' not in told
    assert f"unless a file in {harness.settings.delivery_dir} has its id in its name" in caplog.text


async def test_a_create_that_was_killed_after_the_delivery_is_told_with_the_place(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("create_access_token", {"user": "local:jane"})
    forget_outcomes(harness)

    told = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="file")

    assert told.endswith(
        f"its bearer token is in {first.fields['bearer_token_in']}, not proved to work yet. "
        f"{render_disable_steps(first.fields['id'])}"
    )


@pytest.mark.parametrize("name", [".pending-0a_{}", "recovered-0a_{}.json"])
async def test_a_bearer_token_that_a_killed_server_left_is_told_with_its_place(harness: Harness, name: str) -> None:
    old = add_token(harness)
    async with harness.connected() as client:
        first = ToolAnswer.from_result(await client.call_tool("rotate_access_token", {"id": old.id}))
        forget_outcomes(harness)
        new, file = first.fields["id"], Path(first.fields["bearer_token_in"])
        file.rename(file.with_name(name.format(new)))

        # Even one that was killed after this server had started.
        told = ToolAnswer.from_result(await client.call_tool("rotate_access_token", {"id": old.id})).text

    place = file.with_name(f"recovered-0a_{new}.json")
    assert f"its bearer token is in {place}, not proved to work yet. To go on with it: " in told
    assert place.exists()


async def test_a_file_that_does_not_tell_whose_it_is_may_have_the_bearer_token(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    file = Path(first.fields["bearer_token_in"])
    one = file.rename(file.with_name("recovered-1.json"))
    gone = await harness.call_refused("rotate_access_token", {"id": old.id})
    forget_outcomes(harness)
    told = await harness.call_refused("rotate_access_token", {"id": old.id})
    one.with_name("recovered-2.json").write_bytes(one.read_bytes())
    twice = await harness.call_refused("rotate_access_token", {"id": old.id})

    left = "which a killed server left and which does not tell whose it is."
    assert f"is no longer in {file}. It may be in {one}, {left} Unless that was moved" in gone
    assert f"where its bearer token is, nothing tells for sure. It may be in {one}, {left} If nothing" in told
    assert f"It may be in one of the 2 files {file.with_name('recovered-*.json')}, {left}" in twice
    assert "nobody has" not in told + twice


async def test_a_bearer_token_that_is_nowhere_is_told_to_be_lost(harness: Harness) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})
    forget_outcomes(harness)
    Path(first.fields["bearer_token_in"]).unlink()

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now." in told


async def test_a_bearer_token_that_a_killed_server_put_into_the_keyring_is_told_with_its_account(
    harness: Harness, fake_keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    old = add_token(harness)
    first = await harness.call("rotate_access_token", {"id": old.id}, delivery="keyring")
    forget_outcomes(harness)

    told = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")
    fake_keyring.secrets.clear()
    lost = await harness.call_refused("rotate_access_token", {"id": old.id}, delivery="keyring")

    assert f"its bearer token is in {first.fields['bearer_token_in']}, not proved to work yet. To go on with it" in told
    assert "then nobody has its bearer token" in lost
    assert "unless it is in the system's keyring" in caplog.text
    assert "account 'local:jane ID', with its id for ID" in caplog.text


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


async def test_a_start_without_files_says_nothing_of_them(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await harness.call("rotate_access_token", {"id": add_token(harness).id}, delivery="inline")
    forget_outcomes(harness)

    await harness.call("list_access_tokens", delivery="inline")

    assert caplog.text.rstrip().endswith("a token whose bearer token nobody has may be among theirs")


@pytest.mark.parametrize(
    ("tool", "arguments", "deed"),
    [
        ("update_access_token", {"enabled": False}, "disable it or shorten its life"),
        ("delete_access_token", {}, "delete it"),
    ],
    ids=["update", "delete"],
)
async def test_a_server_that_got_the_token_as_its_own_while_a_human_was_asked_does_not_cut_it_off(
    harness: Harness, tool: str, arguments: dict[str, Any], deed: str, tmp_path: Path
) -> None:
    token, own = add_token(harness), own_token(harness)
    store = tmp_path / "credentials"
    store.write_text(json.dumps({"bearer_token": own.bearer_token, "version": 1}))
    harness.cluster.add_account(
        replace(harness.cluster.accounts["1001"], privileges=harness.cluster.accounts["500"].privileges)
    )

    class Renewing(ScriptedPerson):
        async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            store.write_text(json.dumps({"bearer_token": token.bearer_token, "version": 1}))
            harness.cluster.tokens[own.id] = replace(own, enabled=False)
            return await super().__call__(context, params)

    told = await harness.call_without_effect(
        tool,
        {"id": token.id, **arguments},
        person=Renewing([AGREES]),
        bearer_token=None,
        credentials_file=store,
    )

    assert told == lockout_refusal(token, deed)
    assert harness.cluster.tokens[token.id] == token


async def test_a_change_that_gives_more_is_no_lockout_after_a_question(harness: Harness) -> None:
    own = own_token(harness)
    harness.cluster.tokens[own.id] = replace(own, expiration_time=NOW + timedelta(days=1))

    told = await harness.call(
        "update_access_token", {"id": own.id, "expiration_time": "90d"}, person=ScriptedPerson([AGREES])
    )

    assert not told.is_error


async def test_a_place_that_is_taken_while_a_human_is_asked_is_told_in_the_same_words(harness: Harness) -> None:
    old, other = add_token(harness), add_token(harness)
    del harness.cluster.tokens[other.id]

    told = await harness.call_without_effect(
        "rotate_access_token", {"id": old.id}, person=change_while_asked(harness, other), confirm="all"
    )

    assert told.startswith("local:jane has 2 access tokens already, as many as a user can have, so there is no place")
    assert told.endswith(
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

    [refused] = [told for told in answers if told.is_error]
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

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert told.startswith("local:jane has 2 access tokens already")
    assert told.endswith(
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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert told.endswith("The user's tokens cannot be listed; a user can have 2.")


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

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert told == "The cluster declined (400 access_token_limit_error)."


async def test_a_repeated_rotate_makes_no_third_token_where_lists_are_forbidden(harness: Harness) -> None:
    old = add_token(harness)
    deny_lists(harness)
    first = await harness.call("rotate_access_token", {"id": old.id})

    again = await harness.call_without_effect("rotate_access_token", {"id": old.id})

    assert f"was rotated before, at 2026-11-24 09:00 UTC. The new token is {first.fields['id']}" in again
    del harness.cluster.tokens[first.fields["id"]]
    assert not (await harness.call("rotate_access_token", {"id": old.id})).is_error


def hide_token_ids(harness: Harness, *, numeric: bool = False) -> None:
    """A cluster whose who-am-i does not tell a token's id, or tells it as a number."""

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.url.path != WHO_AM_I_PATH:
            return served
        told = served.json()
        token_id = told.pop("access_token_id")
        return httpx.Response(200, json=told | ({"access_token_id": int(token_id)} if numeric else {}))

    harness.recorder.on_served = answer


async def test_get_does_not_know_its_own_token_where_the_cluster_does_not_tell_it(harness: Harness) -> None:
    hide_token_ids(harness)

    told = await harness.call("get_access_token", {"id": own_token(harness).id})

    assert "is_own" not in told.fields
    assert "This server runs on it" not in told.text
    assert told.fields["warning"] == (
        "Whether this server runs on it is not known: the cluster does not tell which access token the server's "
        "credential is."
    )


@pytest.mark.parametrize(
    ("tool", "change"),
    [("delete_access_token", {}), ("update_access_token", {"enabled": False})],
    ids=["delete", "disable"],
)
async def test_what_may_be_the_own_token_is_left_as_it_is(harness: Harness, tool: str, change: dict[str, Any]) -> None:
    hide_token_ids(harness)
    own, other = own_token(harness), add_token(harness)

    told = await harness.call_refused(tool, {"id": own.id, **change}, confirm="none")

    assert "and the cluster does not tell which, so it will not" in told
    assert harness.cluster.tokens[own.id] == own
    assert not (await harness.call(tool, {"id": other.id, **change}, confirm="none")).is_error


async def test_a_disabled_or_expired_token_is_not_taken_for_the_own_token(harness: Harness) -> None:
    hide_token_ids(harness)
    specials: list[dict[str, Any]] = [{"enabled": False}, {"expiration_time": NOW - timedelta(days=2)}]
    for special in specials:
        dead = add_token(harness, ADMIN, **special)

        told = await harness.call("delete_access_token", {"id": dead.id}, confirm="none")

        assert not told.is_error
        assert dead.id not in harness.cluster.tokens


async def test_what_could_not_be_proved_is_not_made_for_a_rotate_nor_advised(harness: Harness) -> None:
    hide_token_ids(harness)
    old = add_token(harness, expiration_time=None)

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")
    audit = await harness.call("audit_access_tokens")

    assert "could not be proved to work, and would be deleted again." in told
    assert told.endswith('create_access_token(user="local:jane").')
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert "never_expires: 2. A person decides" in audit.text
    assert "rotate_access_token" not in audit.text


async def test_the_id_of_the_own_token_may_be_told_as_a_number(harness: Harness) -> None:
    hide_token_ids(harness, numeric=True)

    told = await harness.call("get_access_token", {"id": own_token(harness).id})
    rotated = await harness.call("rotate_access_token", {"id": add_token(harness).id})

    assert told.fields["is_own"] is True
    assert not rotated.is_error


def test_a_login_is_no_token_whatever_the_cluster_says() -> None:
    assert not Caller.model_validate({"id": "500", "is_token": True}).is_unidentified_token


@pytest.mark.parametrize(
    ("user", "is_theirs"),
    [
        pytest.param(Identity(auth_id="1001", name="somebody"), True, id="same-key"),
        pytest.param(Identity(auth_id="1002", name="jane"), False, id="other-key"),
        pytest.param(Identity(sid="S-1-5-21-9", name="jane"), False, id="other-sid"),
        pytest.param(Identity(uid=7, name="bob"), True, id="same-uid"),
        pytest.param(Identity(domain="LOCAL", name="Jane"), True, id="same-name"),
        pytest.param(Identity(domain="ACTIVE_DIRECTORY", name="jane@corp.example.com"), True, id="other-spelling"),
        pytest.param(Identity(domain="LOCAL", name="bob"), False, id="other-name"),
        pytest.param(Identity(gid=5), False, id="nothing-to-compare"),
    ],
)
def test_a_caller_is_a_user_by_the_first_common_number_or_by_name(user: Identity, *, is_theirs: bool) -> None:
    told = {"id": "1001", "name": "CORP\\jane", "sid": "S-1-5-21-1", "uid": "7"}

    assert Caller.model_validate(told).is_user(user) is is_theirs


@pytest.mark.parametrize(("caller", "is_proved"), [("jane", True), ("bob", False)])
async def test_a_new_token_is_proved_by_name_where_no_number_of_its_user_is_known(
    harness: Harness, caller: str, *, is_proved: bool
) -> None:
    """The token tells no more than a domain and a name, and neither look-ups nor lists are allowed."""
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

    told = await harness.call("rotate_access_token", {"id": old.id}, confirm="none")

    assert told.is_error is not is_proved
    assert ("for another user or another token" in told.text) is not is_proved


@pytest.mark.parametrize("delivery", ["file", "inline"])
@pytest.mark.parametrize("is_stored", [False, True], ids=["variable", "store"])
async def test_handing_over_the_own_token_names_the_credentials_file_once_and_only_for_a_file(
    harness: Harness, tmp_path: Path, delivery: str, *, is_stored: bool
) -> None:
    store = tmp_path / "credentials"
    store.write_text(json.dumps({"bearer_token": own_token(harness).bearer_token, "version": 1}))
    changes: dict[str, Any] = {"bearer_token": None, "credentials_file": store} if is_stored else {}

    told = await harness.call(
        "rotate_access_token", {"id": own_token(harness).id}, confirm="none", delivery=delivery, **changes
    )

    [_, step, *_] = told.fields["next_step"].split(". ", 2)
    credential = f"QUMULO_CREDENTIALS_FILE ({store})" if is_stored else "QUMULO_BEARER_TOKEN"
    named = f" (or let {'it' if is_stored else 'QUMULO_CREDENTIALS_FILE'} name the new file)"
    expected = f"replace {credential}{named if delivery == 'file' else ''} and start it again"
    assert step == f"This server runs on the old one: {expected}"


async def test_a_token_that_vanishes_before_it_is_changed_is_named_with_what_leads_on(harness: Harness) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("PATCH", TOKENS_PATH + token.id, refusal_response(404))

    told = await harness.call_without_effect("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    assert told.startswith(f"There is no access token {token.id}. ")
    assert told.endswith("list_access_tokens tells the ids.")


async def test_what_neither_a_form_nor_qq_can_do_is_told_in_a_sentence(harness: Harness) -> None:
    told = await harness.call_without_effect(
        "update_access_token", {"id": add_token(harness).id, "expiration_time": "never"}
    )

    assert told.endswith("qq cannot clear an expiry, so it takes a client that shows a person this server's questions.")


async def test_the_own_token_rotated_again_is_told_that_the_server_has_to_change_first(harness: Harness) -> None:
    own = next(iter(harness.cluster.tokens))
    await harness.call("rotate_access_token", {"id": own}, confirm="none")

    again = await harness.call_without_effect("rotate_access_token", {"id": own}, confirm="none")

    assert "1. This server runs on the old one: replace QUMULO_BEARER_TOKEN and start it again. 2. Test that." in again


async def test_an_old_token_that_has_expired_is_not_told_to_be_disabled(harness: Harness) -> None:
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW - timedelta(days=1))

    told = await harness.call("rotate_access_token", {"id": old.id}, confirm="none")

    assert f'2. Test that. 3. Once nothing breaks, delete_access_token(id="{old.id}").' in told.text
