"""Text that somebody else wrote, made visible as data.

Names, error descriptions and whatever else comes out of a cluster are read by a model. Between double quotes, on one
line, with nothing invisible in it and of bounded length, such text cannot pass for a sentence of ours.
"""

import json
import re
from typing import Final

_BEARER: Final = re.compile(r"\b(access-v1|session-v1):[A-Za-z0-9+/=_-]*|(?i:\b(bearer)\s+)\S+")


def quote(text: str, *, longest: int) -> str:
    """A JSON string with every unprintable character escaped, cut after `longest` characters of the text.

    `json.loads` gives the text back if it was not cut. What looks like a bearer token is taken out first: an error
    page may repeat the Authorization header.
    """
    shown = _BEARER.sub(lambda match: f"{match[1] or match[2]} [redacted]", text)
    if len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    quoted = json.dumps(shown, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in quoted)
