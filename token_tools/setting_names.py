"""Which setting does a name mean that is none? A misspelt setting that restricts something must not go unnoticed."""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

ENV_PREFIX: Final = "QUMULO_"
_WORD: Final = re.compile("[a-z0-9]+")
_MIN_SIMILARITY: Final = 0.8
"""How similar two names are, from 0 to 1, if one may be a misspelling of the other."""
_MIN_BEGINNING_CHARS: Final = 4
_MIN_WORD_CHARS: Final = 6
"""A name may mean a setting whose name begins with so many of its letters, or shares so long a word with it."""
_AMBIGUOUS_WORDS: Final = {"default"}
"""Long words that do not identify a setting: other tools of the vendor have a QUMULO_DEFAULT_USER."""
_SYNONYMS: Final[dict[str, str]] = dict.fromkeys(["ttl", "expiry", "expiration"], "lifetime") | {
    "maximum": "max",
    "nowrite": "readonly",
    "ro": "readonly",
}


def variable_name(setting: str) -> str:
    """Return the environment variable of a setting: `QUMULO_CA_FILE` for `ca_file`."""
    return ENV_PREFIX + setting.upper()


def find_nearest(variable: str, settings: Iterable[str]) -> str | None:
    """Return the setting whose variable is nearest to a name; None if the name has nothing of our prefix."""
    words = _split_words(variable)
    return max(settings, key=partial(_name_similarity, words)) if words else None


def may_mean(variable: str, setting: str) -> bool:
    """Tell whether the name of a variable may be a misspelling of that of a setting."""
    words, real = _split_words(variable), _split_words(variable_name(setting))
    joined, name = "".join(words), "".join(real)
    begins = joined.startswith(name) or (len(joined) >= _MIN_BEGINNING_CHARS and name.startswith(joined))
    shared = {*words} & {*real}
    is_named = shared == {*real} or any(len(word) >= _MIN_WORD_CHARS for word in shared - _AMBIGUOUS_WORDS)
    return begins or is_named or _name_similarity(words, setting) >= _MIN_SIMILARITY


def _split_words(variable: str) -> Sequence[str]:
    """Return the words of a variable's name after our prefix; none if it does not begin with something like it."""
    first, *rest = _WORD.findall(variable.casefold()) or [""]
    prefix = ENV_PREFIX.rstrip("_").casefold()
    if first.startswith(prefix) or len(first) > len(prefix) + 1:
        # The underscore after the prefix is missing: split where the prefix ends.
        first, rest = first[: len(prefix)], [first[len(prefix) :], *rest]
    if _similarity(first, prefix) < _MIN_SIMILARITY:
        return []
    return [str(_SYNONYMS.get(word, word)) for word in rest if word]


def _name_similarity(words: Sequence[str], setting: str) -> float:
    """Return how similar a name and a setting's name are, from 0 to 1, whatever the order of their words."""
    real = _split_words(variable_name(setting))
    return max(_similarity("".join(words), "".join(real)), _similarity("".join(sorted(words)), "".join(sorted(real))))


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
