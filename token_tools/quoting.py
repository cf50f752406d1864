"""How is text quoted that somebody else wrote? As visible, bounded data.

Names, error descriptions and other texts of a cluster are read by a model and by people. Such a text must not look like
a sentence of ours, so it is put between double quotes, on one line, cut to a maximum length, and with its invisible
characters escaped. A text that repeats a part of a secret is withheld.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from token_tools.redaction import (
    WITHHELD_KNOWN,
    WITHHELD_LIKELY,
    has_known_secret,
    has_likely_secret,
    redact_bearers,
)

MAX_ANSWER_CHARS: Final = 25_000
"""Every answer is shorter than this; MCP hosts cut or refuse longer ones."""

TRUNCATION_NOTICE: Final = " … (cut here: the whole was too long for an answer)"

MAX_ITEMS_SHOWN: Final = 3
"""How many items of a longer list are shown."""

_INVISIBLE: Final = re.compile(
    # Default_Ignorable_Code_Point, then symbols that look blank. Source: DerivedCoreProperties.txt, Unicode 16.
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800\U0001d159\U00016fe4]"
)
_MARK_CATEGORIES: Final = {"Mn", "Mc", "Me"}


def quote_untrusted(text: str, *, max_chars: int) -> str:
    """Return a text as a JSON string of at most `max_chars` characters, with invisible characters escaped.

    `json.loads` of the result is the text, unless something was cut or redacted.
    """
    # Search only the part that can be shown, because a list may have hundreds of long names.
    head = text[: 2 * max_chars]
    redacted = redact_bearers(head)
    if has_known_secret(head):
        return f'"{WITHHELD_KNOWN}"'
    if has_likely_secret(redacted):
        return f'"{WITHHELD_LIKELY}"'
    shown = redacted if len(redacted) <= max_chars and len(head) == len(text) else f"{redacted[: max_chars - 1]}…"
    quoted = json.dumps(shown, ensure_ascii=False)
    return quoted if quoted.isascii() and quoted.isprintable() else _escape_invisible(quoted)


def truncate(text: str, *, max_chars: int = MAX_ANSWER_CHARS) -> str:
    """Return a text that is shorter than an answer may be; a notice at its end says if it was cut."""
    return text if len(text) < max_chars else f"{text[: max_chars - len(TRUNCATION_NOTICE) - 1]}{TRUNCATION_NOTICE}"


def render_first_items(texts: Sequence[str]) -> str:
    """Return the first items as one text: `a`, `a and b`, `a, b, c and 2,997 more`."""
    more = [f"{len(texts) - MAX_ITEMS_SHOWN:,} more"] if len(texts) > MAX_ITEMS_SHOWN else []
    *others, last = [*texts[:MAX_ITEMS_SHOWN], *more]
    return f"{', '.join(others)} and {last}" if others else last


def has_secret(text: str) -> bool:
    """Tell whether a text must not be quoted: it repeats a secret that this process has held, or looks like one."""
    return has_known_secret(text) or has_likely_secret(text)


def has_one_script(text: str) -> bool:
    """Tell whether all letters belong to one alphabet, so that no Cyrillic a can pass for a Latin one."""
    return text.isascii() or len({unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha()}) <= 1


def is_visible(text: str) -> bool:
    """Tell whether every character of a text is visible."""
    return (text.isascii() and text.isprintable()) or _escape_invisible(text) == text


def _escape_invisible(text: str) -> str:
    return "".join(
        char if _is_visible_after(char, previous) else json.dumps(char)[1:-1] for previous, char in pairwise(f" {text}")
    )


def _is_visible_after(char: str, previous: str) -> bool:
    """Tell whether a character is visible where it stands. A mark needs a letter or another mark before it."""
    is_mark_on_nothing = unicodedata.category(char) in _MARK_CATEGORIES and not (
        previous.isalpha() or unicodedata.category(previous) in _MARK_CATEGORIES
    )
    return char.isprintable() and not _INVISIBLE.match(char) and not is_mark_on_nothing
