"""Test who is taken for whom at a browser: the cookie of a session, and the proof that a page of it has."""

from collections.abc import Sequence
from datetime import timedelta

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.twin_clusters import FakeClock
from token_tools.http_settings import HttpSettings
from token_tools.server.http.pickup.browser_sessions import BrowserSessions
from token_tools.server.http.pickup.sealed_cookies import LIFETIME, Sealed, SealedCookies
from token_tools.server.http.signed_tokens import CLOCK_SKEW
from token_tools.storage.delivery import Recipient

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
URL = "https://tokens.example.com"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
COOKIE = "__Host-pickup-session"


class Server:
    """A server that starts a session for whoever is named, and shows it."""

    def __init__(self, clock: FakeClock, keys: Sequence[bytes] = (KEY,), url: str = URL) -> None:
        settings = HttpSettings.model_validate({"http_url": url, "http_issuer": "https://idp.example.com"})
        self.url = url
        self.sessions = BrowserSessions(settings, keys, clock)
        self.app = Starlette(
            routes=[
                Route("/start/{id}", self._start),
                Route("/end", self._end),
                Route("/show", self._show),
                Route("/proof/{page}", self._prove),
                Route("/check/{page}", self._check),
            ]
        )

    async def get(self, path: str, *cookies: str) -> httpx.Response:
        """Return the answer to a browser with these cookies, in a header each."""
        headers = [(b"Cookie", cookie.encode()) for cookie in cookies]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=self.url) as http:
            return await http.get(path, headers=headers)

    async def start(self, person: str = "jane") -> str:
        """Return the cookie that somebody gets, with its name."""
        return (await self.get(f"/start/{person}")).headers["Set-Cookie"].partition(";")[0]

    async def sees(self, *cookies: str) -> str | None:
        """Return who comes with these cookies."""
        person: str | None = (await self.get("/show", *cookies)).json()
        return person

    async def _start(self, request: Request) -> Response:
        response = Response()
        self.sessions.start(response, Recipient(request.path_params["id"], "a name"))
        return response

    async def _end(self, _request: Request) -> Response:
        response = Response()
        self.sessions.end(response)
        return response

    async def _show(self, request: Request) -> Response:
        session = self.sessions.find(request)
        return JSONResponse(None if session is None else session.recipient.id)

    async def _prove(self, request: Request) -> Response:
        session = self.sessions.find(request)
        assert session is not None
        return Response(self.sessions.create_proof(session, request.path_params["page"]))

    async def _check(self, request: Request) -> Response:
        session = self.sessions.find(request)
        assert session is not None
        proof = request.query_params["proof"]
        return JSONResponse(self.sessions.is_proof(session, request.path_params["page"], proof))


@pytest.fixture
def server(clock: FakeClock) -> Server:
    """Return a server with one key."""
    return Server(clock)


async def test_a_session_holds_for_ten_minutes(server: Server, clock: FakeClock) -> None:
    cookie = await server.start()

    assert await server.sees(cookie) == "jane"
    clock.now += LIFETIME - SECOND
    assert await server.sees(cookie) == "jane"
    clock.now += SECOND

    assert await server.sees(cookie) is None
    assert timedelta(minutes=10) == LIFETIME


async def test_a_clock_that_was_put_back_does_not_make_a_session_hold_longer(server: Server, clock: FakeClock) -> None:
    cookie = await server.start()

    clock.now -= CLOCK_SKEW
    assert await server.sees(cookie) == "jane", "the clocks of two replicas may differ a little"
    clock.now -= SECOND

    assert await server.sees(cookie) is None


async def test_without_a_cookie_nobody_sits_there(server: Server) -> None:
    assert await server.sees() is None
    assert await server.sees("", ";;=;", "another=cookie") is None


async def test_other_cookies_do_not_matter(server: Server) -> None:
    cookie = await server.start()

    assert await server.sees("a=1", f"b=2; {cookie};c=3") == "jane"


async def test_of_two_cookies_of_one_name_none_counts(server: Server) -> None:
    janes, attackers = await server.start("jane"), await server.start("attacker")

    assert await server.sees(f"{janes}; {attackers}") is None
    assert await server.sees(attackers, janes) is None
    assert await server.sees(f"{janes}; {COOKIE}=") is None


async def test_a_cookie_that_was_changed_is_none(server: Server) -> None:
    cookie = await server.start()
    digits = len(cookie) - len(COOKIE) - 1

    for place in range(1, digits + 1, 7):
        char = "0" if cookie[-place] != "0" else "1"
        changed = f"{cookie[: len(cookie) - place]}{char}{cookie[len(cookie) - place + 1 :]}"
        assert await server.sees(changed) is None


@pytest.mark.parametrize(
    "value",
    ["", "00", "x", '"', "\u00fc", "00" * 12, "00" * 30_000],
    ids=["nothing", "a byte", "no number", "a quote", "no ASCII", "a nonce", "too much"],
)
async def test_garbage_is_no_session(server: Server, value: str) -> None:
    assert await server.sees(f"{COOKIE}={value}") is None


async def test_another_servers_cookie_is_none(server: Server, clock: FakeClock) -> None:
    cookie = await server.start()

    assert await Server(clock, [OTHER_KEY]).sees(cookie) is None
    assert await Server(clock, url="https://tokens.example.org").sees(cookie) is None
    assert await Server(clock, [OTHER_KEY, KEY]).sees(cookie) == "jane", "a replica with the next key has the last one"


async def test_what_was_sealed_for_something_else_is_no_session(server: Server) -> None:
    proof = (await server.get("/proof/page", await server.start())).text

    assert await server.sees(f"{COOKIE}={proof}") is None


async def test_a_session_of_another_version_of_this_server_is_none(server: Server, clock: FakeClock) -> None:
    class OtherSession(Sealed, frozen=True, kw_only=True):
        whose: str

    settings = HttpSettings.model_validate({"http_url": URL, "http_issuer": "https://idp.example.com"})
    response, cookies = Response(), SealedCookies.from_settings(settings, [KEY], "browser session", clock)
    cookies.put(response, "pickup-session", OtherSession(begun=clock(), whose="jane"))

    assert await server.sees(response.headers["Set-Cookie"].partition(";")[0]) is None


async def test_the_end_of_a_session_takes_its_cookie_away(server: Server) -> None:
    ended = (await server.get("/end")).headers["Set-Cookie"]

    assert ended.startswith(f'{COOKIE}=""; ')
    assert "Max-Age=0" in ended


async def test_a_proof_is_of_one_session_and_one_page(server: Server) -> None:
    first, second = await server.start(), await server.start()
    proof = (await server.get("/proof/page", first)).text

    async def holds(path: str, cookie: str, given: str) -> object:
        return (await server.get(str(httpx.URL(path, params={"proof": given})), cookie)).json()

    assert await holds("/check/page", first, proof) is True
    assert await holds("/check/page", first, proof) is True, "it may come back twice, such as after a failure"
    assert await holds("/check/other", first, proof) is False
    assert await holds("/check/page", second, proof) is False, "another session of the same person"
    for wrong in ("", "x", "00", proof[:-2], f"{proof}00", f"{proof[:-1]}{'0' if proof[-1] != '0' else '1'}", "\u00fc"):
        assert await holds("/check/page", first, wrong) is False
    assert await holds("/check/page", first, first.partition("=")[2]) is False, "the cookie is no proof"
