"""The cluster that everything is measured on: the project's own sandbox, over HTTPS on loopback, with many tokens.

`python -m benchmarks.cluster 1000` serves a cluster with 1,000 tokens; `running_cluster` runs that as a child process.
"""

import json
import ssl
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE, Account, Cluster, Token
from token_tools.sandbox.https import Address, serve_https
from token_tools.times import utc_now

SMALL_TOKEN_COUNT: Final = 50
MEDIUM_TOKEN_COUNT: Final = 1_000
LARGE_TOKEN_COUNT: Final = 100_000
ADMIN_ID: Final = "500"
SERVICE_ID: Final = "1010"
FIRST_USER_ID: Final = 2000
_SID: Final = "S-1-5-21-3417284416-1020143541-2795120344"


@dataclass(frozen=True)
class ClusterConnection:
    """The address of a cluster and a credential for it, in the forms that this project and `qq` take."""

    host: str
    port: int
    ca_file: str
    bearer_token: str
    credentials_file: str

    @property
    def environment(self) -> dict[str, str]:
        """Return this project's settings as environment variables."""
        return {
            "QUMULO_HOST": self.host,
            "QUMULO_PORT": str(self.port),
            "QUMULO_CA_FILE": self.ca_file,
            "QUMULO_BEARER_TOKEN": self.bearer_token,
        }

    @property
    def http_options(self) -> dict[str, Any]:
        """Return the arguments with which a client of httpx is one of this cluster."""
        return {
            "base_url": f"https://{self.host}:{self.port}",
            "headers": {"Authorization": f"Bearer {self.bearer_token}"},
            "verify": ssl.create_default_context(cafile=self.ca_file),
        }


def create_cluster(token_count: int) -> tuple[Cluster, Token]:
    """Return a cluster with so many tokens, and that of the service account, which the contenders use.

    The cluster is the same each time, except that its times count from now. Two thirds of the users have one token and
    a third have two, which is usual after rotations. One token in 50 never expires, one in 40 is disabled, one in 60
    has expired, and the rest expire over the next year. One in 100 was created by its own user, the others by the
    administrator. One user in 150 is deleted.
    """
    cluster = Cluster(clock=utc_now, seed=token_count)
    cluster.add_account(Account(ADMIN_ID, "LOCAL", "admin", sid=f"{_SID}-500"))
    manage = frozenset({READ_PRIVILEGE, WRITE_PRIVILEGE, LOOKUP_PRIVILEGE})
    cluster.add_account(Account(SERVICE_ID, "LOCAL", "mcp-service", sid=f"{_SID}-1010", privileges=manage))
    now = cluster.clock().replace(microsecond=0)
    own = cluster.add_token(SERVICE_ID, creator=ADMIN_ID, creation_time=now, expiration_time=now + timedelta(days=365))
    user, deleted_users = FIRST_USER_ID, list[str]()
    while len(cluster.tokens) < token_count:
        account = _create_account(user)
        cluster.add_account(account)
        for _ in range(min(2 if user % 3 == 0 else 1, token_count - len(cluster.tokens))):
            number = len(cluster.tokens)
            age = timedelta(days=number % 700, seconds=number % 86_399, microseconds=number % 999_983)
            time_left = timedelta(days=-5) if number % 60 == 1 else timedelta(days=1 + number * 37 % 365)
            cluster.add_token(
                account.auth_id,
                creator=account.auth_id if number % 100 == 1 else ADMIN_ID,
                creation_time=now - age,
                expiration_time=None if number % 50 == 1 else now + time_left,
                enabled=number % 40 != 1,
            )
        if user % 150 == 1:
            deleted_users.append(account.auth_id)
        user += 1
    for auth_id in deleted_users:
        cluster.remove_account(auth_id)
    return cluster, own


def _create_account(number: int) -> Account:
    """Return a local user; every eighth is from Active Directory instead, and every eighth from LDAP."""
    match number % 8:
        case 0:
            return Account(
                str((5 << 32) + number),
                "ACTIVE_DIRECTORY",
                f"CORP\\svc-{number}",
                sid=f"S-1-5-21-1004336348-1177238915-682003330-{number}",
            )
        case 1:
            return Account(
                str((3 << 32) + number), "POSIX_USER", f"svc-{number}", uid=number, sid=f"S-1-5-88-1-{number}"
            )
        case _:
            return Account(str(number), "LOCAL", f"svc-{number}", sid=f"{_SID}-{number}")


@contextmanager
def running_cluster(token_count: int) -> Generator[ClusterConnection]:
    """Run a cluster with so many tokens in a process of its own, as long as the block."""
    command = [sys.executable, "-m", "benchmarks.cluster", str(token_count)]
    with psutil.Popen(command, stdout=-1, text=True) as process:
        try:
            yield ClusterConnection(**json.loads(process.stdout.readline()))
        finally:
            process.terminate()
            process.wait(60)


def main(token_count: int) -> None:
    """Serve until SIGINT or SIGTERM; the first line of stdout is the `ClusterConnection` as JSON."""
    cluster, own = create_cluster(token_count)
    with TemporaryDirectory(prefix="benchmark-") as folder:
        store = Path(folder, "credentials")
        store.touch(mode=0o600)
        store.write_text(json.dumps({"bearer_token": own.bearer_token, "version": 1}))

        def announce(address: Address) -> None:
            connection = ClusterConnection(
                address.host, address.port, str(address.ca_file), own.bearer_token, str(store)
            )
            sys.stdout.write(json.dumps(asdict(connection)) + "\n")
            sys.stdout.flush()

        serve_https(create_app(cluster), port=0, folder=Path(folder), on_started=announce)


if __name__ == "__main__":
    main(int(sys.argv[1]))
