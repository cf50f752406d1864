"""What token is to be created, for a create and for a rotate."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import Refusal
from token_tools.operations.unfinished import Unfinished
from token_tools.storage.attempts import Attempt
from token_tools.storage.credential_place import CredentialPlace
from token_tools.times import is_lifetime


@dataclass(frozen=True)
class CreateRequest:
    """A token that is to be created for `user` and expires at `expires`, or never.

    `current_tokens` are the user's tokens just before, None if they could not be read. `unfinished` and `untraced` are
    earlier attempts for the same user without a known end; see `UserHistory`. `replaces` is the token that the new one
    is to replace; the new one then has to prove that it works, and `earlier_rotations` are known of that token.
    `lifetime` is how long the new one is to live, None if the caller named a time or never. `max_lifetime` is the
    longest lifetime that the operator allows, None if any lifetime is allowed. `place` is where the server's own
    bearer token stands, if the server is to go on with the new one; or else None.
    """

    user: Identity
    expires: datetime | None
    current_tokens: Sequence[AccessToken] | None
    unfinished: Sequence[Unfinished] = ()
    untraced: Sequence[Attempt] = ()
    replaces: AccessToken | None = None
    earlier_rotations: Sequence[Attempt] = ()
    lifetime: timedelta | None = None
    max_lifetime: timedelta | None = None
    place: CredentialPlace | None = None

    def may_be_for(self, token: AccessToken) -> bool:
        """Whether a token may belong to the user of this request."""
        return self.user.as_minimal_identity().merged_with(token.user) is not None

    def is_preexisting(self, token_id: str) -> bool:
        """Whether a token is known to have been there before."""
        before = {token.id for token in [*(self.current_tokens or ()), *([self.replaces] if self.replaces else [])]}
        return token_id in before

    def check_expiry(self, *, now: datetime) -> None:
        """Check that the expiry is still to come.

        Raises:
            Refusal: If it is not.
        """
        if self.expires is not None and self.expires <= now:
            raise Refusal("The expiry has passed meanwhile.")


def find_lifetime(expiration_time: str | None, expires: datetime | None, now: datetime) -> timedelta | None:
    """Return how long a token is to live, None if the caller named a time or never. `expiration_time` is their text."""
    names_duration = expiration_time is None or is_lifetime(expiration_time)
    return expires - now if expires is not None and names_duration else None
