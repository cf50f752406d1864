"""The ways in which a secret may be spelled in a text that repeats it."""

import base64
import codecs
import html
from collections.abc import Callable
from urllib.parse import quote

FULL_WIDTH_MAP = {code: code + 0xFEE0 for code in range(33, 127)}


def secret_body(secret: str) -> str:
    """Return a bearer token without its prefix."""
    return secret.partition(":")[2]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as-it-is": str,
    "without-its-prefix": secret_body,
    "first-half": lambda secret: secret_body(secret)[:44],
    "second-half": lambda secret: secret_body(secret)[44:],
    "a-piece": lambda secret: secret_body(secret)[20:30],
    "upper-case": lambda secret: secret_body(secret).upper(),
    "lower-case": lambda secret: secret_body(secret).lower(),
    "other-case": lambda secret: secret_body(secret).swapcase(),
    "backwards": lambda secret: secret_body(secret)[::-1],
    "dots-between": lambda secret: ".".join(secret_body(secret)),
    "blanks-between": lambda secret: " ".join(secret_body(secret)),
    "invisible-between": lambda secret: "\u200b".join(secret_body(secret)),
    "soft-hyphens-between": lambda secret: "\xad".join(secret_body(secret)),
    "selectors-between": lambda secret: "\ufe0f".join(secret_body(secret)),
    "marks-on-each": lambda secret: "\u0301".join(secret_body(secret)),
    "full-width": lambda secret: secret_body(secret).translate(FULL_WIDTH_MAP),
    "percent": lambda secret: quote(secret, safe=""),
    "percent-each": lambda secret: "".join(f"%{ord(char):02x}" for char in secret),
    "percent-twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "percent-u": lambda secret: "".join(f"%u{ord(char):04x}" for char in secret),
    "html": lambda secret: "".join(f"&#{ord(char)};" for char in secret),
    "html-hex": lambda secret: "".join(f"&#x{ord(char):x};" for char in secret),
    "html-escaped-percent": lambda secret: html.escape(quote(secret, safe="")),
    "quoted-printable": lambda secret: "".join(f"={ord(char):02X}" for char in secret),
    "backslash-x": lambda secret: "".join(f"\\x{ord(char):02x}" for char in secret),
    "backslash-u": lambda secret: "".join(f"\\u{ord(char):04x}" for char in secret),
    "octal": lambda secret: "".join(f"\\{ord(char):03o}" for char in secret),
    "code-points": lambda secret: " ".join(f"U+{ord(char):04X}" for char in secret),
    "decimal-codes": lambda secret: ",".join(str(ord(char)) for char in secret),
    "bits": lambda secret: " ".join(f"{ord(char):08b}" for char in secret),
    "hex": lambda secret: secret.encode().hex(),
    "hex-of-its-bytes": lambda secret: base64.b64decode(secret_body(secret)).hex(),
    "hex-with-colons": lambda secret: base64.b64decode(secret_body(secret)).hex(":"),
    "base64-again": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64-twice": lambda secret: base64.b64encode(base64.b64encode(secret.encode())).decode(),
    "base64-for-urls": lambda secret: base64.urlsafe_b64encode(b"x" + secret.encode()).decode().rstrip("="),
    "base64-of-a-piece": lambda secret: base64.b64encode(secret_body(secret)[10:24].encode()).decode(),
    "base32": lambda secret: base64.b32encode(secret.encode()).decode(),
    "rot13": lambda secret: codecs.encode(secret_body(secret), "rot13"),
}
