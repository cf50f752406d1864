"""Does a text contain a secret? Which secrets has this process held, and what is left of a text without them?

Everything that quotes a text of somebody else asks here first. An error text may repeat a secret whole, cut, split,
escaped or encoded. Cutting a secret out of a text would require knowing where each of these forms begins and ends.
Recognising that a part of it is there is easier, so a text (or its sentence) with a part of a secret is withheld.

There are three lines of defence:
 1. Known secrets: a text is decoded in all usual ways, up to three layers deep, and each form is compared with every
    secret that this process has held, eight characters at a time (`has_known_secret`).
 2. Likely secrets: words that look like a bearer token are recognised even if this process never held it
    (`has_likely_secret`).
 3. Labelled secrets: what follows `access-v1:` or `Bearer` is cut out, and the rest of the text is kept
    (`redact_bearers`).

The process remembers only hashes of eight characters each, and no secret.
"""

import base64
import codecs
import html
import re
import sys
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import AnyStr, Final
from urllib.parse import unquote

from pydantic import SecretStr

MIN_MATCH_CHARS: Final = 8
"""This many characters or bytes in a row count as a part of a secret; fewer may be equal by chance."""

MAX_SEARCHED_CHARS: Final = 4096
"""Decoding takes time, so a longer text is not searched but treated as if it had a secret. Quotations are shorter."""

MAX_REMEMBERED_SECRETS: Final = 256
"""This many secrets are remembered; the one that was used least recently is forgotten first."""

WITHHELD_KNOWN: Final = "[withheld: it repeats something of a secret]"
WITHHELD_LIKELY: Final = "[withheld: it looks like a secret]"

_MAX_LAYERS: Final = 3
_MAX_FORMS: Final = 200
"""Decoded forms of one text that are compared, so that a hostile text cannot make the search long."""
_MIN_DISTINCT_CHARS: Final = 5
"""Different characters among eight that make them a part of a secret; `00000000` occurs by chance."""

_LABELLED_TOKEN: Final = re.compile(r"\b((?:access|session)-v\d{1,3})\s{0,3}:\s{0,3}[A-Za-z0-9+/=_-]*", re.IGNORECASE)
_AFTER_BEARER: Final = re.compile(r"\b((?i:bearer))\s{1,9}(?![A-Za-z]?[a-z]{0,20}[.,;:!?)]{0,3}(?:\s|\Z))\S+")
"""The word behind `Bearer`, unless it is plain English, as in `Bearer authentication is required`."""
_SENTENCE_END: Final = re.compile(r"((?<=[.:;!?])\s+|[\r\n]+)")
_LONG_WORD: Final = re.compile(r"[A-Za-z0-9+/]{20,}")
_MIN_RANDOM_CHARS: Final = 20
_MIN_CHARS_BY_KIND: Final = {str.isdecimal: 2, str.isupper: 4, str.islower: 4}
"""How many digits, capitals and small letters a long word has at least if a machine made it."""
_SAME_KIND_RUN: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
_LOWERCASE_RUN: Final = re.compile(r"[a-z]{3,}")
_MIN_LOWERCASE_SHARE: Final = 0.35
_MAX_KIND_CHANGES_SHARE: Final = 0.5
"""Names such as `BackupServiceAccountEU01` have at least this share of small letters in a row, and change between small
letters, capitals and digits at most so often for their length."""

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
"""A character that stands for more is left out; one Arabic ligature stands for eighteen characters."""
_INVISIBLE_CATEGORIES: Final = {"Cc", "Cf", "Cn", "Co", "Cs", "Me", "Mn", "Zl", "Zp"}


class _SecretHashes:
    """Hashes of the parts of all secrets that this process remembers."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        self._by_last_use: deque[frozenset[int]] = deque()

    def add_permanently(self, runs: frozenset[int]) -> None:
        """Remember a secret as long as the process lives."""
        self.runs.update(runs)
        _has_known_secret.cache_clear()

    def add(self, runs: frozenset[int]) -> None:
        """Remember a secret, and forget the one that was used least recently if there are too many."""
        if runs in self._by_last_use:
            self._by_last_use.remove(runs)
        else:
            self.runs.update(runs)
        self._by_last_use.append(runs)
        if len(self._by_last_use) > MAX_REMEMBERED_SECRETS:
            self._forget(self._by_last_use.popleft())
        _has_known_secret.cache_clear()

    def _forget(self, runs: frozenset[int]) -> None:
        # Parts are counted, because another secret may share one with the forgotten secret.
        self.runs.subtract(runs)
        for run in runs:
            if not self.runs[run]:
                del self.runs[run]


_SECRET_HASHES: Final = _SecretHashes()


def remember_secret(secret: SecretStr) -> None:
    """Withhold from now on every text that repeats a part of this secret."""
    _SECRET_HASHES.add(_hash_secret(secret.get_secret_value()))


def remember_secret_permanently(secret: SecretStr) -> None:
    """Remember one of the server's own credentials, which no number of other secrets pushes out."""
    _SECRET_HASHES.add_permanently(_hash_secret(secret.get_secret_value()))


def has_known_secret(text: str) -> bool:
    """Tell whether a text has eight characters in a row of a remembered secret, plain or encoded in any known way."""
    return _has_known_secret(text) if len(text) <= MAX_SEARCHED_CHARS else True


def has_likely_secret(text: str) -> bool:
    """Tell whether a text has a word in it that looks like a bearer token, remembered or not."""
    return has_labelled_token(text) or any(map(_is_random, _split_words(text)))


def has_labelled_token(text: str) -> bool:
    """Tell whether a text has a bearer token with its label in it, such as `access-v1:…`."""
    return bool(_LABELLED_TOKEN.search(text))


def redact_bearers(text: str) -> str:
    """Replace what follows `access-v1:`, `session-v1:` or `Bearer` by `[redacted]`."""
    return _AFTER_BEARER.sub(r"\1 [redacted]", _redact_tokens(text))


def _redact_tokens(text: str) -> str:
    return _LABELLED_TOKEN.sub(r"\1 [redacted]", text)


def redact(text: str) -> str:
    """Withhold what repeats a remembered secret, and replace labelled tokens, line by line."""
    return "".join(_redact_line(line) for line in text.splitlines(keepends=True))


def _redact_line(line: str) -> str:
    # A long line is searched in windows that overlap by half, so that no cut goes through a secret unseen.
    step = MAX_SEARCHED_CHARS // 2
    if any(_has_known_secret(line[start : start + MAX_SEARCHED_CHARS]) for start in range(0, len(line), step)):
        return _redact_sentences(line)
    return _redact_tokens(line)


def _redact_sentences(line: str) -> str:
    """Withhold only the sentences that repeat a secret, or the whole line if the secret spans several of them."""
    kept = "".join(WITHHELD_KNOWN if has_known_secret(part) else part for part in _SENTENCE_END.split(line))
    return _redact_tokens(kept) if not has_known_secret(kept) else WITHHELD_KNOWN + line[len(line.rstrip("\r\n")) :]


def _split_words(text: str) -> Iterator[str]:
    """Yield each long word that may be base64, and its parts between slashes, because a path looks like base64 too."""
    for word in _LONG_WORD.findall(text):
        yield from {word, *word.split("/")}


def _is_random(word: str) -> bool:
    is_mixed = all(sum(map(is_kind, word)) >= min_chars for is_kind, min_chars in _MIN_CHARS_BY_KIND.items())
    return is_mixed and len(word) >= _MIN_RANDOM_CHARS and not _is_joined_words(word)


def _is_joined_words(word: str) -> bool:
    """Tell whether a word consists of plain words without blanks, as the names of service accounts and folders do."""
    lowercase_chars = sum(map(len, _LOWERCASE_RUN.findall(word)))
    return lowercase_chars >= _MIN_LOWERCASE_SHARE * len(word) and len(
        _SAME_KIND_RUN.findall(word)
    ) <= _MAX_KIND_CHANGES_SHARE * len(word)


@lru_cache(maxsize=4096)
def _has_known_secret(text: str) -> bool:
    return len(text) >= MIN_MATCH_CHARS and any(
        not _SECRET_HASHES.runs.keys().isdisjoint(_hash_runs(form)) for form in _decode_all_ways(text)
    )


def _hash_secret(secret: str) -> frozenset[int]:
    """Return the hashes of a secret's characters, and of the bytes that they encode in base64.

    The bytes are needed because somebody may decode a token and encode it in another way, such as in hex.
    """
    body = secret.rpartition(":")[2]
    # Decoded bytes that are plain text would be found in harmless sentences.
    decoded = [content for content in _decode_base64(body) if not content.isascii()]
    return frozenset(_hash_runs(body)) | {hash(run) for content in decoded for run in _split_runs(content)}


def _hash_runs(form: str | bytes) -> set[int]:
    """Return the hashes of all runs of eight in one decoded form.

    A text is compared in small letters, without invisible characters, and both with and without its punctuation: this
    finds a secret in capitals, and one with dots or blanks between its characters. Its bytes are compared too, because
    a part of the secret may have been decoded to bytes.
    """
    if isinstance(form, bytes):
        return {hash(run) for run in _split_runs(form)}
    plain = (form if form.isascii() else "".join(map(_normalize_char, form))).casefold()
    texts = {hash(run) for text in {plain, "".join(filter(str.isalnum, plain))} for run in _split_runs(text)}
    return texts.union(*map(_hash_runs, {form.encode(encoding, errors="replace") for encoding in ("latin-1", "utf-8")}))


@lru_cache(maxsize=4096)
def _normalize_char(char: str) -> str:
    """Return the plain characters that a character stands for, such as `A` for a full-width A.

    The result is empty for an invisible character, and for a ligature that stands for a whole phrase.
    """
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
    """Yield the text and all that it decodes to, layer by layer.

    A text can be encoded several times, such as base64 inside of JSON inside of a URL, so each layer decodes what the
    layer before it gave. The number of layers and of forms is bounded; a form that was seen is not decoded again.
    """
    seen: dict[str | bytes, None] = {text: None}
    layer: list[str | bytes] = [text]
    for _ in range(_MAX_LAYERS):
        yield from layer
        decoded = [
            form
            for encoded in layer
            if isinstance(encoded, str)
            for form in _decode_layer(encoded)
            if len(form) >= MIN_MATCH_CHARS
        ]
        layer = [*dict.fromkeys(form for form in decoded if form not in seen)][: max(_MAX_FORMS - len(seen), 0)]
        seen |= dict.fromkeys(layer)
    yield from layer
    # These two forms are compared, but not decoded further.
    yield from (codecs.encode(text, "rot13"), text[::-1])


def _decode_layer(text: str) -> Iterator[str | bytes]:
    """Yield what a text becomes when one layer of escapes or of an encoding is taken off."""
    plain = _OCTAL.sub(lambda match: chr(int(match[1], base=8)), html.unescape(unquote(text)))
    yield _ESCAPE.sub(lambda match: _decode_char_code(next(filter(None, match.groups())), base=16), plain)
    for codes in _CHAR_CODES.findall(text):
        yield "".join(_decode_char_code(code, base=10) for code in re.findall(r"\d+", codes))
    for bits in _BITS.findall(text):
        yield "".join(_decode_char_code(code, base=2) for code in re.findall(r"[01]{8}", bits))
    # Bytes that are no text cannot be encoded a second time, so they stay bytes and are not decoded again.
    yield from (decoded.decode() if decoded.isascii() else decoded for decoded in _decode_words(text))


def _decode_words(text: str) -> Iterator[bytes]:
    for word in _BASE64.findall(text):
        # Base64 decodes groups of four characters, and other letters may precede the secret: try all four alignments.
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
    # One letter alone at the end encodes no byte.
    complete = letters[: len(letters) - (len(letters) % 4 == 1)]
    with suppress(ValueError):
        yield base64.b64decode(complete + "=" * (-len(complete) % 4), validate=True)


def _decode_base32(word: str) -> Iterator[bytes]:
    with suppress(ValueError):
        yield base64.b32decode(word[: len(word) // 8 * 8], casefold=True)
