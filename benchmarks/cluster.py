"""The cluster that everything is measured on: the project's own sandbox, over HTTPS on loopback, with many tokens.

As a program it serves one until it is told to end; `running_cluster` is that as a child process.
"""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import LOOK_UP, READ, WRITE, Account, Cluster, Token
from token_tools.sandbox.https import Address, serve_https
from token_tools.times import utc_now

ADMIN: Final = "500"
SERVICE: Final = "1010"
FIRST_USER: Final = 2000
_SID: Final = "S-1-5-21-3417284416-1020143541-2795120344"


@dataclass(frozen=True)
class Connection:
    """Where a cluster is and how to get in, as this project's settings and as what `qq` wants."""

    host: str
    port: int
    ca_file: str
    bearer_token: str
    store: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings as environment variables."""
        return {
            "QUMULO_HOST": self.host,
            "QUMULO_PORT": str(self.port),
            "QUMULO_CA_FILE": self.ca_file,
            "QUMULO_BEARER_TOKEN": self.bearer_token,
        }


def create_cluster(tokens: int) -> tuple[Cluster, Token]:
    """A cluster with so many tokens, the same each time but for the present, and the one of them to work with.

    Two thirds of the users have one token and a third have two, as after rotations. One token in 50 never expires, one
    in 40 is disabled, one in 60 has expired, and the rest expire over the next year; one in 100 was made by its own
    user, the others by the administrator; one user in 150 is gone.
    """
    cluster = Cluster(clock=utc_now, seed=tokens)
    cluster.add_account(Account(ADMIN, "LOCAL", "admin", sid=f"{_SID}-500"))
    manage = frozenset({READ, WRITE, LOOK_UP})
    cluster.add_account(Account(SERVICE, "LOCAL", "mcp-service", sid=f"{_SID}-1010", privileges=manage))
    now = cluster.clock().replace(microsecond=0)
    own = cluster.create_token(SERVICE, creator=ADMIN, creation_time=now, expiration_time=now + timedelta(days=365))
    user, gone = FIRST_USER, list[str]()
    while len(cluster.tokens) < tokens:
        account = _make_account(user)
        cluster.add_account(account)
        for _ in range(min(2 if user % 3 == 0 else 1, tokens - len(cluster.tokens))):
            number = len(cluster.tokens)
            age = timedelta(days=number % 700, seconds=number % 86_399, microseconds=number % 999_983)
            rest = timedelta(days=-5) if number % 60 == 1 else timedelta(days=1 + number * 37 % 365)
            cluster.create_token(
                account.auth_id,
                creator=account.auth_id if number % 100 == 1 else ADMIN,
                creation_time=now - age,
                expiration_time=None if number % 50 == 1 else now + rest,
                enabled=number % 40 != 1,
            )
        if user % 150 == 1:
            gone.append(account.auth_id)
        user += 1
    for auth_id in gone:
        cluster.remove_account(auth_id)
    return cluster, own


def _make_account(number: int) -> Account:
    """A local user, or every eighth time one of Active Directory, or every eighth one of LDAP."""
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
def running_cluster(tokens: int) -> Generator[Connection]:
    """A cluster with so many tokens in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cluster", str(tokens)]
    with psutil.Popen(command, stdout=-1, text=True) as process:
        try:
            yield Connection(**json.loads(process.stdout.readline()))
        finally:
            process.terminate()
            process.wait(60)


def main(tokens: int) -> None:
    """Serve until SIGINT or SIGTERM; the first line of stdout is the connection as JSON."""
    cluster, own = create_cluster(tokens)
    with TemporaryDirectory(prefix="benchmark-") as folder:
        store = Path(folder, "credentials")
        store.touch(mode=0o600)
        store.write_text(json.dumps({"bearer_token": own.bearer_token, "version": 1}))

        def announce(address: Address) -> None:
            connection = Connection(address.host, address.port, str(address.ca_file), own.bearer_token, str(store))
            sys.stdout.write(json.dumps(asdict(connection)) + "\n")
            sys.stdout.flush()

        serve_https(create_app(cluster), port=0, folder=Path(folder), started=announce)


if __name__ == "__main__":
    main(int(sys.argv[1]))
