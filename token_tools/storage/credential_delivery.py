"""Delivery of the server's own first bearer token, into the place from which the server will read it."""

from collections.abc import Collection
from dataclasses import dataclass

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.storage.credential_place import CredentialPlace
from token_tools.storage.delivery.base import (
    DELIVERY_TIMEOUT,
    AskedToken,
    DeliveredToken,
    ForAnybody,
    KeepsNoFiles,
    Location,
    locate_recorded,
    run_with_timeout,
    sha256_fingerprint,
)


@dataclass(frozen=True)
class CredentialDelivery(ForAnybody, KeepsNoFiles):
    """The destination "the server's own credential", which has the old bearer token or the new one."""

    place: CredentialPlace

    async def reserve(self, _asked: AskedToken | None = None, /) -> "CredentialDelivery":
        """Prove that the place can be written.

        Raises:
            DeliveryError: If it cannot be.
        """
        await run_with_timeout(self.place.check_writable, DELIVERY_TIMEOUT)
        return self

    async def locate(
        self, _token_id: str, location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the recorded location."""
        return await locate_recorded(location)

    def render_possible_location(self, _user: str, /) -> str:
        """Return the place."""
        return f"it is in {self.place.location.render()}"

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove a bearer token that turned out to be of no use.

        Raises:
            DeliveryError: If it is still there.
        """
        await run_with_timeout(delivered.location.remove, DELIVERY_TIMEOUT)

    async def store(self, token: NewAccessToken, _user: Identity, /) -> DeliveredToken:
        """Write the bearer token into the place.

        Raises:
            DeliveryError: If it is not there.
        """
        await run_with_timeout(lambda: self.place.write(token.bearer_token), DELIVERY_TIMEOUT)
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=self.place.location,
            how_to_use="The server reads it from there.",
        )

    async def release(self) -> None:
        """Do nothing: to prove the place leaves nothing."""
