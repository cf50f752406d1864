"""Serves MCP over HTTP, for clients on other machines and for teams."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import anyio
import httpx

from token_tools.cli import serve_demo
from token_tools.cli.serve import warn_unverified
from token_tools.cli.setting_options import add_cluster_option, add_setting_option, add_setting_options
from token_tools.configuration import Profile, load_http_settings, load_profiles
from token_tools.http_settings import HttpSettings, decode_state_key
from token_tools.operations.fleet import Fleet
from token_tools.sealing import Sealer
from token_tools.server.app import Timing, Wire, create_server, create_shutdown
from token_tools.server.http.access_log import note_message
from token_tools.server.http.app import create_app, create_tools_app
from token_tools.server.http.bounds import BOUNDS, BOUNDS_OF_REPLICA, TimeBounds
from token_tools.server.http.health import Readiness
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.listening import find_address, listening, load_tls
from token_tools.server.http.pickup.browser_sessions import BrowserSessions
from token_tools.server.http.pickup.pages import PickupPages
from token_tools.server.http.pickup.person_sign_in import PersonSignIn
from token_tools.server.http.serving import Service, serve
from token_tools.server.http.sign_in import SignIn
from token_tools.server.telemetry import open_telemetry
from token_tools.settings import SECRET_SETTINGS
from token_tools.shutdown import new_event_loop
from token_tools.storage.pickups import SEALING_PURPOSE, PickupOffer
from token_tools.times import utc_now

_NO_PLACE: Final = (
    "No token can be created: QUMULO_HTTP_CLIENT_ID lets people pick up new bearer tokens at a page of this server, "
    "and QUMULO_DELIVERY names other places.\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for serving over HTTP."""
    parser.add_argument(
        "--demo", action="store_true", default=argparse.SUPPRESS, help="Serve an embedded cluster instead of a real one"
    )
    add_cluster_option(parser, "Serve only this one of the clusters in config.toml; may be repeated")
    for name in HttpSettings.model_fields:
        if name not in SECRET_SETTINGS:
            add_setting_option(parser, name)
    add_setting_option(parser, "delivery", default="pickup")
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
        distant = [profile.for_distant_callers(http_settings) for profile in profiles]
        return _serve(http_settings, distant, transport)


def _serve(settings: HttpSettings, profiles: Sequence[Profile], transport: httpx.AsyncBaseTransport | None) -> int:
    warn_unverified(profiles)
    tls = load_tls(settings)
    settings.read_client_secret()
    shutdown = create_shutdown(profiles)
    readiness = Readiness(lambda: shutdown.has_begun)
    state_keys = [*map(decode_state_key, settings.http_state_keys or ())]
    with open_telemetry() as telemetry, listening(settings) as bound:
        settings = settings.at_address(find_address(bound))
        offer = _offer_pickup(settings, state_keys)
        issuer = Issuer.from_settings(settings, clock=utc_now)
        pages = _create_pages(settings, state_keys, issuer)

        def on_open(fleet: Fleet) -> None:
            readiness.begin(fleet)
            if pages is not None:
                pages.begin(fleet)

        wire = Wire(on_open, state_keys, not settings.http_anonymous, [note_message], telemetry, offer)
        server = create_server(profiles, cluster_transport=transport, timing=Timing(shutdown=shutdown), wire=wire)
        sign_in = None if settings.http_anonymous else SignIn(settings, issuer)
        bounds = BOUNDS if profiles[0].settings.state_url is None else BOUNDS_OF_REPLICA
        bounded = TimeBounds(create_tools_app(server, settings, bounds), bounds)
        service = Service(create_app(settings, bounded, readiness, sign_in, pages), bounded, tls)
        announcement = _render_announcement(settings, profiles)

        async def serve_app() -> int:
            async with server.session_manager.run():
                await serve(service, bound, shutdown, lambda: sys.stderr.write(announcement))
            return 0

        return anyio.run(serve_app, backend_options={"loop_factory": new_event_loop})


def _render_announcement(settings: HttpSettings, profiles: Sequence[Profile]) -> str:
    """Return the lines for the operator: how people get new bearer tokens, and what is served where."""
    clusters = ", ".join(profile.label for profile in profiles)
    served = f"qumulo-token-tools serves {clusters} at {settings.resource}, and listens on {settings.http_listen}.\n"
    deliveries = {profile.settings.delivery for profile in profiles if not profile.settings.read_only}
    if deliveries == {"pickup"}:
        needed = f"At the issuer, that needs the redirect URI {settings.redirect_uri}"
        return f"People sign in to pick up new bearer tokens below {settings.pickup_url}. {needed}\n{served}"
    return f"{_NO_PLACE}{served}" if deliveries == {"none"} else served


def _create_pages(settings: HttpSettings, state_keys: Sequence[bytes], issuer: Issuer | None) -> PickupPages | None:
    if not settings.offers_pickup or issuer is None:
        return None
    return PickupPages(
        settings,
        PersonSignIn(settings, state_keys, issuer, clock=utc_now),
        BrowserSessions(settings, state_keys, utc_now),
    )


def _offer_pickup(settings: HttpSettings, state_keys: Sequence[bytes]) -> PickupOffer | None:
    if not settings.offers_pickup:
        return None
    return PickupOffer(settings.pickup_url, Sealer(state_keys, SEALING_PURPOSE))
