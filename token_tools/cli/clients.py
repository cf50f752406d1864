"""Lists the hosts on this machine, their files, and what each starts under our name: the command `clients`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from token_tools.cli.hosts.catalogue import HOSTS, Host
from token_tools.cli.hosts.change import FoundEntry, list_found_entries
from token_tools.cli.hosts.entries import ENTRY_NAME, PROGRAM, Entry
from token_tools.cli.hosts.executable import find_executable
from token_tools.cli.hosts.reports import write_lines
from token_tools.operator_input import format_input


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(_settings: Mapping[str, Any]) -> int:
    """Print a line for each file that a host on this machine has or would have, and return 0."""
    write_lines(*_render_hosts())
    return 0


def _render_hosts() -> Sequence[str]:
    entries = [*list_found_entries()]
    known = {entry.host.name for entry in entries}
    others = [host for host in HOSTS.values() if host.name not in known and host.is_found()]
    lines = [*map(_render_entry, entries), *map(_render_host, others)]
    return lines or [f"No host was found on this machine. Those that are known: {', '.join(HOSTS)}"]


def _render_host(host: Host) -> str:
    path = _render_path(host.find_file("user"))
    return f"{host.title}: no entry in {path}; `{PROGRAM} install --client {host.name}` adds one"


def _render_entry(found: FoundEntry) -> str:
    path = _render_path(found.path)
    if found.problem is not None:
        return f"{found.host.title}: {path} {found.problem}"
    return f"{found.host.title}: {_render_start(found.entry)}, in {path}"


def _render_start(entry: Entry | None) -> str:
    if entry is None or not entry.is_ours:
        return f"`{ENTRY_NAME}` is an entry that starts another program"
    own = find_executable()
    if entry.command == own.command:
        return "an entry that starts this installation"
    return f"an entry that starts another installation, {_render_path(entry.command)}"


def _render_path(path: Path | str) -> str:
    return format_input(str(path))
