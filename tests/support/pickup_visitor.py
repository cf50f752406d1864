"""A person at a page where bearer tokens wait, whose browser is made of requests, and keeps all that came back."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from tests.support.http_server import Place
from tests.support.issuer import WEB_CLIENT, WEB_CLIENT_SECRET, SmallIssuer

SITE: Final = "https://tokens.example.com"
"""The URL of the service, as people and clients know it; the tests reach it where it listens."""

PROOF: Final = re.compile(r'data-proof="([^"]+)"')
"""What only the script of a page knows of it."""


def offer_pickup(issuer: SmallIssuer, ca_file: Path) -> Mapping[str, str]:
    """Let people sign in with an issuer that is served, and return the settings by which a server does that."""
    secret = ca_file.with_name("client-secret")
    secret.write_text(f"{WEB_CLIENT_SECRET}\n")
    secret.chmod(0o600)
    issuer.web_client.redirect_uri = f"{SITE}/pickup/callback"
    return {
        "QUMULO_DELIVERY": "pickup",
        "QUMULO_CONFIRM": "none",
        "QUMULO_HTTP_URL": SITE,
        "QUMULO_HTTP_AUDIENCE": issuer.audience,
        "QUMULO_HTTP_ISSUER": issuer.url,
        "QUMULO_HTTP_ISSUER_CA_FILE": str(ca_file),
        "QUMULO_HTTP_CLIENT_ID": WEB_CLIENT,
        "QUMULO_HTTP_CLIENT_SECRET_FILE": str(secret),
    }


@dataclass
class Visitor:
    """Somebody at a browser, which has these cookies; `responses` are all that the server answered."""

    client: httpx2.AsyncClient
    issuer: SmallIssuer
    cookies: dict[str, str] = field(default_factory=dict[str, str])
    responses: list[httpx2.Response] = field(default_factory=list[httpx2.Response])

    async def open(self, url: str) -> httpx2.Response:
        """Open an address of the service, or one that was read there."""
        return await self._send("GET", url, {})

    async def sign_in(self, url: str, person: str) -> httpx2.Response:
        """Sign in as somebody at a page, and return the page as they see it then."""
        self.issuer.web_client.person = {"sub": person}
        sent = await self.open(f"{url}/sign-in")
        assert sent.is_redirect, sent.text
        back = await self.open(await self.issuer.sign_in(sent.headers["Location"]))
        assert back.status_code == 303, back.text
        return await self.open(back.headers["Location"])

    async def take(self, page: httpx2.Response) -> httpx2.Response:
        """Ask for the bearer token, as the script of a page does."""
        return await self._post(page, "hand-out")

    async def confirm(self, page: httpx2.Response) -> httpx2.Response:
        """Confirm the receipt, as the script of a page does."""
        return await self._post(page, "receipt")

    async def _post(self, page: httpx2.Response, step: str) -> httpx2.Response:
        found = PROOF.search(page.text)
        assert found is not None, page.text
        headers = {"Origin": SITE, "Sec-Fetch-Site": "same-origin", "X-Pickup-Proof": found[1]}
        return await self._send("POST", f"{page.request.url.path}/{step}", headers)

    async def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpx2.Response:
        parts = urlsplit(url)
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        response = await self.client.request(
            method,
            f"{parts.path}?{parts.query}" if parts.query else parts.path,
            headers={"Host": urlsplit(SITE).netloc, **(cookie if self.cookies else {}), **headers},
        )
        self.client.cookies.clear()
        for line in response.headers.get_list("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        self.responses.append(response)
        return response


@asynccontextmanager
async def visiting(place: Place, issuer: SmallIssuer) -> AsyncGenerator[Visitor]:
    """Open a browser that nobody has used, where a server is reached, or a proxy in front."""
    async with place.connected(None) as client:
        yield Visitor(client, issuer)


def read_handed_out(response: httpx2.Response) -> str:
    """Return the bearer token that was handed out."""
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    bearer_token = content["bearer_token"]
    assert isinstance(bearer_token, str)
    return bearer_token
