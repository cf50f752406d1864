"""Serves MCP over stdio, which is what the command line does by default."""

from __future__ import annotations  # to evaluate them would run httpx at the start

import logging
from typing import Final

import anyio
import httpx

from token_tools.server.app import create_server
from token_tools.server.stdio import serve
from token_tools.settings import Settings
from token_tools.shutdown import Shutdown, new_event_loop

_LOG: Final = logging.getLogger(__name__)


def serve_cluster(settings: Settings, cluster_transport: httpx.AsyncBaseTransport | None = None) -> None:
    """Serve the cluster that the settings name until stdin ends or a signal asks for the end.

    Requests to the cluster go over `cluster_transport` instead of the network if one is given.
    """
    if not settings.verify_tls:
        _LOG.warning(
            "QUMULO_VERIFY_TLS=false: the certificate of %s is not verified; anyone on the way can read the credential",
            settings.address,
        )
    shutdown = Shutdown(settings.timeout)
    server = create_server(settings, cluster_transport=cluster_transport, shutdown=shutdown)
    anyio.run(serve, server, shutdown, backend_options={"loop_factory": new_event_loop})
