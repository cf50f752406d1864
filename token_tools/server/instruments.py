"""What OpenTelemetry is told of this server: calls, requests to the clusters, and what is due there.

No attribute, name or status tells a user, an id or an argument: all of them are words of this program, versions of the
protocol, statuses, or what the operator has configured. So the SDK's own spans are not made, which tell the names and
ids that a client sent. Of the client's trace context the ids of the trace and of the parent count, and nothing else.

Names are those of OpenTelemetry's conventions for MCP and for HTTP, where there are some.
"""

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, cast

import anyio
from mcp.server.context import ServerRequestContext
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from token_tools import __version__
from token_tools.cluster.client import Exchange, Observer
from token_tools.configuration import Profile
from token_tools.operations.outlook import Outlook, read_outlook
from token_tools.operations.services import Services
from token_tools.server.observation import OTHER, Message
from token_tools.times import Clock, utc_now

REFRESH_SECONDS: Final = 60.0
"""Seconds between two looks at what is due on a cluster."""

_LOG: Final = logging.getLogger(__name__)
_SCOPE: Final = "token_tools"
_PREFIX: Final = "qumulo.token_tools"
_CALL_BOUNDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_REQUEST_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds of the histograms, in seconds. Source: OpenTelemetry's conventions for MCP and for HTTP."""

_DAY: Final = timedelta(days=1)
_PARENT_KEY: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
Attributes = Mapping[str, str | int]


class Telemetry:
    """Tells these providers what happens; `clock` is that of this machine."""

    def __init__(
        self, tracer_provider: TracerProvider, meter_provider: MeterProvider, *, clock: Clock = utc_now
    ) -> None:
        self._clock = clock
        self._outlooks: dict[str | None, Outlook] = {}
        self._tracer = tracer_provider.get_tracer(_SCOPE, __version__)
        meter = meter_provider.get_meter(_SCOPE, __version__)
        self._calls = meter.create_counter(
            f"{_PREFIX}.calls", unit="{call}", description="Calls of tools, by what came of them"
        )
        self._call_seconds = meter.create_histogram(
            "mcp.server.operation.duration",
            unit="s",
            description="Time from a message to its answer",
            explicit_bucket_boundaries_advisory=_CALL_BOUNDS,
        )
        self._request_seconds = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Time that a request to a cluster takes; each attempt counts",
            explicit_bucket_boundaries_advisory=_REQUEST_BOUNDS,
        )
        meter.create_observable_gauge(
            f"{_PREFIX}.unfinished.age",
            [self._observe_unfinished],
            unit="s",
            description="Age of the oldest change without a known end; 0 if there is none",
        )
        meter.create_observable_gauge(
            f"{_PREFIX}.next_expiry",
            [self._observe_expiries],
            unit="d",
            description="Days until the next token expires",
        )

    @contextmanager
    def observe_message(self, message: Message, ctx: ServerRequestContext[Any, Any]) -> Generator[None]:
        """Tell how a message is answered, in a span of its own."""
        begun = anyio.current_time()
        name = message.method if message.tool in {None, OTHER} else f"{message.method} {message.tool}"
        attributes = _describe(message)
        with self._start_span(name, SpanKind.SERVER, attributes, _find_parent(ctx.meta)) as span:
            try:
                yield
            finally:
                ended = attributes | _describe_end(message)
                _end_span(span, ended)
                self._call_seconds.record(anyio.current_time() - begun, ended)
                if message.tool is not None:
                    self._calls.add(1, {key: ended[key] for key in ("gen_ai.tool.name", f"{_PREFIX}.outcome")})

    def observe_requests(self, profile: Profile) -> Observer:
        """Return what tells of each request to a cluster, in a span of its own."""
        settings = profile.settings
        place = _describe_cluster(profile.name) | {"server.address": settings.host, "server.port": settings.port}
        return partial(self._observe_request, place)

    @contextmanager
    def _observe_request(self, place: Attributes, exchange: Exchange) -> Generator[None]:
        begun = anyio.current_time()
        ended = {**place, "http.request.method": exchange.method, f"{_PREFIX}.endpoint": exchange.endpoint}
        with self._start_span(exchange.endpoint, SpanKind.CLIENT, ended) as span:
            try:
                yield
            except BaseException as failure:
                ended["error.type"] = type(failure).__name__
                raise
            finally:
                if exchange.status is not None:
                    ended["http.response.status_code"] = exchange.status
                _end_span(span, ended)
                self._request_seconds.record(anyio.current_time() - begun, ended)

    async def watch(self, services: Services) -> None:
        """Look again and again at what is due on a cluster, until this is cancelled."""
        while True:
            self._outlooks[services.name] = await _read_outlook(services)
            await anyio.sleep(REFRESH_SECONDS)

    def _observe_unfinished(self, _: CallbackOptions) -> Iterator[Observation]:
        now = self._clock()
        for name, outlook in self._outlooks.copy().items():
            if outlook.is_record_read:
                age = now - (outlook.unfinished_since or now)
                yield Observation(age.total_seconds(), _describe_cluster(name))

    def _observe_expiries(self, _: CallbackOptions) -> Iterator[Observation]:
        now = self._clock()
        for name, outlook in self._outlooks.copy().items():
            for token, expiry in (("audited", outlook.next_expiry), ("own", outlook.own_expiry)):
                if expiry is not None:
                    yield Observation((expiry - now) / _DAY, _describe_cluster(name) | {f"{_PREFIX}.token": token})

    def _start_span(
        self, name: str, kind: SpanKind, attributes: Attributes, context: Context | None = None
    ) -> AbstractContextManager[Span]:
        # The text of an exception may quote what a caller wrote.
        return self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            context=context,
            record_exception=False,
            set_status_on_exception=False,
        )


def _end_span(span: Span, attributes: Attributes) -> None:
    span.set_attributes(attributes)
    if "error.type" in attributes:
        span.set_status(StatusCode.ERROR)


def _describe(message: Message) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"mcp.method.name": message.method, "mcp.protocol.version": message.protocol}
    if message.tool is None:
        return attributes
    return attributes | {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": message.tool}


def _describe_end(message: Message) -> dict[str, str | int]:
    """Return what came of a message; only an error is told as one, since a refusal is no fault."""
    ended: dict[str, str | int] = {f"{_PREFIX}.outcome": str(message.outcome)}
    if message.outcome != "error":
        return ended
    if message.code is None:
        return ended | {"error.type": "tool_error"}
    return ended | {"error.type": str(message.code), "rpc.response.status_code": str(message.code)}


def _describe_cluster(name: str | None) -> dict[str, str | int]:
    return {} if name is None else {f"{_PREFIX}.cluster": name}


def _find_parent(meta: object) -> Context | None:
    """Return the trace that a client names as that of its own request, None if it names none."""
    given = cast(Mapping[str, object], meta).get(_PARENT_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(given, str):
        return None
    context = _PROPAGATOR.extract({_PARENT_KEY: given})
    return context if get_current_span(context).get_span_context().is_valid else None


async def _read_outlook(services: Services) -> Outlook:
    try:
        return await read_outlook(services)
    except Exception as crash:  # noqa: BLE001 - it would end the server, and is about no more than telemetry
        _LOG.error("This server stumbled over a %s while it looked at what is due", type(crash).__name__)
        return Outlook()
