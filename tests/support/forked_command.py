"""The command line in processes that are forked from one which has imported everything: each takes 30 ms, not 600."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.support.replica_process import start_forked
from token_tools.cli.commands import run_command

TIMEOUT_SECONDS = 60


class Ended(NamedTuple):
    """What a command that has ended leaves: its exit status, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(*words: str, environment: Mapping[str, str]) -> Ended:
    """Run a command with this environment, and no other, and with nothing on stdin.

    What the installed program does before its command is not run: `COMMAND` is for that.
    """
    with TemporaryDirectory(prefix="forked-") as name:
        stdout, stderr = (Path(name, stream) for stream in ("stdout", "stderr"))
        process = start_forked(partial(_run, words, stdout), environment, stderr)
        process.join(TIMEOUT_SECONDS)
        status = process.exitcode
        process.kill()
        assert status is not None, "The command does not end."
        return Ended(status, stdout.read_text(), stderr.read_text())


def _run(words: tuple[str, ...], stdout: Path) -> int:
    with stdout.open("wb") as output:
        os.dup2(output.fileno(), 1)
    return run_command(words)
