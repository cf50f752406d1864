"""Select the tokens in one state: look at all of the cluster or of one user, and keep the first few in an order."""

import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_user_tokens, merge_user, process_all_tokens
from token_tools.errors import Refusal
from token_tools.operations.findings import find_status
from token_tools.operations.own_token import read_own_token
from token_tools.operations.read import ALL_USERS_HINT, explaining_unlisted_user
from token_tools.operations.services import Services
from token_tools.operations.unfinished import render_unfinished_of
from token_tools.operations.user_lookup import User, explain_missing_user, identify

SelectedState = Literal["expiring", "expired", "never_expires", "disabled"]
"""A token is in one of these states at most: only one that works is `expiring` or `never_expires`, and one that is both
disabled and expired is `expired`. An audit counts in the same way, but for tokens of the cluster itself, which it tells
as such alone."""

DEFAULT_EXPIRING_WITHIN: Final = timedelta(days=30)

ProgressCallback = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Criterion:
    """Which tokens are asked for; `expiring_within` says how soon those expire that are `expiring`."""

    state: SelectedState
    expiring_within: timedelta = DEFAULT_EXPIRING_WITHIN

    def rank(self, token: AccessToken, now: datetime) -> timedelta | None:
        """Return the place of a token in the order, the smallest first; None if it is not asked for.

        The order is by the next expiry, by the latest expiry of those that have expired, or else by age, the oldest
        first.
        """
        expires = token.expires
        match self.state, find_status(token, now):
            case "expiring", "live" if expires is not None and expires - now <= self.expiring_within:
                return expires - now
            case "expired", "expired" if expires is not None:
                return now - expires
            case "never_expires", "live" if expires is None:
                return token.created - now
            case "disabled", "disabled":
                return token.created - now
            case _:
                return None


def choose_criterion(
    state: SelectedState | None, expiring_within: timedelta | None, *, cursor: str | None
) -> Criterion | None:
    """Return which tokens a list is to have; None if it is to have all, a page at a time.

    Raises:
        Refusal: If the arguments contradict each other.
    """
    if state is None and expiring_within is None:
        return None
    if cursor is not None:
        raise Refusal(
            "`after` is for a list of all tokens. With `state` or `expiring_within` there are no pages: leave it out, "
            "and raise `limit` or name a `user` to see more."
        )
    if expiring_within is None:
        return Criterion(state or "expiring")
    if state not in {None, "expiring"}:
        raise Refusal(
            f'`expiring_within` is about tokens that still work, and state="{state}" about others: leave one of the '
            "two out."
        )
    return Criterion("expiring", expiring_within)


@dataclass(frozen=True)
class TokenSelection:
    """The first `tokens` of `match_count` that were asked for, among `total` that were looked at, as of `time`.

    `user` is whose tokens they are, None for everybody's. `namesake_count` more are or may be another user's with that
    name. The cluster's clock is known to be `clock_ahead` of ours. `caveats` say what is missing or unfinished.
    """

    criterion: Criterion
    tokens: Sequence[AccessToken]
    match_count: int
    total: int
    time: datetime
    user: Identity | None = None
    namesake_count: int = 0
    clock_ahead: timedelta = timedelta()
    caveats: Sequence[str] = ()

    @property
    def left_out(self) -> int:
        """How many tokens were asked for and are not shown."""
        return self.match_count - len(self.tokens)

    def shorten(self, count: int) -> "TokenSelection":
        """Return the selection with the first `count` of its tokens."""
        return replace(self, tokens=self.tokens[:count])


@dataclass
class _Collector:
    """Looks at tokens, each of which is to be added once, and keeps the first `limit` that are asked for."""

    criterion: Criterion
    now: datetime
    limit: int
    match_count: int = 0
    total: int = 0
    _first: list[tuple[timedelta, str, AccessToken]] = field(default_factory=list[tuple[timedelta, str, AccessToken]])

    def add(self, tokens: Sequence[AccessToken]) -> None:
        ranked = [(self.criterion.rank(token, self.now), token) for token in tokens]
        found = [(rank, token.id, token) for rank, token in ranked if rank is not None]
        self.total += len(tokens)
        self.match_count += len(found)
        self._first = heapq.nsmallest(self.limit, [*self._first, *found], key=lambda entry: entry[:2])

    def finish(self, services: Services) -> TokenSelection:
        return TokenSelection(
            self.criterion,
            [token for *_, token in self._first],
            self.match_count,
            self.total,
            self.now,
            clock_ahead=services.clock.ahead,
        )


async def select_tokens(
    services: Services, criterion: Criterion, user: User | None, *, limit: int, on_progress: ProgressCallback
) -> TokenSelection:
    """Return the first `limit` tokens that are asked for, of everybody or of one user, and count the others.

    `on_progress` is awaited after each page of everybody's tokens, with the number of tokens seen so far.

    Raises:
        ClusterError: If the cluster cannot be asked or does not know the user.
        Refusal: If the cluster takes what was written as the user for somebody else.
    """
    if user is None:
        return await _select_from_all(services, criterion, limit, on_progress)
    meant = await identify(services, user)
    with explaining_unlisted_user(user, meant):
        listed = await fetch_user_tokens(services.cluster, meant.identity)
    if not listed and meant.is_not_found:
        raise explain_missing_user(user, meant, ALL_USERS_HINT)
    tokens = [merge_user(token, meant.identity) for token in listed if meant.identity.may_be(token.user)]
    collector = _Collector(criterion, services.clock(), limit)
    collector.add(tokens)
    return replace(
        collector.finish(services),
        user=meant.identity,
        namesake_count=len(listed) - len(tokens),
        caveats=await render_unfinished_of(services, tokens, user=meant.identity),
    )


async def _select_from_all(
    services: Services, criterion: Criterion, limit: int, on_progress: ProgressCallback
) -> TokenSelection:
    own = await read_own_token(services)
    collector = _Collector(criterion, services.clock(), limit)
    has_own_token = False

    async def process(tokens: Sequence[AccessToken]) -> None:
        nonlocal has_own_token
        collector.add(tokens)
        has_own_token = has_own_token or any(token.id == own.token_id for token in tokens)
        await on_progress(collector.total)

    await process_all_tokens(services.cluster, process)
    selection = collector.finish(services)
    list_caveats = own.list_caveats(total=collector.total, has_own_token=has_own_token)
    unfinished = await render_unfinished_of(services, selection.tokens)
    return replace(selection, caveats=[*list_caveats, *unfinished])
