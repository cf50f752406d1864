"""Test that input of callers and clusters is bounded before it is processed, and that answers are bounded."""

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.harness import AGREES, JANE, MAX_ANSWER_CHARACTERS, NOW, TOKENS_PATH, Harness, ScriptedPerson
from tests.support.record import add_entries
from tests.support.services import open_journal

pytestmark = pytest.mark.anyio


def add_many_tokens(harness: Harness, number: int) -> list[str]:
    """Add tokens for one user, far more than a user can have, and return their ids."""
    made = [
        harness.cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - timedelta(days=40)).id
        for _ in range(number)
    ]
    return sorted(made)


@pytest.mark.parametrize(
    "text", ["P" + "Y" * 100_000 + "\nX", "1" * 200_000, "P" + "Y" * 4_000 + "\nX", " " * 3_000 + "x"]
)
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("create_access_token", "expiration_time"),
        ("update_access_token", "expiration_time"),
        ("rotate_access_token", "expiration_time"),
        ("audit_access_tokens", "expiring_within"),
        ("export_access_tokens", "format"),
        ("list_access_tokens", "state"),
        ("list_access_tokens", "expiring_within"),
        ("list_access_tokens", "after"),
        ("list_access_tokens", "user"),
        ("create_access_token", "user"),
        ("get_access_token", "id"),
        ("delete_access_token", "id"),
    ],
)
async def test_no_text_of_a_caller_is_too_long_to_be_refused_at_once(
    harness: Harness, tool: str, name: str, text: str
) -> None:
    """A pattern that backtracks would take minutes on such a text; a call has seconds."""
    needed: dict[str, Any] = {
        "create_access_token": {"user": "local:jane"},
        "update_access_token": {"id": "1" * 22},
        "rotate_access_token": {"id": "1" * 22},
    }

    refusal = await harness.call_refused(tool, needed.get(tool, {}) | {name: text})

    assert len(refusal) < 1_000


async def test_many_and_long_mistakes_are_answered_briefly(harness: Harness) -> None:
    refusal = await harness.call_refused("list_access_tokens", {f"{number}{'x' * 2_000}": 1 for number in range(500)})

    assert len(refusal) < 5_000
    assert refusal.count("has no argument") == 8


@pytest.mark.parametrize(
    "encoding", ["gzip", "gzip, gzip, gzip", "deflate", "br", "zstd", "IDENTITY, gzip", "x-unknown"]
)
async def test_an_answer_in_an_encoding_that_was_not_asked_for_is_not_decoded(harness: Harness, encoding: str) -> None:
    squeezed = gzip.compress(gzip.compress(gzip.compress(b'{"entries": []}' + b" " * (1 << 20))))

    class Squeezed(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield squeezed

    async def squeeze(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, stream=Squeezed(), headers={"Content-Encoding": encoding})

    harness.recorder.on_served = squeeze

    refusal = await harness.call_refused("list_access_tokens")

    assert "is compressed, which was not asked for, and was not read" in refusal


async def test_an_answer_that_says_that_it_is_not_encoded_is_read(harness: Harness) -> None:
    async def tell(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.headers["Content-Encoding"] = "Identity"
        return response

    harness.recorder.on_served = tell

    assert not (await harness.call("list_access_tokens")).is_error


@pytest.mark.parametrize("tool", ["get_access_token", "list_access_tokens", "audit_access_tokens"])
async def test_an_answer_stays_within_bounds_where_a_user_has_thousands_of_tokens(harness: Harness, tool: str) -> None:
    [first, *_] = add_many_tokens(harness, 3_000)
    arguments: dict[str, Any] = {
        "get_access_token": {"id": first},
        "list_access_tokens": {"user": "local:jane", "limit": 200},
    }

    answer = await harness.call(tool, arguments.get(tool, {}))

    assert not answer.is_error
    assert len(answer.text) < MAX_ANSWER_CHARACTERS
    assert len(json.dumps(answer.fields)) < MAX_ANSWER_CHARACTERS
    if tool == "get_access_token":
        assert answer.fields["other_tokens"][-1] == "and 2,979 more"


@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token"])
async def test_a_refusal_stays_within_bounds_where_a_user_has_thousands_of_tokens(harness: Harness, tool: str) -> None:
    [first, *_] = add_many_tokens(harness, 3_000)

    refusal = await harness.call_refused(
        tool, {"user": "local:jane"} if tool == "create_access_token" else {"id": first}
    )

    assert len(refusal) < 2_000
    assert "local:jane has 3,000 access tokens already" in refusal


async def test_a_refusal_of_the_cluster_s_stays_within_bounds_too(harness: Harness) -> None:
    for token_id in add_many_tokens(harness, 3_000):
        token = harness.cluster.tokens[token_id]
        harness.cluster.tokens[token_id] = replace(token, enabled=False)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert len(refusal) < 2_000
    assert "and 2,997 more already" in refusal


async def test_a_question_stays_within_bounds_whatever_was_begun_before(harness: Harness) -> None:
    async with open_journal(harness.settings) as journal:
        await journal.check_ready()
    add_entries(harness.settings, [{"operation": "create"} for _ in range(2_000)])
    person = ScriptedPerson([AGREES])

    answer = await harness.call(
        "create_access_token", {"user": "local:jane", "expiration_time": "never"}, person=person, max_changes=0
    )

    assert not answer.is_error
    assert len(person.questions[0]) < 2_000
    assert "has no known end, and no token of it is seen" in person.questions[0]
    assert len(answer.text) < MAX_ANSWER_CHARACTERS


async def test_a_page_of_more_tokens_than_any_cluster_gives_is_refused_before_it_is_read(harness: Harness) -> None:
    entry = {"id": "1" * 23, "user": {"auth_id": "500"}, "creation_time": "2026-10-01T10:00:00Z"}
    page = json.dumps({"entries": [entry] * 100_000}).encode()

    async def flood(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, content=page) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = flood

    assert "more than 20,000 access tokens at once" in await harness.call_refused("list_access_tokens")


@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_names_of_any_length_leave_room_for_the_rest(harness: Harness, tool: str) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id)
    name = "\U0001f600 \u202e" * 200_000

    async def rename(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.startswith(TOKENS_PATH):
            return response
        user = {"name": name, "domain": name, "sid": name, "auth_id": "7"}
        entry = {"id": token.id, "user": user, "creator": user, "creation_time": "2026-10-01T10:00:00Z"}
        return httpx.Response(200, json={"entries": [entry]} if request.url.path == TOKENS_PATH else entry)

    harness.recorder.on_served = rename

    answer = await harness.call(tool, {"id": token.id} if tool == "get_access_token" else {})

    assert not answer.is_error
    assert len(answer.text) < MAX_ANSWER_CHARACTERS
    assert len(json.dumps(answer.fields)) < MAX_ANSWER_CHARACTERS
