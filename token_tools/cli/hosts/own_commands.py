"""The commands by which some hosts add and remove an entry by themselves.

Every user of the machine can see what they are given, and entries have no secrets.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from token_tools.cli.hosts.catalogue import Host, Scope
from token_tools.cli.hosts.entries import ENTRY_NAME, Entry
from token_tools.quoting import quote_untrusted

TIMEOUT_SECONDS: Final = 60.0
_MAX_REASON_CHARS: Final = 200


class _Words(NamedTuple):
    """What stands behind a host's program to add and to remove an entry, in the scopes for which it can.

    VS Code cannot remove what it has added.
    """

    scopes: frozenset[Scope]
    add: Callable[[Host, Scope, Entry], Sequence[str]]
    remove: Callable[[Scope], Sequence[str]] | None


def list_add_words(host: Host, scope: Scope, entry: Entry) -> Sequence[str] | None:
    """Return the command by which a host adds an entry, None if it has none here."""
    words, program = _find_words(host, scope)
    return None if words is None else [program, *words.add(host, scope, entry)]


def list_removal_words(host: Host, scope: Scope) -> Sequence[str] | None:
    """Return the command by which a host removes our entry, None if it has none here."""
    words, program = _find_words(host, scope)
    return None if words is None or words.remove is None else [program, *words.remove(scope)]


def run(words: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS) -> str | None:
    """Run a host's command, and return why it failed, None if it did not."""
    try:
        # What runs is the program that the PATH has, with the words of this module.
        ended = subprocess.run(  # noqa: S603 - no shell, and the words are ours
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it did not end within {timeout_seconds:g} seconds"
    except OSError as failure:
        return str(failure.strerror)
    if ended.returncode == 0:
        return None
    *_, last = ["", *filter(None, map(str.strip, ended.stderr.splitlines()))]
    return f"it ended with {ended.returncode}, and said {quote_untrusted(last, max_chars=_MAX_REASON_CHARS)}"


def _find_words(host: Host, scope: Scope) -> tuple[_Words | None, str]:
    words, program = _WORDS.get(host.name), host.program and shutil.which(host.program)
    return (words, program) if words and program and scope in words.scopes else (None, "")


def _add_to_claude(host: Host, scope: Scope, entry: Entry) -> Sequence[str]:
    return ["mcp", "add-json", ENTRY_NAME, json.dumps(host.form.write(entry, {})), "--scope", scope]


def _add_to_codex(_host: Host, _scope: Scope, entry: Entry) -> Sequence[str]:
    return ["mcp", "add", ENTRY_NAME, *_list_variables("--env", entry), "--", entry.command, *entry.args]


def _add_to_gemini(_host: Host, scope: Scope, entry: Entry) -> Sequence[str]:
    variables = _list_variables("--env", entry)
    return ["mcp", "add", "--scope", scope, ENTRY_NAME, entry.command, *variables, "--", *entry.args]


def _add_to_vscode(host: Host, _scope: Scope, entry: Entry) -> Sequence[str]:
    return ["--add-mcp", json.dumps({"name": ENTRY_NAME, **host.form.write(entry, {})})]


def _list_variables(option: str, entry: Entry) -> Iterator[str]:
    for name, value in entry.env.items():
        yield from (option, f"{name}={value}")


def _remove(_scope: Scope) -> Sequence[str]:
    return ["mcp", "remove", ENTRY_NAME]


def _remove_from_scope(scope: Scope) -> Sequence[str]:
    return [*_remove(scope), "--scope", scope]


_WORDS: Final[Mapping[str, _Words]] = {
    "claude-code": _Words(frozenset({"user", "project"}), _add_to_claude, _remove_from_scope),
    "codex": _Words(frozenset({"user"}), _add_to_codex, _remove),
    "copilot": _Words(frozenset({"user"}), _add_to_codex, _remove),
    "gemini": _Words(frozenset({"user", "project"}), _add_to_gemini, _remove_from_scope),
    "vscode": _Words(frozenset({"user"}), _add_to_vscode, None),
}
"""By the name of the host. Copilot's command takes the words of Codex's."""
