"""Waiting for what gives no event, such as a line in a log or a row in a database of another process."""

from collections.abc import Callable

import anyio

PAUSE_SECONDS = 0.01
MAX_PAUSES = 3_000


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds. Fail if it does not hold within half a minute."""
    for _ in range(MAX_PAUSES):
        if condition():
            return
        await anyio.sleep(PAUSE_SECONDS)
    raise AssertionError("it did not come to that in time")
