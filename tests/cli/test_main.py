"""Test that the fast start loads the SDK whole, and nothing that the list of tools does not need."""

import subprocess
import sys

import pytest

TIMEOUT_SECONDS = 60


@pytest.mark.parametrize("before", ["", "import mcp"], ids=["first", "loaded-before"])
def test_the_sdk_is_whole_for_whoever_asks_for_more_of_it(before: str) -> None:
    script = f"""
import sys
{before}
from token_tools.cli.main import importing_fast
with importing_fast():
    from mcp.server.mcpserver import MCPServer
early = "mcp.client" in sys.modules
import mcp
from mcp.client import Client
assert mcp.ClientSession.__module__ == "mcp.client.session"
assert mcp.types.Tool(name="x", input_schema=dict(type="object")).name == "x"
print(early)
"""

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
    )

    assert ended.stdout.strip() == str(bool(before))
    assert ended.stderr == ""


def test_the_list_of_tools_needs_neither_the_network_nor_the_sandbox() -> None:
    script = """
import sys
from token_tools.cli.main import importing_fast
with importing_fast():
    from token_tools.cli.commands import run_command
slow = ("mcp.client", "httpx", "httpx2", "stamina", "truststore", "trustme", "uvicorn", "rich", "token_tools.sandbox")
slow += ("authlib", "jinja2", "token_tools.server.http.pickup")
print([name for name in sys.modules if name.startswith(tuple(f"{each}." for each in slow))])
import uvicorn
print(uvicorn.Config.__module__)
"""

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
    )

    assert ended.stdout.split() == ["[]", "uvicorn.config"]
