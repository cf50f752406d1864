"""Reading lists that go on: a page from anywhere, all of a user's tokens, all of the cluster's.

Whatever a cluster does with its keys, its limits and its empty pages, and however its tokens change meanwhile, reading
comes to an end and tells no token twice.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from token_tools.client import ClusterClient
from token_tools.errors import BadAnswer
from token_tools.identity import Identity
from token_tools.models import AccessToken

EMPTY_PAGES: Final = 8
"""How many pages without anything new in a row are passed over before a list counts as ended."""

PAGE: Final = 500
"""Tokens asked for at a time where all are read: few enough to be small, enough not to wait for many answers."""

MOST: Final = 2_000_000
"""Tokens after which a list is taken for one without an end."""

_SKIP: Final = re.compile(r"skip(\d{1,9}):(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Part:
    """Some tokens, and where to go on: None at the end. `foreign` entries are not of the user who was asked for."""

    tokens: Sequence[AccessToken]
    after: str | None
    foreign: int = 0


async def read_part(
    cluster: ClusterClient, *, user: Identity | None = None, after: str | None = None, limit: int
) -> Part:
    """At most `limit` tokens: everybody's, or a user's, from where `after` of the part before says."""
    # A cluster may give more than it was asked for; what did not fit is asked for again and skipped up to there.
    skipping = _SKIP.fullmatch(after or "")
    skip = int(skipping[1]) if skipping else 0
    key: str | None = (skipping[2] or None) if skipping else after
    query = None if user is None else user.as_query()
    # A user has two tokens at most, and some clusters refuse a limit together with a user.
    asked_limit = limit + skip if user is None else None
    seen: set[str | None] = {key}
    page = await cluster.list_tokens(user=query, after=key, limit=asked_limit)
    while not page.entries and page.after not in seen | {None} and len(seen) < EMPTY_PAGES:
        seen.add(key := page.after)
        page = await cluster.list_tokens(user=query, after=key, limit=asked_limit)
    rest = page.entries[skip:]
    shown = rest[:limit]
    tokens = [token for token in shown if user is None or user.covers(token.user)]
    if len(rest) > limit:
        following: str | None = f"skip{skip + limit}:{key or ''}"
    else:
        # A key that repeats, or that comes with nothing at all, leads nowhere.
        following = None if page.after in seen or not page.entries else page.after
    return Part(tokens, following, foreign=len(shown) - len(tokens))


async def read_user(cluster: ClusterClient, user: Identity) -> list[AccessToken]:
    """All tokens that can be a user's: without those that are known to be somebody else's."""
    return [
        token
        async for page in _read_pages(cluster, user=user.as_query(), limit=None)
        for token in page
        if user.completed_by(token.user) is not None
    ]


def read_all(cluster: ClusterClient) -> AsyncGenerator[Sequence[AccessToken]]:
    """Every token of the cluster once, a page at a time."""
    return _read_pages(cluster, user=None, limit=PAGE)


async def _read_pages(
    cluster: ClusterClient, *, user: str | None, limit: int | None
) -> AsyncGenerator[Sequence[AccessToken]]:
    # A hash an id: eight bytes suffice to tell some millions of them apart.
    seen: set[int] = set()
    keys: set[str | None] = {None}
    after, idle = None, 0
    while idle < EMPTY_PAGES:
        page = await cluster.list_tokens(user=user, after=after, limit=limit)
        new = {hash(token.id): token for token in page.entries if hash(token.id) not in seen}
        seen.update(new)
        if len(seen) > MOST:
            raise BadAnswer(f"The cluster lists tokens without an end: more than {MOST:,}.")
        yield [*new.values()]
        if page.after in keys:
            return
        keys.add(after := page.after)
        idle = 0 if new else idle + 1
