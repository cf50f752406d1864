"""Which tokens may be created: the operator's rules on lifetimes, and that groups have none.

What a person has to agree to is in `consent`.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from token_tools.cluster.identity import Identity
from token_tools.errors import Refusal
from token_tools.settings import Settings
from token_tools.times import format_duration, format_time, parse_expiry

ADMIN: Final = Identity(domain="LOCAL", auth_id="500", name="admin")
"""The administrator that every cluster is born with. Source: `qumulo.lib.identity_util`, ADMIN_USER_ID."""

_GROUP_DOMAINS: Final = {"POSIX_GROUP", "WORLD"}
_GROUP_AUTH_IDS: Final = {"512", "513", "514", str(0x200000000)}
"""The local groups and Everyone. Source: `qumulo.lib.identity_util`."""
_POSIX_GROUP_AUTH_IDS: Final = range(4 << 32, 5 << 32)
"""The key of a POSIX group is its number on top of this. Source: `qumulo.lib.identity_util`."""
_GROUP_SID: Final = re.compile(
    # Everyone and its like; the built-in groups; POSIX groups; the groups that each domain is born with.
    r"S-1-[1-3]-\d+|S-1-5-(?:[2-9]|1[0-5])|S-1-5-32-\d+|S-1-(?:5-88-2|22-2)-\d+|S-1-5-21-\d+-\d+-\d+-(?:498|5[1-9]\d)",
    re.IGNORECASE | re.ASCII,
)
"""Source: Microsoft's "Well-known SIDs"; `qumulo.lib.identity_util` for 88."""
_BUILT_IN_AUTH_IDS: Final = {"1", "2", "500", "501"}
"""The system's own two, the administrator and the guest. Source: `qumulo.lib.identity_util`."""


@dataclass(frozen=True)
class Policy:
    """The lifetimes that the operator set; None is no limit."""

    default_lifetime: timedelta | None
    max_lifetime: timedelta | None = None

    def choose_expiry(self, expiration_time: str | None, *, now: datetime) -> datetime | None:
        """Return when a token is to expire, in whole seconds; None is never. `expiration_time` None is the default.

        Raises:
            Refusal: If what the caller wrote is not a time in the future, or later than the operator allows.
        """
        if expiration_time is not None:
            expires = self._parse_expiry(expiration_time, now)
        else:
            expires = None if self.default_lifetime is None else (now + self.default_lifetime).replace(microsecond=0)
        if self.max_lifetime is not None and (expires is None or expires > now + self.max_lifetime):
            raise Refusal(_render_max_lifetime(self.max_lifetime, now))
        return expires

    def _parse_expiry(self, expiration_time: str, now: datetime) -> datetime | None:
        try:
            return parse_expiry(expiration_time, now=now, max_lifetime=self.max_lifetime)
        except Refusal as refusal:
            if self.max_lifetime is None:
                raise
            # The model writes next what the refusal proposes, so that has to be allowed.
            raise type(refusal)(f"{refusal} {_render_max_lifetime(self.max_lifetime, now)}") from None

    def check_user(self, user: Identity) -> None:
        """Check that an identity is not a group.

        Raises:
            Refusal: If it is known to be one. Only the cluster knows that of local and Active Directory names.
        """
        by_key = user.auth_id is not None and (
            user.auth_id in _GROUP_AUTH_IDS or int(user.auth_id) in _POSIX_GROUP_AUTH_IDS
        )
        by_sid = user.sid is not None and _GROUP_SID.fullmatch(user.sid) is not None
        only_gid = user.gid is not None and user.uid is None
        if user.domain in _GROUP_DOMAINS or by_key or by_sid or only_gid:
            raise Refusal(f"{user} is a group, and access tokens are for users.")


def _render_max_lifetime(max_lifetime: timedelta, now: datetime) -> str:
    return (
        f"QUMULO_MAX_LIFETIME allows {format_duration(max_lifetime)} at most, so `expiration_time` can be "
        f"{format_time(now + max_lifetime)} at the latest."
    )


def choose_policy(settings: Settings) -> Policy:
    """Return the rules that the operator set. A maximum that is shorter than the default shortens the default."""
    default_lifetime, max_lifetime = settings.default_lifetime, settings.max_lifetime
    if default_lifetime is not None and max_lifetime is not None:
        default_lifetime = min(default_lifetime, max_lifetime)
    return Policy(default_lifetime=default_lifetime, max_lifetime=max_lifetime)


def is_built_in(user: Identity) -> bool:
    """Whether every cluster is born with this account: the administrator, the guest, or one of the cluster's own."""
    return is_admin(user) or user.auth_id in _BUILT_IN_AUTH_IDS or is_internal(user)


def is_internal(user: Identity) -> bool:
    """Whether this is an account of the cluster itself, such as the one that its replication works with."""
    return user.domain is not None and (user.domain == "WORLD" or user.domain.startswith("API_"))


def is_admin(user: Identity) -> bool:
    """Whether this is the administrator that every cluster is born with, however it is spelled."""
    by_name = user.auth_id is None and user.name is not None and user.name.casefold() == ADMIN.name
    by_sid = user.sid is not None and user.sid.startswith("S-1-5-21-") and user.sid.endswith("-500")
    return user.auth_id == ADMIN.auth_id or (by_name and user.domain in {None, ADMIN.domain}) or by_sid
