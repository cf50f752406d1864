"""The state in PostgreSQL, which the servers of several machines share."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import psycopg
from pydantic import SecretStr

from token_tools.errors import RETRY_ONCE_FIXED, JournalError
from token_tools.quoting import quote_untrusted
from token_tools.redaction import redact, remember_secret_permanently
from token_tools.storage.state.connections import WAIT_SECONDS, Cause, Connection, Row

_SCHEMA: Final = "token_tools"
_LOCK: Final = 0x746F6B656E
"""The number of the lock that a transaction which writes holds; only servers like this one use it."""

_SETTINGS: Final = (
    f"SET statement_timeout = '{2 * WAIT_SECONDS}s'",
    f"SET lock_timeout = '{WAIT_SECONDS}s'",
    "SET synchronous_commit = on",
    f"SET search_path = {_SCHEMA}",
)
_UTC_AFTER: Final = f"""
CREATE OR REPLACE FUNCTION {_SCHEMA}.utc_after(seconds double precision) RETURNS text LANGUAGE sql VOLATILE AS $$
SELECT to_char(
    (clock_timestamp() + make_interval(secs => seconds)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
) $$
"""
_SERVER: Final = "QUMULO_STATE_URL has to name a PostgreSQL that answers, and that this server may use."
_PRIVILEGE: Final = (
    f"The user of QUMULO_STATE_URL needs a schema {_SCHEMA} of their own: "
    f"CREATE SCHEMA {_SCHEMA} AUTHORIZATION that user, by an administrator of the database."
)
_CAUSES: Final = {
    "28": Cause("it does not let this user in", _SERVER),
    "42501": Cause("this user may not do that there", _PRIVILEGE),
    "42": Cause(
        "its tables are not as this program makes them",
        f"Look at the schema {_SCHEMA} of QUMULO_STATE_URL, and rename it.",
    ),
    "53100": Cause("its disk is full", "Free space on the server of QUMULO_STATE_URL."),
    "53300": Cause("it has too many connections", "Allow more of them to the user of QUMULO_STATE_URL."),
    "55P03": Cause("another server holds it", "End the session at QUMULO_STATE_URL that holds it."),
    "57014": Cause("it does not answer in time", _SERVER),
    "25006": Cause("it may only be read", "QUMULO_STATE_URL has to name a database and a user that may write."),
}
"""Causes by the beginnings of PostgreSQL's error codes. Source: its documentation, appendix A."""


class PostgresDatabase:
    """The schema `token_tools` of the database that a URL names, as libpq reads it."""

    where = "in the database of QUMULO_STATE_URL"

    def __init__(self, url: SecretStr) -> None:
        self._url = url

    def connect(self) -> Connection:
        """Open a connection.

        Raises:
            JournalError: If libpq cannot read the URL.
            psycopg.Error: If there is no connection to be had.
        """
        self._remember_password()
        return _PostgresConnection(self._url)

    def _remember_password(self) -> None:
        """Remember the password before any failure could repeat it. A URL that cannot be read is not quoted at all."""
        try:
            options = psycopg.pq.Conninfo.parse(self._url.get_secret_value().encode())
        except psycopg.Error:
            raise JournalError(
                "QUMULO_STATE_URL is none that libpq can read: look at its parts and options.",
                advice=RETRY_ONCE_FIXED,
            ) from None
        for option in options:
            if option.keyword == b"password" and option.val:
                remember_secret_permanently(SecretStr(option.val.decode()))

    connect_or_create = connect

    def find_cause(self, failure: Exception, /) -> Cause | None:
        """Return what PostgreSQL or libpq says, in words; no password is repeated."""
        if isinstance(failure, TimeoutError):
            return Cause("it does not answer", _SERVER)
        if not isinstance(failure, psycopg.Error):
            return None
        known = (cause for code, cause in _CAUSES.items() if (failure.sqlstate or "").startswith(code))
        first_line = redact(str(failure)).strip().partition("\n")[0].replace('"', "'")
        return next(known, Cause(f"PostgreSQL says {quote_untrusted(first_line, max_chars=300)}", _SERVER))


class _PostgresConnection:
    def __init__(self, url: SecretStr) -> None:
        self._connection = psycopg.connect(
            url.get_secret_value(),
            autocommit=True,
            connect_timeout=WAIT_SECONDS,
            tcp_user_timeout=WAIT_SECONDS * 1000,
            application_name="qumulo-token-tools",
        )
        with ExitStack() as rollback:
            rollback.callback(self._connection.close)
            self.execute("; ".join(_SETTINGS))
            rollback.pop_all()

    def execute(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        cursor = self._connection.execute(statement.replace("?", "%s").encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def begin(self) -> None:
        """Begin a transaction once no other server writes."""
        self.execute("BEGIN")
        self.execute("SELECT pg_advisory_xact_lock(?)", _LOCK)

    def has_table(self, name: str) -> bool:
        """Tell whether there is such a table."""
        return bool(self.execute("SELECT 1 FROM pg_tables WHERE schemaname = ? AND tablename = ?", _SCHEMA, name))

    def prepare_schema(self) -> None:
        """Create the schema and the function that tells the time."""
        if not self.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", _SCHEMA):
            self.execute(f"CREATE SCHEMA {_SCHEMA}")
        self.execute(_UTC_AFTER)

    def is_current(self) -> bool:
        """Tell whether the connection still stands, which costs one question."""
        try:
            self.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def scrub(self) -> None:
        """Do nothing: PostgreSQL overwrites what was deleted in its own time."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
