"""What time is it on the cluster? Our clock, corrected by the difference that its answers show.

The cluster's clock decides when a token was created and when it expires. If it differs from ours, "in an hour" by our
clock may already be over on the cluster. So every time that is sent to the cluster or told about it is computed by the
cluster's clock, once a difference is known that matters.

Two observations show the difference. The date header of an answer is available early, but something in front of the
cluster may have written it. The creation time of a new token is the cluster's own, so for an hour it counts for more.
"""

from datetime import datetime, timedelta
from typing import Final, Self

from token_tools.times import MAX_DURATION, Clock, format_duration, format_time, utc_now

MIN_CLOCK_DIFFERENCE: Final = timedelta(minutes=2)
"""A smaller difference is ignored: it may be the time that the answer took."""

CREATION_DIFFERENCE_VALID_FOR: Final = timedelta(hours=1)
"""How long a creation time counts for more than the date of an answer. Later, a clock may have been set."""


class ClusterClock:
    """Returns the present on the cluster; `clock` is that of this machine, which counts until a difference is known."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._measured_ahead = timedelta()
        self._is_compared = False
        self._creation_observed_at: datetime | None = None

    @classmethod
    def stopped(cls, time: datetime, ahead: timedelta) -> Self:
        """Return a clock that stands at this time of the cluster, when it was known to be `ahead` of ours."""
        clock = cls(lambda: time - ahead)
        clock._set_ahead(ahead)
        return clock

    def __call__(self) -> datetime:
        """Return the present on the cluster, aware."""
        return self._clock() + self.ahead

    @property
    def ahead(self) -> timedelta:
        """Return how far the cluster's clock is ahead of ours; negative if it is behind, zero if the two agree."""
        return self._measured_ahead if abs(self._measured_ahead) >= MIN_CLOCK_DIFFERENCE else timedelta()

    @property
    def is_compared(self) -> bool:
        """Tell whether the two clocks were compared; until then they are only taken to agree."""
        return self._is_compared

    def observe_creation(self, created: datetime, *, started: datetime) -> None:
        """Compare the clocks by the time `created` that the cluster gave a token, which it created after `started`.

        `started` is by our clock.
        """
        self._creation_observed_at = now = self._clock()
        # A creation between `started` and now shows no difference, however long the call took.
        self._set_ahead(created - min(max(created, started), now))

    def observe_date(self, date: datetime) -> None:
        """Compare the clocks by the date of an answer, unless a recent creation has shown the difference."""
        if (
            self._creation_observed_at is None
            or abs(self._clock() - self._creation_observed_at) > CREATION_DIFFERENCE_VALID_FOR
        ):
            self._set_ahead(date - self._clock())

    def _set_ahead(self, clock_ahead: timedelta) -> None:
        # Bound the difference, because a wild one would take our times out of the range of `datetime`.
        self._is_compared = True
        self._measured_ahead = min(max(clock_ahead, -MAX_DURATION), MAX_DURATION)


def render_present(now: datetime, clock_ahead: timedelta) -> str:
    """Return `It is 2026-11-24 09:00 UTC`, with the difference of the clocks if there is one."""
    difference = render_clock_difference(clock_ahead)
    return f"It is {format_time(now)}{f' by {difference}' if difference else ''}"


def render_clock_difference(clock_ahead: timedelta) -> str | None:
    """Return `the cluster's clock, which is 2 hours ahead of this machine's`, or None if the clocks agree."""
    if not clock_ahead:
        return None
    direction = "ahead of" if clock_ahead > timedelta() else "behind"
    return f"the cluster's clock, which is {format_duration(clock_ahead)} {direction} this machine's"


def render_clock_note(clock_ahead: timedelta) -> str | None:
    """Return a sentence that says which clock the times are by, or None if the clocks agree."""
    difference = render_clock_difference(clock_ahead)
    return f"Times are by {difference}." if difference else None
