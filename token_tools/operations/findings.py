"""What can be found about a token."""

from collections.abc import Sequence
from typing import Final, Literal, get_args

from token_tools.cluster.identity import Identity

Finding = Literal[
    "never_expires",
    "built_in_user",
    "made_by_another",
    "user_has_no_name",
    "expired",
    "disabled_and_old",
    "users_with_two_tokens",
    "older_than_a_year",
    "expires_soon",
]
FINDINGS: Final[Sequence[Finding]] = get_args(Finding)
"""In order of danger. The cluster does not tell since when a token is disabled, nor when it was last used."""


UserKey = int
"""A user's auth_id as a number; of a user whom the cluster tells no auth_id of, a number made of the rest."""


def user_key_of(user: Identity) -> UserKey:
    """A number for a user, the same for all of their tokens."""
    return int(user.auth_id) % 2**64 if user.auth_id else hash(user) % 2**64
