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

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity, bare_name
from token_tools.cluster.models import AccessToken, Caller
from token_tools.errors import ClusterError, DeliveryError, JournalError
from token_tools.operations.create import CLOCK_TOLERANCE
from token_tools.operations.update import format_change
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.storage.delivery import Delivery, Location
from token_tools.storage.journal import Attempt, Journal, JournalEntry
from token_tools.times import format_time

MAX_CREATION_DELAY: Final = timedelta(hours=1)
"""How long after the last that is known of an attempt its token may have been made: a cluster that hangs is at it."""

LOCATE_TIMEOUT_SECONDS: Final = 5
"""Seconds that a place of bearer tokens has to say whether one is there, where an answer does without."""

MAX_USER_CHARS: Final = 100
"""Characters of a user's spelling; a longer one is told in general words."""


@dataclass(frozen=True)
class JournalHistory:
    """What the journal knows of the tokens of a cluster.

    `journal_error` says why it may know more, None if it was read.
    """

    attempts: Sequence[Attempt] = ()
    journal_error: str | None = None

    @cached_property
    def open_attempts(self) -> Sequence[Attempt]:
        """What nobody knows the end of, the latest first; what is at work is among it."""
        return [attempt for attempt in reversed(self.attempts) if attempt.is_open]

    @cached_property
    def created_ids(self) -> frozenset[str]:
        """The ids of the tokens that an attempt is known to have made."""
        return frozenset(a.last.token_id for a in self.attempts if a.is_creating and a.last.token_id)

    @cached_property
    def successor_entries(self) -> Mapping[str, JournalEntry]:
        """How the tokens came about that were made to replace another, by their ids."""
        made = [attempt.last for attempt in self.attempts if attempt.outcome == "created" and attempt.intent.replaces]
        return {entry.token_id: entry for entry in made if entry.token_id}

    @cached_property
    def deleted_at(self) -> Mapping[str, datetime]:
        """When this server deleted which tokens."""
        gone = [a.last for a in self.attempts if (a.intent.operation, a.outcome) == ("delete", "done")]
        rolled_back = [attempt.last for attempt in self.attempts if attempt.outcome == "rolled back"]
        return {entry.token_id: entry.time for entry in [*gone, *rolled_back] if entry.token_id}

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
    def attempt_positions(self) -> Mapping[str, int]:
        """The place of each attempt in their order."""
        return {attempt.intent.attempt: place for place, attempt in enumerate(self.attempts)}

    @cached_property
    def settled_positions(self) -> Mapping[str, int]:
        """The place of the last change of each token, or deletion, of which the end is known."""
        return {a.intent.token_id: n for n, a in enumerate(self.attempts) if a.intent.token_id and not a.is_open}

    def build_suspect_filter(self, *, clock_ahead: timedelta) -> "SuspectFilter":
        """Which tokens of a cluster may be what is open is about; its clock is that much ahead of ours."""
        spans = sorted(
            _find_creation_span(a, clock_ahead) for a in self.open_attempts if a.is_creating and a.last.token_id is None
        )
        merged: list[tuple[datetime, datetime]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        ids = {token_id for a in self.open_attempts for token_id in (a.last.token_id, a.intent.replaces) if token_id}
        return SuspectFilter(frozenset(ids), merged)


@dataclass(frozen=True)
class SuspectFilter:
    """The ids, and the times of making, by which tokens are of concern."""

    token_ids: frozenset[str]
    creation_spans: Sequence[tuple[datetime, datetime]]
    suspects: list[AccessToken] = field(default_factory=list[AccessToken])

    def add_if_suspect(self, token: AccessToken) -> None:
        """Keep a token if it is of concern."""
        place = bisect_right(self.creation_spans, token.created, key=lambda span: span[0]) - 1
        if token.id in self.token_ids or (place >= 0 and token.created <= self.creation_spans[place][1]):
            self.suspects.append(token)


@dataclass(frozen=True)
class Unfinished:
    """An attempt without a known end, and the tokens that it may be about.

    `locations` tells where the bearer tokens of these were found, and `lookup_errors` why it is not known of the others
    that they are nowhere. `is_unproved` is set where a rotate did not come to prove them, and what they are to replace
    is there.
    """

    attempt: Attempt
    suspects: Sequence[AccessToken]
    locations: Mapping[str, Location] = field(default_factory=dict[str, Location])
    lookup_errors: Mapping[str, str] = field(default_factory=dict[str, str])
    is_unproved: bool = False

    @property
    def last_entry(self) -> JournalEntry:
        """What is known of it last."""
        return self.attempt.last

    @property
    def is_settled(self) -> bool:
        """Whether somebody has the bearer token of what it made, and it does not have to be proved to work."""
        return self.attempt.outcome != "undeletable" and bool(self.locations) and not self.is_unproved

    @property
    def lost_tokens(self) -> Sequence[AccessToken]:
        """Those whose bearer token nobody is known to have."""
        is_making = self.attempt.is_creating and not self.attempt.is_in_flight
        is_lost = is_making and not self.is_settled
        return [
            token
            for token in self.suspects
            if is_lost and (self.attempt.outcome == "undeletable" or not self.locations)
        ]


def find_unfinished(
    journal_history: JournalHistory,
    tokens: Sequence[AccessToken],
    *,
    me: Caller | None = None,
    clock_ahead: timedelta,
) -> Sequence[Unfinished]:
    """What is open about these tokens, the latest first, by a cluster's clock that is so much ahead of ours.

    What `me` made, this server, is suspected before what others did. The token that it runs on is in use, so it is not
    what nobody has. Of what is about none of a user's tokens nothing is left.
    """
    if not journal_history.open_attempts:
        return []
    by_id = {token.id: [token] for token in tokens}
    by_user = _TokensByUser([token for token in tokens if token.id not in journal_history.created_ids])
    found: list[Unfinished] = []
    for attempt in journal_history.open_attempts:
        if not attempt.is_creating:
            known = by_id.get(attempt.intent.token_id or "", [])
            suspects = [token for token in known if not _has_ended(journal_history, attempt, token)]
        elif attempt.last.token_id is not None:
            suspects = by_id.get(attempt.last.token_id, [])
        else:
            suspects = _find_suspects(attempt, by_user.find(attempt.intent.user), me, clock_ahead)
        is_own = attempt.is_creating and me is not None and [token.id for token in suspects] == [me.access_token_id]
        if suspects and not is_own:
            found.append(Unfinished(attempt, suspects))
    return found


def _find_suspects(
    attempt: Attempt, tokens: Sequence[AccessToken], me: Caller | None, clock_ahead: timedelta
) -> list[AccessToken]:
    begin, end = _find_creation_span(attempt, clock_ahead)
    theirs = [token for token in tokens if begin <= token.created <= end]
    by_us = [t for t in theirs if me is None or t.creator is None or me.identity.may_be(t.creator)]
    return by_us or theirs


class _TokensByUser:
    """Some tokens by what tells their users, since both the tokens and what is open can be thousands."""

    def __init__(self, tokens: Iterable[AccessToken]) -> None:
        self._tokens: defaultdict[tuple[str, object], dict[str, AccessToken]] = defaultdict(dict)
        for token in tokens:
            for key in [("spelling", str(token.user)), *_list_identity_keys(token.user)]:
                self._tokens[key][token.id] = token

    def find(self, spelling: str) -> Sequence[AccessToken]:
        """Those of whom the journal spells so."""
        spelled = _parse_user(spelling)
        known = dict(self._tokens.get(("spelling", spelling), {}))
        for key in _list_identity_keys(spelled) if spelled is not None else ():
            known |= self._tokens.get(key, {})
        return [token for token in known.values() if may_denote(spelling, token.user)]


def _list_identity_keys(user: Identity) -> Iterator[tuple[str, object]]:
    """What two identities have to share one of, so that one can denote the other."""
    for key, value in user.known_fields().items():
        if key != "domain":
            yield key, bare_name(value) if key == "name" and isinstance(value, str) else value


def _find_creation_span(attempt: Attempt, clock_ahead: timedelta) -> tuple[datetime, datetime]:
    """When, by the cluster's clock, an attempt can have made a token."""
    return _shift_within_calendar(attempt.intent.time, clock_ahead - CLOCK_TOLERANCE), _shift_within_calendar(
        attempt.last.time, clock_ahead + MAX_CREATION_DELAY
    )


def _shift_within_calendar(time: datetime, by: timedelta) -> datetime:
    """A time moved within the calendar."""
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    return time + min(max(by, first - time), last - time)


def _has_ended(journal_history: JournalHistory, attempt: Attempt, token: AccessToken) -> bool:
    """Whether a change or a deletion has come to an end by what the token is like, or by what was done since."""
    state = format_change(token.state)
    done = attempt.intent.change is not None and {*attempt.intent.change.split(", ")} <= {*state.split(", ")}
    return (
        attempt.is_in_flight
        or done
        or journal_history.attempt_positions[attempt.intent.attempt]
        < journal_history.settled_positions.get(token.id, -1)
    )


def may_denote(spelling: str, user: Identity) -> bool:
    """Whether a user can be whom the journal spells so."""
    if spelling == str(user):
        return True
    spelled = _parse_user(spelling)
    if spelled is None or not spelled.may_be(user):
        return False
    shares_number = spelled.known_fields().keys() & user.known_fields().keys() - {"domain", "name"}
    return bool(shares_number) or (
        spelled.name is not None and user.name is not None and bare_name(spelled.name) == bare_name(user.name)
    )


@lru_cache
def _parse_user(spelling: str) -> Identity | None:
    try:
        return Identity.parse(spelling)
    except ValueError:
        return None


async def read_caller(cluster: ClusterClient, journal_history: JournalHistory) -> Caller | None:
    """Who this server is, None if that does not matter or is not known."""
    try:
        return await cluster.who_am_i() if journal_history.open_attempts else None
    except ClusterError:
        return None


@dataclass(frozen=True)
class UnfinishedFinder:
    """Where it is found out what is unfinished."""

    delivery: Delivery
    journal: Journal
    clock: ClusterClock
    timeout_seconds: float = LOCATE_TIMEOUT_SECONDS

    async def get_history(self) -> JournalHistory:
        """What the journal knows, or why nothing is known of it: nobody who only reads is stopped by that."""
        try:
            return JournalHistory(await self.journal.list_attempts())
        except JournalError as failure:
            return JournalHistory(journal_error=f"What was begun and not finished is not known: {failure}")

    async def locate_unfinished(
        self, journal_history: JournalHistory, tokens: Sequence[AccessToken], *, me: Caller | None = None
    ) -> Sequence[Unfinished]:
        """As `find_unfinished`, with where the bearer tokens of a few are, and without what is settled by that."""
        found = find_unfinished(journal_history, tokens, me=me, clock_ahead=self.clock.ahead)
        asked: dict[str, tuple[Location | None, str | None]] = {}
        located: list[Unfinished] = []
        for each in found:
            for token in each.suspects if each.attempt.is_creating else ():
                if token.id not in asked and len(asked) < 2 * MAX_ITEMS_SHOWN:
                    asked[token.id] = await self._locate_bearer_token(token, each.last_entry)
            told = [token.id for token in each.suspects if token.id in asked]
            locations = {token_id: place for token_id in told if (place := asked[token_id][0]) is not None}
            doubts = {token_id: doubt for token_id in told if (doubt := asked[token_id][1]) is not None}
            is_unproved = each.attempt.intent.replaces in {token.id for token in tokens}
            located.append(Unfinished(each.attempt, each.suspects, locations, doubts, is_unproved=is_unproved))
        return [each for each in located if not each.is_settled]

    async def _locate_bearer_token(self, token: AccessToken, entry: JournalEntry) -> tuple[Location | None, str | None]:
        """Where the bearer token of a token is; or why that is not known, None if it is nowhere."""
        with anyio.move_on_after(self.timeout_seconds):
            try:
                location = await self.delivery.locate(token.id, entry.location, {entry.user, str(token.user)})
                if location is not None or not (nameless := await self.delivery.list_unidentified_files()):
                    return location, None
            except DeliveryError as failure:
                return None, str(failure)
            files = render_first_items([*map(str, nameless)])
            return None, f"it may be in {files}, left by a killed server, which does not tell whose it is"
        return None, "the place of bearer tokens does not answer"


def render_unfinished(
    unfinished: Sequence[Unfinished], clock: ClusterClock, *, max_sentences: int = MAX_ITEMS_SHOWN
) -> Sequence[str]:
    """What is open, a sentence for what is about the same, and how much there is besides."""
    groups: dict[tuple[str, ...], list[Unfinished]] = {}
    for each in unfinished:
        key = (
            each.last_entry.operation,
            each.last_entry.user,
            each.attempt.outcome,
            *(token.id for token in each.suspects),
        )
        groups.setdefault(key, []).append(each)
    told = [_render_group(group, clock) for group in [*groups.values()][:max_sentences]]
    besides = sum(len(group) for group in [*groups.values()][max_sentences:])
    return [*told, f"{besides:,} more in the journal have no known end."] if besides else told


def _render_group(group: Sequence[Unfinished], clock: ClusterClock) -> str:
    latest = group[0]
    times = render_first_items([*dict.fromkeys(format_time(each.attempt.intent.time) for each in group)])
    whose = latest.last_entry.user if len(latest.last_entry.user) <= MAX_USER_CHARS else "somebody with a long name"
    begun = f"the {latest.last_entry.operation} for {whose} begun at {times}"
    if latest.attempt.is_in_flight:
        return f"At work: {begun}. {_render_in_flight(latest)}"
    if not latest.attempt.is_creating:
        return _render_open_change(latest, begun)
    return f"Unfinished: {begun}{_render_open_create(latest, clock)}"


def _render_in_flight(in_flight: Unfinished) -> str:
    ids = render_first_items([token.id for token in in_flight.suspects])
    return f"It may have just made {ids}: leave that alone, and wait for its end."


def _render_open_change(unfinished: Unfinished, begun: str) -> str:
    [token] = unfinished.suspects
    change = f" ({unfinished.last_entry.change})" if unfinished.last_entry.change else ""
    state = format_change(token.state)
    return (
        f"Unfinished: {begun}, of token {token.id}{change}, has no known end. The token is there ({state}): "
        "ask whether that is still wanted."
    )


def _render_open_create(unfinished: Unfinished, clock: ClusterClock) -> str:
    suspects = unfinished.suspects
    told = render_first_items([f"{token.id} (made {format_time(token.created)})" for token in suspects])
    if len(suspects) > 1:
        return (
            f" has no known end. One of {told} may be what it made, and nobody may have the bearer token of that: a "
            "person finds out which is in use."
        )
    [token] = suspects
    if unfinished.attempt.outcome == "undeletable":
        flaw = "its bearer token is lost" if unfinished.last_entry.location is None else "it did not prove to work"
        return f" made {told}, which could not be deleted again: {flaw}. {_render_retirement(token, clock)}"
    if (location := unfinished.locations.get(token.id)) is not None:
        return (
            f" has no known end. Token {told} seems to be what it made: its bearer token is in {location.render()}, "
            "and was not proved to work. "
            f'rotate_access_token(id="{unfinished.attempt.intent.replaces}") tells how to go on.'
        )
    doubt = unfinished.lookup_errors.get(token.id)
    where = f"Where its bearer token is, is not known: {doubt}" if doubt else _NO_LOCATION
    return f" has no known end. Token {told} may be what it made. {where}. {_render_retirement(token, clock)}"


_NO_LOCATION: Final = "Its bearer token is nowhere that QUMULO_DELIVERY puts them now"


def _render_retirement(token: AccessToken, clock: ClusterClock) -> str:
    deletion = f'delete_access_token(id="{token.id}")'
    if not token.is_live(now=clock()):
        return f"It does not work as it is. If nobody has its bearer token: {deletion}."
    return f'If nobody has its bearer token: update_access_token(id="{token.id}", enabled=false), watch, {deletion}.'


def list_lost_ids(unfinished: Iterable[Unfinished]) -> Iterator[str]:
    """The ids of the tokens whose bearer token nobody is known to have."""
    return (token.id for each in unfinished for token in each.lost_tokens)
