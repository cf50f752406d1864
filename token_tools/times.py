"""How are times, durations and expiries read and written? Text to `datetime` and `timedelta`, and back.

This module has no clock: functions that depend on the present take it as `now`. Every `datetime` is aware.

The parsers accept everything that this module writes, and every other text that has exactly one meaning. They do not
use `dateutil` or a similar library, because those guess: a token with a guessed expiry is worse than an error that asks
for a clear one.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final

import humanize

from token_tools.errors import PastExpiry, Refusal

Clock = Callable[[], datetime]
"""Returns the present as an aware time."""

NEVER: Final = "never"
MAX_DURATION: Final = timedelta(days=36_525)
"""A hundred years. A longer duration is a mistake, and adding it to a date could leave the range of `datetime`."""

MAX_TEXT_CHARS: Final = 64
"""Longer texts are refused before they are matched, because the time of a match can grow faster than the text."""

EXAMPLE_DURATION: Final = timedelta(days=90)
"""How far the example times in errors lie in the future. An example must still work when somebody copies it."""

_MIN_INSTANT: Final = datetime.min.replace(tzinfo=UTC)
_MAX_INSTANT: Final = datetime.max.replace(tzinfo=UTC)
_UNIT_DURATIONS: Final = {
    "moment": timedelta(),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}
"""The length of each unit. Months and years are rounded: these two lengths are only used to propose another text."""

_FORMATTED_UNITS: Final = (*(_UNIT_DURATIONS[unit] for unit in ("d", "h", "min", "s")), timedelta(seconds=0.1))
"""The units in which durations are written, the longest first."""

_VARIABLE_UNITS: Final = {"month", "year"}
_UNIT_BY_WORD: Final = {"m": "m"} | {
    word: unit
    for unit, words in {
        "moment": "moment",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "d": "d day days",
        "w": "w wk wks week weeks",
        "month": "mo mos mon mons month months",
        "year": "y yr yrs year years",
    }.items()
    for word in words.split()
}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)[ -]?([a-z]+)", re.ASCII | re.IGNORECASE)
_DURATION: Final = re.compile(
    # Each part begins with a digit, so a text matches in one way only and the search stays fast.
    r"(?:expires )?(?:in |for |within |now ?\+ ?|\+ ?)?"
    rf"((?:an?|one) [a-z]+|{_DURATION_PART.pattern}(?:(?:, ?| and | )?{_DURATION_PART.pattern})*)"
    r"(?: from (?:now|today))?",
    re.ASCII | re.IGNORECASE,
)
_LEADING_ONE: Final = re.compile(r"^(?:an?|one) ", re.IGNORECASE)
_LEADING_MINUS: Final = re.compile(r"(P?)- ?(?=[P\d])", re.ASCII | re.IGNORECASE)
_BARE_NUMBER: Final = re.compile(r"\+? ?(\d+(?:\.\d+)?)", re.ASCII)
_ZERO_OR_NEGATIVE: Final = re.compile(r"0(?:\.0+)?|(-) ?\d+(?:\.\d+)?", re.ASCII)
_SHORT_NUMBER: Final = re.compile(r"(?=.{1,7}$)\d+(?:\.\d+)?", re.ASCII)
"""Numbers that an error may repeat. A longer number could be a part of a secret."""

_UNIX_TIME: Final = re.compile(r"(\d{9,13})(?:\.\d+)?", re.ASCII)
_MAX_UNIX_SECONDS_DIGITS: Final = 11
_YEAR: Final = re.compile(r"20\d\d", re.ASCII)
_DATE: Final = re.compile(r"(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII)
_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,30})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_NOW_WORDS: Final = re.compile(r"(?:right )?now|today|immediate(?:ly)?|at once", re.IGNORECASE)
_NEVER_WORDS: Final = re.compile(r"(?:expires )?never(?: expires)?", re.IGNORECASE)
_TIME: Final = re.compile(
    r"""
    (?:expire[sd][ ]|until[ ])?
    (?:(?P<year>\d{4})(?P<sign>[-/.])(?P<month>\d\d)(?P=sign)(?P<day>\d\d)|(?P<compact>\d{8})(?=T))
    (?:(?:T|,?[ ](?:at[ ])?)(?P<clock>\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?)(?![:\d]|[ ]?[ap]\.?m))?
    [ ]?(?P<zone>Z|(?:UTC|GMT)?[ ]?(?P<east>[+-])(?P<hours>\d\d?)(?P<minutes>:?\d\d)?|UTC|GMT)?
    (?:[ ]\((?:in[ ]|expired[ ])?(?:[\d.]+|an?)[ ][a-z]+(?:[ ]and[ ][\d.]+[ ][a-z]+)?(?:[ ]ago)?
    (?:,[ ]the[ ]default[ ]lifetime)?\))?
    (?P<rest>.*)
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
"""A time as RFC 3339, ISO 8601 and our own answers write it; `rest` is the text that was not understood."""

_SINCE_FORMS: Final = "Write a duration such as 7d, or a time such as 2026-11-17T09:00:00Z"
_DIGIT: Final = re.compile(r"\d")
_MINUTE: Final = _UNIT_DURATIONS["min"]
_DASHES: Final = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def utc_now() -> datetime:
    """Return the time of the system's clock, in UTC."""
    return datetime.now(UTC)


def parse_duration(text: str) -> timedelta:
    """Return the duration that a text such as `90d`, `1 week 3 days` or `P1DT12H` means, in whole seconds.

    It is longer than zero and no longer than `MAX_DURATION`. Months and years are refused because they have no fixed
    length, and a bare `m` because it can mean months or minutes.

    Raises:
        ValueError: If it is no such duration; the text says what to write instead.
    """
    duration = _try_parse_duration(_normalize(text))
    if duration is None:
        raise ValueError("must be a duration with its unit: s, min, h, d or w, such as 30s, 12h or 90d")
    return duration


def _normalize(text: str) -> str:
    """Strip blanks and quotes around a text, and use one kind of blank and one kind of dash in it.

    Raises:
        ValueError: If it is too long.
    """
    stripped = text.strip()
    if len(stripped) > MAX_TEXT_CHARS:
        raise ValueError(f"must be no longer than {MAX_TEXT_CHARS} characters")
    return " ".join(stripped.strip("\"'`").removesuffix(".").translate(_DASHES).split())


def _try_parse_duration(text: str) -> timedelta | None:
    """Return a duration, or None if the text is not written as one.

    Raises:
        ValueError: If it is written as a duration but is none that can be used; the text says what to write instead.
    """
    if text.lower().endswith(" ago"):
        raise _PastError("is in the past: write what is still to come, such as 90d")
    if bare := _BARE_NUMBER.fullmatch(text):
        raise ValueError(f"has no unit: write {propose_units(bare[1])}")
    if _LEADING_MINUS.match(text):
        positive = _try_parse_duration(_LEADING_MINUS.sub(r"\1", text, count=1))
        raise ValueError(
            f"is negative: write {'90d' if positive is None else _format_in_one_unit(positive)} for what is to come"
        )
    parts = _parse_parts(text)
    return None if parts is None else _combine_parts(parts)


def _parse_parts(text: str) -> list[tuple[float, str]] | None:
    """Return the numbers and units of a duration, or None if the text is not written as one."""
    date, _, clock = text[1:].upper().partition("T")
    is_iso = text[:1] in {"P", "p"}
    # In ISO 8601, an M means months before the T and minutes after it.
    match = _DURATION.fullmatch(date.replace("M", "MO") + clock.replace("M", "MIN") if is_iso else text)
    if match is None:
        return None
    found = [(float(number), word.lower()) for number, word in _DURATION_PART.findall(_LEADING_ONE.sub("1 ", match[1]))]
    return (
        [(number, _UNIT_BY_WORD[word]) for number, word in found]
        if _UNIT_BY_WORD.keys() >= {word for _, word in found}
        else None
    )


def _combine_parts(parts: list[tuple[float, str]]) -> timedelta:
    """Return the sum of a duration's parts.

    Raises:
        ValueError: If an `m`, a month or a year makes the sum uncertain, or if it is zero or too long.
    """
    counted = {unit for number, unit in parts if number}
    if "m" in counted and not counted & {"h", "s"}:
        readings = [_validate_duration(_sum_parts(parts, m_unit="min")), _sum_parts(parts, m_unit="month")]
        proposed = " or ".join(_format_in_one_unit(reading) for reading in readings if reading <= MAX_DURATION)
        raise ValueError(f"has an m, which can be minutes or months: write {proposed}")
    duration = _validate_duration(_sum_parts(parts, m_unit="min"))
    if counted & _VARIABLE_UNITS:
        raise ValueError(
            "must not count in months or years, which differ in length: write days, such as "
            f"{_format_in_one_unit(duration)}"
        )
    return duration


def _sum_parts(parts: list[tuple[float, str]], *, m_unit: str) -> timedelta:
    """Return the sum of the parts in whole seconds, with `m_unit` as the unit of an `m`."""
    try:
        converted = [(number, m_unit if unit == "m" else unit) for number, unit in parts]
        exact = sum((number * _UNIT_DURATIONS[unit] for number, unit in converted), timedelta())
        # Twelve months count as a year of 365 days and not as 360 days.
        exact += timedelta(days=5 * sum(number // 12 for number, unit in converted if unit == "month"))
    except OverflowError:
        return timedelta.max
    return exact - timedelta(microseconds=exact.microseconds)


def _validate_duration(duration: timedelta) -> timedelta:
    if duration > MAX_DURATION:
        raise ValueError("must be no longer than 100 years: write a shorter one, such as 365d")
    if not duration:
        raise ValueError("must be longer than zero: write a longer one, such as 12h")
    return duration


def _format_in_one_unit(duration: timedelta) -> str:
    """Return a duration as a whole number of its largest unit: `90d`, `36h`, `15min`."""
    unit = next(unit for unit in ("d", "h", "min", "s") if not duration % _UNIT_DURATIONS[unit])
    return f"{duration // _UNIT_DURATIONS[unit]}{unit}"


def propose_units(number: str) -> str:
    """Return how to write a number that lacks its unit: `90d or 90h or 90s`."""
    fitting = ("d", "h", "s") if _SHORT_NUMBER.fullmatch(number) else ()
    proposed = [
        f"{number}{unit}" for unit in fitting if timedelta() < float(number) * _UNIT_DURATIONS[unit] <= MAX_DURATION
    ]
    return " or ".join(proposed) or "a duration with its unit, such as 90d"


def propose_expiry(number: str) -> str:
    """Return how to write a bare number that was given as an expiry.

    It can mean a date, a year, the seconds or milliseconds since 1970, or a duration without its unit.
    """
    if date := _DATE.fullmatch(number):
        return f"{'-'.join(date.groups())}T23:59:59Z if that is a date"
    if _YEAR.fullmatch(number):
        return f"{number}-12-31T23:59:59Z if that is a year, or {propose_units(number)}"
    match = _UNIX_TIME.fullmatch(number)
    if match is None:
        return propose_units(number)
    seconds = int(match[1]) if len(match[1]) <= _MAX_UNIX_SECONDS_DIGITS else int(match[1]) // 1000
    return f"{format_rfc3339(datetime.fromtimestamp(seconds, UTC))} if it counts from 1970"


def parse_lifetime(text: str) -> timedelta | None:
    """Return a duration, or None for `never`.

    Raises:
        ValueError: If it is neither; the text says what to write instead.
    """
    if _NEVER_WORDS.fullmatch(_normalize(text)):
        return None
    try:
        return parse_duration(text)
    except ValueError as reason:
        raise ValueError(f"{reason}; or be {NEVER}") from None


def parse_rfc3339(text: str) -> datetime:
    """Return the time that the cluster wrote in RFC 3339, in UTC; digits after the microseconds are dropped.

    A time without an offset is in UTC, the only zone that the cluster uses. A time that its offset moves before the
    year 1 or after the year 9999 becomes the first or the last time that Python knows.

    Raises:
        ValueError: If it is not such a time.
    """
    match = _INSTANT.fullmatch(text) if len(text) <= MAX_TEXT_CHARS else None
    if match is None:
        raise ValueError("expected a time such as 2027-01-31T17:00:00Z")
    try:
        # `fromisoformat` is many times faster than `strptime`, and a list has hundreds of thousands of times.
        instant = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("is not in the calendar") from None
    try:
        return instant.astimezone(UTC) if match[1] else instant.replace(tzinfo=UTC)
    except OverflowError:
        return _MIN_INSTANT if instant.year == _MIN_INSTANT.year else _MAX_INSTANT


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the past time that a text means: `7d` for a week ago, `2026-11-17`, `2026-11-17 09:00 UTC` or RFC 3339.

    A time without an offset is in UTC, and a day begins at midnight.

    Raises:
        ValueError: If it is none; the text says what to write instead.
    """
    text = _normalize(text)
    match = _TIME.fullmatch(text)
    if match is None or match["rest"]:
        duration = _try_parse_duration(re.sub(r" ago$", "", text, flags=re.IGNORECASE))
        if duration is None:
            raise ValueError(f"is not understood. {_SINCE_FORMS}")
        return now - duration
    since = _parse_iso(_format_time_match(match, clock=match["clock"] or "00:00"), _SINCE_FORMS)
    if since > now:
        raise ValueError(f"is still to come. {_SINCE_FORMS}")
    return since.astimezone(UTC)


class _PastError(ValueError):
    """An expiry lies in the past, or is now."""


def parse_expiry(text: str, *, now: datetime, max_lifetime: timedelta | None = None) -> datetime | None:
    """Return the time at which something expires, in UTC with whole seconds, or None for `never`.

    `max_lifetime` limits only what an error proposes; a later time, and `never`, are still accepted here.

    Raises:
        PastExpiry: If the time is not in the future.
        Refusal: If the text is not understood, or the time has no offset. Like that of `PastExpiry`, the text says what
            to write instead and what time it is, because a model has no clock.
    """
    try:
        text = _normalize(text)
        return (
            None
            if _NEVER_WORDS.fullmatch(text)
            else _parse_expiry(text, now, _render_accepted_forms(now, max_lifetime))
        )
    except ValueError as reason:
        refusal = PastExpiry if isinstance(reason, _PastError) else Refusal
        raise refusal(f"`expiration_time` {reason}. It is now {format_time(now)}.") from None


def _parse_expiry(text: str, now: datetime, forms: str) -> datetime:
    if _NOW_WORDS.fullmatch(text):
        raise _PastError(f"is not in the future. {forms}")
    if bare := _ZERO_OR_NEGATIVE.fullmatch(text):
        # A zero means "for ever" in some interfaces and "at once" in others.
        raise ValueError(f"is {'negative' if bare[1] else 'zero'}. {forms}")
    if bare := _BARE_NUMBER.fullmatch(text):
        raise ValueError(f"has no unit: write {propose_expiry(bare[1])}")
    if match := _TIME.fullmatch(text):
        return _validate_future(_parse_time_match(match, now, forms), now, forms)
    duration = _try_parse_duration(text)
    if duration is None:
        raise ValueError(f"is not understood. {forms}")
    return (now + duration).astimezone(UTC).replace(microsecond=0)


def _parse_time_match(match: re.Match[str], now: datetime, forms: str) -> datetime:
    """Return the time that a match of `_TIME` means.

    Raises:
        ValueError: If it can mean several times; the text proposes the most likely one, correctly written.
    """
    clock = match["clock"]
    if clock and match["zone"] and not match["rest"]:
        return _parse_iso(_format_time_match(match, clock=clock), forms)
    if not clock and _DIGIT.search(match["rest"]):
        raise ValueError(f"has a time of day that cannot be read. {forms}")
    time = _parse_iso(_format_time_match(match, clock=clock or "23:59:59"), forms)
    proposed = _validate_future(time, now, forms)
    raise ValueError(
        f"has no offset from UTC{'' if clock else ', or no time of day,'} that can be read: "
        f"write {format_rfc3339(proposed)} if that is meant, or the offset in place of Z, such as +01:00"
    )


def _format_time_match(match: re.Match[str], *, clock: str) -> str:
    """Return a match of `_TIME` in ISO 8601, in UTC unless it has an offset."""
    date = match["compact"] or f"{match['year']}{match['month']}{match['day']}"
    offset = f"{match['east']}{match['hours']:0>2}{match['minutes'] or ''}" if match["east"] else "Z"
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock}{offset}"


def _parse_iso(text: str, forms: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(microsecond=0)
    except ValueError:
        raise ValueError(f"is not in the calendar. {forms}") from None


def _validate_future(time: datetime, now: datetime, forms: str) -> datetime:
    if time <= now:
        raise _PastError(f"is in the past. {forms}")
    if time - now > MAX_DURATION:
        raise ValueError(f"must be within 100 years. {forms}")
    return time.astimezone(UTC)


def _render_accepted_forms(now: datetime, max_lifetime: timedelta | None) -> str:
    if max_lifetime is not None and max_lifetime < EXAMPLE_DURATION:
        duration, example = _format_in_one_unit(max_lifetime), max_lifetime
    else:
        duration, example = "1d, 12h or 90d", EXAMPLE_DURATION
    # An example that is more than a minute ahead stays in the future without its seconds.
    example_time = format_rfc3339(
        (now + example).replace(second=0, microsecond=0) if example > _MINUTE else now + example
    )
    for_ever = f", or {NEVER}" if max_lifetime is None else ""
    return f"Write a duration from now such as {duration}, a time such as {example_time}{for_ever}, or leave it out"


def is_lifetime(text: str) -> bool:
    """Tell whether a valid expiry is a duration, and not a time or `never`."""
    try:
        parse_duration(text)
    except ValueError:
        return False
    return True


def format_rfc3339(instant: datetime) -> str:
    """Return a time in RFC 3339 and UTC, as the cluster accepts it: `2027-01-31T17:00:00Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def format_timestamp(instant: datetime) -> str:
    """Return a time in UTC that sorts as a text, as the database has it: `2027-01-31T17:00:00.000000Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def format_time(instant: datetime) -> str:
    """Return a time to the minute, for people: `2027-01-31 17:00 UTC`."""
    return f"{format_time_without_zone(instant)} UTC"


def format_time_without_zone(instant: datetime) -> str:
    """Return a time in UTC to the minute, without the zone, for tables whose heading names it: `2027-01-31 17:00`."""
    return instant.astimezone(UTC).isoformat(" ", "minutes").removesuffix("+00:00")


def format_duration(duration: timedelta) -> str:
    """Return a duration for people: `90 days`, `1 day and 12 hours`, `5 minutes`; `a moment` if it is below a second.

    The text is at most a twentieth too short. It is never too long, except by up to a hundredth of a unit: 90 days that
    began a moment ago are still `90 days`.
    """
    length = abs(duration)
    for unit, smaller in pairwise(_FORMATTED_UNITS):
        if length >= unit * 0.99:
            rounded = _round_down(length, unit)
            return _format_exactly(rounded if length - rounded <= length * 0.05 else _round_down(length, smaller))
    return "a moment"


def _round_down(length: timedelta, unit: timedelta) -> timedelta:
    return int(length / unit + 0.01) * unit


# A list of 50 tokens takes 0.5 ms less this way: it has the same few lengths again and again.
@lru_cache(maxsize=1024)
def _format_exactly(length: timedelta) -> str:
    if length in _FORMATTED_UNITS:
        return humanize.naturaldelta(length)
    return humanize.precisedelta(length, suppress=("years", "months"), format="%.4g")


def format_duration_argument(duration: timedelta) -> str:
    """Return a duration for a call, in the largest unit that it fills: `90d`, `12h`, `30min`, `20s`.

    The text is never too long, so that it keeps to a maximum: a day and a half is `1d`. Only what is below a second is
    `1s`. For people, who want it exact, there is `format_duration`.
    """
    unit = next((unit for unit in ("d", "h", "min") if duration >= _UNIT_DURATIONS[unit]), "s")
    return f"{max(1, duration // _UNIT_DURATIONS[unit])}{unit}"


def format_relative_time(instant: datetime, *, now: datetime) -> str:
    """Return how far away a time is: `in 90 days` or `3 hours ago`."""
    distance = format_duration(instant - now)
    return f"in {distance}" if instant > now else f"{distance} ago"
