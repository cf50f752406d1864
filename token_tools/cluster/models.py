"""What the cluster says: the objects of the endpoint, read tolerantly and never changed.

The published schema lies a little, so these models take what real clusters send: null where a number was promised,
identities of which only `auth_id` is known, no `expiration_time` before Core 5.3.2 and no `enabled` before 5.3.3.
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
    """A time exactly as the cluster wrote it: RFC 3339 in UTC, up to nine fractional digits; `instant` is its meaning.

    It is parsed once, to be validated, and never again: an audit looks at each of hundreds of thousands several times.
    """

    __slots__ = ("instant",)
    instant: datetime

    @classmethod
    def parse(cls, text: str) -> "Timestamp":
        """The time that a text writes.

        Raises:
            ValueError: If it is not one.
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
"""Opaque; today a decimal number of 22 digits or more, which no JSON number of a client can hold."""


@dataclass(frozen=True)
class TokenState:
    """What can be changed about a token: whether it is enabled, and when it expires, aware, None for never."""

    enabled: bool
    expires: datetime | None

    def changes_to(self, wanted: "TokenState") -> dict[str, bool | str | None]:
        """What the endpoint must be sent to turn this into `wanted`; null makes a token live for ever."""
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
    """One token as the endpoint lists it, without its secret.

    `enabled` and `expiration_time` are None where the cluster does not say: the token is then enabled and does not
    expire. `creator` may be unknown, and `user` an identity without a field.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: TokenId
    user: Annotated[Identity, BeforeValidator(lambda told: {} if told is None else told)]
    creator: Identity | None = None
    creation_time: Timestamp
    expiration_time: Annotated[Timestamp | None, BeforeValidator(lambda text: text or None)] = None
    enabled: bool | None = None

    @property
    def created(self) -> datetime:
        """When it was made, aware."""
        return self.creation_time.instant

    @property
    def expires(self) -> datetime | None:
        """When it stops working, aware; None if never."""
        return None if self.expiration_time is None else self.expiration_time.instant

    @property
    def state(self) -> TokenState:
        """What of it can be changed."""
        return TokenState(enabled=not self.is_disabled, expires=self.expires)

    @property
    def is_disabled(self) -> bool:
        """Whether somebody switched it off; that can be undone."""
        return self.enabled is False

    def is_expired(self, *, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    def is_live(self, *, now: datetime) -> bool:
        """Whether it authenticates its user."""
        return not self.is_disabled and not self.is_expired(now=now)

    def render_lifetime(self, *, now: datetime) -> str:
        """Render the state and the creation: `enabled, never expires; made 30 days ago by local:admin`."""
        creator = f" by {self.creator}" if self.creator else ""
        return f"{self.state.render(now=now)}; made {format_relative_time(self.created, now=now)}{creator}"


class NewAccessToken(BaseModel):
    """The answer to a create: the one and only time that the cluster tells the secret."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, hide_input_in_errors=True)

    bearer_token: BearerToken
    id: TokenId


@dataclass(frozen=True)
class TokenPage:
    """A part of the cluster's tokens, in the cluster's order.

    `cursor` is the key that asks for the next part; None says that there is none.
    """

    entries: tuple[AccessToken, ...]
    cursor: str | None = None


def _coerce_plain_id(value: object) -> str | None:
    """Plain digits; what is not is as good as not told, since it could be mistaken for another token's."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and _PLAIN_ID.fullmatch(text) else None


class Caller(BaseModel):
    """Whom a credential stands for (who-am-i).

    `id` is their auth_id. `access_token_id` is only told to a caller who came with an access token, not to one who
    logged in. `privileges` is None where the cluster does not tell them. `is_token`
    and `may_be_token` say what the credential looks like, in which the cluster has no say.
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
        """Whether the cluster does not tell which token the caller came with, who may have come with one."""
        return self.access_token_id is None and self.may_be_token

    def is_user(self, user: Identity) -> bool:
        """Whether this is that user: by the first number that both have, or else by the name.

        The domain of a caller is not told, and one in front of a name is not compared.
        """
        numbers = [(self.id, user.auth_id), (self.sid, user.sid), (self.uid, user.uid)]
        for mine, theirs in numbers:
            if mine is not None and theirs is not None:
                return mine == theirs
        return self.name is not None and user.name is not None and bare_name(self.name) == bare_name(user.name)

    @property
    def identity(self) -> Identity:
        """The caller as the endpoint takes it; the domain is not told."""
        return Identity(auth_id=self.id)
