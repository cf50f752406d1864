"""The permissions of files and folders, and what only root can do with them."""

import os
import stat
from pathlib import Path

import pytest


def permission_bits(path: Path) -> int:
    """Return the mode of a file or folder without its type, such as 0o600."""
    return stat.S_IMODE(path.stat().st_mode)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file or a process to another user")
"""Marks what an ordinary user cannot set up; the gate runs as root, so it is not skipped there."""
