"""The command that serves over HTTP, as a child process."""

import os
import re
import signal
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.json_rpc import COMMAND

TIMEOUT_SECONDS = 60


@dataclass
class HttpProcess:
    """A process that serves; `port` is 0 if it listens on no port. `told` is what it said before it said that."""

    process: subprocess.Popen[str]
    port: int
    told: Sequence[str] = ()

    @property
    def url(self) -> str:
        """Return what clients call."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def wait_for_exit(self) -> tuple[int, list[str]]:
        """Wait for the end. Return the status, and what came after the announcement besides the access log."""
        status = self.process.wait(TIMEOUT_SECONDS)
        assert self.process.stderr is not None
        lines = self.process.stderr.read().splitlines()
        return status, [line for line in lines if not line.startswith('{"time": ')]

    def end(self, signum: signal.Signals = signal.SIGTERM) -> tuple[int, list[str]]:
        """Ask for the end by a signal, and wait for it."""
        self.process.send_signal(signum)
        return self.wait_for_exit()


@contextmanager
def running_http(
    home: Path, *options: str, environment: Mapping[str, str] = os.environ, listen: str = "127.0.0.1:0"
) -> Generator[HttpProcess]:
    """Start the command with these options, wait until it says that it listens, and kill it afterwards."""
    with subprocess.Popen(
        [COMMAND, "http", f"--http-listen={listen}", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "HOME": str(home), "XDG_STATE_HOME": str(home)},
    ) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                if "and listens on" in line:
                    port = re.search(r":(\d+)\.$", line)
                    yield HttpProcess(process, int(port[1]) if port else 0, lines)
                    return
                lines.append(line.rstrip("\n"))
            raise AssertionError("\n".join(lines))
        finally:
            process.kill()
