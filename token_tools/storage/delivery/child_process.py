"""How a program of the operator is run: without a shell, for a bounded time, and killed with all that it started."""

import errno
import os
import secrets
import struct
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import Process

from token_tools.credential_sources import render_exit_status
from token_tools.posix import FIONREAD, ioctl, set_blocking
from token_tools.storage.delivery.base import DELIVERY_TIMEOUT, TimeoutContext
from token_tools.times import format_duration

MARK: Final = "QUMULO_TOKEN_DELIVERY"
"""The variable of the environment by which all that a program starts is found: a random value for each run."""

MAX_OUTPUT_MEBIBYTES: Final = 10
"""What a program may print; one that prints more is out of control."""

MAX_KEPT_BYTES: Final = 4096
"""Bytes that are kept of the end of what a program prints."""

_PIPE_BYTES: Final = 65_536
"""Bytes that a pipe can hold. Source: pipe(7)."""


class Bounds(NamedTuple):
    """How long a program may run, and how long it may then take until all that it has started is gone.

    `timeout_context` bounds the first of the two.
    """

    run: timedelta = DELIVERY_TIMEOUT
    kill: timedelta = timedelta(seconds=2)
    timeout_context: TimeoutContext = anyio.fail_after


DEFAULT_BOUNDS: Final = Bounds()


class ProgramFailed(Exception):
    """A program could not be run or did not end with 0; the text follows its name and says what it did.

    `output` is the end of what it printed to stdout and stderr.
    """

    def __init__(self, reason: str, output: bytes = b"") -> None:
        super().__init__(reason)
        self.output = output


@dataclass
class _Output:
    """The end from which a program's output is read, how much came from it, and the last of that."""

    fd: int
    size: int = 0
    tail: bytes = b""

    async def read(self) -> bool:
        """Read until nobody can write any more, or too much was written; tell whether it was too much."""
        await anyio.wait_readable(self.fd)
        while self.read_available():
            if self.size > MAX_OUTPUT_MEBIBYTES * 2**20:
                return True
            await anyio.wait_readable(self.fd)
        return False

    def read_available(self) -> bool:
        """Read what there is already; tell whether more can come."""
        try:
            chunk = os.read(self.fd, _PIPE_BYTES)
        except BlockingIOError:
            return True
        self.size += len(chunk)
        self.tail = (self.tail + chunk)[-MAX_KEPT_BYTES:]
        return bool(chunk)


class _Program(NamedTuple):
    """A program that was started, the end from which it reads, and what it prints."""

    process: Process
    stdin_fd: int
    output: _Output

    @property
    def is_done(self) -> bool:
        """Whether it has ended with 0 and nothing is left of its stdin, to which nobody writes any more."""
        return self.process.returncode == 0 and _count_unread_bytes(self.stdin_fd) == 0


async def run_program(
    words: Sequence[str],
    environment: Mapping[str, str],
    stdin: bytes,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> None:
    """Run a program on `stdin`, and wait until it has read that and ended with 0; what it has started then goes on.

    In all other cases, a cancelled call included, it is killed with all that it has started.

    Raises:
        ProgramFailed: If it cannot be run, does not end with 0 in time, prints too much, or leaves something unread.
    """
    mark = secrets.token_hex(16)
    with ExitStack() as cleanup:
        program = await _start(words, {**environment, MARK: mark}, stdin, cleanup)
        try:
            with bounds.timeout_context(bounds.run.total_seconds()):
                reason = await _wait(program)
        except TimeoutError:
            reason = f"did not end within {format_duration(bounds.run)}, or before this server had to stop,"
        finally:
            rest = await _kill_unless_done(program, mark, bounds.kill)
        # An end with 0 counts, also when the time was over.
        if not program.is_done:
            program.output.read_available()
            raise ProgramFailed(f"{reason}{rest}", program.output.tail)


async def _start(words: Sequence[str], environment: Mapping[str, str], stdin: bytes, cleanup: ExitStack) -> _Program:
    """Start a program; what it can read is in a pipe already, so that nobody waits until it does."""
    with ExitStack() as child_ends:
        try:
            stdin_fd = _fill_pipe(stdin, cleanup)
            output_fd, write_fd = os.pipe()
            cleanup.callback(os.close, output_fd)
            child_ends.callback(os.close, write_fd)
            set_blocking(output_fd, False)
            process = await anyio.open_process(
                words,
                stdin=stdin_fd,
                stdout=write_fd,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as failure:
            raise ProgramFailed(f"cannot be run: {failure.strerror}") from None
        except ValueError as failure:
            # What the program is to be told has a NUL in it.
            raise ProgramFailed(f"cannot be run: {failure}") from None
    return _Program(process, stdin_fd, _Output(output_fd))


def _fill_pipe(content: bytes, cleanup: ExitStack) -> int:
    """Return the end of a pipe from which some content can be read.

    Raises:
        OSError: If the pipe does not hold it.
    """
    read_fd, write_fd = os.pipe()
    cleanup.callback(os.close, read_fd)
    try:
        set_blocking(write_fd, False)
        if os.write(write_fd, content) < len(content):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    finally:
        os.close(write_fd)
    return read_fd


def _count_unread_bytes(fd: int) -> int:
    [count] = struct.unpack("i", ioctl(fd, FIONREAD, bytes(struct.calcsize("i"))))
    return int(count)


async def _wait(program: _Program) -> str:
    """Wait until a program ends or has printed too much; return what it did."""
    reason = f"printed more than {MAX_OUTPUT_MEBIBYTES} MiB"
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            if await program.output.read():
                tasks.cancel_scope.cancel()

        tasks.start_soon(read)
        reason = render_exit_status(await program.process.wait())
        # Something that it has started may still hold its output.
        tasks.cancel_scope.cancel()
    return f"{reason} without having read all of its stdin" if program.process.returncode == 0 else reason


async def _kill_unless_done(program: _Program, mark: str, time_limit: timedelta) -> str:
    """Kill a program that has not done its work, and all that it has started; return what came of that, as text."""
    if program.is_done:
        return ""
    from token_tools.storage.delivery.process_tree import kill_all  # noqa: PLC0415 - psutil takes time, and few need it

    process = program.process
    was_running, is_gone = process.returncode is None, False
    kill = partial(kill_all, process.pid, MARK, mark, time_limit=time_limit)
    with anyio.CancelScope(shield=True):
        # Threads that hang elsewhere must not keep this one waiting.
        is_gone = await anyio.to_thread.run_sync(kill, limiter=anyio.CapacityLimiter(1))
        with anyio.move_on_after(time_limit.total_seconds()):
            await process.wait()
    if not is_gone or process.returncode is None:
        return " and could not be killed with all that it had started"
    return " and was killed with all that it had started" if was_running else ""
