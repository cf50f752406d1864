"""Count a cluster's users while the list of all tokens is read.

Only the key of each user and the number of their tokens are kept. Whole tokens are kept only for the few examples of
each finding.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.token_limit import MAX_TOKENS_PER_USER

EXAMPLES_PER_FINDING: Final = 3
"""How many tokens are shown as examples of a finding, unless it says otherwise."""

MAX_USER_LOOKUPS: Final = 64
"""Users without a name who are looked up; of further ones only the tokens are counted."""

UserKey = int
"""A user's auth_id as a number, or a hash of the other fields of a user whose auth_id the cluster does not tell.

Hashes are nearly always the largest keys, so users who can be looked up by their key come before those who cannot.
"""


def user_key_of(user: Identity) -> UserKey:
    """Return a number for a user that is the same for all of their tokens."""
    return int(user.auth_id) if user.auth_id else hash(user) % 2**64


@dataclass(frozen=True)
class Example:
    """A token that has a finding, and the time since when it has it, or from when on it will."""

    token: AccessToken
    since: datetime


@dataclass
class Tally:
    """How many tokens or users share a finding, and the worst few tokens: those with the earliest `since`."""

    count: int = 0
    worst: list[Example] = field(default_factory=list[Example])
    max_examples: int = EXAMPLES_PER_FINDING

    def add(self, token: AccessToken, since: datetime) -> None:
        """Count a token."""
        self.count += 1
        if len(self.worst) < self.max_examples or since < self.worst[-1].since:
            self.worst = _choose_worst([*self.worst, Example(token, since)], self.max_examples)


def _choose_worst(examples: Sequence[Example], max_examples: int = EXAMPLES_PER_FINDING) -> list[Example]:
    return sorted(examples, key=lambda example: example.since)[:max_examples]


@dataclass
class UserCensus:
    """What the list of all tokens and a few look-ups say about the users; each token is to be added once.

    `list_has_names` says whether the list names any user at all. `unnamed` are the tallies of the first few users whom
    it does not name, and `other_unnamed_tokens` counts the tokens of all further ones. A look-up puts an unnamed user
    into `named` if it finds a name, or into `nameless` if it finds that there is none.

    `at_limit_examples` are tokens of the first few users with as many tokens as a user can have. `resolved` are users
    about whom a look-up found more than the list says, and `missing` are those whom the cluster does not find.
    """

    list_has_names: bool = False
    unnamed: dict[UserKey, Tally] = field(default_factory=dict[UserKey, Tally])
    other_unnamed_tokens: int = 0
    named: set[UserKey] = field(default_factory=set[UserKey])
    nameless: set[UserKey] = field(default_factory=set[UserKey])
    tokens_per_user: Counter[UserKey] = field(default_factory=Counter[UserKey])
    at_limit_examples: Sequence[Example] = ()
    resolved: dict[UserKey, Identity] = field(default_factory=dict[UserKey, Identity])
    missing: set[UserKey] = field(default_factory=set[UserKey])

    def add(self, token: AccessToken) -> None:
        """Count the user of a token."""
        if token.user.is_identified:
            self.tokens_per_user[user_key_of(token.user)] += 1
        if token.user.name:
            self.list_has_names = True
        else:
            self._add_unnamed(token)

    def _add_unnamed(self, token: AccessToken) -> None:
        user = user_key_of(token.user)
        if user not in self.unnamed and len(self.unnamed) >= MAX_USER_LOOKUPS:
            self.other_unnamed_tokens += 1
        else:
            self.unnamed.setdefault(user, Tally()).add(token, token.created)

    @property
    def at_limit(self) -> Sequence[UserKey]:
        """The users with as many tokens as a user can have, by their keys, in order."""
        return sorted(user for user, count in self.tokens_per_user.items() if count >= MAX_TOKENS_PER_USER)

    def is_at_limit(self, user: UserKey) -> bool:
        """Whether a user has as many tokens as a user can have, so that none of them can be rotated."""
        return self.tokens_per_user[user] >= MAX_TOKENS_PER_USER

    def is_nameless(self, user: UserKey) -> bool:
        """Whether a user whom the list does not name has no name.

        If the list names other users, a user has no name unless a look-up found one. If the list names no user at all,
        a user has a name unless a look-up found that there is none.
        """
        return user not in self.named if self.list_has_names else user in self.nameless

    def tally_at_limit(self) -> Tally:
        """Return how many users have as many tokens as a user can have, with a token of each of the first few."""
        return Tally(len(self.at_limit), [*self.at_limit_examples])

    def tally_nameless(self) -> Tally:
        """Return how many tokens are of users who have no name, with the oldest few."""
        tallies = [tally for user, tally in self.unnamed.items() if self.is_nameless(user)]
        others = self.other_unnamed_tokens if self.list_has_names else 0
        worst = _choose_worst([example for tally in tallies for example in tally.worst])
        return Tally(sum(tally.count for tally in tallies) + others, worst)

    def count_undecided_tokens(self) -> int:
        """Return how many tokens belong to users of whom it is not known whether they have a name."""
        if self.list_has_names:
            return 0
        undecided = self.unnamed.keys() - self.named - self.nameless
        return sum(self.unnamed[user].count for user in undecided) + self.other_unnamed_tokens

    def resolve(self, user: Identity) -> Identity:
        """Return a user with everything that a look-up found; without one, the user as the list describes them."""
        return self.resolved.get(user_key_of(user), user)
