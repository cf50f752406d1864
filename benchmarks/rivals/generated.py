"""A server that fastmcp generates from an OpenAPI document of the endpoint.

The document is the published page of the endpoint in OpenAPI's form, with one correction that its first user would have
to make: null is among the types. Without it, the server refuses the first real answer because of its `uid`.
"""

import json
import os
import ssl
from pathlib import Path

import httpx2
from fastmcp import FastMCP

DOCUMENT = Path(__file__).with_name("access-tokens.openapi.json")


def main() -> None:
    """Serve over stdio; the environment names the cluster in the same variables as for this project's own server."""
    client = httpx2.AsyncClient(
        base_url=f"https://{os.environ['QUMULO_HOST']}:{os.environ['QUMULO_PORT']}",
        headers={"Authorization": f"Bearer {os.environ['QUMULO_BEARER_TOKEN']}"},
        verify=ssl.create_default_context(cafile=os.environ["QUMULO_CA_FILE"]),
        timeout=600,
    )
    server = FastMCP.from_openapi(json.loads(DOCUMENT.read_bytes()), client=client, name="generated")
    server.run(transport="stdio", show_banner=False)


if __name__ == "__main__":
    main()
