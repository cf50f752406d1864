"""A believable cluster with twenty tokens, of every kind that an administrator meets. Everything in it is invented."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from token_tools.sandbox.cluster import (
    LOOKUP_PRIVILEGE,
    READ_PRIVILEGE,
    WRITE_PRIVILEGE,
    Account,
    Behaviour,
    Cluster,
    Token,
)
from token_tools.sandbox.directory import LOCAL_SID, PRIVILEGES, Role
from token_tools.times import Clock

ADMIN_ID: Final = "500"
SERVICE_ID: Final = "1010"
DELETED_USER_ID: Final = "1099"

_AD_SID: Final = "S-1-5-21-1004336348-1177238915-682003330"
_TOKEN_ADMIN_PRIVILEGES: Final = frozenset({LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE})


def _local_account(auth_id: int, name: str, *, privileges: Iterable[str] = (), is_group: bool = False) -> Account:
    return Account(
        str(auth_id),
        "LOCAL",
        name,
        sid=f"{LOCAL_SID}-{auth_id}",
        is_group=is_group,
        privileges=frozenset(privileges),
    )


def _ad_account(number: int, name: str) -> Account:
    return Account(str((5 << 32) + number), "ACTIVE_DIRECTORY", f"CORP\\{name}", sid=f"{_AD_SID}-{1100 + number}")


def _ldap_account(uid: int, name: str) -> Account:
    return Account(str((3 << 32) + uid), "POSIX_USER", name, uid=uid, sid=f"S-1-5-88-1-{uid}")


_ACCOUNTS: Final = (
    _local_account(500, "admin", privileges=_TOKEN_ADMIN_PRIVILEGES),
    _local_account(501, "guest"),
    _local_account(513, "Users", is_group=True),
    _local_account(1001, "jane"),
    _local_account(1002, "backup"),
    _local_account(1003, "metrics"),
    _local_account(1004, "ci-runner"),
    _local_account(1005, "snapshot-mover"),
    _local_account(1010, "mcp-service", privileges=_TOKEN_ADMIN_PRIVILEGES),
    _local_account(1099, "contractor"),
    _ad_account(1, "jane"),
    _ad_account(2, "svc-veeam"),
    _ad_account(3, "svc-splunk"),
    _ad_account(4, "tom.meyer"),
    _ldap_account(1000, "bob"),
    _ldap_account(2001, "render"),
    Account("4294967297", "API_INTERNAL_DOMAIN", "replication"),
)

# The user, days since the creation, days until the expiration (None for never), and what is special.
_TOKEN_SPECS: Final[tuple[tuple[str, int, int | None, Mapping[str, str | bool]], ...]] = (
    ("500", 812, None, {}),
    ("1001", 30, 60, {"creator": "1001"}),
    ("1002", 200, 165, {}),
    ("1002", 5, 360, {}),
    ("1003", 400, None, {}),
    ("1004", 85, 5, {}),
    ("1004", 1, 89, {}),
    ("1005", 120, -30, {}),
    ("1099", 300, 65, {}),
    (str((5 << 32) + 1), 10, 80, {"creator": str((5 << 32) + 1)}),
    (str((5 << 32) + 2), 500, None, {}),
    (str((5 << 32) + 2), 700, 30, {"enabled": False}),
    (str((5 << 32) + 3), 88, 2, {}),
    (str((5 << 32) + 4), 95, -5, {"creator": str((5 << 32) + 4), "enabled": False}),
    (str((3 << 32) + 1000), 60, 30, {"creator": str((3 << 32) + 1000)}),
    (str((3 << 32) + 2001), 45, 320, {"creator": "1002"}),
    (str((3 << 32) + 2001), 380, -15, {}),
    ("501", 600, None, {"enabled": False}),
    ("4294967297", 900, None, {}),
)


@dataclass(frozen=True)
class DemoCluster:
    """The cluster, a bearer token of a service account that may administer tokens, and the admin's, with a password."""

    cluster: Cluster
    bearer_token: str = field(repr=False)
    admin_bearer_token: str = field(repr=False)
    admin_password: str = field(repr=False)


def create_demo_cluster(clock: Clock, behaviour: Behaviour | None = None) -> DemoCluster:
    """Return a cluster with the same accounts, tokens and ids each time; secrets are new, and times count from now.

    The ids are the same so that a client that starts a process for each call finds in the second what it saw in the
    first.
    """
    cluster = Cluster(clock=clock, behaviour=behaviour)
    for account in _ACCOUNTS:
        cluster.add_account(account)
    now = clock().replace(microsecond=0)
    for number, (user, age_days, days_left, special) in enumerate(_TOKEN_SPECS):
        token = cluster.add_token(
            user,
            creator=str(special.get("creator", ADMIN_ID)),
            creation_time=now - timedelta(days=age_days, minutes=7 * age_days % 600, microseconds=-age_days * 1_031),
            expiration_time=None if days_left is None else now + timedelta(days=days_left),
            enabled=bool(special.get("enabled", True)),
        )
        _assign_stable_id(cluster, replace(token, creation_nanoseconds=37 * age_days % 1000), number)
    own = cluster.add_token(
        SERVICE_ID,
        creator=ADMIN_ID,
        creation_time=now - timedelta(days=20),
        expiration_time=now + timedelta(days=70),
    )
    _assign_stable_id(cluster, own, len(_TOKEN_SPECS))
    cluster.remove_account(DELETED_USER_ID)
    admin = next(token for token in cluster.tokens.values() if token.user == ADMIN_ID)
    admin_password = secrets.token_urlsafe(12)
    cluster.directory.set_password(ADMIN_ID, admin_password)
    cluster.directory.roles["Administrators"] = Role(
        "All that can be done", frozenset(PRIVILEGES), frozenset({ADMIN_ID})
    )
    return DemoCluster(cluster, own.bearer_token, admin.bearer_token, admin_password)


def _assign_stable_id(cluster: Cluster, token: Token, number: int) -> None:
    """Replace the random id of a token by one that depends on nothing but its user and `number`."""
    del cluster.tokens[token.id]
    key = int.from_bytes(hashlib.sha256(f"demo {number}".encode()).digest()[:8])
    token_id = str((int(token.user) << 64) | key)
    cluster.tokens[token_id] = replace(token, id=token_id)
