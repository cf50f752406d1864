"""What changed since the last audit of a cluster: found while the list is read, and told in counts and examples."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import compress
from operator import attrgetter, not_
from typing import Final, Literal, NamedTuple, get_args

import anyio.to_thread

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import JournalError
from token_tools.operations.findings import is_same_user
from token_tools.operations.journal_history import JournalHistory
from token_tools.operations.services import Services
from token_tools.storage.sightings import (
    ASSISTANT,
    NEVER_EXPIRES,
    Sighting,
    decode_tokens,
    encode_tokens,
    find_token,
    pack_token,
    unpack_id,
    unpack_state,
    unpack_user,
)

TokenChange = Literal[
    "new", "enabled again", "never expires now", "expires later", "gone", "disabled", "expires sooner"
]
"""What can have happened to a token, in order of danger. That its time is over is no change."""

EXAMPLES_PER_CHANGE: Final = 3
"""How many tokens are kept as examples of each change."""

NOTHING_TO_COMPARE: Final = "no earlier audit"
"""Stands beside each token if the record has no earlier audit."""

NOT_KNOWN: Final = "not known"
"""Stands beside each token if the record cannot be read."""


class ChangedToken(NamedTuple):
    """A token to which something happened; `token` is None if it is gone.

    `expiry` is the greater the later it expires. `by_this_server` says whether this server created it, or deleted it.
    """

    change: TokenChange
    id: str
    user: Identity
    expiry: int
    by_this_server: bool
    token: AccessToken | None = None

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """The lower it is, the more of a danger is the token among those to which the same happened."""
        creator = None if self.token is None else self.token.creator
        return self.by_this_server, creator is None or is_same_user(self.user, creator), -self.expiry


class Drift:
    """Compares what the last audit saw with each page of the list; `finalize` then finds out what is gone.

    `series` is that of the audits that are compared, and `last` None if there is nothing to compare with. `counts`
    say how many tokens each change happened to, and `counts_by_this_server` how many of those this server created
    or deleted. `examples` are the worst few of each. `is_whole` says whether the list was whole, so that what is
    not in it is gone. `caveats` say what is not known.
    """

    def __init__(
        self,
        history: JournalHistory,
        series: str = ASSISTANT,
        last: Sighting | None = None,
        tokens: Sequence[int] = (),
        caveats: Sequence[str] = (),
    ) -> None:
        self.series = series
        self.last = last
        self.caveats = caveats
        self.counts: dict[TokenChange, int] = dict.fromkeys(get_args(TokenChange), 0)
        self.counts_by_this_server: dict[TokenChange, int] = dict.fromkeys(get_args(TokenChange), 0)
        self.examples: dict[TokenChange, list[ChangedToken]] = {change: [] for change in get_args(TokenChange)}
        self.is_whole = False
        self._created_ids = history.created_ids
        self._deleted_ids = history.deleted_at.keys()
        self._before = tokens
        self._is_there = bytearray(len(tokens))
        self._changed: dict[int, int] = {}
        self._new: list[int] = []

    def compare(self, tokens: Iterable[AccessToken]) -> None:
        """Compare a page of the list with what the last audit saw; each token is to be compared once."""
        before, is_there = self._before, self._is_there
        for token in tokens:
            packed = pack_token(token)
            position = bisect_left(before, packed)
            if position < len(before) and before[position] == packed:
                is_there[position] = True
            else:
                self._add_changed(token, packed)

    def _add_changed(self, token: AccessToken, packed: int) -> None:
        position = find_token(self._before, packed)
        if position is None:
            self._new.append(packed)
        else:
            self._is_there[position] = True
            self._changed[position] = packed
        if self.last is not None:
            expiry, _ = unpack_state(packed)
            for change in self._list_changes(position, packed):
                by_this_server = change == "new" and token.id in self._created_ids
                self._count(ChangedToken(change, token.id, token.user, expiry, by_this_server, token))

    def _list_changes(self, position: int | None, packed: int) -> Sequence[TokenChange]:
        """Return what happened to a token, in order of danger; `position` is where the last audit has it."""
        if position is None:
            return ["new"]
        expiry_before, was_disabled = unpack_state(self._before[position])
        expiry, is_disabled = unpack_state(packed)
        has_happened: dict[TokenChange, bool] = {
            "enabled again": was_disabled and not is_disabled,
            "never expires now": expiry_before < expiry == NEVER_EXPIRES,
            "expires later": expiry_before < expiry < NEVER_EXPIRES,
            "disabled": is_disabled and not was_disabled,
            "expires sooner": expiry < expiry_before,
        }
        return [change for change, happened in has_happened.items() if happened]

    def describe(self, token: AccessToken) -> str:
        """Return what happened to a token of the list, in a word or two: `enabled again, expires later`.

        The text is empty if nothing did. It says so if there is nothing to compare with, or if that is not known.
        """
        if self.last is None:
            return NOT_KNOWN if self.caveats else NOTHING_TO_COMPARE
        return ", ".join(self.list_changes(token))

    def list_changes(self, token: AccessToken) -> Sequence[TokenChange]:
        """Return what happened to a token of the list, in order of danger; nothing if there is nothing to compare."""
        packed = pack_token(token)
        return [] if self.last is None else self._list_changes(find_token(self._before, packed), packed)

    def finalize(self) -> None:
        """Find out what is gone; call it once, after all tokens of a list that is whole were compared."""
        self.is_whole = True
        for changed in self.list_gone():
            self._count(changed)

    def list_gone(self) -> Iterator[ChangedToken]:
        """Yield the tokens that are gone, if the list was whole; call it after all tokens were compared."""
        for packed in compress(self._before, map(not_, self._is_there)) if self.is_whole else ():
            token_id, (expiry, _) = unpack_id(packed), unpack_state(packed)
            user = Identity(auth_id=unpack_user(packed))
            yield ChangedToken("gone", token_id, user, expiry, token_id in self._deleted_ids)

    def _count(self, changed: ChangedToken) -> None:
        self.counts[changed.change] += 1
        self.counts_by_this_server[changed.change] += changed.by_this_server
        worst = self.examples[changed.change]
        if len(worst) < EXAMPLES_PER_CHANGE or changed.rank < worst[-1].rank:
            insort(worst, changed, key=attrgetter("rank"))
            del worst[EXAMPLES_PER_CHANGE:]

    def list_worst(self, count: int) -> Sequence[ChangedToken]:
        """Return so many examples in order of danger: the worst one of each change before the second of any."""
        examples = [*self.examples.values()]
        places = sorted((place, order) for order, worst in enumerate(examples) for place in range(len(worst)))
        return [examples[order][place] for order, place in sorted((order, place) for place, order in places[:count])]

    @property
    def is_replaced(self) -> bool:
        """Whether none of the tokens is left that the last audit saw, and others are there."""
        return 0 < self.counts["gone"] == len(self._before) and self.counts["new"] > 0

    @property
    def has_changes(self) -> bool:
        """Whether anything happened to any token, as far as is known."""
        return any(self.counts.values())

    def list_seen(self) -> Sequence[int]:
        """Return all tokens of the list as they are kept for the next audit."""
        present = compress(range(len(self._before)), self._is_there)
        kept = [self._changed.get(position, self._before[position]) for position in present]
        return sorted([*kept, *self._new])


async def read_drift(services: Services, history: JournalHistory, series: str) -> Drift:
    """Return the comparison with what the last audit of a series saw. What cannot be read is a caveat, no error."""
    if history.journal_error is not None:
        # The database is not waited for once more.
        caveat = "For the same reason, this audit is neither compared with the last one nor kept for the next one."
        return Drift(history, series, caveats=[caveat])
    try:
        last = await services.journal.read_sighting(series)
        if last is None:
            return Drift(history, series)
        tokens = await anyio.to_thread.run_sync(decode_tokens, last.tokens)
    except JournalError as failure:
        return Drift(history, series, caveats=[f"What changed since the last audit is not known: {failure}"])
    # The tokens would take memory twice.
    return Drift(history, series, last._replace(tokens=b""), tokens)


async def keep_sighting(services: Services, drift: Drift, time: datetime, told: bytes) -> Sequence[str]:
    """Write what an audit saw that began at that time, and what it told, and return why that was not possible."""
    if not drift.is_whole:
        return ["The next audit is not compared with this one, whose list may not be whole."]
    last, seen = drift.last, Sighting(time, services.actor, b"", told)
    try:
        if last is not None and not drift.has_changes and last.told == told:
            await services.journal.renew_sighting(drift.series, last, seen)
        else:
            tokens = await anyio.to_thread.run_sync(lambda: encode_tokens(drift.list_seen()))
            await services.journal.record_sighting(drift.series, seen._replace(tokens=tokens))
    except JournalError as failure:
        return [f"The next audit is not compared with this one: {failure}"]
    return []
