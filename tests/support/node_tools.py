"""The commands of hosts and of their vendors from npm, which `.ci/run` installs."""

import os
from pathlib import Path
from typing import Final

import pytest

HOSTS_BIN: Final = Path(os.environ.get("HOSTS_BIN", ""))
MCPB_BIN: Final = Path(os.environ.get("MCPB_BIN", ""))

needs_hosts = pytest.mark.skipif(
    not (HOSTS_BIN / "codex").exists(),
    reason="HOSTS_BIN names no folder with the commands of hosts from npm; the gate installs them",
)
needs_mcpb = pytest.mark.skipif(
    not (MCPB_BIN / "mcpb").exists(), reason="MCPB_BIN names no folder with mcpb from npm; the gate installs it"
)
