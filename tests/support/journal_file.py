"""The journal as it is on the disk: the one helper that knows the names, the format and the keys of its files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

JOURNAL_NAME = "journal.jsonl"
ARCHIVE_NAME = "journal.1.jsonl"
LOCK_NAME = "journal.lock"
INTENT = {
    "time": "2026-11-24T09:00:00Z",
    "attempt": "abc",
    "operation": "rotate",
    "cluster": "c.example.com:8000",
    "user": "local:jane",
    "result": "intended",
}
"""A valid entry without an outcome."""
ANOTHER_SERVER = {"server": "another", "attempt": "a", "process": 2**22 + 1}
"""The fields of an entry that a server wrote whose process is gone; no system gives a process such a number."""


def journal_file(state_dir: Path) -> Path:
    """Return the path of the journal in a state folder."""
    return state_dir / JOURNAL_NAME


def attempt_lock(state_dir: Path, attempt: str) -> Path:
    """Return the path of the lock that the process of an attempt holds while it works on it."""
    return state_dir / f"journal.{attempt}.lock"


def read_journal(state_dir: Path) -> list[dict[str, Any]]:
    """Read all entries in order, or none if there is no journal. Raise if an entry is not whole."""
    path = journal_file(state_dir)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_outcomes(state_dir: Path) -> list[str]:
    """Read the result of each entry, in order."""
    return [entry["result"] for entry in read_journal(state_dir)]


def write_journal(state_dir: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write a journal of these entries alone, into a folder and a file that are private."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = journal_file(state_dir)
    path.touch(mode=0o600)
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def forget_outcomes(state_dir: Path) -> None:
    """Keep only the first entry, which is what a server leaves that is killed before it writes an outcome."""
    write_journal(state_dir, read_journal(state_dir)[:1])


def leave_intent_of_another_server(state_dir: Path) -> None:
    """Keep only the first entry, and mark it as written by a server that has ended since."""
    write_journal(state_dir, [read_journal(state_dir)[0] | ANOTHER_SERVER])
