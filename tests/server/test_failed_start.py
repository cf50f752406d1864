"""Test that a server that could not start answers the first request of its host with the reason."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from tests.support.json_rpc import COMMAND, REQUEST_META
from tests.support.secret_scan import find_secrets
from token_tools.server.failed_start import MAX_ANSWERED_REQUESTS

TIMEOUT_SECONDS = 60
FAILED_START_PREFIX = "qumulo-token-tools could not start: "
SECRET = "access-v1:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg=="
ENVIRONMENT_WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("QUMULO_")}
INITIALIZE_PARAMS = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


def encode_request(method: str, number: int | str = 1, params: dict[str, Any] | None = None) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}).encode() + b"\n"


def start_process(
    options: Sequence[str] = (),
    settings: Mapping[str, str] = ENVIRONMENT_WITHOUT_SETTINGS,
    *,
    stdin: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([COMMAND, *options], stdin=stdin, stdout=pipe, stderr=pipe, env={**settings})


def read_answers(*lines: bytes, options: Sequence[str] = (), **settings: str) -> tuple[list[dict[str, Any]], str]:
    """Return the answers and the stderr of a server that cannot start; it has to end by itself while stdin is open."""
    with start_process(options, ENVIRONMENT_WITHOUT_SETTINGS | settings) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(lines))
        process.stdin.flush()
        assert process.wait(TIMEOUT_SECONDS) == 2
        return [json.loads(line) for line in process.stdout.readlines()], process.stderr.read().decode()


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(encode_request("initialize", 0, INITIALIZE_PARAMS), id="2025-11-25"),
        pytest.param(encode_request("server/discover", "a", {"_meta": REQUEST_META}), id="2026-07-28-discover"),
        pytest.param(encode_request("tools/list", 7, {"_meta": REQUEST_META}), id="2026-07-28-list"),
        pytest.param(encode_request("initialize", 1, INITIALIZE_PARAMS).rstrip(), id="without-its-end-of-line"),
    ],
)
def test_the_first_request_is_answered_with_the_line_on_stderr(request_line: bytes) -> None:
    with start_process() as process:
        reply, line = process.communicate(request_line, TIMEOUT_SECONDS)

    [answer] = [json.loads(reply)]
    assert process.returncode == 2
    assert answer == {
        "jsonrpc": "2.0",
        "id": json.loads(request_line)["id"],
        "error": {"code": -32603, "message": line.decode().removesuffix("\n")},
    }
    assert answer["error"]["message"].startswith(f"{FAILED_START_PREFIX}QUMULO_HOST is not set")


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
async def test_a_client_of_either_era_is_told_the_reason(mode: Literal["auto", "legacy"]) -> None:
    server = StdioServerParameters(
        command=COMMAND, env=ENVIRONMENT_WITHOUT_SETTINGS | {"QUMULO_HOST": "c", "QUMULO_PORT": "x"}
    )

    reason = pytest.RaisesExc(MCPError, match=f"{FAILED_START_PREFIX}QUMULO_PORT must be")

    with anyio.fail_after(TIMEOUT_SECONDS), pytest.RaisesGroup(reason, flatten_subgroups=True):
        async with Client(server, mode=mode):
            pytest.fail("it started")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--hots=c"], "there is no option --hots"),
        (["--host=c", SECRET], "an argument is wrong: this is a token"),
        (["--timeout=x", "--demo"], "QUMULO_TIMEOUT"),
        (["serve-it"], "there is no such command"),
    ],
    ids=["option", "secret", "demo", "command"],
)
def test_a_mistake_in_the_arguments_is_told_in_the_same_way(options: Sequence[str], reason: str) -> None:
    [answer], line = read_answers(
        encode_request("initialize", 1, INITIALIZE_PARAMS), options=options, QUMULO_BEARER_TOKEN=SECRET
    )

    assert answer["error"]["message"].startswith(FAILED_START_PREFIX)
    assert reason in answer["error"]["message"]
    assert find_secrets((str(answer) + line).encode(), [SECRET]) == []


def test_a_secret_in_the_wrong_setting_is_not_repeated() -> None:
    [answer], line = read_answers(
        encode_request("initialize", 1, INITIALIZE_PARAMS),
        QUMULO_HOST="c",
        QUMULO_CREDENTIALS_FILE=json.dumps({"bearer_token": SECRET}),
    )

    assert f"{FAILED_START_PREFIX}QUMULO_CREDENTIALS_FILE" in answer["error"]["message"]
    assert find_secrets((str(answer) + line).encode(), [SECRET]) == []


def test_what_is_no_request_is_passed_over() -> None:
    notification = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    result = b'{"jsonrpc":"2.0","id":3,"result":{}}\n'
    lines = [b"\n", b"GET / HTTP/1.1\r\n", notification, result, b'"\xff"\n', b"a" * (5 << 20) + b"\n"]

    [answer], _ = read_answers(*lines, encode_request("initialize", 6, INITIALIZE_PARAMS))

    assert answer["id"] == 6


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        (
            b"["
            + encode_request("initialize", 1, INITIALIZE_PARAMS).strip()
            + b","
            + encode_request("tools/list", "b").strip()
            + b"]\n",
            [1, "b"],
        ),
        (b"\xef\xbb\xbf" + encode_request("initialize", 3, INITIALIZE_PARAMS), [3]),
        (encode_request("initialize", 1).replace(b'"id": 1', b'"id": 1.5'), [None]),
        (encode_request("initialize", 1).replace(b'"id": 1', b'"id": null'), [None]),
        (encode_request("initialize", 4).replace(b'"2.0"', b'"1.0"'), [4]),
        (encode_request("ping", 5, {"_meta": {"a": "a" * (5 << 20)}}), [5]),
    ],
    ids=["batch", "mark", "fraction", "null", "older", "too-long"],
)
def test_a_request_that_is_not_in_order_is_told_the_reason_too(line: bytes, numbers: list[int | str | None]) -> None:
    answers, _ = read_answers(line)

    assert [answer["id"] for answer in answers] == numbers
    assert all("QUMULO_HOST is not set" in answer["error"]["message"] for answer in answers)


@pytest.mark.parametrize("words", [["sandbox", "--fault", "x"], ["demo", "now"], ["sandbox", "--port", "99999"]])
def test_a_command_that_serves_nobody_over_stdin_reads_nothing_of_it(words: list[str]) -> None:
    answers, answer = read_answers(encode_request("initialize"), options=words)

    assert answers == []
    assert answer.startswith("qumulo-token-tools: ")


def test_a_host_that_asks_again_in_the_older_era_is_answered_again_but_not_for_ever() -> None:
    answers, _ = read_answers(*(encode_request("initialize", number) for number in range(MAX_ANSWERED_REQUESTS + 5)))

    assert [answer["id"] for answer in answers] == [*range(MAX_ANSWERED_REQUESTS)]


def test_without_a_request_it_ends_by_itself() -> None:
    assert read_answers()[0] == []


@pytest.mark.parametrize("stdin", ["/dev/null", "/dev/zero"])
def test_an_input_without_lines_does_not_keep_it(stdin: str) -> None:
    descriptor = os.open(stdin, os.O_RDONLY)
    with start_process(stdin=descriptor) as process:
        os.close(descriptor)
        answer, line = process.communicate(timeout=TIMEOUT_SECONDS)

    assert (process.returncode, answer) == (2, b"")
    assert line.decode().startswith(FAILED_START_PREFIX)


def test_a_terminal_is_not_waited_for() -> None:
    ours, terminal = pty.openpty()
    os.write(ours, encode_request("initialize", 1, INITIALIZE_PARAMS))
    with start_process(stdin=terminal) as process:
        os.close(terminal)
        answer, line = process.communicate(timeout=TIMEOUT_SECONDS)
    os.close(ours)

    assert (process.returncode, answer) == (2, b"")
    assert line.decode().startswith(FAILED_START_PREFIX)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_wait(signum: signal.Signals) -> None:
    with start_process() as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(FAILED_START_PREFIX.encode())
        process.send_signal(signum)

        assert process.wait(TIMEOUT_SECONDS) in {-signum, 2}


def test_a_host_that_reads_no_answer_changes_nothing() -> None:
    with start_process() as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, line = process.communicate(encode_request("initialize", 1, INITIALIZE_PARAMS), TIMEOUT_SECONDS)

    assert process.returncode == 2
    assert line.decode().count("\n") == 1
