"""What did the issuer sign, and does it hold now? The checks that all its tokens share, in the order of their parts.

No claim is read before the signature holds. What a header says about keys elsewhere (`jku`, `x5u`, `jwk`) is ignored.
Sources: RFC 8725 (best practices), RFC 7519 (claims).
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import jwt

from token_tools.server.http.issuer import Issuer
from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.rules import Claims
from token_tools.server.http.signing_keys import ALGORITHMS
from token_tools.times import Clock, format_duration

CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far the clocks of the issuer and of this machine may differ."""

_JWT: Final = re.compile(r"(?:[A-Za-z0-9_-]+\.){2}[A-Za-z0-9_-]+", re.ASCII)
_MAX_SECONDS: Final = 253_370_764_800
"""The seconds from 1970 to the year 9999, the last one that Python knows."""

_JWS: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


class Verified(NamedTuple):
    """What a token says of its holder, and the time from which on it is not accepted any more."""

    claims: Claims
    accepted_until: datetime


@dataclass(frozen=True)
class SignedTokens:
    """The tokens that an issuer signs, of whatever kind."""

    issuer: Issuer
    clock: Clock

    async def verify(self, token: str, types: Collection[str]) -> Verified:
        """Return what a token says, whose header has to name one of these types, in small letters.

        Raises:
            BearerRefused: If it is no such token, or not valid now.
        """
        claims = _decode_claims(await self._verify_signature(token, types))
        if claims.get("iss") != self.issuer.url:
            raise BearerRefused("it is of another issuer")
        return Verified(claims, _validate_times(claims, self.clock()))

    async def _verify_signature(self, token: str, types: Collection[str]) -> bytes:
        """Return what the issuer has signed."""
        key_id, algorithm = _read_header(token, types)
        key = await self.issuer.find_key(key_id, algorithm)
        if key is None:
            raise BearerRefused("no key of the issuer is the one that it was signed with")
        try:
            payload: bytes = _JWS.decode(token, key)
        except jwt.PyJWTError:
            raise BearerRefused("its signature is wrong") from None
        return payload


def is_jwt(token: str) -> bool:
    """Tell whether a text has the form of a signed token."""
    return _JWT.fullmatch(token) is not None


def list_audiences(claims: Claims) -> Sequence[object]:
    """Return for whom a token is, by its claims."""
    audiences = claims.get("aud")
    return cast(Sequence[object], audiences) if isinstance(audiences, list) else [audiences]


def _read_header(token: str, types: Collection[str]) -> tuple[str | None, str]:
    """Return the id of the key that a token says it was signed with, None if it names none, and the algorithm."""
    try:
        header: Mapping[str, object] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise BearerRefused("its header cannot be read") from None
    if "crit" in header:
        raise BearerRefused("its header demands what is not known here")
    kind, algorithm, key_id = header.get("typ", "JWT"), header.get("alg"), header.get("kid")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise BearerRefused("its header says that it is of another kind")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise BearerRefused("it is signed in a way that is not accepted")
    return key_id if isinstance(key_id, str) else None, algorithm


def _decode_claims(payload: bytes) -> Claims:
    try:
        claims: object = json.loads(payload, object_pairs_hook=_refuse_twins)
    except (ValueError, RecursionError):
        raise BearerRefused("its claims cannot be read") from None
    if not isinstance(claims, dict):
        raise BearerRefused("its claims cannot be read")
    return cast(Claims, claims)


def _refuse_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    # Of two claims with one name, another reader of the token may take the other one. Source: RFC 7519, section 4.
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is there twice")
    return members


def _validate_times(claims: Claims, now: datetime) -> datetime:
    """Return when the token ends to be accepted.

    Raises:
        BearerRefused: If it is not accepted now.
    """
    expires, begins, issued = (_read_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise BearerRefused("it never expires")
    if now >= expires + CLOCK_SKEW:
        raise BearerRefused("it has expired", f"{format_duration(now - expires)} ago")
    if begins is not None and now < begins - CLOCK_SKEW:
        raise BearerRefused("it is not valid yet", f"but in {format_duration(begins - now)}")
    if issued is not None and now < issued - CLOCK_SKEW:
        raise BearerRefused("it was issued in the future", f"by {format_duration(issued - now)}")
    return expires + CLOCK_SKEW


def _read_time(claims: Claims, name: str) -> datetime | None:
    """Return a time among the claims, None if it is not there."""
    seconds = claims.get(name)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_SECONDS:
        raise BearerRefused("a time in it cannot be read")
    return datetime.fromtimestamp(seconds, UTC)
