"""Ten questions of an administrator, and the calls that answer each: with this project, and with the generated server.

Each question is asked in a conversation of its own, so nothing that an earlier answer said is at hand. The generated
server is used as well as it can be: where its `user` filter answers a question, that is what is called; everything else
is only in the list of all tokens, which a model has to read and to count through. The audit answers with how many, and
names the worst few; where all of them are asked for, it writes them into a file for the administrator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Call:
    """One call of a tool; `{user}` and `{id}` in its arguments stand for a token's of the cluster."""

    tool: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])

    def fill_arguments(self, **placeholders: str) -> dict[str, Any]:
        """The arguments for a certain token."""
        return {name: value.format(**placeholders) for name, value in self.arguments.items()}


@dataclass(frozen=True)
class Question:
    """What is asked, what is called, and how the generated server is asked for one user; None reads all pages.

    The answer to some is `in_a_file`, all but how many there are and the worst few.
    """

    text: str
    call: Call
    user_filter: str | None = None
    in_a_file: bool = False


AUDIT_TOOL: Final = "audit_access_tokens"
_AUDIT_CALL: Final = Call(AUDIT_TOOL, {"expiring_within": "30d"})
_REPORT_CALL: Final = Call(AUDIT_TOOL, {"expiring_within": "30d", "report": "csv"})

QUESTIONS: Final = (
    Question("Is anything here a risk, and what is the worst of it?", _AUDIT_CALL),
    Question("How many tokens are there, and how many of them still work?", _AUDIT_CALL),
    Question("Which expire within 30 days?", _REPORT_CALL, in_a_file=True),
    Question("How many expire this week, and which first?", Call(AUDIT_TOOL, {"expiring_within": "7d"})),
    Question("Whose never expire?", _REPORT_CALL, in_a_file=True),
    Question("Who has two tokens, so that theirs cannot be rotated?", _REPORT_CALL, in_a_file=True),
    Question("Are there tokens of users who are gone?", _AUDIT_CALL),
    Question(
        "Which tokens does this user have, and do they work?", Call("list_access_tokens", {"user": "{user}"}), "{user}"
    ),
    Question("Who made this user's token, and when?", Call("list_access_tokens", {"user": "{user}"}), "{user}"),
    Question("Whose is the token with this id, and when does it expire?", Call("get_access_token", {"id": "{id}"})),
)
