"""Commands in this process, on an embedded cluster that is served over HTTPS by a thread of it."""

import hashlib
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.harness import ADMIN
from tests.support.secret_scan import find_secrets
from tests.support.twin_clusters import ReplaceableApp
from token_tools.cli.arguments import parse_arguments
from token_tools.errors import SettingsError
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Behaviour, Cluster, Token
from token_tools.sandbox.faults import Endpoint, Fault, Faults
from token_tools.sandbox.https import LOOPBACK
from token_tools.times import utc_now

WARNED_OR_FAILED = {"warning", "failed"}


class Printed(NamedTuple):
    """What a command in this process has left: its exit status, and what it wrote to stdout and to stderr."""

    status: int
    text: str
    errors: str = ""


class Finding(NamedTuple):
    """A check, without the fields that it does not have."""

    outcome: str
    text: str
    mend: str
    details: str
    cluster: str

    @property
    def told(self) -> str:
        """All that a person reads of it."""
        return f"{self.text} → {self.mend}"


@dataclass(frozen=True)
class Report:
    """What `doctor --json` found, by the names of the checks."""

    status: int
    checks: Mapping[str, Finding]

    def list_faults(self) -> Sequence[str]:
        """Return the names of the checks that say that something has to be mended."""
        return [name for name, check in self.checks.items() if check.outcome in WARNED_OR_FAILED]


def fingerprint_of_port(port: int) -> str:
    """Return the SHA-256 of the certificate that is shown on a port of this machine, without colons."""
    shown = ssl.get_server_certificate((LOOPBACK, port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()


@dataclass
class CommandLine:
    """A user's command line, the folders that are theirs, and a cluster whose administrator they are.

    `ahead` is how far the cluster's clock is ahead of this machine's; its answers tell no time if that is None. No
    command may print something of a secret.
    """

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    folder: Path
    port: int
    served: ReplaceableApp
    cluster: Cluster = field(init=False)
    own: Token = field(init=False)
    ahead: timedelta | None = timedelta()

    def __post_init__(self) -> None:
        """Let an entire cluster be there, and what is needed for it."""
        self.monkeypatch.chdir(self.folder)
        self.start_cluster()
        self.set(host=LOOPBACK, port=self.port, fingerprint=fingerprint_of_port(self.port))
        self.set(bearer_token=self.own.bearer_token)

    def start_cluster(self, behaviour: Behaviour | None = None, *, without: Sequence[str] = ()) -> None:
        """Replace the cluster; the administrator holds no privilege of `without` there."""
        self.cluster = Cluster(clock=utc_now, behaviour=behaviour)
        self.cluster.add_account(replace(ADMIN, privileges=ADMIN.privileges.difference(without)))
        self.own = self.cluster.add_token(ADMIN.auth_id, creator=ADMIN.auth_id)
        self.serve(create_app(self.cluster))
        self.set(bearer_token=self.own.bearer_token)

    def inject(self, endpoint: Endpoint, fault: Fault) -> None:
        """Let an endpoint of the cluster fail."""
        self.serve(Faults(create_app(self.cluster), {endpoint: fault}))

    def serve(self, app: ASGIApp) -> None:
        """Serve another application in the place of the cluster."""

        async def serve_dated(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_dated(message: Message) -> None:
                if message["type"] == "http.response.start" and self.ahead is not None:
                    date = format_datetime(utc_now() + self.ahead, usegmt=True).encode()
                    message["headers"] = [*message["headers"], (b"date", date)]
                await send(message)

            await app(scope, receive, send_dated)

        self.served.app = serve_dated

    def set(self, **settings: object) -> None:
        """Set variables of the environment; None removes one."""
        for name, value in settings.items():
            variable = f"QUMULO_{name.upper()}"
            if value is None:
                self.monkeypatch.delenv(variable, raising=False)
            else:
                self.monkeypatch.setenv(variable, str(value))

    def set_credential(self, name: str, value: object) -> None:
        """Let another setting than the bearer token say what the credential is."""
        self.set(bearer_token=None, **{name: value})

    def write(self, name: str, content: str, *, mode: int = 0o600) -> Path:
        """Write a file of the user's."""
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def write_config(self, content: str) -> Path:
        """Write the file with tables of clusters, which says all about them."""
        self.set(host=None, port=None, fingerprint=None, bearer_token=None)
        path = self.write("config.toml", content)
        self.set(config=path)
        return path

    def format_table(self, name: str, **changes: object) -> str:
        """Return a table of config.toml with the cluster that is served."""
        token_file = self.write(f"{name}.token", self.own.bearer_token)
        keys: dict[str, object] = {
            "host": LOOPBACK,
            "port": self.port,
            "fingerprint": fingerprint_of_port(self.port),
            "bearer_token_file": str(token_file),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in (keys | changes).items() if value is not None]
        return "\n".join([f"[clusters.{name}]", *lines, ""])

    def run(self, *words: str) -> Printed:
        """Run a command."""
        self.capsys.readouterr()
        arguments = parse_arguments(words)
        status = arguments.run(arguments.settings, **arguments.options)
        printed = self.capsys.readouterr()
        assert find_secrets((printed.out + printed.err).encode(), [self.own.bearer_token]) == []
        return Printed(status, printed.out, printed.err)

    def run_refused(self, *words: str) -> str:
        """Run a command that says what is wrong with the call, and return that."""
        with pytest.raises(SettingsError) as refusal:
            self.run(*words)
        assert find_secrets(str(refusal.value).encode(), [self.own.bearer_token]) == []
        return str(refusal.value)

    def examine(self, *words: str) -> Report:
        """Run `doctor --json`; what is there more than once is there with its cluster."""
        printed = self.run("doctor", "--json", *words)
        found = json.loads(printed.text)
        assert "\033" not in printed.text
        checks = {
            f"{check['cluster']}: {check['name']}" if "cluster" in check else check["name"]: Finding(
                check["outcome"],
                check["text"],
                check.get("mend", ""),
                "\n".join(check.get("details", [])),
                check.get("cluster", ""),
            )
            for check in found["checks"]
        }
        report = Report(printed.status, checks)
        assert report.status == (1 if report.list_faults() else 0)
        return report
