"""Is this an access token of the issuer, for this server, now? The checks of a JWT, in the order of its parts.

No claim is read before the signature holds. What a header says about keys elsewhere (`jku`, `x5u`, `jwk`) is ignored.
Sources: RFC 9068 (access tokens), RFC 8725 (best practices), RFC 7519 (claims).
"""

import json
import re
from collections.abc import Mapping, Sequence
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
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt", "jwt"})
_OTHER_KINDS: Final = {"typ": ("ID", "Refresh", "Offline", "Logout"), "token_use": ("id", "refresh")}
"""Values of claims by which Keycloak and Cognito tell their other tokens from access tokens."""
_CLAIMS_OF_OTHER_KINDS: Final = frozenset({"at_hash", "c_hash", "events"})
"""Claims of ID and logout tokens. Sources: OpenID Connect Core 1.0, section 3.3.2.11; Back-Channel Logout 1.0."""
_MAX_SECONDS: Final = 253_370_764_800
"""The seconds from 1970 to the year 9999, the last one that Python knows."""

_JWS: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


class Verified(NamedTuple):
    """What a token says of its holder, and the time from which on it is not accepted any more."""

    claims: Claims
    accepted_until: datetime


@dataclass(frozen=True)
class AccessTokens:
    """The access tokens that an issuer signs for an audience."""

    issuer: Issuer
    audience: str
    clock: Clock

    async def verify(self, bearer: str) -> Verified:
        """Return what an access token says.

        Raises:
            BearerRefused: If it is none, or not for this server, or not valid now.
        """
        if not _JWT.fullmatch(bearer):
            raise BearerRefused("it is neither a named key nor a JWT")
        claims = _decode_claims(await self._verify_signature(bearer))
        self._check_audience(claims)
        _check_kind(claims)
        return Verified(claims, _validate_times(claims, self.clock()))

    async def _verify_signature(self, bearer: str) -> bytes:
        """Return what the issuer has signed."""
        key_id, algorithm = _read_header(bearer)
        key = await self.issuer.find_key(key_id, algorithm)
        if key is None:
            raise BearerRefused("no key of the issuer is the one that it was signed with")
        try:
            payload: bytes = _JWS.decode(bearer, key)
        except jwt.PyJWTError:
            raise BearerRefused("its signature is wrong") from None
        return payload

    def _check_audience(self, claims: Claims) -> None:
        if claims.get("iss") != self.issuer.url:
            raise BearerRefused("it is of another issuer")
        audiences = claims.get("aud")
        if self.audience not in (cast(Sequence[object], audiences) if isinstance(audiences, list) else [audiences]):
            raise BearerRefused("it is for another audience")


def _read_header(bearer: str) -> tuple[str | None, str]:
    """Return the id of the key that a token says it was signed with, None if it names none, and the algorithm."""
    try:
        header: Mapping[str, object] = jwt.get_unverified_header(bearer)
    except jwt.PyJWTError:
        raise BearerRefused("its header cannot be read") from None
    if "crit" in header:
        raise BearerRefused("its header demands what is not known here")
    kind, algorithm, key_id = header.get("typ", "JWT"), header.get("alg"), header.get("kid")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise BearerRefused("its header says that it is no access token")
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


def _check_kind(claims: Claims) -> None:
    says_so = any(claims.get(name) in values for name, values in _OTHER_KINDS.items())
    if says_so or claims.keys() & _CLAIMS_OF_OTHER_KINDS:
        raise BearerRefused("its claims say that it is no access token")
    if "cnf" in claims:
        raise BearerRefused("it is bound to a key of its holder, which cannot be checked here")


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
