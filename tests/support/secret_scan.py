"""The search for secrets in what left a process: whole, in parts of eight characters, and decoded."""

import base64
from collections.abc import Iterable, Iterator

MIN_MATCH_CHARACTERS = 8


def find_secrets(haystack: bytes, secrets: Iterable[str]) -> list[str]:
    """The bearer tokens of which something is in there; the prefix that all of them share is no secret."""
    return [secret for secret in secrets if any(part in haystack for part in secret_parts(secret))]


def secret_parts(secret: str) -> Iterator[bytes]:
    """All runs of eight characters of the secret's own part, and of what it is the base64 of."""
    _, _, own = secret.rpartition(":")
    for text in (own.encode(), base64.b64decode(own)):
        for start in range(len(text) - MIN_MATCH_CHARACTERS + 1):
            yield text[start : start + MIN_MATCH_CHARACTERS]
