"""Test the journal of intents and outcomes: crashes, archiving, torn lines, and several processes at once."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import anyio
import pytest

from tests.support.harness import JANE, TOKENS_PATH, Harness, ToolAnswer
from tests.support.journal_file import (
    ARCHIVE_NAME,
    INTENT,
    JOURNAL_NAME,
    LOCK_NAME,
    attempt_lock,
    journal_file,
    read_journal,
    write_journal,
)
from tests.support.permissions import needs_root, permission_bits
from token_tools.errors import JournalError
from token_tools.sandbox.cluster import Account
from token_tools.settings import Settings
from token_tools.storage.delivery import FileLocation, InlineLocation, KeyringLocation, Location
from token_tools.storage.journal import ARCHIVE_AFTER_BYTES, Journal, JournalEntry, Outcome

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
TIMEOUT_SECONDS = 30


def create_journal(folder: Path, *, cluster: str = "c:8000", now: datetime = NOW) -> Journal:
    return Journal(folder, cluster=cluster, clock=lambda: now)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@contextmanager
def working_process(folder: Path, user: str = "local:jane") -> Generator[JournalEntry]:
    """Yield the intent of a process that is killed at the end of the block; it stays a zombie for a while."""
    script = f"""
import anyio, pathlib, datetime, sys
from token_tools.storage.delivery import FileLocation, InlineLocation, KeyringLocation, Location
from token_tools.storage.journal import Journal
async def main():
    now = datetime.datetime.fromisoformat({NOW.isoformat()!r})
    journal = Journal(pathlib.Path({str(folder)!r}), cluster="c:8000", clock=lambda: now)
    async with journal.record_intent({user!r}) as intent:
        print(intent.model_dump_json(), flush=True)
        sys.stdin.read()
anyio.run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield JournalEntry.model_validate_json(process.stdout.readline())
        finally:
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def leave_open_intent(folder: Path, user: str = "local:jane") -> JournalEntry:
    """Leave the intent of a process that was killed before it wrote an outcome."""
    with working_process(folder, user) as intent:
        pass
    return intent


async def find_open_intents(journal: Journal, user: str) -> list[JournalEntry]:
    """Return the intents for a user that no process works on and that have to be reported."""
    attempts = await journal.list_attempts()
    return [a.intent for a in attempts if a.intent.user == user and not a.is_settled and not a.is_in_flight]


async def record_attempt(
    journal: Journal, outcome: Outcome, *, mentioned_entries: Sequence[JournalEntry] = ()
) -> JournalEntry:
    """Record the intent and the outcome of an attempt, and return the intent."""
    async with journal.record_intent("local:jane") as intent:
        await journal.record_outcome(intent, outcome, mentioned=mentioned_entries)
    return intent


async def test_an_intent_and_its_outcome_are_two_private_lines(folder: Path) -> None:
    journal = create_journal(folder)

    async with journal.record_intent("local:jane") as intent:
        await journal.record_outcome(intent, "created", "123")

    first, second = read_journal(folder)
    assert first == {
        "time": "2026-11-24T09:00:00Z",
        "attempt": intent.attempt,
        "operation": "create",
        "cluster": "c:8000",
        "user": "local:jane",
        "result": "intended",
    }
    assert second == first | {"result": "created", "token_id": "123"}
    assert {permission_bits(file) for file in folder.iterdir()} == {0o600}
    assert permission_bits(folder) == 0o700


async def test_each_line_has_the_time_at_which_it_was_written(folder: Path) -> None:
    crashed = leave_open_intent(folder)
    times = iter(NOW + timedelta(minutes=minute) for minute in (1, 2, 3))

    await record_attempt(
        Journal(folder, cluster="c:8000", clock=lambda: next(times)), "created", mentioned_entries=[crashed]
    )

    assert [(line["result"], line["time"]) for line in read_journal(folder)] == [
        ("intended", "2026-11-24T09:00:00Z"),
        ("intended", "2026-11-24T09:01:00Z"),
        ("created", "2026-11-24T09:02:00Z"),
        ("mentioned", "2026-11-24T09:03:00Z"),
    ]


async def test_what_this_server_is_doing_is_not_reported_until_it_has_crashed(folder: Path) -> None:
    journal = create_journal(folder)
    async with journal.record_intent("local:jane") as crashed:
        assert await journal.take_unreported() == []
        assert await find_open_intents(journal, "local:jane") == []

    assert await find_open_intents(journal, "local:jane") == [crashed]
    assert await journal.take_unreported() == [crashed]


async def test_what_another_process_is_doing_is_not_reported_until_it_is_dead(folder: Path) -> None:
    with working_process(folder) as intent:
        assert await create_journal(folder).take_unreported() == []
        assert await find_open_intents(create_journal(folder), "local:jane") == []

    assert await find_open_intents(create_journal(folder), "local:jane") == [intent]
    assert await create_journal(folder).take_unreported() == [intent]
    assert {file.name for file in folder.iterdir()} == {JOURNAL_NAME, LOCK_NAME}


async def test_what_was_made_and_what_is_being_made_for_the_same_user_is_known(folder: Path) -> None:
    journal = create_journal(folder)
    leave_open_intent(folder)
    ends: list[tuple[str, str, Outcome]] = [
        ("1", "local:jane", "created"),
        ("2", "local:bob", "created"),
        ("3", "local:jane", "rolled back"),
    ]
    for token_id, user, outcome in ends:
        async with journal.record_intent(user) as intent:
            await journal.record_outcome(intent, outcome, token_id)
    async with journal.record_intent("local:jane") as mine:
        assert await journal.get_concurrent_attempts("local:jane", excluding=mine) == ({"1"}, False)
        with working_process(folder):
            assert await journal.get_concurrent_attempts("local:jane", excluding=mine) == ({"1"}, True)


async def test_a_lock_that_cannot_be_removed_does_not_change_what_was_done(folder: Path) -> None:
    journal = create_journal(folder)
    async with journal.record_intent("local:jane") as intent:
        attempt_lock(folder, intent.attempt).unlink()

    assert await find_open_intents(journal, "local:jane") == [intent]


async def test_a_crash_is_reported_once_and_mentioned_once_to_its_user(folder: Path) -> None:
    crashed = leave_open_intent(folder)
    later = create_journal(folder)

    assert await later.take_unreported() == [crashed]
    assert await later.take_unreported() == []
    assert await create_journal(folder).take_unreported() == []

    assert await find_open_intents(later, "local:bob") == []
    assert await find_open_intents(create_journal(folder, cluster="other:8000"), "local:jane") == []
    assert await find_open_intents(later, "local:jane") == [crashed]
    await record_attempt(later, "created", mentioned_entries=[crashed])
    assert await find_open_intents(later, "local:jane") == []


@pytest.mark.parametrize("outcome", ["created", "not created", "rolled back", "undeletable", "unknown"])
async def test_an_outcome_closes_the_intent(folder: Path, outcome: str) -> None:
    crashed = leave_open_intent(folder)
    with journal_file(folder).open("a") as journal:
        journal.write(crashed.model_copy(update={"result": outcome}).model_dump_json() + "\n")

    assert await create_journal(folder).take_unreported() == []


async def test_a_token_that_nobody_could_name_is_mentioned_although_the_outcome_is_written(folder: Path) -> None:
    journal = create_journal(folder)
    unknown = await record_attempt(journal, "unknown")

    assert await journal.take_unreported() == []
    assert await find_open_intents(journal, "local:jane") == [unknown]
    await record_attempt(journal, "created", mentioned_entries=[unknown])
    assert await find_open_intents(journal, "local:jane") == []


async def test_half_a_line_hides_nothing_else(folder: Path) -> None:
    crashed = leave_open_intent(folder)
    with journal_file(folder).open("ab") as file:
        file.write(b'{"time": "2026-11\xc3')

    journal = create_journal(folder)
    async with journal.record_intent("local:bob") as intent:
        await journal.record_outcome(intent, "created")

    assert journal_file(folder).read_bytes().splitlines()[1] == b'{"time": "2026-11\xc3'
    assert JournalEntry.model_validate_json(journal_file(folder).read_bytes().splitlines()[2]) == intent
    assert await journal.take_unreported() == [crashed]


async def test_a_line_of_which_there_is_only_the_first_byte_hides_nothing_either(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    journal_file(folder).write_bytes(b"{")
    journal = create_journal(folder)

    unknown = await record_attempt(journal, "unknown")

    assert await find_open_intents(journal, "local:jane") == [unknown]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\x00" * 100,
        b'"text"',
        b"[" * 5000,
        b"{}",
        json.dumps(INTENT | {"time": "9999-12-31T23:59:59-14:00"}).encode(),
        json.dumps(INTENT | {"time": "0001-01-01T00:00:00+14:00"}).encode(),
        json.dumps(INTENT | {"time": "2026-13-24T09:00:00Z"}).encode(),
        json.dumps(INTENT | {"time": "2026-11-24T09:00:00"}).encode(),
        json.dumps(INTENT | {"time": 1e300}).encode(),
        json.dumps(INTENT | {"attempt": "../../x"}).encode(),
        json.dumps(INTENT | {"attempt": "a" * 300}).encode(),
        json.dumps(INTENT | {"token_id": "7; rm"}).encode(),
        json.dumps(INTENT | {"replaces": "7" * 65}).encode(),
        json.dumps(INTENT | {"user": "local:jane\nWARNING all is well"}).encode(),
        json.dumps(INTENT | {"cluster": "c\u202e"}).encode(),
        json.dumps(INTENT | {"change": "\x1b[2J"}).encode(),
        json.dumps(INTENT | {"location": {"kind": "file", "path": "/x\x00"}}).encode(),
        json.dumps(INTENT | {"result": "won"}).encode(),
        json.dumps(INTENT | {"location": {"kind": "file", "path": "/" + "x" * (16 << 10)}}).encode(),
    ],
    ids=range(20),
)
async def test_a_line_that_cannot_be_read_is_told_once_at_a_start_and_the_rest_is_used(
    harness: Harness, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    harness.settings.state_dir.mkdir(parents=True, mode=0o700)
    journal = journal_file(harness.settings.state_dir)
    journal.write_bytes(line + b"\n" + json.dumps(INTENT).encode() + b"\n")

    async with harness.connected() as client:
        answer = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "local:jane"}))

    unreadable, report = caplog.messages
    assert unreadable.startswith(f"1 line of the journal in {journal.parent} cannot be read and is passed over")
    assert report.startswith("The rotate of an access token for local:jane on c.example.com:8000 at 2026-11-24 09:00")
    assert "no outcome of an earlier create for this user (2026-11-24 09:00 UTC)" in answer.fields["warning"]


async def test_several_lines_that_cannot_be_read_are_counted(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    folder = harness.settings.state_dir
    folder.mkdir(parents=True, mode=0o700)
    for name in (ARCHIVE_NAME, JOURNAL_NAME):
        (folder / name).write_bytes(b"{\n\n}\n")

    await harness.call("list_access_tokens")

    [warning] = caplog.messages
    assert warning.startswith(f"4 lines of the journal in {folder} cannot be read and are passed over")


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("made", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
async def test_no_time_that_is_in_the_calendar_stops_a_rotate(harness: Harness, time: str, made: str) -> None:
    old, other = [harness.cluster.add_token(JANE.auth_id, creator="500") for _ in range(2)]
    harness.cluster.tokens[other.id] = replace(other, creation_time=datetime.fromisoformat(made))
    write_journal(harness.settings.state_dir, [INTENT | {"time": time}])

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert f"The other is {other.id}" in refusal


def plant_journal(harness: Harness, name: str) -> tuple[str, Path]:
    """Plant a journal that says that jane's token was rotated into a stranger's file; return its id and the journal."""
    old, new = [harness.cluster.add_token(JANE.auth_id, creator="500") for _ in range(2)]
    place = harness.settings.delivery_dir.parent / "stranger.json"
    place.parent.mkdir(parents=True, mode=0o700)
    place.touch()
    line = INTENT | {"replaces": old.id}
    made = line | {"result": "created", "token_id": new.id, "location": {"kind": "file", "path": str(place)}}
    write_journal(harness.settings.state_dir, [line, made])
    return old.id, journal_file(harness.settings.state_dir).rename(harness.settings.state_dir / name)


@pytest.mark.parametrize("name", [JOURNAL_NAME, ARCHIVE_NAME])
@pytest.mark.parametrize("bits", [0o666, 0o620, 0o602])
async def test_a_journal_in_which_others_can_write_is_not_believed(
    harness: Harness, name: str, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    old, journal = plant_journal(harness, name)
    journal.chmod(bits)
    before = journal.read_bytes()

    refusal = await harness.call_refused("rotate_access_token", {"id": old})

    assert f"others can write in {name} (mode {bits:04o}), so what is in it is not believed" in refusal
    assert f"chmod 600 {journal}" in refusal
    assert "stranger.json" not in refusal + caplog.text
    assert journal.read_bytes() == before
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


@needs_root
@pytest.mark.parametrize("name", [JOURNAL_NAME, ARCHIVE_NAME])
async def test_a_journal_of_another_user_is_not_believed(harness: Harness, name: str) -> None:
    old, journal = plant_journal(harness, name)
    os.chown(journal, 65534, 65534)

    refusal = await harness.call_refused("rotate_access_token", {"id": old})

    assert f"{name} belongs to another user (uid 65534), so what is in it is not believed" in refusal
    assert "stranger.json" not in refusal


async def test_a_journal_that_is_larger_than_any_of_ours_is_not_read(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.settings.state_dir.mkdir(parents=True, mode=0o700)
    with journal_file(harness.settings.state_dir).open("wb") as journal:
        journal.truncate(1 << 40)

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "journal.jsonl is too large to be read; move it away" in refusal
    assert "journal.jsonl is too large to be read" in caplog.text


@pytest.mark.slow
async def test_all_of_very_many_calls_at_once_have_their_turn(harness: Harness) -> None:
    accounts = [
        Account(auth_id=str(5000 + number), domain="LOCAL", name=f"svc{number}", sid=f"S-1-5-21-1-2-3-{5000 + number}")
        for number in range(200)
    ]
    for account in accounts:
        harness.cluster.add_account(account)
    harness.timeout_seconds = 60
    failed: list[str] = []

    async with harness.connected() as client, anyio.create_task_group() as calls:

        async def create(account: Account) -> None:
            answer = ToolAnswer.from_result(
                await client.call_tool("create_access_token", {"user": f"local:{account.name}"})
            )
            failed.extend([answer.text] if answer.is_error else [])

        for account in accounts:
            calls.start_soon(create, account)

    assert failed == []
    assert {len(harness.tokens_of(account)) for account in accounts} == {1}


async def test_a_process_waits_for_itself_in_turn_and_however_long_that_takes(folder: Path) -> None:
    journal = Journal(folder, cluster="c", clock=lambda: NOW, timeout_seconds=0)
    order: list[str] = []

    async def write(user: str) -> None:
        async with journal.record_intent(user):
            order.append(user)

    async with anyio.create_task_group() as writers:
        for number in range(50):
            writers.start_soon(write, f"local:{number}")

    assert [line["user"] for line in read_journal(folder)] == [f"local:{number}" for number in range(50)]
    assert order == [f"local:{number}" for number in range(50)]


async def test_rotations_are_remembered_when_the_journal_moves_on(folder: Path) -> None:
    journal = create_journal(folder)
    async with journal.record_intent("local:jane", "rotate", replaces="1") as intent:
        await journal.record_outcome(intent, "created", "2", location=FileLocation(Path("/x")))
    filler = (json.dumps({"x": "y" * 1000}) + "\n") * (ARCHIVE_AFTER_BYTES // 1000 + 1)
    for _ in range(3):
        with journal_file(folder).open("a") as file:
            file.write(filler)
        await record_attempt(journal, "created")

    [rotation] = await journal.list_rotations("1")
    assert (rotation.token_id, rotation.location) == ("2", FileLocation(Path("/x")))


LOCATIONS: dict[str, tuple[Location, str]] = {
    "file": (FileLocation(Path("/x/y.json")), "/x/y.json"),
    "keyring": (
        KeyringLocation("qumulo-token-tools c:8000", "local:o'neil 7"),
        "the system's keyring, service 'qumulo-token-tools c:8000', account 'local:o'neil 7'",
    ),
    "inline": (InlineLocation(), "this answer, and with it the conversation and its logs"),
}
"""A location of each destination, and its text in the journals of earlier versions."""


@pytest.mark.parametrize("destination", get_args(Settings.model_fields["delivery"].annotation))
async def test_a_location_is_read_as_it_was_written(folder: Path, destination: str) -> None:
    journal = create_journal(folder)
    location, _ = LOCATIONS[destination]
    async with journal.record_intent("local:jane") as intent:
        await journal.record_outcome(intent, "created", "2", location=location)

    [attempt] = await journal.list_attempts()

    assert attempt.last.location == location


FORMER_RESULTS = {
    "made": "created",
    "not made": "not created",
    "deleted again": "rolled back",
    "stranded": "undeletable",
    "unknown": "unknown",
    "done": "done",
    "not done": "not done",
}
"""Results in the words of earlier versions, and in the present words."""


@pytest.mark.parametrize("result", FORMER_RESULTS)
@pytest.mark.parametrize("destination", LOCATIONS)
async def test_a_line_of_an_earlier_version_is_read_as_it_was_meant(
    folder: Path, result: str, destination: str
) -> None:
    location, text = LOCATIONS[destination]
    written = INTENT | {"cluster": "c:8000", "result": result, "token_id": "7", "place": text}
    write_journal(folder, [written])

    [attempt] = await create_journal(folder).list_attempts()

    assert (attempt.outcome, attempt.last.location) == (FORMER_RESULTS[result], location)


@pytest.mark.parametrize("key", ["location", "place"])
async def test_a_file_is_read_as_it_was_written_below_a_folder_that_is_called_like_a_secret(
    folder: Path, key: str
) -> None:
    """The name of a file with a token is longer than that of a folder, and the folder may be gone since."""
    path = f"/no-such-folder/9fK3xQz7LmP2vB8nR4tW6yH1cD5gJ0sA/{'c' * 60}_8000_local_jane_7.json"
    written = {"kind": "file", "path": path} if key == "location" else path
    folder.mkdir(mode=0o700)
    journal_file(folder).write_text(
        json.dumps(INTENT | {"cluster": "c:8000", "result": "created", "token_id": "7", key: written}) + "\n"
    )

    [attempt] = await create_journal(folder).list_attempts()

    assert (attempt.outcome, attempt.last.location) == ("created", FileLocation(Path(path)))


async def test_a_rotation_whose_location_was_not_written_down_is_told_without_one(harness: Harness) -> None:
    old, new = [harness.cluster.add_token(JANE.auth_id, creator="500") for _ in range(2)]
    line = INTENT | {"replaces": old.id}
    write_journal(harness.settings.state_dir, [line, line | {"result": "created", "token_id": new.id}])

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "but its bearer token is no longer in the place where it was put. Unless that was moved" in refusal


async def test_a_location_of_no_known_destination_makes_a_line_unreadable(folder: Path) -> None:
    journal = create_journal(folder)
    await record_attempt(journal, "created")
    with journal_file(folder).open("a") as file:
        for location in ({"location": {"kind": "vault"}}, {"place": "under the mat"}, {"location": 7}):
            file.write(json.dumps(INTENT | location) + "\n")

    assert await journal.count_unreadable() == 3


async def test_what_another_process_reads_at_the_same_time_is_not_taken_for_work(folder: Path) -> None:
    intent = leave_open_intent(folder)

    with attempt_lock(folder, intent.attempt).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        [attempt] = await create_journal(folder).list_attempts()

    assert not attempt.is_in_flight


async def test_the_journal_is_bounded_and_keeps_open_intents_and_who_was_told_of_them(folder: Path) -> None:
    crashed, reported, settled = (
        leave_open_intent(folder),
        leave_open_intent(folder, "local:reported"),
        leave_open_intent(folder, "local:settled"),
    )
    journal = create_journal(folder)
    with journal_file(folder).open("a") as file:
        for intent, mark in ((reported, "reported"), (settled, "mentioned")):
            file.write(intent.model_copy(update={"result": mark}).model_dump_json() + "\n")
    filler = (json.dumps({"x": "y" * 1000}) + "\n") * (ARCHIVE_AFTER_BYTES // 1000 + 1)
    for _ in range(3):
        with journal_file(folder).open("a") as file:
            file.write(filler)
        await record_attempt(journal, "created")

    assert sum(file.stat().st_size for file in folder.iterdir()) < 3 * ARCHIVE_AFTER_BYTES
    assert await journal.take_unreported() == [crashed]
    assert await find_open_intents(journal, "local:reported") == [reported]
    assert await find_open_intents(journal, "local:settled") == []
    assert {file.name for file in folder.iterdir()} == {ARCHIVE_NAME, JOURNAL_NAME, LOCK_NAME}


async def test_several_processes_write_whole_lines(folder: Path) -> None:
    script = f"""
import anyio, pathlib, datetime
from token_tools.storage.delivery import FileLocation, InlineLocation, KeyringLocation, Location
from token_tools.storage.journal import Journal
from token_tools.times import utc_now
async def main():
    journal = Journal(pathlib.Path({str(folder)!r}), cluster="c:8000", clock=utc_now)
    for _ in range(20):
        async with journal.record_intent("local:jane") as intent:
            await journal.record_outcome(intent, "created")
anyio.run(main)
"""
    async with anyio.create_task_group() as writers:
        for _ in range(4):
            writers.start_soon(anyio.run_process, [sys.executable, "-c", script])

    written = read_journal(folder)
    assert len(written) == 160
    assert len({line["attempt"] for line in written}) == 80


async def test_a_journal_that_cannot_be_written_says_so(folder: Path) -> None:
    folder.write_text("a file where the folder should be")

    with pytest.raises(JournalError, match="cannot be written: Not a directory"):
        await record_attempt(create_journal(folder), "created")


async def test_what_is_no_lock_of_ours_is_let_be_at_a_start(folder: Path) -> None:
    await record_attempt(create_journal(folder), "created")
    (folder / "journal.a.lock").mkdir()
    os.mkfifo(folder / "journal.b.lock")
    (folder / "journal.c.lock").symlink_to(folder / LOCK_NAME)
    before = {*folder.iterdir()}

    with anyio.fail_after(5):
        assert await create_journal(folder).take_unreported() == []

    assert {*folder.iterdir()} == before


def make_link(path: Path) -> None:
    path.symlink_to("other")


@pytest.mark.parametrize("name", [JOURNAL_NAME, LOCK_NAME])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_link])
async def test_what_is_in_place_of_a_file_of_the_journal_is_not_waited_for_and_told(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    folder.mkdir(mode=0o700)
    make(folder / name)

    text = rf"{re.escape(name)} is no ordinary file, or a link: move it away\."
    with anyio.fail_after(5), pytest.raises(JournalError, match=text):
        await record_attempt(create_journal(folder), "created")


async def test_a_journal_that_others_can_read_is_made_private_again(folder: Path) -> None:
    await record_attempt(create_journal(folder), "created")
    journal_file(folder).chmod(0o644)

    await record_attempt(create_journal(folder), "created")

    assert permission_bits(journal_file(folder)) == 0o600


async def test_a_journal_that_was_read_is_not_believed_once_others_can_replace_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "state"
    journal = create_journal(folder)
    await record_attempt(journal, "created")
    await journal.list_attempts()

    folder.parent.chmod(0o777)

    with pytest.raises(JournalError, match="others can replace what is in"):
        await journal.list_attempts()


async def test_a_folder_that_leads_nowhere_is_not_taken_for_one_that_is_not_there(folder: Path) -> None:
    journal = create_journal(folder)
    assert await journal.list_attempts() == []

    folder.symlink_to(folder)

    with pytest.raises(JournalError, match="Too many levels of symbolic links"):
        await journal.list_attempts()


async def test_a_journal_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    journal_file(folder).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(JournalError, match="is no ordinary file, or a link: move it away"):
        await record_attempt(create_journal(folder), "created")

    assert not (tmp_path / "elsewhere").exists()


async def test_a_journal_held_by_a_process_that_hangs_is_not_waited_for_for_ever(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = await record_attempt(create_journal(folder), "created")
    script = f"""
import fcntl, os, sys
lock = open({str(folder / LOCK_NAME)!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        journal = Journal(folder, cluster="c", clock=lambda: NOW, timeout_seconds=0.05)
        with anyio.fail_after(TIMEOUT_SECONDS):
            with pytest.raises(JournalError, match=r"held by another process"):
                await record_attempt(journal, "created")
            journal_error = await journal.record_outcome(before, "created")

    assert journal_error == f"The journal {journal_file(folder)} is held by another process."
    assert caplog.messages == [journal_error]


def test_a_disk_that_hangs_at_the_end_holds_up_nobody_who_needs_none(folder: Path) -> None:
    script = f"""
import sys, threading, anyio, anyio.to_thread
from pathlib import Path
from typing import get_args
from token_tools.storage.delivery import FileLocation, InlineLocation, KeyringLocation, Location
from token_tools.storage.journal import Journal
from token_tools.times import utc_now

hangs, goes_on = threading.Event(), threading.Event()

def hang(event, args):
    if event == "os.remove":
        hangs.set()
        assert goes_on.wait(5)

sys.addaudithook(hang)

async def finish():
    journal = Journal(Path({str(folder)!r}), cluster="c", clock=utc_now)
    async with journal.record_intent("local:jane") as intent:
        await journal.record_outcome(intent, "created")

async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finish)
        assert await anyio.to_thread.run_sync(hangs.wait, {TIMEOUT_SECONDS})
        print("others have their turn")
        goes_on.set()

anyio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert ended.stdout == "others have their turn\n"
    assert [*folder.glob("journal.*.lock")] == []
