"""Test lists of the tokens in one state: which tokens are in it, in which order, and how many do not fit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from mcp.types import CallToolResult

from tests.support.example_tokens import add_token, add_token_without_findings, own_token, remove_findings_of_own_token
from tests.support.harness import (
    ADMIN,
    JANE,
    LDAP_BOB,
    MAX_ANSWER_CHARACTERS,
    NOW,
    TOKENS_PATH,
    Harness,
    ToolAnswer,
    refusal_response,
)
from tests.support.misbehaving_cluster import replace_answer
from token_tools.cluster.pagination import PAGE_SIZE
from token_tools.operations.own_token import INCOMPLETE_LIST
from token_tools.sandbox.cluster import Account, Token

pytestmark = pytest.mark.anyio

LIST_TOOL = "list_access_tokens"
ENDLESS = {"expiration_time": None}


def listed_ids(answer: ToolAnswer) -> Sequence[str]:
    """Return the token ids of an answer, and check that its text and its fields agree."""
    assert not answer.is_error, answer.text
    ids = [entry["id"] for entry in answer.fields["tokens"]]
    assert [line.split(" | ")[0] for line in answer.text.splitlines() if line[:18].isdecimal()] == ids
    return ids


def expires_in(days: float) -> dict[str, Any]:
    return {"expiration_time": NOW + timedelta(days=days)}


@pytest.fixture
def tokens(harness: Harness) -> dict[str, Token]:
    """Add tokens of every state, of which the server's own is none but in the whole list."""
    remove_findings_of_own_token(harness)
    specials: dict[str, dict[str, Any]] = {
        "at the end": expires_in(30),
        "soon": expires_in(0.5),
        "later": expires_in(30.001),
        "soon but disabled": expires_in(1) | {"enabled": False},
        "long expired": expires_in(-300),
        "expired": expires_in(0),
        "expired and disabled": expires_in(-2) | {"enabled": False},
        "endless": ENDLESS | {"creation_time": NOW - timedelta(days=2)},
        "old and endless": ENDLESS | {"creation_time": NOW - timedelta(days=900)},
        "endless but disabled": ENDLESS | {"enabled": False, "creation_time": NOW - timedelta(days=50)},
    }
    return {name: add_token(harness, JANE, **special) for name, special in specials.items()}


@pytest.mark.parametrize(
    ("arguments", "headline", "expected"),
    [
        pytest.param(
            {"expiring_within": "30d"},
            "Enabled and expiring within 30 days: 2 of 11 access tokens on c.example.com:8000, the soonest first.",
            ["soon", "at the end"],
            id="within",
        ),
        pytest.param(
            {"state": "expiring"},
            "Enabled and expiring within 30 days: 2 of 11 access tokens on c.example.com:8000, the soonest first.",
            ["soon", "at the end"],
            id="expiring",
        ),
        pytest.param(
            {"state": "expiring", "expiring_within": "12h"},
            "Enabled and expiring within 12 hours: 1 of 11 access tokens on c.example.com:8000, the soonest first.",
            ["soon"],
            id="both",
        ),
        pytest.param(
            {"state": "expired"},
            "Expired, enabled or not: 3 of 11 access tokens on c.example.com:8000, the latest first.",
            ["expired", "expired and disabled", "long expired"],
            id="expired",
        ),
        pytest.param(
            {"state": "never_expires"},
            "Enabled and never expiring: 2 of 11 access tokens on c.example.com:8000, the oldest first.",
            ["old and endless", "endless"],
            id="never-expires",
        ),
        pytest.param(
            {"state": "disabled"},
            "Disabled and not expired: 2 of 11 access tokens on c.example.com:8000, the oldest first.",
            ["endless but disabled", "soon but disabled"],
            id="disabled",
        ),
    ],
)
async def test_a_state_has_all_its_tokens_in_its_order_as_of_a_time(
    harness: Harness, tokens: dict[str, Token], arguments: dict[str, Any], headline: str, expected: Sequence[str]
) -> None:
    answer = await harness.call(LIST_TOOL, arguments)

    assert listed_ids(answer) == [tokens[name].id for name in expected]
    assert answer.fields["summary"] == answer.text.splitlines()[0] == f"{headline} It is 2026-11-24 09:00 UTC."
    assert answer.fields.keys().isdisjoint({"left_out", "after", "next_step"})


@pytest.mark.usefixtures("tokens")
async def test_the_counts_of_the_states_are_those_of_an_audit(harness: Harness) -> None:
    audit = (await harness.call("audit_access_tokens")).fields
    counts = {
        state: len(listed_ids(await harness.call(LIST_TOOL, {"state": state})))
        for state in ("expiring", "expired", "never_expires", "disabled")
    }

    found = {finding["finding"]: finding["count"] for finding in audit["findings"]}
    assert counts == {
        "expiring": found["expires_soon"],
        "expired": audit["expired"],
        "never_expires": found["never_expires"],
        "disabled": audit["disabled"],
    }


@pytest.mark.parametrize("state", [" Expired ", "EXPIRED"])
async def test_a_state_is_taken_however_its_letters_are_written(
    harness: Harness, tokens: dict[str, Token], state: str
) -> None:
    answer = await harness.call(LIST_TOOL, {"state": state})

    assert tokens["expired"].id in listed_ids(answer)


@pytest.mark.parametrize("state", ["", " ", None, "any", "ANY"])
async def test_a_client_that_must_send_everything_can_say_that_it_means_no_state(
    harness: Harness, state: str | None
) -> None:
    everything = {"user": "", "after": "", "limit": 50}
    page = await harness.call(LIST_TOOL, everything | {"expiring_within": "", "state": state})
    expiring = await harness.call(LIST_TOOL, everything | {"expiring_within": "7d", "state": state})
    expired = await harness.call(LIST_TOOL, everything | {"expiring_within": "", "state": "expired"})

    assert page.text.startswith("1 access token on c.example.com:8000.")
    assert expiring.text.startswith("Enabled and expiring within 7 days: 0 of 1 access token on")
    assert expired.text.startswith("Expired, enabled or not: 0 of 1 access token on")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(
            {"state": state, "expiring_within": "30d"},
            f'`expiring_within` is about tokens that still work, and state="{state}" about others: leave one of '
            "the two out.",
            id=state,
        )
        for state in ("expired", "never_expires", "disabled")
    ]
    + [
        pytest.param(
            {"after": "1", **selecting},
            "`after` is for a list of all tokens. With `state` or `expiring_within` there are no pages: leave it out, "
            "and raise `limit` or name a `user` to see more.",
            id=f"after-with-{next(iter(selecting))}",
        )
        for selecting in ({"state": "disabled"}, {"expiring_within": "30d"})
    ],
)
async def test_arguments_that_contradict_each_other_are_refused_before_anything_is_read(
    harness: Harness, arguments: dict[str, Any], why: str
) -> None:
    assert await harness.call_refused(LIST_TOOL, arguments) == why
    assert harness.recorder.requests == []


async def test_the_first_of_many_are_told_with_the_number_of_the_others(harness: Harness) -> None:
    """Those that come first are on the last pages too, and those with one expiry are told by their ids."""
    remove_findings_of_own_token(harness)
    days = [1 + number * 7 % 20 for number in range(2 * PAGE_SIZE + 60)]
    made = [add_token_without_findings(harness, **expires_in(each)) for each in days]

    answer = await harness.call(LIST_TOOL, {"expiring_within": "10d", "limit": 7})

    matching = [token for token, each in zip(made, days, strict=True) if each <= 10]
    first = sorted(matching, key=lambda token: (token.expiration_time, token.id))[:7]
    assert listed_ids(answer) == [token.id for token in first]
    assert answer.fields["left_out"] == len(matching) - 7 == 523
    assert "within 10 days: 530 of 1,061 access tokens on" in answer.text
    assert answer.fields["next_step"] == "523 more left out: raise `limit`, or name a `user`."
    assert answer.text.endswith(answer.fields["next_step"])


async def test_what_does_not_fit_is_left_out_and_counted_and_a_higher_limit_is_not_advised(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    for number in range(260):
        account = Account(auth_id=str(3000 + number), domain="LOCAL", name=f"{number:04}" + "\N{PILE OF POO}" * 90)
        harness.cluster.add_account(account)
        add_token_without_findings(harness, account, **expires_in(1 + number / 100))

    answer = await harness.call(LIST_TOOL, {"state": "expiring", "limit": 200})

    shown = len(listed_ids(answer))
    assert 1 < shown < 200
    assert len(json.dumps(answer.fields)) < MAX_ANSWER_CHARACTERS
    assert len(answer.text) < MAX_ANSWER_CHARACTERS
    assert answer.fields["left_out"] == 260 - shown
    assert answer.fields["next_step"] == f"{260 - shown} more left out: name a `user`."
    assert "260 of 261 access tokens" in answer.text


async def test_at_the_highest_limit_none_higher_is_advised(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    for _ in range(201):
        add_token_without_findings(harness, expiration_time=None)

    answer = await harness.call(LIST_TOOL, {"state": "never_expires", "limit": 200})

    assert answer.fields["next_step"] == "1 more left out: name a `user`."


async def test_a_state_of_one_user_is_read_from_their_tokens_alone(harness: Harness, tokens: dict[str, Token]) -> None:
    add_token(harness, LDAP_BOB, **expires_in(3))

    answer = await harness.call(LIST_TOOL, {"user": "local:jane", "expiring_within": "30d", "limit": 1})

    assert listed_ids(answer) == [tokens["soon"].id]
    assert answer.text.startswith("Enabled and expiring within 30 days: 2 of 10 access tokens of local:jane on")
    assert answer.fields["left_out"] == 1
    assert harness.recorder.request_lines()[-1] == f"GET {TOKENS_PATH}?user=auth_id%3A1001"


async def test_namesakes_are_left_out_of_a_state_and_counted(harness: Harness) -> None:
    """Where users cannot be looked up, nothing shows that a user without a domain is the one who was asked for."""
    mine = add_token(harness, enabled=False)
    other = add_token(harness, LDAP_BOB, enabled=False)

    async def answer_by_name(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return refusal_response(403)
        if request.url.path != TOKENS_PATH:
            return response
        users = {mine.id: {"domain": "LOCAL", "name": "jane"}, other.id: {"name": "jane"}}
        return httpx.Response(
            200,
            json={
                "entries": [
                    {"id": token.id, "user": users[token.id], "creation_time": "2026-10-01T10:00:00Z", "enabled": False}
                    for token in (mine, other)
                ]
            },
        )

    harness.recorder.on_served = answer_by_name

    answer = await harness.call(LIST_TOOL, {"user": "local:jane", "state": "disabled"})

    assert listed_ids(answer) == [mine.id]
    assert answer.text.startswith("Disabled and not expired: 1 of 1 access token of local:jane on")
    assert answer.fields["next_step"].startswith("1 token left out, of what is or may be another user with that name.")


async def test_a_user_who_is_not_found_has_no_state(harness: Harness) -> None:
    refusal = await harness.call_refused(LIST_TOOL, {"user": "local:jain", "state": "expired"})

    assert refusal.startswith("The cluster finds no user local:jain.")
    assert refusal.endswith("Without `user`, everybody's tokens are listed.")


async def test_a_refused_list_of_a_user_who_was_found_is_told_as_that(harness: Harness) -> None:
    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(409) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = refuse

    refusal = await harness.call_refused(LIST_TOOL, {"user": "local:jane", "state": "expired"})

    assert refusal.startswith("The cluster found the user local:jane, but did not list their tokens.")


async def test_a_user_of_whom_the_cluster_may_know_nothing_has_no_empty_state(harness: Harness) -> None:
    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH:
            return httpx.Response(200, json={"entries": []})
        return refusal_response(404) if request.url.path.endswith("/identity/find") else response

    harness.recorder.on_served = answer

    refusal = await harness.call_refused(LIST_TOOL, {"user": "local:jane", "state": "expired"})

    assert refusal.startswith("The cluster finds no user local:jane.")


@pytest.mark.parametrize("has_others", [True, False])
async def test_a_list_without_the_server_s_own_token_is_said_not_to_be_whole(
    harness: Harness, has_others: bool
) -> None:
    other = {"id": "77", "user": JANE.identity(), "creation_time": "2026-10-01T10:00:00Z"}
    harness.recorder.on_served = replace_answer(
        "GET", httpx.Response(200, json={"entries": [other] if has_others else []})
    )

    answer = await harness.call(LIST_TOOL, {"state": "never_expires"})

    assert INCOMPLETE_LIST in answer.text
    assert INCOMPLETE_LIST in answer.fields["summary"]


async def test_a_whole_list_is_not_doubted(harness: Harness) -> None:
    answer = await harness.call(LIST_TOOL, {"state": "never_expires"})

    assert listed_ids(answer) == [own_token(harness).id]
    assert INCOMPLETE_LIST not in answer.text


async def test_a_credential_that_may_see_its_own_tokens_only_is_named(harness: Harness) -> None:
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset()))

    async def list_own(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json={"entries": []}) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = list_own

    answer = await harness.call(LIST_TOOL, {"state": "expired"})

    assert "these may be its own user's tokens only" in answer.fields["summary"]


async def test_what_is_unfinished_about_a_user_is_told_with_their_state(harness: Harness) -> None:
    async def lose_answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(502) if request.method == "POST" and request.url.path == TOKENS_PATH else response

    serve, harness.recorder.on_served = harness.recorder.on_served, lose_answer
    await harness.call_refused("create_access_token", {"user": "local:jane"})
    harness.recorder.on_served = serve
    harness.now += timedelta(minutes=10)

    answer = await harness.call(LIST_TOOL, {"user": "local:jane", "state": "expiring", "expiring_within": "100d"})

    page = await harness.call(LIST_TOOL, {"user": "local:jane"})
    caveats = answer.fields["summary"].partition(" UTC. ")[2]
    assert "create" in caveats
    assert caveats == page.fields["summary"].partition(" UTC. ")[2]


async def test_a_page_that_fails_is_an_error_and_not_half_a_state(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=1)
    add_token(harness)

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=[]) if "after" in request.url.params else response

    harness.recorder.on_served = fail

    assert "not a list of access tokens" in await harness.call_refused(LIST_TOOL, {"state": "disabled"})


async def test_progress_is_reported_while_all_tokens_are_read(harness: Harness) -> None:
    for number in range(PAGE_SIZE):
        harness.cluster.add_token(str(2000 + number), creator="500")
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with harness.connected() as client:
        result: CallToolResult = await client.call_tool(LIST_TOOL, {"state": "disabled"}, progress_callback=hear)

    assert not result.is_error
    assert heard == [(PAGE_SIZE, "500 tokens read"), (PAGE_SIZE + 1, "501 tokens read")]


async def test_times_are_by_the_cluster_s_clock_where_that_differs(harness: Harness) -> None:
    token = add_token(harness, **expires_in(1))

    async def set_date(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.headers["Date"] = "Thu, 26 Nov 2026 09:00:00 GMT"
        return response

    harness.recorder.on_served = set_date

    answer = await harness.call(LIST_TOOL, {"state": "expired"})

    assert listed_ids(answer) == [token.id]
    assert "It is 2026-11-26 09:00 UTC by the cluster's clock" in answer.fields["summary"]
