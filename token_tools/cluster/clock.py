"""What time it is on the cluster, as far as its answers tell.

The cluster stamps tokens and ends them by its own clock, which is not ours. What is asked of it and told about it in
terms of time is therefore reckoned by its clock, once a difference that matters is known.
"""

from datetime import datetime, timedelta
from typing import Final

from token_tools.times import LONGEST, Clock, tell_duration, tell_time, utc_now

MATTERS: Final = timedelta(minutes=2)
"""A smaller difference may be the time that an answer took."""

KNOWN_FOR: Final = timedelta(hours=1)
"""How long the time of a creation counts for more than the date of an answer; either clock may be set meanwhile."""


class ClusterClock:
    """The cluster's present; that of `clock`, which is ours, until a difference is known."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._ahead = timedelta()
        self._creation_heard: datetime | None = None

    def __call__(self) -> datetime:
        """The present on the cluster, aware."""
        return self._clock() + self.ahead

    @property
    def ahead(self) -> timedelta:
        """By how much the cluster's clock is ahead of ours, zero if that does not matter; negative if it is behind."""
        return self._ahead if abs(self._ahead) >= MATTERS else timedelta()

    def hear_creation(self, created: datetime, *, begun: datetime) -> None:
        """Take note of when the cluster says that it made a token, which it has made since `begun`, by our clock."""
        self._creation_heard = now = self._clock()
        # Made in between is as it should be, however long that took.
        self._note(created - min(max(created, begun), now))

    def hear_date(self, date: datetime) -> None:
        """Take note of the date of an answer; what is in front of a cluster may have written it."""
        if self._creation_heard is None or abs(self._clock() - self._creation_heard) > KNOWN_FOR:
            self._note(date - self._clock())

    def _note(self, ahead: timedelta) -> None:
        # A clock that is a lifetime off is no clock, and would leave the calendar some day.
        self._ahead = min(max(ahead, -LONGEST), LONGEST)


def tell_present(now: datetime, ahead: timedelta) -> str:
    """`It is 2026-11-24 09:00 UTC`, and by whose clock if that is not the same for all."""
    difference = tell_difference(ahead)
    return f"It is {tell_time(now)}{f' by {difference}' if difference else ''}"


def tell_difference(ahead: timedelta) -> str | None:
    """`the cluster's clock, which is 2 hours ahead of this machine's`, None if it is not."""
    if not ahead:
        return None
    where = "ahead of" if ahead > timedelta() else "behind"
    return f"the cluster's clock, which is {tell_duration(ahead)} {where} this machine's"


def tell_clock(ahead: timedelta) -> str | None:
    """By whose clock times are told, None if that is the same for all."""
    difference = tell_difference(ahead)
    return f"Times are by {difference}." if difference else None
