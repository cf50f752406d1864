"""Test the installed command as a child process: its input and output, and how it ends."""

import json
import os
import signal
import subprocess
import tty
from pathlib import Path
from typing import Literal

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import TextContent

from tests.support.json_rpc import COMMAND, INITIALIZE, INITIALIZED, REQUEST_META, Message, create_call
from tests.support.stdio_client import TIMEOUT_SECONDS, read_to_end, receive, running_server, send

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
async def test_a_client_of_either_era_lists_and_creates_over_stdio(
    mode: Literal["auto", "legacy"], tmp_path: Path
) -> None:
    server = StdioServerParameters(command=COMMAND, args=["--demo", "--delivery-dir", str(tmp_path / "tokens")])

    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(server, mode=mode) as client:
            listed = await client.call_tool("list_access_tokens")
            created = await client.call_tool("create_access_token", {"user": "local:metrics"})

    [text] = listed.content
    assert isinstance(text, TextContent)
    assert "access tokens on demo-cluster:8000" in text.text
    assert created.structured_content is not None
    assert Path(created.structured_content["bearer_token_in"]).parent == tmp_path / "tokens"


async def test_a_client_that_starts_a_process_for_each_call_finds_what_it_saw_before() -> None:
    seen: list[dict[str, str]] = []

    with anyio.fail_after(TIMEOUT_SECONDS):
        for step in ("list", "get", "get"):
            async with Client(StdioServerParameters(command=COMMAND, args=["--demo"])) as client:
                arguments = {} if step == "list" else {"id": seen[0]["id"]}
                answer = await client.call_tool(
                    "list_access_tokens" if step == "list" else "get_access_token", arguments
                )
                assert answer.structured_content is not None
                seen += answer.structured_content["tokens"] if step == "list" else [answer.structured_content]

    assert [token["user"] for token in seen[-2:]] == [seen[0]["user"]] * 2


@pytest.mark.parametrize("command", [["demo"], ["--demo"]], ids=["demo", "--demo"])
async def test_what_is_tried_out_leaves_no_trace(command: list[str], tmp_path: Path) -> None:
    names = {"HOME": "home", "TMPDIR": "tmp", "QUMULO_DELIVERY_DIR": "tokens", "QUMULO_REPORT_DIR": "reports"}
    folders = {variable: tmp_path / name for variable, name in names.items()}
    for folder in folders.values():
        folder.mkdir()
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path / "home")} | {k: str(v) for k, v in folders.items()}

    async with await anyio.open_process([COMMAND, *command], env=env) as process:
        with anyio.fail_after(TIMEOUT_SECONDS):
            assert process.stdout is not None
            if command == ["--demo"]:
                await send(process, INITIALIZE, INITIALIZED)
                await receive(process.stdout, 1)
                await send(process, create_call(2, "create_access_token", user="local:metrics"))
                [created] = await receive(process.stdout, 1)
                assert Path(created["result"]["structuredContent"]["bearer_token_in"]).is_file()
                await send(process, create_call(3, "export_access_tokens"))
                [exported] = await receive(process.stdout, 1)
                assert Path(exported["result"]["structuredContent"]["path"]).is_file()
                assert process.stdin is not None
                await process.stdin.aclose()
            else:
                assert b"Created access token" in await read_to_end(process.stdout)
            assert await process.wait() == 0

    assert {*tmp_path.rglob("*")} == {*folders.values()}


async def test_a_trial_exports_where_an_option_says_and_not_at_all_if_it_only_reads(tmp_path: Path) -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        for read_only in ([], ["--read-only"]):
            args = ["--demo", *read_only, "--report-dir", str(tmp_path / "reports")]
            async with Client(StdioServerParameters(command=COMMAND, args=args, env={**os.environ})) as client:
                assert not (await client.call_tool("export_access_tokens", {})).is_error
        async with Client(StdioServerParameters(command=COMMAND, args=["--demo", "--read-only"])) as client:
            assert (await client.call_tool("export_access_tokens", {})).is_error

    assert len([*(tmp_path / "reports").iterdir()]) == 2


async def test_what_a_host_adds_to_each_call_is_told_to_the_operator_once_without_its_value() -> None:
    added = {"toolCallId": "call_secret", "wait_for_previous": True}
    async with running_server("--demo") as process:
        assert process.stdin is not None
        await send(process, *(create_call(number, "list_access_tokens", **added) for number in (2, 3)))
        assert process.stdout is not None
        answers = await receive(process.stdout, 2)
        await process.stdin.aclose()
        reply = " ".join((await read_to_end(process.stderr)).decode().split())

    assert [answer["result"]["isError"] for answer in answers] == [False, False]
    assert reply.count("argument toolCallId") == 1
    assert reply.count("argument wait_for_previous") == 1
    assert "call_secret" not in reply


async def test_nothing_but_protocol_is_on_stdout_and_nothing_at_all_on_stderr() -> None:
    async with running_server("--demo") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        await send(
            process,
            create_call(2, "list_access_tokens"),
            create_call(3, "list_access_tokens", nonsense=1),
            create_call(4, "no_tool"),
        )
        answers = await receive(process.stdout, 3)
        await process.stdin.aclose()

        assert {answer["id"] for answer in answers} == {2, 3, 4}
        assert await read_to_end(process.stdout) == b""
        assert await read_to_end(process.stderr) == b""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_signal_ends_it_cleanly(signum: signal.Signals) -> None:
    async with running_server("--demo") as process:
        process.send_signal(signum)
        with anyio.fail_after(TIMEOUT_SECONDS):
            status = await process.wait()

        assert status == 0
        assert await read_to_end(process.stderr) == b""


async def test_the_end_of_input_ends_it_cleanly() -> None:
    async with running_server("--demo") as process:
        assert process.stdin is not None
        await process.stdin.aclose()
        with anyio.fail_after(TIMEOUT_SECONDS):
            status = await process.wait()

        assert status == 0
        assert await read_to_end(process.stderr) == b""


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
async def test_the_form_of_a_question_is_what_the_specification_lists_and_nothing_else(era: str) -> None:
    """A strict client cancels the question if the form has anything else in it."""
    forms: Message = {"elicitation": {"form": {}}}
    async with await anyio.open_process([COMMAND, "--demo"], env=os.environ | {"QUMULO_CONFIRM": "all"}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        wanted = json.loads(json.dumps(create_call(2, "create_access_token", user="local:metrics")))
        with anyio.fail_after(TIMEOUT_SECONDS):
            if era == "2026-07-28":
                wanted["params"]["_meta"] = REQUEST_META | {"io.modelcontextprotocol/clientCapabilities": forms}
                await send(process, wanted)
                [answer] = await receive(process.stdout, 1)
                [asked] = answer["result"]["inputRequests"].values()
            else:
                initialize = json.loads(json.dumps(INITIALIZE))
                initialize["params"]["capabilities"] = forms
                await send(process, initialize, INITIALIZED)
                await receive(process.stdout, 1)
                await send(process, wanted)
                [asked] = await receive(process.stdout, 1)
            await process.stdin.aclose()
            await process.wait()

    assert asked["method"] == "elicitation/create"
    form = asked["params"]["requestedSchema"]
    form.pop("$schema", None)
    assert form == {
        "type": "object",
        "properties": {
            "agree": {
                "type": "boolean",
                "title": "Yes, do this",
                "description": "Set this tick to agree; accepting without it does nothing.",
                "default": False,
            }
        },
        "required": ["agree"],
    }


def run_with_closed_stdout(options: str, *messages: Message) -> tuple[int, bytes]:
    """Run the command, close its stdout after the first line, and return its status and stderr; stdin stays open."""
    pipe = subprocess.PIPE
    with subprocess.Popen([COMMAND, options], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        return process.wait(TIMEOUT_SECONDS), process.stderr.read()


def test_a_client_that_stops_reading_ends_it_cleanly() -> None:
    asked = [create_call(number, "list_access_tokens") for number in range(2, 40)]

    assert run_with_closed_stdout("--demo", INITIALIZE, INITIALIZED) == (0, b"")
    assert run_with_closed_stdout("--demo", INITIALIZE, INITIALIZED, *asked) == (0, b"")


def test_each_answer_is_whole_although_the_terminal_takes_it_in_parts() -> None:
    """The stdout of the command is a terminal in non-blocking mode."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    os.set_blocking(theirs, False)
    asked: list[Message] = [{"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in range(2, 12)]
    with subprocess.Popen([COMMAND, "--demo"], stdin=subprocess.PIPE, stdout=theirs) as process, os.fdopen(ours) as out:
        os.close(theirs)
        assert process.stdin is not None
        for message in (INITIALIZE, INITIALIZED, *asked):
            process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        answers = [json.loads(out.readline())]
        # The server writes more than the terminal's buffer holds, and has to wait.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        answers += [json.loads(out.readline()) for _ in asked]
        process.stdin.close()

        assert process.wait(TIMEOUT_SECONDS) == 0
    assert {answer["id"] for answer in answers} == {*range(1, 12)}


LIST_TOOLS_LINES = [json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).encode()] * 30
BAD_LINES = [b"no message"] * 5000


@pytest.mark.parametrize(
    ("ending", "asked"),
    [
        (signal.SIGINT, LIST_TOOLS_LINES),
        (signal.SIGTERM, LIST_TOOLS_LINES),
        (None, LIST_TOOLS_LINES),
        (signal.SIGTERM, BAD_LINES),
    ],
    ids=["SIGINT", "SIGTERM", "end-of-input", "bad-lines"],
)
def test_a_client_that_reads_nothing_does_not_hold_up_the_end(
    ending: signal.Signals | None, asked: list[bytes]
) -> None:
    pipe = subprocess.PIPE
    lines = [*(json.dumps(message).encode() for message in (INITIALIZE, INITIALIZED)), *asked]
    with subprocess.Popen([COMMAND, "--demo"], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(line + b"\n" for line in lines))
        process.stdin.flush()
        # The test reads nothing more, and the answers do not fit into a pipe.
        process.stdout.read(1)
        if ending is None:
            process.stdin.close()
        else:
            process.send_signal(ending)
        try:
            status = process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()

        assert (status, process.stderr.read()) == (0, b"")


def test_a_demo_that_nobody_reads_any_more_ends_without_a_word() -> None:
    assert run_with_closed_stdout("demo") == (2, b"")


@pytest.mark.parametrize(
    "command", ["--demo <&-", "--demo >&-", "demo >&-"], ids=["without-stdin", "without-stdout", "demo-without-stdout"]
)
def test_without_its_streams_it_says_so_in_one_line(command: str) -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec '{COMMAND}' {command}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    failure = "" if command.startswith("demo") else " could not start"
    assert (
        ended.stderr == f"qumulo-token-tools{failure}: stdin or stdout is closed, and there is no other way to talk.\n"
    )


def test_an_input_that_cannot_be_read_is_the_end_of_it() -> None:
    """A background process cannot read its terminal either when its shell has gone."""
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec '{COMMAND}' --demo 0>/dev/null"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


async def test_an_interruption_while_it_starts_leaves_no_traceback(tmp_path: Path) -> None:
    """A package that the start loads prints a line and waits for the signal."""
    (tmp_path / "humanize.py").write_text("print(flush=True); import signal; signal.pause()")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    async with await anyio.open_process([COMMAND, "--demo"], env=env) as process:
        assert process.stdout is not None
        with anyio.fail_after(TIMEOUT_SECONDS):
            await process.stdout.receive()
            process.send_signal(signal.SIGINT)

            assert await process.wait() == -signal.SIGINT
            assert await read_to_end(process.stderr) == b""


HANG_SCRIPT = """
import sys, threading
def hang(*_, **__):
    sys.stderr.write("hangs\\n")
    threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("module", "hangs", "options"),
    [
        pytest.param("keyring", "set_password = hang", ["--demo", "--delivery", "keyring"], id="keyring"),
        pytest.param("sitecustomize", "import socket; socket.getaddrinfo = hang", ["--host", "c"], id="name-server"),
    ],
)
async def test_what_hangs_in_a_thread_does_not_hold_up_the_end(
    module: str, hangs: str, options: list[str], tmp_path: Path
) -> None:
    for name in ("tmp", "path"):
        (tmp_path / name).mkdir()
    (tmp_path / "path" / f"{module}.py").write_text(f"{HANG_SCRIPT}{hangs}")
    variables = {
        "PYTHONPATH": tmp_path / "path",
        "TMPDIR": tmp_path / "tmp",
        "XDG_STATE_HOME": tmp_path / "state",
        "QUMULO_BEARER_TOKEN": "access-v1:own",
    }
    env = os.environ | {name: str(value) for name, value in variables.items()}
    async with await anyio.open_process([COMMAND, *options], env=env) as process:
        with anyio.fail_after(TIMEOUT_SECONDS):
            await send(process, INITIALIZE, INITIALIZED, create_call(2, "create_access_token", user="local:metrics"))
            assert process.stderr is not None
            assert (await process.stderr.receive()).startswith(b"hangs\n")
            process.terminate()

            assert await process.wait() == 0
            # The look at the server's own token may hang beside the call.
            assert (await read_to_end(process.stderr)).replace(b"hangs\n", b"") == b""

    assert [*(tmp_path / "tmp").iterdir()] == []
