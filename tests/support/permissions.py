"""The permissions of files and folders."""

import stat
from pathlib import Path


def permission_bits(path: Path) -> int:
    """Return the mode of a file or folder without its type, such as 0o600."""
    return stat.S_IMODE(path.stat().st_mode)
