"""Test which times and durations are parsed, which are refused as ambiguous, and how they are rendered."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from token_tools.errors import Refusal
from token_tools.times import (
    MAX_DURATION,
    format_duration,
    format_duration_argument,
    format_relative_time,
    format_rfc3339,
    format_time,
    format_time_without_zone,
    is_lifetime,
    parse_duration,
    parse_expiry,
    parse_lifetime,
    parse_rfc3339,
    parse_since,
    utc_now,
)

NOW = datetime(2026, 11, 24, 9, 0, 30, tzinfo=UTC)
AWARE_DATETIMES = st.datetimes(
    # Hypothesis takes bounds without a zone, and adds one.
    min_value=datetime(1, 1, 3, tzinfo=UTC).replace(tzinfo=None),
    max_value=datetime(9999, 12, 29, tzinfo=UTC).replace(tzinfo=None),
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
        ("P90DT0S", timedelta(days=90)),
        ("P0Y0M90DT0H0M0S", timedelta(days=90)),
        ("+90d", timedelta(days=90)),
        ("in 90 days", timedelta(days=90)),
        ("90 days from now", timedelta(days=90)),
        ("now + 90d", timedelta(days=90)),
        ("a week from today", timedelta(weeks=1)),
        ("90-day", timedelta(days=90)),
        ("\u00a090\u202fd ", timedelta(days=90)),
        ('"90d"', timedelta(days=90)),
        ("90 days.", timedelta(days=90)),
        ("1 week 3 days", timedelta(days=10)),
        ("1 week and 3 days", timedelta(days=10)),
        ("1 week, 3 days", timedelta(days=10)),
        ("1w3d", timedelta(days=10)),
        ("1d 12h", timedelta(hours=36)),
        ("1.5d", timedelta(hours=36)),
        ("1h30m", timedelta(minutes=90)),
        ("2160h0m0s", timedelta(days=90)),
    ],
)
def test_a_duration_is_numbers_with_their_units(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "P",
        "PT",
        "soon",
        "\u0663d",
        "1e3d",
        "90 fortnights",
        "ninety days",
        "--5d",
        "1d and",
        "2027-01-31",
        "\u00bdd",
    ],
)
def test_what_is_no_duration_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration with its unit: s, min, h, d or w, such as 30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("90", "has no unit: write 90d or 90h or 90s"),
        ("1.5", "has no unit: write 1.5d or 1.5h or 1.5s"),
        ("7776000", "has no unit: write 7776000s"),
        ("99999999", "has no unit: write a duration with its unit, such as 90d"),
        ("0", "has no unit: write a duration with its unit, such as 90d"),
        ("-5d", "is negative: write 5d for what is to come"),
        ("\u22125 days", "is negative: write 5d for what is to come"),
        ("-P5D", "is negative: write 5d for what is to come"),
        ("P-5D", "is negative: write 5d for what is to come"),
        ("-9 lives", "is negative: write 90d for what is to come"),
        ("3 days ago", "is in the past: write what is still to come, such as 90d"),
        ("a moment ago", "is in the past: write what is still to come, such as 90d"),
        ("30m", "has an m, which can be minutes or months: write 30min or 910d"),
        ("1440m", "has an m, which can be minutes or months: write 1d"),
    ],
)
def test_what_is_wrong_with_a_duration_is_said_and_not_anything_else(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        parse_duration(text)

    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("3 months", "90d"),
        ("one month", "30d"),
        ("1y", "365d"),
        ("2 years", "730d"),
        ("P1M", "30d"),
        ("P1Y", "365d"),
        ("P1Y2M3DT4H", "10276h"),
        ("6mo", "180d"),
    ],
)
def test_a_duration_of_uneven_length_is_refused_with_days(text: str, days: str) -> None:
    answer = f"must not count in months or years, which differ in length: write days, such as {days}"
    with pytest.raises(ValueError, match=f"^{answer}$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0d", "PT0S", "0 hours", "0.1s", "in a moment"])
def test_a_duration_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be longer than zero: write a longer one, such as 12h$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "99999999999d", "999999999w", "P999999999W", "200y", "9" * 63 + "w"])
def test_a_duration_that_would_leave_the_calendar_is_refused(text: str) -> None:
    assert parse_duration("36525d") == MAX_DURATION
    with pytest.raises(ValueError, match=r"^must be no longer than 100 years: write a shorter one, such as 365d$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["never", " Never ", "never expires", "expires never", "`never`"])
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
    assert parse_rfc3339(text) == instant


@pytest.mark.parametrize("text", ["", "2026-11-24", "1700000000", "2026-02-31T00:00:00Z", "0000-01-01T00:00:00Z"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|is not in the calendar"):
        parse_rfc3339(text)


@given(AWARE_DATETIMES)
def test_a_time_survives_writing_and_reading(instant: datetime) -> None:
    assert parse_rfc3339(format_rfc3339(instant)) == instant.astimezone(UTC)


@given(st.text() | st.from_regex(r"(0001-01-01|9999-12-31)T\d\d:\d\d:\d\d[+-]\d\d:\d\d", fullmatch=True))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    for parse in (parse_rfc3339, parse_duration, parse_lifetime):
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
        ("2027-01-31 17:00 UTC", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027-01-31 17:00 UTC (in 68 days)", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("expires 2027-01-31 17:00 UTC (in a day, the default lifetime)", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027-01-31T17:00:00 GMT", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027-01-31T17:00:00+02", datetime(2027, 1, 31, 15, 0, tzinfo=UTC)),
        ("2027-01-31 17:00:00 +02:00", datetime(2027, 1, 31, 15, 0, tzinfo=UTC)),
        ("2027-01-31 17:00 UTC+2", datetime(2027, 1, 31, 15, 0, tzinfo=UTC)),
        ("2027-01-31T17:00:00-0830", datetime(2027, 2, 1, 1, 30, tzinfo=UTC)),
        ("20270131T170000Z", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027-01-31T17Z", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027/01/31 at 17:00 UTC", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
        ("2027\u201101\u201131T17:00:00Z", datetime(2027, 1, 31, 17, 0, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_a_time_or_never(text: str, expiry: datetime | None) -> None:
    assert parse_expiry(text, now=NOW.astimezone(timezone(timedelta(hours=5)))) == expiry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2027-01-31T17:00:00", "has no offset from UTC that can be read: write 2027-01-31T17:00:00Z if"),
        ("2027-01-31 17:00 (in 68 days)", "has no offset from UTC that can be read: write 2027-01-31T17:00:00Z if"),
        ("2027-01-31 17:00 CET", "has no offset from UTC that can be read: write 2027-01-31T17:00:00Z if"),
        ("2027-01-31T17:00:00 Europe/Berlin", "has no offset from UTC that can be read: write 2027-01-31T17:00:00Z if"),
        ("2027-01-31T17:00+01:00[Europe/Paris]", "has no offset from UTC .* write 2027-01-31T16:00:00Z if"),
        ("2027-01-31T17:00:00Z+02:00", "has no offset from UTC that can be read"),
        ("2027-01-31", "has no offset from UTC, or no time of day, that can be read: write 2027-01-31T23:59:59Z if"),
        ("2027-01-31 05:00 PM UTC", "has a time of day that cannot be read. Write a duration"),
        ("2027-01-31 5pm UTC", "has a time of day that cannot be read. Write a duration"),
        ("12 months", ".* write days, such as 365d"),
        ("0", "is zero. Write a duration from now such as .* or never"),
        ("-1", "is negative. Write a duration from now such as .* or never"),
        ("now", "is not in the future. Write a duration"),
        ("2026-11-24", "has no offset from UTC, or no time of day, .*: write 2026-11-24T23:59:59Z if"),
        ("2026-11-24T09:00:30Z", "is in the past. Write a duration"),
        ("2026-11-24T09:00:29Z", "is in the past. Write a duration"),
        ("2026-11-23", "is in the past. Write a duration"),
        ("expired 2026-11-21 09:00 UTC (3 days ago)", "is in the past. Write a duration"),
        ("3 days ago", "is in the past: write what is still to come"),
        ("tomorrow", "is not understood. Write a duration"),
        ("forever", "is not understood. Write a .* or never, or leave it out"),
        ("none", "is not understood. Write a .* or never, or leave it out"),
        ("90", "has no unit: write 90d or 90h or 90s"),
        ("1801414800", "has no unit: write 2027-01-31T17:00:00Z if it counts from 1970"),
        ("1801414800000", "has no unit: write 2027-01-31T17:00:00Z if it counts from 1970"),
        ("20270131", "has no unit: write 2027-01-31T23:59:59Z if that is a date"),
        ("20271332", "has no unit: write a duration with its unit"),
        ("2027", "has no unit: write 2027-12-31T23:59:59Z if that is a year, or 2027d or 2027h or 2027s"),
        ("-5d", "is negative: write 5d"),
        ("0d", "must be longer than zero"),
        ("3 months", "must not count in months or years"),
        ("999999999d", "must be no longer than 100 years"),
        ("2127-01-01T00:00:00Z", "must be within 100 years"),
        ("9999-12-31T23:59:59-12:00", "must be within 100 years"),
        ("2027-02-31T00:00:00Z", "is not in the calendar"),
        ("2027-01-31T17:00:00+99:99", "is not in the calendar"),
        ("", "is not understood. Write a duration"),
        ("9" * 65, "must be no longer than 64 characters"),
    ],
)
def test_an_expiry_in_doubt_is_refused_with_the_present_time(text: str, why: str) -> None:
    with pytest.raises(Refusal, match=f"`expiration_time` {why}.*It is now 2026-11-24 09:00 UTC"):
        parse_expiry(text, now=NOW)


@pytest.mark.parametrize("form", ["2027-02-22T09:00:00Z", "90d", "12h", "1d", "never"])
def test_each_form_that_an_error_gives_can_be_copied(form: str) -> None:
    with pytest.raises(Refusal, match=form):
        parse_expiry("soon", now=NOW)

    assert is_lifetime(form) == (form not in {"never", "2027-02-22T09:00:00Z"})
    assert parse_expiry(form, now=NOW) is None or form != "never"


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=30_000)))
def test_whatever_is_told_of_the_future_is_read_as_what_it_says(ahead: timedelta) -> None:
    expiry = (NOW + ahead).replace(microsecond=0)
    rounded, distance = expiry.replace(second=0), format_relative_time(expiry, now=NOW)
    assume(rounded > NOW)

    for answer in (format_rfc3339(expiry), expiry.isoformat()):
        assert parse_expiry(answer, now=NOW) == expiry
    for answer in (
        format_time(expiry),
        f"{format_time(expiry)} ({distance})",
        f"expires {format_time(expiry)} ({distance})",
    ):
        assert parse_expiry(answer, now=NOW) == rounded
    for answer in (format_duration(ahead), distance):
        assert abs(parse_duration(answer) - ahead) <= max(
            timedelta(minutes=1), timedelta(days=1) if ahead.days else ahead / 2
        )
    for answer in (format_time_without_zone(expiry), f"{format_time_without_zone(expiry)} ({distance})"):
        with pytest.raises(Refusal, match=f"write {format_rfc3339(rounded)} if that is meant"):
            parse_expiry(answer, now=NOW)


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=30_000)))
def test_whatever_is_told_of_the_past_is_refused_as_past(ago: timedelta) -> None:
    time = NOW - ago
    distance = format_relative_time(time, now=NOW)

    for answer in (format_rfc3339(time), format_time(time), format_time_without_zone(time), distance):
        with pytest.raises(Refusal, match="`expiration_time` is in the past"):
            parse_expiry(answer, now=NOW)
    with pytest.raises(Refusal, match="`expiration_time` is in the past"):
        parse_expiry(f"expired {format_time(time)} ({distance})", now=NOW)


@given(
    st.text()
    | st.from_regex(r"-?\d{1,13} ?[smhdw]\w*|(\d{1,3} ?\w+ ?){1,9}|P[\dTDHMSW]+|\d{4}-\d\d-\d\d.*", fullmatch=True)
)
def test_any_text_is_an_expiry_in_the_future_or_refused(text: str) -> None:
    try:
        expiry = parse_expiry(text, now=NOW)
    except Refusal:
        return
    assert expiry is None or (expiry >= NOW and expiry.utcoffset() == timedelta())


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("1 week ago", NOW - timedelta(days=7)),
        ("2026-11-17", datetime(2026, 11, 17, tzinfo=UTC)),
        ("2026-11-17 09:00", datetime(2026, 11, 17, 9, tzinfo=UTC)),
        ("2026-11-17 09:00 UTC", datetime(2026, 11, 17, 9, tzinfo=UTC)),
        ("2026-11-17T09:00:00+02:00", datetime(2026, 11, 17, 7, tzinfo=UTC)),
    ],
)
def test_a_past_time_is_a_duration_back_a_day_or_a_time(text: str, since: datetime) -> None:
    assert parse_since(text, now=NOW) == since


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yesterday", "is not understood. Write a duration such as 7d, or a time such as 2026-11-17T09:00:00Z"),
        ("2026-11-17 9:00", "is not understood. Write a duration such as 7d"),
        ("2026-13-01", "is not in the calendar. Write a duration such as 7d"),
        ("2026-11-25", "is still to come. Write a duration such as 7d"),
        ("7", "has no unit: write 7d or 7h or 7s"),
    ],
)
def test_what_is_no_past_time_is_told_with_what_is(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}"):
        parse_since(text, now=NOW)


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
    assert format_relative_time(NOW + distance, now=NOW) == words


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=36_525)))
def test_a_duration_is_told_a_twentieth_off_at_most(duration: timedelta) -> None:
    units = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
    answer = re.findall(r"([\d.]+|an?) ([a-z]+?)s?(?: and |$)", format_duration(duration))
    seconds = sum(float(number if number[0].isdigit() else 1) * units[unit] for number, unit in answer)
    assert seconds == pytest.approx(duration.total_seconds(), rel=0.05)


def test_a_duration_and_a_time_are_told_for_reading() -> None:
    assert format_duration(timedelta(seconds=30)) == "30 seconds"
    assert format_time(datetime(2027, 1, 31, 18, 0, tzinfo=timezone(timedelta(hours=1)))) == "2027-01-31 17:00 UTC"


def test_the_clock_tells_utc() -> None:
    assert utc_now().utcoffset() == timedelta()


@pytest.mark.parametrize(
    ("duration", "argument"),
    [
        (timedelta(days=90), "90d"),
        (timedelta(days=1, hours=12), "1d"),
        (timedelta(hours=23, minutes=59), "23h"),
        (timedelta(minutes=30, seconds=59), "30min"),
        (timedelta(seconds=20), "20s"),
        (timedelta(milliseconds=1), "1s"),
    ],
    ids=str,
)
def test_a_duration_for_a_call_is_never_longer_than_the_duration_but_for_the_shortest(
    duration: timedelta, argument: str
) -> None:
    assert format_duration_argument(duration) == argument
    assert parse_duration(argument) <= max(duration, timedelta(seconds=1))
