"""Whether OpenTelemetry is told of this server: only where the operator has named a collector."""

import logging
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from token_tools.configuration import Signal, find_exported_signals
from token_tools.quoting import quote_untrusted

if TYPE_CHECKING:
    # To import them would load OpenTelemetry at the start.
    from token_tools.server.instruments import Telemetry
    from token_tools.server.otlp import Sender

MAX_REASON_CHARS: Final = 300
"""Characters of a library's reason that are logged."""

_LOG: Final = logging.getLogger(__name__)


@contextmanager
def open_telemetry() -> Generator["Telemetry | None"]:
    """Yield what tells OpenTelemetry of this server, None if the operator has named no collector.

    If nothing can be sent, the log says why, and this is None as well.
    """
    sender = _open_sender(find_exported_signals())
    if sender is None:
        yield None
        return
    try:
        yield sender.telemetry
    finally:
        sender.stop()


def _open_sender(signals: Collection[Signal]) -> "Sender | None":
    if not signals:
        return None
    try:
        from token_tools.server.otlp import Sender  # noqa: PLC0415 - what it imports is an extra

        return Sender(signals)
    except ImportError:
        _LOG.warning("No telemetry is sent: that needs an extra: pip install 'qumulo-token-tools[otel]'.")
    except Exception as failure:  # noqa: BLE001 - whatever OTEL_* variables say, it is no reason not to serve
        reason = quote_untrusted(str(failure), max_chars=MAX_REASON_CHARS)
        _LOG.warning("No telemetry is sent: what the variables OTEL_* say cannot be used: %s", reason)
    return None
