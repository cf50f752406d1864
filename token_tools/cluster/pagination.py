"""Read lists of tokens: one page from a cursor, all tokens of a user, or all tokens of the cluster.

Reading ends whatever a cluster does with its cursors, its limits and its empty pages, and however its tokens change
meanwhile. No token is lost on the way.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import anyio
import anyio.lowlevel
import msgspec

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenPage
from token_tools.errors import BadAnswer, NotFound, Rejected

MAX_EMPTY_PAGES: Final = 8
"""Pages in a row without anything new that are passed over before a list counts as ended."""

PAGE_SIZE: Final = 500
"""Tokens asked for at a time where all are read: few enough to be small, enough not to wait for many answers."""

SENDING_TURNS: Final = 20
"""Turns of the event loop in which a request goes out: a page that is processed before it has would delay the next one,
and an audit would take a sixth longer."""

MAX_LISTED_TOKENS: Final = 2_000_000
"""Tokens after which a list counts as one without an end."""

MAX_PAGES_PER_USER: Final = 64
"""Pages, far more than a user with two tokens can need."""

_PART_CURSOR: Final = re.compile(r"skip(\d{1,5}):([0-9A-Za-z_-]{0,64}):(.*)", re.ASCII | re.DOTALL)
"""A cursor of ours: how many tokens to skip, the id of the last one, and the cluster's cursor, URL-encoded."""


class _Position(NamedTuple):
    """A position in the cluster's list: behind the first `skip` tokens of the page at `cluster_cursor`.

    `last_id` is the id of the last of them. It finds the position again if tokens before it were deleted meanwhile.
    """

    cluster_cursor: str | None
    skip: int = 0
    last_id: str = ""


@dataclass(frozen=True)
class FilteredPage:
    """Some tokens of one page of the cluster: those from `start` to `stop`, without those of other users.

    `entries` are all tokens of that page, each once. `cluster_cursor` is the cluster's own cursor of that page, and
    `next_cluster_cursor` that of the page behind it, None at the end of the list. `user` is whose tokens were asked
    for, None for everybody's.
    """

    entries: Sequence[AccessToken]
    start: int
    stop: int
    cluster_cursor: str | None
    next_cluster_cursor: str | None
    user: Identity | None = None

    @cached_property
    def tokens(self) -> Sequence[AccessToken]:
        """The tokens, each with all that is known of its user."""
        return [
            self.entries[position] if self.user is None else merge_user(self.entries[position], self.user)
            for position in self._positions
        ]

    @property
    def cursor(self) -> str | None:
        """The cursor of the tokens that follow, None at the end."""
        if self.stop < len(self.entries):
            return _format_cursor(_Position(self.cluster_cursor, self.stop, self.entries[self.stop - 1].id))
        return None if self.next_cluster_cursor is None else _format_cursor(_Position(self.next_cluster_cursor))

    @property
    def filtered_out(self) -> int:
        """How many entries are or may be another user's, and are left out."""
        return self.stop - self.start - len(self._positions)

    def shorten(self, count: int) -> "FilteredPage":
        """Return the first `count` tokens, at least 1, with the cursor of those that follow them."""
        return replace(self, stop=self._positions[count - 1] + 1)

    @cached_property
    def _positions(self) -> Sequence[int]:
        user = self.user
        return [
            position
            for position in range(self.start, self.stop)
            if user is None or user.may_be(self.entries[position].user)
        ]


async def fetch_filtered_page(
    cluster: ClusterClient, *, user: Identity | None = None, cursor: str | None = None, limit: int
) -> FilteredPage:
    """Return at most `limit` tokens, of everybody or of a user, from the `cursor` that the page before gave.

    Raises:
        ClusterError: If the cluster cannot be asked, declines, or answers about another user.
    """
    cluster_cursor, skip, last_id = _parse_cursor(cursor)
    query = None if user is None else user.as_user_filter()
    # Only the cluster can choose its cursors, so a page that was shown in part is asked for again. If that part was
    # less than `limit`, a page of `limit` tokens is asked for and its rest shown: then the next call starts on a new
    # page, and the number to skip does not grow from call to call. With a user no limit is asked for: a user has two
    # tokens at most, and some clusters refuse the two together.
    asked_limit = None if user is not None else limit if skip < limit else skip + limit
    seen: set[str | None] = {cluster_cursor}
    page = await cluster.fetch_page(user=query, cursor=cluster_cursor, limit=asked_limit)
    while not page.entries and page.cursor not in seen | {None} and len(seen) < MAX_EMPTY_PAGES:
        seen.add(cluster_cursor := page.cursor)
        page = await cluster.fetch_page(user=query, cursor=cluster_cursor, limit=asked_limit)
    _check_user_matches(page.entries, user)
    entries = [*{token.id: token for token in page.entries}.values()]
    # If the last token that was shown is gone, the page begins anew: to show a token twice is better than to lose one.
    start = next((position for position, token in enumerate(entries, 1) if token.id == last_id), 0)
    # A cursor that repeats, or that comes with an empty page, leads nowhere.
    next_cluster_cursor = None if page.cursor in seen or not page.entries else page.cursor
    return FilteredPage(entries, start, min(start + limit, len(entries)), cluster_cursor, next_cluster_cursor, user)


def _check_user_matches(tokens: Sequence[AccessToken], user: Identity | None) -> None:
    """Raise `BadAnswer` if these are all of one user, and that is another than the one asked for."""
    auth_ids = {token.user.auth_id for token in tokens}
    if (
        user is not None
        and user.auth_id is not None
        and len(auth_ids) == 1
        and auth_ids.isdisjoint({user.auth_id, None})
    ):
        raise BadAnswer(
            f"The answer lists the tokens of another user than {user}: something in front of the cluster, such as a "
            "cache, mixes up answers."
        )


def _format_cursor(position: _Position) -> str:
    """Return the cursor for a position: the cluster's own cursor wherever that is plain."""
    text = position.cluster_cursor or ""
    is_plain = text.isascii() and text.isprintable() and not text.startswith("skip")
    return text if is_plain and not position.skip else f"skip{position.skip}:{position.last_id}:{quote(text)}"


def _parse_cursor(cursor: str | None) -> _Position:
    match = _PART_CURSOR.fullmatch(cursor or "")
    return _Position(cursor) if match is None else _Position(unquote(match[3]) or None, int(match[1]), match[2])


def merge_user(token: AccessToken, user: Identity) -> AccessToken:
    """Return the token with all that is known of its user: some clusters list only a user's auth_id."""
    return msgspec.structs.replace(token, user=token.user.merged_with(user) or token.user)


async def fetch_user_tokens(cluster: ClusterClient, user: Identity) -> list[AccessToken]:
    """Return all tokens that can be a user's, without those that are known to be another user's.

    Raises:
        ClusterError: If a page cannot be had, or the list has no end.
    """
    pager = TokenPager(cluster, user=user.as_user_filter())
    tokens: list[AccessToken] = []
    for _ in range(MAX_PAGES_PER_USER):
        await pager.advance()
        if pager.tokens is None:
            return tokens
        _check_user_matches(pager.tokens, user)
        tokens += [token for token in pager.tokens if user.merged_with(token.user) is not None]
    raise BadAnswer(f"The cluster lists tokens of {user} without an end.")


async def process_all_tokens(
    cluster: ClusterClient, process: Callable[[Sequence[AccessToken]], Awaitable[object]]
) -> None:
    """Read every token of the cluster once: `process` is awaited with one page while the next page is being fetched.

    Raises:
        ClusterError: If a page cannot be had, or the list has no end.
    """
    pager = TokenPager(cluster, limit=PAGE_SIZE)
    await pager.advance()
    while (tokens := pager.tokens) is not None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pager.advance)
                for _ in range(SENDING_TURNS):
                    await anyio.lowlevel.checkpoint()
                await process(tokens)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


class TokenPager:
    """Read a list to its end, of everybody's tokens or of one user's.

    `tokens` are those of the page that was fetched last, without those of earlier pages; None after the last page.
    """

    def __init__(
        self,
        cluster: ClusterClient,
        *,
        user: str | None = None,
        limit: int | None = None,
        max_tokens: int = MAX_LISTED_TOKENS,
    ) -> None:
        self.tokens: Sequence[AccessToken] | None = ()
        self._fetch_page = partial(cluster.fetch_page, user=user, limit=limit)
        # A hash takes a third of the memory of an id. That two of a million ids have the same is less likely than
        # one in ten million.
        self._seen_hashes: set[int] = set()
        self._used_cursors: set[str | None] = set()
        self._cursor: str | None = None
        self._max_tokens = max_tokens
        self._empty_pages = 0
        self._duplicates = 0
        self._has_restarted = False

    async def advance(self) -> None:
        """Fetch the next page, and put its new tokens into `tokens`.

        Raises:
            ClusterError: If the page cannot be had, or the list has no end.
        """
        if self._cursor in self._used_cursors or self._empty_pages >= MAX_EMPTY_PAGES:
            self.tokens = None
            return
        self._used_cursors.add(self._cursor)
        page = await self._fetch_or_restart()
        # None is the cursor of the first page, which was used: if no cursor follows, the next call ends the list.
        self._cursor = page.cursor
        self.tokens = self._drop_seen(page.entries)

    def _drop_seen(self, entries: Sequence[AccessToken]) -> Sequence[AccessToken]:
        new: list[AccessToken] = []
        for token in entries:
            if (id_hash := hash(token.id)) not in self._seen_hashes:
                self._seen_hashes.add(id_hash)
                new.append(token)
        if len(self._seen_hashes) > self._max_tokens:
            raise BadAnswer(f"The cluster lists tokens without an end: more than {self._max_tokens:,}.")
        self._duplicates += len(entries) - len(new)
        # After a restart, pages repeat tokens that were seen. They do not count as empty until all of those have come
        # again.
        is_catching_up = entries and self._has_restarted and self._duplicates <= len(self._seen_hashes)
        self._empty_pages = 0 if new or is_catching_up else self._empty_pages + 1
        return new

    async def _fetch_or_restart(self) -> TokenPage:
        try:
            return await self._fetch_page(cursor=self._cursor)
        except (NotFound, Rejected):
            if self._cursor is None or self._has_restarted:
                raise
            # The token that the cursor stands for may be deleted: read the list once more, and drop what was seen.
            self._has_restarted = True
            self._duplicates = 0
            self._used_cursors = {None}
            return await self._fetch_page(cursor=None)
