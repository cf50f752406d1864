"""Test the questions that wait in the database: who finds them, and that each answer to one counts once."""

from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.harness import NOW
from tests.support.record import LONG_AGO, downgrade, execute, read_outcomes
from tests.support.services import open_journal
from token_tools.errors import Refusal
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.questions import OpenQuestion
from token_tools.storage.state import open_state
from token_tools.times import utc_now

pytestmark = pytest.mark.anyio
QUESTION = OpenQuestion(
    id="q1",
    caller="ann",
    request="create for jane",
    planned=NOW + timedelta(hours=2, microseconds=7),
    asked=NOW + timedelta(microseconds=7),
    digest="text",
)
USED_UP = "^This question was answered before, or its time is over, and its answer is used up"


def draft(journal: Journal, outcome: Outcome, question: OpenQuestion = QUESTION) -> Attempt:
    return journal.draft("create", "local:jane", Mandate("ann", "asked", question.id), outcome=outcome)


async def open_question(journal: Journal, question: OpenQuestion = QUESTION) -> OpenQuestion:
    return await journal.open_question(question, draft(journal, "asked", question), replaces=None)


async def find(journal: Journal) -> OpenQuestion | None:
    return await journal.find_question(QUESTION.caller, QUESTION.request)


async def test_a_question_is_found_by_its_caller_for_its_request_on_its_cluster(state: StateSettings) -> None:
    async with AsyncExitStack() as opened:
        one, same, other = [
            await opened.enter_async_context(open_journal(state, cluster=cluster))
            for cluster in ("c:8000", "c:8000", "d:8000")
        ]
        await open_question(one)

        assert await find(same) == QUESTION
        assert await find(other) is None
        assert await same.find_question("bob", QUESTION.request) is None
        assert await same.find_question("ann", "delete of 7") is None
        with pytest.raises(Refusal, match=USED_UP):
            await other.spend_question("q1")
        await same.spend_question("q1")


async def test_a_question_is_answered_once(state: StateSettings) -> None:
    async with open_journal(state) as one, open_journal(state) as other:
        await open_question(one)
        await other.spend_question("q1")

        for server in (one, other):
            assert await find(server) is None
            with pytest.raises(Refusal, match=USED_UP):
                await server.spend_question("q1")


@pytest.mark.parametrize("outcome", ["declined", "intended"])
async def test_a_question_is_closed_by_what_stands_in_its_place(state: StateSettings, outcome: Outcome) -> None:
    async with open_journal(state) as journal:
        await open_question(journal)
        if outcome == "intended":
            async with journal.record_intent(draft(journal, outcome)):
                pass
        else:
            await journal.record_untried(draft(journal, outcome))

        assert await find(journal) is None
        assert read_outcomes(state) == [outcome]


async def test_a_question_whose_time_is_over_is_open_to_nobody_and_dropped(state: StateSettings) -> None:
    later = QUESTION._replace(id="q2", request="delete of 7")
    async with open_journal(state) as journal:
        await open_question(journal)
        execute(state, "UPDATE questions SET open_until = ?", LONG_AGO)

        assert await find(journal) is None
        assert await open_question(journal, later) == later
        assert [row["id"] for row in execute(state, "SELECT id FROM questions")] == ["q2"]
        with pytest.raises(Refusal, match=USED_UP):
            await journal.spend_question("q1")


async def test_an_equal_question_is_opened_only_in_the_place_of_the_one_that_was_known(state: StateSettings) -> None:
    second, third = QUESTION._replace(id="q2"), QUESTION._replace(id="q3")
    async with open_journal(state) as journal:
        await open_question(journal)

        assert await open_question(journal, second) == QUESTION
        assert await journal.open_question(third, draft(journal, "asked", third), replaces=QUESTION) == third
        assert await find(journal) == third
        assert read_outcomes(state) == ["asked", "asked"]


async def test_a_database_of_an_earlier_version_gets_its_table(state: StateSettings) -> None:
    async with open_journal(state) as journal:
        await journal.check_ready()
        downgrade(state, 2)

        assert await find(journal) is None
        assert await open_question(journal) == QUESTION


async def test_who_looks_for_a_question_is_told_of_too_many_changes(state: StateSettings) -> None:
    async with open_journal(state, limits=Limits(max_changes=1)) as journal:
        async with journal.record_intent(journal.draft("create", "local:jane", Mandate("ann"))):
            pass

        with pytest.raises(Refusal, match="QUMULO_MAX_CHANGES=1"):
            await find(journal)


async def test_what_a_question_costs_does_not_grow_with_those_that_are_open(tmp_path: Path) -> None:
    readings: list[datetime] = []

    def clock() -> datetime:
        readings.append(utc_now())
        return readings[-1]

    journal = Journal(open_state(StateSettings(state_dir=tmp_path), clock), cluster="c", clock=utc_now, limits=Limits())
    costs: list[int] = []
    for number in range(20):
        now, before = utc_now(), len(readings)
        question = OpenQuestion(f"{number:08}", "caller", f"request {number}", now, now, "digest")
        entry = journal.draft("create", "somebody", Mandate("actor", "asked", question.id), outcome="asked")
        await journal.open_question(question, entry, replaces=None)
        costs.append(len(readings) - before)

    assert {*costs[1:]} == {costs[1]}
