"""List what the record tells of changes, and settle what was unfinished and is resolved by what the cluster shows.

A server that is killed leaves attempts without a known end. Whoever asks for the changes wants to know what became of
them, so the tokens of their users are looked at. What is resolved is written into the record, and told no more. That no
token is there is only said if the cluster listed the user's tokens, or knows no token of that id.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import anyio
import msgspec

from token_tools.cluster.identity import SELF, Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_user_tokens, merge_user
from token_tools.errors import ClusterError, NotFound, Refusal
from token_tools.operations.journal_history import MAX_CREATION_DELAY, JournalHistory, read_known_history
from token_tools.operations.services import Services
from token_tools.operations.unfinished import (
    Unfinished,
    locate_unfinished,
    match_attempts,
    may_denote,
    read_principal,
    tell_not_picked_up,
)
from token_tools.operations.user_lookup import User, identify
from token_tools.quoting import render_first_items
from token_tools.storage.attempts import Attempt, Settlement
from token_tools.times import parse_since

DEFAULT_PERIOD: Final = timedelta(days=30)
"""How far back changes are listed if nobody says since when, and not for one token."""

MAX_USERS_LOOKED_UP: Final = 8
"""Users whose tokens one call looks at."""

MAX_TOKENS_LOOKED_UP: Final = 8
"""Tokens of a user that one call looks at because they are not among those that the cluster lists."""


class Resolution(NamedTuple):
    """An attempt that was unfinished, what became of it, and the tokens that it was or may have been about."""

    attempt: Attempt
    settlement: Settlement
    token_ids: Sequence[str]


@dataclass(frozen=True)
class ChangeList:
    """Entries of the record, the earliest first, as they stood at `time`.

    They are about `user` and `token_id` if these are not None, and were begun after `since`; None says that all are
    listed. What is `unfinished` may be about tokens that are there; of the attempts that are `unseen` this could not be
    found out, for the reasons among the `caveats`. What was found to be `resolved` is told once.
    """

    entries: Sequence[Attempt]
    time: datetime
    since: datetime | None = None
    user: Identity | None = None
    token_id: str | None = None
    unfinished: Sequence[Unfinished] = ()
    unseen: Sequence[Attempt] = ()
    resolved: Sequence[Resolution] = ()
    caveats: Sequence[str] = ()


async def list_changes(
    services: Services, *, since: str | None = None, user: User | None = None, token_id: str | None = None
) -> ChangeList:
    """Return what was changed since a time, for a user or of a token, once what is resolved is settled.

    Raises:
        Refusal: If `since` is no past time, or if the cluster takes what was written as the user for somebody else.
        JournalError: If the record cannot be read.
        ClusterError: If the cluster has to say who this server's own user is, and does not.
    """
    # The record has times by our own clock.
    now = services.clock() - services.clock.ahead
    begin = _choose_begin(since, token_id, now)
    meant, user_caveats = await _find_user(services, user)
    review = await _review(services, meant, token_id)
    unwritten = await _settle(services, review.resolved)
    entries = select_changes(await services.journal.list_entries(since=begin), user=meant, token_id=token_id)
    # What is told once is told last, where nothing can fail any more.
    not_picked_up = () if token_id is not None else await tell_not_picked_up(services, meant)
    return ChangeList(
        entries,
        now,
        since=begin,
        user=meant,
        token_id=token_id,
        unfinished=review.unfinished,
        unseen=review.unseen,
        resolved=review.resolved,
        caveats=[*user_caveats, *review.caveats, *unwritten, *not_picked_up],
    )


def _choose_begin(since: str | None, token_id: str | None, now: datetime) -> datetime | None:
    """Return since when changes are listed; None for all of them, since who made a token may be long ago."""
    if since is None:
        return None if token_id is not None else now - DEFAULT_PERIOD
    try:
        return parse_since(since, now=now)
    except ValueError as reason:
        raise Refusal(f"`since` {reason}.") from None


async def _find_user(services: Services, user: User | None) -> tuple[Identity | None, Sequence[str]]:
    """Return whose changes are meant, and why that may not find all; the record tells of deleted users too."""
    if user is None:
        return None, []
    try:
        return (await identify(services, user)).identity, []
    except ClusterError as failure:
        if user == SELF:
            raise
        caveat = (
            f"Entries that spell {user} differently may be missing: the cluster did not tell who that is. {failure}"
        )
        return user, [caveat]


def select_changes(
    entries: Sequence[Attempt], *, user: Identity | None = None, token_id: str | None = None
) -> Sequence[Attempt]:
    """Return the entries about a user and about a token, of those that are given.

    A call that was refused tells no user if it named only a token; that token tells whom it was about.
    """
    if token_id is not None:
        entries = [entry for entry in entries if token_id in _list_ids(entry)]
    if user is None:
        return entries
    spellings = {spelling for spelling in {entry.user for entry in entries} if may_denote(spelling, user)}
    ids = {each for entry in entries if entry.user in spellings for each in _list_ids(entry)}
    return [e for e in entries if e.user in spellings or (not e.user and not ids.isdisjoint(_list_ids(e)))]


def _list_ids(entry: Attempt) -> Sequence[str]:
    return [token_id for token_id in (entry.token_id, entry.replaces) if token_id is not None]


@dataclass(frozen=True)
class _Review:
    unfinished: Sequence[Unfinished] = ()
    unseen: Sequence[Attempt] = ()
    resolved: Sequence[Resolution] = ()
    caveats: Sequence[str] = ()


async def _review(services: Services, user: Identity | None, token_id: str | None) -> _Review:
    """Look at the cluster for what became of the attempts of a user, or of all, that have no known end."""
    history = await read_known_history(services)
    attempts = [a for a in history.open_attempts if _needs_look(a) and (user is None or may_denote(a.user, user))]
    if not attempts:
        return _Review()
    sight = await _look_up(services, attempts)
    me = await read_principal(services.cluster, history)
    located = await locate_unfinished(services, history, sight.tokens, me=me)
    told = {each.attempt.id for each in located}
    ended = [
        each
        for each in match_attempts(history, sight.tokens, me=me, clock=services.clock)
        if each.attempt.id in sight.judged - told and each.attempt.is_unfinished
    ]
    ids = {token.id for token in sight.tokens}
    resolved = [
        Resolution(
            each.attempt,
            decide_settlement(each, ids, history, now=services.clock()),
            [token.id for token in each.suspects] or _list_ids(each.attempt),
        )
        for each in ended
    ]
    unseen = [a for a in attempts if a.is_unfinished and a.id not in sight.judged | told]
    return _Review(
        [each for each in located if _is_about(each, user, token_id)],
        select_changes(unseen, token_id=token_id),
        resolved,
        sight.caveats,
    )


def _needs_look(attempt: Attempt) -> bool:
    """Whether it is not known what became of an attempt.

    Soon after it, that no token is found does not say that none will appear.
    """
    if attempt.is_in_flight:
        return False
    return attempt.settled is None or attempt.settled < attempt.last_seen + MAX_CREATION_DELAY


def _is_about(unfinished: Unfinished, user: Identity | None, token_id: str | None) -> bool:
    ids = {*_list_ids(unfinished.attempt), *(token.id for token in unfinished.suspects)}
    is_theirs = user is None or may_denote(unfinished.attempt.user, user)
    return is_theirs and (token_id is None or token_id in ids)


def decide_settlement(
    unfinished: Unfinished, ids: Collection[str], history: JournalHistory, *, now: datetime
) -> Settlement:
    """Return what became of an attempt that is not to be told any more; `ids` are those of the tokens that are there.

    A create or rotate that left a token which works is delivered: its bearer token was found, or is the server's own.
    """
    attempt, suspects = unfinished.attempt, unfinished.suspects
    is_gone = attempt.token_id not in ids
    if attempt.is_creating and not suspects:
        return "not found" if attempt.token_id is None else "deleted"
    if attempt.is_creating:
        return "delivered" if any(token.is_live(now=now) for token in suspects) else "disabled"
    if is_gone and attempt.operation == "update":
        return "deleted"
    is_older = attempt.number < history.last_changes.get(attempt.token_id or "", -1)
    return "changed since" if is_older and not is_gone else "as wanted"


async def _settle(services: Services, resolved: Sequence[Resolution]) -> Sequence[str]:
    """Write what became of attempts, and return why that could not be written."""
    by_settlement: dict[Settlement, list[Attempt]] = {}
    for each in resolved:
        by_settlement.setdefault(each.settlement, []).append(_identify_token(each))
    failures = [await services.journal.settle(attempts, why) for why, attempts in by_settlement.items()]
    return [
        f"What is resolved could not be recorded, so it will be told again: {failure}"
        for failure in dict.fromkeys(filter(None, failures))
    ]


def _identify_token(resolution: Resolution) -> Attempt:
    """Return the attempt with the token that it made, if that is known: its bearer token is where it was delivered."""
    attempt, settlement, token_ids = resolution
    if settlement != "delivered" or len(token_ids) != 1:
        return attempt
    return msgspec.structs.replace(attempt, token_id=token_ids[0])


@dataclass
class _Sight:
    """What the cluster shows: tokens, the ids of the attempts that they decide, and why others stay undecided."""

    tokens: list[AccessToken] = field(default_factory=list[AccessToken])
    judged: set[str] = field(default_factory=set[str])
    caveats: list[str] = field(default_factory=list[str])


async def _look_up(services: Services, attempts: Iterable[Attempt]) -> _Sight:
    """Look at the tokens that attempts may be about, of all users at once; those of the latest attempts go first."""
    by_user: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_user.setdefault(attempt.user, []).append(attempt)
    sight = _Sight()
    async with anyio.create_task_group() as tasks:
        for user in [*by_user][:MAX_USERS_LOOKED_UP]:
            tasks.start_soon(_look_up_user, services, user, by_user[user], sight)
    if rest := [*by_user][MAX_USERS_LOOKED_UP:]:
        sight.caveats.append(f"Not looked at for lack of time: {render_first_items(rest)}. Ask with `user` for each.")
    return sight


async def _look_up_user(services: Services, spelling: str, attempts: Sequence[Attempt], sight: _Sight) -> None:
    tokens, failure = await _list_tokens(services, spelling)
    known = {token.id: token for token in tokens}
    missing = {token_id: None for attempt in attempts for token_id in _list_ids(attempt) if token_id not in known}
    checked = {*known}
    for token_id in [*missing][:MAX_TOKENS_LOOKED_UP]:
        try:
            known[token_id] = await services.cluster.get_token(token_id)
        except NotFound:
            pass
        except ClusterError as unread:
            failure = failure or str(unread)
            continue
        checked.add(token_id)
    judged = [a for a in attempts if checked.issuperset(_list_ids(a)) and not (failure and a.token_id is None)]
    sight.tokens += known.values()
    sight.judged |= {attempt.id for attempt in judged}
    if failure and len(judged) < len(attempts):
        sight.caveats.append(f"Tokens of {spelling} are not known: {failure}")


async def _list_tokens(services: Services, spelling: str) -> tuple[Sequence[AccessToken], str | None]:
    """Return the tokens of a user as the record spells them, and why these may not be all.

    A user whom the cluster does not find may still have tokens that it does not list under that name.
    """
    try:
        meant = await identify(services, Identity.parse(spelling))
        tokens = await fetch_user_tokens(services.cluster, meant.identity)
    except (ClusterError, Refusal, ValueError) as failure:
        return (), str(failure)
    doubt = str(meant.lookup_error) if meant.is_not_found and not tokens else None
    return [merge_user(token, meant.identity) for token in tokens], doubt
