"""A page that is too large for one answer is cut: one request for it, and no token lost or told twice on the way."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from tests.support.harness import AD_JANE, ADMIN, JANE, NOW, TOKENS_PATH, Harness, ToolAnswer, refusal_response
from token_tools.sandbox.cluster import Account

pytestmark = pytest.mark.anyio

LIST_TOOL = "list_access_tokens"
MAX_ANSWER_CHARS = 25_000
LONGEST_NAME = "\N{PILE OF POO}" * 96
"""JSON writes twelve characters for each of its own."""


def add_tokens_with_long_names(harness: Harness, count: int) -> None:
    for number in range(count):
        account = Account(auth_id=str(3000 + number), domain="LOCAL", name=f"{number:04}{LONGEST_NAME[4:]}")
        harness.cluster.add_account(account)
        harness.cluster.add_token(account.auth_id, creator=account.auth_id, creation_time=NOW - timedelta(days=9))


def add_tokens_of(harness: Harness, account: Account, count: int) -> None:
    for _ in range(count):
        harness.cluster.add_token(account.auth_id, creator="500", creation_time=NOW - timedelta(days=9))


def list_requests(harness: Harness) -> Sequence[httpx.Request]:
    return [request for request in harness.recorder.requests if request.url.path == TOKENS_PATH]


def shown_ids(expected: ToolAnswer) -> Sequence[str]:
    """The ids that an answer tells, which are the same in the text and in the fields."""
    ids = [entry["id"] for entry in expected.fields["tokens"]]
    assert [line.split(" | ")[0] for line in expected.text.splitlines() if line[:18].isdecimal()] == ids
    return ids


async def read_all_pages(harness: Harness, **arguments: object) -> Sequence[ToolAnswer]:
    pages: list[ToolAnswer] = []
    after = None
    while not pages or after:
        before = len(list_requests(harness))
        answer = await harness.call(LIST_TOOL, arguments | {"after": after})
        assert not answer.is_error, answer.text
        assert len(answer.text) < MAX_ANSWER_CHARS
        assert len(json.dumps(answer.fields)) < MAX_ANSWER_CHARS
        assert len(list_requests(harness)) == before + 1
        after = answer.fields.get("after")
        assert ("and there are more" in answer.text) is (after is not None)
        assert after is None or f"call again with after={json.dumps(after)}." in answer.text
        pages.append(answer)
    return pages


@pytest.mark.parametrize("limit", [1, 7, 50, 200])
@pytest.mark.parametrize("max_page_size", [30, 10_000], ids=["small-pages", "large-pages"])
async def test_all_tokens_are_told_once_over_pages_that_are_too_large(
    harness: Harness, limit: int, max_page_size: int
) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=max_page_size)
    add_tokens_with_long_names(harness, 60)

    pages = await read_all_pages(harness, limit=limit)

    ids = [token_id for answer in pages for token_id in shown_ids(answer)]
    assert ids == sorted(harness.cluster.tokens)
    assert all(len(shown_ids(answer)) <= limit for answer in pages)


async def test_the_largest_page_is_cut_and_not_asked_for_again(harness: Harness) -> None:
    add_tokens_with_long_names(harness, 300)

    answer = await harness.call(LIST_TOOL, {"limit": 200})
    following = await harness.call(LIST_TOOL, {"limit": 200, "after": answer.fields["after"]})

    assert 1 < len(shown_ids(answer)) < 200
    assert [dict(request.url.params) for request in list_requests(harness)] == [{"limit": "200"}] * 2
    count = len(shown_ids(answer)) + len(shown_ids(following))
    assert [*shown_ids(answer), *shown_ids(following)] == sorted(harness.cluster.tokens)[:count]


@pytest.mark.parametrize("limit", [3, 200])
async def test_all_tokens_of_one_user_are_told_once(harness: Harness, limit: int) -> None:
    add_tokens_of(harness, JANE, 300)

    pages = await read_all_pages(harness, user="local:jane", limit=limit)

    ids = [token_id for answer in pages for token_id in shown_ids(answer)]
    assert ids == sorted(token.id for token in harness.tokens_of(JANE))
    assert len(pages) > 1


async def test_tokens_of_a_namesake_are_left_out_and_counted_once(harness: Harness) -> None:
    """Where users cannot be looked up, the cluster lists everybody of a name."""
    for _ in range(150):
        add_tokens_of(harness, JANE, 1)
        add_tokens_of(harness, AD_JANE, 1)

    async def filter_by_name(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/identity/find"):
            return refusal_response(403)
        if request.url.path != TOKENS_PATH:
            return response
        everybody = await harness.recorder.cluster.handle_async_request(
            httpx.Request("GET", request.url.copy_remove_param("user"), headers=request.headers)
        )
        entries = json.loads(await everybody.aread())["entries"]
        return httpx.Response(200, json={"entries": [entry for entry in entries if entry["user"]["auth_id"] != "500"]})

    harness.recorder.on_served = filter_by_name

    pages = await read_all_pages(harness, user="local:jane", limit=200)

    ids = [token_id for answer in pages for token_id in shown_ids(answer)]
    assert ids == sorted(token.id for token in harness.tokens_of(JANE))
    left_out = [int(answer.fields["next_step"].split(" token")[0]) for answer in pages]
    assert sum(left_out) == 150


@pytest.mark.parametrize("deleted", [slice(0, 3), slice(-1, None), slice(None)], ids=["first", "last", "all"])
async def test_no_token_is_lost_where_some_that_were_told_are_deleted_before_the_next_page(
    harness: Harness, deleted: slice
) -> None:
    add_tokens_with_long_names(harness, 60)
    answer = await harness.call(LIST_TOOL, {"limit": 50})
    shown = shown_ids(answer)
    own_id = harness.tokens_of(ADMIN)[0].id
    for token_id in shown[deleted]:
        if token_id != own_id:
            del harness.cluster.tokens[token_id]

    after = answer.fields["after"]
    ids: list[str] = []
    while after:
        following = await harness.call(LIST_TOOL, {"limit": 50, "after": after})
        ids += shown_ids(following)
        after = following.fields.get("after")

    assert {*harness.cluster.tokens} <= {*shown, *ids}
    if shown[-1] in harness.cluster.tokens:
        assert {*shown}.isdisjoint(ids)


async def test_a_page_that_repeats_a_token_tells_it_once_over_several_answers(harness: Harness) -> None:
    add_tokens_of(harness, JANE, 6)

    async def repeat(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH:
            return response
        entries = response.json()["entries"]
        return httpx.Response(200, json={"entries": [entries[0], *entries, *entries]})

    harness.recorder.on_served = repeat

    pages = await read_all_pages(harness, user="local:jane", limit=4)

    ids = [token_id for answer in pages for token_id in shown_ids(answer)]
    assert ids == sorted(token.id for token in harness.tokens_of(JANE))
