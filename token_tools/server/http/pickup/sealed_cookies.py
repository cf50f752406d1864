"""Cookies that nobody but this server and its replicas can read or make, and that end after a while."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from token_tools.http_settings import HttpSettings
from token_tools.sealing import Sealer
from token_tools.server.http.signed_tokens import CLOCK_SKEW
from token_tools.times import Clock

LIFETIME: Final = timedelta(minutes=10)
"""How long what a cookie has holds, and so how long a person who signed in stays so."""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What a cookie has. `begun` is when it was put there."""

    begun: datetime


_Content = TypeVar("_Content", bound=Sealed)


@dataclass(frozen=True)
class SealedCookies:
    """The cookies for one purpose, of which there can be several, each with a name and bound to a text."""

    url: str
    sealer: Sealer
    clock: Clock

    @classmethod
    def from_settings(
        cls, settings: HttpSettings, state_keys: Sequence[bytes], purpose: str, clock: Clock
    ) -> "SealedCookies":
        """Return those of a server with these settings and keys."""
        return cls(settings.http_url, Sealer(state_keys, purpose), clock)

    def put(self, response: Response, name: str, content: Sealed, *, bound_to: str = "") -> None:
        """Let a response give a cookie to the browser."""
        sealed = self.sealer.seal(msgspec.json.encode(content), self._bind(bound_to))
        self._set(response, name, sealed.hex(), LIFETIME)

    def find(self, request: Request, name: str, kind: type[_Content], *, bound_to: str = "") -> _Content | None:
        """Return the content of a cookie, None if it is not there, or not valid, or not valid any more."""
        opened = self.sealer.open(_decode_cookie(request, self._full_name(name)), self._bind(bound_to))
        if opened is None:
            return None
        try:
            content = msgspec.json.decode(opened, type=kind)
        except msgspec.ValidationError:
            # Another version of this server has sealed it.
            return None
        # A clock that was put back does not make it last longer.
        return content if -CLOCK_SKEW <= self.clock() - content.begun < LIFETIME else None

    def remove(self, response: Response, name: str) -> None:
        """Let a response take a cookie from the browser."""
        self._set(response, name, "", timedelta(0))

    def remove_crowd(self, request: Request, response: Response, start: str, *, most: int) -> None:
        """Let a response take all cookies whose names start so, if the browser has more of them than `most`."""
        start = self._full_name(start)
        names = [name for name, _ in _list_cookies(request) if name.startswith(start)]
        for name in names if len(names) > most else ():
            self.remove(response, name.removeprefix(self._prefix))

    def _set(self, response: Response, name: str, value: str, lifetime: timedelta) -> None:
        response.set_cookie(
            self._full_name(name),
            value,
            max_age=int(lifetime.total_seconds()),
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",
        )

    @property
    def _is_secure(self) -> bool:
        return self.url.startswith("https://")

    def _full_name(self, name: str) -> str:
        return f"{self._prefix}{name}"

    @property
    def _prefix(self) -> str:
        # Browsers take a cookie of such a name from this very host alone, not from one beside or below it.
        return "__Host-" if self._is_secure else ""

    def _bind(self, bound_to: str) -> str:
        return f"{self.url} {bound_to}"


def _decode_cookie(request: Request, full_name: str) -> bytes:
    """Return what is in a cookie; nothing if it is not there, or cannot be read, or there are two of its name."""
    values = [value for found, value in _list_cookies(request) if found == full_name]
    try:
        return bytes.fromhex(values[0]) if len(values) == 1 else b""
    except ValueError:
        return b""


def _list_cookies(request: Request) -> Sequence[tuple[str, str]]:
    """Return the names and values of all cookies, as the browser has sent them."""
    pairs = (pair.strip().partition("=") for header in request.headers.getlist("cookie") for pair in header.split(";"))
    return [(name, value) for name, _, value in pairs]
