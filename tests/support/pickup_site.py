"""A server over HTTPS at whose pages people pick up bearer tokens, with its cluster, identity provider and browser."""

import base64
import socket
import ssl
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

import httpx
import trustme
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, StorageState, ViewportSize

from tests.support.browser import TIMEOUT_MILLISECONDS
from tests.support.http_process import HttpProcess, running_http
from tests.support.http_server import create_body, create_headers
from tests.support.issuer import WEB_CLIENT, WEB_CLIENT_SECRET
from tests.support.oidc_provider import OidcProvider, running_oidc_provider
from tests.support.server_process import ServedCluster, served_cluster
from token_tools.sandbox.https import LOOPBACK

CHAT_URI: Final = "https://chat.example.com/callback"
"""Where a browser that comes from a chat goes back to."""

STATE_KEY: Final = base64.b64encode(b"k" * 32).decode()
_TIMEOUT_SECONDS: Final = 30


class ContextOptions(TypedDict, total=False):
    """How a browser is set up, as Playwright calls it."""

    permissions: Sequence[str]
    viewport: ViewportSize
    color_scheme: Literal["light", "dark"]
    has_touch: bool
    java_script_enabled: bool
    storage_state: StorageState


@dataclass
class PickupSite:
    """The server at a URL, whose certificate is of the authority that `trust` trusts."""

    url: str
    cluster: ServedCluster
    provider: OidcProvider
    browser: Browser
    server: HttpProcess
    trust: ssl.SSLContext
    _bearers: dict[str, str] = field(default_factory=dict[str, str])

    def call(self, person: str, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool as somebody, as a chat does, and return the structured content of the answer."""
        if person not in self._bearers:
            self._bearers[person] = self.provider.issue_to_person(
                person, audience=f"{self.url}/mcp", redirect_uri=CHAT_URI, scope="tokens:write"
            )
        headers = {**create_headers(tool), "Authorization": f"Bearer {self._bearers[person]}"}
        with httpx.Client(verify=self.trust, trust_env=False, timeout=_TIMEOUT_SECONDS) as http:
            answer = http.post(f"{self.url}/mcp", json=create_body(tool, arguments), headers=headers).raise_for_status()
        last = answer.text.strip().splitlines()[-1].removeprefix("data:")
        result: dict[str, Any] = httpx.Response(200, text=last).json()["result"]
        assert not result.get("isError"), result
        content: dict[str, Any] = result["structuredContent"]
        return content

    def create(self, person: str) -> dict[str, Any]:
        """Create a token for local:jane as somebody, and return what they are told."""
        return self.call(person, "create_access_token", user="local:jane")

    @contextmanager
    def visiting(self, **options: Unpack[ContextOptions]) -> Generator["Visitor"]:
        """Open a browser that nobody has used before, and check afterwards that its pages had no complaints."""
        context = self.browser.new_context(ignore_https_errors=True, accept_downloads=True, **options)
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        visitor = Visitor(self, context)
        try:
            yield visitor
        finally:
            context.close()
        assert visitor.complaints == [], visitor.complaints
        assert visitor.foreign_requests == []


@dataclass
class Visitor:
    """A browser of somebody, with what its pages complained about, and what they asked of others than the site."""

    site: PickupSite
    context: BrowserContext
    complaints: list[str] = field(default_factory=list[str])
    requests: list[Request] = field(default_factory=list[Request])
    foreign_requests: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Watch all pages; nothing but this machine is asked."""
        self.context.route("**/*", self._route)
        self.context.on("request", self._note)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def _route(self, route: Route) -> None:
        url = route.request.url
        if url.startswith((self.site.url, self.site.provider.url)):
            route.continue_()
        else:
            # The log-in page of the provider would like to have a font.
            if not (route.request.headers.get("referer") or "").startswith(self.site.provider.url):
                self.foreign_requests.append(url)
            route.abort()

    def open(self, url: str) -> Page:
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.goto(url)
        return page

    def log_in(self, page: Page, person: str) -> None:
        """Log in at the provider, and let the client have what it asks for."""
        page.fill("[name=login]", person)
        page.fill("[name=password]", "any")
        # Who has agreed once is not asked again.
        while page.url.startswith(self.site.provider.url):
            with page.expect_navigation():
                page.click("button[type=submit]")

    def sign_in(self, url: str, person: str) -> Page:
        """Open a page of the site, and sign in there."""
        page = self.open(url)
        page.get_by_role("link", name="Sign in").click()
        self.log_in(page, person)
        page.wait_for_url(url)
        return page


@contextmanager
def running_pickup_site(folder: Path, browser: Browser, **settings: str) -> Generator[PickupSite]:
    """Serve a cluster, start the provider and the command, and end them afterwards."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    url = f"https://{LOOPBACK}:{port}"
    authority = trustme.CA()
    certificate, key, secret = folder / "site.pem", folder / "site.key", folder / "client-secret"
    issued = authority.issue_cert(LOOPBACK)
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    secret.write_text(f"{WEB_CLIENT_SECRET}\n")
    secret.chmod(0o600)
    with (
        served_cluster(folder) as cluster,
        running_oidc_provider(folder, f"{url}/pickup/callback", CHAT_URI) as provider,
        running_http(
            folder,
            environment=cluster.create_environment(
                QUMULO_HTTP_TLS_CERTIFICATE=str(certificate),
                QUMULO_HTTP_TLS_KEY=str(key),
                QUMULO_HTTP_ISSUER=provider.url,
                QUMULO_HTTP_ISSUER_CA_FILE=str(provider.ca_file),
                QUMULO_HTTP_CLIENT_ID=WEB_CLIENT,
                QUMULO_HTTP_CLIENT_SECRET_FILE=str(secret),
                QUMULO_HTTP_STATE_KEYS=STATE_KEY,
                **settings,
            ),
            listen=f"{LOOPBACK}:{port}",
        ) as server,
    ):
        yield PickupSite(url, cluster, provider, browser, server, trust)
