"""A line on stderr about each request over HTTP: who called what, what came of it, and how long that took.

No header, no argument and no address of a client is in it, and of a path or a method only whether it is a known one. So
a secret that somebody puts into a URL, or into the name of a tool, is not kept there. A stream is told at its end.
"""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, Final

import anyio
from mcp.server.context import ServerRequestContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from token_tools.http_settings import MCP_PATH, PICKUP_PATH
from token_tools.redaction import redact
from token_tools.server import observation
from token_tools.server.http.signed_in import SignedIn
from token_tools.times import Clock, format_rfc3339, utc_now

LIVENESS_PATH: Final = "/livez"
READINESS_PATH: Final = "/readyz"
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
MAX_CALLER_CHARS: Final = 300
_METHODS: Final = frozenset({"GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"})
_PROBES: Final = frozenset({LIVENESS_PATH, READINESS_PATH})
_ENTRY_KEY: Final = "token_tools.access_log"
OK: Final = 200
SERVER_ERROR: Final = 500
_LOG: Final = logging.getLogger("token_tools.access")


class AccessLog:
    """Logs each request to an application, but not the probes that it answers by 200."""

    def __init__(self, app: ASGIApp, clock: Clock = utc_now) -> None:
        self._app = app
        self._clock = clock
        _open_log()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and log it at its end, whatever ends it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = _Entry(scope, self._clock)
        try:
            await self._app({**scope, _ENTRY_KEY: entry}, entry.watch_receiving(receive), entry.watch_sending(send))
        except Exception:
            # The server answers so, once nothing can be logged about it any more.
            entry.status = entry.status or SERVER_ERROR
            raise
        finally:
            entry.log()


class _Entry:
    """What is known of a request."""

    def __init__(self, scope: Scope, clock: Clock) -> None:
        self._fields: dict[str, object] = {
            "time": format_rfc3339(clock()),
            "request": token_hex(8),
            "method": scope["method"] if scope["method"] in _METHODS else observation.OTHER,
            "route": _find_route(scope["path"]),
        }
        self._begun = anyio.current_time()
        self._bytes_sent = 0
        self._is_answered = False
        self._is_disconnected = False
        self.status: int | None = None
        self.signed_in: SignedIn | None = None
        self.message: observation.Message | None = None

    def watch_receiving(self, receive: Receive) -> Receive:
        """Return what receives for the application, and notices that the client is gone before its answer is whole."""

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self._is_answered:
                self._is_disconnected = True
            return message

        return watched

    def watch_sending(self, send: Send) -> Send:
        """Return what sends for the application, and counts."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self._bytes_sent += len(message.get("body", b""))
                self._is_answered = not message.get("more_body", False)
            await send(message)

        return watched

    def log(self) -> None:
        """Log the request in a line, unless it is a probe that was told that all is well."""
        if self._fields["route"] in _PROBES and self.status == OK:
            return
        milliseconds = round((anyio.current_time() - self._begun) * 1000)
        fields = {
            **self._fields,
            "status": self.status,
            "ms": milliseconds,
            "bytes": self._bytes_sent,
            **_describe_caller(self.signed_in),
            **_describe_message(self.message),
            "disconnected": self._is_disconnected or None,
        }
        _LOG.info("%s", json.dumps({name: value for name, value in fields.items() if value is not None}))


def note_caller(scope: Scope, signed_in: SignedIn | None) -> None:
    """Note who sent a request, where it is logged; None if that is nobody who is known."""
    entry = scope.get(_ENTRY_KEY)
    if isinstance(entry, _Entry):
        entry.signed_in = signed_in


@contextmanager
def note_message(message: observation.Message, ctx: ServerRequestContext[Any, Any]) -> Generator[None]:
    """Note which message a request brings, where it is logged; this is an `Observer`."""
    scope: Scope = {} if ctx.request is None else ctx.request.scope
    entry = scope.get(_ENTRY_KEY)
    if isinstance(entry, _Entry):
        entry.message = message
    yield


def _find_route(path: str) -> str:
    if path.startswith(METADATA_PATH):
        return METADATA_PATH
    # What follows names a page, and may be anything.
    if path.startswith(f"{PICKUP_PATH}/"):
        return PICKUP_PATH
    return path if path in {MCP_PATH, *_PROBES} else observation.OTHER


def _describe_caller(signed_in: SignedIn | None) -> dict[str, object]:
    if signed_in is None:
        return {}
    # What withholds secrets on stderr takes whole sentences out of a line, which would be no JSON any more.
    return {"caller": redact(signed_in.caller.id)[:MAX_CALLER_CHARS], "role": signed_in.role}


def _describe_message(message: observation.Message | None) -> dict[str, object]:
    if message is None:
        return {}
    return {
        "mcp_method": message.method,
        "tool": message.tool,
        "outcome": message.outcome,
        "protocol": message.protocol,
    }


def _open_log() -> None:
    """Write lines as they are, to the stderr of now, which withholds what repeats a secret."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOG.handlers = [handler]
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
