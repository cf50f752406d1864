"""Lists that go on for longer than any cluster can mean."""

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from token_tools.client import connect
from token_tools.errors import BadAnswer
from token_tools.listing import Walk
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
