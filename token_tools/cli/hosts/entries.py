"""What a host's file says to start this server: our entry, in the form of each host.

Forms differ in the names of their keys and in what else has to stand there. An entry that a host or a person has
extended keeps what they added.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, Literal, NamedTuple, Self, cast

from token_tools.setting_names import ENV_PREFIX

ENTRY_NAME: Final = "qumulo-tokens"
PROGRAM: Final = "qumulo-token-tools"
MODULE: Final = "token_tools"
"""What `python -m` is given where the program has no script."""

CALL_TIMEOUT_SECONDS: Final = 330
"""Seconds that a host has to wait for a call: a person has 300 to answer a question, and then the change is made."""
START_TIMEOUT_SECONDS: Final = 30

_PYTHON: Final = re.compile(r"python[0-9.]*", re.ASCII)
_RUNNERS: Final = {"pipx", "uv", "uvx"}
"""The programs that start another program by the name of its package."""

_OWN_VARIABLES: Final = (ENV_PREFIX, "XDG_")


class Entry(NamedTuple):
    """How the server is started: by a command with arguments, and with variables beside those that a host passes on."""

    command: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}

    def with_more(self, args: Sequence[str], env: Mapping[str, str]) -> Self:
        """Return the entry with more arguments and variables."""
        return self._replace(args=[*self.args, *args], env={**self.env, **env})

    @property
    def is_ours(self) -> bool:
        """Tell whether the entry starts this program, wherever it is installed; a shell may start anything besides."""
        started = PurePath(self.command).name
        if _PYTHON.fullmatch(started):
            return [*self.args[:2]] == ["-m", MODULE]
        return started == PROGRAM or (started in _RUNNERS and PROGRAM in self.args)


class Form(NamedTuple):
    """How a host writes an entry: the names of the keys, and what has the same value in each entry.

    In the `list` style the arguments stand behind the command in one list.
    """

    command: str = "command"
    args: str = "args"
    env: str = "env"
    style: Literal["text", "list"] = "text"
    constants: Mapping[str, Any] = {}

    def write(self, entry: Entry, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry for a host, with everything of the old one that the new one does not decide."""
        kept = {name: value for name, value in _as_mapping(old.get(self.env)).items() if not _is_own(name)}
        started = (
            {self.command: [entry.command, *entry.args]}
            if self.style == "list"
            else {self.command: entry.command, self.args: [*entry.args]}
        )
        return {**old, **self.constants, **started, self.env: {**kept, **entry.env}}

    def read(self, value: object) -> Entry | None:
        """Return the entry that a host's file has, None if it starts no command."""
        fields = _as_mapping(value)
        given = fields.get(self.command)
        words = [given, *_as_list(fields.get(self.args))] if self.style == "text" else _as_list(given)
        if not words or not all(isinstance(word, str) for word in words):
            return None
        command, *args = cast(list[str], words)
        env = {name: str(value) for name, value in _as_mapping(fields.get(self.env)).items()}
        return Entry(command, args, env)

    def with_constants(self, **constants: object) -> Self:
        """Return the form with more that is in each entry."""
        return self._replace(constants={**self.constants, **constants})


def _as_mapping(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _as_list(value: object) -> list[Any]:
    return list(cast(Sequence[Any], value)) if isinstance(value, list) else []


def _is_own(variable: str) -> bool:
    return variable.startswith(_OWN_VARIABLES)
