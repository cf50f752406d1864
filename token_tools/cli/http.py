"""Serves MCP over HTTP, for clients on other machines and for teams."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
import httpx

from token_tools.cli import serve_demo
from token_tools.cli.serve import warn_unverified
from token_tools.cli.setting_options import add_cluster_option, add_setting_option, add_setting_options
from token_tools.configuration import Profile, load_http_settings, load_profiles
from token_tools.http_settings import HttpSettings, decode_state_key
from token_tools.server.app import Timing, Wire, create_server, create_shutdown
from token_tools.server.http.access_log import note_message
from token_tools.server.http.app import create_app, create_tools_app
from token_tools.server.http.bounds import BOUNDS, TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.listening import find_address, listening, load_tls
from token_tools.server.http.serving import Service, serve
from token_tools.server.http.sign_in import SignIn
from token_tools.server.telemetry import open_telemetry
from token_tools.settings import SECRET_SETTINGS
from token_tools.shutdown import new_event_loop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for serving over HTTP."""
    parser.add_argument(
        "--demo", action="store_true", default=argparse.SUPPRESS, help="Serve an embedded cluster instead of a real one"
    )
    add_cluster_option(parser, "Serve only this one of the clusters in config.toml; may be repeated")
    for name in HttpSettings.model_fields:
        if name not in SECRET_SETTINGS:
            add_setting_option(parser, name)
    add_setting_option(parser, "delivery", default="none")
    add_setting_options(parser, without={"delivery"})


def run(settings: Mapping[str, Any], *, clusters: Sequence[str] = (), demo: bool = False) -> int:
    """Serve until a signal asks for the end; return the exit status.

    Raises:
        SettingsError: If a setting or an option is wrong, or if nobody can listen at the address.
    """
    http_settings = load_http_settings(settings)
    with ExitStack() as opened:
        transport = None
        if demo:
            profile, transport = opened.enter_context(serve_demo.open_demo_cluster(settings))
            profiles: Sequence[Profile] = [profile]
        else:
            profiles = load_profiles(settings, clusters=clusters)
        distant = [profile.for_distant_callers() for profile in profiles]
        return _serve(http_settings, distant, transport)


def _serve(settings: HttpSettings, profiles: Sequence[Profile], transport: httpx.AsyncBaseTransport | None) -> int:
    warn_unverified(profiles)
    tls = load_tls(settings)
    shutdown = create_shutdown(profiles)
    readiness = Readiness(lambda: shutdown.has_begun)
    state_keys = [*map(decode_state_key, settings.http_state_keys or ())]
    with open_telemetry() as telemetry, listening(settings) as bound:
        settings = settings.at_address(find_address(bound))
        wire = Wire(readiness.begin, state_keys, not settings.http_anonymous, [note_message], telemetry)
        server = create_server(profiles, cluster_transport=transport, timing=Timing(shutdown=shutdown), wire=wire)
        sign_in = None if settings.http_anonymous else SignIn(settings)
        bounded = TimeBounds(create_tools_app(server, settings, BOUNDS))
        service = Service(create_app(settings, bounded, readiness, sign_in), bounded, tls)
        clusters = ", ".join(profile.label for profile in profiles)
        announcement = (
            f"qumulo-token-tools serves {clusters} at {settings.resource}, and listens on {settings.http_listen}.\n"
        )

        async def serve_app() -> int:
            async with server.session_manager.run():
                await serve(service, bound, shutdown, lambda: sys.stderr.write(announcement))
            return 0

        return anyio.run(serve_app, backend_options={"loop_factory": new_event_loop})
