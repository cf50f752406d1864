"""Who may log in to the embedded cluster by a password, and what roles grant. It knows nothing of HTTP.

Source: `qumulo-api` 7.10, `rest/roles.py`, `rest/users.py` and `rest/auth.py`.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from token_tools.times import Clock

SESSION_LIFETIME: Final = timedelta(hours=10)
LOCAL_SID: Final = "S-1-5-21-3417284416-1020143541-2795120344"
"""The SID of the cluster itself, in front of the number of each local user and group."""

USER_WRITE_PRIVILEGE: Final = "PRIVILEGE_LOCAL_USER_WRITE"
ROLE_READ_PRIVILEGE: Final = "PRIVILEGE_ROLE_READ"
ROLE_WRITE_PRIVILEGE: Final = "PRIVILEGE_ROLE_WRITE"
PRIVILEGES: Final = {
    "PRIVILEGE_ACCESS_TOKENS_READ": "List and read the access tokens of all users",
    "PRIVILEGE_ACCESS_TOKENS_WRITE": "Create, modify and delete the access tokens of all users",
    "PRIVILEGE_IDENTITY_READ": "Look up identities",
    USER_WRITE_PRIVILEGE: "Add local users",
    ROLE_READ_PRIVILEGE: "Read roles",
    ROLE_WRITE_PRIVILEGE: "Create roles, modify them and assign them",
}
"""The privileges that a role can grant here, a few of the vendor's; the descriptions are not the vendor's."""


@dataclass(frozen=True)
class Role:
    """What its members may do, besides what each may do anyway. Members are the auth_ids of users."""

    description: str
    privileges: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Session:
    user: str
    expiration_time: datetime


class Directory:
    """The roles by their names, the passwords of users, and the sessions of those who have logged in."""

    def __init__(self, clock: Clock) -> None:
        self.roles: dict[str, Role] = {}
        self._clock = clock
        self._passwords: dict[str, str] = {}
        self._sessions: dict[str, _Session] = {}

    def set_password(self, user: str, password: str) -> None:
        """Let a user log in with a password."""
        self._passwords[user] = password

    def open_session(self, user: str, password: str) -> str | None:
        """Return the bearer token of a new session, or None if the password is wrong."""
        if self._passwords.get(user) != password:
            return None
        bearer_token = f"session-v1:{secrets.token_urlsafe(48)}"
        self._sessions[bearer_token] = _Session(user, self._clock() + SESSION_LIFETIME)
        return bearer_token

    def find_session_user(self, bearer_token: str) -> str | None:
        """Return whose session this is, or None if there is none or it is over."""
        session = self._sessions.get(bearer_token)
        return session.user if session and session.expiration_time > self._clock() else None

    def list_roles_of(self, user: str) -> list[str]:
        """Return the names of a user's roles."""
        return sorted(name for name, role in self.roles.items() if user in role.members)

    def list_granted(self, user: str) -> frozenset[str]:
        """Return the privileges that a user has by their roles."""
        return frozenset[str]().union(*(self.roles[name].privileges for name in self.list_roles_of(user)))
