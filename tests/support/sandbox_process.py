"""`qumulo-token-tools sandbox` as a child process, and the vendor's own clients against it."""

import json
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60
BIN_FOLDER = Path(sys.executable).parent
_SDK_SCRIPT = """
import json, sys
from qumulo.lib.auth import Credentials
from qumulo.lib.identity_util import Identity
from qumulo.lib.request import RequestError
from qumulo.rest_client import RestClient
from dateutil.parser import parse
host, port, bearer_token = sys.argv[1:4]
client = RestClient(host, int(port), Credentials(bearer_token))
tokens = client.access_tokens
try:
    answer = eval(sys.argv[4])
except RequestError as error:
    answer = {"status": error.status_code, "error_class": error.error_class, "description": error.description}
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class SandboxProcess:
    """A running sandbox; `settings` are the variables that it prints for a shell."""

    settings: dict[str, str]
    process: subprocess.Popen[str]

    def run_sdk(self, expression: str, *, bearer_token: str | None = None) -> Any:  # noqa: ANN401 - any JSON, as `json.loads` gives it
        """Evaluate an expression in `client` and `tokens` of the vendor's Python SDK, and return its value as JSON.

        An error that the SDK understands comes back as its status, class and description.
        """
        host, port = self.settings["QUMULO_HOST"], self.settings["QUMULO_PORT"]
        bearer_token = bearer_token or self.settings["QUMULO_BEARER_TOKEN"]
        return json.loads(run_process(sys.executable, "-c", _SDK_SCRIPT, host, port, bearer_token, expression).stdout)

    def run_qq(self, *arguments: str, store: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the vendor's `qq`."""
        host, port = self.settings["QUMULO_HOST"], self.settings["QUMULO_PORT"]
        where = ["--host", host, "--port", port, "--credentials-store", str(store or self.settings["store"])]
        return run_process(str(BIN_FOLDER / "qq"), *where, *arguments)


def run_process(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a child process to its end, whatever its status; a test fails after `TIMEOUT_SECONDS`."""
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


@contextmanager
def running_sandbox(*options: str) -> Generator[SandboxProcess]:
    """Start a sandbox, wait until it prints how to reach it, and end it afterwards."""
    command = [str(BIN_FOLDER / "qumulo-token-tools"), "sandbox", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        announced = ""
        for line in process.stdout:
            announced += line
            if line.startswith("qq "):
                break
        settings = dict(re.findall(r"^export (\w+)=(.*)$", announced, re.MULTILINE))
        settings |= dict(re.findall(r"--credentials-(store) (\S+)", announced))
        settings |= dict(re.findall(r"^# .* (password), .*: (\S+)$", announced, re.MULTILINE))
        try:
            yield SandboxProcess(settings, process)
        finally:
            process.terminate()
            process.wait(TIMEOUT_SECONDS)
