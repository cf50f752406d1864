"""A server with nothing but the SDK and one trivial tool: no server of the SDK can be faster."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("bare")


@server.tool()
def ping() -> str:
    """Answer."""
    return "pong"


if __name__ == "__main__":
    server.run()
