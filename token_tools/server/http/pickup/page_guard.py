"""What protects the pages in a browser: the headers of each answer, and which requests are served at all.

Sources: Content Security Policy Level 3; Fetch Metadata Request Headers; OWASP's cheat sheet on CSRF.
"""

from typing import Final

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from token_tools.http_settings import HttpSettings, format_origin

PROOF_HEADER: Final = "X-Pickup-Proof"
"""The header in which a page sends back its proof. Pages of other servers cannot set it."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
"""The headers of every answer below the pages' path."""


class PageGuard:
    """Lets through to the pages what calls this server by one of its names, and is no browser that only looks ahead."""

    def __init__(self, pages: ASGIApp, settings: HttpSettings) -> None:
        self._pages = pages
        self._security = TransportSecurityMiddleware(
            TransportSecuritySettings(allowed_hosts=[*settings.http_allowed_hosts])
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it; either answer gets the headers."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = await self._find_refusal(scope) or self._pages
        await app(scope, receive, send_guarded)

    async def _find_refusal(self, scope: Scope) -> Response | None:
        if "prefetch" in Request(scope).headers.get("Sec-Purpose", ""):
            return Response("This page is not to be fetched in advance.", 503)
        # Where people come from does not matter; `is_own_request` looks at that where something changes.
        headers = [(name, value) for name, value in scope["headers"] if name != b"origin"]
        return await self._security.validate_request(Request({**scope, "headers": headers}))


def is_own_request(request: Request, url: str) -> bool:
    """Tell whether a browser says that a page of the same origin as a URL has sent a request."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    return request.headers.get("Origin") == format_origin(url) and site == "same-origin"
