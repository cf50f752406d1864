"""What the arguments of the tools may look like, and what to write instead of something else."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import ErrorDetails

from token_tools.cluster.identity import parse_user, propose_user
from token_tools.operations.export_file import ExportFormat
from token_tools.operations.selection import SelectedState
from token_tools.operations.user_lookup import User
from token_tools.quoting import has_secret
from token_tools.times import parse_duration, propose_expiry, propose_units

JsonSchema = dict[str, Any]
"""A JSON schema."""

MAX_ARGUMENT_CHARS: Final = 4_096
"""Characters of an argument; no pattern sees a longer one."""

_ID_PATTERN: Final = r"^[0-9]{1,64}$"

# Patterns are published for hosts. Some refuse a call that does not match before it gets here, and some let a model
# write nothing else. So each pattern takes all that is taken here, but for marks around an id, and "" where an argument
# may be absent. Each begins with ^, ends with $, and has neither a lookahead nor a class such as \d: some hosts refuse
# those.
_DIGITS: Final = WithJsonSchema({"type": "string", "pattern": "^[0-9]+$"})
_DIGITS_OR_EMPTY: Final = WithJsonSchema({"type": "string", "pattern": "^[0-9]*$"})
NO_BARE_NUMBER: Final = WithJsonSchema({"type": "string", "pattern": "^.*[^0-9].*$"})
"""What is published of a text that is no number alone, since a number would say neither its unit nor whose it is."""
NO_BARE_NUMBER_OR_EMPTY: Final = WithJsonSchema({"type": "string", "pattern": "^(.*[^0-9].*)?$"})
"""What is published of such a text that may be absent, for models that have to write every argument."""

_TOKEN_ID: Final = re.compile(r"[0-9]{21,}")
"""An id of a token: longer than every number of a user."""

_DECORATED_ID: Final = re.compile(
    # No two of these parts can match the same text, so there is no backtracking.
    r"(?:access[ _-]?)?(?:token[ _-]?)?(?:id)?[\s:=#\"'`\[]{0,4}([0-9]{1,64})[\s\"'`\]]{0,4}[.,;]?",
    re.ASCII | re.IGNORECASE,
)
_GROUPED_ID: Final = re.compile(r"[0-9]{1,3}([, _'\u2019\u00a0\u202f])[0-9]{3}(?:\1[0-9]{3}){4,20}")
_SHORTENED_ID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+|(?=.*[0-9])[0-9]*(?:\u2026|\.{2,3}|\*)[0-9]*")
_SEVERAL_IDS: Final = re.compile(
    r"[\s\[\"']*[0-9]{2,64}(?:[\s\[\]\"',;&/]|and)+[0-9]{2,64}(?:[\s\[\]\"',;&/]|and|[0-9])*"
)
_NULL_WORDS: Final = ("null", "none", "None", "undefined")
"""What models write instead of JSON's null."""

_MISTAKE_TEXTS: Final = {
    "string_pattern_mismatch": (
        "the digits of a token, about 22 of them, and nothing else; of a user, list_access_tokens(user=…) tells the "
        "ids of the tokens."
    ),
    "too_long": f"no longer than {MAX_ARGUMENT_CHARS:,} characters.",
}
"""What an argument must be, by the kind of mistake that says so."""


def _validate_duration(text: str) -> str:
    parse_duration(text)
    return text


def _coerce_id(text: object) -> object:
    """Return the digits of an id that is written as models and our own answers write it; anything else as it is.

    Raises:
        ValueError: If it resembles an id. The text says what to write, and repeats nothing but an id.
    """
    if not isinstance(text, str):
        return text
    stripped = text.strip()
    if written := _DECORATED_ID.fullmatch(stripped):
        return written[1]
    if _GROUPED_ID.fullmatch(stripped) and not has_secret(stripped):
        raise ValueError(f"has marks between its digits: write {re.sub('[^0-9]', '', stripped)}")
    if _SHORTENED_ID.fullmatch(stripped):
        raise ValueError("does not have all digits of an id: list_access_tokens tells them")
    if _SEVERAL_IDS.fullmatch(stripped):
        raise ValueError("has several numbers: make one call for each token, with all digits of its id alone")
    if has_secret(stripped):
        raise ValueError(
            "is a bearer token, or looks like one: list_access_tokens tells the ids, which are digits alone"
        )
    return stripped


def _coerce_user(spelling: object) -> object:
    if isinstance(spelling, str) and _TOKEN_ID.fullmatch(spelling.strip()):
        raise ValueError("is the id of a token, not a user: get_access_token tells whose it is")
    return parse_user(spelling)


def _coerce_choice(word: object) -> object:
    return word.strip().lower() if isinstance(word, str) else word


UserArgument = Annotated[User, BeforeValidator(_coerce_user), WithJsonSchema({"type": "string"})]
OptionalIdArgument = Annotated[str, Field(pattern=_ID_PATTERN), BeforeValidator(_coerce_id), _DIGITS_OR_EMPTY]
IdArgument = Annotated[
    str,
    Field(pattern=_ID_PATTERN, description="Digits, from list_access_tokens."),
    BeforeValidator(_coerce_id),
    _DIGITS,
]
DurationArgument = Annotated[str, AfterValidator(_validate_duration)]
StateArgument = Annotated[Literal[SelectedState, "any"], BeforeValidator(_coerce_choice)]
"""A client that has to send each argument sends the last of the words."""
FormatArgument = Annotated[ExportFormat, BeforeValidator(_coerce_choice)]


def render_mistake(name: str, mistake: ErrorDetails, schema: JsonSchema) -> str:
    """Render what an argument must be that is missing, or is not what its schema says."""
    match mistake:
        case {"type": "missing"}:
            return f"`{name}` is missing. {schema['description']}"
        case {"type": kind} if kind in _MISTAKE_TEXTS:
            return f"`{name}` must be {_MISTAKE_TEXTS[kind]}"
        case {"input": given} if schema["type"] == "string" and "enum" not in schema and not isinstance(given, str):
            return f"`{name}` must be {_render_text_rule(name, given, schema)}"
        case {"type": "value_error", "ctx": {"error": error}}:
            return f"`{name}` {error}."
        case _:
            absent = ", or be left out" if mistake["input"] in _NULL_WORDS else ""
            return f"`{name}` must be {_render_type(schema)}{absent}."


def _render_text_rule(name: str, given: object, schema: JsonSchema) -> str:
    """Render which text to write instead of a value that is no text.

    A number is probably the right value in the wrong form, so the text to write is made from it.
    """
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    match name:
        case "expiration_time" if is_number:
            rule = f"text with a unit: write {propose_expiry(str(given))}."
        case "expiring_within" | "since" if is_number:
            rule = f"text with a unit: write {propose_units(str(given))}."
        case "user":
            rule = f"text. Write {propose_user(given)}."
        case "id" if is_number:
            rule = (
                "text: write its digits in quotes, as list_access_tokens tells them; long JSON numbers may be inexact."
            )
        case "id" if isinstance(given, list):
            rule = "text: the digits of one token. Make one call for each."
        case "after":
            rule = "the `after` of the previous answer, as it stands there; leave it out for the first page."
        case _:
            rule = f"text. {schema['description']}"
    return rule


def _render_type(schema: JsonSchema) -> str:
    match schema:
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"a whole number from {low} to {high}"
        case {"enum": [*others, last]}:
            return f"{', '.join(others)} or {last}"
        case _:
            return "true or false, as JSON writes them"
