"""Hold one answer in both channels: the text, and the same facts as fields.

Some hosts hand their model only the text of a result and others only its structured part, so each carries everything,
and each is compact.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from token_tools.quoting import MAX_ANSWER_CHARS, TRUNCATION_NOTICE, truncate


@dataclass(frozen=True)
class RenderedResult:
    """One answer in both channels."""

    text: str
    fields: BaseModel

    @cached_property
    def char_count(self) -> int:
        """How many characters the larger channel has; the fields count as JSON in its longest form."""
        return max(len(self.text), len(json.dumps(self.structured)))

    @cached_property
    def structured(self) -> dict[str, Any]:
        """The fields that have a value, as JSON values."""
        return self.fields.model_dump(mode="json", exclude_none=True)

    def truncate(self) -> tuple[str, dict[str, Any]]:
        """Return the text and the fields, both cut to `MAX_ANSWER_CHARS`, with a notice where something is cut."""
        if self.char_count < MAX_ANSWER_CHARS:
            return self.text, self.structured
        return truncate(self.text), _truncate_fields(self.structured)


def append_warning(
    text: str, structured: dict[str, Any] | None, *, field: str, warning: str
) -> tuple[str, dict[str, Any] | None]:
    """Return the text of an answer, and its fields if it has some, with a warning at their end; both still fit.

    `field` is the one that has the warnings of the answer.
    """
    warned = f"{truncate(text, max_chars=MAX_ANSWER_CHARS - len(warning) - 1)}\n{warning}"
    if structured is None:
        return warned, None
    room = MAX_ANSWER_CHARS - len(json.dumps({field: f" {warning}"}))
    kept = _truncate_fields(structured, room)
    return warned, kept | {field: join_warnings(kept.get(field), warning)}


def _truncate_fields(structured: dict[str, Any], max_chars: int = MAX_ANSWER_CHARS) -> dict[str, Any]:
    """Return the fields; the longest of them is halved until all together are short enough."""
    while len(json.dumps(structured)) >= max_chars:
        name, value = max(structured.items(), key=lambda field: len(json.dumps(field[1])))
        shorter = value[: len(value) // 2]
        structured = structured | {name: f"{shorter}{TRUNCATION_NOTICE}" if isinstance(value, str) else shorter}
    return structured


def join_warnings(*warnings: str | None) -> str | None:
    """Return the warnings that there are as one text, None if there are none."""
    return " ".join(warning for warning in warnings if warning) or None


def join_lines(lines: Iterable[str | None]) -> str:
    """Return the lines that there are as one text."""
    return "\n".join(line for line in lines if line)
