"""The search for secrets in what a process wrote: as a whole, in parts of eight characters, and decoded."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from contextlib import suppress

MIN_MATCH_CHARACTERS = 8
MIN_DISTINCT_CHARACTERS = 4
"""A part with fewer different characters tells nothing: a database has many rows of zeros, and so has each token."""


def find_secrets(haystack: bytes, secrets: Iterable[str]) -> list[str]:
    """Return the secrets that `haystack` has a part of. The prefix that all of them share does not count."""
    # To look up each part in a set takes a hundredth of the time that it takes to search for it.
    all_runs = {haystack[start : start + MIN_MATCH_CHARACTERS] for start in range(len(haystack))}
    return [secret for secret in secrets if not all_runs.isdisjoint(secret_parts(secret))]


def secret_parts(secret: str) -> Iterator[bytes]:
    """Yield each run of eight bytes of a secret without its prefix, and of the bytes that it encodes, if it does."""
    _, _, own = secret.rpartition(":")
    for text in (own.encode(), *_decode_base64(own)):
        for start in range(len(text) - MIN_MATCH_CHARACTERS + 1):
            part = text[start : start + MIN_MATCH_CHARACTERS]
            if len({*part}) >= MIN_DISTINCT_CHARACTERS:
                yield part


def _decode_base64(text: str) -> Iterator[bytes]:
    with suppress(binascii.Error):
        yield base64.b64decode(text, validate=True)
