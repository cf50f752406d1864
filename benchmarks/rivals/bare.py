"""A server with nothing but the SDK and one trivial tool: no server of the SDK can be faster."""

import sys

from mcp.server.mcpserver import MCPServer

# It logs no requests, as this project's own server does not.
server = MCPServer("bare", log_level="WARNING")


@server.tool()
def ping() -> str:
    """Answer."""
    return "pong"


def main(port: str | None = None) -> None:
    """Serve over stdio, or over HTTP at a port of this machine."""
    if port is None:
        server.run()
    else:
        server.run("streamable-http", port=int(port), stateless_http=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
