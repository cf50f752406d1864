"""Times and durations as people write them, and back.

There is no clock in here: what depends on the present takes it as `now`. Every `datetime` in and out is aware.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import humanize
from pydantic import TypeAdapter, ValidationError

from token_tools.errors import Refusal

Clock = Callable[[], datetime]
"""Gives the present, aware."""

NEVER: Final = "never"
LONGEST: Final = timedelta(days=36_525)
"""A hundred years: what is longer is a mistake, and would leave the calendar some day."""

MAX_CHARACTERS: Final = 64
"""Of a text that is read as a time or a duration; no pattern sees a longer one."""

HOW_TO_WRITE_AN_EXPIRY: Final = (
    "Write a duration such as 90d, 12h or P90D, a time with an offset such as 2027-01-31T17:00:00Z, or never"
)

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_TOLD: Final = (*reversed([_UNITS[unit] for unit in ("s", "min", "h", "d")]), timedelta(seconds=0.1))
_DURATION: Final = re.compile(
    r"(\d{1,9}) ?(?:(s|sec|secs|seconds?)|(min|mins|minutes?)|(h|hrs?|hours?)|(d|days?)|(w|weeks?))",
    re.ASCII | re.IGNORECASE,
)
_UNEVEN: Final = re.compile(r"\d+ ?(?:m|mo|mons?|months?|y|yrs?|years?)|P[\dYMWD]*[YM].*", re.ASCII | re.IGNORECASE)
_ISO_DURATION: Final = re.compile(r"P(?:\d{1,9}W|(?=.)(?:\d{1,9}D)?(?:T(?=.)(?:\d{1,9}H)?(?:\d{1,9}M)?(?:\d{1,9}S)?)?)")
_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,30})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_NAIVE: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?", re.ASCII | re.IGNORECASE)
_DELTA: Final[TypeAdapter[timedelta]] = TypeAdapter(timedelta)


def utc_now() -> datetime:
    """The system's clock, in UTC."""
    return datetime.now(UTC)


def parse_duration(text: str) -> timedelta:
    """A duration longer than zero and no longer than `LONGEST`: `90d`, `12 hours`, `P1DT12H`.

    A month or a year has no fixed length, and a bare `m` could be a month or a minute, so none of them is taken.

    Raises:
        ValueError: With what to write instead.
    """
    text = _strip(text)
    if _UNEVEN.fullmatch(text):
        raise ValueError("must not count in months or years, which differ in length: write days, such as 90d")
    try:
        duration = _duration(text)
    except (OverflowError, ValidationError):
        duration = timedelta.max
    if duration is None:
        raise ValueError("must be a duration with its unit: s, min, h, d or w, such as 30s, 12h or 90d")
    if not duration:
        raise ValueError("must be longer than zero")
    if duration > LONGEST:
        raise ValueError("must be no longer than 100 years")
    return duration


def _strip(text: str) -> str:
    stripped = text.strip()
    if len(stripped) > MAX_CHARACTERS:
        raise ValueError(f"must be no longer than {MAX_CHARACTERS} characters")
    return stripped


def _duration(text: str) -> timedelta | None:
    if _ISO_DURATION.fullmatch(text.upper()):
        return _DELTA.validate_strings(text.upper())
    if match := _DURATION.fullmatch(text):
        number, *unit = match.groups()
        [size] = [size for size, word in zip(_UNITS.values(), unit, strict=True) if word]
        return int(number) * size
    return None


def parse_lifetime(text: str) -> timedelta | None:
    """A duration, or None for `never`.

    Raises:
        ValueError: With what to write instead.
    """
    if _strip(text).lower() == NEVER:
        return None
    try:
        return parse_duration(text)
    except ValueError as doubt:
        raise ValueError(f"{doubt}; or be {NEVER}") from None


def parse_instant(text: str) -> datetime:
    """An RFC 3339 time as the cluster writes it; digits past the microsecond are dropped.

    Without an offset it is UTC, the only zone in which the cluster speaks. What an offset puts before the year 1 or
    after the year 9999 is as near to it as Python can tell.

    Raises:
        ValueError: If it is not such a time.
    """
    match = _INSTANT.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise ValueError("expected a time such as 2027-01-31T17:00:00Z")
    try:
        # A list has hundreds of thousands of these: nothing here is slower than it has to be.
        instant = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("is not in the calendar") from None
    try:
        return instant.astimezone(UTC) if match[1] else instant.replace(tzinfo=UTC)
    except OverflowError:
        return _FIRST if instant.year == _FIRST.year else _LAST


def parse_expiry(text: str, *, now: datetime) -> datetime | None:
    """When something expires, in UTC with whole seconds, or None for `never`.

    Raises:
        Refusal: If it is not understood, has no offset, or is not in the future; the text tells the present time,
            since a model has no clock.
    """
    try:
        text = _strip(text)
    except ValueError as doubt:
        raise _refuse(str(doubt), now) from None
    if text.lower() == NEVER:
        return None
    if _NAIVE.fullmatch(text):
        raise _refuse("has no offset from UTC, so it could mean several times", now)
    try:
        expiry = parse_instant(text) if _INSTANT.fullmatch(text) else (now + parse_duration(text)).astimezone(UTC)
    except ValueError as doubt:
        raise _refuse(str(doubt), now) from None
    if expiry <= now:
        raise _refuse("is in the past", now)
    if expiry - now > LONGEST:
        raise _refuse("must be within 100 years", now)
    return expiry.replace(microsecond=0)


def names_lifetime(text: str) -> bool:
    """Whether a valid expiry says how long something is to live, and not until when or for ever."""
    stripped = text.strip()
    return stripped.lower() != NEVER and not _INSTANT.fullmatch(stripped)


def _refuse(why: str, now: datetime) -> Refusal:
    return Refusal(f"`expiration_time` {why}. {HOW_TO_WRITE_AN_EXPIRY}. It is now {tell_time(now)}.")


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC, as the cluster takes it: `2027-01-31T17:00:00Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def tell_time(instant: datetime) -> str:
    """To the minute, for reading: `2027-01-31 17:00 UTC`."""
    return f"{tell_minute(instant)} UTC"


def tell_minute(instant: datetime) -> str:
    """The same where it is said elsewhere that it is UTC: `2027-01-31 17:00`."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "minutes")


def tell_duration(duration: timedelta) -> str:
    """For reading, at most a twentieth off: `90 days`, `1 day and 12 hours`, `5 minutes`; below a second `a moment`.

    It is not told for longer than it is but by a hundredth of a unit: a moment later, 90 days are still that.
    """
    length = abs(duration)
    for unit, smaller in pairwise(_TOLD):
        if length >= unit * 0.99:
            told = _round_down(length, unit)
            return _tell_exactly(told if length - told <= length * 0.05 else _round_down(length, smaller))
    return "a moment"


def _round_down(length: timedelta, unit: timedelta) -> timedelta:
    return int(length / unit + 0.01) * unit


def _tell_exactly(length: timedelta) -> str:
    if length in _TOLD:
        return humanize.naturaldelta(length)
    return humanize.precisedelta(length, suppress=("years", "months"), format="%.4g")


def tell_distance(instant: datetime, *, now: datetime) -> str:
    """`in 90 days` or `3 hours ago`."""
    distance = tell_duration(instant - now)
    return f"in {distance}" if instant > now else f"{distance} ago"
