"""Test every failure of every request: the answer, the tokens of the cluster afterwards, and the files.

The secrets are recognisable, and the tests check that none is where it does not belong.
"""

import json
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import anyio
import httpx
import pytest

from tests.support.harness import (
    AD_JANE,
    ADMIN,
    JANE,
    NOTHING_DONE,
    NOW,
    TOKENS_PATH,
    WRITE_TOOLS,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.record import add_entries, read_outcomes, read_record, state_file
from tests.support.sandbox_process import running_sandbox
from tests.support.secret_scan import find_secrets
from tests.support.services import create_services, open_journal
from token_tools.cluster.client import connect
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.errors import DeliveryError
from token_tools.operations.create_request import CreateRequest
from token_tools.operations.new_token import create_new_token
from token_tools.sandbox.app import create_app
from token_tools.sandbox.faults import Endpoint, Fault, Faults
from token_tools.storage.attempts import Mandate
from token_tools.storage.delivery import AskedToken, DeliveredToken, InlineDelivery

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_retry_backoff")]

CreateOutcome = Literal["made", "nothing", "orphan"]
CreateOutcomes = dict[Fault, CreateOutcome]
LIST_ONLY_FAULTS: list[Fault] = ["endless", "foreign"]
FAULTS_HARMLESS_TO_LISTS: list[Fault] = [*LIST_ONLY_FAULTS, "another"]
FAULTS: list[Fault] = [fault for fault in get_args(Fault) if fault not in LIST_ONLY_FAULTS]
FAULTS_AFTER_EXECUTION: list[Fault] = [
    *[fault for fault in FAULTS if fault.endswith("-after")],
    *("half", "no-json", "other-json", "slow", "another"),
]


def create_outcomes(outcome: CreateOutcome, faults: list[Fault] = FAULTS) -> CreateOutcomes:
    return dict.fromkeys(faults, outcome)


# A refused list does not stop a create. A user who can be neither found nor listed does.
CREATE_TABLE: dict[Endpoint, CreateOutcomes] = {
    # Nothing shows that who-am-i names another user, so the fault `another` is left out.
    "who-am-i": create_outcomes("nothing", [fault for fault in FAULTS if fault != "another"]),
    "find": create_outcomes("nothing"),
    "list": create_outcomes("nothing") | create_outcomes("made", ["error-400", *FAULTS_HARMLESS_TO_LISTS]),
    "create": create_outcomes("nothing") | create_outcomes("orphan", FAULTS_AFTER_EXECUTION),
    "get": create_outcomes("made"),
}


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """Create a harness of the newer era alone: no test of this file depends on the era."""
    harness = create_harness("auto", tmp_path)
    harness.settings = harness.settings.model_copy(update={"timeout": timedelta(seconds=0.5), "confirm": "none"})
    return harness


def inject_fault(harness: Harness, endpoint: Endpoint, fault: Fault) -> None:
    harness.recorder.cluster = httpx.ASGITransport(Faults(create_app(harness.cluster), {endpoint: fault}))


def check_nothing_done_prefix(harness: Harness, expected: ToolAnswer, *, is_changed: bool) -> None:
    """Check that an error begins with "nothing was done" if no write was sent, and never if the write was executed."""
    sent = [
        one for one in harness.recorder.requests if one.method in {"PATCH", "DELETE"} or one.url.path == TOKENS_PATH
    ]
    is_sent = any(one.method != "GET" for one in sent)
    assert not (expected.text.startswith(NOTHING_DONE) and is_changed)
    assert expected.text.startswith(NOTHING_DONE) or is_sent


@pytest.mark.parametrize(
    ("endpoint", "fault", "outcome"),
    [
        pytest.param(endpoint, fault, outcome, id=f"{endpoint}-{fault}")
        for endpoint, outcomes in CREATE_TABLE.items()
        for fault, outcome in outcomes.items()
    ],
)
async def test_a_create_ends_in_a_token_delivered_or_in_a_clear_error(
    harness: Harness, endpoint: Endpoint, fault: Fault, outcome: CreateOutcome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    inject_fault(harness, endpoint, fault)

    answer = await harness.call("create_access_token", {"user": "self" if endpoint == "who-am-i" else "local:jane"})

    user = ADMIN if endpoint == "who-am-i" else JANE
    before = 1 if user is ADMIN else 0
    folder = harness.settings.delivery_dir
    files = [*folder.iterdir()] if folder.exists() else []
    assert answer.is_error is (outcome != "made")
    assert len(harness.tokens_of(user)) - before == (outcome != "nothing")
    assert len(files) == (outcome == "made")
    assert len(harness.recorder.bodies("POST", "/v1/auth/access-tokens/")) <= 1
    if answer.is_error:
        check_nothing_done_prefix(harness, answer, is_changed=outcome == "orphan")
    if outcome == "orphan":
        [orphan] = harness.tokens_of(JANE)
        assert f"{orphan.id} (made 2026-11-24 09:00 UTC) is new for local:jane" in answer.text
        assert f"auth_delete_access_token {orphan.id}" in answer.text
    if endpoint == "create" and outcome == "nothing" and fault not in {"refuse", "error-400"}:
        assert "So far, no new token of local:jane" in answer.text
    if outcome == "made":
        [token], [file] = harness.tokens_of(user), files
        assert json.loads(file.read_text())["bearer_token"] == token.bearer_token
    spoken = f"{answer.text}\n{json.dumps(answer.fields)}\n{caplog.text}\n{[str(file) for file in files]}"
    secrets = [token.bearer_token for token in harness.cluster.tokens.values()]
    assert find_secrets(spoken.encode(), secrets) == []
    assert find_secrets(read_all_files(folder.parent, excluded=files), secrets) == []
    assert find_secrets(read_all_files(harness.settings.state_dir, excluded=[]), secrets) == []


@pytest.mark.parametrize("fault", [*FAULTS, *LIST_ONLY_FAULTS])
@pytest.mark.parametrize("user", [None, "self", "local:jane"], ids=["everybody", "self", "jane"])
async def test_a_list_ends_in_a_list_or_in_a_clear_error(harness: Harness, user: str | None, fault: Fault) -> None:
    harness.cluster.add_token(JANE.auth_id, creator="500")
    inject_fault(harness, "list", fault)

    answer = await harness.call("list_access_tokens", {"user": user})

    assert answer.is_error is (fault not in FAULTS_HARMLESS_TO_LISTS)
    assert "elsewhere.example.com" not in answer.text
    assert {request.url.host for request in harness.recorder.requests} == {"c.example.com"}
    assert find_secrets(answer.text.encode(), [token.bearer_token for token in harness.cluster.tokens.values()]) == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_token_that_can_neither_be_kept_nor_deleted_is_named(harness: Harness, fault: Fault) -> None:
    """In the worst case, the answer has the id of the token and the command that deletes it."""
    inject_fault(harness, "delete", fault)

    async def lose_the_folder(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == "/v1/auth/access-tokens/":
            [pending] = harness.settings.delivery_dir.iterdir()
            pending.unlink()
        return response

    harness.recorder.on_served = lose_the_folder

    answer = await harness.call("create_access_token", {"user": r"ad:CORP\jane"})

    assert answer.is_error
    seen = [request.url.path for request in harness.recorder.requests if request.method == "DELETE"]
    assert len(seen) == 1
    if fault in FAULTS_AFTER_EXECUTION:
        # Either the status confirmed the deletion, or a look-up did not find the token any more.
        assert "was deleted again" in answer.text
        assert harness.tokens_of(AD_JANE) == []
    else:
        token_id = seen[0].rpartition("/")[2]
        assert f"The new token {token_id} could not be deleted again" in answer.text
        assert f'delete_access_token(id="{token_id}")' in answer.text
        assert f"auth_delete_access_token {token_id}\n" in answer.text
    assert answer.text.endswith("\nFor the operator: run `qumulo-token-tools doctor`.")


async def test_an_orphan_of_somebody_whose_tokens_we_may_not_see_is_said_to_be_possible(harness: Harness) -> None:
    app = Faults(create_app(harness.cluster), {"create": "cut-after", "list": "error-400"})
    harness.recorder.cluster = httpx.ASGITransport(app)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert (
        "It could not be found out whether a token was made for local:jane: their tokens were not known" in answer.text
    )


async def test_a_token_that_somebody_else_made_meanwhile_is_not_blamed(harness: Harness) -> None:
    app = Faults(create_app(harness.cluster), {"create": "cut-before"})
    harness.recorder.cluster = httpx.ASGITransport(app)

    async def make_another(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == "/v1/session/who-am-i":
            harness.cluster.add_token(JANE.auth_id, creator=AD_JANE.auth_id)
        return response

    harness.recorder.on_served = make_another

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [other] = harness.tokens_of(JANE)
    assert "So far, no new token of local:jane" in answer.text
    assert f"new are only {other.id} (made 2026-11-24 09:00 UTC by ad:CORP\\jane)." in answer.text


ToolOutcome = Literal["done", "nothing", "unsaid"]
ToolOutcomes = dict[Fault, ToolOutcome]


def tool_outcomes(ending: ToolOutcome, faults: list[Fault] = FAULTS) -> ToolOutcomes:
    return dict.fromkeys(faults, ending)


# `unsaid` means that the change was executed but not confirmed, so the error says how to find out.
OUTCOMES_BY_TOOL: dict[str, dict[Endpoint, ToolOutcomes]] = {
    "get_access_token": {
        "get": tool_outcomes("nothing"),
        "who-am-i": tool_outcomes("done"),
        "list": tool_outcomes("done", [*FAULTS, *LIST_ONLY_FAULTS]),
    },
    "update_access_token": {
        "get": tool_outcomes("nothing"),
        "who-am-i": tool_outcomes("nothing") | tool_outcomes("done", ["another"]),
        "modify": tool_outcomes("nothing") | tool_outcomes("done", FAULTS_AFTER_EXECUTION),
    },
    "delete_access_token": {
        "get": tool_outcomes("nothing"),
        "who-am-i": tool_outcomes("nothing") | tool_outcomes("done", ["another"]),
        "delete": tool_outcomes("nothing") | tool_outcomes("done", FAULTS_AFTER_EXECUTION),
    },
    "rotate_access_token": {
        "get": tool_outcomes("nothing"),
        "who-am-i": tool_outcomes("nothing"),
        "find": tool_outcomes("nothing") | tool_outcomes("done", ["error-400"]),
        "list": tool_outcomes("nothing") | tool_outcomes("done", ["error-400", *FAULTS_HARMLESS_TO_LISTS]),
        "list-again": tool_outcomes("done", [*FAULTS, *LIST_ONLY_FAULTS]),
        "create": tool_outcomes("nothing") | tool_outcomes("unsaid", FAULTS_AFTER_EXECUTION),
    },
    "audit_access_tokens": {
        "who-am-i": tool_outcomes("done"),
        "find": tool_outcomes("done"),
        "list": tool_outcomes("nothing") | tool_outcomes("done", FAULTS_HARMLESS_TO_LISTS),
    },
}
ARGUMENTS_BY_TOOL: dict[str, dict[str, object]] = {"update_access_token": {"enabled": False}, "audit_access_tokens": {}}


@pytest.mark.parametrize(
    ("tool", "endpoint", "fault", "ending"),
    [
        pytest.param(tool, endpoint, fault, ending, id=f"{tool.partition('_')[0]}-{endpoint}-{fault}")
        for tool, endpoints in OUTCOMES_BY_TOOL.items()
        for endpoint, endings in endpoints.items()
        for fault, ending in endings.items()
    ],
)
async def test_every_other_tool_does_it_or_says_what_is_the_case(
    harness: Harness, tool: str, endpoint: Endpoint, fault: Fault, ending: ToolOutcome
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
    inject_fault(harness, endpoint, fault)
    arguments = ARGUMENTS_BY_TOOL.get(tool, {}) | ({} if tool == "audit_access_tokens" else {"id": token.id})

    answer = await harness.call(tool, arguments)

    there = harness.tokens_of(JANE)
    changed = {
        "update_access_token": there != [token] and not any(one.enabled for one in there),
        "delete_access_token": there == [],
        "rotate_access_token": len(there) == 2,
    }
    assert answer.is_error is (ending != "done")
    assert changed.get(tool, there != [token]) is (ending != "nothing" and tool in changed)
    assert len([one for one in harness.recorder.requests if one.method in {"PATCH", "DELETE"}]) <= 1
    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) <= 1
    if answer.is_error and tool in WRITE_TOOLS:
        check_nothing_done_prefix(harness, answer, is_changed=ending == "unsaid")
    if ending == "unsaid":
        [new] = [one for one in there if one.id != token.id]
        assert f'delete_access_token(id="{new.id}")' in answer.text
    files = [*harness.settings.delivery_dir.glob("*")]
    assert len(files) == (tool == "rotate_access_token" and ending == "done")
    spoken = f"{answer.text}\n{json.dumps(answer.fields)}\n{[str(file) for file in files]}".encode()
    disk = read_all_files(harness.settings.delivery_dir.parent, excluded=files) + read_all_files(
        harness.settings.state_dir, excluded=[]
    )
    assert find_secrets(spoken + disk, [one.bearer_token for one in harness.cluster.tokens.values()]) == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "another"])
async def test_an_orphan_among_tokens_that_cannot_be_read_any_more_is_said_to_be_possible(
    harness: Harness, fault: Fault
) -> None:
    app = Faults(create_app(harness.cluster), {"create": "cut-after", "list-again": fault})
    harness.recorder.cluster = httpx.ASGITransport(app)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert "It could not be found out whether a token was made for local:jane" in answer.text
    assert len(harness.tokens_of(JANE)) == 1


def test_over_https_a_cut_connection_is_cut_before_any_answer_and_the_next_one_served() -> None:
    with running_sandbox("--fault", "list=cut-before", "--fault", "who-am-i=refuse") as sandbox:
        settings = sandbox.settings
        with httpx.Client(
            base_url=f"https://{settings['QUMULO_HOST']}:{settings['QUMULO_PORT']}",
            verify=ssl.create_default_context(cafile=settings["QUMULO_CA_FILE"]),
        ) as client:
            for path in (TOKENS_PATH, "/v1/session/who-am-i"):
                with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                    client.get(path)
            assert client.get("/v1/version").status_code == 200


class CutFirstCreate(httpx.AsyncBaseTransport):
    """A cluster that runs `meanwhile` instead of its first create, and then cuts the connection."""

    def __init__(self, harness: Harness, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self.cluster = harness.recorder.cluster
        self.left = [meanwhile]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve every request except the first create."""
        if request.method == "POST" and request.url.path == TOKENS_PATH and self.left:
            await self.left.pop()()
            raise httpx.ReadError("cut")
        return await self.cluster.handle_async_request(request)


async def test_a_token_that_another_server_made_for_the_same_user_meanwhile_is_not_blamed(harness: Harness) -> None:
    async def make_another() -> None:
        assert not (await harness.call("create_access_token", {"user": "local:jane"})).is_error

    harness.recorder.cluster = CutFirstCreate(harness, make_another)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [other] = harness.tokens_of(JANE)
    assert "So far, no new token of local:jane is there." in answer.text
    assert other.id not in answer.text


async def test_while_another_call_is_making_one_it_is_said_that_it_may_be_that(harness: Harness) -> None:
    async with (
        open_journal(harness.settings, cluster=harness.settings.address) as journal,
        journal.record_intent(journal.draft("create", "local:jane", Mandate("somebody"))),
    ):
        inject_fault(harness, "create", "cut-after")
        answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert "Another call is making one for the same user just now; that may be it." in answer.text
    assert read_record(harness.settings.state_dir)[-1].keys().isdisjoint({"token_id"})


async def test_of_two_new_tokens_each_can_be_looked_at_and_none_is_written_down(harness: Harness) -> None:
    async def make_two() -> None:
        for _ in range(2):
            harness.cluster.add_token(JANE.auth_id, creator="500")

    harness.recorder.cluster = CutFirstCreate(harness, make_two)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    for token in harness.tokens_of(JANE):
        assert f'delete_access_token(id="{token.id}")' in answer.text
        assert f"auth_delete_access_token {token.id}" in answer.text
    assert read_record(harness.settings.state_dir)[-1].keys().isdisjoint({"token_id"})


@pytest.mark.parametrize("age", [timedelta(days=3), timedelta(hours=-3)], ids=["slow-clock", "fast-clock"])
async def test_an_orphan_is_named_however_wrong_the_cluster_s_clock_is(harness: Harness, age: timedelta) -> None:
    async def make_one() -> None:
        harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - age)

    harness.recorder.cluster = CutFirstCreate(harness, make_one)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in answer.text


async def test_of_two_new_tokens_the_one_that_was_made_days_ago_is_not_blamed(harness: Harness) -> None:
    async def make_two() -> None:
        for age in (timedelta(days=3), timedelta(minutes=4)):
            harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - age)

    harness.recorder.cluster = CutFirstCreate(harness, make_two)

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    old, new = sorted(harness.tokens_of(JANE), key=lambda token: token.creation_time)
    assert new.id in answer.text
    assert old.id not in answer.text


@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token"], ids=["create", "rotate"])
async def test_a_create_of_which_nothing_is_to_be_seen_yet_is_mentioned_by_the_next(
    harness: Harness, tool: str
) -> None:
    async def nothing() -> None:
        pass

    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
    harness.recorder.cluster = CutFirstCreate(harness, nothing)

    await harness.call("create_access_token", {"user": "local:jane"})
    named = {"user": "local:jane"} if tool == "create_access_token" else {"id": old.id}
    answer = await harness.call(tool, named)

    assert "begun at 2026-11-24 09:00 UTC has no known end, and no token of it is seen." in answer.fields["warning"]


async def test_whatever_breaks_after_the_request_the_orphan_is_named(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            raise RuntimeError("access-v1:SECRETSECRET")
        return response

    harness.recorder.on_served = stumble

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [orphan] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{orphan.id}")' in answer.text
    assert "stumbled over a RuntimeError" in caplog.text
    assert "SECRETSECRET" not in answer.text + caplog.text


@pytest.mark.parametrize("expires", [None, NOW + timedelta(days=31)], ids=["never", "later"])
@pytest.mark.parametrize("delivery", ["file", "inline"])
async def test_a_token_that_lives_longer_than_the_operator_allows_is_deleted_again(
    harness: Harness, expires: datetime | None, delivery: str
) -> None:
    async def forget_the_expiry(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            token = harness.cluster.tokens[response.json()["id"]]
            harness.cluster.tokens[token.id] = replace(token, expiration_time=expires)
        return response

    harness.recorder.on_served = forget_the_expiry

    refusal = await harness.call_refused(
        "create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=30), delivery=delivery
    )

    assert "QUMULO_MAX_LIFETIME does not allow that. It was deleted again. No token is left of this." in refusal
    assert ("it never expires" if expires is None else "it expires only 2026-12-25 09:00 UTC") in refusal
    assert harness.tokens_of(JANE) == []
    assert not [*harness.settings.delivery_dir.parent.rglob("*.json")]
    assert read_outcomes(harness.settings.state_dir) == ["rolled back"]


async def test_a_rotated_token_lives_no_longer_than_the_operator_allows_either(harness: Harness) -> None:
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
    ignore_expiries(harness)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id}, max_lifetime=timedelta(days=30))

    assert "QUMULO_MAX_LIFETIME does not allow that. It was deleted again." in refusal
    assert harness.tokens_of(JANE) == [old]


async def test_an_expiry_that_the_cluster_rounds_up_is_not_held_against_the_token(harness: Harness) -> None:
    async def round_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            token = harness.cluster.tokens[response.json()["id"]]
            expires = NOW + timedelta(days=30, minutes=1)
            harness.cluster.tokens[token.id] = replace(token, expiration_time=expires)
        return response

    harness.recorder.on_served = round_up

    answer = await harness.call("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=30))

    assert not answer.is_error


def ignore_expiries(harness: Harness) -> None:
    """Make the cluster ignore the expiry of a new token, which an old cluster does."""

    async def forget(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            token = harness.cluster.tokens[response.json()["id"]]
            harness.cluster.tokens[token.id] = replace(token, expiration_time=None)
        if request.method == "DELETE":
            for file in harness.settings.delivery_dir.iterdir():
                file.unlink()
                file.mkdir()
        return response

    harness.recorder.on_served = forget


async def test_a_token_that_can_neither_live_nor_be_deleted_is_named_with_its_place(harness: Harness) -> None:
    ignore_expiries(harness)
    inject_fault(harness, "delete", "error-400")

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    [token] = harness.tokens_of(JANE)
    assert "It could not be deleted again: The cluster declined (400" in refusal
    assert f"It is in {harness.settings.delivery_dir}" in refusal
    assert refusal.endswith(f"auth_delete_access_token {token.id}")
    assert read_outcomes(harness.settings.state_dir) == ["undeletable"]


async def test_what_was_delivered_of_a_deleted_token_and_cannot_be_removed_is_told(harness: Harness) -> None:
    ignore_expiries(harness)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=90))

    assert harness.tokens_of(JANE) == []
    assert f"It was deleted again. What was delivered is still in {harness.settings.delivery_dir}" in refusal
    assert read_outcomes(harness.settings.state_dir) == ["rolled back"]


async def test_a_create_that_is_not_allowed_is_written_down_as_not_made(harness: Harness) -> None:
    async def forbid(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(403) if request.method == "POST" and request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = forbid

    assert "lacks a privilege" in await harness.call_refused("create_access_token", {"user": "local:jane"})
    assert read_outcomes(harness.settings.state_dir) == ["not created"]


@pytest.mark.parametrize("fault", [None, "cut-before"])
async def test_a_token_that_only_a_cancelled_answer_would_tell_is_deleted_again(
    harness: Harness, fault: Fault | None
) -> None:
    made, go_on = anyio.Event(), anyio.Event()
    if fault is not None:
        inject_fault(harness, "delete", fault)

    async def hold_the_answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            made.set()
            await go_on.wait()
        return response

    harness.recorder.on_served = hold_the_answer
    async with harness.connected(delivery="inline") as client, anyio.create_task_group() as calls:
        calls.start_soon(client.call_tool, "create_access_token", {"user": "local:jane"})
        await made.wait()
        calls.cancel_scope.cancel()
        go_on.set()

    [*_, last] = read_record(harness.settings.state_dir)
    assert last["outcome"] == ("rolled back" if fault is None else "undeletable")
    assert [token.id for token in harness.tokens_of(JANE)] == ([] if fault is None else [last["token_id"]])


@pytest.mark.parametrize(
    ("plan", "results"),
    [
        pytest.param({}, ["created"], id="made"),
        pytest.param({"create": "error-400"}, ["not created"], id="declined"),
        pytest.param({"create": "refuse"}, ["not created"], id="refused"),
        pytest.param({"create": "cut-before"}, ["unknown"], id="cut-before"),
        pytest.param({"create": "cut-after"}, ["unknown"], id="cut-after"),
    ],
)
async def test_the_journal_knows_what_came_of_it(
    harness: Harness, plan: dict[Endpoint, Fault], results: list[str]
) -> None:
    harness.recorder.cluster = httpx.ASGITransport(Faults(create_app(harness.cluster), plan))

    await harness.call("create_access_token", {"user": "local:jane"})

    assert read_outcomes(harness.settings.state_dir) == results


async def test_without_a_journal_no_token_is_asked_for_but_lists_work(harness: Harness) -> None:
    harness.settings.state_dir.write_text("a file where the folder should be")

    answer = await harness.call("create_access_token", {"user": "local:jane"})
    listed = await harness.call("list_access_tokens")

    assert answer.is_error
    assert answer.text.startswith("Nothing was done. The journal ")
    assert harness.recorder.bodies("POST", "/v1/auth/access-tokens/") == []
    assert not listed.is_error
    assert "cannot be read: Not a directory" in listed.text


async def test_a_start_tells_of_what_a_killed_server_had_on_the_disk_already(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.settings.delivery_dir.mkdir(parents=True, mode=0o700)
    (harness.settings.delivery_dir / ".pending-1").write_text('{"bearer_token": "access-v1:left", "version": 1}')

    await harness.call("list_access_tokens")

    recovered = harness.settings.delivery_dir / "recovered-1.json"
    assert f"The bearer token of a create that was cut off is in {recovered}" in caplog.text
    assert recovered.exists()


async def test_a_start_tells_of_a_folder_that_it_cannot_look_through(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.settings.delivery_dir.parent.mkdir(parents=True, mode=0o700)
    harness.settings.delivery_dir.write_text("a file where the folder should be")

    answer = await harness.call("list_access_tokens")

    assert not answer.is_error
    assert f"A new bearer token cannot be kept in {harness.settings.delivery_dir}" in caplog.text


async def test_a_journal_that_breaks_meanwhile_is_told_beside_the_token(harness: Harness) -> None:
    async def break_the_journal(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == "/v1/auth/access-tokens/":
            state_file(harness.settings.state_dir).unlink()
            state_file(harness.settings.state_dir).mkdir()
        return response

    harness.recorder.on_served = break_the_journal

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert not answer.is_error
    assert "The journal" in answer.fields["warning"]
    assert Path(answer.fields["bearer_token_in"]).exists()


async def test_a_create_that_was_never_finished_is_mentioned_once_if_no_token_of_it_is_there(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"})
    add_entries(harness.settings, [{"operation": "create"}])

    mentioned = await harness.call("create_access_token", {"user": "local:jane"}, person=ScriptedPerson([]))
    again = await harness.call("create_access_token", {"user": r"ad:CORP\jane"})

    assert "a create or rotate for this user begun at 2026-11-24 09:00 UTC" in mentioned.fields["warning"]
    assert "warning" not in again.fields


async def test_the_longest_lifetime_holds_for_what_is_asked_and_for_what_is_not(harness: Harness) -> None:
    month = timedelta(days=30)

    for expiration_time in ("31d", "never", "2027-01-01T00:00:00Z"):
        arguments = {"user": "local:jane", "expiration_time": expiration_time}
        refusal = await harness.call_without_effect("create_access_token", arguments, max_lifetime=month)
        assert refusal == (
            "QUMULO_MAX_LIFETIME allows 30 days at most, so `expiration_time` can be 2026-12-24 09:00 UTC at the "
            "latest."
        )
    assert harness.recorder.request_lines() == []
    made = await harness.call("create_access_token", {"user": "local:jane"}, max_lifetime=month)
    assert made.fields["expiration_time"] == "2026-12-24T09:00:00Z"


def read_all_files(folder: Path, *, excluded: list[Path]) -> bytes:
    """Return the bytes of all files below a folder, except those excluded."""
    return b"\n".join(file.read_bytes() for file in folder.rglob("*") if file.is_file() and file not in excluded)


class CrashingDelivery(InlineDelivery):
    """A delivery that fails with an unexpected error."""

    async def reserve(self, _asked: AskedToken | None = None, /) -> "CrashingDelivery":
        """Succeed."""
        return self

    async def store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        """Raise an error that no delivery is expected to raise."""
        raise RuntimeError("can't start new thread")


async def test_whatever_breaks_the_delivery_the_token_is_deleted_again(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        connect(harness.settings, cluster_transport=harness.recorder) as cluster,
        open_journal(harness.settings) as journal,
    ):
        services = create_services(cluster, CrashingDelivery(), journal)
        intent = journal.draft("create", "local:jane", Mandate("somebody"))

        with pytest.raises(DeliveryError, match=r"this server stumbled\. The new token [0-9]+ was deleted again"):
            await create_new_token(services, CreateRequest(Identity(auth_id=JANE.auth_id), None, []), intent)

    assert harness.tokens_of(JANE) == []
    assert "stumbled over a RuntimeError" in caplog.text


async def test_no_sentence_is_quoted_of_the_answer_to_a_create_that_failed(harness: Harness) -> None:
    """The answer may contain the secret of a token that was created anyway, and redaction does not know that secret."""

    async def tell_the_secret(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == "/v1/auth/access-tokens/":
            secret = response.json()["bearer_token"].removeprefix("access-v1:")
            return refusal_response(500, description=f"cannot answer with {secret}")
        return response

    harness.recorder.on_served = tell_the_secret

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "cannot answer now (500 some_error)." in refusal
    assert find_secrets(refusal.encode(), [token.bearer_token for token in harness.tokens_of(JANE)]) == []


async def test_a_maximum_that_cannot_be_verified_is_said_to_be_open(harness: Harness) -> None:
    inject_fault(harness, "get", "error-500")

    answer = await harness.call("create_access_token", {"user": "local:jane"}, max_lifetime=timedelta(days=30))

    assert "Whether it keeps to QUMULO_MAX_LIFETIME could not be verified" in answer.fields["warning"]
