"""A client that talks to the installed command over pipes."""

import json
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process

from tests.support.json_rpc import COMMAND, INITIALIZE, INITIALIZED, Message

TIMEOUT_SECONDS = 30


@asynccontextmanager
async def running_server(*options: str) -> AsyncGenerator[Process]:
    """Start the command as a child process, and wait until it has answered the handshake."""
    async with await anyio.open_process([COMMAND, *options]) as process:
        with anyio.fail_after(TIMEOUT_SECONDS):
            await send(process, INITIALIZE, INITIALIZED)
            assert process.stdout is not None
            [answer] = await receive(process.stdout, 1)
            assert answer["id"] == 1
            yield process


async def send(process: Process, *messages: Message) -> None:
    """Write messages to the stdin of a process, one a line."""
    assert process.stdin is not None
    for message in messages:
        await process.stdin.send(json.dumps(message).encode() + b"\n")


async def receive(stdout: ByteReceiveStream, count: int) -> list[dict[str, Any]]:
    """Read this many messages from stdout. Fail if a line is not a message."""
    received = b""
    while received.count(b"\n") < count:
        received += await stdout.receive()
    assert received.endswith(b"\n")
    return [json.loads(line) for line in received.splitlines()]


async def read_to_end(stream: ByteReceiveStream | None) -> bytes:
    """Read a stream until it ends."""
    assert stream is not None
    return b"".join([chunk async for chunk in stream])


def run_to_end(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command without input, with these variables added to the environment."""
    return subprocess.run(
        [COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | (env or {}),
    )
