"""Attempts without a known end, with the tokens that they may be about, until they are settled.

An attempt is settled once the cluster has none of its tokens any more, once a bearer token is found where it was
delivered, or by what was done since. The journal and the delivery are asked here, but with a short timeout.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import anyio

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity, bare_name
from token_tools.cluster.models import AccessToken, Principal
from token_tools.cluster.pagination import merge_user
from token_tools.errors import ClusterError, DeliveryError, JournalError
from token_tools.operations.calls import format_call
from token_tools.operations.journal_history import (
    JournalHistory,
    find_creation_span,
    format_change,
    read_history,
    read_known_history,
)
from token_tools.operations.services import Services
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.storage.attempts import Attempt
from token_tools.storage.delivery import Location, WaitingPage
from token_tools.storage.pickup_states import Pickup
from token_tools.times import format_time

LOCATE_TIMEOUT_SECONDS: Final = 5
"""Seconds that the delivery has to say where a bearer token is; an answer can do without."""

MAX_USER_CHARS: Final = 100
"""Characters of a user's spelling; a longer one is replaced by general words."""

_LOG: Final = logging.getLogger(__name__)
_NO_LOCATION: Final = "Its bearer token is nowhere that QUMULO_DELIVERY puts them now"


@dataclass(frozen=True)
class Unfinished:
    """An attempt without a known end, and the tokens that it may be about.

    By the id of the token, `locations` says where its bearer token was found, and `lookup_errors` why it is not known
    whether there is one. `is_unproved` says that the attempt is a rotate that did not prove the new token, and that the
    old one is still there.
    """

    attempt: Attempt
    suspects: Sequence[AccessToken]
    locations: Mapping[str, Location] = field(default_factory=dict[str, Location])
    lookup_errors: Mapping[str, str] = field(default_factory=dict[str, str])
    is_unproved: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether a bearer token of it was found where it was delivered, and needs neither a proof nor a person."""
        is_waiting = any(isinstance(location, WaitingPage) for location in self.locations.values())
        is_delivered = bool(self.locations) and not self.is_unproved and not is_waiting
        return is_delivered and self.attempt.outcome != "undeletable"

    @property
    def lost_tokens(self) -> Sequence[AccessToken]:
        """The suspects whose bearer token is lost, as far as is known."""
        has_ended = self.attempt.is_creating and not self.attempt.is_in_flight
        is_lost = self.attempt.outcome == "undeletable" or not self.locations
        return self.suspects if has_ended and is_lost and not self.is_settled else ()


def find_unfinished(
    journal_history: JournalHistory,
    tokens: Sequence[AccessToken],
    *,
    me: Principal | None = None,
    clock: ClusterClock,
) -> Sequence[Unfinished]:
    """Return the open attempts that may be about these tokens, the latest first.

    `me` is this server: tokens that it created are suspected before those of others. The token that it runs on is in
    use, so an attempt that can only be about that one is left out. So is one whose tokens do not work any more.
    """
    return [
        each
        for each in match_attempts(journal_history, tokens, me=me, clock=clock)
        if each.suspects and not _is_harmless(each, me, now=clock())
    ]


def match_attempts(
    journal_history: JournalHistory, tokens: Sequence[AccessToken], *, me: Principal | None = None, clock: ClusterClock
) -> Iterator[Unfinished]:
    """Yield each open attempt, the latest first, with those of these tokens that it may be about."""
    if not journal_history.open_attempts:
        return
    by_id = {token.id: [token] for token in tokens}
    by_user = _TokensByUser([token for token in tokens if token.id not in journal_history.created_ids])
    for attempt in journal_history.open_attempts:
        if not attempt.is_creating:
            known = by_id.get(attempt.token_id or "", [])
            suspects = [token for token in known if not _has_ended(journal_history, attempt, token)]
        elif attempt.token_id is not None:
            suspects = by_id.get(attempt.token_id, [])
        else:
            suspects = _find_suspects(attempt, by_user.find(attempt.user), me, clock.ahead)
        yield Unfinished(attempt, suspects)


def _is_harmless(unfinished: Unfinished, me: Principal | None, *, now: datetime) -> bool:
    """Whether an attempt to create a token can have left none behind that works and that nobody has."""
    if not unfinished.attempt.is_creating:
        return False
    is_own = me is not None and [token.id for token in unfinished.suspects] == [me.access_token_id]
    is_dead = not any(token.is_live(now=now) for token in unfinished.suspects)
    return is_own or (is_dead and not unfinished.attempt.is_in_flight)


def _find_suspects(
    attempt: Attempt, tokens: Sequence[AccessToken], me: Principal | None, clock_ahead: timedelta
) -> list[AccessToken]:
    begin, end = find_creation_span(attempt, clock_ahead)
    theirs = [token for token in tokens if begin <= token.created <= end and token.id not in attempt.known_ids]
    by_us = [t for t in theirs if me is None or t.creator is None or me.identity.may_be(t.creator)]
    return by_us or theirs


class _TokensByUser:
    """Finds the tokens of a user without a look at each: there can be thousands of tokens and of open attempts."""

    def __init__(self, tokens: Iterable[AccessToken]) -> None:
        self._tokens: defaultdict[tuple[str, object], dict[str, AccessToken]] = defaultdict(dict)
        for token in tokens:
            for key in [("spelling", str(token.user)), *_list_identity_keys(token.user)]:
                self._tokens[key][token.id] = token

    def find(self, spelling: str) -> Sequence[AccessToken]:
        """Return the tokens of the users whom this spelling in the journal may denote."""
        spelled = _parse_user(spelling)
        known = dict(self._tokens.get(("spelling", spelling), {}))
        for key in _list_identity_keys(spelled) if spelled is not None else ():
            known |= self._tokens.get(key, {})
        return [token for token in known.values() if may_denote(spelling, token.user)]


def _list_identity_keys(user: Identity) -> Iterator[tuple[str, object]]:
    """Yield what identifies a user; two identities that share none of these cannot denote the same user."""
    for key, value in user.known_fields().items():
        if key != "domain":
            yield key, bare_name(value) if key == "name" and isinstance(value, str) else value


def _has_ended(journal_history: JournalHistory, attempt: Attempt, token: AccessToken) -> bool:
    """Whether an update or a deletion need not be mentioned: the token is as wanted, or was changed again since."""
    state = format_change(token.state)
    is_done = attempt.after is not None and {*attempt.after.split(", ")} <= {*state.split(", ")}
    return attempt.is_in_flight or is_done or attempt.number < journal_history.last_changes.get(token.id, -1)


def may_denote(spelling: str, user: Identity) -> bool:
    """Whether a spelling in the journal may denote this user."""
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


@dataclass(frozen=True)
class UserHistory:
    """What the journal knows of attempts to create tokens for a user.

    `me` is who this server is, None if that does not matter or is not known. `tokens` are those that were looked at,
    and `unfinished` are the attempts that may have created one of them. `untraced` are those without a known end of
    which no token is there.
    """

    journal_history: JournalHistory
    me: Principal | None
    tokens: Sequence[AccessToken]
    unfinished: Sequence[Unfinished]
    untraced: Sequence[Attempt]


async def read_user_history(
    services: Services, user: Identity, current_tokens: Sequence[AccessToken] | None
) -> UserHistory:
    """Return what the journal knows of a user who has these tokens now; None says that these are not known.

    Raises:
        JournalError: If the journal cannot be read.
    """
    history = await read_known_history(services)
    tokens = [merge_user(token, user) for token in current_tokens or ()]
    me = await read_principal(services.cluster, history)
    located = await locate_unfinished(services, history, tokens, me=me)
    unfinished = [each for each in located if each.attempt.is_creating]
    return UserHistory(history, me, tokens, unfinished, list_untraced(services, history, user, tokens))


def list_untraced(
    services: Services, journal_history: JournalHistory, user: Identity, tokens: Sequence[AccessToken]
) -> Sequence[Attempt]:
    """Return the unfinished attempts to create a token for a user that can have created none of these tokens."""
    return [
        each.attempt
        for each in match_attempts(journal_history, tokens, clock=services.clock)
        if each.attempt.is_creating and each.attempt.is_unfinished and not each.suspects
        if may_denote(each.attempt.user, user)
    ]


async def read_principal(cluster: ClusterClient, journal_history: JournalHistory) -> Principal | None:
    """Return who this server is; None if that does not matter or is not known."""
    try:
        return await cluster.who_am_i() if journal_history.open_attempts else None
    except ClusterError:
        return None


async def render_unfinished_of(
    services: Services, tokens: Sequence[AccessToken], *, user: Identity | None = None
) -> Sequence[str]:
    """Render what is unfinished about these tokens, and why that may not be all.

    If these are all tokens of a `user`, the attempts for that user of which no token is there are told and settled, and
    it is told once which tokens for them, or for anybody, nobody picked up in time.
    """
    history = await read_history(services)
    me = await read_principal(services.cluster, history)
    unfinished = render_unfinished(await locate_unfinished(services, history, tokens, me=me))
    untraced = () if user is None else list_untraced(services, history, user, tokens)
    settled = await _settle_untraced(services, untraced)
    return [*unfinished, *settled, *filter(None, [history.journal_error]), *await tell_not_picked_up(services, user)]


async def tell_not_picked_up(services: Services, user: Identity | None = None) -> Sequence[str]:
    """Render, once, which tokens for a user or for anybody were deleted since nobody picked their bearer tokens up."""
    if services.pickups is None:
        return []
    try:
        ended = await services.pickups.tell_ended(lambda each: user is None or may_denote(each.user_name, user))
    except JournalError as failure:
        _LOG.warning("%s", failure)
        return []
    return [*map(_render_not_picked_up, ended)]


def _render_not_picked_up(pickup: Pickup) -> str:
    about = f"Not picked up in time: the bearer token of token {pickup.token_id} for {pickup.user_name}."
    if pickup.state == "left":
        return (
            f"{about} It was not deleted, since the cluster tells another user or time of creation than it should "
            "have: a person has to look at it."
        )
    when = format_time(pickup.ended or pickup.open_until)
    return f"{about} So it was deleted again at {when}; if it is still wanted, ask for another one."


async def _settle_untraced(services: Services, untraced: Sequence[Attempt]) -> Sequence[str]:
    if not untraced:
        return []
    failure = await services.journal.settle(untraced, "not found")
    return [render_untraced(untraced), "So it is settled." if failure is None else failure]


async def locate_unfinished(
    services: Services,
    journal_history: JournalHistory,
    tokens: Sequence[AccessToken],
    *,
    me: Principal | None = None,
    timeout_seconds: float = LOCATE_TIMEOUT_SECONDS,
) -> Sequence[Unfinished]:
    """Return what `find_unfinished` finds without what is settled, and where the first few bearer tokens are.

    The delivery has `timeout_seconds` for each of these bearer tokens.
    """
    found = find_unfinished(journal_history, tokens, me=me, clock=services.clock)
    results: dict[str, tuple[Location | None, str | None]] = {}
    located: list[Unfinished] = []
    for each in found:
        for token in each.suspects if each.attempt.is_creating else ():
            if token.id not in results and len(results) < 2 * MAX_ITEMS_SHOWN:
                results[token.id] = await _locate_bearer_token(services, token, each.attempt, timeout_seconds)
        ids = [token.id for token in each.suspects if token.id in results]
        locations = {token_id: location for token_id in ids if (location := results[token_id][0]) is not None}
        errors = {token_id: error for token_id in ids if (error := results[token_id][1]) is not None}
        is_unproved = each.attempt.replaces in {token.id for token in tokens}
        located.append(Unfinished(each.attempt, each.suspects, locations, errors, is_unproved=is_unproved))
    return [each for each in located if not each.is_settled]


async def _locate_bearer_token(
    services: Services, token: AccessToken, attempt: Attempt, timeout_seconds: float
) -> tuple[Location | None, str | None]:
    """Return where the bearer token of a token is, and why that is not known; both are None if it is nowhere."""
    with anyio.move_on_after(timeout_seconds):
        try:
            location = await services.delivery.locate(token.id, attempt.location, {attempt.user, str(token.user)})
            if location is not None or not (unidentified := await services.delivery.list_unidentified_files()):
                return location, None
        except DeliveryError as failure:
            return None, str(failure).removesuffix(".")
        files = render_first_items([*map(str, unidentified)])
        return None, f"it may be in {files}, left by a killed server, which does not tell whose it is"
    return None, "the place of bearer tokens does not answer"


def render_unfinished(unfinished: Sequence[Unfinished], *, max_sentences: int = MAX_ITEMS_SHOWN) -> Sequence[str]:
    """Render open attempts: one sentence for those about the same tokens, then how many there are besides."""
    groups: dict[tuple[str, ...], list[Unfinished]] = {}
    for each in unfinished:
        key = (
            each.attempt.operation,
            each.attempt.user,
            each.attempt.outcome,
            *(token.id for token in each.suspects),
        )
        groups.setdefault(key, []).append(each)
    sentences = [_render_group(group) for group in [*groups.values()][:max_sentences]]
    others = sum(len(group) for group in [*groups.values()][max_sentences:])
    return [*sentences, f"{others:,} more in the journal have no known end."] if others else sentences


def render_untraced(attempts: Sequence[Attempt]) -> str:
    """Render attempts to create a token for one user of which no token is there."""
    times = render_first_items([*dict.fromkeys(format_time(attempt.begun) for attempt in attempts)])
    return (
        f"Unfinished: a create or rotate for this user begun at {times} has no known end, and no token of it is seen."
    )


def render_untraced_count(
    journal_history: JournalHistory, tokens: Sequence[AccessToken], clock: ClusterClock
) -> Sequence[str]:
    """Render how many unfinished attempts can have created none of these tokens, which are all that may matter."""
    count = sum(
        each.attempt.is_creating and each.attempt.is_unfinished and not each.suspects
        for each in match_attempts(journal_history, tokens, clock=clock)
    )
    return [f"Of {count:,} unfinished no token is seen: list_token_changes tells more."] if count else []


def _render_group(group: Sequence[Unfinished]) -> str:
    latest = group[0]
    times = render_first_items([*dict.fromkeys(format_time(each.attempt.begun) for each in group)])
    attempt = latest.attempt
    whose = attempt.user if len(attempt.user) <= MAX_USER_CHARS else "somebody with a long name"
    begun = f"the {attempt.operation} for {whose} begun at {times}"
    if attempt.is_in_flight:
        return f"At work: {begun}. {_render_in_flight(latest)}"
    if not attempt.is_creating:
        return _render_open_change(latest, begun)
    return f"Unfinished: {begun}{_render_open_create(latest)}"


def _render_in_flight(in_flight: Unfinished) -> str:
    ids = render_first_items([token.id for token in in_flight.suspects])
    return f"It may have just made {ids}: leave that alone, and wait for its end."


def _render_open_change(unfinished: Unfinished, begun: str) -> str:
    [token] = unfinished.suspects
    change = f" ({unfinished.attempt.after})" if unfinished.attempt.after else ""
    state = format_change(token.state)
    if (reason := unfinished.attempt.reason) is not None:
        # No person asked for it, and so there is nobody to ask.
        return (
            f"Unfinished: {begun}, of token {token.id} ({reason}), did not work so far. The token is there ({state}): "
            "the server tries again by itself."
        )
    return (
        f"Unfinished: {begun}, of token {token.id}{change}, has no known end. The token is there ({state}): "
        "ask whether that is still wanted."
    )


def _render_open_create(unfinished: Unfinished) -> str:
    suspects = unfinished.suspects
    tokens = render_first_items([f"{token.id} (made {format_time(token.created)})" for token in suspects])
    if len(suspects) > 1:
        return (
            f" has no known end. One of {tokens} may be what it made, and nobody may have the bearer token of that: a "
            "person finds out which is in use."
        )
    [token] = suspects
    if unfinished.attempt.outcome == "undeletable":
        flaw = (
            "its bearer token was not delivered" if unfinished.attempt.location is None else "it did not prove to work"
        )
        return f" made {tokens}, which could not be deleted again: {flaw}. {_render_retirement(token)}"
    if (location := unfinished.locations.get(token.id)) is not None:
        made = f" has no known end. Token {tokens} seems to be what it made: its bearer token is in {location.render()}"
        if not unfinished.is_unproved:
            return f"{made}."
        leads_on = format_call("rotate_access_token", id=str(unfinished.attempt.replaces))
        return f"{made}, and was not proved to work. {leads_on} tells how to go on."
    lookup_error = unfinished.lookup_errors.get(token.id)
    where = f"Where its bearer token is, is not known: {lookup_error}" if lookup_error else _NO_LOCATION
    return f" has no known end. Token {tokens} may be what it made. {where}. {_render_retirement(token)}"


def _render_retirement(token: AccessToken) -> str:
    disabling = format_call("update_access_token", id=token.id, enabled=False)
    deletion = format_call("delete_access_token", id=token.id)
    return f"If nobody has its bearer token: {disabling}, watch, {deletion}."


def list_lost_ids(unfinished: Iterable[Unfinished]) -> Iterator[str]:
    """Return the ids of the tokens whose bearer token is lost, as far as is known."""
    return (token.id for each in unfinished for token in each.lost_tokens)
