"""A server of the SDK with one tool that fetches a page of tokens, and does nothing with it.

No server that answers from the cluster can be faster: it is the bare server, and the request to the cluster.
"""

import os
import ssl
import sys

import httpx
from mcp.server.mcpserver import MCPServer

from token_tools.cluster.client import TOKENS_PATH

# It logs no requests, as this project's own server does not.
server = MCPServer("fetching", log_level="WARNING")
client = httpx.AsyncClient(
    base_url=f"https://{os.environ['QUMULO_HOST']}:{os.environ['QUMULO_PORT']}",
    headers={"Authorization": f"Bearer {os.environ['QUMULO_BEARER_TOKEN']}"},
    verify=ssl.create_default_context(cafile=os.environ["QUMULO_CA_FILE"]),
    timeout=600,
)


@server.tool()
async def fetch(limit: int) -> str:
    """Fetch so many tokens."""
    (await client.get(TOKENS_PATH, params={"limit": limit})).raise_for_status()
    return "pong"


if __name__ == "__main__":
    server.run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
