"""The pages at which people pick up new bearer tokens: which address shows what, and to whom.

A look at an address tells nothing to somebody who has not signed in, and spends nothing for anybody. A bearer token is
handed out to a request of the page's own script alone, which only the recipient's session can make.
"""

import logging
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from token_tools.credentials import encode_store
from token_tools.errors import JournalError
from token_tools.http_settings import PICKUP_PATH, HttpSettings
from token_tools.operations.fleet import Fleet
from token_tools.operations.pickup import (
    ForSomebodyElse,
    FoundPickup,
    NothingThere,
    NotWaiting,
    Unopenable,
    confirm_receipt,
    find_pickup,
    hand_out,
)
from token_tools.server.http.pickup.browser_sessions import BrowserSession, BrowserSessions
from token_tools.server.http.pickup.page_guard import PROOF_HEADER, PageGuard, is_own_request
from token_tools.server.http.pickup.person_sign_in import PersonSignIn, SignInFailed
from token_tools.views import pickup_page
from token_tools.views.pickup_page import Page

_LOG: Final = logging.getLogger(__name__)
_ID: Final = re.compile(r"[0-9a-f]{32}")
_NOT_FOUND: Final = 404
_FOLDER: Final = Path(__file__).parent
_FILES: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_TEMPLATE: Final = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
).get_template("page.html")
_PAGE: Final = f"{PICKUP_PATH}/{{pickup_id}}"

_SIGNED_OUT: Final = "Your sign-in at this page has ended, and nothing was handed out. Sign in again."
_NOT_OWN: Final = "This request did not come from this page as it is now. Reload the page, and try again."
_LATE_RECEIPT: Final = "That came too late, or was said before. Reload this page: it tells what became of it."
_UNAVAILABLE: Final = "The database of this server cannot be reached just now. Nothing is lost: try again in a minute."


class PickupPages:
    """The pages below `PICKUP_PATH`."""

    def __init__(self, settings: HttpSettings, sign_in: PersonSignIn, sessions: BrowserSessions) -> None:
        self._settings = settings
        self._path = urlsplit(settings.pickup_url).path
        self._sign_in = sign_in
        self._sessions = sessions
        self._fleet = Fleet(())

    def begin(self, fleet: Fleet) -> None:
        """Show from now on what waits of these clusters."""
        self._fleet = fleet

    def list_routes(self) -> list[Route]:
        """Return the one route to all of them, and to whatever else is asked for there."""
        files = [_create_file_route(name, media_type) for name, media_type in _FILES.items()]
        app = Starlette(
            routes=[
                *files,
                Route(f"{PICKUP_PATH}/callback", self._finish_sign_in),
                Route(_PAGE, self._show),
                Route(f"{_PAGE}/sign-in", self._begin_sign_in),
                Route(f"{_PAGE}/hand-out", self._hand_out, methods=["POST"]),
                Route(f"{_PAGE}/receipt", self._confirm_receipt, methods=["POST"]),
            ],
            exception_handlers=dict.fromkeys((HTTPException, NothingThere, JournalError), self._explain),
        )
        app.router.redirect_slashes = False
        return [Route(f"{PICKUP_PATH}{{rest:path}}", PageGuard(app, self._settings))]

    async def _show(self, request: Request) -> Response:
        pickup_id = _read_id(request)
        session = self._sessions.find(request)
        if session is None:
            return self._answer(pickup_page.SIGNED_OUT, pickup_id)
        try:
            found = await find_pickup(self._fleet, pickup_id, session.recipient)
        except ForSomebodyElse:
            return self._answer(pickup_page.render_for_somebody_else(session.recipient), pickup_id, status=403)
        proof = self._sessions.create_proof(session, pickup_id)
        return self._answer(pickup_page.render_pickup(found), pickup_id, proof=proof)

    async def _begin_sign_in(self, request: Request) -> Response:
        pickup_id = _read_id(request)
        prompt = "login" if "again" in request.query_params else None
        try:
            response = await self._sign_in.begin(pickup_id, prompt=prompt)
        except SignInFailed as failure:
            return self._answer(pickup_page.render_not_signed_in(str(failure)), pickup_id, status=503)
        self._sign_in.make_room(request, response)
        return response

    async def _finish_sign_in(self, request: Request) -> Response:
        try:
            pickup_id, recipient = await self._sign_in.finish(request)
        except SignInFailed as failure:
            response = self._answer(pickup_page.render_not_signed_in(str(failure)), failure.pickup_id, status=403)
        else:
            response = RedirectResponse(f"{self._settings.pickup_url}/{pickup_id}", status_code=303)
            self._sessions.start(response, recipient)
        self._sign_in.forget(request, response)
        return response

    async def _hand_out(self, request: Request) -> Response:
        found = await self._find_own(request)
        try:
            bearer_token, warning = await hand_out(found)
        except (NotWaiting, Unopenable) as refusal:
            raise HTTPException(409, str(refusal)) from None
        content = {
            "bearer_token": bearer_token.get_secret_value(),
            "credentials_file": encode_store(bearer_token).decode(),
            "file_name": pickup_page.format_file_name(found),
            "warning": warning,
        }
        return JSONResponse(content)

    async def _confirm_receipt(self, request: Request) -> Response:
        if not await confirm_receipt(await self._find_own(request)):
            raise HTTPException(409, _LATE_RECEIPT)
        return JSONResponse({})

    async def _find_own(self, request: Request) -> FoundPickup:
        """Return what waits at a page for the person whose session a request has, and whose page has sent it.

        Raises:
            HTTPException: If it has no session, or was sent by another page, or if somebody else asked for it.
        """
        pickup_id = _read_id(request)
        session = self._sessions.find(request)
        if session is None:
            raise HTTPException(401, _SIGNED_OUT)
        if not self._is_own(request, session, pickup_id):
            raise HTTPException(403, _NOT_OWN)
        try:
            return await find_pickup(self._fleet, pickup_id, session.recipient)
        except ForSomebodyElse as refusal:
            raise HTTPException(403, str(refusal)) from None

    def _is_own(self, request: Request, session: BrowserSession, pickup_id: str) -> bool:
        proof = request.headers.get(PROOF_HEADER, "")
        return is_own_request(request, self._settings.pickup_url) and self._sessions.is_proof(session, pickup_id, proof)

    async def _explain(self, request: Request, failure: Exception) -> Response:
        """Return an answer that tells a failure: to our script in JSON, to people as a page."""
        match failure:
            case HTTPException(status_code=int(status), detail=str(message)) if status != _NOT_FOUND:
                page = pickup_page.render_refused(message)
            case HTTPException() | NothingThere():
                status, message, page = _NOT_FOUND, f"{failure}", pickup_page.NOT_FOUND
            case _:
                _LOG.warning("A page cannot be shown: %s", failure)
                status, message, page = 503, _UNAVAILABLE, pickup_page.UNAVAILABLE
        is_ours = request.method == "POST"
        response = JSONResponse({"message": message}, status) if is_ours else self._answer(page, None, status=status)
        if isinstance(failure, HTTPException):
            response.headers.update(failure.headers or {})
        return response

    def _answer(self, page: Page, pickup_id: str | None, *, proof: str = "", status: int = 200) -> Response:
        content = _TEMPLATE.render(page=page, above=self._path, pickup_id=pickup_id, proof=proof)
        return HTMLResponse(content, status)


def _read_id(request: Request) -> str:
    """Return the id of the page that is asked for.

    Raises:
        HTTPException: If it can be the id of none.
    """
    pickup_id: str = request.path_params["pickup_id"]
    if not _ID.fullmatch(pickup_id):
        raise HTTPException(_NOT_FOUND)
    return pickup_id


def _create_file_route(name: str, media_type: str) -> Route:
    content = (_FOLDER / name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route(f"{PICKUP_PATH}/{name}", answer)
