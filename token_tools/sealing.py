"""Seals bytes, so that nobody without a key of the operator reads or changes them, or puts them in another's place.

AES-256-GCM with a random nonce of 96 bits (NIST SP 800-38D); each purpose has a key of its own, which HKDF-SHA256
derives from the operator's (RFC 5869).
"""

import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealer:
    """Seals and opens for one purpose. The first key seals, and all of them open, so that keys can be replaced."""

    def __init__(self, keys: Sequence[bytes], purpose: str) -> None:
        """Derive the keys of this purpose from these, of which there is one at least."""
        self._ciphers = [AESGCM(_derive(key, purpose)) for key in keys]

    def seal(self, content: bytes, bound_to: str) -> bytes:
        """Return what only `open` with the same `bound_to` turns back into the content."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, content, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes | None:
        """Return the content; None if it was sealed with another key, or for something else, or not at all."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, text, bound_to.encode())
            except (InvalidTag, ValueError):
                continue
        return None


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=f"qumulo-token-tools {purpose}".encode()).derive(key)
