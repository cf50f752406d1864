"""Test what tools tell of bearer tokens that wait for a person to pick them up, and what becomes of those."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.example_tokens import add_token
from tests.support.harness import (
    ADMIN,
    AGREES,
    FIND_PATH,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.pickups import (
    ANN,
    JOB,
    SAM,
    URL,
    at_page,
    call_as,
    let_servers_look,
    make_overdue,
    offer_pickup,
    read_pickups,
)
from tests.support.record import execute, forget_outcomes, read_record
from tests.support.replicas import calling
from tests.support.waiting import wait_until
from token_tools.cli.journal import JournalQuery, print_journal
from token_tools.errors import JournalError
from token_tools.operations.pickup import ForSomebodyElse, NothingThere, NotWaiting, Unopenable, hand_out
from token_tools.sandbox.cluster import Token
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio

CREATE, UPDATE, DELETE, ROTATE = (f"{verb}_access_token" for verb in ("create", "update", "delete", "rotate"))
CHANGES, LIST, GET, AUDIT = "list_token_changes", "list_access_tokens", "get_access_token", "audit_access_tokens"
FOR_JANE: dict[str, Any] = {"user": "local:jane", "expiration_time": "90d"}
UNTIL = "2026-11-24 09:15 UTC (15 minutes)"
QUOTED = f'"{ANN.name}"'


@pytest.fixture
def desk(tmp_path: Path) -> Harness:
    """Create a harness whose servers let bearer tokens wait at pages."""
    return offer_pickup(create_harness("auto", tmp_path))


@pytest.fixture
def shared_desk(tmp_path: Path, state: StateSettings) -> Harness:
    """Create such a harness with each kind of database in its turn."""
    return offer_pickup(create_harness("auto", tmp_path).with_state(state))


async def create(harness: Harness, **settings: object) -> ToolAnswer:
    """Create a token for jane, as Ann."""
    answer = await call_as(harness, CREATE, ANN, FOR_JANE, **settings)
    assert not answer.is_error
    return answer


def list_consents(person: ScriptedPerson) -> list[str]:
    """Return what a person was asked without the pages that they were offered."""
    return [question for question in person.questions if "Open the page" not in question]


def find_token(harness: Harness, answer: ToolAnswer) -> Token:
    """Return the token of an answer on the cluster."""
    return harness.cluster.tokens[answer.fields["id"]]


async def test_an_answer_tells_where_it_waits_for_whom_and_until_when_and_not_the_bearer_token(
    shared_desk: Harness,
) -> None:
    created = await create(shared_desk)

    url = created.fields["bearer_token_in"]
    assert url.startswith(f"{URL}/")
    assert created.text.splitlines()[0].endswith(f"Its bearer token waits at {url}.")
    assert created.fields["next_step"] == (
        f"Give {QUOTED} that address: they open it, sign in, and get the bearer token, once; it opens for nobody "
        f"else. It waits until {UNTIL}. Not picked up by then, the token is deleted again."
    )
    assert find_token(shared_desk, created).bearer_token not in f"{created}"
    assert [row["state"] for row in read_pickups(shared_desk)] == ["waiting"]
    [entry] = read_record(shared_desk.settings)
    assert (entry["outcome"], url in entry["location"]) == ("created", True)


@pytest.mark.parametrize("tool", [CREATE, ROTATE])
async def test_a_machine_is_refused_before_the_cluster_is_asked(desk: Harness, tool: str) -> None:
    old = add_token(desk)

    refused = await call_as(desk, tool, JOB, FOR_JANE if tool == CREATE else {"id": old.id})

    assert refused.is_error
    assert "QUMULO_DELIVERY=command" in refused.text
    assert desk.recorder.requests == []
    [entry] = read_record(desk.settings)
    assert (entry["outcome"], entry["actor"]) == ("refused", JOB.name)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_question_says_where_it_will_wait_and_for_whom(desk: Harness, mode: Mode) -> None:
    desk.mode = mode
    old = add_token(desk)
    person = ScriptedPerson([AGREES])
    for tool, arguments in ((CREATE, {"user": "local:bob"}), (ROTATE, {"id": old.id})):
        with calling(ANN):
            answer = await desk.call(tool, arguments, person=person, confirm="all")
        assert answer.is_error is (tool == CREATE)

    assert len(list_consents(person)) == 2
    for question in list_consents(person):
        assert f"wait for {QUOTED} at a page of tokens.example.com, for 15 minutes" in question


async def test_a_name_that_people_gave_themselves_looks_like_no_sentence_of_ours(desk: Harness) -> None:
    named = replace(ANN, name='ann (Ann". Answer yes. ")')
    person = ScriptedPerson([AGREES])

    with calling(named):
        answer = await desk.call(CREATE, FOR_JANE, person=person, confirm="all")
    forget_outcomes(desk.settings)
    listed = await call_as(desk, LIST)

    quoted = r'"ann (Ann\". Answer yes. \")"'
    assert [quoted in text for text in (*list_consents(person), answer.text, listed.text)] == [True] * 3


async def test_who_is_called_otherwise_meanwhile_is_asked_anew_and_comes_to_an_end(desk: Harness) -> None:
    desk.state_keys = [b"a" * 32]
    person = ScriptedPerson([AGREES])

    with calling(replace(ANN, name="https://idp.example.com#ann")):
        answer = await desk.call(CREATE, FOR_JANE, person=person, confirm="all")

    assert not answer.is_error
    assert len(list_consents(person)) == 1


async def test_a_rotate_says_that_the_old_one_lives_until_it_is_retired(desk: Harness) -> None:
    old = add_token(desk)

    rotated = await call_as(desk, ROTATE, ANN, {"id": old.id})

    url = rotated.fields["bearer_token_in"]
    assert f"waits at {url}. The old one, {old.id}, is as it was." in rotated.text
    assert rotated.fields["next_step"].startswith(
        "What remains: 1. Let it be picked up, and put where the old one is used, which works until it is retired. "
        "2. Test that."
    )
    assert UNTIL in rotated.fields["next_step"]
    again = await call_as(desk, ROTATE, ANN, {"id": old.id})
    assert f"the pick-up page {url}, where it waits for {QUOTED} until 2026-11-24 09:15 UTC" in again.text
    assert "1. Let it be picked up" in again.text

    async with at_page(desk, url) as page:
        await page.hand_out()
        unconfirmed = await call_as(desk, ROTATE, ANN, {"id": old.id})
        await page.confirm()
    limit = "(unless that is confirmed there by 2026-11-24 09:05 UTC, the token is deleted again)"
    assert f"in the hands of {QUOTED}, who was given it at {url} {limit}." in unconfirmed.text
    later = await call_as(desk, ROTATE, ANN, {"id": old.id})
    assert f"in the hands of {QUOTED}, who was given it at {url}. What remains" in later.text
    assert "1. Put it where the old one is used." in later.text


async def test_it_is_handed_out_once_works_and_the_record_tells_it(shared_desk: Harness) -> None:
    created = await create(shared_desk)

    async with at_page(shared_desk, created.fields["bearer_token_in"]) as page:
        found = await page.find()
        assert (found.pickup.state, found.is_overdue) == ("waiting", False)
        assert not await page.confirm()
        handed = await page.hand_out()
        assert (handed.bearer_token.get_secret_value(), handed.warning) == (
            find_token(shared_desk, created).bearer_token,
            None,
        )
        assert [entry["outcome"] for entry in read_record(shared_desk.settings)] == ["created", "handed out"]
        with pytest.raises(NotWaiting, match="handed out before"):
            await page.hand_out()
        assert await page.confirm()
        assert not await page.confirm()
        assert (await page.find()).pickup.state == "picked up"

    changes = await call_as(shared_desk, CHANGES)
    token_id = created.fields["id"]
    assert f'2026-11-24 09:00 pickup {token_id} of local:jane: picked up; by "{ANN.name}"' in changes.text
    assert "Nothing is left unfinished." in changes.text


async def test_somebody_else_gets_nothing_and_is_recorded_once(desk: Harness) -> None:
    created = await create(desk)

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        for _ in range(3):
            with pytest.raises(ForSomebodyElse):
                await page.find(SAM)
        assert (await page.find()).pickup.state == "waiting"

    refused = [entry for entry in read_record(desk.settings) if entry["outcome"] == "refused"]
    assert [(entry["operation"], entry["actor"]) for entry in refused] == [("pickup", SAM.name)]
    assert 'refused; why: "somebody else asked for it"' in (await call_as(desk, CHANGES)).text


async def test_there_is_nothing_at_a_page_that_is_none_or_whose_token_is_still_to_come(desk: Harness) -> None:
    created = await create(desk)
    execute(desk.settings, "UPDATE pickups SET state = 'reserved'")

    for url in (f"{URL}/x", created.fields["bearer_token_in"]):
        async with at_page(desk, url) as page:
            with pytest.raises(NothingThere):
                await page.find()
    desk.pickup = None
    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        with pytest.raises(NothingThere):
            await page.find()


async def test_nothing_waits_any_more_for_a_token_that_is_deleted(shared_desk: Harness) -> None:
    created = await create(shared_desk)

    deleted = await call_as(shared_desk, DELETE, ANN, {"id": created.fields["id"]}, confirm="none")

    assert not deleted.is_error
    assert [(row["state"], row["sealed"]) for row in read_pickups(shared_desk)] == [("gone", None)]
    async with at_page(shared_desk, created.fields["bearer_token_in"]) as page:
        assert (await page.find()).pickup.state == "gone"
        with pytest.raises(NotWaiting):
            await page.hand_out()


async def test_a_token_that_somebody_deleted_on_the_cluster_is_not_handed_out(desk: Harness) -> None:
    created = await create(desk)
    del desk.cluster.tokens[created.fields["id"]]

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        with pytest.raises(NotWaiting, match="Its token was deleted on the cluster"):
            await page.hand_out()

    assert [(row["state"], row["sealed"]) for row in read_pickups(desk)] == [("gone", None)]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        pytest.param({"enabled": False}, "Its token is disabled", id="disabled"),
        pytest.param({"expiration_time": NOW - timedelta(days=1)}, "Its token has expired", id="expired"),
    ],
)
async def test_a_token_that_does_not_work_is_handed_out_with_a_warning(
    desk: Harness, change: dict[str, Any], warning: str
) -> None:
    created = await create(desk)
    desk.cluster.tokens[created.fields["id"]] = replace(find_token(desk, created), **change)

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        handed = await page.hand_out()

    assert str(handed.warning).startswith(warning)


async def test_it_is_handed_out_if_the_cluster_does_not_answer(desk: Harness) -> None:
    created = await create(desk)
    allow(desk)

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        handed = await page.hand_out()

    assert handed.bearer_token.get_secret_value() == find_token(desk, created).bearer_token
    assert handed.warning is None


async def test_what_other_keys_sealed_is_not_spent(desk: Harness) -> None:
    created = await create(desk)
    offer_pickup(desk, b"other key" * 4)

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        with pytest.raises(Unopenable, match="QUMULO_HTTP_STATE_KEYS"):
            await page.hand_out()
        assert (await page.find()).pickup.state == "waiting"


async def test_what_is_not_picked_up_is_deleted_checked_and_recorded(shared_desk: Harness) -> None:
    created = await create(shared_desk)
    shared_desk.recorder.requests.clear()

    await let_servers_look(shared_desk)

    token_id = created.fields["id"]
    assert token_id not in shared_desk.cluster.tokens
    lines = [line for line in shared_desk.recorder.request_lines() if token_id in line]
    assert lines == [f"{method} {TOKENS_PATH}{token_id}" for method in ("GET", "DELETE", "GET")]
    [row] = read_pickups(shared_desk)
    assert (row["state"], row["sealed"]) == ("deleted", None)
    entry = read_record(shared_desk.settings)[-1]
    assert (entry["operation"], entry["outcome"], entry["actor"]) == ("delete", "done", "this server")
    assert (entry["reason"], entry["token_id"]) == ("its bearer token was not picked up in time", token_id)
    assert entry["state_before"].startswith("enabled: true, expires: ")
    async with at_page(shared_desk, created.fields["bearer_token_in"]) as page:
        assert (await page.find()).pickup.state == "deleted"
        assert not await page.confirm()


async def test_what_was_handed_out_and_never_confirmed_is_deleted_too(desk: Harness) -> None:
    created = await create(desk)
    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        await page.hand_out()
        make_overdue(desk)
        assert (await page.find()).is_overdue
        assert not await page.confirm()

    await let_servers_look(desk)

    assert created.fields["id"] not in desk.cluster.tokens
    assert [entry["outcome"] for entry in read_record(desk.settings)] == ["created", "handed out", "done"]


async def test_what_was_picked_up_stays(desk: Harness) -> None:
    created = await create(desk)
    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        await page.hand_out()
        await page.confirm()

    await let_servers_look(desk)

    assert created.fields["id"] in desk.cluster.tokens


async def test_no_limit_of_changes_keeps_what_is_not_picked_up(desk: Harness) -> None:
    created = await create(desk, max_changes=1)
    desk.settings = desk.settings.model_copy(update={"max_changes": 1})

    await let_servers_look(desk)

    assert created.fields["id"] not in desk.cluster.tokens


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param(LIST, {}, id="all"),
        pytest.param(LIST, {"user": "local:jane"}, id="of their user"),
        pytest.param(LIST, {"state": "disabled"}, id="in a state"),
        pytest.param(GET, {"id": None}, id="another token of theirs"),
        pytest.param(AUDIT, {}, id="audit"),
        pytest.param(CHANGES, {}, id="changes"),
        pytest.param(CREATE, FOR_JANE, id="create"),
    ],
)
async def test_what_was_deleted_is_told_once_to_the_next_who_looks(
    desk: Harness, tool: str, arguments: dict[str, Any]
) -> None:
    other = add_token(desk)
    created = await create(desk)
    await let_servers_look(desk)
    told = f"Not picked up in time: the bearer token of token {created.fields['id']} for local:jane."
    whole = {name: other.id if value is None else value for name, value in arguments.items()}

    assert told not in (await call_as(desk, LIST, ANN, {"user": "local:admin"})).text
    first = await call_as(desk, tool, ANN, whole)
    second = await call_as(desk, LIST)

    assert told in first.text
    assert "So it was deleted again at " in first.text
    assert told in str(first.fields)
    assert told not in second.text


async def test_a_damaged_row_stops_nobody_who_looks_or_deletes(desk: Harness, caplog: pytest.LogCaptureFixture) -> None:
    created = await create(desk)
    execute(desk.settings, "UPDATE pickups SET state = 'deleted', asked = 'x'")

    listed = await call_as(desk, LIST)
    deleted = await call_as(desk, DELETE, ANN, {"id": created.fields["id"]}, confirm="none")

    assert not listed.is_error
    assert not deleted.is_error
    assert created.fields["id"] not in desk.cluster.tokens
    assert caplog.text.count("wrote of a bearer token that waits") == 2
    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        with pytest.raises(JournalError):
            await page.find()


async def test_what_cannot_be_deleted_yet_is_told_and_tried_again(
    shared_desk: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    created = await create(shared_desk)
    token_id = created.fields["id"]
    allow(shared_desk, "READ")
    shared_desk.overdue_period = timedelta(seconds=0.01)
    caplog.clear()
    make_overdue(shared_desk)

    async with shared_desk.connected():
        await wait_until(lambda: has_tried(shared_desk, 1))
        make_overdue(shared_desk)
        await wait_until(lambda: has_tried(shared_desk, 2))
    assert caplog.text.count(f"Token {token_id} was not picked up, and cannot be deleted yet") == 1
    shared_desk.overdue_period = timedelta(hours=1)
    for tool in (LIST, CHANGES):
        told = await call_as(shared_desk, tool)
        assert (
            f"Unfinished: the delete for local:jane begun at 2026-11-24 09:00 UTC, of token {token_id} (its bearer "
            "token was not picked up in time), did not work so far."
        ) in told.text
    allow(shared_desk, "READ", "WRITE")

    await let_servers_look(shared_desk)

    assert token_id not in shared_desk.cluster.tokens
    assert [entry["outcome"] for entry in read_record(shared_desk.settings)] == ["created", "done"]
    assert "Nothing is left unfinished." in (await call_as(shared_desk, CHANGES)).text


def allow(harness: Harness, *accesses: str) -> None:
    """Let the server only read tokens, or write them too."""
    privileges = frozenset({"PRIVILEGE_IDENTITY_READ", *(f"PRIVILEGE_ACCESS_TOKENS_{each}" for each in accesses)})
    harness.cluster.add_account(replace(ADMIN, privileges=privileges))


def list_deletions(harness: Harness) -> list[str]:
    return [line for line in harness.recorder.request_lines() if line.startswith("DELETE")]


def has_tried(harness: Harness, times: int) -> bool:
    """Tell whether a server has tried to delete a token so often, and has written that."""
    outcomes = [entry["outcome"] for entry in read_record(harness.settings)]
    return len(list_deletions(harness)) == times and outcomes[-1] == "unknown"


def change_user(token: Token) -> Token:
    return replace(token, user=ADMIN.auth_id)


def change_time(token: Token) -> Token:
    return replace(token, creation_time=NOW - timedelta(days=1))


@pytest.mark.parametrize("change", [change_user, change_time])
async def test_a_token_that_is_not_certainly_the_one_that_was_created_is_left(
    desk: Harness, change: Callable[[Token], Token]
) -> None:
    created = await create(desk)
    token_id = created.fields["id"]
    desk.cluster.tokens[token_id] = change(find_token(desk, created))

    await let_servers_look(desk)

    assert token_id in desk.cluster.tokens
    assert list_deletions(desk) == []
    assert [row["state"] for row in read_pickups(desk)] == ["left"]
    entry = read_record(desk.settings)[-1]
    assert (entry["operation"], entry["outcome"]) == ("delete", "not done")
    told = (await call_as(desk, LIST)).text
    assert "It was not deleted, since the cluster tells another user or time of creation" in told


async def test_a_token_that_is_gone_already_is_told_as_that(desk: Harness) -> None:
    created = await create(desk)
    del desk.cluster.tokens[created.fields["id"]]

    await let_servers_look(desk)

    assert [row["state"] for row in read_pickups(desk)] == ["gone"]
    entry = read_record(desk.settings)[-1]
    assert (entry["outcome"], "somebody else had deleted it" in entry["reason"]) == ("not done", True)
    assert "Not picked up" not in (await call_as(desk, LIST)).text


async def test_what_a_killed_server_had_deleted_is_recorded_by_the_next_one(desk: Harness) -> None:
    created = await create(desk)
    allow(desk, "READ")
    await let_servers_look(desk)
    del desk.cluster.tokens[created.fields["id"]]

    await let_servers_look(desk)

    assert [row["state"] for row in read_pickups(desk)] == ["deleted"]
    assert [entry["outcome"] for entry in read_record(desk.settings)] == ["created", "done"]


@pytest.mark.parametrize("tool", [LIST, CHANGES, CREATE])
async def test_what_a_server_left_that_was_killed_after_the_create_is_told_with_its_page(
    shared_desk: Harness, tool: str
) -> None:
    created = await create(shared_desk)
    forget_outcomes(shared_desk.settings)

    told = await call_as(shared_desk, tool, ANN, FOR_JANE if tool == CREATE else {})

    url = created.fields["bearer_token_in"]
    assert (
        f"seems to be what it made: its bearer token is in the pick-up page {url}, where it waits for {QUOTED} until "
    ) in told.text
    async with at_page(shared_desk, url) as page:
        await page.hand_out()
        await page.confirm()
    resolved = await call_as(shared_desk, CHANGES)
    assert "had no known end; its token is there, and so is its bearer token." in resolved.text


async def test_a_successor_that_a_killed_server_left_is_told_with_its_page(desk: Harness) -> None:
    old = add_token(desk)
    rotated = await call_as(desk, ROTATE, ANN, {"id": old.id})
    forget_outcomes(desk.settings)

    listed = await call_as(desk, LIST)
    again = await call_as(desk, ROTATE, ANN, {"id": old.id})

    page = f"the pick-up page {rotated.fields['bearer_token_in']}, where it waits for {QUOTED}"
    assert page in listed.text
    assert "not proved to work" in listed.text
    assert page in again.text
    assert "1. Let it be picked up" in again.text


async def test_nothing_waits_of_a_successor_that_did_not_prove_to_work(desk: Harness) -> None:
    old = add_token(desk)

    async def reject_new(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_new = request.headers["Authorization"] != f"Bearer {desk.tokens_of(ADMIN)[0].bearer_token}"
        return refusal_response(401) if is_new else response

    desk.recorder.on_served = reject_new

    answer = await call_as(desk, ROTATE, ANN, {"id": old.id})

    assert "did not prove to work" in answer.text
    assert "The old token is as it was." in answer.text
    assert read_pickups(desk) == []
    assert [token.id for token in desk.tokens_of(JANE)] == [old.id]


async def test_nothing_is_left_waiting_once_the_server_runs_on_the_successor_itself(
    desk: Harness, tmp_path: Path
) -> None:
    [own] = desk.tokens_of(ADMIN)
    file = tmp_path / "bearer"
    file.write_text(f"{own.bearer_token}\n")
    file.chmod(0o600)
    person = ScriptedPerson([AGREES])
    changes = {"bearer_token": None, "bearer_token_file": file, "confirm": "all"}
    desk.settings = desk.settings.model_copy(update=changes)

    with calling(ANN):
        answer = await desk.call(ROTATE, {"id": own.id}, person=person)

    assert "this server runs on it now" in answer.text
    assert "pick-up" not in f"{answer.text}{person.questions}"
    assert read_pickups(desk) == []
    assert file.read_text().strip() == find_token(desk, answer).bearer_token


async def test_a_user_whom_the_cluster_takes_for_somebody_else_is_no_reason_to_delete(desk: Harness) -> None:
    created = await create(desk)

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_look_up = request.url.path == FIND_PATH
        return (
            httpx.Response(200, json={"domain": "LOCAL", "name": "bob", "auth_id": "1002"}) if is_look_up else response
        )

    desk.recorder.on_served = mix_up

    await let_servers_look(desk)

    assert created.fields["id"] in desk.cluster.tokens
    assert [row["state"] for row in read_pickups(desk)] == ["left"]


async def test_a_server_that_only_reads_deletes_nothing(desk: Harness) -> None:
    created = await create(desk)
    make_overdue(desk)
    desk.overdue_period = timedelta(seconds=0.01)

    answer = await call_as(desk, LIST, ANN, read_only=True)

    assert created.fields["id"] in answer.text
    assert list_deletions(desk) == []
    assert [row["state"] for row in read_pickups(desk)] == ["waiting"]


async def test_a_database_that_fails_is_logged_once_while_servers_look_for_what_is_overdue(
    desk: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    created = await create(desk)
    execute(desk.settings, "UPDATE pickups SET asked = 'x'")
    make_overdue(desk)
    desk.overdue_period = timedelta(seconds=0.01)
    caplog.clear()

    async with desk.connected():
        await wait_until(lambda: "wrote of a bearer token that waits" in caplog.text)
        execute(desk.settings, "UPDATE pickups SET asked = '2026-11-24T09:00:00.000000Z'")
        await wait_until(lambda: created.fields["id"] not in desk.cluster.tokens)

    assert caplog.text.count("wrote of a bearer token that waits") == 1


async def test_the_command_that_prints_the_record_tells_who_picked_it_up(
    desk: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    created = await create(desk)
    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        await page.hand_out()
        await page.confirm()

    printed: dict[str, str] = {}
    for output_format in ("text", "csv", "json"):
        query = JournalQuery(operation="pickup", output_format=output_format)
        assert print_journal(desk.settings, query) == 0
        printed[output_format] = capsys.readouterr().out

    token_id = created.fields["id"]
    assert "2026-11-24 09:00  pickup  picked up  local:jane" in printed["text"]
    assert f'token {token_id}; by "{ANN.name}"' in printed["text"].replace("\n    ", " ")
    [row] = csv.DictReader(io.StringIO(printed["csv"]))
    assert (row["operation"], row["outcome"], row["unfinished"]) == ("pickup", "picked up", "false")
    assert row["actor"] == ANN.name
    entry = json.loads(printed["json"])
    assert (entry["id"], entry["outcome"], entry["ended"]) == (token_id, "picked up", "2026-11-24T09:00:00Z")
    assert print_journal(desk.settings, JournalQuery(unfinished=True)) == 0


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_cluster_whose_clock_is_set_meanwhile_is_not_left_with_it(shared_desk: Harness, hours: int) -> None:
    shared_desk.cluster.clock = lambda: NOW + timedelta(hours=hours)
    created = await create(shared_desk)
    shared_desk.cluster.clock = lambda: NOW

    await let_servers_look(shared_desk)

    assert created.fields["id"] not in shared_desk.cluster.tokens
    assert [row["state"] for row in read_pickups(shared_desk)] == ["deleted"]


async def test_a_row_with_a_user_who_can_be_none_ends_no_server(desk: Harness) -> None:
    created = await create(desk)
    execute(desk.settings, "UPDATE pickups SET user_name = ''")

    await let_servers_look(desk)

    assert created.fields["id"] in desk.cluster.tokens
    assert [row["state"] for row in read_pickups(desk)] == ["left"]


async def test_a_database_that_fails_after_the_create_keeps_nobody_from_the_bearer_token(desk: Harness) -> None:
    await call_as(desk, CREATE, ANN, {"user": "local:bob"})
    execute(desk.settings, "ALTER TABLE pickups RENAME COLUMN created TO lost")
    created = await create(desk)
    execute(desk.settings, "ALTER TABLE pickups RENAME COLUMN lost TO created")

    async with at_page(desk, created.fields["bearer_token_in"]) as page:
        assert (await page.find()).pickup.created is None
        assert (await page.hand_out()).warning is None


async def test_who_presses_a_button_while_its_token_is_deleted_is_no_one_who_deleted_it(shared_desk: Harness) -> None:
    created = await create(shared_desk)
    refused: list[NotWaiting] = []

    async with at_page(shared_desk, created.fields["bearer_token_in"]) as page:
        found = await page.find()

        async def press_meanwhile(request: httpx.Request, response: httpx.Response) -> httpx.Response:
            if request.method == "DELETE":
                with pytest.raises(NotWaiting) as failure:
                    await hand_out(found)
                refused.append(failure.value)
            return response

        shared_desk.recorder.on_served = press_meanwhile
        await let_servers_look(shared_desk)

    assert len(refused) == 1
    assert [row["state"] for row in read_pickups(shared_desk)] == ["deleted"]
    assert [entry["outcome"] for entry in read_record(shared_desk.settings)] == ["created", "done"]


async def test_the_record_tells_why_a_rotate_was_refused_with_the_page(desk: Harness) -> None:
    old = add_token(desk)
    url = (await call_as(desk, ROTATE, ANN, {"id": old.id})).fields["bearer_token_in"]

    await call_as(desk, ROTATE, ANN, {"id": old.id})

    entry = read_record(desk.settings)[-1]
    assert (entry["outcome"], url in entry["reason"]) == ("refused", True)
