"""The server: which tools and prompts it has, and what they work with while it lives."""

from __future__ import annotations  # to evaluate them would run httpx at the start

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import httpx
from mcp.server import CacheHint
from mcp.server.caching import CacheableMethod
from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateSecurity

from token_tools import __version__
from token_tools.cluster.client import connect
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.config_file import name_table_keys
from token_tools.configuration import Profile
from token_tools.errors import DeliveryError, JournalError
from token_tools.operations.fleet import Fleet
from token_tools.operations.own_credential import OwnTokenWatch
from token_tools.operations.pickup import watch_overdue
from token_tools.operations.policy import choose_policy
from token_tools.operations.services import Services
from token_tools.posix import IS_WINDOWS
from token_tools.server import prompts
from token_tools.server.clusters import ClusterChoice, OfferedTool, render_cluster
from token_tools.server.elicitation.asking import CONSENT_TIMEOUT
from token_tools.server.middleware import Catalogue, refuse_secret_names
from token_tools.server.observation import Observation, Observer
from token_tools.server.own_token_warning import warn_of_expiry
from token_tools.server.roles import RoleCatalogue, RoleGate
from token_tools.server.tools import EXPORT_TOOL, TOOLS, list_fleet_tools
from token_tools.settings import Settings
from token_tools.shutdown import Shutdown
from token_tools.storage.attempts import Attempt
from token_tools.storage.credential_place import find_place
from token_tools.storage.delivery import Delivery, choose_delivery
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.pickups import PickupOffer, Pickups
from token_tools.storage.questions import QUESTION_TIMEOUT
from token_tools.storage.state import Connections, open_state
from token_tools.storage.state.record import LEASE_SECONDS
from token_tools.times import Clock, format_time, utc_now

if TYPE_CHECKING:
    # To import it would load OpenTelemetry's metrics at the start.
    from token_tools.server.instruments import Telemetry

_LOG: Final = logging.getLogger(__name__)
SERVER_NAME: Final = "qumulo-token-tools"
SERVER_TITLE: Final = "Qumulo access tokens"
MAX_LOGGED: Final = 20
"""So many attempts without a known end are logged at a start."""

ONLY_READS: Final = "this server only reads"
CREATES_NONE: Final = (
    "this server creates no token: its operator names no place for a bearer token (QUMULO_DELIVERY, or over HTTP "
    "QUMULO_HTTP_CLIENT_ID)"
)
EXPORTS_NONE: Final = (
    "this server exports nothing: on Windows nothing shows it who else can read a file; a person can run "
    "`qumulo-token-tools audit --format csv`"
    if IS_WINDOWS
    else "this server exports nothing: its operator names no place for the file (QUMULO_REPORT_DIR)"
)
"""Why a tool or a prompt is not offered."""

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


class Timing(NamedTuple):
    """How long a call waits for a person's answer, and after which time a start tells what others left unfinished.

    With a `report_delay` of None it does not: whoever opens the clusters tells it.
    `own_token_patience` is how long an answer waits to know when the server's own token expires, from when that was
    asked; with None it is never asked. `shutdown` is the end of the process, None for one that nobody asks for.
    `overdue_period` is the time between two looks for what was not picked up.
    """

    consent_timeout: timedelta = CONSENT_TIMEOUT
    report_delay: timedelta | None = timedelta(seconds=1)
    own_token_patience: timedelta | None = timedelta(seconds=1)
    shutdown: Shutdown | None = None
    overdue_period: timedelta = timedelta(seconds=10)


DEFAULT_TIMING: Final = Timing()


class Wire(NamedTuple):
    """What the way to the clients asks of a server.

    `on_open` is called with the clusters once they are open. Of `state_keys`, the first seals what a client sends back
    with its answer to a question, and all open it; without any, no other server can open it. `needs_sign_in` says that
    nothing is answered to a caller who is not known. `observers` watch the messages, and `telemetry` all that
    OpenTelemetry is told, if the operator wants that. `pickup` has what it takes to let people pick bearer tokens up at
    pages, None without such pages.
    """

    on_open: Callable[[Fleet], object] = lambda _: None
    state_keys: Sequence[bytes] = ()
    needs_sign_in: bool = False
    observers: Sequence[Observer] = ()
    telemetry: Telemetry | None = None
    pickup: PickupOffer | None = None

    def create_middleware(self, tools: Collection[str]) -> Sequence[Observation]:
        """Return what lets them watch the messages of a server with these tools; nothing if nobody does."""
        observers = [*self.observers, *([] if self.telemetry is None else [self.telemetry.observe_message])]
        return [Observation(tools, observers)] if observers else []


PLAIN_WIRE: Final = Wire()


class _Runtime(NamedTuple):
    """What the services of all clusters share."""

    state: Connections
    cluster_transport: httpx.AsyncBaseTransport | None
    clock: Clock
    timing: Timing
    shutdown: Shutdown
    wire: Wire = PLAIN_WIRE


def create_server(
    profiles: Sequence[Profile],
    *,
    cluster_transport: httpx.AsyncBaseTransport | None = None,
    clock: Clock = utc_now,
    timing: Timing = DEFAULT_TIMING,
    wire: Wire = PLAIN_WIRE,
) -> MCPServer[Fleet]:
    """Return an MCP server for one or several clusters.

    It connects when it starts to serve, over `cluster_transport` instead of the network if one is given. `timing` says
    how long it waits for people, and how long what was begun may take once the process is to end. `wire` is what the
    way to its clients asks of it.
    """
    runtime = _create_runtime(profiles, cluster_transport=cluster_transport, clock=clock, timing=timing, wire=wire)
    offered = _list_offered_tools(profiles)
    catalogue, not_for_readers = _create_catalogue(offered, profiles), _list_withheld(profiles)
    choice = [ClusterChoice(profiles, {each.tool.name: each for each in offered})] if len(profiles) > 1 else []
    server = MCPServer(
        SERVER_NAME,
        title=SERVER_TITLE,
        version=__version__,
        instructions=_render_instructions(profiles),
        tools=[*catalogue.tools],
        lifespan=lambda _: _open_fleet(profiles, runtime, wire.on_open),
        log_level="WARNING",
        subscriptions=False,
        cache_hints=dict.fromkeys(_CACHEABLE_METHODS, CacheHint(ttl_ms=_CACHE_TTL_MS, scope="private")),
        request_state_security=_choose_state_security(wire.state_keys),
        middleware=[
            refuse_secret_names,
            RoleCatalogue(catalogue, not_for_readers),
            *choice,
            RoleGate(not_for_readers, wire.needs_sign_in),
            warn_of_expiry,
        ],
    )
    # The first one is the SDK's own tracing, which tells names and ids as a client wrote them.
    server.middleware[:1] = wire.create_middleware([tool.name for tool in catalogue.tools])
    for prompt in catalogue.prompts:
        server.add_prompt(prompt)
    return server


def _choose_state_security(keys: Sequence[bytes]) -> RequestStateSecurity:
    ttl = QUESTION_TIMEOUT.total_seconds()
    return RequestStateSecurity(keys=keys, ttl=ttl) if keys else RequestStateSecurity.ephemeral(ttl=ttl)


def _create_runtime(
    profiles: Sequence[Profile],
    *,
    cluster_transport: httpx.AsyncBaseTransport | None = None,
    clock: Clock,
    timing: Timing = DEFAULT_TIMING,
    wire: Wire = PLAIN_WIRE,
) -> _Runtime:
    return _Runtime(
        open_state(profiles[0].settings, clock),
        cluster_transport,
        clock,
        timing,
        timing.shutdown or create_shutdown(profiles),
        wire,
    )


def create_shutdown(profiles: Sequence[Profile]) -> Shutdown:
    """Return how much time is left at the end: what was begun on the slowest cluster can go on to its end."""
    return Shutdown(max(profile.settings.timeout for profile in profiles))


def _list_offered_tools(profiles: Sequence[Profile]) -> Sequence[OfferedTool]:
    """Return every tool with the clusters for which it may be called; there may be none."""
    tools = list_fleet_tools() if len(profiles) > 1 else TOOLS
    return [
        OfferedTool(each.tool, [profile for profile in profiles if each.is_allowed(profile.settings)], each.for_all)
        for each in tools
    ]


def _list_withheld(profiles: Sequence[Profile]) -> Collection[str]:
    """Return the names of the tools and prompts that are not for callers who only read."""
    reading = [profile.settings.model_copy(update={"read_only": True}) for profile in profiles]
    rules = [rule for rule in TOOLS if not any(map(rule.is_allowed, reading))]
    return {rule.tool.name for rule in rules} | {prompt.name for prompt in prompts.CREATING_PROMPTS}


def _create_catalogue(offered: Sequence[OfferedTool], profiles: Sequence[Profile]) -> Catalogue:
    tools = [each.publish() if len(profiles) > 1 else each.tool for each in offered if each.profiles]
    may_create = any(profile.settings.may_create_tokens for profile in profiles)
    offered_prompts = (*prompts.READ_PROMPTS, *(prompts.CREATING_PROMPTS if may_create else ()))
    withheld = [each.tool.name for each in offered if not each.profiles]
    withheld += [prompt.name for prompt in prompts.CREATING_PROMPTS if not may_create]
    only_reads = all(profile.settings.read_only for profile in profiles)
    reasons = dict.fromkeys(withheld, ONLY_READS if only_reads else CREATES_NONE)
    if EXPORT_TOOL.name in withheld and not only_reads:
        reasons[EXPORT_TOOL.name] = EXPORTS_NONE
    return Catalogue(tools, offered_prompts, reasons)


@asynccontextmanager
async def _open_fleet(
    profiles: Sequence[Profile], runtime: _Runtime, on_open: Callable[[Fleet], object]
) -> AsyncGenerator[Fleet]:
    """Give what the operations work with, for each cluster."""
    async with AsyncExitStack() as opened:
        fleet = Fleet([await opened.enter_async_context(_open_services(profile, runtime)) for profile in profiles])
        on_open(fleet)
        yield fleet


@asynccontextmanager
async def open_fleet(profiles: Sequence[Profile], clock: Clock = utc_now) -> AsyncGenerator[Fleet]:
    """Give what the operations on clusters work with where no client is served."""
    runtime = _create_runtime(profiles, clock=clock, timing=Timing(report_delay=None))
    async with _open_fleet(profiles, runtime, lambda _: None) as fleet:
        yield fleet


@asynccontextmanager
async def _open_services(profile: Profile, runtime: _Runtime) -> AsyncGenerator[Services]:
    """Give what the operations work with, and log in time what earlier servers left unfinished."""
    settings = profile.settings
    limits = Limits(settings.keep_record, settings.max_changes)
    journal = Journal(runtime.state, cluster=settings.address, clock=runtime.clock, limits=limits)
    qq = Qq(settings.host, settings.port)
    pickups = _open_pickups(settings, journal, runtime)
    delivery = choose_delivery(settings, qq, pickups=pickups, timeout_context=runtime.shutdown.delivery_timeout)
    if not settings.read_only:
        await _log_recovered(delivery)
    cluster_clock = ClusterClock(runtime.clock)
    telemetry = runtime.wire.telemetry
    async with (
        connect(
            settings,
            cluster_transport=runtime.cluster_transport,
            shutdown=runtime.shutdown,
            on_date=cluster_clock.observe_date,
            observe=nullcontext if telemetry is None else telemetry.observe_requests(profile),
        ) as cluster,
        journal.working(),
        anyio.create_task_group() as tasks,
    ):
        if (delay := runtime.timing.report_delay) is not None:
            tasks.start_soon(_log_unfinished, journal, delivery, delay)
        patience = runtime.timing.own_token_patience
        services = Services(
            address=profile.label,
            name=profile.name,
            table=profile.table,
            cluster=cluster,
            policy=choose_policy(settings),
            confirm=settings.confirm,
            delivery=delivery,
            pickups=pickups,
            journal=journal,
            qq=qq,
            clock=cluster_clock,
            report_folder=settings.report_dir,
            credential_location=name_table_keys(settings.credential_location, profile.table),
            read_bearer=settings.read_bearer,
            credential_place=find_place(settings),
            timeout_context=runtime.shutdown.delivery_timeout,
            read_only=settings.read_only,
            may_create_tokens=settings.may_create_tokens,
            consent_timeout=runtime.timing.consent_timeout,
            own_token_watch=None
            if patience is None
            else OwnTokenWatch(cluster, clock=cluster_clock, tasks=tasks, patience=patience),
        )
        if telemetry is not None:
            tasks.start_soon(telemetry.watch, services)
        if pickups is not None and not settings.read_only:
            tasks.start_soon(watch_overdue, services, pickups, runtime.timing.overdue_period)
        yield services
        tasks.cancel_scope.cancel()


def _open_pickups(settings: Settings, journal: Journal, runtime: _Runtime) -> Pickups | None:
    offer = runtime.wire.pickup
    if offer is None:
        return None
    return Pickups(
        journal.transactions,
        offer,
        cluster=settings.address,
        patience=settings.pickup_time,
        clock=runtime.clock,
    )


async def _log_unfinished(journal: Journal, delivery: Delivery, delay: timedelta) -> None:
    """Log what servers began and did not live to finish."""
    # The first answers do not wait for the database, and a server that is only asked for its tools never opens it.
    await anyio.sleep(delay.total_seconds())
    logged: set[str] = set()
    try:
        # A server that was killed just now still has its leases.
        while await _log_once(journal, delivery, logged):  # noqa: ASYNC110 - what is waited for is another server
            await anyio.sleep(LEASE_SECONDS)
    except JournalError as failure:
        # Reading works without a journal. Changes will be refused for this reason.
        _LOG.warning("%s", failure)


async def _log_once(journal: Journal, delivery: Delivery, logged: set[str]) -> bool:
    """Log what is unfinished and not among `logged` yet; return whether there is something that may become so."""
    attempts = await journal.list_attempts()
    unfinished = [attempt for attempt in attempts if attempt.is_unfinished and attempt.id not in logged]
    for attempt in unfinished[-MAX_LOGGED:]:
        _LOG.warning(
            "The %s of an access token for %s on %s at %s was begun and has no known end: %s",
            attempt.operation,
            attempt.user,
            attempt.cluster,
            format_time(attempt.begun),
            _render_risk(attempt, delivery),
        )
    if len(unfinished) > MAX_LOGGED:
        _LOG.warning("%s more: see `qumulo-token-tools journal --unfinished`", len(unfinished) - MAX_LOGGED)
    logged.update(attempt.id for attempt in unfinished)
    return any(attempt.is_in_flight for attempt in attempts)


def _render_risk(attempt: Attempt, delivery: Delivery) -> str:
    if attempt.token_id is not None:
        return f"look at token {attempt.token_id}"
    location = delivery.render_possible_location(attempt.user)
    return f"a token whose bearer token nobody has may be among theirs{f', unless {location}' if location else ''}"


async def _log_recovered(delivery: Delivery) -> None:
    """Log the bearer tokens that a killed server had written to the disk, but not to their place."""
    try:
        for path in await delivery.recover():
            _LOG.warning("The bearer token of a create that was cut off is in %s", path)
    except DeliveryError as failure:
        _LOG.warning("%s", failure)


def _render_instructions(profiles: Sequence[Profile]) -> str:
    what = "Administers the access tokens (long-lived bearer tokens for REST) of"
    if len(profiles) == 1:
        served = f"It serves the cluster {profiles[0].label} and no other."
        return f"{what} a Qumulo Core storage cluster. {served} {_render_secrecy(profiles)}"
    clusters = "\n".join(map(render_cluster, profiles))
    return f"{what} Qumulo Core storage clusters. {_render_secrecy(profiles)} The clusters:\n{clusters}"


def _render_secrecy(profiles: Sequence[Profile]) -> str:
    if all(profile.settings.read_only for profile in profiles):
        return "It only reads, and never shows a bearer token."
    if not any(profile.settings.may_create_tokens for profile in profiles):
        return "It never shows a bearer token, and creates no token."
    if profiles[0].settings.delivery == "inline":
        return "The bearer token of an existing token can never be shown; that of a new one is in the answer, once."
    return "It never shows a bearer token: that of a new token goes to a place that the answer names."
