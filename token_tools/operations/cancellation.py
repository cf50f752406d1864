"""Keeping a cancelled call from stopping half way."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio


@contextmanager
def shielded() -> Generator[None]:
    """Let the block run to its end although the call is cancelled: half of it would be worse than none or all."""
    with anyio.CancelScope(shield=True):
        yield
