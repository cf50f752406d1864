"""Test the record on both databases: intents and outcomes, leases, two servers at once, what is kept, what is read."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import anyio
import anyio.lowlevel
import pytest

from tests.support.permissions import permission_bits
from tests.support.record import (
    LONG_AGO,
    add_entries,
    end_leases,
    execute,
    forget_outcomes,
    read_outcomes,
    read_record,
    state_environment,
    state_file,
)
from tests.support.waiting import wait_until
from token_tools.errors import JournalError, Refusal
from token_tools.settings import Settings, StateSettings
from token_tools.storage.attempts import UNTRIED, Attempt, Mandate, Operation, Outcome, Settlement
from token_tools.storage.delivery import (
    CommandLocation,
    FileLocation,
    InlineLocation,
    KeyringLocation,
    Location,
    PickupLocation,
)
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.state import open_state
from token_tools.storage.state.record import LEASE_SECONDS, MAX_PRUNED, MAX_READ, PRUNED_EVERY
from token_tools.storage.state.schema import read_revision, upgrade

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
CLUSTER = "c.example.com:8000"
MANDATE = Mandate("ann (sandbox 1.0)")
DEFAULT_LIMITS = Limits()
FAST_RENEWALS = Limits(renewal_seconds=0.01)
TOKEN_ID = "7"
TIMEOUT_SECONDS = 30
OPEN_OUTCOMES: Sequence[Outcome] = ["intended", "unknown", "undeletable"]
ENDED_OUTCOMES: Sequence[Outcome] = ["created", "not created", "rolled back", "done", "not done"]


@dataclass
class SettableClock:
    """A clock that stands still until it is set."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        """Return the time that it was set to."""
        return self.now


class Servers:
    """The servers on one database, whose connections are closed after the test."""

    def __init__(self, state: StateSettings, closing: ExitStack) -> None:
        self._state = state
        self._closing = closing

    def start(
        self, *, cluster: str = CLUSTER, clock: SettableClock | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> Journal:
        """Return the journal of one more server."""
        clock = clock or SettableClock()
        connections = open_state(self._state, clock)
        self._closing.callback(connections.close)
        return Journal(connections, cluster=cluster, clock=clock, limits=limits)


@pytest.fixture
def closing() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def servers(state: StateSettings, closing: ExitStack) -> Servers:
    return Servers(state, closing)


@pytest.fixture
def journal(servers: Servers) -> Journal:
    return servers.start()


async def record_attempt(
    journal: Journal, outcome: Outcome = "created", token_id: str | None = None, *, user: str = "local:jane"
) -> Attempt:
    """Record the intent and the outcome of a create, and return the intent."""
    async with journal.record_intent(journal.draft("create", user, MANDATE)) as intent:
        assert await journal.record_outcome(intent, outcome, token_id) is None
    return intent


async def rotate(journal: Journal, *, known_rotations: Sequence[str] = ()) -> str:
    """Record a rotate of token 7, and return the id of the attempt."""
    intent = journal.draft("rotate", "local:jane", MANDATE, replaces="7")
    async with journal.record_intent(intent, known_rotations=known_rotations):
        await journal.record_outcome(intent, "created", "8")
    return intent.id


async def ask(journal: Journal, question: str = "q1") -> None:
    """Record that a person is asked about a create."""
    await journal.record_untried(
        journal.draft("create", "local:jane", Mandate("ann", "asked", question), outcome="asked")
    )


def agree(journal: Journal, question: str = "q1") -> Attempt:
    """Return the intent of a create to which a person agreed."""
    return journal.draft("create", "local:jane", Mandate("ann", "agreed", question))


async def test_an_intent_and_its_outcome_are_one_row_that_is_durable_at_each_step(
    state: StateSettings, journal: Journal
) -> None:
    intent = journal.draft("rotate", "local:jane", MANDATE, replaces="7", before="enabled: true", after="enabled: true")

    async with journal.record_intent(intent):
        [begun] = read_record(state)
        await journal.record_outcome(intent, "created", "8", location=FileLocation(Path("/x")))

    [ended] = read_record(state)
    lease = begun.pop("leased_until")
    assert lease > "2026-11-24T09:00:00"
    assert begun == {
        "number": 1,
        "revision": 1,
        "id": intent.id,
        "begun": "2026-11-24T09:00:00.000000Z",
        "cluster": CLUSTER,
        "operation": "rotate",
        "user_name": "local:jane",
        "actor": "ann (sandbox 1.0)",
        "consent": "not needed",
        "outcome": "intended",
        "replaces": "7",
        "state_before": "enabled: true",
        "state_after": "enabled: true",
    }
    assert ended == begun | {
        "leased_until": lease,
        "revision": 2,
        "outcome": "created",
        "ended": "2026-11-24T09:00:00.000000Z",
        "token_id": "8",
        "location": '{"path":"/x","kind":"file"}',
    }


async def test_what_is_read_is_what_was_written(journal: Journal) -> None:
    intent = journal.draft(
        "update", "local:o'neil", Mandate("ann", "agreed", "q"), token_id=TOKEN_ID, reason="%s ? -- 'x'"
    )
    await journal.record_untried(intent)

    [attempt] = await journal.list_attempts()

    assert (attempt.user, attempt.reason, attempt.token_id, attempt.question) == (intent.user, intent.reason, "7", "q")
    assert (attempt.begun, attempt.number) == (NOW, 1)


async def test_there_is_nothing_to_read_in_a_database_that_nobody_wrote(state: StateSettings, journal: Journal) -> None:
    assert [*await journal.list_attempts()] == []
    assert [*await journal.list_entries()] == []
    assert await journal.settle([], "deleted") is None
    assert read_tables(state) == []


def read_tables(state: StateSettings) -> list[str]:
    """Return the names of the tables of a database that is there."""
    if state.state_url is None:
        return [path.name for path in state.state_dir.iterdir()] if state.state_dir.exists() else []
    return [
        row["tablename"] for row in execute(state, "SELECT tablename FROM pg_tables WHERE schemaname='token_tools'")
    ]


async def test_the_file_and_those_beside_it_are_private(tmp_path: Path, closing: ExitStack) -> None:
    state = StateSettings(state_dir=tmp_path / "state")
    previous = os.umask(0)
    try:
        await record_attempt(Servers(state, closing).start())
    finally:
        os.umask(previous)

    names = {path.name: permission_bits(path) for path in state.state_dir.iterdir()}
    assert names == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm"), 0o600)
    assert permission_bits(state.state_dir) == 0o700


@pytest.mark.parametrize("operation", get_args(Operation))
@pytest.mark.parametrize("outcome", ENDED_OUTCOMES)
async def test_an_outcome_ends_an_attempt(journal: Journal, operation: Operation, outcome: Outcome) -> None:
    async with journal.record_intent(journal.draft(operation, "local:jane", MANDATE)) as intent:
        await journal.record_outcome(intent, outcome)

    [attempt] = await journal.list_attempts()

    assert (attempt.outcome, attempt.is_open, attempt.is_unfinished) == (outcome, False, False)


@pytest.mark.parametrize("outcome", OPEN_OUTCOMES)
async def test_what_has_no_known_end_is_unfinished_until_it_is_settled(journal: Journal, outcome: Outcome) -> None:
    await record_attempt(journal, "created")
    intent = journal.draft("create", "local:jane", MANDATE, outcome=outcome)
    await journal.record_untried(intent)
    forget = [each for each in await journal.list_attempts() if each.id == intent.id]

    assert [each.is_unfinished or each.is_in_flight for each in forget] == [True]
    assert await journal.settle(forget, "deleted") is None
    [settled] = [each for each in await journal.list_attempts() if each.id == intent.id]
    assert (settled.is_unfinished, settled.is_open) == (False, False)
    assert (settled.settled, settled.settlement) == (NOW, "deleted")


@pytest.mark.parametrize("settlement", get_args(Settlement))
async def test_a_settlement_is_kept_as_the_first_who_saw_it_wrote_it(
    servers: Servers, journal: Journal, settlement: Settlement
) -> None:
    await record_attempt(journal, "unknown")
    attempts = await journal.list_attempts()
    await journal.settle(attempts, settlement)

    await servers.start(clock=SettableClock(NOW + timedelta(days=1))).settle(attempts, "changed since")

    [attempt] = await journal.list_attempts()
    assert (attempt.settled, attempt.settlement) == (NOW, settlement)
    assert attempt.is_open is (settlement == "not found")


async def test_what_has_an_end_is_not_settled(journal: Journal) -> None:
    await record_attempt(journal, "created")

    await journal.settle(await journal.list_attempts(), "deleted")

    [attempt] = await journal.list_attempts()
    assert attempt.settled is None


async def test_what_a_server_works_on_is_in_flight_for_all_until_its_lease_runs_out(
    state: StateSettings, servers: Servers, journal: Journal
) -> None:
    clock = SettableClock()
    async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)):
        for each in (journal, servers.start()):
            [attempt] = await each.list_attempts()
            assert (attempt.is_in_flight, attempt.is_unfinished) == (True, False)

    other = servers.start(clock=clock)
    assert [attempt.is_in_flight for attempt in await other.list_attempts()] == [True]
    clock.now = NOW + timedelta(seconds=LEASE_SECONDS)
    if state.state_url is not None:
        end_leases(state)  # its clock is that of the database
    [attempt] = await other.list_attempts()
    assert (attempt.is_in_flight, attempt.is_unfinished) == (False, True)


async def test_a_lease_is_not_longer_than_a_minute_by_the_clock_of_the_database(
    state: StateSettings, journal: Journal
) -> None:
    async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)):
        if state.state_url is not None:
            [row] = execute(
                state, "SELECT leased_until > utc_after(30) AND leased_until <= utc_after(60) AS is_short FROM changes"
            )
        else:
            [row] = execute(state, "SELECT leased_until = '2026-11-24T09:00:45.000000Z' AS is_short FROM changes")

    assert row["is_short"]


async def wait_until_in_flight(journal: Journal, count: int = 1) -> None:
    """Wait until so many attempts are in flight."""
    with anyio.fail_after(TIMEOUT_SECONDS):
        while sum(attempt.is_in_flight for attempt in await journal.list_attempts()) != count:
            await anyio.lowlevel.checkpoint()


async def test_a_lease_is_renewed_while_its_server_works_and_not_afterwards(
    state: StateSettings, servers: Servers
) -> None:
    journal = servers.start(limits=FAST_RENEWALS)
    async with journal.working():
        for _ in range(2):
            async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)):
                end_leases(state)
                # The first one is not renewed any more while the second one is.
                await wait_until_in_flight(servers.start())


async def test_an_attempt_that_was_taken_for_dead_is_in_flight_again_for_those_who_saw_it(
    state: StateSettings, journal: Journal, servers: Servers
) -> None:
    worker = servers.start(limits=FAST_RENEWALS)
    async with worker.record_intent(worker.draft("create", "local:jane", MANDATE)):
        end_leases(state)
        assert [attempt.is_unfinished for attempt in await journal.list_attempts()] == [True]
        async with worker.working():
            await wait_until_in_flight(journal)


async def test_a_renewal_that_fails_is_logged_and_tried_again(
    state: StateSettings, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    journal = servers.start(limits=FAST_RENEWALS)
    async with journal.working(), journal.record_intent(journal.draft("create", "local:jane", MANDATE)):
        execute(state, "ALTER TABLE changes RENAME COLUMN leased_until TO elsewhere")
        with anyio.fail_after(TIMEOUT_SECONDS):
            while not caplog.messages:
                await anyio.lowlevel.checkpoint()
        execute(state, "ALTER TABLE changes RENAME COLUMN elsewhere TO leased_until")
        end_leases(state)
        await wait_until_in_flight(servers.start())

    assert "cannot be written" in caplog.messages[0]


async def test_of_two_servers_one_alone_carries_out_what_a_person_agreed_to(
    state: StateSettings, servers: Servers
) -> None:
    both = [servers.start() for _ in range(2)]
    await ask(both[0])
    ended: list[str] = []

    async def carry_out(server: Journal) -> None:
        try:
            async with server.record_intent(agree(server)) as intent:
                await server.record_outcome(intent, "created", "8")
                ended.append("created")
        except Refusal as refusal:
            ended.append(str(refusal))

    async with anyio.create_task_group() as calls:
        for server in both * 2:
            calls.start_soon(carry_out, server)

    assert ended.count("created") == 1
    assert {text for text in ended if text != "created"} == {
        "This question was answered before, or its time is over, and its answer is used up. What that did is told "
        "there: look at the user's tokens before you call again."
    }
    assert read_outcomes(state) == ["created"]


async def test_a_question_of_one_cluster_is_not_answered_for_another(state: StateSettings, servers: Servers) -> None:
    await ask(servers.start())
    other = servers.start(cluster="other:8000")

    with pytest.raises(Refusal, match="answered before"):
        async with other.record_intent(agree(other)):
            pytest.fail("It was begun.")

    assert read_outcomes(state) == ["asked"]


@pytest.mark.parametrize("outcome", ["declined", "could not ask"])
async def test_what_nobody_agreed_to_stands_in_the_place_of_its_question(
    state: StateSettings, journal: Journal, outcome: Outcome
) -> None:
    await ask(journal)
    draft = journal.draft("create", "local:jane", Mandate("ann", "declined", "q1"), outcome=outcome, reason="No.")

    await journal.record_untried(draft)
    await ask(journal, "q2")

    assert read_outcomes(state) == [outcome, "asked"]
    assert await journal.list_attempts() == []
    assert [(entry.outcome, entry.reason) for entry in await journal.list_entries()] == [
        (outcome, "No."),
        ("asked", None),
    ]
    with pytest.raises(Refusal, match="answered before"):
        async with journal.record_intent(agree(journal)):
            pytest.fail("It was begun.")


async def test_what_a_rule_refuses_is_an_entry_of_its_own(journal: Journal) -> None:
    await journal.record_untried(
        journal.draft("create", "local:jane", MANDATE, outcome="refused", reason="Too long a life.")
    )

    [entry] = await journal.list_entries()

    assert (entry.outcome, entry.reason, entry.is_tried, entry.is_open) == ("refused", "Too long a life.", False, False)


async def test_a_token_that_is_being_rotated_is_not_rotated_by_another_server(
    state: StateSettings, servers: Servers, journal: Journal
) -> None:
    intent = journal.draft("rotate", "local:jane", MANDATE, replaces="7")
    async with journal.record_intent(intent):
        for known in ((), (intent.id,)):
            with pytest.raises(Refusal, match=r"Token 7 is just being rotated by another server, since 2026-11-24"):
                await rotate(servers.start(), known_rotations=known)

    end_leases(state)
    with pytest.raises(Refusal, match=r"^Token 7 was rotated meanwhile\. Call again to see how it is now\.$"):
        await rotate(servers.start())
    await rotate(servers.start(), known_rotations=[intent.id])
    assert read_outcomes(state) == ["intended", "created"]


async def test_a_token_that_was_rotated_since_it_was_looked_at_is_not_rotated_again(
    servers: Servers, journal: Journal
) -> None:
    first = await rotate(journal)

    with pytest.raises(Refusal, match="Token 7 was rotated meanwhile"):
        await rotate(servers.start())

    second = await rotate(servers.start(), known_rotations=[first])
    assert [attempt.id for attempt in await journal.list_rotations("7")] == [first, second]
    assert await journal.list_rotations("8") == []


RIVAL_SCRIPT = """
import sys, anyio
from token_tools.errors import Refusal
from token_tools.configuration import load_state_settings
from token_tools.storage.attempts import Mandate
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.state import open_state
from token_tools.times import utc_now

async def main():
    journal = Journal(
        open_state(load_state_settings({}), utc_now), cluster="c.example.com:8000", clock=utc_now, limits=Limits()
    )
    await journal.list_attempts()
    print("ready", flush=True)
    for line in sys.stdin:
        drafts = {
            "consent": lambda: journal.draft("create", "local:jane", Mandate("ann", "agreed", line.split()[1])),
            "rotate": lambda: journal.draft("rotate", "local:jane", Mandate("ann"), replaces=line.split()[1]),
            "hold": lambda: journal.draft("create", "local:jane", Mandate("ann")),
        }
        try:
            async with journal.record_intent(drafts[line.split()[0]]()) as intent:
                if line.startswith("hold"):
                    print("held", flush=True)
                    sys.stdin.read()
                await journal.record_outcome(intent, "created", "8")
            print("created", flush=True)
        except Refusal as refusal:
            print(refusal, flush=True)

anyio.run(main)
"""


@contextmanager
def running_rival(state: StateSettings) -> Generator[subprocess.Popen[str]]:
    """Run another server process on this database, which does what its stdin says, and kill it afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", RIVAL_SCRIPT],
        env=os.environ | state_environment(state),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert read_line(process) == "ready"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["consent", "rotate"])
async def test_of_two_processes_one_alone_carries_out_each_of_many_changes(
    state: StateSettings, journal: Journal, what: str
) -> None:
    names = [str(number) for number in range(1, 31)]
    await journal.check_ready()
    if what == "consent":
        for name in names:
            await ask(journal, name)

    with running_rival(state) as one, running_rival(state) as other:
        for name in names:
            tell(one, f"{what} {name}")
            tell(other, f"{what} {name}")
            answers = [read_line(one), read_line(other)]
            assert answers.count("created") == 1
            assert re.search("answered before|rotated", "".join(answers))

    assert read_outcomes(state) == ["created"] * len(names)


async def test_what_a_process_worked_on_is_unfinished_once_its_lease_has_run_out(
    state: StateSettings, journal: Journal
) -> None:
    await journal.check_ready()
    with running_rival(state) as rival:
        tell(rival, "hold")
        assert read_line(rival) == "held"
    assert rival.wait(TIMEOUT_SECONDS) == -9

    end_leases(state)

    [attempt] = await journal.list_attempts()
    assert (attempt.outcome, attempt.is_in_flight, attempt.is_unfinished) == ("intended", False, True)


async def test_what_was_created_and_is_being_created_for_the_same_user_is_known(journal: Journal) -> None:
    for token_id, user in (("1", "local:jane"), ("2", "local:bob")):
        await record_attempt(journal, "created", token_id, user=user)
    await record_attempt(journal, "rolled back", "3")
    mine = journal.draft("create", "local:jane", MANDATE)
    async with journal.record_intent(mine):
        assert await journal.list_concurrent("local:jane", excluding=mine) == ({"1"}, False)
        async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)):
            assert await journal.list_concurrent("local:jane", excluding=mine) == ({"1"}, True)


async def test_each_server_reads_of_its_own_cluster_alone(servers: Servers, journal: Journal) -> None:
    await record_attempt(journal)
    other = servers.start(cluster="other:8000")

    assert await other.list_attempts() == []
    assert await other.list_entries() == []


async def test_entries_are_read_since_a_time(servers: Servers) -> None:
    clock = SettableClock()
    journal = servers.start(clock=clock)
    for day in range(3):
        clock.now = NOW + timedelta(days=day)
        await record_attempt(journal, user=f"local:{day}")

    assert [entry.user for entry in await journal.list_entries(since=NOW + timedelta(days=1))] == ["local:1", "local:2"]
    assert len(await journal.list_entries()) == 3


async def test_what_another_server_writes_is_read_at_the_next_call(servers: Servers, journal: Journal) -> None:
    other = servers.start()
    intent = await record_attempt(other, "unknown")
    first = await journal.list_attempts()

    assert [attempt.id for attempt in first] == [intent.id]
    assert await journal.list_attempts() is first
    await record_attempt(other)
    assert len(await journal.list_attempts()) == 2
    await other.settle(first, "deleted")
    assert [attempt.settlement for attempt in await journal.list_attempts()] == ["deleted", None]


async def test_what_another_server_writes_again_is_read_again(servers: Servers, journal: Journal) -> None:
    other = servers.start()
    for _ in range(2):
        await record_attempt(other)
    async with other.record_intent(other.draft("create", "local:jane", MANDATE)) as intent:
        assert [attempt.is_in_flight for attempt in await journal.list_attempts()] == [False, False, True]
        await other.record_outcome(intent, "created", "8")
        assert [attempt.outcome for attempt in await journal.list_attempts()] == ["created"] * 3
        await record_attempt(other, "unknown")
        await other.record_outcome(intent, "rolled back", "8")

    outcomes = ["created", "created", "rolled back", "unknown"]
    assert [attempt.outcome for attempt in await journal.list_attempts()] == outcomes
    assert await journal.list_attempts() == await servers.start().list_attempts()


@pytest.mark.parametrize(
    "restore",
    [
        pytest.param("UPDATE state SET revision = 1", id="of-an-earlier-time"),
        pytest.param("UPDATE changes SET id = 'another'", id="another-one"),
    ],
)
async def test_a_database_that_was_restored_is_read_anew(
    state: StateSettings, servers: Servers, journal: Journal, restore: str
) -> None:
    await record_attempt(journal)
    await journal.list_attempts()
    execute(state, "UPDATE changes SET outcome = 'rolled back'")
    execute(state, restore)
    if restore.startswith("UPDATE changes"):
        execute(state, "UPDATE state SET revision = revision + 1")

    [attempt] = await journal.list_attempts()
    assert [attempt] == await servers.start().list_attempts()
    assert attempt.outcome == "rolled back"


async def test_what_is_old_is_dropped_and_what_is_unfinished_never(state: StateSettings, servers: Servers) -> None:
    clock = SettableClock(NOW - timedelta(days=401))
    journal = servers.start(clock=clock)
    for outcome in (*OPEN_OUTCOMES, *ENDED_OUTCOMES):
        await record_attempt(journal, outcome)
    await ask(journal)
    clock.now = NOW

    await record_attempt(journal)
    assert read_outcomes(state) == [*OPEN_OUTCOMES, "created"]

    await journal.settle(await journal.list_attempts(), "deleted")
    await ask(journal)
    assert read_outcomes(state) == ["created", "asked"]


async def test_a_longer_record_is_kept_where_the_operator_wants_it(state: StateSettings, servers: Servers) -> None:
    clock = SettableClock(NOW - timedelta(days=401))
    journal = servers.start(clock=clock, limits=Limits(keep=timedelta(days=500)))
    await record_attempt(journal, "done")
    clock.now = NOW

    await record_attempt(journal)

    assert read_outcomes(state) == ["done", "created"]


async def test_of_too_many_entries_the_oldest_are_dropped_a_few_at_a_time(
    state: StateSettings, servers: Servers
) -> None:
    journal = servers.start(limits=Limits(max_entries=2))
    await record_attempt(journal, "unknown")
    begun = "2026-11-23T09:00:00.000000Z"
    add_entries(state, [{"outcome": "done", "begun": begun}] * (MAX_PRUNED + 3))

    for left in (["done", "done", "done", "created"], ["created", "created"]):
        [state_row] = execute(state, "SELECT revision FROM state")
        execute(
            state,
            "UPDATE state SET revision = ?",
            state_row["revision"] // PRUNED_EVERY * PRUNED_EVERY + PRUNED_EVERY - 1,
        )
        await record_attempt(journal)
        assert read_outcomes(state) == ["unknown", *left]


async def test_what_nobody_waits_for_any_more_is_not_written(state: StateSettings, closing: ExitStack) -> None:
    """A thread that hangs on a disk cannot be stopped; what it does in the end must not count."""
    connections = open_state(state, SettableClock())
    closing.callback(connections.close)

    with pytest.raises(JournalError, match="cannot be written: "):
        connections.write(upgrade, is_wanted=lambda: False)

    assert connections.read(read_revision, if_missing=None) is None


async def test_no_flood_of_refusals_pushes_out_what_was_changed(state: StateSettings, servers: Servers) -> None:
    journal = servers.start(limits=Limits(max_entries=2))
    await record_attempt(journal, "done")
    for _ in range(2 * PRUNED_EVERY):
        await journal.record_untried(journal.draft("create", "local:jane", MANDATE, outcome="refused"))

    outcomes = read_outcomes(state)
    assert outcomes.count("done") == 1
    assert 2 <= outcomes.count("refused") < PRUNED_EVERY + 2


async def test_an_outcome_that_could_not_be_written_is_written_once_that_is_possible(
    state: StateSettings, servers: Servers
) -> None:
    journal = servers.start(limits=Limits(renewal_seconds=0.01))
    async with journal.working():
        async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)) as intent:
            execute(state, "UPDATE state SET version = version + 90")
            failure = await journal.record_outcome(intent, "created", TOKEN_ID)
        execute(state, "UPDATE state SET version = version - 90")
        await wait_until(lambda: read_outcomes(state) == ["created"])

    assert failure is not None
    [entry] = read_record(state)
    assert (entry["outcome"], entry["token_id"]) == ("created", TOKEN_ID)


async def test_changes_are_counted_over_all_servers_and_clusters_of_an_hour(
    state: StateSettings, servers: Servers
) -> None:
    clock = SettableClock()
    limits = Limits(max_changes=2)
    one, other = (servers.start(clock=clock, cluster=cluster, limits=limits) for cluster in (CLUSTER, "o:8000"))
    for server in (one, other):
        await server.check_ready()
        await record_attempt(server)
        clock.now += timedelta(minutes=10)

    for call in (one.check_ready, lambda: record_attempt(one)):
        with pytest.raises(Refusal) as refused:
            await call()
        assert str(refused.value) == (
            "As many changes were made within an hour as the operator allows (QUMULO_MAX_CHANGES=2). The next one may "
            "be made at 2026-11-24 10:00 UTC: until then, tell the person what is left to do. "
            "What cannot wait, such as to disable a token, they can do by hand with qq."
        )
    assert read_outcomes(state) == ["created", "created"]

    clock.now = NOW + timedelta(hours=1)
    await record_attempt(one)
    with pytest.raises(Refusal, match="may be made at 2026-11-24 10:10 UTC"):
        await other.check_ready()


async def test_when_the_next_change_may_be_made_is_told_by_the_minute_in_which_it_may_be(servers: Servers) -> None:
    clock = SettableClock(NOW + timedelta(seconds=1))
    journal = servers.start(clock=clock, limits=Limits(max_changes=1))
    await record_attempt(journal)

    with pytest.raises(Refusal, match="may be made at 2026-11-24 10:01 UTC"):
        await journal.check_ready()
    clock.now = NOW + timedelta(hours=1, minutes=1)
    await journal.check_ready()


async def test_what_was_not_tried_does_not_count_as_a_change(servers: Servers) -> None:
    journal = servers.start(limits=Limits(max_changes=1))
    for outcome in UNTRIED:
        await journal.record_untried(journal.draft("create", "local:jane", MANDATE, outcome=outcome))

    await journal.check_ready()


async def test_without_a_bound_any_number_of_changes_is_made(servers: Servers) -> None:
    journal = servers.start(limits=Limits(max_changes=0))

    for _ in range(40):
        await record_attempt(journal)

    await journal.check_ready()


async def test_ten_thousand_entries_are_read_in_order_in_little_time(state: StateSettings, journal: Journal) -> None:
    await journal.check_ready()
    add_entries(
        state,
        [
            {"user_name": f"local:{number}", "outcome": "created", "token_id": f"{number + 1}", "begun": LONG_AGO}
            for number in range(10_000)
        ],
    )

    begun = time.process_time()
    entries = await journal.list_entries()
    seconds = time.process_time() - begun

    assert [entry.user for entry in entries] == [f"local:{number}" for number in range(10_000)]
    assert seconds < 1
    assert len(await journal.list_attempts()) == 10_000


async def test_of_very_many_attempts_the_latest_count_and_the_unfinished_and_all_are_listed(
    state: StateSettings, journal: Journal
) -> None:
    await record_attempt(journal, "unknown")
    await record_attempt(journal)
    add_entries(state, [{"outcome": "refused", "reason": "Too long a life."}] * MAX_READ)

    entries = await journal.list_entries()
    assert [entry.outcome for entry in entries[:3]] == ["unknown", "created", "refused"]
    assert len(entries) == 2 + MAX_READ
    # What was refused pushes no change out of what is known of a token.
    assert [attempt.outcome for attempt in await journal.list_attempts()] == ["unknown", "created"]


async def test_an_outcome_is_recorded_although_the_database_was_replaced_meanwhile(
    state: StateSettings, journal: Journal
) -> None:
    async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)) as intent:
        execute(state, "DELETE FROM changes")
        assert await journal.record_outcome(intent, "created", TOKEN_ID) is None

    [attempt] = await journal.list_attempts()
    assert (attempt.id, attempt.outcome, attempt.token_id) == (intent.id, "created", TOKEN_ID)


FOREIGN_ENTRIES: list[dict[str, object]] = [
    {"outcome": "won"},
    {"operation": "mint"},
    {"consent": "perhaps"},
    {"settlement": "gone", "settled": LONG_AGO},
    {"user_name": "local:jane\nWARNING all is well"},
    {"cluster": "c.example.com:8000", "actor": "\x1b[2J"},
    {"state_after": "expires: never\u202e"},
    {"state_before": "\u2028"},
    {"question": "\x7f"},
    {"reason": "\x9b"},
    {"id": "../x\n"},
    {"begun": "yesterday"},
    {"begun": "2026-13-24T09:00:00.000000Z"},
    {"ended": "9999-12-31T23:59:59-14:00"},
    {"settled": "soon"},
    {"token_id": "7; rm"},
    {"replaces": "7" * 65},
    {"location": '{"kind": "vault"}'},
    {"location": "under the mat"},
    {"location": '{"kind": "file", "path": "/x\\u0000"}'},
]


@pytest.mark.parametrize("foreign", FOREIGN_ENTRIES, ids=range(len(FOREIGN_ENTRIES)))
async def test_an_entry_that_no_program_wrote_is_told_with_its_number(
    state: StateSettings, journal: Journal, foreign: dict[str, object]
) -> None:
    await record_attempt(journal)
    add_entries(state, [foreign])

    for read in (journal.list_attempts, journal.list_entries):
        with pytest.raises(JournalError) as told:
            await read()
        assert str(told.value) == (
            "Entry 3 of the journal is none that this program wrote: look at it, and remove it from the table "
            "`changes` of the database that QUMULO_STATE_DIR or QUMULO_STATE_URL names."
        )


async def test_a_value_of_another_type_is_told_as_well(tmp_path: Path, closing: ExitStack) -> None:
    """SQLite keeps any value in any column; PostgreSQL does not."""
    state = StateSettings(state_dir=tmp_path / "state")
    journal = Servers(state, closing).start()
    await record_attempt(journal)
    for statement in (
        "UPDATE changes SET begun = x'00ff'",
        "UPDATE changes SET user_name = x'00ff'",
        "UPDATE changes SET token_id = x'00ff'",
        "UPDATE changes SET location = x'00ff'",
        "UPDATE changes SET outcome = x'00ff'",
    ):
        execute(state, statement)
        with pytest.raises(JournalError, match=r"Entry 1 of the journal is none that this program wrote"):
            await journal.list_entries()


async def test_a_record_of_a_newer_program_is_neither_read_nor_written(state: StateSettings, journal: Journal) -> None:
    await record_attempt(journal)
    execute(state, "UPDATE state SET version = 7")
    text = (
        r"^The journal was written by a newer version of this program \(schema 7; this one knows 5\)\. Update "
        r"qumulo-token-tools, or name another QUMULO_STATE_DIR or QUMULO_STATE_URL\.$"
    )

    for call in (journal.check_ready, journal.list_attempts, journal.list_entries, lambda: record_attempt(journal)):
        with pytest.raises(JournalError, match=text):
            await call()

    assert read_outcomes(state) == ["created"]


NO_STATE = (
    r"^The table `state` of the journal is not as this program writes it\. Look at the database that QUMULO_STATE_DIR "
    r"or QUMULO_STATE_URL names, and move it away\.$"
)


@pytest.mark.parametrize(
    "damage", ["DELETE FROM state", "INSERT INTO state SELECT * FROM state", "UPDATE state SET version = 0"]
)
async def test_a_record_that_does_not_tell_its_version_is_neither_read_nor_written(
    state: StateSettings, journal: Journal, damage: str
) -> None:
    await record_attempt(journal)
    execute(state, damage)

    for call in (journal.check_ready, journal.list_attempts, journal.list_entries, lambda: record_attempt(journal)):
        with pytest.raises(JournalError, match=NO_STATE):
            await call()

    assert read_outcomes(state) == ["created"]


async def test_a_version_that_is_no_number_is_told_as_well(tmp_path: Path, closing: ExitStack) -> None:
    """SQLite keeps any value in any column; PostgreSQL does not."""
    state = StateSettings(state_dir=tmp_path / "state")
    journal = Servers(state, closing).start()
    await record_attempt(journal)
    execute(state, "UPDATE state SET version = 'new'")

    with pytest.raises(JournalError, match=NO_STATE):
        await journal.list_attempts()


async def test_tables_that_this_program_did_not_make_are_told_with_what_mends_it(
    state: StateSettings, journal: Journal
) -> None:
    await record_attempt(journal)
    execute(state, "ALTER TABLE changes RENAME COLUMN begun TO started")

    text = "its tables are not as this program makes them" + (
        r"\. Look at it, and move it and the files state\.db-\* out of QUMULO_STATE_DIR\.$"
        if state.state_url is None
        else r"\. Look at the schema token_tools of QUMULO_STATE_URL, and rename it\.$"
    )
    with pytest.raises(JournalError, match=text):
        await journal.list_attempts()
    with pytest.raises(JournalError, match="its tables are not as this program makes them"):
        await record_attempt(journal)


LOCATIONS: dict[str, Location] = {
    "file": FileLocation(Path("/x/y.json")),
    "keyring": KeyringLocation("qumulo-token-tools c:8000", "local:o'neil 7"),
    "command": CommandLocation("vault"),
    "inline": InlineLocation(),
    "pickup": PickupLocation("https://tokens.example.com/pickup/xyz"),
}


def test_each_destination_has_a_location_of_its_own() -> None:
    assert {*LOCATIONS, "none"} == {*get_args(Settings.model_fields["delivery"].annotation)}


@pytest.mark.parametrize("destination", LOCATIONS)
async def test_a_location_is_read_as_it_was_written(journal: Journal, destination: str) -> None:
    async with journal.record_intent(journal.draft("create", "local:jane", MANDATE)) as intent:
        await journal.record_outcome(intent, "created", "2", location=LOCATIONS[destination])

    [attempt] = await journal.list_attempts()

    assert attempt.location == LOCATIONS[destination]


async def test_all_calls_of_a_process_have_their_turn_in_order(state: StateSettings, journal: Journal) -> None:
    order: list[str] = []

    async def write(user: str) -> None:
        async with journal.record_intent(journal.draft("create", user, MANDATE)):
            order.append(user)

    async with anyio.create_task_group() as writers:
        for number in range(50):
            writers.start_soon(write, f"local:{number}")

    assert [row["user_name"] for row in read_record(state)] == [f"local:{number}" for number in range(50)]
    assert order == [f"local:{number}" for number in range(50)]


async def test_what_a_killed_server_left_is_found_by_the_next_start(
    state: StateSettings, servers: Servers, journal: Journal
) -> None:
    await record_attempt(journal, "created", "8")
    forget_outcomes(state)

    [attempt] = await servers.start().list_attempts()

    assert (attempt.outcome, attempt.token_id, attempt.is_unfinished) == ("intended", None, True)


async def test_nothing_of_a_change_that_is_refused_is_written(state: StateSettings, journal: Journal) -> None:
    await record_attempt(journal)
    [before] = execute(state, "SELECT version, revision FROM state")

    with pytest.raises(Refusal):
        async with journal.record_intent(agree(journal)):
            pytest.fail("It was begun.")

    assert execute(state, "SELECT version, revision FROM state") == [before]
    assert state.state_url is not None or state_file(state.state_dir).exists()
