"""Serves MCP over stdio, which is what the command line does by default."""

from __future__ import annotations  # to evaluate them would run httpx at the start

import logging
from collections.abc import Sequence
from typing import Final

import anyio
import httpx

from token_tools.config_file import name_table_keys
from token_tools.configuration import Profile
from token_tools.server.app import create_server, create_shutdown
from token_tools.server.stdio import serve
from token_tools.shutdown import new_event_loop

_LOG: Final = logging.getLogger(__name__)


def serve_clusters(profiles: Sequence[Profile], cluster_transport: httpx.AsyncBaseTransport | None = None) -> None:
    """Serve these clusters until stdin ends or a signal asks for the end.

    Requests to them go over `cluster_transport` instead of the network if one is given.
    """
    for profile in profiles:
        if not profile.settings.verify_tls:
            _LOG.warning(
                "%s=false: the certificate of %s is not verified; anyone on the way can read the credential",
                name_table_keys("QUMULO_VERIFY_TLS", profile.name),
                profile.label,
            )
    shutdown = create_shutdown(profiles)
    server = create_server(profiles, cluster_transport=cluster_transport, shutdown=shutdown)
    anyio.run(serve, server, shutdown, backend_options={"loop_factory": new_event_loop})
