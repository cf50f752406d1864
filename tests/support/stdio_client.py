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
    """The command as a child process that has answered its first request."""
    async with await anyio.open_process([COMMAND, *options]) as process:
        with anyio.fail_after(TIMEOUT_SECONDS):
            await send(process, INITIALIZE, INITIALIZED)
            assert process.stdout is not None
            [answer] = await receive(process.stdout, 1)
            assert answer["id"] == 1
            yield process


async def send(process: Process, *messages: Message) -> None:
    assert process.stdin is not None
    for message in messages:
        await process.stdin.send(json.dumps(message).encode() + b"\n")


async def receive(stdout: ByteReceiveStream, count: int) -> list[dict[str, Any]]:
    """The next messages; each line must be one, or this fails."""
    received = b""
    while received.count(b"\n") < count:
        received += await stdout.receive()
    assert received.endswith(b"\n")
    return [json.loads(line) for line in received.splitlines()]


async def read_to_end(stream: ByteReceiveStream | None) -> bytes:
    assert stream is not None
    return b"".join([chunk async for chunk in stream])


def run_to_end(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | (env or {}),
    )
