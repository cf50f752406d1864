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
from token_tools.operations.create import MAX_TOKENS_PER_USER
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

EXAMPLES_PER_FINDING: Final = 3
STALE_AFTER: Final = timedelta(days=30)
"""After this, a token that is disabled is one that was forgotten."""
YEAR: Final = timedelta(days=365)
MAX_USER_LOOKUPS: Final = 64
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
        if len(self.worst) < EXAMPLES_PER_FINDING or since < self.worst[-1].since:
            self.worst = sorted([*self.worst, Example(token, since)], key=lambda example: example.since)[
                :EXAMPLES_PER_FINDING
            ]


@dataclass
class Audit:
    """The findings among the tokens that were added, as of `now`; each token is to be added once.

    `tallies` count each finding; `users_with_two_tokens` only after `finalize_users_at_limit`. A token is either
    `live`, `disabled` or `expired`, the last also where it is both. `unnamed_users` are the tallies of the first few
    users without a name, `other_unnamed_tokens` counts the tokens of all further ones; `list_has_names` says that the
    list has a name for others. `disabled_since` tells of some tokens since when they are disabled, and `successor_ids`
    are those that this server made in a rotate. Of the users, `resolved_users` are some whom a look-up told more of
    than the list, and `missing_users` are those whom the cluster does not know. `user_count` counts the users who are
    known, and `users_at_limit` are those with two tokens. `latest_creation` is when the youngest token was made.
    """

    now: datetime
    expiring_within: timedelta
    own_token_id: str | None
    disabled_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    successor_ids: Collection[str] = ()
    live: int = 0
    disabled: int = 0
    expired: int = 0
    tallies: dict[Finding, Tally] = field(default_factory=lambda: {finding: Tally() for finding in FINDINGS})
    unnamed_users: dict[UserKey, Tally] = field(default_factory=dict[UserKey, Tally])
    other_unnamed_tokens: int = 0
    list_has_names: bool = False
    user_count: int = 0
    users_at_limit: Sequence[UserKey] = ()
    latest_creation: datetime | None = None
    resolved_users: dict[UserKey, Identity] = field(default_factory=dict[UserKey, Identity])
    missing_users: set[UserKey] = field(default_factory=set[UserKey])
    _named_users: set[UserKey] = field(default_factory=set[UserKey])
    _own_token: tuple[UserKey, Sequence[Finding]] | None = None
    _user_keys: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return self.live + self.disabled + self.expired

    def add(self, token: AccessToken) -> Sequence[Finding]:
        """Count a token, and tell what was found about it alone."""
        if token.user.is_identified:
            self._user_keys.append(user_key_of(token.user))
        found = self._classify(token)
        for finding, since in found:
            self.tallies[finding].add(token, since)
        if token.id == self.own_token_id:
            self._own_token = user_key_of(token.user), [finding for finding, _ in found]
        return [finding for finding, _ in found]

    def find_users_at_limit(self) -> Sequence[UserKey]:
        """The users who have as many tokens as one can have, so that none of theirs can be rotated, in order."""
        self.user_count, crowded = 0, list[UserKey]()
        for user, tokens in groupby(sorted(self._user_keys)):
            self.user_count += 1
            crowded += [user] if sum(1 for _ in tokens) >= MAX_TOKENS_PER_USER else []
        self.users_at_limit = crowded
        return crowded

    @property
    def has_own_token(self) -> bool:
        """Whether the token that the server runs on came by."""
        return self._own_token is not None

    @property
    def own_findings(self) -> Sequence[Finding]:
        """The findings about the token that the server runs on."""
        return () if self._own_token is None else self.complete_findings(*self._own_token)

    def finalize_users_at_limit(self, examples: Sequence[Example]) -> None:
        """Count the users with two tokens, with a token each of a few of them."""
        self.tallies["users_with_two_tokens"] = Tally(len(self.users_at_limit), [*examples])

    def is_at_limit(self, user: UserKey) -> bool:
        """Whether a user has as many tokens as one can have."""
        place = bisect_left(self.users_at_limit, user)
        return place < len(self.users_at_limit) and self.users_at_limit[place] == user

    def resolve_user(self, user: Identity) -> Identity:
        """A user with what a look-up told of them, if there was one."""
        return self.resolved_users.get(user_key_of(user), user)

    def list_examples_to_resolve(self) -> Mapping[UserKey, AccessToken]:
        """A token each of the users who are told as examples, and of whom nothing is known but a key."""
        examples = [example.token for tally in self.tallies.values() for example in tally.worst]
        unknown = {user_key_of(token.user): token for token in examples if token.user.domain is None}
        return {
            user: token
            for user, token in unknown.items()
            if user not in self.resolved_users.keys() | self.missing_users
        }

    def complete_findings(self, user: UserKey, found: Sequence[Finding]) -> Sequence[Finding]:
        """The findings about a token of that user, with what only the whole list tells."""
        told = {*found, "users_with_two_tokens"} if self.is_at_limit(user) else {*found}
        if user in self._named_users:
            told.discard("user_has_no_name")
        return [finding for finding in FINDINGS if finding in told]

    def finalize_names(self, gone: Collection[UserKey], named: Collection[UserKey]) -> int:
        """Leave of `user_has_no_name` those whom a look-up did not find; gives how many tokens nothing is known of.

        Whom nobody looked up counts as without a name only if the list tells names, and none for them.
        """
        self._named_users = {*named} if self.list_has_names else {*self.unnamed_users} - {*gone}
        without = [tally for user, tally in self.unnamed_users.items() if user not in self._named_users]
        worst = sorted((example for tally in without for example in tally.worst), key=lambda example: example.since)
        besides = self.other_unnamed_tokens if self.list_has_names else 0
        counted = sum(tally.count for tally in without) + besides
        settled = sum(self.unnamed_users[user].count for user in {*gone, *named})
        unsettled = sum(tally.count for tally in self.unnamed_users.values()) + self.other_unnamed_tokens - settled
        self.tallies["user_has_no_name"] = Tally(counted, worst[:EXAMPLES_PER_FINDING])
        return 0 if self.list_has_names else unsettled

    def _add_unnamed_user(self, token: AccessToken) -> None:
        user = user_key_of(token.user)
        if user not in self.unnamed_users and len(self.unnamed_users) >= MAX_USER_LOOKUPS:
            self.other_unnamed_tokens += 1
        else:
            self.unnamed_users.setdefault(user, Tally()).add(token, token.created)

    def _classify(self, token: AccessToken) -> list[tuple[Finding, datetime]]:
        """What there is to say about a token alone; it is counted as what it is by the way."""
        now, user, created, expires = self.now, token.user, token.created, token.expires
        found: list[tuple[Finding, datetime]] = []
        self.latest_creation = (
            created if self.latest_creation is None or created > self.latest_creation else self.latest_creation
        )
        if expires is not None and expires <= now:
            self.expired += 1
            found.append(("expired", expires))
        elif token.is_disabled:
            self.disabled += 1
        else:
            self.live += 1
            if expires is None:
                found.append(("never_expires", created))
            elif expires - now <= self.expiring_within:
                found.append(("expires_soon", expires))
            if is_built_in(user):
                found.append(("built_in_user", created))
            if (
                token.creator is not None
                and token.id not in self.successor_ids
                and not _is_same_user(user, token.creator)
            ):
                found.append(("made_by_another", created))
            if created <= now - YEAR:
                found.append(("older_than_a_year", created))
        since = self.disabled_since.get(token.id, created)
        if token.is_disabled and since <= now - STALE_AFTER:
            found.append(("disabled_and_old", since))
        if user.name:
            self.list_has_names = True
        else:
            found.append(("user_has_no_name", created))
            self._add_unnamed_user(token)
        return found


def user_key_of(user: Identity) -> UserKey:
    """A number for a user, the same for all of their tokens."""
    return int(user.auth_id) % 2**64 if user.auth_id else hash(user) % 2**64


def _is_same_user(user: Identity, creator: Identity) -> bool:
    if user.auth_id and creator.auth_id:
        return user.auth_id == creator.auth_id
    return user.may_be(creator) and (user.name or "").casefold() == (creator.name or "").casefold()
