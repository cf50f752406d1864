"""Who has just signed in with this access token?

Checking a token takes half a millisecond, and clients send one with each call. So a token that was checked is not
checked again for five minutes, or until it expires. A key that the issuer has withdrawn is accepted for these minutes
longer than `issuer` says: for an hour in all.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Generic, NamedTuple, TypeVar

from token_tools.times import Clock

MAX_SIGN_INS: Final = 1024
"""Tokens that are remembered, by their SHA-256; the one that was not used for the longest time is forgotten first."""

LIFETIME: Final = timedelta(minutes=5)
"""The time for which a check holds."""

_Person = TypeVar("_Person")


class _SignIn(NamedTuple, Generic[_Person]):
    person: _Person
    time: datetime
    accepted_until: datetime


@dataclass
class RecentSignIns(Generic[_Person]):
    """Those whose token was checked a moment ago, the one who came last at the end."""

    clock: Clock
    _by_digest: dict[bytes, _SignIn[_Person]] = field(default_factory=dict[bytes, _SignIn[_Person]])

    def find(self, bearer: str) -> _Person | None:
        """Return who has signed in with a token, None if it has to be checked."""
        digest, now = _digest(bearer), self.clock()
        sign_in = self._by_digest.pop(digest, None)
        # A clock that was put back does not make the check hold longer.
        if sign_in is None or abs(now - sign_in.time) >= LIFETIME or now >= sign_in.accepted_until:
            return None
        self._by_digest[digest] = sign_in
        return sign_in.person

    def add(self, bearer: str, person: _Person, accepted_until: datetime) -> None:
        """Remember who has signed in with a token that was checked."""
        self._by_digest[_digest(bearer)] = _SignIn(person, self.clock(), accepted_until)
        if len(self._by_digest) > MAX_SIGN_INS:
            del self._by_digest[next(iter(self._by_digest))]


def _digest(bearer: str) -> bytes:
    return hashlib.sha256(bearer.encode()).digest()
