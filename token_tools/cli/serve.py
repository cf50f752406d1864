"""Serves MCP over stdio, which is what the command line does by default."""

from __future__ import annotations  # to evaluate them would run httpx at the start

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import httpx

from token_tools.cli import serve_demo
from token_tools.cli.setting_options import OptionContainer, add_cluster_option, add_setting_options
from token_tools.config_file import name_table_keys
from token_tools.configuration import Profile, load_profiles
from token_tools.errors import SettingsError, UsageError
from token_tools.server.app import Timing, Wire, create_server, create_shutdown
from token_tools.server.stdio import serve
from token_tools.server.telemetry import open_telemetry
from token_tools.shutdown import new_event_loop

_LOG: Final = logging.getLogger(__name__)
WAITING: Final = (
    "qumulo-token-tools waits here for an MCP client, which usually starts it; `qumulo-token-tools install` tells a "
    "client of it, `qumulo-token-tools demo` shows what it does, and Ctrl-C ends it.\n"
)
"""What a person is told who has started a server in a terminal."""


def add_arguments(parser: OptionContainer) -> None:
    """Add the options for serving."""
    parser.add_argument(
        "--demo",
        action="store_true",
        default=argparse.SUPPRESS,
        help="Serve an embedded cluster instead of a real one",
    )
    add_cluster_option(parser, "Serve only this one of the clusters in config.toml; may be repeated")
    add_setting_options(parser)


def run(settings: Mapping[str, Any], *, clusters: Sequence[str] = (), demo: bool = False) -> int:
    """Serve the client on stdin and stdout until stdin ends or a signal asks for the end; return the exit status.

    Raises:
        SettingsError: If a setting or an option is wrong, or if stdin is closed.
    """
    if sys.stdin is None:
        raise UsageError("stdin or stdout is closed, and there is no other way to talk.")
    if demo:
        if clusters:
            raise UsageError("--demo serves the embedded cluster alone, so that --cluster chooses nothing.")
        with serve_demo.open_demo_cluster(settings) as (profile, cluster_transport):
            serve_clusters([profile], cluster_transport)
    else:
        serve_clusters(load_profiles(settings, clusters=clusters))
    return 0


def serve_clusters(profiles: Sequence[Profile], cluster_transport: httpx.AsyncBaseTransport | None = None) -> None:
    """Serve these clusters until stdin ends or a signal asks for the end.

    Requests to them go over `cluster_transport` instead of the network if one is given.

    Raises:
        SettingsError: If new bearer tokens are to be picked up at a page, of which there is none.
    """
    _check_delivery(profiles)
    warn_unverified(profiles)
    if sys.stdin.isatty():
        sys.stderr.write(WAITING)
    shutdown = create_shutdown(profiles)
    with open_telemetry() as telemetry:
        server = create_server(
            profiles,
            cluster_transport=cluster_transport,
            timing=Timing(shutdown=shutdown),
            wire=Wire(telemetry=telemetry),
        )
        anyio.run(serve, server, shutdown, backend_options={"loop_factory": new_event_loop})


def _check_delivery(profiles: Sequence[Profile]) -> None:
    if any(profile.settings.delivery == "pickup" and profile.settings.may_create_tokens for profile in profiles):
        raise SettingsError(
            "QUMULO_DELIVERY=pickup is for `qumulo-token-tools http`, at whose pages people sign in: for a client that "
            "starts this server itself, set file, keyring, command or inline."
        )


def warn_unverified(profiles: Sequence[Profile]) -> None:
    """Warn of clusters whose certificates are not verified."""
    for profile in profiles:
        if not profile.settings.verify_tls:
            _LOG.warning(
                "%s=false: the certificate of %s is not verified; anyone on the way can read the credential",
                name_table_keys("QUMULO_VERIFY_TLS", profile.table),
                profile.label,
            )
