"""Signing a person in at a page: the authorization code flow of OpenID Connect, with PKCE.

What belongs together is kept in a cookie of the browser, sealed, one for each sign-in, so that two tabs can sign in at
once, and any replica can finish what another one began.
"""

import hashlib
import logging
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.server.http.id_tokens import IdTokens
from token_tools.server.http.identification import Identification
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.issuer_metadata import Endpoints
from token_tools.server.http.pickup.code_flow import CodeFlow, FlowSecrets
from token_tools.server.http.pickup.sealed_cookies import LIFETIME, Sealed, SealedCookies
from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.signed_tokens import SignedTokens
from token_tools.server.http.throttled_log import ThrottledLog
from token_tools.storage.delivery import Recipient
from token_tools.times import Clock

MAX_USED: Final = 1024
"""Sign-ins that are remembered as finished, the latest ones."""

MAX_BEGUN: Final = 8
"""Sign-ins that a browser can have begun before they are all given up.

Each has a cookie of half a kilobyte, and another web page could let a browser begin so many that no server would take
the head of its next request.
"""

_COOKIE: Final = "pickup-sign-in-"
_NAME_CHARS: Final = 16
_LOG: Final = logging.getLogger(__name__)

_BEGIN_AGAIN: Final = "Open the address of the page again, and sign in again."
_NOT_BEGUN: Final = (
    "This sign-in cannot be finished here: it was begun in another browser or more than 10 minutes ago, or it is "
    f"finished already. {_BEGIN_AGAIN}"
)
_DECLINED: Final = f"The identity provider says that nobody has signed in. {_BEGIN_AGAIN}"
_UNUSABLE: Final = (
    "Nobody could be signed in: the identity provider gave no answer that can be used. Try again in a minute. If that "
    "does not help, the operator of this server has to look at its log."
)
_NO_PERSON: Final = (
    f"Whoever has signed in is an application and no person, and nothing waits here for applications. {_BEGIN_AGAIN}"
)


class SignInFailed(Exception):
    """Nobody was signed in; the text is a sentence for the person at the browser, which repeats nothing foreign.

    `reason` is one of a few fixed texts for the log. `pickup_id` is the page that they came from, None if that is not
    certain.
    """

    def __init__(self, text: str, reason: str, detail: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.detail = detail
        self.pickup_id: str | None = None


class _Attempt(Sealed, frozen=True, kw_only=True):
    """A sign-in that was begun."""

    pickup_id: str
    nonce: str
    verifier: str


class PersonSignIn:
    """Sends people to the issuer, and finds out who comes back.

    Somebody is the recipient of what waits if their ID token has the subject (`sub`) that the access token had with
    which they asked for it. So the issuer has to call a person the same for both clients: where it calls them
    differently for each client ("pairwise"), the operator has to give both one sector, or have it call people by one
    name for all. Otherwise nobody is ever the recipient.
    """

    def __init__(self, settings: HttpSettings, state_keys: Sequence[bytes], issuer: Issuer, *, clock: Clock) -> None:
        self._clock = clock
        self._issuer = issuer
        self._log = ThrottledLog(_LOG, clock)
        self._cookies = SealedCookies.from_settings(settings, state_keys, "sign-in at a page", clock)
        client_id = settings.http_client_id or ""
        self._flow = CodeFlow(client_id, settings, issuer)
        self._id_tokens = IdTokens(SignedTokens(issuer, clock), client_id)
        # Whom `self` means is no question at a page.
        self._identification = Identification(issuer.url, None, self._log)
        self._used = dict[str, datetime]()

    async def begin(self, pickup_id: str, *, prompt: str | None = None) -> Response:
        """Return the answer that sends a person to the issuer, from where they come back to a page.

        Raises:
            SignInFailed: If the issuer cannot be asked how.
        """
        with self._tell_failure():
            endpoints = await self._find_endpoints()
        flow = FlowSecrets(secrets.token_urlsafe(), secrets.token_urlsafe(), secrets.token_urlsafe(48))
        response = RedirectResponse(self._flow.create_url(endpoints, flow, prompt), status_code=303)
        attempt = _Attempt(begun=self._clock(), pickup_id=pickup_id, nonce=flow.nonce, verifier=flow.verifier)
        self._cookies.put(response, _name_cookie(flow.state), attempt, bound_to=flow.state)
        return response

    def make_room(self, request: Request, response: Response) -> None:
        """Let the answer to somebody who begins take from the browser what too many sign-ins have left there."""
        self._cookies.remove_crowd(request, response, _COOKIE, most=MAX_BEGUN - 1)

    async def finish(self, request: Request) -> tuple[str, Recipient]:
        """Return to which page somebody comes back, and who they are.

        Raises:
            SignInFailed: If that is not certain.
        """
        with self._tell_failure():
            attempt = self._take_attempt(request)
            try:
                return attempt.pickup_id, await self._find_recipient(request, attempt)
            except SignInFailed as failure:
                failure.pickup_id = attempt.pickup_id
                raise

    def forget(self, request: Request, response: Response) -> None:
        """Let the answer to somebody who came back take from the browser what the sign-in has left there."""
        state = _read_parameter(request, "state")
        if state is not None:
            self._cookies.remove(response, _name_cookie(state))

    @contextmanager
    def _tell_failure(self) -> Generator[None]:
        try:
            yield
        except SignInFailed as failure:
            detail = f": {failure.detail}" if failure.detail else ""
            self._log.tell(failure.reason, f"Nobody was signed in at a page, since {failure.reason}{detail}.")
            raise

    async def _find_endpoints(self) -> Endpoints:
        try:
            return await self._issuer.find_endpoints()
        except ValueError as reason:
            raise SignInFailed(_UNUSABLE, "the metadata of the issuer are of no use", f"{reason}") from None

    def _take_attempt(self, request: Request) -> _Attempt:
        """Return the sign-in that somebody comes back from; nobody does that twice."""
        state = _read_parameter(request, "state") or ""
        attempt = self._cookies.find(request, _name_cookie(state), _Attempt, bound_to=state)
        if attempt is None or state in self._used:
            raise SignInFailed(_NOT_BEGUN, "its browser has begun no such sign-in, or has finished it")
        self._used = {used: begun for used, begun in self._used.items() if abs(self._clock() - begun) < LIFETIME}
        self._used[state] = attempt.begun
        if len(self._used) > MAX_USED:
            del self._used[next(iter(self._used))]
        return attempt

    async def _find_recipient(self, request: Request, attempt: _Attempt) -> Recipient:
        endpoints = await self._find_endpoints()
        self._check_origin(request, endpoints)
        code = _read_parameter(request, "code")
        if "error" in request.query_params or not code:
            raise SignInFailed(_DECLINED, "the issuer has sent them back without a code")
        id_token = await self._exchange(endpoints, code, attempt)
        try:
            claims = await self._id_tokens.verify(id_token, attempt.nonce)
            recipient = self._identification.identify(claims).caller.recipient
        except BearerRefused as refusal:
            raise SignInFailed(_UNUSABLE, "their ID token is not accepted", f"{refusal}") from None
        if recipient is None:
            raise SignInFailed(_NO_PERSON, "the ID token is of a client and not of a person")
        return recipient

    def _check_origin(self, request: Request, endpoints: Endpoints) -> None:
        """Check that the answer is of our issuer, and not of another one that the browser was sent to."""
        told = request.query_params.getlist("iss")
        if told != [self._issuer.url] and (told or endpoints.promises_iss):
            raise SignInFailed(_UNUSABLE, "the answer that a browser brought is of another issuer")

    async def _exchange(self, endpoints: Endpoints, code: str, attempt: _Attempt) -> str:
        try:
            return await self._flow.exchange(endpoints, code, attempt.verifier)
        except SettingsError as failure:
            detail = str(failure).removesuffix(".")
            raise SignInFailed(_UNUSABLE, "the secret of the client cannot be read", detail) from None
        except ValueError as reason:
            raise SignInFailed(_UNUSABLE, "the token endpoint of the issuer is of no use", f"it {reason}") from None


def _name_cookie(state: str) -> str:
    return f"{_COOKIE}{hashlib.sha256(state.encode()).hexdigest()[:_NAME_CHARS]}"


def _read_parameter(request: Request, name: str) -> str | None:
    """Return what the query of a request has under a name, None if that is not there, or there twice."""
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 else None
