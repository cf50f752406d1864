"""Whether a text repeats something of a secret, in whatever way it is written.

Errors repeat what they complain about: whole, cut, split, escaped or encoded by whatever it went through. To take a
secret out of such a text one would have to know all of these; to see that there is something of it is easier.
"""

import base64
import html
import re
from collections.abc import Iterator
from typing import AnyStr, Final
from urllib.parse import unquote

RUN: Final = 8
"""Characters or bytes in a row that are something; fewer may be chance."""

_CHARACTERS: Final = 6
"""The same without punctuation, of which base64 has two in sixty-four."""
_LAYERS: Final = 3
_ESCAPE: Final = re.compile(r"\\+(?:x([0-9a-f]{2})|u([0-9a-f]{4}))", re.IGNORECASE)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}")
_PUNCTUATION: Final = re.compile(r"[\W_]+")


def repeats(text: str, secret: str) -> bool:
    """Whether the text has eight characters in a row of the secret's own part, or of what that is the base64 of."""
    own = secret.rpartition(":")[2]
    plain = _unescape(text)
    decoded = b"".join(_decode(own))
    return (
        any(_share(_strip(written), _strip(own), _CHARACTERS) for written in (text, plain, *_find_encoded(plain)))
        or _share(plain.encode(errors="replace"), decoded, RUN)
        or _share(_strip(plain), decoded.hex(), 2 * RUN)
    )


def _share(text: AnyStr, secret: AnyStr, run: int) -> bool:
    starts = range(max(len(secret) - run, 0) + 1)
    return bool(secret) and any(secret[start : start + run] in text for start in starts)


def _strip(text: str) -> str:
    return _PUNCTUATION.sub("", text).casefold()


def _unescape(text: str) -> str:
    for _ in range(_LAYERS):
        text = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], base=16)), html.unescape(unquote(text)))
    return text


def _find_encoded(text: str) -> Iterator[str]:
    """What the words of a text are the base64 of, from wherever in a word it begins."""
    for word in _BASE64.findall(text):
        for start in range(4):
            yield from (decoded.decode("latin-1") for decoded in _decode(word[start:]))


def _decode(text: str) -> Iterator[bytes]:
    letters = text.rstrip("=").replace("-", "+").replace("_", "/")
    whole = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        yield base64.b64decode(whole + "=" * (-len(whole) % 4), validate=True)
    except ValueError:
        return
