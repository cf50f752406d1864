"""Who is let in to the tools: the answer to a caller without a valid bearer token, and to one who may do nothing.

The bearer token goes no further than this: the header is taken off the request.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.authentication import AuthCredentials
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from token_tools.http_settings import WORD_LISTS, parse_rules
from token_tools.server.http.access_log import note_caller
from token_tools.server.http.signed_in import SignedIn

MAX_REQUESTS_OF_CALLER: Final = 64
"""Requests of one caller that are served at a time; more are answered with 429, so that nobody takes all the room."""

RETRY_SECONDS: Final = 1


class SignIn(Protocol):
    """Finds out who a caller is."""

    async def verify_token(self, token: str, /) -> SignedIn | None:
        """Return whose bearer token this is; None if it is nobody's, or not valid now."""
        ...


@dataclass(frozen=True)
class Challenge:
    """What a caller is told who is not let in. Sources: RFC 6750, section 3; RFC 9728, section 5.1.

    `metadata_url` is where they find the issuer, None if there is none. `scopes` are those that would let them in.
    """

    metadata_url: str | None
    scopes: Sequence[str]

    def refuse(self, status: int, error: str | None, description: str) -> Response:
        """Return the answer to a request that is not served."""
        parameters = {
            "error": error,
            "error_description": description if error else None,
            "scope": " ".join(self.scopes) or None,
            "resource_metadata": self.metadata_url,
        }
        shown = ", ".join(f'{name}="{value}"' for name, value in parameters.items() if value is not None)
        body = {"error": error or "unauthorized", "error_description": description}
        return JSONResponse(body, status, headers={"WWW-Authenticate": f"Bearer {shown}".rstrip()})


def find_scopes(rules: Sequence[str]) -> Sequence[str]:
    """Return the scopes among the values that rules ask for."""
    return [*dict.fromkeys(rule.value for rule in parse_rules(rules) if rule.claim in WORD_LISTS)]


@dataclass(frozen=True)
class Admission:
    """Lets those in to an application who have a valid bearer token and may do something."""

    app: ASGIApp
    sign_in: SignIn
    challenge: Challenge
    _at_work: Counter[str] = field(default_factory=Counter[str])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or say why not."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        signed_in = None if len(given) != 1 else await self._find_caller(given[0])
        note_caller(scope, signed_in)
        if not given:
            refusal = self.challenge.refuse(401, None, "A bearer token is needed.")
        elif signed_in is None:
            refusal = self.challenge.refuse(401, "invalid_token", "The bearer token is not valid here.")
        elif signed_in.role is None:
            refusal = self.challenge.refuse(403, "insufficient_scope", "No rule of this server lets you in.")
        elif self._at_work[signed_in.caller.id] >= MAX_REQUESTS_OF_CALLER:
            refusal = Response(status_code=429, headers={"Retry-After": str(RETRY_SECONDS)})
        else:
            user = {"user": AuthenticatedUser(signed_in), "auth": AuthCredentials(signed_in.scopes)}
            await self._serve(signed_in.caller.id, {**scope, **user, "headers": headers}, receive, send)
            return
        await refusal(scope, receive, send)

    async def _find_caller(self, authorization: bytes) -> SignedIn | None:
        scheme, _, bearer = authorization.decode("latin-1").partition(" ")
        return await self.sign_in.verify_token(bearer.strip()) if scheme.lower() == "bearer" else None

    async def _serve(self, caller: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._at_work[caller] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._at_work[caller] -= 1
            if not self._at_work[caller]:
                del self._at_work[caller]
