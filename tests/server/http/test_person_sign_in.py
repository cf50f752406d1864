"""Test how people sign in at pages, and every way in which an attacker, or the issuer, could go wrong about that.

The pages here are the least that shows what a browser gets: who has signed in, and at which page.
"""

import base64
import hmac
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import anyio
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.server.http.conftest import create_sign_in
from tests.support.issuer import (
    AUTHORIZATION_PATH,
    ISSUER_URL,
    KEYS_PATH,
    TOKEN_PATH,
    WEB_CLIENT,
    WEB_CLIENT_SECRET,
    SignatureKey,
    SmallIssuer,
    join_token,
)
from tests.support.secret_scan import find_secrets
from tests.support.twin_clusters import FakeClock
from tests.support.waiting import wait_until
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import COOL_DOWN, MAX_DOCUMENT_BYTES, MAX_POSTS, Issuer
from token_tools.server.http.pickup.browser_sessions import BrowserSessions
from token_tools.server.http.pickup.person_sign_in import MAX_USED, PersonSignIn, SignInFailed
from token_tools.server.http.pickup.sealed_cookies import LIFETIME
from token_tools.server.http.throttled_log import PAUSE

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
URL = "https://tokens.example.com"
PAGE = "a-page"
KEYS = [b"k" * 32]
NOT_BEGUN = "its browser has begun no such sign-in, or has finished it"
UNUSABLE = "the identity provider gave no answer that can be used"


@dataclass
class Door:
    """A server with pages, as far as it signs people in; `configure` makes another one, such as a replica."""

    clock: FakeClock
    issuer: SmallIssuer
    settings: HttpSettings
    keys: list[bytes] = field(default_factory=lambda: [*KEYS])
    sign_in: PersonSignIn = field(init=False)
    sessions: BrowserSessions = field(init=False)

    def __post_init__(self) -> None:
        """Begin with these settings."""
        self.configure()

    def configure(self, **settings: object) -> None:
        """Begin again with other settings besides."""
        self.settings = HttpSettings.model_validate({**self.settings.model_dump(exclude_unset=True), **settings})
        issuer = Issuer.from_settings(self.settings, clock=self.clock, transport=self.issuer.transport)
        assert issuer is not None
        self.sign_in = PersonSignIn(self.settings, self.keys, issuer, clock=self.clock)
        self.sessions = BrowserSessions(self.settings, self.keys, self.clock)

    @asynccontextmanager
    async def browser(self) -> AsyncGenerator["Browser"]:
        """Give a browser that has never been here."""
        app = Starlette(
            routes=[
                Route("/pickup/callback", self._finish),
                Route("/pickup/{id}/sign-in", self._begin),
                Route("/pickup/{id}", self._show),
            ]
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=self.settings.http_url) as http:
            yield Browser(http, self.issuer)

    async def _begin(self, request: Request) -> Response:
        try:
            return await self.sign_in.begin(request.path_params["id"], prompt=request.query_params.get("prompt"))
        except SignInFailed as failure:
            return JSONResponse({"failed": str(failure), "page": failure.pickup_id}, status_code=503)

    async def _finish(self, request: Request) -> Response:
        try:
            page, recipient = await self.sign_in.finish(request)
        except SignInFailed as failure:
            response: Response = JSONResponse({"failed": str(failure), "page": failure.pickup_id}, status_code=403)
        else:
            response = JSONResponse({"page": page, "id": recipient.id, "name": recipient.name})
            self.sessions.start(response, recipient)
        self.sign_in.forget(request, response)
        return response

    async def _show(self, request: Request) -> Response:
        session = self.sessions.find(request)
        if session is None:
            return Response(status_code=401)
        return JSONResponse({"id": session.recipient.id, "name": session.recipient.name})


@dataclass
class Browser:
    """A browser with its cookies."""

    http: httpx.AsyncClient
    issuer: SmallIssuer

    async def begin(self, page: str = PAGE, **query: str) -> str:
        """Return where somebody is sent who wants to sign in."""
        answer = await self.http.get(f"/pickup/{page}/sign-in", params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    async def come_back(self, callback: str) -> httpx.Response:
        """Return what somebody gets whom the issuer has sent back."""
        return await self.http.get(callback)

    async def sign_in(self, page: str = PAGE) -> httpx.Response:
        """Return what somebody gets who signs in."""
        return await self.come_back(await self.issuer.sign_in(await self.begin(page)))


@pytest.fixture
def door(clock: FakeClock, issuer: SmallIssuer, tmp_path: Path) -> Door:
    """Return a server with a client that has a secret."""
    secret_file = tmp_path / "client-secret"
    secret_file.write_text(f"{WEB_CLIENT_SECRET}\n")
    settings = {
        "http_url": URL,
        "http_issuer": issuer.url,
        "http_client_id": WEB_CLIENT,
        "http_client_secret_file": secret_file,
        "http_state_keys": [base64.b64encode(KEYS[0]).decode()],
    }
    return Door(clock, issuer, HttpSettings.model_validate(settings))


@pytest.fixture
async def browser(door: Door) -> AsyncGenerator[Browser]:
    """Give a browser that has never been here."""
    async with door.browser() as browser:
        yield browser


def change_query(url: str, **changes: str | list[str] | None) -> str:
    """Return a URL with other parameters; those that are None are left out."""
    known = {**parse_qs(urlsplit(url).query), **changes}
    query = urlencode({name: value for name, value in known.items() if value is not None}, doseq=True)
    return f"{url.partition('?')[0]}?{query}"


def list_cookies(answer: httpx.Response) -> list[str]:
    """Return the cookies that an answer sets, with their attributes."""
    return answer.headers.get_list("set-cookie")


async def test_somebody_who_signs_in_is_who_the_issuer_says_at_the_page_they_came_from(
    door: Door, browser: Browser, issuer: SmallIssuer
) -> None:
    issuer.web_client.person = {"sub": "42", "preferred_username": "jane"}

    answer = await browser.sign_in()

    assert answer.json() == {"page": PAGE, "id": f"{ISSUER_URL}#42", "name": f"{ISSUER_URL}#42 (jane)"}
    assert (await browser.http.get(f"/pickup/{PAGE}")).json()["id"] == f"{ISSUER_URL}#42"
    [asked], [exchanged] = issuer.web_client.sign_ins, issuer.web_client.exchanges
    assert asked.keys() == {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    }
    assert (asked["scope"], asked["code_challenge_method"]) == ("openid", "S256")
    assert asked["redirect_uri"] == f"{URL}/pickup/callback"
    assert exchanged.keys() == {"grant_type", "code", "redirect_uri", "code_verifier"}
    assert 43 <= len(exchanged["code_verifier"]) <= 128, "RFC 7636, section 4.1"


async def test_the_recipient_is_who_has_an_access_token_with_the_same_subject(
    door: Door, browser: Browser, issuer: SmallIssuer
) -> None:
    issuer.web_client.person = {"sub": "jane doe \u200b"}
    sign_in = create_sign_in(door.settings, door.clock, issuer.transport)
    caller = await sign_in.verify_token(issuer.sign(sub="jane doe \u200b"))

    assert caller is not None
    assert caller.caller.recipient is not None
    assert (await browser.sign_in()).json()["id"] == caller.caller.recipient.id


async def test_a_page_can_ask_for_another_sign_in(browser: Browser, issuer: SmallIssuer) -> None:
    await browser.begin(prompt="login")

    assert issuer.web_client.sign_ins == []
    assert parse_qs(urlsplit(await browser.begin(prompt="login")).query)["prompt"] == ["login"]
    assert "prompt" not in parse_qs(urlsplit(await browser.begin()).query)


async def test_two_tabs_sign_in_at_once(browser: Browser, issuer: SmallIssuer) -> None:
    first, second = await browser.begin("first"), await browser.begin("second")

    late, early = await issuer.sign_in(first), await issuer.sign_in(second)

    assert (await browser.come_back(early)).json()["page"] == "second"
    assert (await browser.come_back(late)).json()["page"] == "first"


async def test_another_replica_finishes_what_one_began(door: Door, browser: Browser, issuer: SmallIssuer) -> None:
    callback = await issuer.sign_in(await browser.begin())
    door.keys = [b"n" * 32, *KEYS]
    door.configure()

    assert (await browser.come_back(callback)).json()["page"] == PAGE


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("secret", [WEB_CLIENT_SECRET, "p3:V %2F+x~\u00fc&J9wQ=zR6"])
async def test_a_client_proves_itself_as_the_issuer_wants_it(
    door: Door, browser: Browser, issuer: SmallIssuer, method: str, secret: str
) -> None:
    assert door.settings.http_client_secret_file is not None
    issuer.web_client.auth_method, issuer.web_client.secret = method, secret
    door.settings.http_client_secret_file.write_text(secret)

    assert (await browser.sign_in()).status_code == 200


async def test_an_issuer_that_does_not_say_how_gets_the_secret_by_basic(browser: Browser, issuer: SmallIssuer) -> None:
    issuer.metadata = {"token_endpoint_auth_methods_supported": None, "code_challenge_methods_supported": None}

    assert (await browser.sign_in()).status_code == 200


async def test_a_public_client_has_no_secret(door: Door, browser: Browser, issuer: SmallIssuer) -> None:
    issuer.web_client.secret = None
    door.configure(http_client_secret_file=None)

    assert (await browser.sign_in()).status_code == 200
    assert issuer.web_client.exchanges[0]["client_id"] == WEB_CLIENT


async def test_the_secret_is_read_at_each_sign_in(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    path = door.settings.http_client_secret_file
    assert path is not None
    issuer.web_client.secret = "Hs5Tn0Yb2Gd8Kc1W"

    refused = await browser.sign_in()
    path.write_text("Hs5Tn0Yb2Gd8Kc1W")
    accepted = await browser.sign_in()
    path.unlink()
    missing = await browser.sign_in()

    assert (refused.status_code, accepted.status_code, missing.status_code) == (403, 200, 403)
    assert str(path) not in missing.text
    assert caplog.messages == [
        "Nobody was signed in at a page, since the token endpoint of the issuer is of no use: "
        "it answers invalid_client.",
        "Nobody was signed in at a page, since the secret of the client cannot be read: "
        f"QUMULO_HTTP_CLIENT_SECRET_FILE names {path}, which does not exist.",
    ]
    assert len(issuer.web_client.exchanges) == 2


async def test_cookies_are_for_this_host_over_https_and_for_no_script(browser: Browser, issuer: SmallIssuer) -> None:
    begun = await browser.http.get(f"/pickup/{PAGE}/sign-in")
    finished = await browser.come_back(await issuer.sign_in(begun.headers["Location"]))

    [attempt], [session, end] = list_cookies(begun), list_cookies(finished)

    assert attempt.startswith("__Host-pickup-sign-in-")
    assert session.startswith("__Host-pickup-session=")
    for cookie in (attempt, session):
        attributes = cookie.split("; ")[1:]
        assert {each.lower() for each in attributes} == {"httponly", "max-age=600", "path=/", "samesite=lax", "secure"}
    assert end.startswith(f'{attempt.partition("=")[0]}=""; ')
    assert "Max-Age=0" in end
    state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
    assert not find_secrets(attempt.encode(), [state, issuer.web_client.exchanges[0]["code_verifier"]])
    assert not find_secrets(session.encode(), [ISSUER_URL])


async def test_on_this_machine_cookies_need_no_https(door: Door, issuer: SmallIssuer) -> None:
    door.configure(http_url="http://localhost:8080")
    issuer.web_client.redirect_uri = "http://localhost:8080/pickup/callback"

    async with door.browser() as browser:
        begun = await browser.http.get(f"/pickup/{PAGE}/sign-in")
        finished = await browser.come_back(await issuer.sign_in(begun.headers["Location"]))
        shown = await browser.http.get(f"/pickup/{PAGE}")

    assert shown.status_code == 200
    for cookie in (*list_cookies(begun), *list_cookies(finished)):
        assert cookie.startswith("pickup-")
        assert "secure" not in cookie.lower()


async def check_unbegun(answer: httpx.Response, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture) -> None:
    """Check that somebody came back from nowhere, and that the issuer was not asked about it."""
    assert answer.status_code == 403
    assert answer.json()["failed"].startswith("This sign-in cannot be finished here: ")
    assert answer.json()["page"] is None
    assert issuer.requests.count(TOKEN_PATH) == len(issuer.web_client.id_tokens)
    assert caplog.messages == [f"Nobody was signed in at a page, since {NOT_BEGUN}."]


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"state": ""},
        {"state": "of-somebody-else"},
        {"state": "\u00fc" * 100},
        {"state": ["one", "two"]},
    ],
    ids=["none", "an empty one", "another one", "a long one", "two"],
)
async def test_who_comes_back_with_another_state_is_nobody(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, change: Mapping[str, Any]
) -> None:
    callback = await issuer.sign_in(await browser.begin())

    answer = await browser.come_back(change_query(callback, **change))

    await check_unbegun(answer, issuer, caplog)


async def test_a_second_state_beside_the_right_one_is_refused(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = await issuer.sign_in(await browser.begin())
    [state] = parse_qs(urlsplit(callback).query)["state"]

    await check_unbegun(await browser.come_back(change_query(callback, state=[state, state])), issuer, caplog)


async def test_a_sign_in_of_another_browser_signs_nobody_in(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    of_attacker = await issuer.sign_in(await browser.begin())

    async with door.browser() as victim:
        await victim.begin()
        answer = await victim.come_back(of_attacker)

        await check_unbegun(answer, issuer, caplog)
        assert (await victim.http.get(f"/pickup/{PAGE}")).status_code == 401


async def test_the_cookie_of_one_sign_in_does_not_finish_another_one(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await issuer.sign_in(await browser.begin()), await issuer.sign_in(await browser.begin())
    [(first_name, _), (_, second_value)] = browser.http.cookies.items()
    assert first != second
    browser.http.cookies.clear()

    answer = await browser.http.get(first, headers={"Cookie": f"{first_name}={second_value}"})

    await check_unbegun(answer, issuer, caplog)


async def test_nobody_comes_back_twice(browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture) -> None:
    callback = await issuer.sign_in(await browser.begin())
    [(name, value)] = browser.http.cookies.items()
    assert (await browser.come_back(callback)).status_code == 200

    await check_unbegun(await browser.come_back(callback), issuer, caplog)
    kept = await browser.http.get(callback, headers={"Cookie": f"{name}={value}"})

    await check_unbegun(kept, issuer, caplog)


async def test_at_another_replica_the_issuer_refuses_who_comes_back_twice(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = await issuer.sign_in(await browser.begin())
    [(name, value)] = browser.http.cookies.items()
    assert (await browser.come_back(callback)).status_code == 200
    door.configure()

    answer = await browser.http.get(callback, headers={"Cookie": f"{name}={value}"})

    assert answer.status_code == 403
    assert UNUSABLE in answer.json()["failed"]
    assert caplog.messages[0].endswith("is of no use: it answers invalid_grant.")


async def test_of_many_finished_sign_ins_the_latest_are_remembered(
    door: Door, browser: Browser, issuer: SmallIssuer
) -> None:
    issuer.web_client.person = None
    callbacks, cookies = list[str](), list[str]()
    for _ in range(MAX_USED + 1):
        begun = await browser.http.get(f"/pickup/{PAGE}/sign-in")
        callbacks.append(await issuer.sign_in(begun.headers["Location"]))
        cookies.append(list_cookies(begun)[0].partition(";")[0])
        browser.http.cookies.clear()
        await browser.http.get(callbacks[-1], headers={"Cookie": cookies[-1]})

    oldest = await browser.http.get(callbacks[0], headers={"Cookie": cookies[0]})
    latest = await browser.http.get(callbacks[-1], headers={"Cookie": cookies[-1]})

    assert (oldest.json()["page"], latest.json()["page"]) == (PAGE, None), "the oldest one could only ask the issuer"


async def test_who_comes_back_late_is_nobody(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    in_time, late = await issuer.sign_in(await browser.begin()), await issuer.sign_in(await browser.begin())

    door.clock.now += LIFETIME - SECOND
    assert (await browser.come_back(in_time)).status_code == 200
    door.clock.now += SECOND

    await check_unbegun(await browser.come_back(late), issuer, caplog)


@pytest.mark.parametrize(
    "value",
    ["", "x", "00", "zz", "00" * 40, "=" * 40, "\u00fc", "00" * 15_000],
    ids=lambda value: f"{value[:3]!a} {len(value)}",
)
async def test_garbage_in_the_cookie_is_no_sign_in(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    callback = await issuer.sign_in(await browser.begin())
    [(name, _)] = browser.http.cookies.items()
    browser.http.cookies.clear()

    answer = await browser.http.get(callback, headers={b"Cookie": f"{name}={value}".encode()})

    await check_unbegun(answer, issuer, caplog)


async def test_an_issuer_that_nobody_signed_in_at_signs_nobody_in(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.web_client.person = None

    answer = await browser.sign_in()

    assert answer.status_code == 403
    assert answer.json()["failed"].startswith("The identity provider says that nobody has signed in.")
    assert answer.json()["page"] == PAGE, "the page can be offered again"
    assert list_cookies(answer)[0].startswith("__Host-pickup-sign-in-")
    assert TOKEN_PATH not in issuer.requests
    assert caplog.messages == ["Nobody was signed in at a page, since the issuer has sent them back without a code."]


@pytest.mark.parametrize(
    "change",
    [
        {"code": None},
        {"code": ""},
        {"code": ["one-code", "two-codes"]},
        {"error": "<script>alert(1)</script>", "error_description": "call 555-0100", "error_uri": "https://a.example"},
    ],
    ids=str,
)
async def test_nothing_of_an_address_is_repeated(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, change: Mapping[str, Any]
) -> None:
    callback = await issuer.sign_in(await browser.begin())

    answer = await browser.come_back(change_query(callback, **change))

    assert answer.status_code == 403
    assert TOKEN_PATH not in issuer.requests
    # What the browser of this test asks for, it may log as well.
    logged = [told for told in caplog.messages if URL not in told]
    told = f"{answer.text} {answer.headers} {logged}"
    assert not any(word in told for word in ("script", "555-0100", "a.example", "one-code", "two-codes"))


@pytest.mark.parametrize(
    "iss",
    [None, "", "https://attacker.example.com", f"{ISSUER_URL}/", [ISSUER_URL, ISSUER_URL], [ISSUER_URL, "https://a.b"]],
    ids=str,
)
async def test_an_answer_of_another_issuer_is_refused(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, iss: str | list[str] | None
) -> None:
    callback = await issuer.sign_in(await browser.begin())

    answer = await browser.come_back(change_query(callback, iss=iss))

    assert answer.status_code == 403
    assert UNUSABLE in answer.json()["failed"]
    assert TOKEN_PATH not in issuer.requests
    assert caplog.messages == [
        "Nobody was signed in at a page, since the answer that a browser brought is of another issuer."
    ]


@pytest.mark.parametrize(("iss", "status"), [(None, 200), (ISSUER_URL, 200), ("https://attacker.example.com", 403)])
async def test_an_issuer_that_does_not_promise_to_name_itself_need_not(
    browser: Browser, issuer: SmallIssuer, iss: str | None, status: int
) -> None:
    issuer.metadata = {"authorization_response_iss_parameter_supported": None}
    callback = await issuer.sign_in(await browser.begin())

    assert (await browser.come_back(change_query(callback, iss=iss))).status_code == status


async def test_a_code_of_another_sign_in_is_of_no_use(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = await issuer.sign_in(await browser.begin())
    async with door.browser() as victim:
        [code] = parse_qs(urlsplit(await issuer.sign_in(await victim.begin())).query)["code"]

    answer = await browser.come_back(change_query(callback, code=code))

    assert answer.status_code == 403
    assert caplog.messages[0].endswith("is of no use: it answers invalid_grant.")


async def test_a_code_that_nobody_gave_is_of_no_use(browser: Browser, issuer: SmallIssuer) -> None:
    callback = await issuer.sign_in(await browser.begin())

    answer = await browser.come_back(change_query(callback, code="\u00fc +%&=;\x00'\"<" * 50))

    assert answer.status_code == 403
    assert issuer.web_client.exchanges[0]["code"] == "\u00fc +%&=;\x00'\"<" * 50


def _sign_by_public_key(issuer: SmallIssuer) -> str:
    """Return a token that is signed by a secret, for which the public key of the issuer stands."""
    public = issuer.keys[-1].private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = f'{{"typ": "JWT", "alg": "HS256", "kid": "{issuer.keys[-1].key_id}"}}'
    return join_token(header, f'{{"iss": "{issuer.url}"}}', lambda signed: hmac.digest(pem, signed, "sha256"))


BAD_ID_TOKENS: dict[str, tuple[Callable[[SmallIssuer, str], object], str]] = {
    "none": (lambda _issuer, _nonce: None, "it gives no ID token"),
    "a number": (lambda _issuer, _nonce: 5, "it gives no ID token"),
    "no JWT": (lambda _issuer, _nonce: "garbage", "it is no JWT"),
    "without a signature": (
        lambda _issuer, _nonce: join_token('{"alg": "none"}', "{}", lambda _: b"x"),
        "it is signed in a way that is not accepted",
    ),
    "signed by the public key": (
        lambda issuer, _nonce: _sign_by_public_key(issuer),
        "it is signed in a way that is not accepted",
    ),
    "signed by another key": (
        lambda issuer, nonce: issuer.sign_id(key=SignatureKey(), nonce=nonce),
        "no key of the issuer is the one that it was signed with",
    ),
    "signed by another key of that name": (
        lambda issuer, nonce: issuer.sign_id(key=SignatureKey(key_id=issuer.keys[-1].key_id), nonce=nonce),
        "its signature is wrong",
    ),
    "an access token": (
        lambda issuer, nonce: issuer.sign(aud=WEB_CLIENT, nonce=nonce),
        "its header says that it is of another kind",
    ),
    "an access token without a type": (
        lambda issuer, _nonce: issuer.sign(header={"typ": None}),
        "it is for another client",
    ),
}


@pytest.mark.parametrize("kind", BAD_ID_TOKENS)
async def test_an_id_token_that_is_none_signs_nobody_in(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    create, reason = BAD_ID_TOKENS[kind]
    location = await browser.begin()
    [nonce] = parse_qs(urlsplit(location).query)["nonce"]
    issuer.answers = {TOKEN_PATH: JSONResponse({"token_type": "Bearer", "id_token": create(issuer, nonce)})}

    answer = await browser.come_back(await issuer.sign_in(location))

    assert answer.status_code == 403
    assert UNUSABLE in answer.json()["failed"]
    assert (await browser.http.get(f"/pickup/{PAGE}")).status_code == 401
    [told] = caplog.messages
    assert told.endswith(f": {reason}.")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://attacker.example.com"}, "it is of another issuer"),
        ({"iss": None}, "it is of another issuer"),
        ({"aud": "chat"}, "it is for another client"),
        ({"aud": ["chat", "other"], "azp": WEB_CLIENT}, "it is for another client"),
        ({"aud": None}, "it is for another client"),
        ({"azp": "chat"}, "it is for another client"),
        ({"aud": [WEB_CLIENT, "chat"]}, "it is for another client"),
        ({"aud": [WEB_CLIENT, "chat"], "azp": "chat"}, "it is for another client"),
        ({"nonce": None}, "it is of another sign-in"),
        ({"nonce": "of-another-sign-in"}, "it is of another sign-in"),
        ({"nonce": ["\ud800"]}, "it is of another sign-in"),
        ({"exp": 1}, "it has expired"),
        ({"exp": None}, "it never expires"),
        ({"iat": 9_999_999_999}, "it was issued in the future"),
        ({"nbf": 9_999_999_999}, "it is not valid yet"),
        ({"typ": "Bearer"}, "its claims say that it is no ID token"),
        ({"token_use": "access"}, "its claims say that it is no ID token"),
        ({"events": {}}, "its claims say that it is no ID token"),
        ({"sub": ""}, "it does not say whose it is"),
        ({"sub": ["jane"]}, "it does not say whose it is"),
    ],
    ids=str,
)
async def test_an_id_token_that_says_something_else_signs_nobody_in(
    browser: Browser,
    issuer: SmallIssuer,
    caplog: pytest.LogCaptureFixture,
    claims: Mapping[str, Any],
    reason: str,
) -> None:
    issuer.web_client.id_claims = claims

    answer = await browser.sign_in()

    assert answer.status_code == 403
    assert UNUSABLE in answer.json()["failed"]
    assert (await browser.http.get(f"/pickup/{PAGE}")).status_code == 401
    [told] = caplog.messages
    assert told.startswith(f"Nobody was signed in at a page, since their ID token is not accepted: {reason}")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [WEB_CLIENT]},
        {"aud": [WEB_CLIENT, "chat"], "azp": WEB_CLIENT},
        {"azp": WEB_CLIENT, "typ": "ID", "at_hash": "x"},
        {"token_use": "id"},
    ],
    ids=str,
)
async def test_an_id_token_may_say_more(browser: Browser, issuer: SmallIssuer, claims: Mapping[str, Any]) -> None:
    issuer.web_client.id_claims = claims

    assert (await browser.sign_in()).json()["id"] == f"{ISSUER_URL}#jane"


@pytest.mark.parametrize("seconds", [-59, 59])
async def test_the_clocks_may_differ_by_a_minute(
    door: Door, browser: Browser, issuer: SmallIssuer, seconds: int
) -> None:
    now = door.clock.now.timestamp()
    issuer.web_client.id_claims = {"iat": now + 59, "exp": now + seconds}

    assert (await browser.sign_in()).status_code == 200


@pytest.mark.parametrize("claims", [{"sub": None, "azp": WEB_CLIENT}, {"sub": "x", "idtyp": "app"}], ids=str)
async def test_a_client_is_no_person(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, claims: Mapping[str, Any]
) -> None:
    issuer.web_client.person = claims

    answer = await browser.sign_in()

    assert answer.status_code == 403
    assert "is an application and no person" in answer.json()["failed"]
    assert caplog.messages == ["Nobody was signed in at a page, since the ID token is of a client and not of a person."]


async def test_a_person_of_another_issuer_with_the_same_subject_is_somebody_else(
    door: Door, issuer: SmallIssuer
) -> None:
    other = SmallIssuer(door.clock, url="https://idp.example.org")
    elsewhere = Door(door.clock, other, door.settings)
    elsewhere.configure(http_issuer=other.url)

    async with door.browser() as browser, elsewhere.browser() as other_browser:
        jane, other_jane = (await browser.sign_in()).json(), (await other_browser.sign_in()).json()

    assert jane["id"] != other_jane["id"]


async def test_an_id_token_of_another_issuer_signs_nobody_in(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    attacker = SmallIssuer(door.clock, keys=[SignatureKey(key_id=issuer.keys[0].key_id)])
    location = await browser.begin()
    id_token = attacker.sign_id(nonce=parse_qs(urlsplit(location).query)["nonce"][0])
    issuer.answers = {TOKEN_PATH: JSONResponse({"id_token": id_token})}

    assert (await browser.come_back(await issuer.sign_in(location))).status_code == 403
    assert "its signature is wrong" in caplog.text


BAD_ANSWERS = {
    "an error": (Response("oops", status_code=500), "answers with status 500"),
    "an error with tokens": (JSONResponse({"id_token": "a.b.c"}, status_code=503), "answers with status 503"),
    "garbage": (Response("<html>"), "is not JSON"),
    "no object": (JSONResponse([]), "is no JSON object"),
    "nothing": (JSONResponse({}), "gives no ID token"),
    "a redirect": (RedirectResponse("https://attacker.example.com/"), "answers with status 307"),
    "too much": (JSONResponse({"id_token": "a" * MAX_DOCUMENT_BYTES}), "is larger than 256 KiB"),
    "compressed": (JSONResponse({}, headers={"Content-Encoding": "gzip"}), "is compressed, which was not asked for"),
    "an error that is known": (JSONResponse({"error": "invalid_grant"}, status_code=400), "answers invalid_grant"),
    "an invented error": (JSONResponse({"error": "<b>call me</b>"}, status_code=400), "gives no ID token"),
    "an error of no kind": (JSONResponse({"error": ["invalid_grant"]}, status_code=400), "gives no ID token"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
async def test_a_token_endpoint_that_answers_something_else_signs_nobody_in(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    answer, reason = BAD_ANSWERS[kind]
    issuer.answers = {TOKEN_PATH: answer}

    told = await browser.sign_in()

    assert told.status_code == 403
    assert UNUSABLE in told.json()["failed"]
    assert caplog.messages == [
        f"Nobody was signed in at a page, since the token endpoint of the issuer is of no use: it {reason}."
    ]
    assert issuer.requests.count(TOKEN_PATH) == 1


async def test_an_issuer_that_is_away_then_signs_nobody_in(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = await issuer.sign_in(await browser.begin())
    issuer.is_away = True

    assert (await browser.come_back(callback)).status_code == 403
    assert "cannot be reached" in caplog.text


async def test_only_some_codes_are_exchanged_at_a_time(door: Door, browser: Browser, issuer: SmallIssuer) -> None:
    callbacks = [await issuer.sign_in(await browser.begin()) for _ in range(3 * MAX_POSTS)]
    issuer.requests.clear()
    released, answers = anyio.Event(), list[httpx.Response]()
    issuer.before_answer = released.wait

    async def come_back(callback: str) -> None:
        answers.append(await browser.http.get(callback, headers={"Cookie": cookies}))

    cookies = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    browser.http.cookies.clear()
    async with anyio.create_task_group() as tasks:
        for callback in callbacks:
            tasks.start_soon(come_back, callback)
        await wait_until(lambda: len(issuer.requests) == MAX_POSTS)
        await anyio.wait_all_tasks_blocked()
        assert issuer.requests == [TOKEN_PATH] * MAX_POSTS
        released.set()

    assert [answer.status_code for answer in answers] == [200] * len(callbacks)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"authorization_endpoint": None}, "has no authorization_endpoint that begins with https://"),
        ({"authorization_endpoint": "http://idp.example.com/"}, "has no authorization_endpoint that begins with"),
        ({"token_endpoint": None}, "has no token_endpoint that begins with https://"),
        ({"token_endpoint": ["https://idp.example.com/"]}, "has no token_endpoint that begins with https://"),
        ({"code_challenge_methods_supported": ["plain"]}, "has no S256 among its code_challenge_methods_supported"),
    ],
    ids=str,
)
async def test_an_issuer_that_does_not_say_where_signs_nobody_in(
    browser: Browser,
    issuer: SmallIssuer,
    caplog: pytest.LogCaptureFixture,
    metadata: dict[str, object],
    reason: str,
) -> None:
    issuer.metadata = metadata

    answer = await browser.http.get(f"/pickup/{PAGE}/sign-in")

    assert answer.status_code == 503
    assert UNUSABLE in answer.json()["failed"]
    assert list_cookies(answer) == []
    [told] = caplog.messages
    assert told.startswith(f"Nobody was signed in at a page, since the metadata of the issuer are of no use: {reason}")


async def test_an_issuer_that_is_away_at_first_is_asked_again(
    door: Door, browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.is_away = True
    refused = await browser.http.get(f"/pickup/{PAGE}/sign-in")
    issuer.is_away = False
    door.clock.now += COOL_DOWN

    assert refused.status_code == 503
    assert "the metadata of the issuer are of no use: cannot be read." in caplog.messages[-1]
    assert (await browser.sign_in()).status_code == 200


async def test_metadata_and_keys_are_read_once_for_pages_and_tools(
    door: Door, browser: Browser, issuer: SmallIssuer
) -> None:
    await browser.sign_in()
    await browser.sign_in()

    assert issuer.requests.count(issuer.metadata_path) == issuer.requests.count(KEYS_PATH) == 1


async def test_an_authorization_endpoint_with_a_query_keeps_it(browser: Browser, issuer: SmallIssuer) -> None:
    issuer.metadata = {"authorization_endpoint": f"https://idp.example.com{AUTHORIZATION_PATH}?realm=a%26b"}

    assert ("realm", "a&b") in parse_qsl(urlsplit(await browser.begin()).query)
    assert (await browser.sign_in()).status_code == 200


async def test_nothing_secret_of_a_sign_in_is_logged_or_told(
    browser: Browser, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # Servers of other tests in this process have bounded it.
    caplog.set_level(logging.DEBUG, "httpx")
    answers = [await browser.sign_in()]
    issuer.web_client.id_claims = {"nonce": "wrong"}
    answers.append(await browser.sign_in())
    issuer.answers = {TOKEN_PATH: Response("x", status_code=500)}
    answers.append(await browser.sign_in())

    # What the browser of this test asks for, it logs as well.
    logged = "".join(told for told in caplog.messages if URL not in told and AUTHORIZATION_PATH not in told)
    told = "".join(f"{answer.text}{answer.headers}" for answer in answers) + logged
    exchanged, asked = issuer.web_client.exchanges, issuer.web_client.sign_ins
    kept_secret = [WEB_CLIENT_SECRET, *issuer.web_client.id_tokens]
    kept_secret += [form[name] for form in exchanged for name in ("code", "code_verifier")]
    kept_secret += [form[name] for form in asked for name in ("state", "nonce")]
    assert len(kept_secret) == 1 + 2 + 4 + 6
    assert "/token" in logged
    assert not find_secrets(told.encode(), kept_secret)


async def test_a_flood_of_failures_is_a_line_a_minute(
    door: Door, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(200):
        await browser.http.get("/pickup/callback", params={"state": f"guess-{number}", "code": "x"})
    door.clock.now += PAUSE
    await browser.http.get("/pickup/callback")

    assert caplog.messages == [
        f"Nobody was signed in at a page, since {NOT_BEGUN}.",
        f"Nobody was signed in at a page, since {NOT_BEGUN}. (199 more of this kind before)",
    ]
