"""Which objects does the endpoint return, and which of their forms are accepted? The models are immutable.

Real clusters differ from the published schema, so the models also accept null instead of a number, identities with
nothing but an `auth_id`, tokens without `expiration_time` (before Core 5.3.2) and without `enabled` (before 5.3.3).
Fields that a newer cluster adds are ignored.

Source: the published schema of `/v1/auth/access-tokens/`; the vendor's SDK 7.10.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from token_tools.cluster.identity import AuthId, Identity, OptionalText, PosixId, bare_name
from token_tools.credentials import BearerToken
from token_tools.redaction import has_known_secret
from token_tools.times import format_relative_time, format_rfc3339, format_time, parse_rfc3339


class Timestamp(str):
    """A time exactly as the cluster wrote it, in RFC 3339 and UTC with up to nine fractional digits.

    `instant` is the time that it means. It is parsed only once, because an audit reads hundreds of thousands of times,
    and each of them more than once.
    """

    __slots__ = ("instant",)
    instant: datetime

    @classmethod
    def parse(cls, text: str) -> "Timestamp":
        """Return the timestamp for a text.

        Raises:
            ValueError: If the text is not a time in RFC 3339.
        """
        timestamp = cls(text)
        timestamp.instant = parse_rfc3339(text)
        return timestamp

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())


def _validate_not_secret(token_id: str) -> str:
    if has_known_secret(token_id):
        raise ValueError("repeats something of a secret")
    return token_id


_PlainId = Annotated[str, Field(pattern=r"^[0-9]{1,64}$")]
_OtherId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$"), AfterValidator(_validate_not_secret)]
_PLAIN_ID: Final = re.compile(r"0|[1-9][0-9]{0,63}", re.ASCII)
TokenId = Annotated[_PlainId | _OtherId, Field(union_mode="left_to_right")]
"""An opaque text. Today it is a decimal number of 22 digits or more, too long for the JSON numbers of many clients."""


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


class AccessToken(BaseModel):
    """A token as the endpoint lists it, without its secret.

    If `enabled` is None, the cluster did not say, and the token is enabled. If `expiration_time` is None, it does not
    expire. `creator` may be unknown, and `user` may be an identity without any field.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: TokenId
    user: Annotated[Identity, BeforeValidator(lambda value: {} if value is None else value)]
    creator: Identity | None = None
    creation_time: Timestamp
    expiration_time: Annotated[Timestamp | None, BeforeValidator(lambda value: value or None)] = None
    enabled: bool | None = None

    @property
    def created(self) -> datetime:
        """Return the time of its creation, aware."""
        return self.creation_time.instant

    @property
    def expires(self) -> datetime | None:
        """Return the time at which it expires, aware; None if it does not expire."""
        return None if self.expiration_time is None else self.expiration_time.instant

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
        return self.expires is not None and self.expires <= now

    def is_live(self, *, now: datetime) -> bool:
        """Tell whether it authenticates its user: it is enabled and has not expired."""
        return not self.is_disabled and not self.is_expired(now=now)

    def render_lifetime(self, *, now: datetime) -> str:
        """Render the state and the creation: `enabled, never expires; made 30 days ago by local:admin`."""
        creator = f" by {self.creator}" if self.creator else ""
        return f"{self.state.render(now=now)}; made {format_relative_time(self.created, now=now)}{creator}"


class NewAccessToken(BaseModel):
    """The answer to a create, the only one in which the cluster tells the secret."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, hide_input_in_errors=True)

    bearer_token: BearerToken
    id: TokenId


@dataclass(frozen=True)
class TokenPage:
    """A page of the cluster's tokens, in the cluster's order.

    `cursor` is the cluster's cursor of the next page; None if this is the last one.
    """

    entries: tuple[AccessToken, ...]
    cursor: str | None = None


def _coerce_plain_id(value: object) -> str | None:
    """Return an id in plain digits, or None for any other value, because `007` may or may not be the token `7`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and _PLAIN_ID.fullmatch(text) else None


class Caller(BaseModel):
    """The user of a credential, as who-am-i describes them.

    `id` is their auth_id. `access_token_id` is None for the credential of a login, and if the cluster does not tell it.
    `privileges` is None if the cluster does not tell them. `responses` sets `is_token` and `may_be_token` by the form
    of the credential; they are never read from the answer.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: AuthId
    name: str | None = None
    sid: OptionalText = None
    uid: PosixId = None
    access_token_id: Annotated[str | None, BeforeValidator(_coerce_plain_id)] = None
    privileges: frozenset[str] | None = None
    is_token: Annotated[bool, BeforeValidator(lambda _: False)] = False
    may_be_token: Annotated[bool, BeforeValidator(lambda _: False)] = False

    @property
    def is_unidentified_token(self) -> bool:
        """Tell whether the credential may be an access token whose id is unknown."""
        return self.access_token_id is None and self.may_be_token

    def is_user(self, user: Identity) -> bool:
        """Tell whether the caller is a user, by the first number that both have, or else by the name.

        Domains are not compared, because who-am-i does not tell the caller's.
        """
        numbers = [(self.id, user.auth_id), (self.sid, user.sid), (self.uid, user.uid)]
        for own, other in numbers:
            if own is not None and other is not None:
                return own == other
        return self.name is not None and user.name is not None and bare_name(self.name) == bare_name(user.name)

    @property
    def identity(self) -> Identity:
        """Return the caller in the form that the endpoint takes."""
        return Identity(auth_id=self.id)
