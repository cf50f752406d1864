"""Test updates of a token: its expiry and whether it is enabled."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.client import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.example_tokens import add_token, lockout_refusal, own_token
from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    JANE,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    refusal_response,
)
from tests.support.misbehaving_cluster import HTML_PAGE, REFUSAL_STATUSES, hide_token_ids, replace_answer
from tests.support.record import read_outcomes, read_record
from tests.support.remedies import parse_calls
from token_tools.sandbox.cluster import Token

pytestmark = pytest.mark.anyio

ENABLE_REASON = "it was disabled, and only people know why"
EXPIRED_FIELDS = {"expiration_time": NOW - timedelta(days=1)}


def sent_updates(harness: Harness, token: Token) -> list[dict[str, Any]]:
    return [json.loads(body) for body in harness.recorder.bodies("PATCH", TOKENS_PATH + token.id)]


async def test_update_disables_with_one_field_and_tells_before_and_after(harness: Harness) -> None:
    token = add_token(harness)

    answer = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    assert sent_updates(harness, token) == [{"enabled": False}]
    assert not harness.cluster.tokens[token.id].enabled
    assert answer.fields == {
        "summary": f"Changed access token {token.id} of local:jane on c.example.com:8000: it is disabled, expires "
        "2027-01-13 09:00 UTC (in 50 days). Before: enabled, expires 2027-01-13 09:00 UTC (in 50 days).",
        "id": token.id,
        "user": "local:jane",
        "changed": True,
        "enabled_before": True,
        "enabled": False,
        "expiration_time_before": "2027-01-13T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "next_step": f'Watch whether anything breaks; update_access_token(id="{token.id}", enabled=true) undoes this, '
        f'delete_access_token(id="{token.id}") makes it final.',
    }
    assert answer.fields["summary"] in answer.text
    assert answer.fields["next_step"] in answer.text
    assert [
        (entry["operation"], entry["outcome"], entry["state_before"], entry["state_after"])
        for entry in read_record(harness.settings.state_dir)
    ] == [("update", "done", "enabled: true", "enabled: false")]


async def test_update_moves_an_expiry_and_enables_at_once(harness: Harness) -> None:
    token = add_token(harness, enabled=False)

    answer = await harness.call(
        "update_access_token", {"id": token.id, "enabled": True, "expiration_time": "90d"}, confirm="none"
    )

    assert sent_updates(harness, token) == [{"expiration_time": "2027-02-22T09:00:00Z", "enabled": True}]
    assert answer.fields["expiration_time"] == "2027-02-22T09:00:00Z"
    assert read_record(harness.settings.state_dir)[0]["state_after"] == "enabled: true, expires: 2027-02-22T09:00:00Z"


async def test_update_clears_an_expiry(harness: Harness) -> None:
    token = add_token(harness)

    answer = await harness.call("update_access_token", {"id": token.id, "expiration_time": "never"}, confirm="none")

    assert sent_updates(harness, token) == [{"expiration_time": None}]
    assert harness.cluster.tokens[token.id].expiration_time is None
    assert "is enabled, never expires." in answer.text
    assert "expiration_time" not in answer.fields
    assert read_record(harness.settings.state_dir)[0]["state_after"] == "expires: never"


async def test_update_explains_a_cluster_that_clears_no_expiry(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, allows_clearing_expiry=False)
    token = add_token(harness)

    refusal = await harness.call_refused(
        "update_access_token", {"id": token.id, "expiration_time": "never"}, confirm="none"
    )

    assert 'expiration_time cannot be null"' in refusal
    assert refusal.endswith("This cluster may not let an expiry be cleared: give a late time instead.")
    assert read_record(harness.settings.state_dir)[0]["outcome"] == "not done"


async def test_update_warns_of_a_cluster_that_does_otherwise(harness: Harness) -> None:
    token = add_token(harness)

    async def ignore(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method == "PATCH":
            harness.cluster.tokens[token.id] = token
            return httpx.Response(200, json=served.json() | {"enabled": True})
        return served

    harness.recorder.on_served = ignore

    answer = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    assert answer.fields["changed"] is False
    assert answer.text.startswith("Nothing changed: ")
    assert answer.fields["warning"].startswith(
        "Beware: the cluster did not take the change as asked; there, the token is "
    )
    assert answer.fields["warning"] in answer.text


async def test_update_sends_nothing_if_the_token_is_like_that_already(harness: Harness) -> None:
    token = add_token(harness, enabled=False)
    person = ScriptedPerson([AGREES])

    answer = await harness.call("update_access_token", {"id": token.id, "enabled": False}, person=person, confirm="all")

    assert sent_updates(harness, token) == []
    assert person.questions == []
    assert answer.fields["changed"] is False
    assert answer.text.startswith("Nothing changed: ")


async def test_update_wants_something_to_do(harness: Harness) -> None:
    refusal = await harness.call_without_effect("update_access_token", {"id": add_token(harness).id})

    assert refusal == "Nothing to do: give `enabled`, `expiration_time`, or both."
    assert harness.recorder.request_lines() == []


async def test_update_keeps_to_the_longest_lifetime(harness: Harness) -> None:
    month = timedelta(days=30)

    for expiration_time in ("31d", "never"):
        arguments = {"id": add_token(harness).id, "expiration_time": expiration_time}
        refusal = await harness.call_without_effect("update_access_token", arguments, max_lifetime=month)
        assert refusal.startswith("QUMULO_MAX_LIFETIME allows 30 days at most")
    assert harness.recorder.request_lines() == []


@pytest.mark.parametrize(
    ("special", "arguments", "reason"),
    [
        pytest.param({}, {"expiration_time": "90d"}, "it would live longer", id="later"),
        pytest.param({}, {"expiration_time": "never"}, "it would never expire", id="cleared"),
        pytest.param({}, {"expiration_time": "1d"}, "it would stop working sooner", id="sooner"),
        pytest.param({"expiration_time": None}, {"expiration_time": "1d"}, "it would stop working sooner", id="set"),
        pytest.param({}, {"enabled": False}, "whoever works with it would be stopped", id="disabled"),
        pytest.param({"enabled": False}, {"enabled": True}, ENABLE_REASON, id="enabled-again"),
        pytest.param(
            EXPIRED_FIELDS | {"enabled": False}, {"enabled": True}, ENABLE_REASON, id="enabled-again-though-expired"
        ),
        pytest.param(
            {"enabled": False},
            {"enabled": True, "expiration_time": "1d"},
            ENABLE_REASON,
            id="enabled-again-for-a-day",
        ),
        pytest.param(EXPIRED_FIELDS, {"expiration_time": "1d"}, "it has expired and would live on", id="expired"),
        pytest.param(EXPIRED_FIELDS, {"expiration_time": "never"}, "it would never expire", id="expired-and-cleared"),
    ],
)
async def test_a_person_is_asked_about_a_risky_change(
    harness: Harness, special: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    token = add_token(harness, **special)
    person = ScriptedPerson([AGREES])

    answer = await harness.call("update_access_token", {"id": token.id, **arguments}, person=person)

    assert not answer.is_error
    [question] = person.questions
    server = f"{'enabled' if token.enabled else 'disabled'}, "
    assert question.startswith(
        f"Change the access token {token.id} of the user local:jane (auth_id 1001) on the cluster "
        f"c.example.com:8000? Now: {server}"
    )
    assert f"Asked because {reason}. [question " in question
    assert len(sent_updates(harness, token)) == 1


@pytest.mark.parametrize(
    ("special", "arguments"),
    [
        pytest.param({"enabled": False}, {"expiration_time": "1d"}, id="sooner-but-disabled"),
    ],
)
async def test_nobody_is_asked_about_a_harmless_change(
    harness: Harness, special: dict[str, Any], arguments: dict[str, Any]
) -> None:
    token = add_token(harness, **special)

    answer = await harness.call("update_access_token", {"id": token.id, **arguments})

    assert not answer.is_error
    assert len(sent_updates(harness, token)) == 1


async def test_a_token_of_the_administrator_is_enabled_only_with_consent(harness: Harness) -> None:
    token = add_token(harness, ADMIN, enabled=False)

    refusal = await harness.call_refused("update_access_token", {"id": token.id, "enabled": True})

    assert f"(it is for the built-in administrator and {ENABLE_REASON})" in refusal
    assert refusal.endswith(f"qq --host c.example.com --port 8000 auth_modify_access_token {token.id} --enable")
    assert sent_updates(harness, token) == []


@pytest.mark.parametrize(
    ("arguments", "by_hand"),
    [
        pytest.param({"enabled": False}, "auth_modify_access_token {id} --disable", id="disable"),
        pytest.param(
            {"expiration_time": "90d"},
            "auth_modify_access_token {id} --expiration-time 2027-02-22T09:00:00Z",
            id="later",
        ),
        pytest.param({"expiration_time": "never"}, "qq cannot clear an expiry", id="cleared"),
    ],
)
async def test_a_client_that_cannot_ask_is_told_how_to_change_it_by_hand(
    harness: Harness, arguments: dict[str, Any], by_hand: str
) -> None:
    token = add_token(harness)

    refusal = await harness.call_refused("update_access_token", {"id": token.id, **arguments})

    assert by_hand.format(id=token.id) in refusal
    assert sent_updates(harness, token) == []


async def test_update_of_own_token_to_its_present_state_is_accepted(harness: Harness) -> None:
    own = replace(own_token(harness), expiration_time=NOW + timedelta(days=50))
    harness.cluster.tokens[own.id] = own

    answer = await harness.call("update_access_token", {"id": own.id, "enabled": True})

    assert answer.fields["changed"] is False


async def test_a_default_lifetime_that_is_not_allowed_is_no_matter_to_an_update(harness: Harness) -> None:
    disabling = {"id": add_token(harness).id, "enabled": False}

    answer = await harness.call(
        "update_access_token", disabling, default_lifetime=None, max_lifetime=timedelta(days=30), confirm="none"
    )

    assert answer.fields["changed"] is True


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"expiration_time": "1d"}], ids=["disable", "shorten"])
async def test_the_token_that_the_server_runs_on_is_not_cut_off(harness: Harness, arguments: dict[str, Any]) -> None:
    own = own_token(harness)

    refusal = await harness.call_without_effect("update_access_token", {"id": own.id, **arguments}, confirm="none")

    assert refusal == lockout_refusal(own, "disable it or shorten its life")
    assert harness.cluster.tokens[own.id] == own
    assert sent_updates(harness, own) == []


async def test_the_token_that_the_server_runs_on_may_live_longer(harness: Harness) -> None:
    harness.cluster.tokens[own_token(harness).id] = replace(own_token(harness), expiration_time=NOW + timedelta(days=1))

    answer = await harness.call(
        "update_access_token", {"id": own_token(harness).id, "expiration_time": "90d"}, confirm="none"
    )

    assert not answer.is_error


async def test_a_token_that_changed_while_the_person_thought_is_left_alone(harness: Harness) -> None:
    token = add_token(harness)

    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        harness.cluster.tokens[token.id] = replace(token, enabled=False)
        return AGREES

    for tool, arguments in (("update_access_token", {"expiration_time": "90d"}), ("delete_access_token", {})):
        harness.cluster.tokens[token.id] = token
        refusal = await harness.call_without_effect(tool, {"id": token.id, **arguments}, person=think)
        assert refusal == f"Token {token.id} was changed meanwhile. Call again to see how it is now."
    assert sent_updates(harness, token) == []
    assert token.id in harness.cluster.tokens


async def test_an_expiry_that_is_written_back_as_it_was_read_is_no_change(harness: Harness) -> None:
    token = add_token(harness, expiration_time=NOW + timedelta(days=50, microseconds=123456))

    answer = await harness.call("update_access_token", {"id": token.id, "expiration_time": "2027-01-13T09:00:00Z"})

    assert answer.text.startswith("Nothing changed: ")
    assert sent_updates(harness, token) == []


@pytest.mark.parametrize(
    ("tool", "arguments", "deed"),
    [
        ("update_access_token", {"enabled": False}, "disable it or shorten its life"),
        ("delete_access_token", {}, "delete it"),
    ],
    ids=["update", "delete"],
)
async def test_a_server_that_got_the_token_as_its_own_while_a_person_was_asked_does_not_cut_it_off(
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

    refusal = await harness.call_without_effect(
        tool,
        {"id": token.id, **arguments},
        person=Renewing([AGREES]),
        bearer_token=None,
        credentials_file=store,
    )

    assert refusal == lockout_refusal(token, deed)
    assert harness.cluster.tokens[token.id] == token


async def test_a_change_that_gives_more_is_no_lockout_after_a_question(harness: Harness) -> None:
    own = own_token(harness)
    harness.cluster.tokens[own.id] = replace(own, expiration_time=NOW + timedelta(days=1))

    answer = await harness.call(
        "update_access_token", {"id": own.id, "expiration_time": "90d"}, person=ScriptedPerson([AGREES])
    )

    assert not answer.is_error


@pytest.mark.parametrize(
    ("tool", "change"),
    [("delete_access_token", {}), ("update_access_token", {"enabled": False})],
    ids=["delete", "disable"],
)
async def test_what_may_be_the_own_token_is_left_as_it_is(harness: Harness, tool: str, change: dict[str, Any]) -> None:
    hide_token_ids(harness)
    own, other = own_token(harness), add_token(harness)

    refusal = await harness.call_refused(tool, {"id": own.id, **change}, confirm="none")

    assert "and the cluster does not tell which, so it will not" in refusal
    assert harness.cluster.tokens[own.id] == own
    assert not (await harness.call(tool, {"id": other.id, **change}, confirm="none")).is_error


async def test_a_token_that_vanishes_before_it_is_changed_is_named_with_what_leads_on(harness: Harness) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("PATCH", refusal_response(404), path=TOKENS_PATH + token.id)

    refusal = await harness.call_without_effect(
        "update_access_token", {"id": token.id, "enabled": False}, confirm="none"
    )

    assert refusal.startswith(f"There is no access token {token.id}. ")
    assert refusal.endswith("list_access_tokens tells the ids.")


async def test_what_neither_a_form_nor_qq_can_do_is_told_in_a_sentence(harness: Harness) -> None:
    refusal = await harness.call_without_effect(
        "update_access_token", {"id": add_token(harness).id, "expiration_time": "never"}
    )

    assert refusal.endswith(
        "qq cannot clear an expiry, so it takes a client that shows a person this server's questions."
    )


@pytest.mark.parametrize("status", REFUSAL_STATUSES)
@pytest.mark.usefixtures("no_consent")
async def test_an_update_whose_answer_was_blocked_is_looked_at(harness: Harness, status: int) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    harness.recorder.on_served = replace_answer("PATCH", httpx.Response(status, html=HTML_PAGE))

    answer = await harness.call("update_access_token", {"id": token.id, "enabled": False})

    assert not answer.is_error
    assert answer.fields["enabled"] is False
    assert read_outcomes(harness.settings.state_dir) == ["done"]


@pytest.mark.usefixtures("no_consent")
async def test_a_change_that_is_answered_with_another_token_is_told_by_a_look(harness: Harness) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    other = harness.cluster.add_token(AD_JANE.auth_id, creator="500")

    async def mix_up(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=response.json() | {"id": other.id}) if request.method == "PATCH" else response

    harness.recorder.on_served = mix_up

    answer = await harness.call("update_access_token", {"id": token.id, "enabled": False})

    assert answer.fields["id"] == token.id
    assert answer.fields["enabled"] is False


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"expiration_time": "90d"}], ids=["disable", "extend"])
@pytest.mark.usefixtures("no_consent")
async def test_a_change_that_is_answered_with_what_was_before_is_looked_at(
    harness: Harness, arguments: dict[str, Any]
) -> None:
    jane = add_token(harness)
    old: httpx.Response | None = None

    async def repeat(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal old
        if request.method == "GET" and request.url.path == TOKENS_PATH + jane.id and old is None:
            old = response
        return old if request.method == "PATCH" and old is not None else response

    harness.recorder.on_served = repeat

    answer = await harness.call("update_access_token", {"id": jane.id} | arguments)

    assert answer.fields["changed"]
    assert answer.text.startswith("Changed access token")


@pytest.mark.parametrize("status", [403, 404, 500])
@pytest.mark.usefixtures("no_consent")
async def test_a_change_of_which_nothing_can_be_seen_afterwards_is_told_as_not_known(
    harness: Harness, status: int
) -> None:
    jane = add_token(harness)
    told_before: list[httpx.Response] = []

    async def repeat(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH + jane.id:
            return response
        if request.method == "PATCH":
            return told_before[0]
        told_before.append(response)
        return response if len(told_before) == 1 else refusal_response(status)

    harness.recorder.on_served = repeat

    refusal = await harness.call_refused("update_access_token", {"id": jane.id, "enabled": False})

    assert f"It could not be found out whether token {jane.id} was changed" in refusal
    assert read_outcomes(harness.settings.state_dir)[-1] == "unknown"


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

    answer = await harness.call("update_access_token", arguments, confirm="none", **settings)

    assert expected.format(id=token.id) in answer.fields["next_step"]
    if "undoes this" in expected:
        [undo, *_] = parse_calls(answer.fields["next_step"])
        await harness.call(*undo, confirm="none", **settings)
        assert harness.cluster.tokens[token.id] == token


async def test_a_token_that_was_only_shortened_is_told_how_to_get_its_expiry_back(harness: Harness) -> None:
    token = add_token(harness)
    answer = await harness.call("update_access_token", {"id": token.id, "expiration_time": "1d"}, confirm="none")
    again = await harness.call(
        "update_access_token",
        {"id": token.id, "expiration_time": "1h"},
        confirm="none",
        max_lifetime=timedelta(hours=2),
        default_lifetime=timedelta(hours=1),
    )

    assert answer.fields["next_step"] == (
        f'Watch whether anything breaks; update_access_token(id="{token.id}", expiration_time="2027-01-13T09:00:00Z") '
        "undoes this."
    )
    assert again.fields["next_step"] == (
        "Watch whether anything breaks. The new expiry stays: QUMULO_MAX_LIFETIME does not allow the expiry of "
        "2026-11-25 09:00 UTC again."
    )


async def test_an_expiry_that_was_over_is_not_told_to_be_set_again(harness: Harness) -> None:
    token = add_token(harness, expiration_time=NOW - timedelta(hours=1))

    answer = await harness.call(
        "update_access_token", {"id": token.id, "enabled": False, "expiration_time": "1d"}, confirm="none"
    )

    [undo, _] = parse_calls(answer.fields["next_step"])
    assert undo == ("update_access_token", {"id": token.id, "enabled": True})
