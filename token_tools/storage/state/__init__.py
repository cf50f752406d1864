"""The database of the state: a file of SQLite, or PostgreSQL. Only this folder knows SQL."""

import os
from functools import partial
from pathlib import Path
from typing import Final

from token_tools.errors import SettingsError
from token_tools.settings import StateSettings
from token_tools.storage.state.connections import Connections
from token_tools.storage.state.sqlite import SqliteDatabase
from token_tools.times import Clock

__all__ = ["Connections", "open_state"]

_FORMER_NAMES: Final = ("journal.1.jsonl", "journal.jsonl")
"""The files in which earlier versions kept the journal, the older one first."""


def open_state(settings: StateSettings, clock: Clock) -> Connections:
    """Return the database that the settings name; it is opened by the first call that needs it.

    Raises:
        SettingsError: If the settings name PostgreSQL, and its driver is not installed or cannot read the URL.
    """
    on_first_use = partial(_import_former_journal, settings.state_dir)
    if settings.state_url is None:
        return Connections(SqliteDatabase(settings.state_dir, clock), on_first_use)
    try:
        from token_tools.storage.state.postgres import PostgresDatabase  # noqa: PLC0415 - its driver is an extra
    except ImportError:
        raise SettingsError("QUMULO_STATE_URL needs an extra: pip install 'qumulo-token-tools[postgres]'.") from None
    return Connections(PostgresDatabase(settings.state_url), on_first_use)


def _import_former_journal(folder: Path, connections: Connections) -> None:
    if any(os.path.lexists(folder / name) for name in _FORMER_NAMES):
        from token_tools.storage.journal_import import import_journal  # noqa: PLC0415 - hardly any folder needs it

        import_journal(folder, _FORMER_NAMES, connections)
