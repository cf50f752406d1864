"""One token from a look at it to its end: get, update, delete and rotate, the same in both eras."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.harness import (
    AD_JANE,
    ADMIN,
    AGREES,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    Harness,
    ScriptedPerson,
    refusal_response,
)
from token_tools.operations.rotate import PERSON_DECIDES
from token_tools.sandbox.cluster import Account, Token

pytestmark = pytest.mark.anyio

WHO_AM_I_PATH = "/v1/session/who-am-i"
OnServed = Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]]
DECLINES = ElicitResult(action="decline")

ENABLE_REASON = "it was disabled, and only people know why"
EXPIRED_FIELDS = {"expiration_time": NOW - timedelta(days=1)}


def add_token(harness: Harness, account: Account = JANE, **special: Any) -> Token:  # noqa: ANN401 - as `add_token` takes them
    """A token made 40 days ago that expires in 50, unless it is special."""
    usual: dict[str, Any] = {
        "creator": ADMIN.auth_id,
        "creation_time": NOW - timedelta(days=40),
        "expiration_time": NOW + timedelta(days=50),
    }
    return harness.cluster.add_token(account.auth_id, **{**usual, **special})


def lockout_refusal(own: Token, action: str) -> str:
    """The refusal to do that to the server's own token."""
    return (
        f"This server itself runs on token {own.id}, so it will not {action}: it would lock itself out. "
        "To replace it, call rotate_access_token and let the server run on the new one."
    )


def own_token(harness: Harness) -> Token:
    """The token that the server runs on."""
    assert harness.settings.bearer_token is not None
    bearer_token = harness.settings.bearer_token.get_secret_value()
    return next(token for token in harness.cluster.tokens.values() if token.bearer_token == bearer_token)


def replace_answer(method: str, path: str, response: httpx.Response) -> OnServed:
    """A cluster that does what it is asked, and then says this at one place."""

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return response if (request.method, request.url.path) == (method, path) else served

    return answer


def sent_updates(harness: Harness, token: Token) -> list[dict[str, Any]]:
    return [json.loads(body) for body in harness.recorder.bodies("PATCH", TOKENS_PATH + token.id)]


def read_journal(harness: Harness) -> list[dict[str, Any]]:
    lines = (harness.settings.state_dir / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


async def test_get_tells_everything_in_both_channels(harness: Harness) -> None:
    token, other = add_token(harness, LDAP_BOB), add_token(harness, LDAP_BOB, enabled=False, expiration_time=None)

    told = await harness.call("get_access_token", {"id": token.id})

    assert told.fields == {
        "summary": f"Access token {token.id} of ldap_user:bob on c.example.com:8000: enabled, expires 2027-01-13 09:00 "
        "UTC (in 50 days); made 40 days ago by local:admin. This server does not run on it. It is 2026-11-24 09:00 "
        "UTC.",
        "id": token.id,
        "user": "ldap_user:bob",
        "creator": "local:admin",
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": True,
        "user_domain": "POSIX_USER",
        "user_auth_id": "12884902888",
        "user_uid": 1000,
        "user_sid": "S-1-5-88-1-1000",
        "user_name": "bob",
        "creator_domain": "LOCAL",
        "creator_auth_id": "500",
        "creator_sid": "S-1-5-21-1-2-3-500",
        "creator_name": "admin",
        "is_own": False,
        "other_tokens": [
            f"{other.id} | ldap_user:bob | never | 2026-10-15 09:00 | disabled | local:admin",
        ],
    }
    for fact in (token.id, "S-1-5-88-1-1000", "1000", "S-1-5-21-1-2-3-500", other.id, "disabled"):
        assert fact in told.text


async def test_get_says_that_the_server_runs_on_a_token(harness: Harness) -> None:
    told = await harness.call("get_access_token", {"id": own_token(harness).id})

    assert told.fields["is_own"] is True
    assert told.fields["other_tokens"] == []
    assert "This server runs on it." in told.text
    assert "The user has no other token." in told.text


async def test_get_tells_what_it_could_not_find_out(harness: Harness) -> None:
    token = add_token(harness)

    async def refuse_the_rest(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return served if request.url.path == TOKENS_PATH + token.id else refusal_response(403)

    harness.recorder.on_served = refuse_the_rest

    told = await harness.call("get_access_token", {"id": token.id})

    assert not told.is_error
    assert told.fields.keys().isdisjoint({"is_own", "other_tokens"})
    assert "Whether this server runs on it is not known" in told.fields["warning"]
    assert "The user's other tokens are not known" in told.fields["warning"]
    assert told.fields["warning"] in told.text


@pytest.mark.parametrize("tool", ["get_access_token", "delete_access_token", "rotate_access_token"])
async def test_an_id_that_no_token_has_is_said_to_be_none(harness: Harness, tool: str) -> None:
    told = await harness.call_without_effect(tool, {"id": "123"})

    assert told.startswith("There is no access token 123. The cluster knows no such thing (404")
    assert told.endswith("list_access_tokens tells the ids.")


async def test_update_disables_with_one_field_and_tells_before_and_after(harness: Harness) -> None:
    token = add_token(harness)

    told = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    assert sent_updates(harness, token) == [{"enabled": False}]
    assert not harness.cluster.tokens[token.id].enabled
    assert told.fields == {
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
    assert told.fields["summary"] in told.text
    assert told.fields["next_step"] in told.text
    assert [(line["operation"], line["result"], line["change"]) for line in read_journal(harness)] == [
        ("update", "intended", "enabled: false"),
        ("update", "done", "enabled: false"),
    ]


async def test_update_moves_an_expiry_and_enables_at_once(harness: Harness) -> None:
    token = add_token(harness, enabled=False)

    told = await harness.call(
        "update_access_token", {"id": token.id, "enabled": True, "expiration_time": "90d"}, confirm="none"
    )

    assert sent_updates(harness, token) == [{"expiration_time": "2027-02-22T09:00:00Z", "enabled": True}]
    assert told.fields["expiration_time"] == "2027-02-22T09:00:00Z"
    assert read_journal(harness)[0]["change"] == "enabled: true, expires: 2027-02-22T09:00:00Z"


async def test_update_clears_an_expiry(harness: Harness) -> None:
    token = add_token(harness)

    told = await harness.call("update_access_token", {"id": token.id, "expiration_time": "never"}, confirm="none")

    assert sent_updates(harness, token) == [{"expiration_time": None}]
    assert harness.cluster.tokens[token.id].expiration_time is None
    assert "is enabled, never expires." in told.text
    assert "expiration_time" not in told.fields
    assert read_journal(harness)[0]["change"] == "expires: never"


async def test_update_explains_a_cluster_that_clears_no_expiry(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, allows_clearing_expiry=False)
    token = add_token(harness)

    told = await harness.call_refused(
        "update_access_token", {"id": token.id, "expiration_time": "never"}, confirm="none"
    )

    assert 'expiration_time cannot be null"' in told
    assert told.endswith("This cluster may not let an expiry be cleared: give a late time instead.")
    assert read_journal(harness)[1]["result"] == "not done"


async def test_update_warns_of_a_cluster_that_does_otherwise(harness: Harness) -> None:
    token = add_token(harness)

    async def ignore(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method == "PATCH":
            harness.cluster.tokens[token.id] = token
            return httpx.Response(200, json=served.json() | {"enabled": True})
        return served

    harness.recorder.on_served = ignore

    told = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")

    assert told.fields["changed"] is False
    assert told.text.startswith("Nothing changed: ")
    assert told.fields["warning"].startswith(
        "Beware: the cluster did not take the change as asked; there, the token is "
    )
    assert told.fields["warning"] in told.text


async def test_update_sends_nothing_if_the_token_is_like_that_already(harness: Harness) -> None:
    token = add_token(harness, enabled=False)
    human = ScriptedPerson([AGREES])

    told = await harness.call("update_access_token", {"id": token.id, "enabled": False}, person=human, confirm="all")

    assert sent_updates(harness, token) == []
    assert human.questions == []
    assert told.fields["changed"] is False
    assert told.text.startswith("Nothing changed: ")


async def test_update_wants_something_to_do(harness: Harness) -> None:
    told = await harness.call_without_effect("update_access_token", {"id": add_token(harness).id})

    assert told == "Nothing to do: give `enabled`, `expiration_time`, or both."
    assert harness.recorder.request_lines() == []


async def test_update_keeps_to_the_longest_lifetime(harness: Harness) -> None:
    month = timedelta(days=30)

    for expiration_time in ("31d", "never"):
        arguments = {"id": add_token(harness).id, "expiration_time": expiration_time}
        told = await harness.call_without_effect("update_access_token", arguments, max_lifetime=month)
        assert told.startswith("QUMULO_MAX_LIFETIME allows 30 days at most")
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
async def test_a_human_is_asked_about_a_risky_change(
    harness: Harness, special: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    token = add_token(harness, **special)
    human = ScriptedPerson([AGREES])

    told = await harness.call("update_access_token", {"id": token.id, **arguments}, person=human)

    assert not told.is_error
    [question] = human.questions
    life = f"{'enabled' if token.enabled else 'disabled'}, "
    assert question.startswith(
        f"Change the access token {token.id} of the user local:jane (auth_id 1001) on the cluster "
        f"c.example.com:8000? Now: {life}"
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

    told = await harness.call("update_access_token", {"id": token.id, **arguments})

    assert not told.is_error
    assert len(sent_updates(harness, token)) == 1


async def test_a_token_of_the_administrator_is_enabled_only_with_consent(harness: Harness) -> None:
    token = add_token(harness, ADMIN, enabled=False)

    told = await harness.call_refused("update_access_token", {"id": token.id, "enabled": True})

    assert f"(it is for the built-in administrator and {ENABLE_REASON})" in told
    assert told.endswith(f"qq --host c.example.com --port 8000 auth_modify_access_token {token.id} --enable")
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

    told = await harness.call_refused("update_access_token", {"id": token.id, **arguments})

    assert by_hand.format(id=token.id) in told
    assert sent_updates(harness, token) == []


async def test_update_of_own_token_to_its_present_state_is_accepted(harness: Harness) -> None:
    own = replace(own_token(harness), expiration_time=NOW + timedelta(days=50))
    harness.cluster.tokens[own.id] = own

    told = await harness.call("update_access_token", {"id": own.id, "enabled": True})

    assert told.fields["changed"] is False


async def test_a_default_lifetime_that_is_not_allowed_is_no_matter_to_an_update(harness: Harness) -> None:
    disabling = {"id": add_token(harness).id, "enabled": False}

    told = await harness.call(
        "update_access_token", disabling, default_lifetime=None, max_lifetime=timedelta(days=30), confirm="none"
    )

    assert told.fields["changed"] is True


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"expiration_time": "1d"}], ids=["disable", "shorten"])
async def test_the_token_that_the_server_runs_on_is_not_cut_off(harness: Harness, arguments: dict[str, Any]) -> None:
    own = own_token(harness)

    told = await harness.call_without_effect("update_access_token", {"id": own.id, **arguments}, confirm="none")

    assert told == lockout_refusal(own, "disable it or shorten its life")
    assert harness.cluster.tokens[own.id] == own
    assert sent_updates(harness, own) == []


async def test_the_token_that_the_server_runs_on_may_live_longer(harness: Harness) -> None:
    harness.cluster.tokens[own_token(harness).id] = replace(own_token(harness), expiration_time=NOW + timedelta(days=1))

    told = await harness.call(
        "update_access_token", {"id": own_token(harness).id, "expiration_time": "90d"}, confirm="none"
    )

    assert not told.is_error


async def test_a_token_that_changed_while_the_human_thought_is_left_alone(harness: Harness) -> None:
    token = add_token(harness)

    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        harness.cluster.tokens[token.id] = replace(token, enabled=False)
        return AGREES

    for tool, arguments in (("update_access_token", {"expiration_time": "90d"}), ("delete_access_token", {})):
        harness.cluster.tokens[token.id] = token
        told = await harness.call_without_effect(tool, {"id": token.id, **arguments}, person=think)
        assert told == f"Token {token.id} was changed meanwhile. Call again to see how it is now."
    assert sent_updates(harness, token) == []
    assert token.id in harness.cluster.tokens


async def test_delete_tells_what_was_there_and_how_to_make_it_again(harness: Harness) -> None:
    token = add_token(harness, enabled=False)

    told = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert token.id not in harness.cluster.tokens
    assert told.fields == {
        "summary": f"Deleted access token {token.id} of local:jane on c.example.com:8000 for ever: disabled, expires "
        "2027-01-13 09:00 UTC (in 50 days); made 40 days ago by local:admin.",
        "id": token.id,
        "user": "local:jane",
        "creator": "local:admin",
        "creation_time": "2026-10-15T09:00:00Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": False,
        "next_step": 'Another like it: create_access_token(user="local:jane", expiration_time="2027-01-13T09:00:00Z").',
    }
    for fact in (told.fields["summary"], told.fields["next_step"]):
        assert fact in told.text
    assert [(line["operation"], line["result"], line["token_id"]) for line in read_journal(harness)] == [
        ("delete", "intended", token.id),
        ("delete", "done", token.id),
    ]


@pytest.mark.parametrize(
    ("expiration_time", "again"),
    [(NOW - timedelta(days=1), "39d"), (None, "never"), (NOW - timedelta(days=40, seconds=-5), "1min")],
    ids=["expired", "for-ever", "expired-at-once"],
)
async def test_another_token_like_a_deleted_one_can_be_made_as_told(
    harness: Harness, expiration_time: datetime | None, again: str
) -> None:
    token = add_token(harness, expiration_time=expiration_time)

    told = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert f'create_access_token(user="local:jane", expiration_time="{again}")' in told.fields["next_step"]
    made = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": again}, confirm="none")
    assert not made.is_error


async def test_an_expiry_that_is_written_back_as_it_was_read_is_no_change(harness: Harness) -> None:
    token = add_token(harness, expiration_time=NOW + timedelta(days=50, microseconds=123456))

    told = await harness.call("update_access_token", {"id": token.id, "expiration_time": "2027-01-13T09:00:00Z"})

    assert told.text.startswith("Nothing changed: ")
    assert sent_updates(harness, token) == []


async def test_the_question_before_a_deletion_tells_whose_and_how_old_and_in_what_state_it_is(harness: Harness) -> None:
    token = add_token(harness, AD_JANE)
    human = ScriptedPerson([AGREES])

    told = await harness.call("delete_access_token", {"id": token.id}, person=human)

    assert human.questions[0].startswith(
        f"Delete the access token {token.id} of the user ad:CORP\\jane (ACTIVE_DIRECTORY, auth_id 21474836481) on the "
        "cluster c.example.com:8000 for ever? Now: enabled, expires 2027-01-13 09:00 UTC (in 50 days); made 40 days "
        "ago by local:admin. Better disable a token first, watch whether anything breaks, and delete it then. Asked "
        "because this cannot be undone. [question "
    )
    assert told.fields["next_step"].endswith(
        "The deleted one still worked. Better disable a token first, watch whether anything breaks, and delete it then."
    )


async def test_a_disabled_token_is_deleted_without_advice(harness: Harness) -> None:
    human = ScriptedPerson([AGREES])

    await harness.call("delete_access_token", {"id": add_token(harness, enabled=False).id}, person=human)

    assert "Better disable" not in human.questions[0]


async def test_a_deletion_that_is_turned_down_is_none(harness: Harness) -> None:
    token = add_token(harness)

    told = await harness.call_without_effect("delete_access_token", {"id": token.id}, person=ScriptedPerson([DECLINES]))

    assert "The question was answered with no, by a person or by the client itself." in told
    assert token.id in harness.cluster.tokens
    assert not (harness.settings.state_dir / "journal.jsonl").exists()


async def test_a_client_that_cannot_ask_is_told_how_to_delete_by_hand(harness: Harness) -> None:
    token = add_token(harness)

    told = await harness.call_refused("delete_access_token", {"id": token.id})

    assert told.endswith(f"by hand: qq --host c.example.com --port 8000 auth_delete_access_token {token.id}")
    assert token.id in harness.cluster.tokens


async def test_the_token_that_the_server_runs_on_is_not_deleted(harness: Harness) -> None:
    own = own_token(harness)

    told = await harness.call_without_effect("delete_access_token", {"id": own.id}, confirm="none")

    assert told == lockout_refusal(own, "delete it")
    assert own.id in harness.cluster.tokens


async def test_a_deletion_that_somebody_was_faster_with_is_as_good(harness: Harness) -> None:
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("DELETE", TOKENS_PATH + token.id, refusal_response(404))

    told = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert told.text.startswith(f"Deleted access token {token.id} ")


async def test_a_write_without_an_answer_is_looked_after(harness: Harness) -> None:
    """The request was carried out, its answer is lost; a look tells that it is as wanted."""
    token = add_token(harness)
    harness.recorder.on_served = replace_answer("PATCH", TOKENS_PATH + token.id, httpx.Response(504))
    changed = await harness.call("update_access_token", {"id": token.id, "enabled": False}, confirm="none")
    harness.recorder.on_served = replace_answer("DELETE", TOKENS_PATH + token.id, httpx.Response(504))
    deleted = await harness.call("delete_access_token", {"id": token.id}, confirm="none")

    assert changed.text.startswith("Changed access token")
    assert deleted.text.startswith("Deleted access token")
    assert [line["result"] for line in read_journal(harness)] == ["intended", "done", "intended", "done"]


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        pytest.param(
            "update_access_token", {"enabled": False}, "So far, token {id} is not changed as asked.", id="update"
        ),
        pytest.param("delete_access_token", {}, "So far, token {id} is still there.", id="delete"),
    ],
)
async def test_a_write_without_an_answer_and_without_effect_is_said_to_be_open(
    harness: Harness, tool: str, arguments: dict[str, Any], said: str
) -> None:
    token = add_token(harness)

    async def undo(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method in {"PATCH", "DELETE"}:
            harness.cluster.tokens[token.id] = token
            return httpx.Response(502)
        return served

    harness.recorder.on_served = undo

    told = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    assert said.format(id=token.id) in told
    assert told.endswith("Look at it with get_access_token before you try again.")
    assert len([request for request in harness.recorder.requests if request.method in {"PATCH", "DELETE"}]) == 1
    assert [line["result"] for line in read_journal(harness)] == ["intended", "unknown"]


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        pytest.param("update_access_token", {"enabled": False}, "whether token {id} was changed", id="update"),
        pytest.param("delete_access_token", {}, "whether token {id} was deleted", id="delete"),
    ],
)
async def test_a_write_of_which_nothing_can_be_found_out_says_so(
    harness: Harness, tool: str, arguments: dict[str, Any], said: str
) -> None:
    token = add_token(harness)
    is_sent = False

    async def go_blind(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        nonlocal is_sent
        is_sent = is_sent or request.method in {"PATCH", "DELETE"}
        return httpx.Response(500) if is_sent else served

    harness.recorder.on_served = go_blind

    told = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    assert f"It could not be found out {said.format(id=token.id)}" in told
    assert [line["result"] for line in read_journal(harness)] == ["intended", "unknown"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("update_access_token", {"enabled": False}, id="update"),
        pytest.param("delete_access_token", {}, id="delete"),
    ],
)
@pytest.mark.parametrize("failure", ["refused", "declined"])
async def test_a_write_that_was_never_done_is_told_and_written_down(
    harness: Harness, tool: str, arguments: dict[str, Any], failure: str
) -> None:
    token = add_token(harness)

    async def fail(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method not in {"PATCH", "DELETE"}:
            return served
        if failure == "refused":
            raise httpx.ConnectError("refused")
        return refusal_response(403)

    harness.recorder.on_served = fail

    told = await harness.call_refused(tool, {"id": token.id, **arguments}, confirm="none")

    expected = "No connection to" if failure == "refused" else "can grant PRIVILEGE_ACCESS_TOKENS_WRITE"
    assert expected in told
    assert [line["result"] for line in read_journal(harness)] == ["intended", "not done"]


async def test_rotate_makes_a_second_token_that_is_proved_and_tells_what_remains(harness: Harness) -> None:
    old = add_token(harness)

    told = await harness.call("rotate_access_token", {"id": old.id})

    [new] = [token for token in harness.tokens_of(JANE) if token != old]
    assert len(harness.tokens_of(JANE)) == 2
    place = told.fields["bearer_token_in"]
    assert json.loads(Path(place).read_text())["bearer_token"] == new.bearer_token
    [proof] = [r for r in harness.recorder.requests if r.headers["Authorization"] == f"Bearer {new.bearer_token}"]
    assert (proof.method, proof.url.path) == ("GET", WHO_AM_I_PATH)
    assert told.fields["summary"] == (
        f"Rotated: new access token {new.id} for local:jane on c.example.com:8000; it expires 2027-02-22 09:00 UTC "
        f"(in 90 days, the default lifetime), and it works. Its bearer token is in {place}. The old one, {old.id}, is "
        "as it was."
    )
    assert told.fields["replaces"] == old.id
    assert told.fields["next_step"].startswith(
        f"What remains: 1. Put it where the old one is used. 2. Test that. "
        f'3. update_access_token(id="{old.id}", enabled=false). '
        f'4. Once nothing breaks, delete_access_token(id="{old.id}").'
    )
    for fact in (told.fields["summary"], told.fields["next_step"], told.fields["fingerprint"]):
        assert fact in told.text
    intended, made = read_journal(harness)
    assert (intended["operation"], intended["result"], intended["replaces"]) == ("rotate", "intended", old.id)
    assert (made["result"], made["token_id"]) == ("created", new.id)
    assert made["location"] == {"kind": "file", "path": place}


async def test_rotating_the_server_s_own_token_says_how_to_hand_the_new_one_over(harness: Harness) -> None:
    own = own_token(harness)

    told = await harness.call("rotate_access_token", {"id": own.id}, confirm="none")

    assert "1. This server runs on the old one: replace QUMULO_BEARER_TOKEN (" in told.fields["next_step"]
    assert harness.cluster.tokens[own.id] == own


async def test_the_file_that_the_server_has_its_own_token_from_is_named(harness: Harness, tmp_path: Path) -> None:
    store = tmp_path / "credentials"
    store.write_text(json.dumps({"bearer_token": own_token(harness).bearer_token, "version": 1}))

    told = await harness.call(
        "rotate_access_token",
        {"id": own_token(harness).id},
        confirm="none",
        bearer_token=None,
        credentials_file=store,
    )

    assert f"replace QUMULO_CREDENTIALS_FILE ({store})" in told.fields["next_step"]


async def test_rotating_for_the_administrator_or_for_ever_is_asked_about(harness: Harness) -> None:
    human = ScriptedPerson([AGREES])

    told = await harness.call(
        "rotate_access_token", {"id": own_token(harness).id, "expiration_time": "never"}, person=human
    )

    assert not told.is_error
    assert human.questions[0].startswith(
        f"Make a second access token, to replace {own_token(harness).id}, for the user local:admin (auth_id 500) "
        "on the cluster c.example.com:8000? Whoever has it can act as that user. It never expires. The user has 1 of 2 "
    )
    assert "Asked because it is for the built-in administrator and it would never expire." in human.questions[0]


async def test_a_token_that_is_gone_when_the_human_agrees_is_not_rotated(harness: Harness) -> None:
    old = add_token(harness)

    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del harness.cluster.tokens[old.id]
        return AGREES

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id}, person=think, confirm="all")

    assert told.startswith(f"There is no access token {old.id}.")
    assert harness.tokens_of(JANE) == []


async def test_with_both_places_in_use_the_other_token_is_named_and_nothing_made(harness: Harness) -> None:
    old, other = add_token(harness), add_token(harness, expiration_time=None)

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")

    assert told == (
        "local:jane has 2 access tokens already, as many as a user can have, so there is no place for a new one. "
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, which never expires. {PERSON_DECIDES}"
    )
    assert {token.id for token in harness.tokens_of(JANE)} == {old.id, other.id}
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_rotate_explains_a_token_limit_that_a_dead_token_fills(harness: Harness) -> None:
    """Whether disabled tokens count is only known to the cluster."""
    old, other = add_token(harness), add_token(harness, enabled=False)

    told = await harness.call_without_effect("rotate_access_token", {"id": old.id}, confirm="none")

    assert told.endswith(
        "local:jane has 2 access tokens already, and disabled and expired ones seem to count here. "
        f"The other is {other.id}, made 2026-10-15 09:00 UTC, disabled, expires 2027-01-13 09:00 UTC (in 50 days). "
        f"{other.id} is disabled (since when is not known here); once it is sure that nobody wants it back: "
        f'delete_access_token(id="{other.id}").'
    )
    assert len(harness.tokens_of(JANE)) == 2


@pytest.mark.parametrize(
    ("tool", "change"),
    [
        ("create_access_token", {}),
        ("update_access_token", {"enabled": False}),
        ("delete_access_token", {}),
        ("rotate_access_token", {}),
    ],
    ids=["create", "update", "delete", "rotate"],
)
async def test_concurrent_consent_questions_keep_their_own_answers(
    harness: Harness, tool: str, change: dict[str, Any]
) -> None:
    jane_s, bob_s = add_token(harness), add_token(harness, LDAP_BOB)
    asked: list[str] = []
    both = anyio.Event()

    async def agree_to_bob_s(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        if len(asked) == 2:
            both.set()
        await both.wait()
        return AGREES if "bob" in params.message else DECLINES

    async with harness.connected(person=agree_to_bob_s, confirm="all") as client, anyio.create_task_group() as calls:
        for token in (jane_s, bob_s):
            named = {"user": f"auth_id:{token.user}"} if tool == "create_access_token" else {"id": token.id}
            calls.start_soon(client.call_tool, tool, {**named, **change})

    assert sorted("bob" in question for question in asked) == [False, True]
    assert harness.tokens_of(JANE) == [jane_s]
    assert harness.tokens_of(LDAP_BOB) != [bob_s]


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
    """A cluster to whom a new bearer token is not what it should be."""
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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "was made and delivered, but did not prove to work." in told
    assert why in told
    assert told.endswith("It was deleted again. The old token is as it was.")
    assert harness.tokens_of(JANE) == [old]
    assert [*harness.settings.delivery_dir.iterdir()] == []
    assert [line["result"] for line in read_journal(harness)] == ["intended", "rolled back"]


async def test_a_new_token_of_somebody_else_is_no_proof(harness: Harness) -> None:
    old = add_token(harness)
    own = f"Bearer {own_token(harness).bearer_token}"

    async def lie(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.headers["Authorization"] == own:
            return served
        return httpx.Response(200, json=served.json() | {"id": "1002"})

    harness.recorder.on_served = lie

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "With it, the cluster takes the caller for another user or another token." in told
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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    [file] = harness.settings.delivery_dir.iterdir()
    assert "It could not be deleted again: " in told
    assert f"It is in {file}." in told
    assert f'delete_access_token(id="{token.id}")' in told
    assert [line["result"] for line in read_journal(harness)] == ["intended", "undeletable"]

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

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "It was deleted again. What was delivered is still in " in told
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
    journal = harness.settings.state_dir / "journal.jsonl"
    intent = read_journal(harness)[0] | {"server": "another", "attempt": "a", "process": 2**22 + 1}
    journal.write_text(json.dumps(intent) + "\n")

    told = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert (
        "An attempt that was begun at 2026-11-24 09:00 UTC and never finished may have made it; then nobody has its "
        "bearer token." in told
    )
    assert len(harness.tokens_of(JANE)) == 2


async def test_a_change_that_was_never_finished_is_reported_with_its_token(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_token(harness)
    await harness.call("delete_access_token", {"id": token.id}, confirm="none")
    journal = harness.settings.state_dir / "journal.jsonl"
    intent = read_journal(harness)[0] | {"server": "another", "attempt": "a", "process": 2**22 + 1}
    journal.write_text(json.dumps(intent) + "\n")

    await harness.call("list_access_tokens")

    assert (
        "The delete of an access token for local:jane on c.example.com:8000 at 2026-11-24 09:00 UTC was " in caplog.text
    )
    assert f"look at token {token.id}" in caplog.text


async def test_rotate_goes_on_where_tokens_may_not_be_listed(harness: Harness) -> None:
    old = add_token(harness)
    harness.recorder.on_served = replace_answer("GET", TOKENS_PATH, refusal_response(403))

    told = await harness.call("rotate_access_token", {"id": old.id})

    assert not told.is_error


UNPRIVILEGED = replace(JANE, privileges=frozenset())


@pytest.mark.parametrize(
    ("tool", "privilege"),
    [
        pytest.param("get_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="get"),
        pytest.param("update_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="update"),
        pytest.param("delete_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="delete"),
        pytest.param("rotate_access_token", "PRIVILEGE_ACCESS_TOKENS_READ", id="rotate"),
    ],
)
async def test_a_missing_privilege_is_named_with_what_still_works(harness: Harness, tool: str, privilege: str) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    token = add_token(harness)
    arguments = {"id": token.id} | ({"enabled": False} if tool == "update_access_token" else {})

    told = await harness.call_refused(tool, arguments, confirm="none")

    assert f"An administrator can grant {privilege} through a role." in told
    assert "the credential's own tokens still works" in told


async def test_one_s_own_tokens_can_be_administered_without_a_privilege(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))
    other = add_token(harness, ADMIN)

    got = await harness.call("get_access_token", {"id": other.id})
    changed = await harness.call("update_access_token", {"id": other.id, "enabled": False}, confirm="none")
    deleted = await harness.call("delete_access_token", {"id": other.id}, confirm="none")
    rotated = await harness.call("rotate_access_token", {"id": own_token(harness).id}, confirm="none")

    assert [told.is_error for told in (got, changed, deleted, rotated)] == [False] * 4
