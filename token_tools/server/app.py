"""The server: which tools and prompts it has, and what they work with while it lives."""

from __future__ import annotations  # to evaluate them would run httpx at the start

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx
from mcp.server import CacheHint
from mcp.server.caching import CacheableMethod
from mcp.server.mcpserver import MCPServer

from token_tools import __version__
from token_tools.cluster.client import connect
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.errors import DeliveryError, JournalError
from token_tools.operations.policy import choose_policy
from token_tools.operations.services import Services
from token_tools.server import prompts
from token_tools.server.elicitation.asking import CONSENT_TIMEOUT
from token_tools.server.middleware import Catalogue, refuse_secret_names
from token_tools.server.tools import READ_TOOLS, WRITE_TOOLS
from token_tools.settings import Settings
from token_tools.shutdown import Shutdown
from token_tools.storage.delivery import Delivery, choose_delivery
from token_tools.storage.journal import Journal, JournalEntry
from token_tools.times import Clock, format_time, utc_now
from token_tools.views.tokens import format_count

_LOG: Final = logging.getLogger(__name__)
SERVER_NAME: Final = "qumulo-token-tools"
SERVER_TITLE: Final = "Qumulo access tokens"
_CACHE_TTL_MS: Final = 3_600_000
"""How long a client may keep an answer, in milliseconds: an hour."""
_CACHEABLE_METHODS: Final[Sequence[CacheableMethod]] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)
"""The methods whose answers are the same as long as a server lives; another server has other settings."""


def create_server(
    settings: Settings,
    *,
    cluster_transport: httpx.AsyncBaseTransport | None = None,
    clock: Clock = utc_now,
    consent_timeout: timedelta = CONSENT_TIMEOUT,
    shutdown: Shutdown | None = None,
) -> MCPServer[Services]:
    """Return an MCP server for the cluster that the settings name.

    It connects when it starts to serve, over `cluster_transport` instead of the network if one is given. A call that
    waits for a person's answer gives up after `consent_timeout`. `shutdown` says how long what was begun may take once
    the process is to end.
    """
    shutdown = shutdown or Shutdown(settings.timeout)
    catalogue = _choose_catalogue(settings)
    server = MCPServer(
        SERVER_NAME,
        title=SERVER_TITLE,
        version=__version__,
        instructions=(
            "Administers the access tokens (long-lived bearer tokens for REST) of a Qumulo Core storage cluster. "
            f"It serves the cluster {settings.address} and no other. "
            f"{_render_secrecy(settings)}"
        ),
        tools=[*catalogue.tools],
        lifespan=lambda _: _open_services(settings, cluster_transport, clock, consent_timeout, shutdown),
        log_level="WARNING",
        subscriptions=False,
        cache_hints=dict.fromkeys(_CACHEABLE_METHODS, CacheHint(ttl_ms=_CACHE_TTL_MS, scope="private")),
        middleware=[refuse_secret_names, catalogue],
    )
    for prompt in catalogue.prompts:
        server.add_prompt(prompt)
    return server


def _choose_catalogue(settings: Settings) -> Catalogue:
    if settings.read_only:
        withheld = [each.name for each in (*WRITE_TOOLS, *prompts.WRITE_PROMPTS)]
        return Catalogue(READ_TOOLS, prompts.READ_PROMPTS, withheld)
    return Catalogue((*READ_TOOLS, *WRITE_TOOLS), (*prompts.READ_PROMPTS, *prompts.WRITE_PROMPTS))


@asynccontextmanager
async def _open_services(
    settings: Settings,
    cluster_transport: httpx.AsyncBaseTransport | None,
    clock: Clock,
    consent_timeout: timedelta,
    shutdown: Shutdown,
) -> AsyncGenerator[Services]:
    """Log what an earlier server left unfinished, connect to the cluster, and give what the operations work with."""
    journal = Journal(settings.state_dir, cluster=settings.address, clock=clock)
    qq = Qq(settings.host, settings.port)
    delivery = choose_delivery(settings, qq, timeout_context=shutdown.delivery_timeout)
    if not settings.read_only:
        await _log_open_intents(journal, delivery)
        await _log_recovered(delivery)
    cluster_clock = ClusterClock(clock)
    on_date = cluster_clock.observe_date
    async with connect(settings, cluster_transport=cluster_transport, shutdown=shutdown, on_date=on_date) as cluster:
        yield Services(
            address=settings.address,
            cluster=cluster,
            policy=choose_policy(settings),
            confirm=settings.confirm,
            delivery=delivery,
            journal=journal,
            qq=qq,
            clock=cluster_clock,
            report_folder=settings.delivery_dir,
            credential_location=_render_credential_location(settings),
            read_bearer=settings.read_bearer,
            read_only=settings.read_only,
            consent_timeout=consent_timeout,
        )


async def _log_open_intents(journal: Journal, delivery: Delivery) -> None:
    """Log what a server began and did not live to finish; each attempt is logged once."""
    try:
        if unreadable := await journal.count_unreadable():
            _LOG.warning(
                "%s of the journal in %s cannot be read and %s passed over: not whole, or not written by this program",
                format_count(unreadable, "line"),
                journal.folder,
                "is" if unreadable == 1 else "are",
            )
        for intent in await journal.take_unreported():
            _LOG.warning(
                "The %s of an access token for %s on %s at %s was begun and has no outcome: %s",
                intent.operation,
                intent.user,
                intent.cluster,
                format_time(intent.time),
                _render_risk(intent, delivery),
            )
    except JournalError as failure:
        # Reading works without a journal. Changes will be refused for this reason.
        _LOG.warning("%s", failure)


def _render_risk(intent: JournalEntry, delivery: Delivery) -> str:
    if intent.token_id is not None:
        return f"look at token {intent.token_id}"
    location = delivery.render_possible_location(intent.user)
    return f"a token whose bearer token nobody has may be among theirs{f', unless {location}' if location else ''}"


async def _log_recovered(delivery: Delivery) -> None:
    """Log the bearer tokens that a killed server had written to the disk, but not to their place."""
    try:
        for path in await delivery.recover():
            _LOG.warning("The bearer token of a create that was cut off is in %s", path)
    except DeliveryError as failure:
        _LOG.warning("%s", failure)


def _render_credential_location(settings: Settings) -> str:
    """Render where the operator keeps the credential of the server itself."""
    if settings.credentials_file is not None:
        return f"QUMULO_CREDENTIALS_FILE ({settings.credentials_file})"
    return "QUMULO_BEARER_TOKEN"


def _render_secrecy(settings: Settings) -> str:
    if settings.read_only:
        return "It only reads, and never shows a bearer token."
    if settings.delivery == "inline":
        return "The bearer token of an existing token can never be shown; that of a new one is in the answer, once."
    return "It never shows a bearer token: that of a new token goes to a place that the answer names."
