"""What is done for a fast start changes nothing about what was loaded."""

import subprocess
import sys

import pytest

PATIENCE = 60


@pytest.mark.parametrize("before", ["", "import mcp"], ids=["first", "loaded-before"])
def test_the_sdk_is_whole_for_whoever_asks_for_more_of_it(before: str) -> None:
    script = f"""
import sys
{before}
from token_tools.start import importing
with importing():
    from mcp.server.mcpserver import MCPServer
early = "mcp.client" in sys.modules
import mcp
from mcp.client import Client
assert mcp.ClientSession.__module__ == "mcp.client.session"
assert mcp.types.Tool(name="x", input_schema=dict(type="object")).name == "x"
print(early)
"""

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)

    assert ended.stdout.strip() == str(bool(before))
    assert ended.stderr == ""
