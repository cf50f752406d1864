"""A caller whom the sign-in let in, in the form in which the SDK passes callers on."""

from typing import Literal

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from pydantic import InstanceOf

from token_tools.operations.caller import Caller

Role = Literal["read", "write"]
"""What a caller may do; who may write may read as well."""


class SignedIn(AccessToken):
    """Somebody who has signed in. `token` is empty, since the bearer is not kept.

    `role` is None for somebody who is known and may do nothing. `expires_at`, in seconds since 1970, is when the bearer
    is not accepted any more, with the allowance for clocks that differ; it is None for a named key.
    """

    token: str = ""
    caller: InstanceOf[Caller]
    role: Role | None


def find_signed_in() -> SignedIn | None:
    """Return who calls; None where nobody has to sign in."""
    token = get_access_token()
    return token if isinstance(token, SignedIn) else None


def is_reader() -> bool:
    """Tell whether who calls may read and nothing else."""
    signed_in = find_signed_in()
    return signed_in is not None and signed_in.role != "write"
