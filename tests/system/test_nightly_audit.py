"""Test that the audits of one night after the other tell all that is new once, whatever fails in between."""

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.support.sandbox_process import SandboxProcess, running_sandbox
from tests.support.secret_scan import find_secrets
from tests.support.stdio_client import run_to_end
from token_tools.server.app import SERVER_NAME
from token_tools.views.report.document import AuditDocument, ClusterEntry, TokenEntry

pytestmark = pytest.mark.slow

BROKEN_LIST: Final = ("--fault", "list=endless")
"""Makes a cluster whose list has no token and no end."""

MAX_NIGHTS: Final = 30
EACH_CHANGE: Final = ("--fail-on", "any,changed", "--format", "json")
SECOND: Final = timedelta(seconds=1)


class Night:
    """What an audit told: its exit status, its document, and what it said on stderr."""

    def __init__(self, config: Path, *clusters: str, within: str) -> None:
        chosen = [word for cluster in clusters for word in ("--cluster", cluster)]
        since_last = ("--since-last", "nightly", "--expiring-within", within)
        run = run_to_end("audit", *since_last, *EACH_CHANGE, *chosen, env={"QUMULO_CONFIG": str(config)})
        self.status = run.returncode
        self.output = run.stdout
        self.stderr = run.stderr
        self.document = msgspec.json.decode(run.stdout, type=AuditDocument)

    def find(self, cluster: str) -> ClusterEntry:
        """Return what is told of a cluster that was read."""
        [found] = [entry for entry in self.document.clusters if entry.name == cluster]
        return found

    def list_tokens(self, cluster: str) -> Sequence[TokenEntry]:
        """Return the tokens of a cluster of which something is told."""
        return self.find(cluster).tokens

    def list_new(self, cluster: str) -> Sequence[str]:
        """Return the ids of the tokens of a cluster that were not there before."""
        return [token.id for token in self.list_tokens(cluster) if "new" in token.changes]

    @property
    def failed(self) -> Sequence[str]:
        """The clusters that could not be read."""
        return [failed.name for failed in self.document.failed]


class Machine:
    """Three clusters and the config.toml that names them."""

    def __init__(self, folder: Path, sandboxes: dict[str, SandboxProcess]) -> None:
        self.sandboxes = sandboxes
        self.config = folder / "config.toml"
        # One request is given up as soon as this, so that a dead cluster costs the test seconds.
        self.config.write_text('timeout = "3s"\n' + "".join(self._write_table(folder, name) for name in sandboxes))

    def _write_table(self, folder: Path, name: str) -> str:
        settings = self.sandboxes[name].settings
        token = folder / name
        token.write_text(settings["QUMULO_BEARER_TOKEN"])
        token.chmod(0o600)
        return (
            f'[clusters.{name}]\nhost = "{settings["QUMULO_HOST"]}"\nport = {settings["QUMULO_PORT"]}\n'
            f'ca_file = "{settings["QUMULO_CA_FILE"]}"\nbearer_token_file = "{token}"\n'
        )

    def audit(self, *clusters: str, within: str = "30d,14d,1d") -> Night:
        """Audit these clusters as the job does every night; without names, all of them."""
        return Night(self.config, *clusters, within=within)

    def create_token(self, cluster: str, user: str, expires: datetime) -> str:
        """Create a token by the vendor's SDK, and return its id."""
        expression = f"tokens.create(Identity('local:{user}'), parse('{expires:%Y-%m-%dT%H:%M:%SZ}')).to_dict()"
        created: dict[str, str] = self.sandboxes[cluster].run_sdk(expression)
        return created["id"]

    @contextmanager
    def dead(self, cluster: str) -> Generator[None]:
        """Let a cluster take connections and answer nothing, as one that hangs."""
        process = self.sandboxes[cluster].process
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)


@contextmanager
def running_machine(folder: Path, **clusters: Sequence[str]) -> Generator[Machine]:
    """Start clusters, each with options, for a machine that audits them."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(running_sandbox(*options)) for name, options in clusters.items()}
        yield Machine(folder, started)


@pytest.fixture
def machine(tmp_path: Path) -> Generator[Machine]:
    with running_machine(tmp_path, east=(), west=(), lab=BROKEN_LIST) as running:
        yield running


@pytest.fixture
def small_machine(tmp_path: Path) -> Generator[Machine]:
    with running_machine(tmp_path, east=()) as running:
        yield running


def test_what_was_new_on_a_night_when_a_cluster_was_dead_is_told_on_the_next(machine: Machine) -> None:
    in_a_year = datetime.now(UTC) + timedelta(days=365)

    first = machine.audit()
    quiet = machine.audit("east", "west")
    of_east = machine.create_token("east", "jane", in_a_year)
    of_west = machine.create_token("west", "jane", in_a_year)
    with machine.dead("west"):
        dead = machine.audit()
    back = machine.audit("east", "west")
    after = machine.audit("east", "west")

    assert [night.status for night in (first, quiet, dead, back, after)] == [3, 0, 3, 1, 0]
    assert [night.failed for night in (first, dead, back)] == [[], ["west"], []]
    assert [bool(first.list_tokens(cluster)) for cluster in ("east", "west", "lab")] == [True, True, False]
    assert (dead.list_new("east"), back.list_new("west")) == ([of_east], [of_west])
    for night, cluster in ((quiet, "east"), (quiet, "west"), (back, "east"), (after, "west")):
        assert [*night.list_tokens(cluster)] == []
    for night in (first, dead):
        assert night.find("lab").not_whole
        assert f"{SERVER_NAME}: lab: " in night.stderr
    assert f"{SERVER_NAME}: west could not be read: " in dead.stderr
    secrets = [sandbox.settings["QUMULO_BEARER_TOKEN"] for sandbox in machine.sandboxes.values()]
    for night in (first, quiet, dead, back, after):
        assert find_secrets((night.output + night.stderr).encode(), secrets) == []


def test_a_token_is_told_of_again_on_the_night_after_it_came_within_the_next_threshold(small_machine: Machine) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    token = small_machine.create_token("east", "jane", expires)
    began = datetime.now(UTC)
    small_machine.audit(within="30d")
    now = datetime.now(UTC)
    # The next night has time enough to be before it, however slow the machine is.
    crossed_in = 3 * (now - began) + SECOND
    within = f"30d,{(expires - now - crossed_in) // SECOND}s"

    before = small_machine.audit(within=within)
    nights: list[Night] = []
    for _ in range(MAX_NIGHTS):
        nights.append(small_machine.audit(within=within))
        if nights[-1].status:
            break
    after = small_machine.audit(within=within)

    assert [night.status for night in (before, *nights, after)] == [0] * len(nights) + [1, 0]
    [cluster] = nights[-1].document.clusters
    assert [(entry.id, *entry.new_findings) for entry in cluster.tokens] == [(token, "expires_soon")]
    assert datetime.now(UTC) - now >= crossed_in
