"""Sends telemetry to the collector that the operator has named, by OTLP over HTTP.

Threads of OpenTelemetry's SDK send it, so a collector that is slow or away holds up no call. The SDK reads its own
variables, OTEL_*, for where and how.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Final
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracerProvider

from token_tools import __version__
from token_tools.configuration import Signal
from token_tools.quoting import quote_untrusted
from token_tools.server.instruments import Telemetry

STOP_SECONDS: Final = 2.0
"""Seconds that sending what is left may take at the end."""

WARNING_SECONDS: Final = 600.0
"""Seconds after a warning in which no other one is logged: a collector that is away fails again and again."""

MAX_WARNING_CHARS: Final = 300
"""Characters of a library's warning that are logged."""

_LOG: Final = logging.getLogger(__name__)


class Sender:
    """Sends these signals from now on; `telemetry` is what takes them.

    Raises:
        Exception: If the SDK cannot use what the variables say. It raises what it likes.
    """

    def __init__(self, signals: Collection[Signal]) -> None:
        _bound_log()
        resource = _create_resource()
        self._stops: list[Callable[[], object]] = []
        self.telemetry = Telemetry(
            self._open_traces(resource) if "traces" in signals else NoOpTracerProvider(),
            self._open_metrics(resource) if "metrics" in signals else NoOpMeterProvider(),
        )

    def stop(self) -> None:
        """Send what is left, and give that up after a while."""
        deadline = time.monotonic() + STOP_SECONDS
        # They end by themselves only after half a minute, and daemons hold up no exit.
        threads = [threading.Thread(target=stop, daemon=True) for stop in self._stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _open_traces(self, resource: Resource) -> TracerProvider:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._stops.append(provider.shutdown)
        return provider

    def _open_metrics(self, resource: Resource) -> MeterProvider:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._stops.append(provider.shutdown)
        return provider


def _create_resource() -> Resource:
    """Return what tells this process from others; what the operator says of it holds."""
    own = {
        "service.name": "qumulo-token-tools",
        "service.version": __version__,
        "service.instance.id": str(uuid4()),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


class _BoundedHandler(logging.Handler):
    """Passes on one warning of the libraries in a while, as a line of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a warning, without its traceback, unless one was logged lately."""
        if record.created >= self._silent_until:
            self._silent_until = record.created + WARNING_SECONDS
            reason = quote_untrusted(record.getMessage(), max_chars=MAX_WARNING_CHARS)
            _LOG.warning("Telemetry may be lost: %s", reason)


def _bound_log() -> None:
    libraries = logging.getLogger("opentelemetry")
    libraries.handlers = [_BoundedHandler()]
    libraries.propagate = False
