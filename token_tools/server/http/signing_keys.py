"""Which key of an issuer signs with which algorithm? The keys of a JWK set, and the one that a token names.

Sources: RFC 7517 (keys), RFC 7518 (algorithms), RFC 8037 (EdDSA).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt
import msgspec

MAX_KEYS: Final = 100
"""Keys of an issuer that are looked at."""

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EDWARDS: Final = frozenset({"EdDSA"})
_ALGORITHMS_BY_KIND: Final = {
    "RSA": _RSA,
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": _EDWARDS,
    "Ed448": _EDWARDS,
}
"""What each curve, and RSA, signs with."""

ALGORITHMS: Final = frozenset(name for names in _ALGORITHMS_BY_KIND.values() for name in names)
"""The algorithms that are accepted. Who knows nothing but public keys can sign with none of them."""


class _Entry(msgspec.Struct, omit_defaults=True):
    """A key as a JWK set has it. Members of secret and private keys are left out."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None

    @property
    def algorithms(self) -> frozenset[str]:
        """What the key may verify: what its kind can do, and its issuer wants."""
        if self.use not in {None, "sig"} or not (self.key_ops is None or "verify" in self.key_ops):
            return frozenset()
        fitting = _ALGORITHMS_BY_KIND.get(self.crv or self.kty, frozenset())
        return fitting if self.alg is None else fitting & {self.alg}


@dataclass(frozen=True)
class SigningKey:
    """A public key of an issuer, for each algorithm that it may be used with; `key_id` is None if it has no name."""

    key_id: str | None
    by_algorithm: Mapping[str, jwt.PyJWK]


def parse_keys(document: Mapping[str, Any]) -> Sequence[SigningKey]:
    """Return the keys of a JWK set that sign tokens; keys of another kind or for another use are passed over.

    Raises:
        ValueError: If there is none.
    """
    entries = document.get("keys")
    listed = cast(Sequence[object], entries) if isinstance(entries, list) else ()
    keys = [key for entry in listed[:MAX_KEYS] if (key := _find_key(entry)) is not None]
    if not keys:
        raise ValueError("has no key that signs tokens")
    return keys


def select_key(keys: Sequence[SigningKey], key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
    """Return the one key that a token can be signed with; None if there is none, or more than one.

    `key_id` is None for a token that does not name its key.
    """
    fitting = [key for key in keys if algorithm in key.by_algorithm and key_id in {None, key.key_id}]
    return fitting[0].by_algorithm[algorithm] if len(fitting) == 1 else None


def _find_key(described: object) -> SigningKey | None:
    """Return the key that an entry of a JWK set describes, None if it is of no use here."""
    try:
        entry = msgspec.convert(described, _Entry)
        keys = {name: jwt.PyJWK(msgspec.to_builtins(entry), name) for name in entry.algorithms}
    except (msgspec.ValidationError, jwt.PyJWTError):
        return None
    # Below a length, such as 2048 bits of RSA, a key is too weak. Source: RFC 7518, section 3.3.
    is_strong = all(key.Algorithm.check_key_length(key.key) is None for key in keys.values())
    return SigningKey(entry.kid, keys) if keys and is_strong else None
