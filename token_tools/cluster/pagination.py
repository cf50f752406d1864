"""Reading lists that go on: a page from anywhere, all of a user's tokens, all of the cluster's.

Whatever a cluster does with its keys, its limits and its empty pages, and however its tokens change meanwhile, reading
comes to an end and tells no token twice.
"""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from urllib.parse import quote, unquote

import anyio
import anyio.lowlevel

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import LazyPage
from token_tools.errors import BadAnswer, NotFound, Rejected

MAX_EMPTY_PAGES: Final = 8
"""How many pages without anything new in a row are passed over before a list counts as ended."""

PAGE_SIZE: Final = 500
"""Tokens asked for at a time where all are read: few enough to be small, enough not to wait for many answers."""

BATCH_SIZE: Final = 50
"""Tokens that are looked at in one go, before others who wait for the processor have their turn."""

MAX_LISTED_TOKENS: Final = 2_000_000
"""Tokens after which a list is taken for one without an end."""

MAX_PAGES_PER_USER: Final = 64
"""Far more than a user with two tokens can need."""

Processed = TypeVar("Processed")

_SKIP_CURSOR: Final = re.compile(r"skip(\d{1,9}):(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class FilteredPage:
    """Some tokens, and where to go on.

    None at the end. `filtered_out` entries are not of the user who was asked for.
    """

    tokens: Sequence[AccessToken]
    cursor: str | None
    filtered_out: int = 0


async def fetch_filtered_page(
    cluster: ClusterClient, *, user: Identity | None = None, cursor: str | None = None, limit: int
) -> FilteredPage:
    """At most `limit` tokens: everybody's, or a user's, from where `cursor` of the part before says."""
    # A cluster may give more than it was asked for; what did not fit is asked for again and skipped up to there.
    key, skip = _parse_cursor(cursor)
    query = None if user is None else user.as_user_filter()
    # A user has two tokens at most, and some clusters refuse a limit together with a user.
    asked_limit = limit + skip if user is None else None
    seen: set[str | None] = {key}
    page = await cluster.fetch_page(user=query, cursor=key, limit=asked_limit)
    while not page.entries and page.cursor not in seen | {None} and len(seen) < MAX_EMPTY_PAGES:
        seen.add(key := page.cursor)
        page = await cluster.fetch_page(user=query, cursor=key, limit=asked_limit)
    _check_user_matches(page.entries, user)
    rest = page.entries[skip:]
    shown = [*{token.id: token for token in reversed(rest[:limit])}.values()][::-1]
    tokens = [token for token in shown if user is None or user.may_be(token.user)]
    if len(rest) > limit:
        following: str | None = _format_cursor(key, skip + limit)
    elif page.cursor is None or page.cursor in seen or not page.entries:
        # A key that repeats, or that comes with nothing at all, leads nowhere.
        following = None
    else:
        following = _format_cursor(page.cursor, 0)
    return FilteredPage(tokens, following, filtered_out=len(shown) - len(tokens))


def _check_user_matches(tokens: Sequence[AccessToken], user: Identity | None) -> None:
    """Nothing unless these are all of one other user, whom the request that is answered was not about."""
    keys = {token.user.auth_id for token in tokens}
    if user is not None and user.auth_id is not None and len(keys) == 1 and keys.isdisjoint({user.auth_id, None}):
        raise BadAnswer(
            f"The answer lists the tokens of another user than {user}: something in front of the cluster, such as a "
            "cache, mixes up answers."
        )


def _format_cursor(cluster_cursor: str | None, skip: int) -> str:
    """Where to go on, as the next call has to name it: the cluster's own key wherever that is plain."""
    text = cluster_cursor or ""
    is_plain = text.isascii() and text.isprintable() and not text.startswith("skip")
    return text if is_plain and not skip else f"skip{skip}:{quote(text)}"


def _parse_cursor(cursor: str | None) -> tuple[str | None, int]:
    """The cluster's key, and how many tokens of its page were shown before."""
    place = _SKIP_CURSOR.fullmatch(cursor or "")
    return (cursor, 0) if place is None else (unquote(place[2]) or None, int(place[1]))


def merge_user(token: AccessToken, user: Identity) -> AccessToken:
    """The token with all that is known of its user: some clusters list no more of them than a key."""
    return token.model_copy(update={"user": token.user.merged_with(user) or token.user})


async def fetch_user_tokens(cluster: ClusterClient, user: Identity) -> list[AccessToken]:
    """All tokens that can be a user's: without those that are known to be somebody else's."""
    walk = TokenPager(cluster, user=user.as_user_filter())
    tokens: list[AccessToken] = []
    for _ in range(MAX_PAGES_PER_USER):
        page = await walk.fetch_next_tokens()
        if page is None:
            return tokens
        _check_user_matches(page, user)
        tokens += [token for token in page if user.merged_with(token.user) is not None]
    raise BadAnswer(f"The cluster lists tokens of {user} without an end.")


async def fetch_all_tokens(
    cluster: ClusterClient, process: Callable[[AccessToken], Processed]
) -> AsyncGenerator[list[tuple[AccessToken, Processed]]]:
    """Every token of the cluster once with what `process` makes of it, a page at a time.

    While a page is on its way, the one before it is read, and the one before that digested.
    """
    walk = TokenPager(cluster, limit=PAGE_SIZE)
    tokens: Sequence[AccessToken] = ()
    await walk.advance()
    while (page := walk.page) is not None:
        digested: list[tuple[AccessToken, Processed]] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(walk.advance)
                # The turns in which these are digested are those in which the request goes out.
                digested += await _process_in_batches(tokens, process)
                tokens = walk.deduplicate(page)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if digested:
            yield digested
    if tokens:
        yield await _process_in_batches(tokens, process)


async def _process_in_batches(
    tokens: Sequence[AccessToken], process: Callable[[AccessToken], Processed]
) -> list[tuple[AccessToken, Processed]]:
    digested: list[tuple[AccessToken, Processed]] = []
    for start in range(0, len(tokens), BATCH_SIZE):
        digested += [(token, process(token)) for token in tokens[start : start + BATCH_SIZE]]
        # A thread would only quarrel with this one, which has all to do with what arrives.
        await anyio.lowlevel.checkpoint()
    return digested


class _CompactIdSet:
    """A set of ids in some ten bytes for each, where Python's takes ninety: an audit may see a million of them.

    It keeps a hash of each; that two of a million have the same is a chance of one in millions.
    """

    def __init__(self) -> None:
        self.count = 0
        self._hashes = [bytearray() for _ in range(4096)]

    def add(self, new: str) -> bool:
        """Whether it was not there before."""
        number = hash(new)
        mark = number.to_bytes(8, "little", signed=True)
        marks = self._hashes[number % len(self._hashes)]
        if mark in marks:
            return False
        marks += mark
        self.count += 1
        return True


class TokenPager:
    """A list read to its end, of everybody's tokens or one user's.

    A page is fetched and then read; the next may be fetched before that. `page` is the one fetched last, None after the
    last of all.
    """

    def __init__(
        self,
        cluster: ClusterClient,
        *,
        user: str | None = None,
        limit: int | None = None,
        max_tokens: int = MAX_LISTED_TOKENS,
    ) -> None:
        self.page: LazyPage | None = None
        self._fetch_page = partial(cluster.fetch_page_lazily, user=user, limit=limit)
        self._seen_ids = _CompactIdSet()
        self._used_cursors: set[str | None] = set()
        self._cursor: str | None = None
        self._max_tokens = max_tokens
        self._empty_pages = 0
        self._duplicates = 0
        self._has_restarted = False

    async def fetch_next_tokens(self) -> Sequence[AccessToken] | None:
        """As `advance` and `deduplicate`: the tokens of the next page that were not on one before.

        None after the last page.
        """
        await self.advance()
        return None if self.page is None else self.deduplicate(self.page)

    async def advance(self) -> None:
        """Let `page` be the next one.

        Raises:
            ClusterError: If it cannot be had.
        """
        if self._cursor in self._used_cursors or self._empty_pages >= MAX_EMPTY_PAGES:
            self.page = None
            return
        self._used_cursors.add(self._cursor)
        self.page = await self._fetch_or_restart()
        # No key says that this was the last page, as it says of the first that there is none before it.
        self._cursor = self.page.cursor

    def deduplicate(self, page: LazyPage) -> Sequence[AccessToken]:
        """The tokens of a page that were not on one before.

        Raises:
            BadAnswer: If it cannot be read, or the list has no end.
        """
        entries = page.decode().entries
        new = [token for token in entries if self._seen_ids.add(token.id)]
        if self._seen_ids.count > self._max_tokens:
            raise BadAnswer(f"The cluster lists tokens without an end: more than {self._max_tokens:,}.")
        self._duplicates += len(entries) - len(new)
        is_on_its_way = entries and self._has_restarted and self._duplicates <= self._seen_ids.count
        self._empty_pages = 0 if new or is_on_its_way else self._empty_pages + 1
        return new

    async def _fetch_or_restart(self) -> LazyPage:
        try:
            return await self._fetch_page(cursor=self._cursor)
        except (NotFound, Rejected):
            if self._cursor is None or self._has_restarted:
                raise
            # The token that the key stands for may be gone: once more from the beginning, past what was seen already.
            self._has_restarted = True
            self._duplicates = 0
            self._used_cursors = {None}
            return await self._fetch_page(cursor=None)
