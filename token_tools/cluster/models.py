"""Which objects does the endpoint return? The models are immutable; `decoding` reads them.

Source: the published schema of `/v1/auth/access-tokens/`; the vendor's SDK 7.10.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec
from pydantic import SecretStr

from token_tools.cluster.identity import Identity, bare_name
from token_tools.times import format_relative_time, format_rfc3339, format_time, parse_rfc3339

_TokenId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""An opaque text. Today it is a decimal number of 22 digits or more, too long for the JSON numbers of many clients."""
_Time = Annotated[str, msgspec.Meta(min_length=1, max_length=51)]
"""A time exactly as the cluster wrote it, in RFC 3339 with up to 30 fractional digits; clusters give up to nine."""

_VERSION_NUMBER: Final = re.compile(r"\d{1,6}(?:\.\d{1,6}){1,4}", re.ASCII)


@dataclass(frozen=True)
class TokenState:
    """The state of a token that can be updated: whether it is enabled, and when it expires (aware; None for never)."""

    enabled: bool
    expires: datetime | None

    def changes_to(self, wanted: "TokenState") -> dict[str, bool | str | None]:
        """Return the body of the request that turns this state into `wanted`; a null clears the expiry."""
        changes: dict[str, bool | str | None] = {}
        if wanted.expires != self.expires:
            changes["expiration_time"] = None if wanted.expires is None else format_rfc3339(wanted.expires)
        if wanted.enabled != self.enabled:
            changes["enabled"] = wanted.enabled
        return changes

    def render(self, *, now: datetime) -> str:
        """Render the state: `enabled, expires 2027-01-31 17:00 UTC (in 60 days)`."""
        enabled = "enabled" if self.enabled else "disabled"
        if self.expires is None:
            return f"{enabled}, never expires"
        verb = "expires" if self.expires > now else "expired"
        return f"{enabled}, {verb} {format_time(self.expires)} ({format_relative_time(self.expires, now=now)})"


def _parse_checked(time: str) -> datetime:
    # What a model holds was checked when it was decoded, so the usual form needs no second look.
    return datetime.fromisoformat(time) if time[-1] == "Z" else parse_rfc3339(time)


class AccessToken(msgspec.Struct, frozen=True, gc=False):
    """A token as the endpoint lists it, without its secret.

    If `enabled` is None, the cluster did not say, and the token is enabled. If `expiration_time` is None, it does not
    expire. `creator` may be unknown, and `user` may be an identity without any field.
    """

    id: _TokenId
    user: Identity
    creation_time: _Time
    creator: Identity | None = None
    expiration_time: _Time | None = None
    enabled: bool | None = None

    @property
    def created(self) -> datetime:
        """Return the time of its creation, aware."""
        return _parse_checked(self.creation_time)

    @property
    def expires(self) -> datetime | None:
        """Return the time at which it expires, aware; None if it does not expire."""
        return None if self.expiration_time is None else _parse_checked(self.expiration_time)

    @property
    def state(self) -> TokenState:
        """Return the part of it that can be updated."""
        return TokenState(enabled=not self.is_disabled, expires=self.expires)

    @property
    def is_disabled(self) -> bool:
        """Tell whether it was disabled; it can be enabled again."""
        return self.enabled is False

    def is_expired(self, *, now: datetime) -> bool:
        """Tell whether it has expired."""
        expires = self.expires
        return expires is not None and expires <= now

    def is_live(self, *, now: datetime) -> bool:
        """Tell whether it authenticates its user: it is enabled and has not expired."""
        return not self.is_disabled and not self.is_expired(now=now)

    def render_lifetime(self, *, now: datetime) -> str:
        """Render the state and the creation: `enabled, never expires; made 30 days ago by local:admin`."""
        creator = f" by {self.creator}" if self.creator else ""
        return f"{self.state.render(now=now)}; made {format_relative_time(self.created, now=now)}{creator}"


class NewAccessToken(msgspec.Struct, frozen=True):
    """The answer to a create, the only one in which the cluster tells the secret."""

    bearer_token: SecretStr
    id: _TokenId


@dataclass(frozen=True)
class TokenPage:
    """A page of the cluster's tokens, in the cluster's order.

    `cursor` is the cluster's cursor of the next page; None if this is the last one.
    """

    entries: tuple[AccessToken, ...]
    cursor: str | None = None


class CoreVersion(msgspec.Struct, frozen=True):
    """What a cluster says of its version: `revision_id` is such as `Qumulo Core 7.9.2.1`."""

    revision_id: str

    @property
    def number(self) -> tuple[int, ...] | None:
        """The version to compare with, None if the cluster says it in a form that is not known."""
        found = _VERSION_NUMBER.search(self.revision_id)
        return None if found is None else tuple(map(int, found[0].split(".")))

    def lacks(self, since: tuple[int, ...]) -> bool:
        """Tell whether it is known to be older than a version."""
        return self.number is not None and self.number < since


class Principal(msgspec.Struct, frozen=True):
    """The user of a credential, as who-am-i describes them.

    `id` is their auth_id. `access_token_id` is None for the credential of a login, and if the cluster does not tell it.
    `privileges` is None if the cluster does not tell them. `is_token` and `may_be_token` are known by the form of the
    credential; they are never read from the answer.
    """

    id: str
    name: str | None = None
    sid: str | None = None
    uid: int | None = None
    access_token_id: str | None = None
    privileges: frozenset[str] | None = None
    is_token: bool = False
    may_be_token: bool = False

    @property
    def is_unidentified_token(self) -> bool:
        """Tell whether the credential may be an access token whose id is unknown."""
        return self.access_token_id is None and self.may_be_token

    def is_user(self, user: Identity) -> bool:
        """Tell whether the principal is a user, by the first number that both have, or else by the name.

        Domains are not compared, because who-am-i does not tell the principal's.
        """
        numbers = [(self.id, user.auth_id), (self.sid, user.sid), (self.uid, user.uid)]
        for own, other in numbers:
            if own is not None and other is not None:
                return own == other
        return self.name is not None and user.name is not None and bare_name(self.name) == bare_name(user.name)

    @property
    def identity(self) -> Identity:
        """Return the principal in the form that the endpoint takes."""
        return Identity(auth_id=self.id)
