"""How many sessions of the older protocol may one caller have at a time?

Who begins one too many ends that of their own which they have not used for the longest time, so that nobody takes the
room of all the others. A client whose session has ended begins another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from token_tools.server.http.bounds import Bounds
from token_tools.server.http.signed_in import find_signed_in

_SUCCESS: Final = range(200, 300)
_NOT_FOUND: Final = 404


@dataclass
class _Session:
    """A session of a caller: the `user` who began it, as requests have them, and how many are at work in it."""

    user: AuthenticatedUser
    caller: str
    at_work: int = 0


@dataclass(frozen=True)
class CallerSessions:
    """Bounds the sessions of each caller of an application; every caller has signed in."""

    app: ASGIApp
    bounds: Bounds
    _by_id: dict[str, _Session] = field(default_factory=dict[str, _Session])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request; if it begins a session too many, end another one."""
        used, answer = Headers(scope=scope).get(MCP_SESSION_ID_HEADER), _Answer(send)
        session = self._by_id.get(used or "")
        if session is None:
            await self.app(scope, receive, answer.send)
        else:
            session.at_work += 1
            try:
                await self.app(scope, receive, answer.send)
            finally:
                session.at_work -= 1
        if used is None:
            await self._note_begun(answer.session if answer.status in _SUCCESS else None, scope)
        else:
            self._note_used(used, has_ended=answer.has_ended(scope["method"]))

    def _note_used(self, name: str, *, has_ended: bool) -> None:
        session = self._by_id.pop(name, None)
        if session is not None and not has_ended:
            # The one that was used last is at the end.
            self._by_id[name] = session

    async def _note_begun(self, name: str | None, scope: Scope) -> None:
        signed_in = find_signed_in()
        if name is None or signed_in is None:
            return
        caller = signed_in.caller.id
        self._by_id[name] = _Session(scope["user"], caller)
        if len(self._by_id) > self.bounds.sessions:
            # So many are never open: the first one has ended by itself, as idle ones do.
            del self._by_id[next(iter(self._by_id))]
        for surplus in self._list_surplus(caller):
            await self._end(surplus, scope)

    def _list_surplus(self, caller: str) -> Sequence[str]:
        own = [name for name, session in self._by_id.items() if session.caller == caller]
        idle = [name for name in own if not self._by_id[name].at_work]
        return idle[: max(0, len(own) - self.bounds.sessions_of_caller)]

    async def _end(self, name: str, scope: Scope) -> None:
        user = self._by_id.pop(name).user
        headers = [(key, value) for key, value in scope["headers"] if key == b"host"]
        headers.append((MCP_SESSION_ID_HEADER.encode(), name.encode()))
        request = {**scope, "method": "DELETE", "headers": headers, "user": user}
        await self.app(request, _receive_nothing, _send_nowhere)


class _Answer:
    """Notices how a request was answered, and in which session it began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.session: str | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.session = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
        await self._send(message)

    def has_ended(self, method: str) -> bool:
        """Tell whether the session is not there after this answer to a method."""
        return self.status == _NOT_FOUND or (method == "DELETE" and self.status in _SUCCESS)


async def _receive_nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send_nowhere(message: Message) -> None:
    """Tell nobody."""
