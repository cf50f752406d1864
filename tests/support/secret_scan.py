"""The search for secrets in what a process wrote: as a whole, in parts of eight characters, and decoded."""

import base64
from collections.abc import Iterable, Iterator

MIN_MATCH_CHARACTERS = 8
MIN_DISTINCT_CHARACTERS = 4
"""A part with fewer different characters tells nothing: a database has many rows of zeros, and so has each token."""


def find_secrets(haystack: bytes, secrets: Iterable[str]) -> list[str]:
    """Return the bearer tokens that `haystack` has a part of. The prefix that all of them share does not count."""
    return [secret for secret in secrets if any(part in haystack for part in secret_parts(secret))]


def secret_parts(secret: str) -> Iterator[bytes]:
    """Yield each run of eight bytes of a bearer token without its prefix, and of the bytes that it encodes."""
    _, _, own = secret.rpartition(":")
    for text in (own.encode(), base64.b64decode(own)):
        for start in range(len(text) - MIN_MATCH_CHARACTERS + 1):
            part = text[start : start + MIN_MATCH_CHARACTERS]
            if len({*part}) >= MIN_DISTINCT_CHARACTERS:
                yield part
