"""If the cluster's clock differs from ours, times and limits are right all the same, or answers say that it differs."""

from datetime import datetime, timedelta

import httpx
import pytest

from tests.support.harness import AGREES, JANE, NOW, TOKENS_PATH, Harness, ScriptedPerson
from token_tools.cluster.clock import ClusterClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_consent")]

ONE_HOUR = timedelta(hours=1)
TEN_YEARS = timedelta(days=3653)


def set_cluster_clock(harness: Harness, ahead: timedelta, *, sends_date: bool = False) -> None:
    """Set the cluster's clock ahead of ours; each answer has its date or not."""
    harness.cluster.clock = lambda: harness.now + ahead

    async def date(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if sends_date:
            response.headers["Date"] = f"{harness.now + ahead:%a, %d %b %Y %H:%M:%S} GMT"
        return response

    harness.recorder.on_served = date


async def test_a_token_that_is_dead_on_arrival_is_not_told_as_made(harness: Harness) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane", "expiration_time": "1h"})

    assert (
        "it had expired at 2026-11-24 10:00 UTC, before it was made at 2026-11-24 11:00 UTC by the cluster's clock, "
        "which is 2 hours ahead of this machine's."
    ) in refusal
    assert "It was deleted again. No token is left of this." in refusal
    assert harness.tokens_of(JANE) == []


async def test_the_next_one_lives_as_long_as_it_was_asked_to(harness: Harness) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR)
    async with harness.connected() as client:
        await client.call_tool("create_access_token", {"user": "local:jane", "expiration_time": "1h"})
        answer = await client.call_tool("create_access_token", {"user": "local:jane", "expiration_time": "1h"})

    [token] = harness.tokens_of(JANE)
    assert token.expiration_time == NOW + 3 * ONE_HOUR
    assert answer.structured_content is not None
    assert "expires 2026-11-24 12:00 UTC (in an hour)" in answer.structured_content["summary"]
    assert "the cluster's clock, which is 2 hours ahead of this machine's" in answer.structured_content["warning"]


@pytest.mark.parametrize("ahead", [timedelta(minutes=7), -timedelta(minutes=7), 2 * ONE_HOUR, -2 * ONE_HOUR])
async def test_a_difference_of_minutes_is_told_with_a_new_token(harness: Harness, ahead: timedelta) -> None:
    set_cluster_clock(harness, ahead)

    answer = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": "30d"})

    where = "ahead of" if ahead > timedelta() else "behind"
    assert f" {where} this machine's" in answer.fields["warning"]


async def test_a_request_that_takes_minutes_makes_no_difference_of_the_clocks(harness: Harness) -> None:
    async def take_time(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        harness.now += timedelta(minutes=3 if request.method == "POST" and request.url.path == TOKENS_PATH else 0)
        return response

    harness.recorder.on_served = take_time

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert "warning" not in answer.fields


async def test_a_difference_of_seconds_is_no_news(harness: Harness) -> None:
    set_cluster_clock(harness, timedelta(seconds=90))

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    assert "warning" not in answer.fields


@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_what_the_cluster_says_of_the_time_is_what_times_are_told_by(harness: Harness, tool: str) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR, sends_date=True)
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + 3 * ONE_HOUR)

    answer = await harness.call(tool, {"id": token.id} if tool == "get_access_token" else {})

    present = "It is 2026-11-24 11:00 UTC by the cluster's clock, which is 2 hours ahead of this machine's."
    assert present in answer.text
    assert present in answer.fields["summary"]
    if tool != "audit_access_tokens":
        assert "(in an hour)" in answer.text
        assert "2 hours ago" not in answer.text


@pytest.mark.parametrize("tool", ["list_access_tokens", "get_access_token", "audit_access_tokens"])
async def test_a_token_of_the_future_says_that_the_clocks_differ(harness: Harness, tool: str) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR)
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + 3 * ONE_HOUR)

    answer = await harness.call(tool, {"id": token.id} if tool == "get_access_token" else {})

    doubt = "made at 2026-11-24 11:00 UTC, which is still to come by this machine's clock. The clocks differ"
    assert doubt in answer.text
    assert doubt in str(answer.fields)


async def test_the_longest_lifetime_counts_by_the_cluster_s_clock(harness: Harness) -> None:
    """This machine's clock is ten years ahead, so its ninety days from now are over ten years on the cluster."""
    set_cluster_clock(harness, -TEN_YEARS)

    async with harness.connected(max_lifetime=timedelta(days=90)) as client:
        first = await client.call_tool("create_access_token", {"user": "local:jane"})
        assert harness.tokens_of(JANE) == []
        second = await client.call_tool("create_access_token", {"user": "local:jane"})

    assert first.is_error
    assert "QUMULO_MAX_LIFETIME does not allow that. It was deleted again." in str(first.content)
    assert "3653 days behind this machine's" in str(first.content)
    assert not second.is_error
    [token] = harness.tokens_of(JANE)
    assert token.expiration_time == NOW - TEN_YEARS + timedelta(days=90)


@pytest.mark.parametrize("expiration_time", ["90d", None])
async def test_a_token_that_lives_for_years_instead_of_days_is_not_kept_either(
    harness: Harness, expiration_time: str | None
) -> None:
    set_cluster_clock(harness, -TEN_YEARS)

    refusal = await harness.call_refused(
        "create_access_token", {"user": "local:jane", "expiration_time": expiration_time}
    )

    assert "it would live 3743 days instead of 90 days." in refusal
    assert harness.tokens_of(JANE) == []


async def test_until_when_is_asked_for_is_kept_however_the_clocks_differ(harness: Harness) -> None:
    set_cluster_clock(harness, -TEN_YEARS)

    answer = await harness.call(
        "create_access_token", {"user": "local:jane", "expiration_time": "2027-01-31T17:00:00Z"}
    )

    assert not answer.is_error
    assert "3653 days behind this machine's" in answer.fields["warning"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("update_access_token", {"expiration_time": "30d"}), ("delete_access_token", {})],
)
async def test_a_change_and_its_question_tell_by_whose_clock(
    harness: Harness, tool: str, arguments: dict[str, str]
) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR, sends_date=True)
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + 100 * ONE_HOUR)
    person = ScriptedPerson([AGREES])

    answer = await harness.call(tool, {"id": token.id, **arguments}, person=person, confirm="all")

    clock = "Times are by the cluster's clock, which is 2 hours ahead of this machine's."
    assert clock in person.questions[0]
    assert clock in answer.fields["warning"]


@pytest.mark.parametrize("tool", ["create_access_token", "rotate_access_token", "update_access_token"])
async def test_where_the_cluster_tells_its_time_the_first_one_is_right_already(harness: Harness, tool: str) -> None:
    set_cluster_clock(harness, -TEN_YEARS, sends_date=True)
    there = NOW - TEN_YEARS
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=there + timedelta(days=9))
    subject = {"user": "local:jane"} if tool == "create_access_token" else {"id": old.id}

    answer = await harness.call(tool, {**subject, "expiration_time": "90d"}, max_lifetime=timedelta(days=90))

    assert not answer.is_error
    assert max(token.expiration_time or NOW for token in harness.tokens_of(JANE)) == there + timedelta(days=90)
    assert [request for request in harness.recorder.requests if request.method == "DELETE"] == []


async def test_an_absolute_time_is_held_against_the_cluster_s_present(harness: Harness) -> None:
    set_cluster_clock(harness, 2 * ONE_HOUR, sends_date=True)

    refusal = await harness.call_refused(
        "create_access_token", {"user": "local:jane", "expiration_time": "2026-11-24T10:00:00Z"}
    )

    assert "is in the past" in refusal
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


def test_a_creation_counts_for_more_than_a_date_for_an_hour() -> None:
    now = NOW
    clock = ClusterClock(lambda: now)
    clock.observe_creation(NOW + 2 * ONE_HOUR, started=NOW)
    clock.observe_date(NOW)
    assert clock() == NOW + 2 * ONE_HOUR
    now += 2 * ONE_HOUR

    clock.observe_date(now)

    assert clock() == now


@pytest.mark.parametrize("there", [datetime.max.replace(tzinfo=NOW.tzinfo), datetime.min.replace(tzinfo=NOW.tzinfo)])
def test_a_clock_beyond_the_calendar_breaks_nothing(there: datetime) -> None:
    clock = ClusterClock(lambda: NOW)

    clock.observe_date(there)

    assert clock() + timedelta(days=36_525) > NOW - timedelta(days=36_525)


async def test_the_date_of_what_is_no_answer_of_the_cluster_is_not_its_time(harness: Harness) -> None:
    seen = 0

    async def be_busy_first(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        seen += 1
        page = httpx.Response(503, html="<h1>busy</h1>", headers={"Date": "Wed, 25 Nov 2026 09:00:00 GMT"})
        return page if seen == 1 else response

    harness.recorder.on_served = be_busy_first

    answer = await harness.call("create_access_token", {"user": "local:jane", "expiration_time": "1h"})

    assert answer.fields["expiration_time"] == "2026-11-24T10:00:00Z"


async def test_the_date_of_an_answer_that_a_cache_kept_is_not_the_present(harness: Harness) -> None:
    async def keep(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.headers.update({"Date": "Mon, 23 Nov 2026 09:00:00 GMT", "Age": "86400"})
        return response

    harness.recorder.on_served = keep

    answer = await harness.call("list_access_tokens")

    assert "It is 2026-11-24 09:00 UTC." in answer.text
