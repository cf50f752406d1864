"""Who has just signed in, by an ID token of the issuer? Source: OpenID Connect Core 1.0, section 3.1.3.7.

A hash of the access token in it (`at_hash`) is not looked at, since that access token is thrown away.
"""

from dataclasses import dataclass
from typing import Final

from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.rules import Claims
from token_tools.server.http.signed_tokens import SignedTokens, is_jwt, list_audiences

_TYPES: Final = frozenset({"jwt"})
_OTHER_KINDS: Final = {"typ": ("Bearer", "Refresh", "Offline", "Logout"), "token_use": ("access", "refresh")}
"""Values of claims by which Keycloak and Cognito tell their other tokens from ID tokens."""


@dataclass(frozen=True)
class IdTokens:
    """The ID tokens that an issuer signs for a client."""

    signed: SignedTokens
    client_id: str

    async def verify(self, token: str, nonce: str) -> Claims:
        """Return what an ID token says, of the sign-in to which the nonce belongs.

        Raises:
            BearerRefused: If it is none, or for another client, or of another sign-in, or not valid now.
        """
        if not is_jwt(token):
            raise BearerRefused("it is no JWT")
        claims = (await self.signed.verify(token, _TYPES)).claims
        self._check_audience(claims)
        if any(claims.get(name) in values for name, values in _OTHER_KINDS.items()) or "events" in claims:
            raise BearerRefused("its claims say that it is no ID token")
        if claims.get("nonce") != nonce:
            raise BearerRefused("it is of another sign-in")
        return claims

    def _check_audience(self, claims: Claims) -> None:
        audiences = list_audiences(claims)
        if self.client_id not in audiences:
            raise BearerRefused("it is for another client")
        # With several audiences, `azp` says for which one it is.
        if claims.get("azp", self.client_id if len(audiences) == 1 else None) != self.client_id:
            raise BearerRefused("it is for another client")
