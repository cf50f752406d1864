"""Visitors of the pages at which bearer tokens wait: browsers without a window, which sign in with a small issuer."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

import httpx
from starlette.responses import Response
from starlette.types import ASGIApp

from tests.support.harness import Harness
from tests.support.issuer import WEB_CLIENT, SmallIssuer
from token_tools.http_settings import HttpSettings
from token_tools.server.http.app import create_app
from token_tools.server.http.bounds import TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.pickup.browser_sessions import BrowserSessions
from token_tools.server.http.pickup.pages import PickupPages
from token_tools.server.http.pickup.person_sign_in import PersonSignIn

ORIGIN: Final = "https://tokens.example.com"
ISSUER: Final = "https://idp.example.com"
_STATE_KEY: Final = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


class PageReader(HTMLParser):
    """What somebody finds on a page: its elements with their attributes, and its texts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts += [data.strip()] if data.strip() else []

    @property
    def text(self) -> str:
        """All texts, a line each."""
        return "\n".join(self.texts)

    @property
    def links(self) -> list[str | None]:
        """Where links lead."""
        return [attributes["href"] for tag, attributes in self.elements if tag == "a"]

    @property
    def proof(self) -> str:
        """What the page's script sends back; nothing if the page has no such script."""
        [main] = [attributes for tag, attributes in self.elements if tag == "main"]
        return main.get("data-proof") or ""


@dataclass
class Site:
    """A server with pages and a small issuer; while it is `open`, its cluster is that of a harness."""

    harness: Harness
    issuer: SmallIssuer
    url: str = ORIGIN
    pages: PickupPages = field(init=False)
    app: ASGIApp = field(init=False)

    def __post_init__(self) -> None:
        """Put the server together."""
        settings = HttpSettings.model_validate(
            {
                "http_url": self.url,
                "http_issuer": self.issuer.url,
                "http_client_id": WEB_CLIENT,
                "http_state_keys": _STATE_KEY,
            }
        )
        self.issuer.web_client.secret = None
        keys, clock = [b"k" * 32], lambda: self.harness.now
        issuer = Issuer(settings.http_issuer or "", ca_file=None, transport=self.issuer.transport, clock=clock)
        sign_in = PersonSignIn(settings, keys, issuer, clock=clock)
        self.pages = PickupPages(settings, sign_in, BrowserSessions(settings, keys, clock))
        bounded = TimeBounds(Response())
        self.app = create_app(settings, bounded, Readiness(lambda: False), None, self.pages)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Show what waits of the harness's cluster, until the end of the block."""
        async with self.harness.connected():
            self.pages.begin(self.harness.opened[-1])
            yield

    def visit(self) -> "Visitor":
        """Return somebody with a browser of their own."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return Visitor(self, httpx.AsyncClient(transport=transport, base_url=ORIGIN))


@dataclass
class Visitor:
    """Somebody with a browser, which keeps cookies and follows no redirect by itself."""

    site: Site
    browser: httpx.AsyncClient

    async def get(self, url: str, **headers: str) -> httpx.Response:
        """Open an address."""
        return await self.browser.get(url, headers=headers)

    async def read(self, url: str, status: int = 200) -> PageReader:
        """Open an address, whose page has this status, and read it."""
        answer = await self.get(url)
        assert answer.status_code == status, answer.text
        return PageReader(answer.text)

    async def begin_sign_in(self, url: str, **claims: object) -> str:
        """Follow the link of a page to the issuer, and sign in there as somebody; return where it sends them then."""
        begun = await self.get(f"{url}/sign-in")
        assert begun.status_code == 303, begun.text
        with self._being(claims):
            return await self.site.issuer.sign_in(begun.headers["Location"])

    async def sign_in(self, url: str, subject: str, **claims: object) -> PageReader:
        """Sign in for a page as somebody, and read the page to which that leads."""
        finished = await self.get(await self.begin_sign_in(url, sub=subject, **claims))
        assert (finished.status_code, finished.headers["Location"]) == (303, url)
        answer = await self.get(url)
        return PageReader(answer.text)

    async def post(self, url: str, proof: str | None, **headers: str | None) -> httpx.Response:
        """Send what the script of a page sends, with other headers in part; those that are None are left out."""
        known = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin", "X-Pickup-Proof": proof, **headers}
        return await self.browser.post(url, headers={name: text for name, text in known.items() if text is not None})

    async def take(self, url: str) -> dict[str, str]:
        """Get the bearer token of a page as its script does, and say that it has arrived."""
        proof = (await self.read(url)).proof
        handed_out = await self.post(f"{url}/hand-out", proof)
        assert handed_out.status_code == 200, handed_out.text
        receipt = await self.post(f"{url}/receipt", proof)
        assert receipt.status_code == 200, receipt.text
        content: dict[str, str] = handed_out.json()
        return content

    @contextmanager
    def _being(self, claims: dict[str, object]) -> Generator[None]:
        client = self.site.issuer.web_client
        before, client.person = client.person, claims or None
        try:
            yield
        finally:
            client.person = before


def find_id(url: str) -> str:
    """Return the id of the page at an address."""
    return urlsplit(url).path.rpartition("/")[2]
