"""Does a text contain a secret? Which secrets has this process held, and what is left of a text without them?

Everything that quotes a text of somebody else asks here first. An error text may repeat a secret whole, cut, split,
escaped or encoded. Cutting a secret out of a text would require knowing where each of these forms begins and ends.
Recognising that a part of it is there is easier, so a text (or its sentence) with a part of a secret is withheld.

There are three lines of defence:
 1. Known secrets: when a secret is remembered, each part of it is encoded in the usual ways. A text is searched for
    the results, and nothing but its escapes and character codes is decoded (`has_known_secret`).
 2. Likely secrets: words that look like a bearer token are recognised, even if this process never held it, or if it
    is encoded in an unusual way (`has_likely_secret`).
 3. Labelled secrets: what follows `access-v1:` or `Bearer` is cut out, and the rest of the text is kept
    (`redact_bearers`).

The process remembers only hashes of these parts, and no secret. The texts that were searched last stay in a cache.
"""

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from pydantic import SecretStr

MIN_MATCH_CHARS: Final = 8
"""This many characters or bytes in a row count as a part of a secret; fewer may be equal by chance."""

MAX_REMEMBERED_SECRETS: Final = 32
"""This many secrets are remembered; the one that was used least recently is forgotten first."""

WITHHELD_KNOWN: Final = "[withheld: it repeats something of a secret]"
WITHHELD_LIKELY: Final = "[withheld: it looks like a secret]"

_MIN_DISTINCT_CHARS: Final = 5
"""Different characters that a part of a secret has at least; `00000000` occurs by chance."""

_LABELLED_TOKEN: Final = re.compile(r"\b((?:access|session)-v\d{1,3})\s{0,3}:\s{0,3}[A-Za-z0-9+/=_-]*", re.IGNORECASE)
_AFTER_BEARER: Final = re.compile(r"\b((?i:bearer))\s{1,9}(?![A-Za-z]?[a-z]{0,20}[.,;:!?)]{0,3}(?:\s|\Z))\S+")
"""The word behind `Bearer`, unless it is plain English, as in `Bearer authentication is required`."""
_SENTENCE_END: Final = re.compile(r"((?<=[.:;!?])\s+|[\r\n]+)")

_JUDGED_CHARS: Final = 20
"""This many characters in a row without a blank are judged at a time, whether a machine made them."""
_LONG_WORD: Final = re.compile(rf"[!-~]{{{_JUDGED_CHARS},}}")
_PATH: Final = re.compile(r"(?<![^\s\"'(=])~?/[!-~]+")
"""A path; tools name folders at random, and few such names together are no secret."""
_LONG_HEX: Final = re.compile(r"[0-9a-f]{129,}", re.IGNORECASE)
"""More than the longest hash in use, SHA-512: a secret that was encoded more than once."""
_WORD_OR_NUMBER: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_MIN_RANDOM_WORDS: Final = 10
"""Random characters break into this many words and numbers at least; paths and names such as `CN=BackupEU01` do not."""
_MIN_DISTINCT_CAPITALS: Final = 3
_MIN_DISTINCT_OTHERS: Final = 4
"""Random characters have that many capitals, and others but digits. `Copy_5f9a8b7c6d5e4f30`, times and UUIDs do not."""

_MAX_ESCAPES: Final = 3
"""So many times a character can be escaped, such as for JSON inside of a URL inside of HTML."""
_ESCAPE_SIGN: Final = re.compile(r"[%&\\+]|0[xX]")
_HEX_ESCAPE: Final = re.compile(
    r"(?:\\x|0x)[0-9a-f]{2}|(?:\\u|%u|U\+)[0-9a-f]{4}|\\[xu]\{[0-9a-f]{1,5}\}", re.IGNORECASE
)
_OCTAL_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_CHAR_CODE: Final = re.compile(r"([01]{8})|(?<![0-9])([0-9]{1,3})(?![0-9])")
_NO_LETTER: Final = re.compile(r"[^a-z0-9]+")
_HEX_CODE_LETTERS: Final = 12
_ENCODINGS: Final = (
    (binascii.hexlify, 1, 2, _HEX_CODE_LETTERS),
    (base64.b64encode, 3, 4, MIN_MATCH_CHARS),
    (base64.b32encode, 5, 8, MIN_MATCH_CHARS),
)
"""Each encoding, the bytes and letters of its groups, and the letters that count as a part of a secret: two groups of
base64 are in eight bytes wherever they begin, and one group of base32 is in nine."""


class _KnownParts:
    """Hashes of the parts of all secrets that this process remembers, with the number of secrets that have each."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._by_last_use: dict[frozenset[int], None] = {}

    def add_permanently(self, parts: frozenset[int]) -> None:
        """Remember a secret as long as the process lives."""
        self.counts.update(parts)
        has_known_secret.cache_clear()

    def add(self, parts: frozenset[int]) -> None:
        """Remember a secret, and forget the one that was used least recently if there are too many."""
        if parts not in self._by_last_use:
            self.add_permanently(parts)
        self._by_last_use.pop(parts, None)
        self._by_last_use[parts] = None
        if len(self._by_last_use) > MAX_REMEMBERED_SECRETS:
            self._forget(next(iter(self._by_last_use)))

    def _forget(self, parts: frozenset[int]) -> None:
        del self._by_last_use[parts]
        self.counts.subtract(parts)
        for part in parts:
            if not self.counts[part]:
                del self.counts[part]


_KNOWN_PARTS: Final = _KnownParts()


def remember_secret(secret: SecretStr) -> None:
    """Withhold from now on every text that repeats a part of this secret."""
    _KNOWN_PARTS.add(_hash_secret(secret.get_secret_value()))


def remember_secret_permanently(secret: SecretStr) -> None:
    """Remember one of the server's own credentials, which no number of other secrets pushes out."""
    _KNOWN_PARTS.add_permanently(_hash_secret(secret.get_secret_value()))


# Lists have the same names again and again: one of 50 tokens takes 0.5 ms less.
@lru_cache(maxsize=1024)
def has_known_secret(text: str) -> bool:
    """Tell whether a text has eight characters in a row of a remembered secret, plain or encoded in a usual way."""
    return _search(text)


def _search(text: str) -> bool:
    readings = {text, *_unescape(text)}
    forms = {form for reading in readings.union(map(_read_char_codes, readings)) for form in _normalize(reading)}
    runs = (run for form in forms for chars in (MIN_MATCH_CHARS, _HEX_CODE_LETTERS) for run in _split_runs(form, chars))
    return not _KNOWN_PARTS.counts.keys().isdisjoint(map(hash, runs))


def has_likely_secret(text: str) -> bool:
    """Tell whether a text has a word in it that looks like a bearer token, remembered or not.

    Of a path, each folder's name is looked at by itself.
    """
    words = _LONG_WORD.findall(_PATH.sub(lambda path: path[0].replace("/", " "), text))
    return (
        has_labelled_token(text)
        or bool(_LONG_HEX.search(text))
        or any(_is_random(chars) for word in words for chars in _split_runs(word, _JUDGED_CHARS))
    )


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
    return "".join(
        _redact_tokens(_redact_sentences(line) if _search(line) else line) for line in text.splitlines(keepends=True)
    )


def _redact_sentences(line: str) -> str:
    """Withhold only the sentences that repeat a secret, or the whole line if the secret spans several of them."""
    kept = "".join(WITHHELD_KNOWN if _search(part) else part for part in _SENTENCE_END.split(line))
    return kept if not _search(kept) else WITHHELD_KNOWN + line[len(line.rstrip("\r\n")) :]


def _is_random(chars: str) -> bool:
    if len(_WORD_OR_NUMBER.findall(chars)) < _MIN_RANDOM_WORDS:
        return False
    capitals = {*filter(str.isupper, chars)}
    others = {*chars} - capitals - {*filter(str.isdecimal, chars)}
    return len(capitals) >= _MIN_DISTINCT_CAPITALS and len(others) >= _MIN_DISTINCT_OTHERS


def _hash_secret(secret: str) -> frozenset[int]:
    """Return the hashes of a secret's parts, in its own writing and in the usual encodings.

    The bytes that it encodes in base64 are searched for too, because somebody may decode a token and encode it in
    another way. What is encoded may have been in UTF-16 (PowerShell does that) or in base64 before.
    """
    body = secret.rpartition(":")[2].encode("ascii", errors="replace").decode()
    decoded = _decode_base64(body)
    texts = (body, body[::-1], codecs.encode(body, "rot13"), decoded.decode("latin-1"))
    runs = {run for text in texts for form in _normalize(text) for run in _split_runs(form, MIN_MATCH_CHARS)}
    # Base64 writes three bytes in four letters, and one or two other bytes may precede the secret.
    base64_forms = [base64.b64encode(body[start:].encode()) for start in range(3)]
    contents = (body.encode(), decoded, body.encode("utf-16-be"), *base64_forms)
    codes = {code for content in contents for code in _encode_parts(content)}
    return frozenset(hash(run) for run in runs | codes if len(set(run)) >= _MIN_DISTINCT_CHARS)


def _decode_base64(body: str) -> bytes:
    """Return the bytes that a secret encodes, or none if it is no base64.

    Decoded bytes that are plain text do not count: they would be found in harmless sentences.
    """
    letters = body.rstrip("=").replace("-", "+").replace("_", "/")
    with suppress(ValueError):
        decoded = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
        return b"" if decoded.isascii() else decoded
    return b""


def _encode_parts(content: bytes) -> Iterator[str]:
    """Yield codes of which a text has one if it has eight of these bytes in a row in hex, base64 or base32."""
    for encode, group_bytes, group_letters, code_letters in _ENCODINGS:
        # Other bytes may precede the secret, so its groups can begin at any of its bytes.
        for start in range(group_bytes):
            letters = encode(content[start:]).decode().casefold().rstrip("=")
            yield from (
                letters[at : at + code_letters] for at in range(0, len(letters) - code_letters + 1, group_letters)
            )


def _split_runs(text: str, chars: int) -> Iterator[str]:
    return (text[start : start + chars] for start in range(len(text) - chars + 1))


def _normalize(text: str) -> tuple[str, str]:
    """Return a text in plain small letters, with and without its punctuation.

    This finds a secret in capitals or in full-width letters, and one with dots or invisible characters in it.
    """
    plain = (text if text.isascii() else unicodedata.normalize("NFKD", text)).casefold()
    return plain, _NO_LETTER.sub("", plain)


def _unescape(text: str) -> Iterator[str]:
    """Yield what a text becomes step by step when its escapes are replaced by the characters that they stand for."""
    for _ in range(_MAX_ESCAPES if _ESCAPE_SIGN.search(text) else 0):
        plain = html.unescape(unquote(text))
        text = _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], base=8)), _HEX_ESCAPE.sub(_decode_hex_escape, plain))
        # A secret itself may have something like `0x8f` in it, so that it is only in `plain`.
        yield from (plain, text)


def _decode_hex_escape(escape: re.Match[str]) -> str:
    return chr(int(escape[0].strip(r"%+\xXuU{}"), base=16))


def _read_char_codes(text: str) -> str:
    """Return the characters that the numbers in a text stand for: eight bits, or decimal numbers up to three digits."""
    return "".join(chr(int(bits or decimal, base=2 if bits else 10)) for bits, decimal in _CHAR_CODE.findall(text))
