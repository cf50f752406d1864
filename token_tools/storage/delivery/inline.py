"""Delivery of new bearer tokens into the answer, and so to the model and to whatever records the conversation."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.storage.delivery.base import (
    AskedToken,
    DeliveredToken,
    ForAnybody,
    KeepsNoFiles,
    Location,
    locate_recorded,
    sha256_fingerprint,
)


@dataclass(frozen=True)
class InlineLocation:
    """The answer to a call: to the present one, or to an earlier one."""

    kind: Literal["inline"] = "inline"
    naming_setting: ClassVar[str | None] = None
    is_earlier: Annotated[bool, Field(exclude=True)] = field(default=False)

    def render(self) -> str:
        """Name the answer and what else has a copy of it."""
        answer = "the answer to that call" if self.is_earlier else "this answer"
        return f"{answer}, and with it the conversation and its logs"

    def find_current(self) -> "InlineLocation":
        """Return the answer as an earlier one; whether anybody still has it is not known."""
        return InlineLocation(is_earlier=True)

    def remove(self) -> None:
        """Do nothing: a call that fails has no answer with a bearer token in it."""


@dataclass(frozen=True)
class InlineDelivery(ForAnybody, KeepsNoFiles):
    """The destination "the answer"."""

    async def reserve(self, _asked: AskedToken | None = None, /) -> "InlineDelivery":
        """Return this destination, of which there is nothing to prove."""
        return self

    async def locate(
        self, _token_id: str, location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the recorded location."""
        return await locate_recorded(location)

    def render_possible_location(self, _user: str, /) -> None:
        """Return None: an answer that was not given is nowhere."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Do nothing; see `InlineLocation.remove`."""

    async def store(self, token: NewAccessToken, _user: Identity, /) -> DeliveredToken:
        """Return the bearer token itself."""
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=InlineLocation(),
            how_to_use="Store it now: the cluster does not show it again.",
            bearer_token=token.bearer_token,
        )

    async def release(self) -> None:
        """Do nothing: nothing was reserved."""
