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

MIN_MATCH_CHARS: Final = 8
"""Characters or bytes in a row that are something of a secret; fewer may be chance."""

MAX_SEARCHED_CHARS: Final = 4096
"""Characters of a text that are searched; what quotes a text quotes fewer. A longer text counts as a repetition."""

MAX_REMEMBERED_SECRETS: Final = 256
"""Secrets that are remembered; the one that was used least recently is forgotten first."""

WITHHELD_KNOWN: Final = "[withheld: it repeats something of a secret]"
WITHHELD_LIKELY: Final = "[withheld: it looks like a secret]"

_MAX_LAYERS: Final = 3
_MAX_FORMS: Final = 200
"""How many readings of one text are looked at."""
_MIN_DISTINCT_CHARS: Final = 5
"""Different characters among eight; `00000000` tells nothing."""

_LABELLED_TOKEN: Final = re.compile(r"\b((?:access|session)-v\d{1,3})\s{0,3}:\s{0,3}[A-Za-z0-9+/=_-]*", re.IGNORECASE)
_AFTER_BEARER: Final = re.compile(r"\b((?i:bearer))\s{1,9}(?![A-Za-z]?[a-z]{0,20}[.,;:!?)]{0,3}(?:\s|\Z))\S+")
"""Not what is followed by a plain word, as in `Bearer authentication is required`."""
_SENTENCE_END: Final = re.compile(r"((?<=[.:;!?])\s+|[\r\n]+)")
_LONG_WORD: Final = re.compile(r"[A-Za-z0-9+/]{20,}")
_MIN_RANDOM_CHARS: Final = 20
_MIN_CHARS_BY_KIND: Final = {str.isdecimal: 2, str.isupper: 4, str.islower: 4}
"""How many digits, capitals and small letters a long word has that was not written by a person."""
_SAME_KIND_RUN: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
_LOWERCASE_RUN: Final = re.compile(r"[a-z]{3,}")
_MIN_LOWERCASE_SHARE: Final = 0.35
_MAX_KIND_CHANGES_SHARE: Final = 0.5
"""How much of `BackupServiceAccountEU01` is small letters in a row, and how often, for its length, the kind changes."""

_ESCAPE: Final = re.compile(
    r"(?<!\\)\\++(?:x([0-9a-f]{2})|u\{?([0-9a-f]{4,6})\}?|U([0-9a-f]{8}))|=([0-9a-f]{2})|%u([0-9a-f]{4})|U\+([0-9a-f]{4,6})",
    re.IGNORECASE,
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{11,}")
_BASE32: Final = re.compile(r"[A-Z2-7]{16,}", re.IGNORECASE)
_HEX: Final = re.compile(r"[0-9a-f]{2}(?:[^0-9a-z]{0,2}(?:0x)?[0-9a-f]{2}){7,}", re.IGNORECASE)
_CHAR_CODES: Final = re.compile(r"\d{2,3}(?:\D{1,3}\d{2,3}){7,}")
_BITS: Final = re.compile(r"[01]{8}(?:[^01]{0,2}[01]{8}){7,}")
_MAX_DECOMPOSED_CHARS: Final = 4
"""Characters that one stands for; some of Arabic stand for eighteen."""
_INVISIBLE_CATEGORIES: Final = {"Cc", "Cf", "Cn", "Co", "Cs", "Me", "Mn", "Zl", "Zp"}


class _SecretHashes:
    """The hashes of what was held, the oldest secret first, and of what is held for good."""

    def __init__(self) -> None:
        self.runs: set[int] = set()
        self._permanent: set[int] = set()
        self._by_last_use: deque[frozenset[int]] = deque()

    def add_permanently(self, runs: frozenset[int]) -> None:
        """Remember one secret for good."""
        self._permanent |= runs
        self.add(runs)

    def add(self, runs: frozenset[int]) -> None:
        """Remember one secret; of equal ones the time of the last."""
        if runs in self._by_last_use:
            self._by_last_use.remove(runs)
        self._by_last_use.append(runs)
        self.runs |= runs
        if len(self._by_last_use) > MAX_REMEMBERED_SECRETS:
            self._by_last_use.popleft()
            # Another may have a part of it too.
            self.runs = self._permanent.union(*self._by_last_use)
        _has_known_secret.cache_clear()


_SECRET_HASHES: Final = _SecretHashes()


def remember_secret(secret: SecretStr) -> None:
    """From now on, no text that repeats something of this is quoted."""
    _SECRET_HASHES.add(_hash_secret(secret.get_secret_value()))


def remember_secret_permanently(secret: SecretStr) -> None:
    """The same for what this process works with, however many others come after it."""
    _SECRET_HASHES.add_permanently(_hash_secret(secret.get_secret_value()))


def has_known_secret(text: str) -> bool:
    """Whether a text has eight characters in a row of a secret that was held, in whatever way they are written."""
    return _has_known_secret(text) if len(text) <= MAX_SEARCHED_CHARS else True


def has_likely_secret(text: str) -> bool:
    """Whether a text has something in it that looks like a bearer token, whoever's it is."""
    return has_labelled_token(text) or any(map(_is_random, _split_words(text)))


def has_labelled_token(text: str) -> bool:
    """Whether a text has something in it that says itself that it is a bearer token."""
    return bool(_LABELLED_TOKEN.search(text))


def redact_bearers(text: str) -> str:
    """A text of somebody else's without what the words before it say to be a bearer token."""
    return _AFTER_BEARER.sub(r"\1 [redacted]", _redact_tokens(text))


def _redact_tokens(text: str) -> str:
    return _LABELLED_TOKEN.sub(r"\1 [redacted]", text)


def redact(text: str) -> str:
    """The text as it may leave: line by line, those withheld that repeat a secret, and what looks like one cut out."""
    return "".join(_redact_line(line) for line in text.splitlines(keepends=True))


def _redact_line(line: str) -> str:
    # What is longer is searched in parts that overlap by what could be cut through.
    step = MAX_SEARCHED_CHARS // 2
    if any(_has_known_secret(line[start : start + MAX_SEARCHED_CHARS]) for start in range(0, len(line), step)):
        return _redact_sentences(line)
    return _redact_tokens(line)


def _redact_sentences(line: str) -> str:
    """The line without the sentences that repeat a secret, so that what else it says is not lost."""
    told = "".join(WITHHELD_KNOWN if has_known_secret(part) else part for part in _SENTENCE_END.split(line))
    return _redact_tokens(told) if not has_known_secret(told) else WITHHELD_KNOWN + line[len(line.rstrip("\r\n")) :]


def _split_words(text: str) -> Iterator[str]:
    """What may be in base64, and its parts between slashes, which may be folders as well."""
    for word in _LONG_WORD.findall(text):
        yield from {word, *word.split("/")}


def _is_random(word: str) -> bool:
    is_mixed = all(sum(map(kind, word)) >= least for kind, least in _MIN_CHARS_BY_KIND.items())
    return is_mixed and len(word) >= _MIN_RANDOM_CHARS and not _is_joined_words(word)


def _is_joined_words(word: str) -> bool:
    """Whether it is words without blanks between them, such as people call service accounts and folders."""
    spoken = sum(map(len, _LOWERCASE_RUN.findall(word)))
    return spoken >= _MIN_LOWERCASE_SHARE * len(word) and len(
        _SAME_KIND_RUN.findall(word)
    ) <= _MAX_KIND_CHANGES_SHARE * len(word)


@lru_cache(maxsize=4096)
def _has_known_secret(text: str) -> bool:
    return len(text) >= MIN_MATCH_CHARS and any(
        not _SECRET_HASHES.runs.isdisjoint(_hash_runs(form)) for form in _decode_all_ways(text)
    )


def _hash_secret(secret: str) -> frozenset[int]:
    own = secret.rpartition(":")[2]
    # What is plain words when it is decoded would be found in every sentence.
    decoded = [whole for whole in _decode_base64(own) if not whole.isascii()]
    return frozenset(_hash_runs(own)) | {hash(run) for whole in decoded for run in _split_runs(whole)}


def _hash_runs(form: str | bytes) -> set[int]:
    """The runs of bytes as they are, and of a text also in small letters, with its punctuation and without."""
    if isinstance(form, bytes):
        return {hash(run) for run in _split_runs(form)}
    plain = (form if form.isascii() else "".join(map(_normalize_char, form))).casefold()
    texts = {hash(run) for text in {plain, "".join(filter(str.isalnum, plain))} for run in _split_runs(text)}
    return texts.union(*map(_hash_runs, {form.encode(encoding, errors="replace") for encoding in ("latin-1", "utf-8")}))


@lru_cache(maxsize=4096)
def _normalize_char(char: str) -> str:
    """What a character stands for, without what has no ink; nothing where that is a phrase of another script."""
    parts = unicodedata.normalize("NFKD", char)
    return (
        ""
        if len(parts) > _MAX_DECOMPOSED_CHARS
        else "".join(p for p in parts if unicodedata.category(p) not in _INVISIBLE_CATEGORIES)
    )


def _split_runs(text: AnyStr) -> Iterator[AnyStr]:
    runs = (text[start : start + MIN_MATCH_CHARS] for start in range(len(text) - MIN_MATCH_CHARS + 1))
    return (run for run in runs if len(set(run)) >= _MIN_DISTINCT_CHARS)


def _decode_all_ways(text: str) -> Iterator[str | bytes]:
    """The text, and what it is the escaped or encoded form of, layer by layer."""
    seen: dict[str | bytes, None] = {text: None}
    layer: list[str | bytes] = [text]
    for _ in range(_MAX_LAYERS):
        yield from layer
        following = [
            form
            for known in layer
            if isinstance(known, str)
            for form in _decode_layer(known)
            if len(form) >= MIN_MATCH_CHARS
        ]
        layer = [*dict.fromkeys(form for form in following if form not in seen)][: max(_MAX_FORMS - len(seen), 0)]
        seen |= dict.fromkeys(layer)
    yield from layer
    yield from (codecs.encode(text, "rot13"), text[::-1])


def _decode_layer(text: str) -> Iterator[str | bytes]:
    plain = _OCTAL.sub(lambda match: chr(int(match[1], base=8)), html.unescape(unquote(text)))
    yield _ESCAPE.sub(lambda match: _decode_char_code(next(filter(None, match.groups())), base=16), plain)
    for codes in _CHAR_CODES.findall(text):
        yield "".join(_decode_char_code(code, base=10) for code in re.findall(r"\d+", codes))
    for bits in _BITS.findall(text):
        yield "".join(_decode_char_code(code, base=2) for code in re.findall(r"[01]{8}", bits))
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


def _decode_char_code(digits: str, *, base: int) -> str:
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
