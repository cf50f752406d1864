"""What `install` and `uninstall` say of one host: what was done, what would be done, and what could not be done."""

import shlex
import sys
from pathlib import Path

from token_tools.cli.hosts.catalogue import Host, Scope
from token_tools.cli.hosts.change import Change, Outcome
from token_tools.operator_input import format_input


def write_lines(*lines: str) -> None:
    """Print some lines."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def write_outcome(host: Host, outcome: Outcome, done: str) -> None:
    """Print what was done, such as `added to`, and where the file is as it was before."""
    write_lines(f"{host.title}: {done} {_render_path(outcome.change.path)}.")
    if outcome.failure is not None:
        write_lines(f"  Its own command did not do that: {outcome.failure}. The file was edited instead.")
    if outcome.backup is not None:
        write_lines(f"  The file as it was before: {_render_path(outcome.backup)}")


def write_dry_run(host: Host, change: Change) -> None:
    """Print what would be changed."""
    if not change.is_needed:
        write_lines(f"{host.title}: nothing would change in {_render_path(change.path)}.")
        return
    ways = [] if change.words is None else [f"would run `{shlex.join(change.words)}`, and "]
    write_lines(f"{host.title}: {''.join(ways)}would change this:", *change.render_diff())


def write_refusal(host: Host, scope: Scope, failure: Exception) -> None:
    """Print why a host's file was not edited."""
    reason = failure if isinstance(failure, ValueError) else f"cannot be written: {_name_failure(failure)}"
    write_lines(f"{host.title}: {_render_path(host.find_file(scope))} {reason}. It was not edited.")


def _name_failure(failure: Exception) -> str:
    return (isinstance(failure, OSError) and failure.strerror) or str(failure)


def _render_path(path: Path) -> str:
    return format_input(str(path))
