"""Every secret that this process has held, and whether a text repeats something of one.

Whatever quotes a text that somebody else wrote asks here first. Texts repeat what they are about: whole, cut, split,
escaped or encoded by whatever they went through. To take a secret out of such a text one would have to know all of
these; to see that there is something of it is easier, and then the whole text is withheld.

What is held are hashes of eight characters each, never a secret.
"""

import base64
import codecs
import html
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import AnyStr, Final
from urllib.parse import unquote

from pydantic import SecretStr

RUN: Final = 8
"""Characters or bytes in a row that are something of a secret; fewer may be chance."""

MAX_SEARCHED: Final = 4096
"""Characters of a text that are searched; what quotes a text quotes fewer. A longer text counts as a repetition."""

MAX_HELD: Final = 256
"""Secrets that are remembered; the one that was used least recently is forgotten first."""

WITHHELD: Final = "[withheld: it repeats something of a secret]"
WITHHELD_TOO: Final = "[withheld: it looks like a secret]"

_LAYERS: Final = 3
_FORMS: Final = 200
"""How many readings of one text are looked at."""
_DISTINCT: Final = 5
"""Different characters among eight; `00000000` tells nothing."""

_TOKEN: Final = re.compile(r"\b((?:access|session)-v\d{1,3})\s{0,3}:\s{0,3}[A-Za-z0-9+/=_-]*", re.IGNORECASE)
_AFTER_BEARER: Final = re.compile(r"\b((?i:bearer))\s{1,9}(?![A-Za-z]?[a-z]{0,20}[.,;:!?)]{0,3}(?:\s|\Z))\S+")
"""Not what is followed by a plain word, as in `Bearer authentication is required`."""
_SENTENCE_END: Final = re.compile(r"((?<=[.:;!?])\s+|[\r\n]+)")
_WORD: Final = re.compile(r"[A-Za-z0-9+/]{20,}")
_SHORTEST_RANDOM: Final = 20
_LEAST_OF_EACH: Final = {str.isdecimal: 2, str.isupper: 4, str.islower: 4}
"""How many digits, capitals and small letters a long word has that was not written by a person."""
_OF_A_KIND: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
_SPOKEN: Final = re.compile(r"[a-z]{3,}")
_LEAST_SPOKEN: Final = 0.35
_MOST_CHANGES: Final = 0.5
"""How much of `BackupServiceAccountEU01` is small letters in a row, and how often, for its length, the kind changes."""

_ESCAPE: Final = re.compile(
    r"(?<!\\)\\++(?:x([0-9a-f]{2})|u\{?([0-9a-f]{4,6})\}?|U([0-9a-f]{8}))|=([0-9a-f]{2})|%u([0-9a-f]{4})|U\+([0-9a-f]{4,6})",
    re.IGNORECASE,
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{11,}")
_BASE32: Final = re.compile(r"[A-Z2-7]{16,}", re.IGNORECASE)
_HEX: Final = re.compile(r"[0-9a-f]{2}(?:[^0-9a-z]{0,2}(?:0x)?[0-9a-f]{2}){7,}", re.IGNORECASE)
_CODES: Final = re.compile(r"\d{2,3}(?:\D{1,3}\d{2,3}){7,}")
_BITS: Final = re.compile(r"[01]{8}(?:[^01]{0,2}[01]{8}){7,}")
_MOST_PARTS: Final = 4
"""Characters that one stands for; some of Arabic stand for eighteen."""
_NO_INK: Final = {"Cc", "Cf", "Cn", "Co", "Cs", "Me", "Mn", "Zl", "Zp"}


class _Held:
    """The hashes of what was held, the oldest secret first, and of what is held for good."""

    def __init__(self) -> None:
        self.runs: set[int] = set()
        self._kept: set[int] = set()
        self._order: deque[frozenset[int]] = deque()

    def keep(self, runs: frozenset[int]) -> None:
        """Remember one secret for good."""
        self._kept |= runs
        self.add(runs)

    def add(self, runs: frozenset[int]) -> None:
        """Remember one secret; of equal ones the time of the last."""
        if runs in self._order:
            self._order.remove(runs)
        self._order.append(runs)
        self.runs |= runs
        if len(self._order) > MAX_HELD:
            self._order.popleft()
            # Another may have a part of it too.
            self.runs = self._kept.union(*self._order)
        _repeats.cache_clear()


_HELD: Final = _Held()


def hold(secret: SecretStr) -> None:
    """From now on, no text that repeats something of this is quoted."""
    _HELD.add(_hash_secret(secret.get_secret_value()))


def hold_for_good(secret: SecretStr) -> None:
    """The same for what this process works with, however many others come after it."""
    _HELD.keep(_hash_secret(secret.get_secret_value()))


def repeats_secret(text: str) -> bool:
    """Whether a text has eight characters in a row of a secret that was held, in whatever way they are written."""
    return _repeats(text) if len(text) <= MAX_SEARCHED else True


def looks_secret(text: str) -> bool:
    """Whether a text has something in it that looks like a bearer token, whoever's it is."""
    return names_token(text) or any(map(_is_random, _split_words(text)))


def names_token(text: str) -> bool:
    """Whether a text has something in it that says itself that it is a bearer token."""
    return bool(_TOKEN.search(text))


def mask_bearers(text: str) -> str:
    """A text of somebody else's without what the words before it say to be a bearer token."""
    return _AFTER_BEARER.sub(r"\1 [redacted]", _mask_tokens(text))


def _mask_tokens(text: str) -> str:
    return _TOKEN.sub(r"\1 [redacted]", text)


def redact(text: str) -> str:
    """The text as it may leave: line by line, those withheld that repeat a secret, and what looks like one cut out."""
    return "".join(_redact_line(line) for line in text.splitlines(keepends=True))


def _redact_line(line: str) -> str:
    # What is longer is searched in parts that overlap by what could be cut through.
    step = MAX_SEARCHED // 2
    if any(_repeats(line[start : start + MAX_SEARCHED]) for start in range(0, len(line), step)):
        return _redact_sentences(line)
    return _mask_tokens(line)


def _redact_sentences(line: str) -> str:
    """The line without the sentences that repeat a secret, so that what else it says is not lost."""
    told = "".join(WITHHELD if repeats_secret(part) else part for part in _SENTENCE_END.split(line))
    return _mask_tokens(told) if not repeats_secret(told) else WITHHELD + line[len(line.rstrip("\r\n")) :]


def _split_words(text: str) -> Iterator[str]:
    """What may be in base64, and its parts between slashes, which may be folders as well."""
    for word in _WORD.findall(text):
        yield from {word, *word.split("/")}


def _is_random(word: str) -> bool:
    is_mixed = all(sum(map(kind, word)) >= least for kind, least in _LEAST_OF_EACH.items())
    return is_mixed and len(word) >= _SHORTEST_RANDOM and not _is_written_together(word)


def _is_written_together(word: str) -> bool:
    """Whether it is words without blanks between them, such as people call service accounts and folders."""
    spoken = sum(map(len, _SPOKEN.findall(word)))
    return spoken >= _LEAST_SPOKEN * len(word) and len(_OF_A_KIND.findall(word)) <= _MOST_CHANGES * len(word)


@lru_cache(maxsize=4096)
def _repeats(text: str) -> bool:
    return len(text) >= RUN and any(not _HELD.runs.isdisjoint(_hash_runs(form)) for form in _read_in_every_way(text))


def _hash_secret(secret: str) -> frozenset[int]:
    own = secret.rpartition(":")[2]
    # What is plain words when it is decoded would be found in every sentence.
    decoded = [whole for whole in _decode_base64(own) if not whole.isascii()]
    return frozenset(_hash_runs(own)) | {hash(run) for whole in decoded for run in _cut(whole)}


def _hash_runs(form: str | bytes) -> set[int]:
    """The runs of bytes as they are, and of a text also in small letters, with its punctuation and without."""
    if isinstance(form, bytes):
        return {hash(run) for run in _cut(form)}
    plain = (form if form.isascii() else "".join(map(_simplify, form))).casefold()
    texts = {hash(run) for text in {plain, "".join(filter(str.isalnum, plain))} for run in _cut(text)}
    return texts.union(*map(_hash_runs, {form.encode(encoding, errors="replace") for encoding in ("latin-1", "utf-8")}))


@lru_cache(maxsize=4096)
def _simplify(char: str) -> str:
    """What a character stands for, without what has no ink; nothing where that is a phrase of another script."""
    parts = unicodedata.normalize("NFKD", char)
    return "" if len(parts) > _MOST_PARTS else "".join(p for p in parts if unicodedata.category(p) not in _NO_INK)


def _cut(text: AnyStr) -> Iterator[AnyStr]:
    runs = (text[start : start + RUN] for start in range(len(text) - RUN + 1))
    return (run for run in runs if len(set(run)) >= _DISTINCT)


def _read_in_every_way(text: str) -> Iterator[str | bytes]:
    """The text, and what it is the escaped or encoded form of, layer by layer."""
    seen: dict[str | bytes, None] = {text: None}
    layer: list[str | bytes] = [text]
    for _ in range(_LAYERS):
        yield from layer
        following = [form for known in layer if isinstance(known, str) for form in _decode(known) if len(form) >= RUN]
        layer = [*dict.fromkeys(form for form in following if form not in seen)][: max(_FORMS - len(seen), 0)]
        seen |= dict.fromkeys(layer)
    yield from layer
    yield from (codecs.encode(text, "rot13"), text[::-1])


def _decode(text: str) -> Iterator[str | bytes]:
    plain = _OCTAL.sub(lambda match: chr(int(match[1], base=8)), html.unescape(unquote(text)))
    yield _ESCAPE.sub(lambda match: _read_code(next(filter(None, match.groups())), base=16), plain)
    for codes in _CODES.findall(text):
        yield "".join(_read_code(code, base=10) for code in re.findall(r"\d+", codes))
    for bits in _BITS.findall(text):
        yield "".join(_read_code(code, base=2) for code in re.findall(r"[01]{8}", bits))
    # Only what is text may be encoded once more.
    yield from (decoded.decode() if decoded.isascii() else decoded for decoded in _decode_words(text))


def _decode_words(text: str) -> Iterator[bytes]:
    for word in _BASE64.findall(text):
        for start in range(4):
            yield from _decode_base64(word[start:])
    for word in _BASE32.findall(text):
        yield from _decode_base32(word)
    for digits in _HEX.findall(text):
        pairs = re.sub(r"0x|[^0-9a-f]", "", digits, flags=re.IGNORECASE)
        yield bytes.fromhex(pairs[: len(pairs) // 2 * 2])


def _read_code(digits: str, *, base: int) -> str:
    code = int(digits, base=base)
    return chr(code) if code <= sys.maxunicode else ""


def _decode_base64(text: str) -> Iterator[bytes]:
    letters = text.rstrip("=").replace("-", "+").replace("_", "/")
    whole = letters[: len(letters) - (len(letters) % 4 == 1)]
    with suppress(ValueError):
        yield base64.b64decode(whole + "=" * (-len(whole) % 4), validate=True)


def _decode_base32(word: str) -> Iterator[bytes]:
    with suppress(ValueError):
        yield base64.b32decode(word[: len(word) // 8 * 8], casefold=True)
