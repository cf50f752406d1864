"""Who sits at a browser, after they signed in: kept in a sealed cookie, so that every replica can read it."""

import secrets
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from token_tools.http_settings import HttpSettings
from token_tools.sealing import Sealer
from token_tools.server.http.pickup.sealed_cookies import Sealed, SealedCookies
from token_tools.storage.delivery import Recipient
from token_tools.times import Clock

_COOKIE: Final = "pickup-session"


class BrowserSession(Sealed, frozen=True, kw_only=True):
    """Somebody who signed in at a browser. The `number` tells this time from every other."""

    recipient: Recipient
    number: str


class BrowserSessions:
    """Starts, finds and ends sessions, of which each holds for `sealed_cookies.LIFETIME`."""

    def __init__(self, settings: HttpSettings, state_keys: Sequence[bytes], clock: Clock) -> None:
        self._cookies = SealedCookies.from_settings(settings, state_keys, "browser session", clock)
        self._proofs = Sealer(state_keys, "proof of a page")
        self._clock = clock

    def find(self, request: Request) -> BrowserSession | None:
        """Return the session of a request, None if it has none that is valid now."""
        return self._cookies.find(request, _COOKIE, BrowserSession)

    def start(self, response: Response, recipient: Recipient) -> None:
        """Let a response start a session, in place of the one that the browser may have."""
        session = BrowserSession(begun=self._clock(), recipient=recipient, number=secrets.token_urlsafe())
        self._cookies.put(response, _COOKIE, session)

    def end(self, response: Response) -> None:
        """Let a response end the session."""
        self._cookies.remove(response, _COOKIE)

    def create_proof(self, session: BrowserSession, pickup_id: str) -> str:
        """Return what a page of this server has and no other page knows: it has to come back with what changes."""
        return self._proofs.seal(b"", _bind(session, pickup_id)).hex()

    def is_proof(self, session: BrowserSession, pickup_id: str, proof: str) -> bool:
        """Tell whether this is what a page of this session has."""
        try:
            sealed = bytes.fromhex(proof)
        except ValueError:
            return False
        return self._proofs.open(sealed, _bind(session, pickup_id)) is not None


def _bind(session: BrowserSession, pickup_id: str) -> str:
    return f"{session.number} {pickup_id}"
