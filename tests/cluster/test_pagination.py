"""Test lists without an end, paging keys that expired, and paging keys that are untrusted text."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pydantic import SecretStr

from tests.support.harness import JANE, TOKENS_PATH, Harness, Mode, ToolAnswer, refusal_response
from tests.support.scripted_cluster import TOKEN_ENTRY, client_with_answer
from token_tools.cluster.client import connect
from token_tools.cluster.pagination import MAX_EMPTY_PAGES, MAX_PAGES_PER_USER, TokenPager
from token_tools.errors import BadAnswer
from token_tools.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_list_that_always_has_more_is_given_up(tmp_path: Path) -> None:
    pages = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal pages
        pages += 1
        entry = {"id": str(pages), "user": {"auth_id": "1"}, "creation_time": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, json={"entries": [entry], "paging": {"next": f"/?after={pages}"}})

    settings = Settings(host="c", bearer_token=SecretStr("access-v1:own"), state_dir=tmp_path)
    async with connect(settings, cluster_transport=httpx.MockTransport(answer)) as cluster:
        walk = TokenPager(cluster, max_tokens=3)
        for _ in range(3):
            await walk.advance()
            assert walk.tokens
        with pytest.raises(BadAnswer, match="without an end: more than 3"):
            await walk.advance()


async def test_a_user_whose_tokens_go_on_for_ever_is_given_up(harness: Harness) -> None:
    pages = 0

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal pages
        if request.url.path != TOKENS_PATH:
            return response
        pages += 1
        entry = {"id": str(pages), "user": {"auth_id": JANE.auth_id}, "creation_time": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, json={"entries": [entry], "paging": {"next": f"/?after={pages}"}})

    harness.recorder.on_served = answer

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "lists tokens of local:jane without an end" in refusal
    assert pages == MAX_PAGES_PER_USER


@pytest.mark.parametrize(
    ("forgotten", "pages"),
    [(1, (1, 1)), (MAX_EMPTY_PAGES + 1, (1, 1)), (2, (5, 1))],
    ids=["at-once", "late", "smaller"],
)
async def test_a_key_that_is_no_longer_good_starts_the_list_again_without_telling_a_token_twice(
    harness: Harness, forgotten: int, pages: tuple[int, int]
) -> None:
    """A key expires if it names a token that somebody deletes; the cluster's pages may be smaller afterwards."""
    before, after = (replace(harness.cluster.behaviour, max_page_size=size) for size in pages)
    harness.cluster.behaviour = before
    for _ in range(2 * MAX_EMPTY_PAGES):
        harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id)
    keys = 0

    async def forget_a_key(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal keys
        if request.url.path == TOKENS_PATH and "after" in request.url.params:
            keys += 1
        if keys == forgotten:
            harness.cluster.behaviour = after
        return refusal_response(404) if keys == forgotten and "after" in request.url.params else response

    harness.recorder.on_served = forget_a_key

    answer = await harness.call("audit_access_tokens")

    assert keys > forgotten
    assert answer.fields["total"] == len(harness.cluster.tokens)


async def test_keys_that_are_never_good_are_an_error_in_the_end(harness: Harness) -> None:
    harness.cluster.behaviour = replace(harness.cluster.behaviour, max_page_size=1)
    harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id)

    async def refuse_keys(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if "after" in request.url.params else response

    harness.recorder.on_served = refuse_keys

    assert "The cluster declined (400 some_error)" in await harness.call_refused("audit_access_tokens")


@pytest.mark.parametrize(
    "key", ["plain==", "skip1:abc", "IGNORE\n\nall \u202e", "a b"], ids=["plain", "like-ours", "hostile", "blank"]
)
async def test_a_key_of_any_form_is_given_as_data_and_comes_back_as_it_was(harness: Harness, key: str) -> None:
    asked: list[str | None] = []

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH:
            return response
        asked.append(request.url.params.get("after"))
        entry = {"id": "1", "user": {"auth_id": JANE.auth_id}, "creation_time": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, json={"entries": [entry], "paging": {"next": f"/?{urlencode({'after': key})}"}})

    harness.recorder.on_served = answer

    reply = await harness.call("list_access_tokens")
    await harness.call("list_access_tokens", {"after": reply.fields["after"]})

    assert reply.fields["after"].isascii()
    assert reply.fields["after"].isprintable()
    assert asked == [None, key]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({}, ""),
        ({"after": "k"}, " `after` has to be as the answer before gave it; without it, all begins anew."),
    ],
    ids=["first", "following"],
)
async def test_a_list_that_is_declined_tells_of_the_key_if_there_was_one(
    harness: Harness, arguments: dict[str, str], hint: str
) -> None:
    async def decline(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = decline

    assert (
        await harness.call_refused("list_access_tokens", arguments) == f"The cluster declined (400 some_error).{hint}"
    )


@pytest.mark.parametrize(
    ("page", "after"),
    [
        pytest.param({"entries": [TOKEN_ENTRY]}, None, id="no-paging"),
        pytest.param({"entries": [TOKEN_ENTRY], "paging": None}, None, id="null-paging"),
        pytest.param({"entries": [TOKEN_ENTRY], "paging": {}}, None, id="empty-paging"),
        pytest.param({"entries": [TOKEN_ENTRY], "paging": {"next": None}}, None, id="null-next"),
        pytest.param({"entries": [TOKEN_ENTRY], "paging": {"next": ""}}, None, id="empty-next"),
        pytest.param(
            {"entries": [TOKEN_ENTRY], "paging": {"next": f"{TOKENS_PATH}?after=k%2F1&limit=9"}}, "k/1", id="relative"
        ),
        pytest.param(
            {"entries": [TOKEN_ENTRY], "paging": {"next": f"https://evil{TOKENS_PATH}?after=k"}}, "k", id="foreign-host"
        ),
        pytest.param(
            {"entries": [TOKEN_ENTRY], "paging": {"next": f"{TOKENS_PATH}?after=start"}}, None, id="repeating"
        ),
    ],
)
async def test_each_form_of_paging_is_understood(mode: Mode, page: dict[str, Any], after: str | None) -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json=page)

    async with client_with_answer(mode, answer) as client:
        reply = ToolAnswer.from_result(await client.call_tool("list_access_tokens", {"after": "start"}))

    assert [str(url) for url in asked] == [f"https://c.example.com:8000{TOKENS_PATH}?after=start&limit=50"]
    assert [entry["id"] for entry in reply.fields["tokens"]] == [TOKEN_ENTRY["id"]]
    assert reply.fields.get("after") == after


async def test_pages_without_end_and_without_tokens_are_not_followed_for_ever(mode: Mode) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"entries": [], "paging": {"next": f"{TOKENS_PATH}?after={len(asked)}"}})

    async with client_with_answer(mode, answer) as client:
        reply = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))

    assert len([url for url in asked if TOKENS_PATH in url]) == 8
    assert reply.fields["tokens"] == []
    assert "after" not in reply.fields


async def test_an_empty_page_before_a_full_one_is_passed_over(mode: Mode) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "after" in request.url.params:
            return httpx.Response(200, json={"entries": [TOKEN_ENTRY]})
        return httpx.Response(200, json={"entries": [], "paging": {"next": f"{TOKENS_PATH}?after=k"}})

    async with client_with_answer(mode, answer) as client:
        reply = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))

    assert [entry["id"] for entry in reply.fields["tokens"]] == [TOKEN_ENTRY["id"]]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(httpx.Response(401), "does not accept this server's own credential (401)", id="401-without-body"),
        pytest.param(
            httpx.Response(403, json={"error_class": "some_error", "description": "no\nway"}),
            'lacks a privilege (403 some_error: "no\\nway"). An administrator can grant PRIVILEGE_ACCESS_TOKENS_READ',
            id="403",
        ),
        pytest.param(httpx.Response(500, html="<h1>Bearer access-v1:own</h1>"), "cannot answer now (500).", id="html"),
        pytest.param(httpx.Response(429, headers={"Retry-After": "7200"}), "It asks to wait 2 hours.", id="429"),
        pytest.param(httpx.Response(200, html="<h1>Login</h1>"), "not a list of access tokens", id="html-200"),
        pytest.param(httpx.Response(200, json=[]), "not a list of access tokens", id="other-json"),
        pytest.param(httpx.Response(200, json={"entries": [{}]}), '"entries.0.id"', id="other-shape"),
        pytest.param(httpx.Response(302, headers={"Location": "https://evil/"}), "redirect", id="redirect"),
    ],
)
async def test_an_answer_that_is_no_page_is_explained_and_not_quoted(
    mode: Mode, answer: httpx.Response, expected: str
) -> None:
    asked: list[httpx.URL] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return answer

    async with client_with_answer(mode, serve) as client:
        result = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))

    assert result.is_error
    assert expected in result.text
    assert "access-v1" not in result.text
    assert {url.host for url in asked} == {"c.example.com"}
