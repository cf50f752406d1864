"""What was intended and what came of it, through crashes, rotations, torn lines and several processes at once."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from token_tools.errors import JournalError
from token_tools.journal import LARGEST, Entry, Journal

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
PATIENCE = 30


def journal_in(folder: Path, *, cluster: str = "c:8000", now: datetime = NOW) -> Journal:
    return Journal(folder, cluster=cluster, clock=lambda: now)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def crash(folder: Path, user: str = "local:jane") -> Entry:
    """What a process leaves that is killed between intent and outcome."""
    script = f"""
import anyio, os, pathlib, datetime
from token_tools.journal import Journal
now = datetime.datetime.fromisoformat({NOW.isoformat()!r})
journal = Journal(pathlib.Path({str(folder)!r}), cluster="c:8000", clock=lambda: now)
print(anyio.run(journal.intend, {user!r}).model_dump_json(), flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert killed.returncode == -9
    return Entry.model_validate_json(killed.stdout)


async def test_an_intent_and_its_outcome_are_two_private_lines(folder: Path) -> None:
    journal = journal_in(folder)

    intent = await journal.intend("local:jane")
    await journal.conclude(intent, "made", "123")

    first, second = lines(folder)
    assert first == {
        "time": "2026-11-24T09:00:00Z",
        "attempt": intent.attempt,
        "operation": "create",
        "cluster": "c:8000",
        "user": "local:jane",
        "result": "intended",
        "process": os.getpid(),
        "server": intent.server,
    }
    assert second == first | {"result": "made", "token_id": "123"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_what_this_server_is_doing_is_not_reported(folder: Path) -> None:
    journal = journal_in(folder)
    await journal.intend("local:jane")

    assert await journal.report_open() == []
    assert await journal.find_open("local:jane") == []


async def test_a_crash_is_reported_once_and_mentioned_once_to_its_user(folder: Path) -> None:
    crashed = crash(folder)
    later = journal_in(folder)

    assert await later.report_open() == [crashed]
    assert await later.report_open() == []
    assert await journal_in(folder).report_open() == []

    assert await later.find_open("local:bob") == []
    assert await journal_in(folder, cluster="other:8000").find_open("local:jane") == []
    assert await later.find_open("local:jane") == [crashed]
    await later.conclude(await later.intend("local:jane"), "made", mentioned=[crashed])
    assert await later.find_open("local:jane") == []


@pytest.mark.parametrize("outcome", ["made", "not made", "deleted again", "stranded", "unknown"])
async def test_an_outcome_closes_the_intent(folder: Path, outcome: str) -> None:
    crashed = crash(folder)
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write(crashed.model_copy(update={"result": outcome}).model_dump_json() + "\n")

    assert await journal_in(folder).report_open() == []


@pytest.mark.parametrize(
    ("process", "age", "is_open"),
    [
        pytest.param(1, timedelta(minutes=1), False, id="another-process-at-work"),
        pytest.param(1, timedelta(hours=1), True, id="another-process-too-long-ago"),
        pytest.param(os.getpid(), timedelta(minutes=1), True, id="our-number-in-an-earlier-life"),
        pytest.param(2**22 + 1, timedelta(minutes=1), True, id="no-such-process"),
    ],
)
async def test_an_intent_is_open_once_nobody_works_on_it(
    folder: Path, process: int, age: timedelta, is_open: bool
) -> None:
    crashed = crash(folder).model_copy(update={"process": process})
    (folder / "journal.jsonl").write_text(crashed.model_dump_json() + "\n")

    assert bool(await journal_in(folder, now=NOW + age).report_open()) is is_open


async def test_half_a_line_hides_nothing_else(folder: Path) -> None:
    crashed = crash(folder)
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-11')

    journal = journal_in(folder)
    intent = await journal.intend("local:bob")

    assert (folder / "journal.jsonl").read_bytes().splitlines()[1] == b'{"time": "2026-11'
    assert Entry.model_validate_json((folder / "journal.jsonl").read_bytes().splitlines()[2]) == intent
    assert await journal.report_open() == [crashed]


async def test_the_journal_is_bounded_and_keeps_open_intents(folder: Path) -> None:
    crashed = crash(folder)
    journal = journal_in(folder)
    filler = (json.dumps({"x": "y" * 1000}) + "\n") * (LARGEST // 1000 + 1)
    for _ in range(3):
        with (folder / "journal.jsonl").open("a") as file:
            file.write(filler)
        intent = await journal.intend("local:bob")
        await journal.conclude(intent, "made")

    assert sum(file.stat().st_size for file in folder.iterdir()) < 3 * LARGEST
    assert await journal.report_open() == [crashed]


async def test_several_processes_write_whole_lines(folder: Path) -> None:
    script = f"""
import anyio, pathlib, datetime
from token_tools.journal import Journal
from token_tools.times import utc_now
async def main():
    journal = Journal(pathlib.Path({str(folder)!r}), cluster="c:8000", clock=utc_now)
    for _ in range(20):
        await journal.conclude(await journal.intend("local:jane"), "made")
anyio.run(main)
"""
    async with anyio.create_task_group() as writers:
        for _ in range(4):
            writers.start_soon(anyio.run_process, [sys.executable, "-c", script])

    written = lines(folder)
    assert len(written) == 160
    assert len({line["attempt"] for line in written}) == 80


async def test_a_journal_that_cannot_be_written_says_so(folder: Path) -> None:
    folder.write_text("a file where the folder should be")

    with pytest.raises(JournalError, match="cannot be written: File exists"):
        await journal_in(folder).intend("local:jane")


async def test_a_journal_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "journal.jsonl").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(JournalError):
        await journal_in(folder).intend("local:jane")

    assert not (tmp_path / "elsewhere").exists()


async def test_a_journal_held_by_a_process_that_hangs_is_not_waited_for_for_ever(folder: Path) -> None:
    script = f"""
import fcntl, os, sys
os.makedirs({str(folder)!r})
lock = open({str(folder / "journal.lock")!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with anyio.fail_after(PATIENCE), pytest.raises(JournalError, match="held by another process"):
            await Journal(folder, cluster="c", clock=lambda: NOW, patience=0.05).intend("local:jane")
