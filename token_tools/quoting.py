"""Text that somebody else wrote, made visible as data.

Names, error descriptions and whatever else comes out of a cluster are read by a model and by people. Between double
quotes, on one line, with nothing invisible in it and of bounded length, such text cannot pass for a sentence of ours;
and what repeats something of a secret is not told at all.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from token_tools.redaction import (
    MAX_SEARCHED_CHARS,
    WITHHELD_KNOWN,
    WITHHELD_LIKELY,
    has_known_secret,
    has_likely_secret,
    redact_bearers,
)

MAX_ANSWER_CHARS: Final = 25_000
"""Characters that no text that leaves may reach; hosts cut or refuse what is longer."""

TRUNCATION_NOTICE: Final = " … (cut here: the whole was too long for an answer)"

MAX_ITEMS_SHOWN: Final = 3
"""How many of many are told."""

_INVISIBLE: Final = re.compile(
    # Default_Ignorable_Code_Point, and last the symbols that are blank. Source: DerivedCoreProperties.txt, Unicode 16.
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800\U0001d159\U00016fe4]"
)
_MARK_CATEGORIES: Final = {"Mn", "Mc", "Me"}


def quote_untrusted(text: str, *, max_chars: int) -> str:
    """A JSON string with everything escaped that cannot be seen, cut after `max_chars` characters of the text.

    `json.loads` gives the text back if it was not cut, and had nothing of a secret in it or of what looks like one.
    """
    # What is not shown need not be searched: a list may have hundreds of long names.
    head = text[: min(2 * max_chars, MAX_SEARCHED_CHARS)]
    known = redact_bearers(head)
    if has_known_secret(head):
        return f'"{WITHHELD_KNOWN}"'
    if has_likely_secret(known):
        return f'"{WITHHELD_LIKELY}"'
    shown = known if len(known) <= max_chars and len(head) == len(text) else f"{known[: max_chars - 1]}…"
    quoted = json.dumps(shown, ensure_ascii=False)
    return quoted if quoted.isascii() and quoted.isprintable() else _escape_invisible(quoted)


def truncate(text: str) -> str:
    """A text within bounds; it says so where it is cut."""
    return (
        text
        if len(text) < MAX_ANSWER_CHARS
        else f"{text[: MAX_ANSWER_CHARS - len(TRUNCATION_NOTICE) - 1]}{TRUNCATION_NOTICE}"
    )


def render_first_items(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, c and 2,997 more`."""
    more = [f"{len(texts) - MAX_ITEMS_SHOWN:,} more"] if len(texts) > MAX_ITEMS_SHOWN else []
    *others, last = [*texts[:MAX_ITEMS_SHOWN], *more]
    return f"{', '.join(others)} and {last}" if others else last


def has_secret(text: str) -> bool:
    """Whether a text must not be quoted: it repeats a secret that this process has held, or looks like another."""
    return has_known_secret(text) or has_likely_secret(text)


def has_one_script(text: str) -> bool:
    """Whether all letters are of one alphabet, so that none of them passes for one of another."""
    return text.isascii() or len({unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha()}) <= 1


def is_visible(text: str) -> bool:
    """Whether each character can be seen as what it is."""
    return (text.isascii() and text.isprintable()) or _escape_invisible(text) == text


def _escape_invisible(text: str) -> str:
    before = " " + text
    return "".join(
        char if _is_visible_after(char, after) else json.dumps(char)[1:-1]
        for char, after in zip(text, before, strict=False)
    )


def _is_visible_after(char: str, previous: str) -> bool:
    """Whether a character can be seen where it stands: a mark only on a letter or on another mark."""
    is_on_nothing = unicodedata.category(char) in _MARK_CATEGORIES and not (
        previous.isalpha() or unicodedata.category(previous) in _MARK_CATEGORIES
    )
    return char.isprintable() and not _INVISIBLE.match(char) and not is_on_nothing
