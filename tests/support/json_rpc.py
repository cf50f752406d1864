"""The messages that a client sends to the installed command over stdio."""

import sys
from pathlib import Path

Message = dict[str, object]
COMMAND = str(Path(sys.executable).with_name("qumulo-token-tools"))
INITIALIZE: Message = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED: Message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
REQUEST_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""What each request carries in the newer era of the protocol, in place of a handshake."""


def create_call(number: int, tool: str, **arguments: object) -> Message:
    """Build the request that calls a tool."""
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }
