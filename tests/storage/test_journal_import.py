"""Test that the journal of earlier versions, JSON lines in the state folder, is taken over into either database."""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from tests.support.permissions import needs_root
from tests.support.record import read_outcomes, read_record
from token_tools.errors import JournalError
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Mandate
from token_tools.storage.delivery import FileLocation, InlineLocation, KeyringLocation, Location
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.journal_import import MAX_BYTES, import_journal
from token_tools.storage.state import open_state

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
INTENT: dict[str, object] = {
    "time": "2026-11-23T09:00:00Z",
    "attempt": "a1",
    "operation": "rotate",
    "cluster": "c.example.com:8000",
    "user": "local:jane",
    "result": "intended",
    "replaces": "7",
}


@pytest.fixture
def closing() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def journal(state: StateSettings, closing: ExitStack) -> Journal:
    return start(state, closing)


@pytest.fixture
def folder(state: StateSettings) -> Path:
    state.state_dir.mkdir(mode=0o700)
    return state.state_dir


def start(state: StateSettings, closing: ExitStack) -> Journal:
    """Return the journal of one more server."""
    connections = open_state(state, lambda: NOW)
    closing.callback(connections.close)
    return Journal(connections, cluster="c.example.com:8000", clock=lambda: NOW, limits=Limits())


def write_lines(file: Path, *lines: object) -> None:
    """Write a former journal that is private."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    file.write_bytes(b"".join(text + b"\n" for text in texts))
    file.chmod(0o600)


async def test_what_an_earlier_version_wrote_is_an_entry_as_it_was_meant(
    state: StateSettings, folder: Path, journal: Journal
) -> None:
    created = INTENT | {"time": "2026-11-23T09:00:01.5Z", "result": "created", "token_id": "8"}
    write_lines(folder / "journal.1.jsonl", INTENT)
    write_lines(
        folder / "journal.jsonl",
        created | {"location": {"kind": "file", "path": "/x"}},
        INTENT
        | {"attempt": "a2", "operation": "update", "token_id": "7", "replaces": None, "change": "enabled: false"},
    )

    rotation, update = await journal.list_attempts()

    assert (rotation.id, rotation.operation, rotation.outcome, rotation.actor) == (
        "a1",
        "rotate",
        "created",
        "not recorded",
    )
    assert (rotation.begun, rotation.ended) == (
        datetime(2026, 11, 23, 9, 0, tzinfo=UTC),
        datetime(2026, 11, 23, 9, 0, 1, 500_000, tzinfo=UTC),
    )
    assert (rotation.token_id, rotation.replaces, rotation.location) == ("8", "7", FileLocation(Path("/x")))
    assert (update.operation, update.token_id, update.after) == ("update", "7", "enabled: false")
    assert (update.is_unfinished, update.is_in_flight) == (True, False)
    assert [row["number"] for row in read_record(state)] == [1, 2]


async def test_the_files_are_set_aside_once_their_attempts_are_in_the_database(
    state: StateSettings, folder: Path, journal: Journal, closing: ExitStack
) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    before = (folder / "journal.jsonl").read_bytes()
    for name in ("journal.lock", "journal.a1.lock"):
        (folder / name).touch()

    await journal.check_ready()

    [imported] = [path for path in folder.iterdir() if not path.name.startswith("state.db")]
    assert (imported.name[:14], imported.suffix) == ("journal.jsonl.", ".imported")
    assert imported.read_bytes() == before
    assert len(await start(state, closing).list_attempts()) == 1


async def test_what_an_earlier_version_writes_afterwards_is_taken_over_too(
    state: StateSettings, folder: Path, journal: Journal, closing: ExitStack
) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    await journal.check_ready()
    write_lines(folder / "journal.jsonl", INTENT | {"result": "created", "token_id": "8"}, INTENT | {"attempt": "a2"})

    attempts = await start(state, closing).list_attempts()

    assert [(attempt.id, attempt.outcome, attempt.token_id) for attempt in attempts] == [
        ("a1", "created", "8"),
        ("a2", "intended", None),
    ]
    write_lines(folder / "journal.jsonl", INTENT, INTENT | {"result": "unknown"})
    assert [attempt.outcome for attempt in await start(state, closing).list_attempts()] == ["created", "intended"]
    assert len([*folder.glob("journal.jsonl.*.imported")]) == 3


async def test_it_is_there_before_the_first_change(state: StateSettings, folder: Path, journal: Journal) -> None:
    write_lines(folder / "journal.jsonl", INTENT)

    async with journal.record_intent(journal.draft("create", "local:bob", Mandate("ann"))) as intent:
        await journal.record_outcome(intent, "created", "9")

    assert read_outcomes(state) == ["intended", "created"]


FORMER_RESULTS = {
    "made": "created",
    "not made": "not created",
    "deleted again": "rolled back",
    "stranded": "undeletable",
    "unknown": "unknown",
    "done": "done",
}
"""Results in the words of the first version, and in the present words."""
FORMER_PLACES: dict[str, Location] = {
    "/x/9fK3xQz7LmP2vB8nR4tW6yH1cD5gJ0sA/y.json": FileLocation(Path("/x/9fK3xQz7LmP2vB8nR4tW6yH1cD5gJ0sA/y.json")),
    "the system's keyring, service 'qumulo-token-tools c:8000', account 'local:o'neil 7'": KeyringLocation(
        "qumulo-token-tools c:8000", "local:o'neil 7"
    ),
    "this answer, and with it the conversation and its logs": InlineLocation(),
}


@pytest.mark.parametrize("result", FORMER_RESULTS)
@pytest.mark.parametrize("place", FORMER_PLACES)
async def test_the_words_of_the_first_version_are_understood(
    folder: Path, journal: Journal, result: str, place: str
) -> None:
    write_lines(folder / "journal.jsonl", INTENT | {"result": result, "token_id": "8", "place": place})

    [attempt] = await journal.list_attempts()

    assert (attempt.outcome, attempt.location) == (FORMER_RESULTS[result], FORMER_PLACES[place])


@pytest.mark.parametrize(
    ("operation", "mark", "is_told"),
    [
        ("create", "reported", False),
        ("create", "mentioned", True),
        ("update", "reported", True),
        ("delete", "mentioned", False),
    ],
)
async def test_what_people_were_told_is_not_told_again(
    folder: Path, journal: Journal, operation: str, mark: str, is_told: bool
) -> None:
    intent = INTENT | {"operation": operation}
    write_lines(folder / "journal.jsonl", intent, intent | {"result": mark, "time": "2026-11-23T10:00:00Z"})

    [attempt] = await journal.list_attempts()

    assert (attempt.outcome, attempt.is_unfinished) == ("intended", not is_told)
    assert attempt.settlement == ("told to a person" if is_told else None)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"time": "2026-11\xc3',
        b"\x00" * 100,
        b'"text"',
        b"[" * 5000,
        b"{}",
        INTENT | {"time": "9999-12-31T23:59:59-14:00"},
        INTENT | {"time": "2026-13-24T09:00:00Z"},
        INTENT | {"time": "2026-11-24T09:00:00"},
        INTENT | {"time": 1e300},
        INTENT | {"attempt": "\n"},
        INTENT | {"token_id": "7; rm"},
        INTENT | {"replaces": "7" * 65},
        INTENT | {"user": "local:jane\nWARNING all is well"},
        INTENT | {"cluster": "c\u202e"},
        INTENT | {"change": "\x1b[2J"},
        INTENT | {"location": {"kind": "vault"}},
        INTENT | {"location": 7},
        INTENT | {"place": "under the mat"},
        INTENT | {"result": "won"},
        INTENT | {"operation": "mint"},
    ],
    ids=range(21),
)
async def test_a_line_that_no_version_wrote_is_passed_over(folder: Path, journal: Journal, line: object) -> None:
    write_lines(folder / "journal.jsonl", line, INTENT | {"attempt": "b2"})

    assert [attempt.id for attempt in await journal.list_attempts()] == ["b2"]


@pytest.mark.parametrize("bits", [0o666, 0o620])
async def test_a_file_in_which_others_can_write_is_not_believed(
    state: StateSettings, folder: Path, journal: Journal, bits: int
) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    (folder / "journal.jsonl").chmod(bits)

    for call in (journal.check_ready, journal.list_attempts):
        with pytest.raises(JournalError) as told:
            await call()
        assert str(told.value) == (
            f"The journal of an earlier version in {folder} cannot be taken over: others can write in journal.jsonl "
            f"(mode {bits:04o}), so what is in it is not believed. Look through it, then chmod 600 "
            f"{folder / 'journal.jsonl'}, or move it away. QUMULO_STATE_DIR names that folder."
        )

    (folder / "journal.jsonl").chmod(0o600)
    await journal.check_ready()
    assert read_outcomes(state) == ["intended"]


@needs_root
async def test_a_file_of_another_user_is_not_believed(folder: Path, journal: Journal) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    os.chown(folder / "journal.jsonl", 65534, 65534)

    with pytest.raises(JournalError, match=r"journal\.jsonl belongs to another user \(uid 65534\)"):
        await journal.check_ready()


async def test_a_folder_that_others_can_enter_is_not_believed(folder: Path, journal: Journal) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    folder.chmod(0o755)

    with pytest.raises(JournalError, match=r"others can enter .*QUMULO_STATE_DIR names that folder"):
        await journal.check_ready()


async def test_a_file_that_is_larger_than_any_of_theirs_is_not_read(folder: Path, journal: Journal) -> None:
    (folder / "journal.jsonl").touch(mode=0o600)
    os.truncate(folder / "journal.jsonl", MAX_BYTES + 1)

    with pytest.raises(JournalError, match=r"journal\.jsonl is too large to be read; move it away"):
        await journal.check_ready()


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.lock"])
async def test_what_is_no_file_is_not_waited_for(folder: Path, journal: Journal, name: str) -> None:
    write_lines(folder / "journal.1.jsonl", INTENT)
    os.mkfifo(folder / name)

    with (
        anyio.fail_after(5),
        pytest.raises(JournalError, match=rf"{name} is no ordinary file, or a link: move it away"),
    ):
        await journal.check_ready()


async def test_an_earlier_version_that_writes_just_now_is_waited_for(
    state: StateSettings, folder: Path, journal: Journal
) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    with (folder / "journal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.check_ready)
            await anyio.wait_all_tasks_blocked()
            fcntl.flock(lock, fcntl.LOCK_UN)

    assert read_outcomes(state) == ["intended"]


@pytest.mark.slow
async def test_one_that_never_lets_go_is_told(state: StateSettings, folder: Path, journal: Journal) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    with (folder / "journal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(JournalError, match=r"cannot be taken over: another process holds journal\.lock\."):
            await journal.check_ready()

    await journal.check_ready()
    assert read_outcomes(state) == ["intended"]


@pytest.mark.parametrize("has_lock", [False, True])
async def test_servers_that_begin_together_take_it_over_once(
    state: StateSettings, folder: Path, closing: ExitStack, has_lock: bool
) -> None:
    attempts = [INTENT | {"attempt": f"a{number}"} for number in range(150)]
    write_lines(folder / "journal.jsonl", *attempts)
    if has_lock:
        (folder / "journal.lock").touch(mode=0o600)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(start(state, closing).list_attempts)

    assert len(await start(state, closing).list_attempts()) == len(attempts)
    assert len([*folder.glob("*.imported")]) == 1


async def test_a_lock_that_somebody_holds_and_what_is_no_lock_are_let_be(folder: Path, journal: Journal) -> None:
    write_lines(folder / "journal.jsonl", INTENT)
    (folder / "journal.a.lock").mkdir()
    os.mkfifo(folder / "journal.b.lock")
    (folder / "journal.c.lock").symlink_to(folder / "journal.jsonl")
    (folder / "journal.e.lock").touch()
    with (folder / "journal.d.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with anyio.fail_after(5):
            await journal.check_ready()

    assert {path.name for path in folder.glob("*.lock")} == {f"journal.{letter}.lock" for letter in "abcd"}


async def test_files_that_were_not_renamed_in_time_are_taken_over_once(
    state: StateSettings, folder: Path, journal: Journal, closing: ExitStack
) -> None:
    write_lines(folder / "journal.jsonl", INTENT)

    await journal.check_ready()
    [imported] = folder.glob("*.imported")
    imported.rename(folder / "journal.jsonl")

    assert len(await start(state, closing).list_attempts()) == 1


def test_files_that_another_server_has_taken_over_meanwhile_are_no_failure(tmp_path: Path) -> None:
    connections = open_state(StateSettings(state_dir=tmp_path / "state"), lambda: NOW)

    import_journal(tmp_path / "gone", ["journal.jsonl"], connections)

    assert [*tmp_path.iterdir()] == []
