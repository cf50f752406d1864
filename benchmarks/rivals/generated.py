"""A server that fastmcp generates from an OpenAPI document of the endpoint.

The document is the published page of the endpoint in OpenAPI's form, with one correction that its first user would have
to make: null is among the types. Without it, the server refuses the first real answer because of its `uid`.
"""

import json
import os
import ssl
import sys
from pathlib import Path

import httpx2
from fastmcp import FastMCP

DOCUMENT = Path(__file__).with_name("access-tokens.openapi.json")


def main(port: str | None = None) -> None:
    """Serve over stdio, or over HTTP at a port of this machine.

    The environment names the cluster in the same variables as for this project's own server.
    """
    client = httpx2.AsyncClient(
        base_url=f"https://{os.environ['QUMULO_HOST']}:{os.environ['QUMULO_PORT']}",
        headers={"Authorization": f"Bearer {os.environ['QUMULO_BEARER_TOKEN']}"},
        verify=ssl.create_default_context(cafile=os.environ["QUMULO_CA_FILE"]),
        timeout=600,
    )
    server = FastMCP.from_openapi(json.loads(DOCUMENT.read_bytes()), client=client, name="generated")
    if port is None:
        server.run(transport="stdio", show_banner=False)
    else:
        # It logs no requests, as this project's own server does not.
        server.run(
            transport="http",
            show_banner=False,
            port=int(port),
            stateless_http=True,
            uvicorn_config={"log_level": "warning"},
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
