"""By which command can a host start this very installation? Its path has to be there tomorrow."""

import os
import sys
from pathlib import Path
from typing import Final

from token_tools.cli.hosts.entries import MODULE, PROGRAM, Entry
from token_tools.errors import SettingsError

_CACHE_TAG: Final = "CACHEDIR.TAG"
"""The file by which a program marks a folder that may be emptied at any time. Source: bford.info/cachedir."""


def find_executable(prefix: Path = Path(sys.prefix), python: Path = Path(sys.executable)) -> Entry:
    """Return how this installation is started, without arguments of its own; both paths are those of this process.

    Raises:
        SettingsError: If it is in a cache, as that of `uvx` is.
    """
    # A virtual environment is marked itself by uv, and stays.
    if cache := next((folder for folder in prefix.parents if (folder / _CACHE_TAG).exists()), None):
        raise SettingsError(
            f"this installation is in the cache {cache}, which may be emptied at any time, and no host would find it "
            f"then. Install it to stay, by `uv tool install` or into a virtual environment, and run that {PROGRAM}."
        )
    script = python.parent / PROGRAM
    return Entry(str(script)) if os.access(script, os.X_OK) else Entry(str(python), ["-m", MODULE])
