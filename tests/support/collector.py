"""A collector of OpenTelemetry, which keeps what it gets by OTLP over HTTP."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from token_tools.sandbox.https import LOOPBACK


@dataclass
class Collector:
    """What came, by the path to which it was sent, and where it is sent to."""

    url: str = ""
    received: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def environment(self) -> dict[str, str]:
        """The variables that let a server send to this collector, uncompressed."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}


@contextmanager
def running_collector() -> Generator[Collector]:
    """Run a collector on a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.received[self.path] = collector.received.get(self.path, b"") + body
            self.send_response(200)
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        collector.url = f"http://{LOOPBACK}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
