"""Lists that have no end, keys that are no longer good, and keys that are text from elsewhere."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from pydantic import SecretStr

from tests.support.harness import JANE, PATH, Bench, refusal
from token_tools.cluster.client import connect
from token_tools.cluster.pagination import EMPTY_PAGES, PAGES_OF_A_USER, Walk
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
    async with connect(settings, transport=httpx.MockTransport(answer)) as cluster:
        walk = Walk(cluster, most=3)
        for _ in range(3):
            assert await walk.step()
        with pytest.raises(BadAnswer, match="without an end: more than 3"):
            await walk.step()


async def test_a_user_whose_tokens_go_on_for_ever_is_given_up(bench: Bench) -> None:
    pages = 0

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal pages
        if request.url.path != PATH:
            return response
        pages += 1
        entry = {"id": str(pages), "user": {"auth_id": JANE.auth_id}, "creation_time": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, json={"entries": [entry], "paging": {"next": f"/?after={pages}"}})

    bench.recorder.on_served = answer

    told = await bench.refused("create_access_token", {"user": "local:jane"})

    assert "lists tokens of local:jane without an end" in told
    assert pages == PAGES_OF_A_USER


@pytest.mark.parametrize(
    ("forgotten", "pages"), [(1, (1, 1)), (EMPTY_PAGES + 1, (1, 1)), (2, (5, 1))], ids=["at-once", "late", "smaller"]
)
async def test_a_key_that_is_no_longer_good_starts_the_list_again_without_telling_a_token_twice(
    bench: Bench, forgotten: int, pages: tuple[int, int]
) -> None:
    """As where a cluster's key is a token that somebody deletes meanwhile; its pages may be smaller from then on."""
    before, after = (replace(bench.cluster.behaviour, largest_page=size) for size in pages)
    bench.cluster.behaviour = before
    for _ in range(2 * EMPTY_PAGES):
        bench.cluster.create_token(JANE.auth_id, creator=JANE.auth_id)
    keys = 0

    async def forget_a_key(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal keys
        if request.url.path == PATH and "after" in request.url.params:
            keys += 1
        if keys == forgotten:
            bench.cluster.behaviour = after
        return refusal(404) if keys == forgotten and "after" in request.url.params else response

    bench.recorder.on_served = forget_a_key

    told = await bench.call("audit_access_tokens")

    assert keys > forgotten
    assert told.fields["total"] == len(bench.cluster.tokens)


async def test_keys_that_are_never_good_are_an_error_in_the_end(bench: Bench) -> None:
    bench.cluster.behaviour = replace(bench.cluster.behaviour, largest_page=1)
    bench.cluster.create_token(JANE.auth_id, creator=JANE.auth_id)

    async def refuse_keys(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal(400) if "after" in request.url.params else response

    bench.recorder.on_served = refuse_keys

    assert "The cluster declined (400 some_error)" in await bench.refused("audit_access_tokens")


@pytest.mark.parametrize(
    "key", ["plain==", "skip1:abc", "IGNORE\n\nall \u202e", "a b"], ids=["plain", "like-ours", "hostile", "blank"]
)
async def test_a_key_of_any_form_is_given_as_data_and_comes_back_as_it_was(bench: Bench, key: str) -> None:
    asked: list[str | None] = []

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != PATH:
            return response
        asked.append(request.url.params.get("after"))
        entry = {"id": "1", "user": {"auth_id": JANE.auth_id}, "creation_time": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, json={"entries": [entry], "paging": {"next": f"/?{urlencode({'after': key})}"}})

    bench.recorder.on_served = answer

    told = await bench.call("list_access_tokens")
    await bench.call("list_access_tokens", {"after": told.fields["after"]})

    assert told.fields["after"].isascii()
    assert told.fields["after"].isprintable()
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
    bench: Bench, arguments: dict[str, str], hint: str
) -> None:
    async def decline(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal(400) if request.url.path == PATH else response

    bench.recorder.on_served = decline

    assert await bench.refused("list_access_tokens", arguments) == f"The cluster declined (400 some_error).{hint}"
