"""Ten questions of an administrator, and the calls that answer each: of this project and of the generated server.

Each question is asked in a conversation of its own, so a model knows nothing from earlier answers. The generated
server is used as well as possible: its `user` filter is called if it can answer the question. Every other answer is
only in the list of all tokens, which a model has to read and count through. This project's audit gives numbers and
names the worst few tokens; a question for all of them is answered by a file for the administrator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Call:
    """One call of a tool; `{user}` and `{id}` in its arguments stand for those of one of the cluster's tokens."""

    tool: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])

    def fill_arguments(self, **placeholders: str) -> dict[str, Any]:
        """Return the arguments with these values in the place of the names in braces."""
        return {name: value.format(**placeholders) for name, value in self.arguments.items()}


@dataclass(frozen=True)
class Question:
    """A question, and the call of this project that answers it.

    `user_filter` is the argument with which the generated server answers it; None means all pages of its list. With
    `in_a_file`, the whole answer is only in a file, and the conversation has the numbers and the worst few tokens.
    """

    text: str
    call: Call
    user_filter: str | None = None
    in_a_file: bool = False


LIST_TOOL: Final = "list_access_tokens"
AUDIT_TOOL: Final = "audit_access_tokens"
_AUDIT_CALL: Final = Call(AUDIT_TOOL, {"expiring_within": "30d"})
_EXPORT_CALL: Final = Call("export_access_tokens", {"format": "csv"})

QUESTIONS: Final = (
    Question("Is anything here a risk, and what is the worst of it?", _AUDIT_CALL),
    Question("How many tokens are there, and how many of them still work?", _AUDIT_CALL),
    Question("Which expire within 30 days?", _EXPORT_CALL, in_a_file=True),
    Question("How many expire this week, and which first?", Call(AUDIT_TOOL, {"expiring_within": "7d"})),
    Question("Whose never expire?", _EXPORT_CALL, in_a_file=True),
    Question("Who has two tokens, so that theirs cannot be rotated?", _EXPORT_CALL, in_a_file=True),
    Question("Are there tokens of users who are gone?", _AUDIT_CALL),
    Question("Which tokens does this user have, and do they work?", Call(LIST_TOOL, {"user": "{user}"}), "{user}"),
    Question("Who made this user's token, and when?", Call(LIST_TOOL, {"user": "{user}"}), "{user}"),
    Question("Whose is the token with this id, and when does it expire?", Call("get_access_token", {"id": "{id}"})),
)
