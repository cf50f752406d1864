"""What the record of all changes costs: to read it, and to write one change into it."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.figures import (
    OUR_NAME,
    Figure,
    Measure,
    Repetitions,
    alternate,
    compare,
    measure_blocking_seconds,
    measure_seconds,
)
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Attempt, Mandate, encode_location
from token_tools.storage.delivery import FileLocation
from token_tools.storage.journal import Journal, Limits, read_entries
from token_tools.storage.state import open_state
from token_tools.storage.state.connections import Connection
from token_tools.storage.state.record import insert_attempt
from token_tools.storage.state.schema import upgrade
from token_tools.times import utc_now

RECORD_ENTRIES: Final = 10_000
"""Changes in the record that is read, and to which one is added."""

MAX_ADDED_SECONDS: Final = 0.01
"""By how much recording a create may take longer than the least that is durable."""

_LINE: Final = b"x" * 400 + b"\n"


async def measure_reading(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure how long it takes to read a record of so many changes, of which each third delivered a bearer token."""
    connections = open_state(StateSettings(state_dir=state / "record"), utc_now)
    connections.write(_fill_record, is_wanted=lambda: True)
    if len(read_entries(connections)) != RECORD_ENTRIES:
        raise AssertionError
    read = partial(measure_blocking_seconds, partial(read_entries, connections))
    values, ratios = compare(await alternate({OUR_NAME: read}, rounds=repetitions.bursts))
    connections.close()
    what = f"reading a record of {RECORD_ENTRIES:,} changes"
    return [Figure(what, "s", values, ratios, "≤ 0.1 s", values[OUR_NAME] <= 0.1)]


def _fill_record(connection: Connection) -> None:
    upgrade(connection)
    for number in range(RECORD_ENTRIES):
        insert_attempt(connection, create_entry(number, "cluster.example.com:8000"))


def create_entry(number: int, cluster: str) -> Attempt:
    """Return the entry of a change that was made; each third delivered a bearer token."""
    token_id = str(10**21 + number)
    is_new = number % 3 == 0
    return Attempt(
        id=f"{number:x}",
        begun=utc_now(),
        ended=utc_now(),
        cluster=cluster,
        operation="create" if is_new else "update",
        user=f"local:user{number % 300}",
        actor="root via some-client 1.0",
        consent="agreed",
        question=f"{number:08x}",
        token_id=token_id,
        before=None if is_new else "enabled: true",
        after="enabled: true, expires: never" if is_new else "enabled: false",
        outcome="created" if is_new else "done",
        stored_location=encode_location(FileLocation(Path(f"/var/lib/tokens/{token_id}.json"))) if is_new else None,
    )


async def measure_writing(state: Path, repetitions: Repetitions) -> list[Figure]:
    """Measure how long it takes to record a create: the look whether that is possible, its intent and its outcome.

    The rival is the least that is durable: a line before the create and one after it.
    """
    connections = open_state(StateSettings(state_dir=state / "record-to-write"), utc_now)
    connections.write(_fill_record, is_wanted=lambda: True)
    journal = Journal(connections, cluster="cluster.example.com:8000", clock=utc_now, limits=Limits())

    async def record_create() -> None:
        await journal.check_ready()
        async with journal.record_intent(journal.draft("create", "local:user1", Mandate("somebody"))) as intent:
            await journal.record_outcome(intent, "created", "1")

    with (state / "lines").open("ab") as lines:
        contenders = {
            OUR_NAME: partial(measure_seconds, record_create),
            "two lines": partial(measure_blocking_seconds, partial(_append_twice, lines.fileno())),
        }
        values, ratios = compare(await alternate(contenders, rounds=repetitions.bursts))
    connections.close()
    is_reached = values[OUR_NAME] <= values["two lines"] + MAX_ADDED_SECONDS
    return [Figure("recording a create", "s", values, ratios, "≤ 0.01 s more than two durable lines", is_reached)]


def _append_twice(file_fd: int) -> None:
    for _ in range(2):
        os.write(file_fd, _LINE)
        os.fsync(file_fd)


RECORD_MEASURES: Final[Sequence[Measure]] = (measure_reading, measure_writing)
