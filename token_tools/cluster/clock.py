"""What time it is on the cluster, as far as its answers tell.

The cluster stamps tokens and ends them by its own clock, which is not ours. What is asked of it and told about it in
terms of time is therefore reckoned by its clock, once a difference that matters is known.
"""

from datetime import datetime, timedelta
from typing import Final

from token_tools.times import MAX_DURATION, Clock, format_duration, format_time, utc_now

MIN_CLOCK_DIFFERENCE: Final = timedelta(minutes=2)
"""A smaller difference may be the time that an answer took."""

CREATION_DIFFERENCE_VALID_FOR: Final = timedelta(hours=1)
"""How long the time of a creation counts for more than the date of an answer; either clock may be set meanwhile."""


class ClusterClock:
    """The cluster's present; that of `clock`, which is ours, until a difference is known."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._measured_ahead = timedelta()
        self._creation_observed_at: datetime | None = None

    def __call__(self) -> datetime:
        """The present on the cluster, aware."""
        return self._clock() + self.ahead

    @property
    def ahead(self) -> timedelta:
        """By how much the cluster's clock is ahead of ours, zero if that does not matter; negative if it is behind."""
        return self._measured_ahead if abs(self._measured_ahead) >= MIN_CLOCK_DIFFERENCE else timedelta()

    def observe_creation(self, created: datetime, *, started: datetime) -> None:
        """Take note of when the cluster says that it made a token, which it has made since `started`, by our clock."""
        self._creation_observed_at = now = self._clock()
        # Made in between is as it should be, however long that took.
        self._set_ahead(created - min(max(created, started), now))

    def observe_date(self, date: datetime) -> None:
        """Take note of the date of an answer; what is in front of a cluster may have written it."""
        if (
            self._creation_observed_at is None
            or abs(self._clock() - self._creation_observed_at) > CREATION_DIFFERENCE_VALID_FOR
        ):
            self._set_ahead(date - self._clock())

    def _set_ahead(self, clock_ahead: timedelta) -> None:
        # A clock that is a lifetime off is no clock, and would leave the calendar some day.
        self._measured_ahead = min(max(clock_ahead, -MAX_DURATION), MAX_DURATION)


def render_present(now: datetime, clock_ahead: timedelta) -> str:
    """`It is 2026-11-24 09:00 UTC`, and by whose clock if that is not the same for all."""
    difference = render_clock_difference(clock_ahead)
    return f"It is {format_time(now)}{f' by {difference}' if difference else ''}"


def render_clock_difference(clock_ahead: timedelta) -> str | None:
    """`the cluster's clock, which is 2 hours ahead of this machine's`, None if it is not."""
    if not clock_ahead:
        return None
    where = "ahead of" if clock_ahead > timedelta() else "behind"
    return f"the cluster's clock, which is {format_duration(clock_ahead)} {where} this machine's"


def render_clock_note(clock_ahead: timedelta) -> str | None:
    """By whose clock times are told, None if that is the same for all."""
    difference = render_clock_difference(clock_ahead)
    return f"Times are by {difference}." if difference else None
