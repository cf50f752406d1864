"""Telemetry that stays in this process, where a test reads what a collector would get."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from token_tools.server.instruments import Telemetry
from token_tools.times import Clock


class Point(NamedTuple):
    """A value of a metric with its attributes; of a histogram it is how many measurements there were."""

    value: float
    attributes: Mapping[str, object]


@dataclass
class RecordedTelemetry:
    """Providers of OpenTelemetry that are nobody else's, and what they were told."""

    clock: Clock
    _spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    _metrics: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        """Connect the providers with what records them."""
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.telemetry = Telemetry(tracers, meters, clock=self.clock)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All spans that have ended, in that order."""
        return self._spans.get_finished_spans()

    def find_span(self, name: str) -> ReadableSpan:
        """Return the one span of that name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def read(self, metric: str) -> list[Point]:
        """Return the values of a metric as they are now."""
        return [point for name, point in self._read_all() if name == metric]

    def render(self) -> str:
        """Return all that a collector would get, as a text."""
        return "\n".join([*(span.to_json() for span in self.spans), *map(str, self._read_all())])

    def _read_all(self) -> Iterator[tuple[str, Point]]:
        data = self._metrics.get_metrics_data()
        told: Any = {"resource_metrics": []} if data is None else json.loads(data.to_json())
        for resource in told["resource_metrics"]:
            for scope in resource["scope_metrics"]:
                for metric in scope["metrics"]:
                    for point in metric["data"]["data_points"]:
                        yield metric["name"], Point(point.get("value", point.get("count")), point["attributes"])
