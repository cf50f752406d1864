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
from token_tools.cluster.responses import UnreadPage
from token_tools.errors import BadAnswer, NotFound, Rejected

EMPTY_PAGES: Final = 8
"""How many pages without anything new in a row are passed over before a list counts as ended."""

PAGE: Final = 500
"""Tokens asked for at a time where all are read: few enough to be small, enough not to wait for many answers."""

BATCH: Final = 50
"""Tokens that are looked at in one go, before others who wait for the processor have their turn."""

MOST: Final = 2_000_000
"""Tokens after which a list is taken for one without an end."""

PAGES_OF_A_USER: Final = 64
"""Far more than a user with two tokens can need."""

Digest = TypeVar("Digest")

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
    key, skip = _read_place(after)
    query = None if user is None else user.as_query()
    # A user has two tokens at most, and some clusters refuse a limit together with a user.
    asked_limit = limit + skip if user is None else None
    seen: set[str | None] = {key}
    page = await cluster.list_tokens(user=query, after=key, limit=asked_limit)
    while not page.entries and page.after not in seen | {None} and len(seen) < EMPTY_PAGES:
        seen.add(key := page.after)
        page = await cluster.list_tokens(user=query, after=key, limit=asked_limit)
    _check_whose(page.entries, user)
    rest = page.entries[skip:]
    shown = [*{token.id: token for token in reversed(rest[:limit])}.values()][::-1]
    tokens = [token for token in shown if user is None or user.covers(token.user)]
    if len(rest) > limit:
        following: str | None = _write_place(key, skip + limit)
    elif page.after is None or page.after in seen or not page.entries:
        # A key that repeats, or that comes with nothing at all, leads nowhere.
        following = None
    else:
        following = _write_place(page.after, 0)
    return Part(tokens, following, foreign=len(shown) - len(tokens))


def _check_whose(tokens: Sequence[AccessToken], user: Identity | None) -> None:
    """Nothing unless these are all of one other user, whom the request that is answered was not about."""
    keys = {token.user.auth_id for token in tokens}
    if user is not None and user.auth_id is not None and len(keys) == 1 and keys.isdisjoint({user.auth_id, None}):
        raise BadAnswer(
            f"The answer lists the tokens of another user than {user}: something in front of the cluster, such as a "
            "cache, mixes up answers."
        )


def _write_place(key: str | None, skip: int) -> str:
    """Where to go on, as the next call has to name it: the cluster's own key wherever that is plain."""
    text = key or ""
    is_plain = text.isascii() and text.isprintable() and not text.startswith("skip")
    return text if is_plain and not skip else f"skip{skip}:{quote(text)}"


def _read_place(after: str | None) -> tuple[str | None, int]:
    """The cluster's key, and how many tokens of its page were shown before."""
    place = _SKIP.fullmatch(after or "")
    return (after, 0) if place is None else (unquote(place[2]) or None, int(place[1]))


def name_owner(token: AccessToken, who: Identity) -> AccessToken:
    """The token with all that is known of its user: some clusters list no more of them than a key."""
    return token.model_copy(update={"user": token.user.completed_by(who) or token.user})


async def read_user(cluster: ClusterClient, user: Identity) -> list[AccessToken]:
    """All tokens that can be a user's: without those that are known to be somebody else's."""
    walk = Walk(cluster, user=user.as_query())
    tokens: list[AccessToken] = []
    for _ in range(PAGES_OF_A_USER):
        page = await walk.step()
        if page is None:
            return tokens
        _check_whose(page, user)
        tokens += [token for token in page if user.completed_by(token.user) is not None]
    raise BadAnswer(f"The cluster lists tokens of {user} without an end.")


async def read_all(
    cluster: ClusterClient, digest: Callable[[AccessToken], Digest]
) -> AsyncGenerator[list[tuple[AccessToken, Digest]]]:
    """Every token of the cluster once with what `digest` makes of it, a page at a time.

    While a page is on its way, the one before it is read, and the one before that digested.
    """
    walk = Walk(cluster, limit=PAGE)
    tokens: Sequence[AccessToken] = ()
    await walk.fetch()
    while (page := walk.page) is not None:
        digested: list[tuple[AccessToken, Digest]] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(walk.fetch)
                # The turns in which these are digested are those in which the request goes out.
                digested += await _digest(tokens, digest)
                tokens = walk.read(page)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if digested:
            yield digested
    if tokens:
        yield await _digest(tokens, digest)


async def _digest(
    tokens: Sequence[AccessToken], digest: Callable[[AccessToken], Digest]
) -> list[tuple[AccessToken, Digest]]:
    digested: list[tuple[AccessToken, Digest]] = []
    for start in range(0, len(tokens), BATCH):
        digested += [(token, digest(token)) for token in tokens[start : start + BATCH]]
        # A thread would only quarrel with this one, which has all to do with what arrives.
        await anyio.lowlevel.checkpoint()
    return digested


class _Ids:
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


class Walk:
    """A list read to its end, of everybody's tokens or one user's.

    A page is fetched and then read; the next may be fetched before that. `page` is the one fetched last, None after the
    last of all.
    """

    def __init__(
        self, cluster: ClusterClient, *, user: str | None = None, limit: int | None = None, most: int = MOST
    ) -> None:
        self.page: UnreadPage | None = None
        self._ask_for = partial(cluster.skim_tokens, user=user, limit=limit)
        self._seen = _Ids()
        self._keys: set[str | None] = set()
        self._after: str | None = None
        self._most = most
        self._idle = 0
        self._passed = 0
        self._is_second_try = False

    async def step(self) -> Sequence[AccessToken] | None:
        """As `fetch` and `read`: the tokens of the next page that were not on one before; None after the last page."""
        await self.fetch()
        return None if self.page is None else self.read(self.page)

    async def fetch(self) -> None:
        """Let `page` be the next one.

        Raises:
            ClusterError: If it cannot be had.
        """
        if self._after in self._keys or self._idle >= EMPTY_PAGES:
            self.page = None
            return
        self._keys.add(self._after)
        self.page = await self._ask()
        # No key says that this was the last page, as it says of the first that there is none before it.
        self._after = self.page.after

    def read(self, page: UnreadPage) -> Sequence[AccessToken]:
        """The tokens of a page that were not on one before.

        Raises:
            BadAnswer: If it cannot be read, or the list has no end.
        """
        entries = page.read().entries
        new = [token for token in entries if self._seen.add(token.id)]
        if self._seen.count > self._most:
            raise BadAnswer(f"The cluster lists tokens without an end: more than {self._most:,}.")
        self._passed += len(entries) - len(new)
        is_on_its_way = entries and self._is_second_try and self._passed <= self._seen.count
        self._idle = 0 if new or is_on_its_way else self._idle + 1
        return new

    async def _ask(self) -> UnreadPage:
        try:
            return await self._ask_for(after=self._after)
        except (NotFound, Rejected):
            if self._after is None or self._is_second_try:
                raise
            # The token that the key stands for may be gone: once more from the beginning, past what was seen already.
            self._is_second_try = True
            self._passed = 0
            self._keys = {None}
            return await self._ask_for(after=None)
