"""Test the sending of telemetry: only where a collector is named, whole at the end, and never in the way."""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.collector import running_collector
from tests.support.environment import set_environment
from tests.support.json_rpc import COMMAND, REQUEST_META
from tests.support.listening import listen, say_nothing
from token_tools.cluster.client import Exchange
from token_tools.configuration import Profile, find_exported_signals, remember_given_secrets
from token_tools.redaction import has_known_secret
from token_tools.server.otlp import MAX_WARNING_CHARS
from token_tools.server.telemetry import open_telemetry
from token_tools.settings import Settings

TIMEOUT_SECONDS = 60
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NOWHERE = "http://127.0.0.1:9"
MAX_END_SECONDS = 10
PROFILE = Profile(Settings(host="c", bearer_token=SecretStr("1:own")))
CALLS: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    for number, (name, arguments) in enumerate(
        [("list_access_tokens", {"user": "local:dora-the-backup"}), ("dora-the-tool", {}), ("audit_access_tokens", {})]
    )
]


@pytest.fixture(autouse=True)
def no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what this machine says about telemetry."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def run_calls(variables: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Call tools of the demo, and wait for the end of the process once all calls are answered."""
    environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder), **variables}
    with subprocess.Popen(
        [COMMAND, "--demo"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[str] = []
        for call in CALLS:
            call["params"]["_meta"] = REQUEST_META
            process.stdin.write(f"{json.dumps(call)}\n")
            process.stdin.flush()
            answers.append(process.stdout.readline())
        _, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, "".join(answers), stderr)


def test_a_server_sends_what_a_collector_is_named_for(tmp_path: Path) -> None:
    with running_collector() as collector:
        ended = run_calls({**collector.environment, "OTEL_RESOURCE_ATTRIBUTES": "team=storage"}, tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert collector.received.keys() == {"/v1/traces", "/v1/metrics"}
    for received in collector.received.values():
        for expected in (b"service.name", b"qumulo-token-tools", b"service.instance.id", b"team", b"storage"):
            assert expected in received
        assert b"list_access_tokens" in received
        assert b"dora" not in received
    assert b"qumulo.token_tools.unfinished.age" in collector.received["/v1/metrics"]
    assert b"mcp-python-sdk" not in collector.received["/v1/traces"]


def test_nothing_is_loaded_or_started_where_no_collector_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.metrics'] = None\n"
    )

    ended = run_calls({"PYTHONPATH": str(tmp_path)}, tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count('"result"') == len(CALLS)


def test_a_missing_extra_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")

    ended = run_calls({"PYTHONPATH": str(tmp_path), ENDPOINT: NOWHERE}, tmp_path)

    assert ended.stdout.count('"result"') == len(CALLS)
    assert ended.stderr == (
        "WARNING token_tools.server.telemetry: No telemetry is sent: that needs an extra: "
        "pip install 'qumulo-token-tools[otel]'.\n"
    )


def test_a_variable_that_cannot_be_used_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, NOWHERE)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")

    with open_telemetry() as telemetry:
        assert telemetry is None

    [record] = caplog.records
    assert record.getMessage().startswith(
        'No telemetry is sent: what the variables OTEL_* say cannot be used: "max_queue_size must be'
    )


async def observe_request() -> None:
    """Tell of a request to a cluster, and of the end."""
    with open_telemetry() as telemetry:
        assert telemetry is not None
        with telemetry.observe_requests(PROFILE)(Exchange("who_am_i", "GET")):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
async def test_one_signal_can_be_sent_alone(monkeypatch: pytest.MonkeyPatch, signal: str) -> None:
    with running_collector() as collector:
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", f"{collector.url}/own")
        await observe_request()

    assert collector.received.keys() == {"/own"}


@pytest.mark.anyio
async def test_a_collector_that_is_away_is_one_warning_and_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, NOWHERE)
    began = time.monotonic()

    await observe_request()

    assert time.monotonic() - began < MAX_END_SECONDS
    [message] = [record.getMessage() for record in caplog.records if record.name == "token_tools.server.otlp"]
    assert message.startswith('Telemetry may be lost: "')
    assert len(message) < MAX_WARNING_CHARS + 50
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.anyio
async def test_a_collector_that_never_answers_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(say_nothing) as port:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
        began = time.monotonic()
        await observe_request()

        assert time.monotonic() - began < MAX_END_SECONDS


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        pytest.param({}, [], id="nothing is named"),
        pytest.param({ENDPOINT: ""}, [], id="empty"),
        pytest.param({ENDPOINT: NOWHERE}, ["traces", "metrics"], id="one collector"),
        pytest.param({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": NOWHERE}, ["metrics"], id="metrics alone"),
        pytest.param({ENDPOINT: NOWHERE, "OTEL_TRACES_EXPORTER": "none"}, ["metrics"], id="no traces"),
        pytest.param({ENDPOINT: NOWHERE, "OTEL_SDK_DISABLED": "TRUE"}, [], id="switched off"),
        pytest.param(
            {ENDPOINT: NOWHERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["traces", "metrics"], id="http"
        ),
    ],
)
def test_what_is_sent_is_what_a_collector_is_named_for(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], signals: list[str]
) -> None:
    set_environment(monkeypatch, variables)

    assert find_exported_signals() == signals


def test_nothing_is_sent_to_a_collector_that_wants_another_protocol(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_environment(monkeypatch, {ENDPOINT: NOWHERE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"})

    assert find_exported_signals() == ["metrics"]
    assert caplog.messages == [
        "No traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and this server speaks http/protobuf alone"
    ]


def test_what_the_variables_keep_secret_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch,
        {ENDPOINT: "https://me:pw-of-a-collector@c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b,key=Bearer%20gH7kq-2mZx0Lw"},
    )

    remember_given_secrets()

    assert has_known_secret("it said gH7kq-2mZx0Lw")
    assert has_known_secret("it said pw-of-a-collector")
    assert not has_known_secret("Bearer authentication is required")
