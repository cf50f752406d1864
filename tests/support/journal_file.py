"""The journal as it is on the disk. No other test helper knows its file name, its format or its keys."""

import json
from pathlib import Path
from typing import Any


def journal_file(state_dir: Path) -> Path:
    """Return the path of the journal in a state folder."""
    return state_dir / "journal.jsonl"


def read_journal(state_dir: Path) -> list[dict[str, Any]]:
    """Read all entries in order, or none if there is no journal; an entry that is not whole raises."""
    path = journal_file(state_dir)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_outcomes(state_dir: Path) -> list[str]:
    """Read the outcome of each entry in order; the outcome of an intent is `begun`."""
    return [entry["result"] for entry in read_journal(state_dir)]


def forget_outcomes(state_dir: Path) -> None:
    """Keep the first entry alone, which is what a server leaves that is killed before it writes the outcome."""
    path = journal_file(state_dir)
    path.write_text(path.read_text().splitlines()[0] + "\n")
