"""The HTTP application: the tools behind the sign-in, the way to the issuer, and what probes ask."""

from typing import Final
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from token_tools.http_settings import MCP_PATH, HttpSettings
from token_tools.operations.fleet import Fleet
from token_tools.server.http.access_log import LIVENESS_PATH, METADATA_PATH, READINESS_PATH, AccessLog
from token_tools.server.http.admission import Admission, Challenge, SignIn, find_scopes
from token_tools.server.http.bounds import Bounds, TimeBounds
from token_tools.server.http.health import Readiness, answer_livez
from token_tools.server.http.pickup.pages import PickupPages
from token_tools.server.http.sessions import CallerSessions

_HEADERS_OF_CLIENTS: Final = (
    "Authorization", "Content-Type", "Last-Event-ID", "Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version",
    "Mcp-Session-Id",
)  # fmt: skip
_HEADERS_FOR_CLIENTS: Final = ("Mcp-Session-Id", "WWW-Authenticate")


def create_app(
    settings: HttpSettings,
    bounded: TimeBounds,
    readiness: Readiness,
    sign_in: SignIn | None,
    pages: PickupPages | None = None,
) -> ASGIApp:
    """Return the whole application around that of the tools, which is `bounded`; without a `sign_in` for everybody.

    `pages` are those at which people pick up bearer tokens, None if there are none.
    """
    metadata = None if settings.http_issuer is None else _Metadata(settings)
    tools: ASGIApp = bounded
    if sign_in is not None:
        challenge = Challenge(None, ()) if metadata is None else metadata.challenge
        # Tools find out who calls by what this middleware passes on.
        tools = Admission(AuthContextMiddleware(CallerSessions(tools, bounded.bounds)), sign_in, challenge)
    tools = CORSMiddleware(
        tools,
        allow_origins=settings.http_allowed_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=_HEADERS_OF_CLIENTS,
        expose_headers=_HEADERS_FOR_CLIENTS,
    )
    routes = [
        Route(LIVENESS_PATH, answer_livez),
        Route(READINESS_PATH, readiness.answer),
        Route(MCP_PATH, tools),
        *([] if metadata is None else metadata.list_routes()),
        *([] if pages is None else pages.list_routes()),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return AccessLog(app)


def create_tools_app(server: MCPServer[Fleet], settings: HttpSettings, bounds: Bounds) -> ASGIApp:
    """Return the application that speaks the protocol; it asks nobody who they are."""
    return server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        stateless_http=not bounds.sessions,
        max_request_body_size=bounds.body_bytes,
        session_idle_timeout=bounds.session_idle_timeout.total_seconds(),
        max_sessions=bounds.sessions or None,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*settings.http_allowed_hosts], allowed_origins=[*settings.http_allowed_origins]
        ),
    )


class _Metadata:
    """Tells clients which issuer lets people in. Source: RFC 9728, sections 2 and 3."""

    def __init__(self, settings: HttpSettings) -> None:
        parts = urlsplit(settings.resource)
        self._path = f"{METADATA_PATH}{parts.path}"
        scopes = find_scopes([*settings.http_readers, *settings.http_writers])
        self.challenge = Challenge(f"{parts.scheme}://{parts.netloc}{self._path}", scopes)
        self._document = {
            "resource": settings.resource,
            "authorization_servers": [settings.http_issuer],
            "bearer_methods_supported": ["header"],
            **({"scopes_supported": scopes} if scopes else {}),
        }

    def list_routes(self) -> list[Route]:
        """Return where it is found: below the path of the resource, and for clients that look at the top alone."""
        # Any web page may read what is no secret.
        answer = CORSMiddleware(JSONResponse(self._document), allow_origins=("*",), allow_headers=("*",))
        methods = ("GET", "OPTIONS")
        return [
            Route(path, answer, methods=methods) for path in {self._path, f"{METADATA_PATH}{MCP_PATH}", METADATA_PATH}
        ]
