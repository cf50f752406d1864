"""Which tools a server has, what they work with, and how long that lives."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mcp.server import CacheHint
from mcp.server.caching import CacheableMethod
from mcp.server.mcpserver import MCPServer

from token_tools import __version__
from token_tools.cluster.client import connect
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.errors import DeliveryError, JournalError
from token_tools.operations.create import Mint
from token_tools.operations.policy import choose_policy
from token_tools.operations.services import Workflows
from token_tools.server import prompts
from token_tools.server.catalogue import Catalogue
from token_tools.server.strict_tool import refuse_secret_names
from token_tools.server.tools import READING, WRITING
from token_tools.settings import Settings
from token_tools.shutdown import Ending
from token_tools.storage.delivery import Delivery, choose_delivery
from token_tools.storage.journal import Entry, Journal
from token_tools.times import Clock, tell_time, utc_now
from token_tools.views.tokens import count

if TYPE_CHECKING:
    import httpx

_LOG: Final = logging.getLogger(__name__)
NAME: Final = "qumulo-token-tools"
TITLE: Final = "Qumulo access tokens"
_HOUR: Final = 3_600_000
"""In milliseconds."""
_UNCHANGING: Final[Sequence[CacheableMethod]] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)
"""What a server answers in the same way as long as it lives; another server has other settings."""


def create_server(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Clock = utc_now,
    patience: timedelta = timedelta(minutes=5),
    ending: Ending | None = None,
) -> MCPServer[Workflows]:
    """An MCP server for the cluster that the settings name.

    It connects when it starts to serve, over `transport` instead of the network if one is given. A call that waits for
    a human's answer gives up after `patience`. What was begun is finished within what `ending` allows.
    """
    ending = ending or Ending(settings.timeout)

    @asynccontextmanager
    async def lifespan(_: MCPServer[Workflows]) -> AsyncGenerator[Workflows]:
        journal = Journal(settings.state_dir, cluster=settings.address, clock=clock)
        qq = Qq(settings.host, settings.port)
        delivery = choose_delivery(settings, qq, within=ending.limit_delivery)
        if not settings.read_only:
            await _report_open_intents(journal, delivery)
            await _report_recovered(delivery)
        cluster_clock = ClusterClock(clock)
        hear_date = cluster_clock.hear_date
        async with connect(settings, transport=transport, ending=ending, hear_date=hear_date) as cluster:
            yield Workflows(
                address=settings.address,
                cluster=cluster,
                policy=choose_policy(settings),
                credential=_tell_credential(settings),
                mint=Mint(cluster, delivery, journal, qq, cluster_clock),
                journal=journal,
                folder=settings.delivery_dir,
                clock=cluster_clock,
                read_bearer=settings.read_bearer,
                read_only=settings.read_only,
                patience=patience,
            )

    catalogue = (
        Catalogue(READING, prompts.READING, withheld=[named.name for named in (*WRITING, *prompts.WRITING)])
        if settings.read_only
        else Catalogue((*READING, *WRITING), (*prompts.READING, *prompts.WRITING))
    )
    server = MCPServer(
        NAME,
        title=TITLE,
        version=__version__,
        instructions=(
            "Administers the access tokens (long-lived bearer tokens for REST) of a Qumulo Core storage cluster. "
            f"It serves the cluster {settings.address} and no other. "
            f"{_tell_secrecy(settings)}"
        ),
        tools=[*catalogue.tools],
        lifespan=lifespan,
        log_level="WARNING",
        subscriptions=False,
        cache_hints=dict.fromkeys(_UNCHANGING, CacheHint(ttl_ms=_HOUR, scope="private")),
        middleware=[refuse_secret_names, catalogue],
    )
    for prompt in catalogue.prompts:
        server.add_prompt(prompt)
    return server


async def _report_open_intents(journal: Journal, delivery: Delivery) -> None:
    """Tell the operator, once, of what a server began and did not live to finish."""
    try:
        if unreadable := await journal.count_unreadable():
            _LOG.warning(
                "%s of the journal in %s cannot be read and %s passed over: not whole, or not written by this program",
                count(unreadable, "line"),
                journal.folder,
                "is" if unreadable == 1 else "are",
            )
        for intent in await journal.report_open():
            _LOG.warning(
                "The %s of an access token for %s on %s at %s was begun and has no outcome: %s",
                intent.operation,
                intent.user,
                intent.cluster,
                tell_time(intent.time),
                _tell_risk(intent, delivery),
            )
    except JournalError as failure:
        # Reading works without a journal; what writes will be refused with this reason.
        _LOG.warning("%s", failure)


def _tell_risk(intent: Entry, delivery: Delivery) -> str:
    if intent.token_id is not None:
        return f"look at token {intent.token_id}"
    place = delivery.tell_whereabouts(intent.user)
    return f"a token whose bearer token nobody has may be among theirs{f', unless {place}' if place else ''}"


async def _report_recovered(delivery: Delivery) -> None:
    """Tell the operator of bearer tokens that a killed server had on the disk already, but not in their place."""
    try:
        for path in await delivery.recover():
            _LOG.warning("The bearer token of a create that was cut off is in %s", path)
    except DeliveryError as failure:
        _LOG.warning("%s", failure)


def _tell_credential(settings: Settings) -> str:
    """Where the operator keeps the credential of the server itself."""
    if settings.credentials_file is not None:
        return f"QUMULO_CREDENTIALS_FILE ({settings.credentials_file})"
    return "QUMULO_BEARER_TOKEN"


def _tell_secrecy(settings: Settings) -> str:
    if settings.read_only:
        return "It only reads, and never shows a bearer token."
    if settings.delivery == "inline":
        return "The bearer token of an existing token can never be shown; that of a new one is in the answer, once."
    return "It never shows a bearer token: that of a new token goes to a place that the answer names."
