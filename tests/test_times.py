"""Times and durations: what is understood, what is refused because it is in doubt, and the words for them."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_tools.errors import Refusal
from token_tools.times import (
    LONGEST,
    format_instant,
    parse_duration,
    parse_expiry,
    parse_instant,
    parse_lifetime,
    tell_distance,
    tell_duration,
    tell_time,
    utc_now,
)

NOW = datetime(2026, 11, 24, 9, 0, 30, tzinfo=UTC)
AWARE = st.datetimes(
    min_value=datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis takes bounds without a zone, and adds it
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001 - the same
    timezones=st.timezones(),
)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30s", timedelta(seconds=30)),
        ("1 second", timedelta(seconds=1)),
        ("90 secs", timedelta(seconds=90)),
        ("15min", timedelta(minutes=15)),
        ("2 Minutes", timedelta(minutes=2)),
        ("12h", timedelta(hours=12)),
        ("1 hr", timedelta(hours=1)),
        ("90d", timedelta(days=90)),
        (" 90 days ", timedelta(days=90)),
        ("2w", timedelta(weeks=2)),
        ("P90D", timedelta(days=90)),
        ("p1dt12h", timedelta(days=1, hours=12)),
        ("PT15M", timedelta(minutes=15)),
        ("PT30S", timedelta(seconds=30)),
        ("P2W", timedelta(weeks=2)),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "90", "P", "PT", "P1DT", "-5d", "1d 12h", "soon", "\u0663d", "1e3d", "1.5d"])
def test_what_is_no_duration_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration with its unit: s, min, h, d or w, such as 30s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["3m", "3 months", "1y", "2 years", "P1M", "P1Y", "P1Y2M3DT4H"])
def test_a_duration_of_uneven_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must not count in months or years"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0d", "PT0S", "0 hours"])
def test_a_duration_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be longer than zero$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "999999999d", "999999999w", "P999999999W"])
def test_a_duration_that_would_leave_the_calendar_is_refused(text: str) -> None:
    assert parse_duration("36525d") == LONGEST
    with pytest.raises(ValueError, match=r"^must be no longer than 100 years$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["never", " Never "])
def test_a_lifetime_can_be_without_end(text: str) -> None:
    assert parse_lifetime(text) is None


def test_a_lifetime_that_is_none_is_told_that_it_may_be_without_end() -> None:
    with pytest.raises(ValueError, match=r"^must be a duration with .* or 90d; or be never$"):
        parse_lifetime("foo")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-24T10:02:20.123456789Z", datetime(2026, 11, 24, 10, 2, 20, 123456, tzinfo=UTC)),
        ("2026-11-24T10:02:20.12Z", datetime(2026, 11, 24, 10, 2, 20, 120000, tzinfo=UTC)),
        ("2026-11-24t10:02:20z", datetime(2026, 11, 24, 10, 2, 20, tzinfo=UTC)),
        ("2026-11-24 10:02+0100", datetime(2026, 11, 24, 9, 2, tzinfo=UTC)),
        ("2026-11-24T10:02:20", datetime(2026, 11, 24, 10, 2, 20, tzinfo=UTC)),
        ("9999-12-31T23:59:59-05:00", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", datetime(1, 1, 1, tzinfo=UTC)),
    ],
    ids=["nanoseconds", "hundredths", "small-letters", "offset", "no-offset", "past-the-end", "before-the-beginning"],
)
def test_a_time_of_the_cluster_is_read(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["", "2026-11-24", "1700000000", "2026-02-31T00:00:00Z", "0000-01-01T00:00:00Z"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|is not in the calendar"):
        parse_instant(text)


@given(AWARE)
def test_a_time_survives_writing_and_reading(instant: datetime) -> None:
    assert parse_instant(format_instant(instant)) == instant.astimezone(UTC)


@given(st.text() | st.from_regex(r"(0001-01-01|9999-12-31)T\d\d:\d\d:\d\d[+-]\d\d:\d\d", fullmatch=True))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    for parse in (parse_instant, parse_duration, parse_lifetime):
        try:
            parse(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "expiry"),
    [
        ("90d", datetime(2027, 2, 22, 9, 0, 30, tzinfo=UTC)),
        ("never", None),
        ("2027-01-31T18:00:00.9+01:00", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027-01-31 17:00Z", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_a_time_or_never(text: str, expiry: datetime | None) -> None:
    assert parse_expiry(text, now=NOW.astimezone(timezone(timedelta(hours=5)))) == expiry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2027-01-31T17:00:00", "has no offset from UTC"),
        ("2027-01-31", "has no offset from UTC"),
        ("2026-11-24T09:00:30Z", "is in the past"),
        ("2026-11-24T09:00:29Z", "is in the past"),
        ("tomorrow", "must be a duration with its unit"),
        ("90", "must be a duration with its unit"),
        ("0d", "must be longer than zero"),
        ("3 months", "must not count in months or years"),
        ("999999999d", "must be no longer than 100 years"),
        ("2127-01-01T00:00:00Z", "must be within 100 years"),
        ("9999-12-31T23:59:59-12:00", "must be within 100 years"),
        ("2027-02-31T00:00:00Z", "is not in the calendar"),
        ("", "must be a duration with its unit"),
    ],
)
def test_an_expiry_in_doubt_is_refused_with_the_present_time(text: str, why: str) -> None:
    with pytest.raises(Refusal, match=f"`expiration_time` {why}.*It is now 2026-11-24 09:00 UTC"):
        parse_expiry(text, now=NOW)


@given(st.text() | st.from_regex(r"\d{1,12} ?[smhdw]\w*|P[\dTDHMSW]+|\d{4}-\d\d-\d\d.*", fullmatch=True))
def test_any_text_is_an_expiry_in_the_future_or_refused(text: str) -> None:
    try:
        expiry = parse_expiry(text, now=NOW)
    except Refusal:
        return
    assert expiry is None or (expiry >= NOW and expiry.utcoffset() == timedelta())


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (timedelta(days=90), "in 90 days"),
        (timedelta(days=800), "in 800 days"),
        (timedelta(days=89, hours=23, minutes=59, seconds=50), "in 90 days"),
        (timedelta(days=2, minutes=-2), "in 2 days"),
        (timedelta(days=10.4), "in 10 days"),
        (timedelta(days=10.9), "in 10 days and 21 hours"),
        (timedelta(days=1133.6), "in 1133 days"),
        (timedelta(days=7, hours=10), "in 7 days and 10 hours"),
        (timedelta(hours=45.6), "in 1 day and 21 hours"),
        (timedelta(hours=36), "in 1 day and 12 hours"),
        (timedelta(hours=24), "in a day"),
        (timedelta(hours=23.6), "in 23 hours"),
        (timedelta(hours=5), "in 5 hours"),
        (timedelta(minutes=89), "in 1 hour and 29 minutes"),
        (timedelta(seconds=59.6), "in a minute"),
        (timedelta(seconds=57.6), "in 57 seconds"),
        (timedelta(minutes=59.5), "in an hour"),
        (timedelta(minutes=58), "in 58 minutes"),
        (timedelta(seconds=1), "in a second"),
        (timedelta(), "a moment ago"),
        (-timedelta(minutes=5), "5 minutes ago"),
        (-timedelta(days=30), "30 days ago"),
    ],
)
def test_a_distance_is_told_in_days_hours_or_minutes(distance: timedelta, words: str) -> None:
    assert tell_distance(NOW + distance, now=NOW) == words


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=36_525)))
def test_a_duration_is_told_a_twentieth_off_at_most(duration: timedelta) -> None:
    units = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
    told = re.findall(r"([\d.]+|an?) ([a-z]+?)s?(?: and |$)", tell_duration(duration))
    seconds = sum(float(number if number[0].isdigit() else 1) * units[unit] for number, unit in told)
    assert seconds == pytest.approx(duration.total_seconds(), rel=0.05)


def test_a_duration_and_a_time_are_told_for_reading() -> None:
    assert tell_duration(timedelta(seconds=30)) == "30 seconds"
    assert tell_time(datetime(2027, 1, 31, 18, 0, tzinfo=timezone(timedelta(hours=1)))) == "2027-01-31 17:00 UTC"


def test_the_clock_tells_utc() -> None:
    assert utc_now().utcoffset() == timedelta()
