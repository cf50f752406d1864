"""The search for secrets in what left a process: whole, in parts of eight characters, and decoded."""

import base64
from collections.abc import Iterable, Iterator

LONG_ENOUGH = 8


def find_secrets(haystack: bytes, secrets: Iterable[str]) -> list[str]:
    """The bearer tokens of which something is in there; the prefix that all of them share is no secret."""
    return [secret for secret in secrets if any(part in haystack for part in parts_of(secret))]


def parts_of(secret: str) -> Iterator[bytes]:
    """All runs of eight characters of the secret's own part, and of what it is the base64 of."""
    _, _, own = secret.rpartition(":")
    for text in (own.encode(), base64.b64decode(own)):
        for start in range(len(text) - LONG_ENOUGH + 1):
            yield text[start : start + LONG_ENOUGH]
