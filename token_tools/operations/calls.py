"""Calls of tools as a text advises them: they can be made as they stand.

Where a server has several clusters, each call names one. A text is rendered for the call that is at work, so the
cluster of that call is the one; a text about all clusters names each in its turn.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_CLUSTER: Final[ContextVar[str | None]] = ContextVar("cluster", default=None)


@contextmanager
def naming_cluster(name: str | None) -> Generator[None]:
    """Let the calls that are rendered in the block name a cluster; None if the server has only one."""
    token = _CLUSTER.set(name)
    try:
        yield
    finally:
        _CLUSTER.reset(token)


def find_named_cluster() -> str | None:
    """Return the cluster that rendered calls name; None if the server has only one, or the call is for all."""
    return _CLUSTER.get()


def format_call(tool: str, **arguments: str | bool) -> str:
    """Return a call: `update_access_token(id="184…", enabled=false)`, with the cluster where there are several."""
    cluster = _CLUSTER.get()
    named = arguments if cluster is None else {"cluster": cluster, **arguments}
    return f"{tool}({', '.join(f'{name}={json.dumps(value, ensure_ascii=False)}' for name, value in named.items())})"
