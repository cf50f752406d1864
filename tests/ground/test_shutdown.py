"""Test how much time is left at the end, where no process ends."""

from datetime import timedelta

import anyio
import pytest

from token_tools.shutdown import Shutdown

pytestmark = pytest.mark.anyio
MAX_SECONDS = 5


async def test_an_end_that_has_begun_is_not_waited_for() -> None:
    shutdown = Shutdown(timedelta(hours=1))
    shutdown.begin()

    with anyio.fail_after(MAX_SECONDS):
        await shutdown.wait_begun()

    assert shutdown.has_begun
