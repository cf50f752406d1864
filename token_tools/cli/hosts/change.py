"""Adds and removes our entry at a host: what would change is planned first, and planned again before it is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from token_tools.cli.hosts import own_commands
from token_tools.cli.hosts.catalogue import HOSTS, Host, Scope
from token_tools.cli.hosts.editing import edit, find_entry
from token_tools.cli.hosts.entries import ENTRY_NAME, Entry
from token_tools.cli.hosts.files import HostFile, back_up, check_writable, read_host_file, replace
from token_tools.quoting import has_secret, is_visible
from token_tools.times import utc_now

_WITHHELD: Final = "(a line that may have a secret or invisible characters in it)"


class NotOurs(ValueError):
    """An entry of our name starts another program; the text is a predicate for the file."""


@dataclass(frozen=True)
class Change:
    """What a host's file should say instead of what it says, and the host's own command for that, if it has one here.

    `path` is where the host looks for its file, which may be a link.
    """

    path: Path
    file: HostFile
    after: str
    words: Sequence[str] | None = None

    @property
    def is_needed(self) -> bool:
        """Tell whether anything has to be done."""
        return self.after != self.file.text

    def render_diff(self) -> Iterator[str]:
        """Yield the lines that change; those around them may have secrets of other servers."""
        lines = unified_diff(
            self.file.text.splitlines(), self.after.splitlines(), str(self.path), str(self.path), n=0, lineterm=""
        )
        for line in lines:
            shown = line.expandtabs()
            yield shown if is_visible(shown) and not has_secret(line) else f"{line[0]}{_WITHHELD}"


class Outcome(NamedTuple):
    """What was done: where the backup is, None without one, and whether the host's own command did not do its part."""

    change: Change
    backup: Path | None = None
    failure: str | None = None


class FoundEntry(NamedTuple):
    """What a host's file has under our name: `entry` is None if it starts nothing, `problem` if the file is fine."""

    host: Host
    scope: Scope
    path: Path
    entry: Entry | None = None
    problem: str | None = None

    @property
    def may_be_started(self) -> bool:
        """Tell whether a check may start the entry: anybody can have written what is in the folder of a project."""
        return self.entry is not None and self.entry.is_ours and self.scope == "user"


def list_found_entries() -> Iterator[FoundEntry]:
    """Yield what the files of all hosts have under our name, and the files that cannot be read."""
    for host in HOSTS.values():
        for scope in host.list_scopes():
            path = host.find_file(scope)
            try:
                value = _read_value(host, read_host_file(path))
            except ValueError as reason:
                yield FoundEntry(host, scope, path, problem=str(reason))
            else:
                if value is not None:
                    yield FoundEntry(host, scope, path, host.form.read(value))


def read_entry(host: Host, scope: Scope) -> Entry:
    """Return our entry as a host's file has it now.

    Raises:
        ValueError: If it has none, or cannot be read; the text is a predicate for the file.
    """
    found = host.form.read(_read_value(host, read_host_file(host.find_file(scope))))
    if found is None:
        raise ValueError("has no entry that starts a command")
    return found


def plan_install(host: Host, scope: Scope, entry: Entry) -> Change:
    """Return what has to change for a host to start the server by this entry.

    Raises:
        NotOurs: If there is such an entry of another program.
        ValueError: If the file cannot be read or changed; the text is a predicate for it.
    """
    path = host.find_file(scope)
    file = read_host_file(path)
    old = _read_own(host, file)
    # Anybody can have written what is in the folder of a project, and the new entry is started.
    new = host.form.write(entry, old if old is not None and scope == "user" else {})
    words = own_commands.list_add_words(host, scope, entry) if old is None else None
    return _check_possible(Change(path, file, file.text if new == old else _edit(host, file.text, new), words))


def plan_removal(host: Host, scope: Scope) -> Change:
    """Return what has to change for a host not to know the server any more.

    Raises:
        NotOurs: If there is such an entry of another program.
        ValueError: If the file cannot be read or changed; the text is a predicate for it.
    """
    path = host.find_file(scope)
    file = read_host_file(path)
    if _read_own(host, file) is None:
        return Change(path, file, file.text)
    words = own_commands.list_removal_words(host, scope)
    return _check_possible(Change(path, file, _edit(host, file.text, None), words))


def _check_possible(change: Change) -> Change:
    if change.is_needed:
        check_writable(change.file)
    return change


def carry_out(plan: Callable[[], Change]) -> Outcome:
    """Do what a plan says: by the host's own command first, and then in its file what that did not do.

    Raises:
        OSError: If something cannot be written.
        ValueError: If the file cannot be read or changed; the text is a predicate for it.
    """
    change = plan()
    if not change.is_needed:
        return Outcome(change)
    backup = back_up(change.file, utc_now)
    failure = own_commands.run(change.words) if change.words else None
    rest = plan() if change.words else change
    if rest.is_needed:
        replace(rest.file, rest.after)
    return Outcome(change, backup, failure)


def render_snippet(host: Host, entry: Entry) -> str:
    """Return a whole file of a host with nothing but our entry in it."""
    return _edit(host, "", host.form.write(entry, {}))


def _edit(host: Host, text: str, value: Mapping[str, Any] | None) -> str:
    return edit(text, host.file_format, [host.root, ENTRY_NAME], value)


def _read_value(host: Host, file: HostFile) -> object:
    return find_entry(file.text, host.file_format, [host.root, ENTRY_NAME])


def _read_own(host: Host, file: HostFile) -> Mapping[str, Any] | None:
    """Return our entry, None if there is none.

    Raises:
        NotOurs: If it is that of another program.
        ValueError: If the file does not parse.
    """
    value = _read_value(host, file)
    if value is None:
        return None
    entry = host.form.read(value)
    if entry is None or not entry.is_ours or not isinstance(value, dict):
        raise NotOurs(f"has an entry `{ENTRY_NAME}` that starts something else: rename or remove that first")
    return cast(Mapping[str, Any], value)
