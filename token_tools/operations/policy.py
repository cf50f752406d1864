"""What may be done, and what a human must agree to first: the operator's rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.errors import Refusal
from token_tools.settings import Confirm, Settings
from token_tools.times import format_duration, format_time, parse_expiry

ADMIN: Final = Identity(domain="LOCAL", auth_id="500", name="admin")
"""The administrator that every cluster is born with. Source: `qumulo.lib.identity_util`, ADMIN_USER_ID."""

_GROUP_DOMAINS: Final = {"POSIX_GROUP", "WORLD"}
_GROUP_AUTH_IDS: Final = {"512", "513", "514", str(0x200000000)}
"""The local groups and Everyone. Source: the same module."""
_POSIX_GROUP_AUTH_IDS: Final = range(4 << 32, 5 << 32)
"""The key of a POSIX group is its number on top of this. Source: the same module."""
_GROUP_SID: Final = re.compile(
    # Everyone and its like; the built-in groups; POSIX groups; the groups that each domain is born with.
    r"S-1-[1-3]-\d+|S-1-5-(?:[2-9]|1[0-5])|S-1-5-32-\d+|S-1-(?:5-88-2|22-2)-\d+|S-1-5-21-\d+-\d+-\d+-(?:498|5[1-9]\d)",
    re.IGNORECASE | re.ASCII,
)
"""Source: Microsoft's "Well-known SIDs"; `qumulo.lib.identity_util` for 88."""
_BUILT_IN_AUTH_IDS: Final = {"1", "2", "500", "501"}
"""The system's own two, the administrator and the guest. Source: the same module."""
_ADMIN_REASON: Final = "it is for the built-in administrator"


@dataclass(frozen=True)
class Policy:
    """The rules in force. None as a lifetime is no limit."""

    default_lifetime: timedelta | None
    max_lifetime: timedelta | None = None
    confirm: Confirm = "risky"

    def choose_expiry(self, expiration_time: str | None, *, now: datetime) -> datetime | None:
        """When a token is to expire, in whole seconds, or None for never; the default lifetime if nobody says.

        Raises:
            Refusal: If what the caller wrote is not a time in the future, or later than the operator allows.
        """
        if expiration_time is not None:
            expires = self._parse_expiry(expiration_time, now)
        else:
            expires = None if self.default_lifetime is None else (now + self.default_lifetime).replace(microsecond=0)
        if self.max_lifetime is not None and (expires is None or expires > now + self.max_lifetime):
            raise Refusal(self._render_max_lifetime(self.max_lifetime, now))
        return expires

    def _parse_expiry(self, expiration_time: str, now: datetime) -> datetime | None:
        try:
            return parse_expiry(expiration_time, now=now, max_lifetime=self.max_lifetime)
        except Refusal as doubt:
            if self.max_lifetime is None:
                raise
            # Whatever that proposes is written next.
            raise type(doubt)(f"{doubt} {self._render_max_lifetime(self.max_lifetime, now)}") from None

    @staticmethod
    def _render_max_lifetime(max_lifetime: timedelta, now: datetime) -> str:
        return (
            f"QUMULO_MAX_LIFETIME allows {format_duration(max_lifetime)} at most, so `expiration_time` can be "
            f"{format_time(now + max_lifetime)} at the latest."
        )

    def check_user(self, user: Identity) -> None:
        """Nothing for whoever may have a token.

        Raises:
            Refusal: For what is known to be a group; of local and Active Directory names only the cluster knows.
        """
        by_key = user.auth_id is not None and (
            user.auth_id in _GROUP_AUTH_IDS or int(user.auth_id) in _POSIX_GROUP_AUTH_IDS
        )
        by_sid = user.sid is not None and _GROUP_SID.fullmatch(user.sid) is not None
        only_gid = user.gid is not None and user.uid is None
        if user.domain in _GROUP_DOMAINS or by_key or by_sid or only_gid:
            raise Refusal(f"{user} is a group, and access tokens are for users.")

    def find_reasons_to_create(
        self, user: Identity, expires: datetime | None, *, caveat: str | None = None
    ) -> Sequence[str]:
        """Why a human has to agree to such a token first; empty if nobody has to.

        `caveat` says why it is not certain who that user is, None if it is: whom the cluster did not identify may be
        the administrator.
        """
        reasons = [_ADMIN_REASON] if is_admin(user) else [caveat] if caveat else []
        return self._apply_confirm([*reasons, "it would never expire"] if expires is None else reasons)

    def find_reasons_to_update(self, token: AccessToken, wanted: TokenState, *, now: datetime) -> Sequence[str]:
        """Why a human has to agree to such a change first; empty if nobody has to, as for one that changes nothing.

        To let a token live longer is a risk, and to revive one that was stopped, perhaps since it leaked; to let it
        live shorter, or to disable it, may stop whoever works with it.
        """
        if wanted == token.state:
            return ()
        reasons = [_ADMIN_REASON] if is_admin(token.user) and wanted.enabled else []
        if token.is_disabled and wanted.enabled:
            reasons.append("it was disabled, and only people know why")
        if wanted.expires is None and token.expires is not None:
            reasons.append("it would never expire")
        elif _is_later(wanted.expires, token.expires):
            reasons.append("it has expired and would live on" if token.is_expired(now=now) else "it would live longer")
        elif wanted.expires != token.expires and token.is_live(now=now):
            reasons.append("it would stop working sooner")
        if not wanted.enabled and token.is_live(now=now):
            reasons.append("whoever works with it would be stopped")
        return self._apply_confirm(reasons)

    def find_reasons_to_delete(self) -> Sequence[str]:
        """Why a human has to agree to a deletion first; empty if nobody has to."""
        return self._apply_confirm(["this cannot be undone"])

    def _apply_confirm(self, reasons: Sequence[str]) -> Sequence[str]:
        if self.confirm == "none":
            return ()
        return reasons or (["QUMULO_CONFIRM=all"] if self.confirm == "all" else ())


def choose_policy(settings: Settings) -> Policy:
    """The rules that the operator set; a default lifetime that nobody chose gives way to a shorter maximum."""
    default, longest = settings.default_lifetime, settings.max_lifetime
    return Policy(
        default_lifetime=default if default is None or longest is None else min(default, longest),
        max_lifetime=longest,
        confirm=settings.confirm,
    )


def is_built_in(user: Identity) -> bool:
    """Whether every cluster is born with this account: the administrator, the guest, or one of the cluster's own."""
    is_internal = user.domain is not None and (user.domain == "WORLD" or user.domain.startswith("API_"))
    return is_admin(user) or user.auth_id in _BUILT_IN_AUTH_IDS or is_internal


def is_admin(user: Identity) -> bool:
    """Whether this is the administrator that every cluster is born with, however it is spelled."""
    by_name = user.auth_id is None and user.name is not None and user.name.casefold() == ADMIN.name
    by_sid = user.sid is not None and user.sid.startswith("S-1-5-21-") and user.sid.endswith("-500")
    return user.auth_id == ADMIN.auth_id or (by_name and user.domain in {None, ADMIN.domain}) or by_sid


def _is_later(wanted: datetime | None, current: datetime | None) -> bool:
    return wanted is not None and current is not None and wanted > current
