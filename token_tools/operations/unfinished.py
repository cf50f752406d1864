"""What was begun and of which nobody knows the end: with the tokens that it may be about, until it is settled.

It is settled by what the cluster has: by nothing left of it, by a bearer token in its place, or by what was done since.
There is no I/O in here but the journal's and the delivery's, which are asked and never waited for long.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Final

import anyio

from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity, bare_name
from token_tools.cluster.models import AccessToken, Caller
from token_tools.errors import DeliveryError, JournalError
from token_tools.operations.create import TOLERANCE
from token_tools.operations.update import tell_change
from token_tools.quoting import FEW, tell_some
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Attempt, Entry, Journal
from token_tools.times import tell_time

LATE: Final = timedelta(hours=1)
"""How long after the last that is known of an attempt its token may have been made: a cluster that hangs is at it."""

PATIENCE: Final = 5
"""Seconds that a place of bearer tokens has to say whether one is there, where an answer does without."""

LONGEST_USER: Final = 100
"""Characters of a user's spelling; a longer one is told in general words."""


@dataclass(frozen=True)
class Memory:
    """What the journal knows of the tokens of a cluster; `doubt` says why it may know more, None if it was read."""

    attempts: Sequence[Attempt] = ()
    doubt: str | None = None

    @cached_property
    def open(self) -> Sequence[Attempt]:
        """What nobody knows the end of, the latest first; what is at work is among it."""
        return [attempt for attempt in reversed(self.attempts) if attempt.is_open]

    @cached_property
    def named(self) -> frozenset[str]:
        """The ids of the tokens that an attempt is known to have made."""
        return frozenset(a.last.token_id for a in self.attempts if a.is_making and a.last.token_id)

    @cached_property
    def successions(self) -> Mapping[str, Entry]:
        """How the tokens came about that were made to replace another, by their ids."""
        made = [attempt.last for attempt in self.attempts if attempt.outcome == "made" and attempt.intent.replaces]
        return {entry.token_id: entry for entry in made if entry.token_id}

    @cached_property
    def deleted(self) -> Mapping[str, datetime]:
        """When this server deleted which tokens."""
        gone = [a.last for a in self.attempts if (a.intent.operation, a.outcome) == ("delete", "done")]
        taken_back = [attempt.last for attempt in self.attempts if attempt.outcome == "deleted again"]
        return {entry.token_id: entry.time for entry in [*gone, *taken_back] if entry.token_id}

    @cached_property
    def disabled_since(self) -> Mapping[str, datetime]:
        """Since when tokens are disabled that were by this server, and as far as it knows not enabled again."""
        since: dict[str, datetime] = {}
        for attempt in self.attempts:
            token_id, change = attempt.intent.token_id, attempt.intent.change or ""
            if token_id is None or not change.startswith("enabled: ") or attempt.outcome == "not done":
                continue
            since.pop(token_id, None)
            if change.startswith("enabled: false") and attempt.outcome == "done":
                since[token_id] = attempt.last.time
        return since

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The place of each attempt in their order."""
        return {attempt.intent.attempt: place for place, attempt in enumerate(self.attempts)}

    @cached_property
    def settled(self) -> Mapping[str, int]:
        """The place of the last change of each token, or deletion, of which the end is known."""
        return {a.intent.token_id: n for n, a in enumerate(self.attempts) if a.intent.token_id and not a.is_open}

    def may_concern(self, *, ahead: timedelta) -> "Concern":
        """Which tokens of a cluster may be what is open is about; its clock is that much ahead of ours."""
        spans = sorted(_find_span(a, ahead) for a in self.open if a.is_making and a.last.token_id is None)
        merged: list[tuple[datetime, datetime]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        ids = {token_id for a in self.open for token_id in (a.last.token_id, a.intent.replaces) if token_id}
        return Concern(frozenset(ids), merged)


@dataclass(frozen=True)
class Concern:
    """The ids, and the times of making, by which tokens are of concern."""

    ids: frozenset[str]
    spans: Sequence[tuple[datetime, datetime]]
    found: list[AccessToken] = field(default_factory=list[AccessToken])

    def add(self, token: AccessToken) -> None:
        """Keep a token if it is of concern."""
        place = bisect_right(self.spans, token.created, key=lambda span: span[0]) - 1
        if token.id in self.ids or (place >= 0 and token.created <= self.spans[place][1]):
            self.found.append(token)


@dataclass(frozen=True)
class Unfinished:
    """An attempt without a known end, and the tokens that it may be about.

    `places` tells where the bearer tokens of these were found, and `doubts` why it is not known of the others that they
    are nowhere. `is_unproved` is set where a rotate did not come to prove them, and what they are to replace is there.
    """

    attempt: Attempt
    suspects: Sequence[AccessToken]
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    doubts: Mapping[str, str] = field(default_factory=dict[str, str])
    is_unproved: bool = False

    @property
    def entry(self) -> Entry:
        """What is known of it last."""
        return self.attempt.last

    @property
    def is_settled(self) -> bool:
        """Whether somebody has the bearer token of what it made, and it does not have to be proved to work."""
        return self.attempt.outcome != "stranded" and bool(self.places) and not self.is_unproved

    @property
    def lost(self) -> Sequence[AccessToken]:
        """Those whose bearer token nobody is known to have."""
        is_making = self.attempt.is_making and not self.attempt.is_in_flight
        is_lost = is_making and not self.is_settled
        return [token for token in self.suspects if is_lost and (self.attempt.outcome == "stranded" or not self.places)]


def find_unfinished(
    memory: Memory,
    tokens: Sequence[AccessToken],
    *,
    me: Caller | None = None,
    ahead: timedelta,
) -> Sequence[Unfinished]:
    """What is open about these tokens, the latest first, by a cluster's clock that is so much ahead of ours.

    What `me` made, this server, is suspected before what others did. The token that it runs on is in use, so it is not
    what nobody has. Of what is about none of a user's tokens nothing is left.
    """
    if not memory.open:
        return []
    by_id = {token.id: [token] for token in tokens}
    by_user = _Users([token for token in tokens if token.id not in memory.named])
    found: list[Unfinished] = []
    for attempt in memory.open:
        if not attempt.is_making:
            known = by_id.get(attempt.intent.token_id or "", [])
            suspects = [token for token in known if not _is_over(memory, attempt, token)]
        elif attempt.last.token_id is not None:
            suspects = by_id.get(attempt.last.token_id, [])
        else:
            suspects = _find_suspects(attempt, by_user.find(attempt.intent.user), me, ahead)
        is_own = attempt.is_making and me is not None and [token.id for token in suspects] == [me.access_token_id]
        if suspects and not is_own:
            found.append(Unfinished(attempt, suspects))
    return found


def _find_suspects(
    attempt: Attempt, tokens: Sequence[AccessToken], me: Caller | None, ahead: timedelta
) -> list[AccessToken]:
    begin, end = _find_span(attempt, ahead)
    theirs = [token for token in tokens if begin <= token.created <= end]
    by_us = [t for t in theirs if me is None or t.creator is None or me.identity.covers(t.creator)]
    return by_us or theirs


class _Users:
    """Some tokens by what tells their users, since both the tokens and what is open can be thousands."""

    def __init__(self, tokens: Iterable[AccessToken]) -> None:
        self._tokens: defaultdict[tuple[str, object], dict[str, AccessToken]] = defaultdict(dict)
        for token in tokens:
            for key in [("spelling", str(token.user)), *_list_keys(token.user)]:
                self._tokens[key][token.id] = token

    def find(self, spelling: str) -> Sequence[AccessToken]:
        """Those of whom the journal spells so."""
        spelled = _read_user(spelling)
        known = dict(self._tokens.get(("spelling", spelling), {}))
        for key in _list_keys(spelled) if spelled is not None else ():
            known |= self._tokens.get(key, {})
        return [token for token in known.values() if denotes(spelling, token.user)]


def _list_keys(user: Identity) -> Iterator[tuple[str, object]]:
    """What two identities have to share one of, so that one can denote the other."""
    for key, value in user.known().items():
        if key != "domain":
            yield key, bare_name(value) if key == "name" and isinstance(value, str) else value


def _find_span(attempt: Attempt, ahead: timedelta) -> tuple[datetime, datetime]:
    """When, by the cluster's clock, an attempt can have made a token."""
    return _move(attempt.intent.time, ahead - TOLERANCE), _move(attempt.last.time, ahead + LATE)


def _move(time: datetime, by: timedelta) -> datetime:
    """A time moved within the calendar."""
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    return time + min(max(by, first - time), last - time)


def _is_over(memory: Memory, attempt: Attempt, token: AccessToken) -> bool:
    """Whether a change or a deletion has come to an end by what the token is like, or by what was done since."""
    state = tell_change(token.state)
    done = attempt.intent.change is not None and {*attempt.intent.change.split(", ")} <= {*state.split(", ")}
    return attempt.is_in_flight or done or memory.places[attempt.intent.attempt] < memory.settled.get(token.id, -1)


def denotes(spelling: str, user: Identity) -> bool:
    """Whether a user can be whom the journal spells so."""
    if spelling == str(user):
        return True
    spelled = _read_user(spelling)
    if spelled is None or not spelled.covers(user):
        return False
    shares_number = spelled.known().keys() & user.known().keys() - {"domain", "name"}
    return bool(shares_number) or (
        spelled.name is not None and user.name is not None and bare_name(spelled.name) == bare_name(user.name)
    )


@lru_cache
def _read_user(spelling: str) -> Identity | None:
    try:
        return Identity.parse(spelling)
    except ValueError:
        return None


@dataclass(frozen=True)
class Inquirer:
    """Where it is found out what is unfinished."""

    delivery: Delivery
    journal: Journal
    clock: ClusterClock
    patience: float = PATIENCE

    async def recall(self) -> Memory:
        """What the journal knows, or why nothing is known of it: nobody who only reads is stopped by that."""
        try:
            return Memory(await self.journal.recall())
        except JournalError as failure:
            return Memory(doubt=f"What was begun and not finished is not known: {failure}")

    async def look(
        self, memory: Memory, tokens: Sequence[AccessToken], *, me: Caller | None = None
    ) -> Sequence[Unfinished]:
        """As `find_unfinished`, with where the bearer tokens of a few are, and without what is settled by that."""
        found = find_unfinished(memory, tokens, me=me, ahead=self.clock.ahead)
        asked: dict[str, tuple[str | None, str | None]] = {}
        located: list[Unfinished] = []
        for each in found:
            for token in each.suspects if each.attempt.is_making else ():
                if token.id not in asked and len(asked) < 2 * FEW:
                    asked[token.id] = await self._locate(token, each.entry)
            told = [token.id for token in each.suspects if token.id in asked]
            places = {token_id: place for token_id in told if (place := asked[token_id][0]) is not None}
            doubts = {token_id: doubt for token_id in told if (doubt := asked[token_id][1]) is not None}
            is_unproved = each.attempt.intent.replaces in {token.id for token in tokens}
            located.append(Unfinished(each.attempt, each.suspects, places, doubts, is_unproved=is_unproved))
        return [each for each in located if not each.is_settled]

    async def _locate(self, token: AccessToken, entry: Entry) -> tuple[str | None, str | None]:
        """Where the bearer token of a token is; or why that is not known, None if it is nowhere."""
        with anyio.move_on_after(self.patience):
            try:
                place = await self.delivery.find(token.id, entry.place, {entry.user, str(token.user)})
                if place is not None or not (nameless := await self.delivery.find_nameless()):
                    return place, None
            except DeliveryError as failure:
                return None, str(failure)
            files = tell_some([*map(str, nameless)])
            return None, f"it may be in {files}, left by a killed server, which does not tell whose it is"
        return None, "the place of bearer tokens does not answer"


def tell_unfinished(unfinished: Sequence[Unfinished], clock: ClusterClock, *, most: int = FEW) -> Sequence[str]:
    """What is open, a sentence for what is about the same, and how much there is besides."""
    groups: dict[tuple[str, ...], list[Unfinished]] = {}
    for each in unfinished:
        key = each.entry.operation, each.entry.user, each.attempt.outcome, *(token.id for token in each.suspects)
        groups.setdefault(key, []).append(each)
    told = [_tell_group(group, clock) for group in [*groups.values()][:most]]
    besides = sum(len(group) for group in [*groups.values()][most:])
    return [*told, f"{besides:,} more in the journal have no known end."] if besides else told


def _tell_group(group: Sequence[Unfinished], clock: ClusterClock) -> str:
    latest = group[0]
    times = tell_some([*dict.fromkeys(tell_time(each.attempt.intent.time) for each in group)])
    whose = latest.entry.user if len(latest.entry.user) <= LONGEST_USER else "somebody with a long name"
    begun = f"the {latest.entry.operation} for {whose} begun at {times}"
    if latest.attempt.is_in_flight:
        return f"At work: {begun}. {_tell_pending(latest)}"
    if not latest.attempt.is_making:
        return _tell_change(latest, begun)
    return f"Unfinished: {begun}{_tell_made(latest, clock)}"


def _tell_pending(at_work: Unfinished) -> str:
    ids = tell_some([token.id for token in at_work.suspects])
    return f"It may have just made {ids}: leave that alone, and wait for its end."


def _tell_change(unfinished: Unfinished, begun: str) -> str:
    [token] = unfinished.suspects
    change = f" ({unfinished.entry.change})" if unfinished.entry.change else ""
    state = tell_change(token.state)
    return (
        f"Unfinished: {begun}, of token {token.id}{change}, has no known end. The token is there ({state}): "
        "ask whether that is still wanted."
    )


def _tell_made(unfinished: Unfinished, clock: ClusterClock) -> str:
    suspects = unfinished.suspects
    told = tell_some([f"{token.id} (made {tell_time(token.created)})" for token in suspects])
    if len(suspects) > 1:
        return (
            f" has no known end. One of {told} may be what it made, and nobody may have the bearer token of that: a "
            "person finds out which is in use."
        )
    [token] = suspects
    if unfinished.attempt.outcome == "stranded":
        flaw = "its bearer token is lost" if unfinished.entry.place is None else "it did not prove to work"
        return f" made {told}, which could not be deleted again: {flaw}. {_tell_retirement(token, clock)}"
    if (place := unfinished.places.get(token.id)) is not None:
        return (
            f" has no known end. Token {told} seems to be what it made: its bearer token is in {place}, and was not "
            f'proved to work. rotate_access_token(id="{unfinished.attempt.intent.replaces}") tells how to go on.'
        )
    doubt = unfinished.doubts.get(token.id)
    where = f"Where its bearer token is, is not known: {doubt}" if doubt else _NOWHERE
    return f" has no known end. Token {told} may be what it made. {where}. {_tell_retirement(token, clock)}"


_NOWHERE: Final = "Its bearer token is nowhere that QUMULO_DELIVERY puts them now"


def _tell_retirement(token: AccessToken, clock: ClusterClock) -> str:
    deletion = f'delete_access_token(id="{token.id}")'
    if not token.is_live(now=clock()):
        return f"It does not work as it is. If nobody has its bearer token: {deletion}."
    return f'If nobody has its bearer token: update_access_token(id="{token.id}", enabled=false), watch, {deletion}.'


def list_lost(unfinished: Iterable[Unfinished]) -> Iterator[str]:
    """The ids of the tokens whose bearer token nobody is known to have."""
    return (token.id for each in unfinished for token in each.lost)
