"""What is a risk about a cluster's tokens: counted as they come by, so that it takes no more memory than a few of them.

There is no I/O and no clock in here. Of each token nothing is kept but eight bytes that tell its user; the worst few of
each finding are kept whole.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, Literal, get_args

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.create import SLOTS
from token_tools.operations.policy import is_built_in

Finding = Literal[
    "never_expires",
    "built_in_user",
    "made_by_another",
    "user_has_no_name",
    "expired",
    "disabled_and_old",
    "users_with_two_tokens",
    "older_than_a_year",
    "expires_soon",
]
FINDINGS: Final[Sequence[Finding]] = get_args(Finding)
"""In order of danger. The cluster does not tell since when a token is disabled, nor when it was last used."""

FEW: Final = 3
LONG: Final = timedelta(days=30)
"""After this, a token that is disabled is one that was forgotten."""
YEAR: Final = timedelta(days=365)
LOOKUPS: Final = 64
"""How many users without a name are looked up before it is said that there are more."""

UserKey = int
"""A user's auth_id as a number; of a user whom the cluster tells no auth_id of, a number made of the rest."""


@dataclass(frozen=True)
class Example:
    """A token of a finding, and since when it is one, or when it will be."""

    token: AccessToken
    since: datetime


@dataclass
class Tally:
    """How many tokens share a finding, and the worst few: those of the earliest time."""

    count: int = 0
    worst: list[Example] = field(default_factory=list[Example])

    def add(self, token: AccessToken, since: datetime) -> None:
        """Count a token."""
        self.count += 1
        if len(self.worst) < FEW or since < self.worst[-1].since:
            self.worst = sorted([*self.worst, Example(token, since)], key=lambda example: example.since)[:FEW]


@dataclass
class Audit:
    """The findings among the tokens that were added, as of `now`; each token is to be added once.

    `tallies` count each finding; `users_with_two_tokens` only after `settle_crowds`. A token is
    either `live`, `disabled` or `expired`, the last also where it is both. `nameless` are the tallies of the first few
    users without a name, `nameless_besides` counts the tokens of all further ones; `tells_names` says that the list has
    a name for others. `disabled_since` tells of some tokens since when they are disabled, and `rotated` are those that
    this server made in a rotate. Of the users, `identified` are some whom a look-up told more of than the list, and
    `absent` are those whom the cluster does not know. `users` counts the users who are known, and `crowded` are those
    with two tokens. `latest` is when the youngest token was made.
    """

    now: datetime
    within: timedelta
    own_id: str | None
    disabled_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    rotated: Collection[str] = ()
    live: int = 0
    disabled: int = 0
    expired: int = 0
    tallies: dict[Finding, Tally] = field(default_factory=lambda: {finding: Tally() for finding in FINDINGS})
    nameless: dict[UserKey, Tally] = field(default_factory=dict[UserKey, Tally])
    nameless_besides: int = 0
    tells_names: bool = False
    users: int = 0
    crowded: Sequence[UserKey] = ()
    latest: datetime | None = None
    identified: dict[UserKey, Identity] = field(default_factory=dict[UserKey, Identity])
    absent: set[UserKey] = field(default_factory=set[UserKey])
    _named: set[UserKey] = field(default_factory=set[UserKey])
    _own: tuple[UserKey, Sequence[Finding]] | None = None
    _users: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return self.live + self.disabled + self.expired

    def add(self, token: AccessToken) -> Sequence[Finding]:
        """Count a token, and tell what was found about it alone."""
        if token.user.is_somebody:
            self._users.append(key_of(token.user))
        found = self._find(token)
        for finding, since in found:
            self.tallies[finding].add(token, since)
        if token.id == self.own_id:
            self._own = key_of(token.user), [finding for finding, _ in found]
        return [finding for finding, _ in found]

    def find_crowded(self) -> Sequence[UserKey]:
        """The users who have as many tokens as one can have, so that none of theirs can be rotated, in order."""
        self.users, crowded = 0, list[UserKey]()
        for user, tokens in groupby(sorted(self._users)):
            self.users += 1
            crowded += [user] if sum(1 for _ in tokens) >= SLOTS else []
        self.crowded = crowded
        return crowded

    @property
    def has_own(self) -> bool:
        """Whether the token that the server runs on came by."""
        return self._own is not None

    @property
    def own(self) -> Sequence[Finding]:
        """The findings about the token that the server runs on."""
        return () if self._own is None else self.judge(*self._own)

    def settle_crowds(self, examples: Sequence[Example]) -> None:
        """Count the users with two tokens, with a token each of a few of them."""
        self.tallies["users_with_two_tokens"] = Tally(len(self.crowded), [*examples])

    def is_crowded(self, user: UserKey) -> bool:
        """Whether a user has as many tokens as one can have."""
        place = bisect_left(self.crowded, user)
        return place < len(self.crowded) and self.crowded[place] == user

    def identify(self, user: Identity) -> Identity:
        """A user with what a look-up told of them, if there was one."""
        return self.identified.get(key_of(user), user)

    def list_unidentified(self) -> Mapping[UserKey, AccessToken]:
        """A token each of the users who are told as examples, and of whom nothing is known but a key."""
        examples = [example.token for tally in self.tallies.values() for example in tally.worst]
        unknown = {key_of(token.user): token for token in examples if token.user.domain is None}
        return {user: token for user, token in unknown.items() if user not in self.identified.keys() | self.absent}

    def judge(self, user: UserKey, found: Sequence[Finding]) -> Sequence[Finding]:
        """The findings about a token of that user, with what only the whole list tells."""
        told = {*found, "users_with_two_tokens"} if self.is_crowded(user) else {*found}
        if user in self._named:
            told.discard("user_has_no_name")
        return [finding for finding in FINDINGS if finding in told]

    def settle_names(self, gone: Collection[UserKey], named: Collection[UserKey]) -> int:
        """Leave of `user_has_no_name` those whom a look-up did not find; gives how many tokens nothing is known of.

        Whom nobody looked up counts as without a name only if the list tells names, and none for them.
        """
        self._named = {*named} if self.tells_names else {*self.nameless} - {*gone}
        without = [tally for user, tally in self.nameless.items() if user not in self._named]
        worst = sorted((example for tally in without for example in tally.worst), key=lambda example: example.since)
        besides = self.nameless_besides if self.tells_names else 0
        counted = sum(tally.count for tally in without) + besides
        settled = sum(self.nameless[user].count for user in {*gone, *named})
        unsettled = sum(tally.count for tally in self.nameless.values()) + self.nameless_besides - settled
        self.tallies["user_has_no_name"] = Tally(counted, worst[:FEW])
        return 0 if self.tells_names else unsettled

    def _add_nameless(self, token: AccessToken) -> None:
        user = key_of(token.user)
        if user not in self.nameless and len(self.nameless) >= LOOKUPS:
            self.nameless_besides += 1
        else:
            self.nameless.setdefault(user, Tally()).add(token, token.created)

    def _find(self, token: AccessToken) -> list[tuple[Finding, datetime]]:
        """What there is to say about a token alone; it is counted as what it is by the way."""
        now, user, created, expires = self.now, token.user, token.created, token.expires
        found: list[tuple[Finding, datetime]] = []
        self.latest = created if self.latest is None or created > self.latest else self.latest
        if expires is not None and expires <= now:
            self.expired += 1
            found.append(("expired", expires))
        elif token.is_disabled:
            self.disabled += 1
        else:
            self.live += 1
            if expires is None:
                found.append(("never_expires", created))
            elif expires - now <= self.within:
                found.append(("expires_soon", expires))
            if is_built_in(user):
                found.append(("built_in_user", created))
            if token.creator is not None and token.id not in self.rotated and not _is_same(user, token.creator):
                found.append(("made_by_another", created))
            if created <= now - YEAR:
                found.append(("older_than_a_year", created))
        since = self.disabled_since.get(token.id, created)
        if token.is_disabled and since <= now - LONG:
            found.append(("disabled_and_old", since))
        if user.name:
            self.tells_names = True
        else:
            found.append(("user_has_no_name", created))
            self._add_nameless(token)
        return found


def key_of(user: Identity) -> UserKey:
    """A number for a user, the same for all of their tokens."""
    return int(user.auth_id) % 2**64 if user.auth_id else hash(user) % 2**64


def _is_same(user: Identity, creator: Identity) -> bool:
    if user.auth_id and creator.auth_id:
        return user.auth_id == creator.auth_id
    return user.covers(creator) and (user.name or "").casefold() == (creator.name or "").casefold()
