"""What may be made, and what a human must agree to first: the operator's rules for new tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from token_tools.errors import Refusal
from token_tools.identity import Identity
from token_tools.settings import Confirm, Settings
from token_tools.times import parse_expiry, tell_duration, tell_time

ADMIN: Final = Identity(domain="LOCAL", auth_id="500", name="admin")
"""The administrator that every cluster is born with. Source: `qumulo.lib.identity_util`, ADMIN_USER_ID."""

_GROUP_DOMAINS: Final = {"POSIX_GROUP", "WORLD"}
_GROUP_KEYS: Final = {"512", "513", "514", str(0x200000000)}
"""The local groups and Everyone. Source: the same module."""


@dataclass(frozen=True)
class Policy:
    """The rules in force. None as a lifetime is no limit."""

    default_lifetime: timedelta | None
    max_lifetime: timedelta | None = None
    confirm: Confirm = "risky"

    def choose_expiry(self, expiration_time: str | None, *, now: datetime) -> datetime | None:
        """When a new token expires, in whole seconds, or None for never.

        Raises:
            Refusal: If what the caller wrote is not a time in the future, or later than the operator allows.
        """
        if expiration_time is not None:
            expires = parse_expiry(expiration_time, now=now)
        else:
            expires = None if self.default_lifetime is None else (now + self.default_lifetime).replace(microsecond=0)
        if self.max_lifetime is not None and (expires is None or expires > now + self.max_lifetime):
            raise Refusal(
                f"QUMULO_MAX_LIFETIME allows {tell_duration(self.max_lifetime)} at most, so `expiration_time` can be "
                f"{tell_time(now + self.max_lifetime)} at the latest. Nothing was made."
            )
        return expires

    def check_user(self, user: Identity) -> None:
        """Nothing for whoever may have a token.

        Raises:
            Refusal: For what is known to be a group; of local and Active Directory names only the cluster knows.
        """
        only_gid = user.gid is not None and user.uid is None and user.name is None
        if user.domain in _GROUP_DOMAINS or user.auth_id in _GROUP_KEYS or only_gid:
            raise Refusal(f"{user} is a group, and access tokens are for users. Nothing was made.")

    def find_reasons_to_ask(self, user: Identity, expires: datetime | None) -> Sequence[str]:
        """Why a human has to agree to such a token first; empty if nobody has to."""
        if self.confirm == "none":
            return ()
        reasons = ["it is for the built-in administrator"] if _is_admin(user) else []
        reasons += ["it would never expire"] if expires is None else []
        return reasons or (["QUMULO_CONFIRM=all"] if self.confirm == "all" else [])


def choose_policy(settings: Settings) -> Policy:
    """The rules that the operator set; a default lifetime that nobody chose gives way to a shorter maximum."""
    default, longest = settings.default_lifetime, settings.max_lifetime
    return Policy(
        default_lifetime=default if default is None or longest is None else min(default, longest),
        max_lifetime=longest,
        confirm=settings.confirm,
    )


def _is_admin(user: Identity) -> bool:
    by_name = user.auth_id is None and user.name is not None and user.name.casefold() == ADMIN.name
    by_sid = user.sid is not None and user.sid.startswith("S-1-5-21-") and user.sid.endswith("-500")
    return user.auth_id == ADMIN.auth_id or (by_name and user.domain in {None, ADMIN.domain}) or by_sid
