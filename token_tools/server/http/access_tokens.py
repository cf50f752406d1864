"""Is this an access token of the issuer, for this server, now? Source: RFC 9068."""

from dataclasses import dataclass
from typing import Final

from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.rules import Claims
from token_tools.server.http.signed_tokens import SignedTokens, Verified, is_jwt, list_audiences

_TYPES: Final = frozenset({"at+jwt", "application/at+jwt", "jwt"})
_OTHER_KINDS: Final = {"typ": ("ID", "Refresh", "Offline", "Logout"), "token_use": ("id", "refresh")}
"""Values of claims by which Keycloak and Cognito tell their other tokens from access tokens."""
_CLAIMS_OF_OTHER_KINDS: Final = frozenset({"at_hash", "c_hash", "events"})
"""Claims of ID and logout tokens. Sources: OpenID Connect Core 1.0, section 3.3.2.11; Back-Channel Logout 1.0."""


@dataclass(frozen=True)
class AccessTokens:
    """The access tokens that an issuer signs for an audience."""

    signed: SignedTokens
    audience: str

    async def verify(self, bearer: str) -> Verified:
        """Return what an access token says.

        Raises:
            BearerRefused: If it is none, or not for this server, or not valid now.
        """
        if not is_jwt(bearer):
            raise BearerRefused("it is neither a named key nor a JWT")
        verified = await self.signed.verify(bearer, _TYPES)
        if self.audience not in list_audiences(verified.claims):
            raise BearerRefused("it is for another audience")
        _check_kind(verified.claims)
        return verified


def _check_kind(claims: Claims) -> None:
    says_so = any(claims.get(name) in values for name, values in _OTHER_KINDS.items())
    if says_so or claims.keys() & _CLAIMS_OF_OTHER_KINDS:
        raise BearerRefused("its claims say that it is no access token")
    if "cnf" in claims:
        raise BearerRefused("it is bound to a key of its holder, which cannot be checked here")
