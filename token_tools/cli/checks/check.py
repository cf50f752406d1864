"""One check, and how it is told to people and to programs."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from token_tools.cli.terminal import Colour, colour
from token_tools.config_file import name_table_keys
from token_tools.configuration import Profile
from token_tools.errors import TokenToolsError
from token_tools.server.app import SERVER_NAME

Outcome = Literal["ok", "warning", "failed", "skipped"]
_NAME_COLUMNS: Final = 12
_OUTCOME_COLUMNS: Final = 8
_NAMED_MEND: Final = "mend what this line names, and start this again"
_COLOURS: Final[Mapping[Outcome, Colour]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bold"}


@dataclass(frozen=True)
class Check:
    """What was found: `text` says what is the case, `mend` what a person has to do, None if nothing.

    `details` are lines of their own. `cluster` is the one that the check is about, where there are several.
    """

    name: str
    outcome: Outcome
    text: str
    mend: str | None = None
    details: Sequence[str] = ()
    cluster: str | None = None

    @property
    def has_to_be_mended(self) -> bool:
        """Tell whether somebody has to do something."""
        return self.outcome in {"warning", "failed"}

    def about(self, profile: Profile) -> "Check":
        """Return the check as one of a cluster, with its settings called as its operator calls them."""
        text = name_table_keys(self.text, profile.table)
        mend = self.mend and name_table_keys(self.mend, profile.table)
        return replace(self, text=text, mend=mend, cluster=profile.name)

    def render(self) -> Iterator[str]:
        """Yield the lines for people: what was found, its details, and what mends it."""
        indent = " " * (_OUTCOME_COLUMNS + _NAME_COLUMNS)
        outcome = colour(self.outcome.ljust(_OUTCOME_COLUMNS), _COLOURS[self.outcome])
        yield f"{outcome}{self.name.ljust(_NAME_COLUMNS)}{self.text}"
        yield from (f"{indent}  {detail}" for detail in self.details)
        if self.mend is not None:
            yield f"{indent}→ {self.mend}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields that say something."""
        fields = {
            "cluster": self.cluster,
            "name": self.name,
            "outcome": self.outcome,
            "text": self.text,
            "details": [*self.details],
            "mend": self.mend,
        }
        return {name: value for name, value in fields.items() if value}


def report_failure(name: str, failure: TokenToolsError) -> Check:
    """Return the check that found a failure: its first sentence says what is the case, the others what mends it."""
    what, _, mend = str(failure).partition(". ")
    return Check(name, "failed", what.removesuffix("."), f"{mend} {failure.advice}".strip() or _NAMED_MEND)


def render_command(command: str, profile: Profile) -> str:
    """Return a command of this program for one cluster, as it is written in a shell."""
    words = [SERVER_NAME, command]
    if profile.table is not None:
        words += ["--cluster", profile.table]
    else:
        words += ["--host", profile.settings.host, "--port", str(profile.settings.port)]
    return shlex.join(words)


def find_first_sentence(failure: Exception) -> str:
    """Return what happened, without what a check says in its own words: what mends it."""
    return str(failure).partition(". ")[0]
