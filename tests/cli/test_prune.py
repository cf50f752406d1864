"""Test that `prune` removes the files of tokens that are surely gone, and keeps each one that is in doubt."""

import os
import pty
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Unpack

import anyio
import msgspec
import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.command_line import CommandLine, Printed
from tests.support.harness import JANE, TOKENS_PATH, WHO_AM_I_PATH
from tests.support.json_rpc import COMMAND
from tests.support.new_token import JANE as JANE_IDENTITY
from tests.support.permissions import needs_root
from tests.support.secret_scan import find_secrets
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import READ_PRIVILEGE, Token
from token_tools.sandbox.https import LOOPBACK
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Mandate
from token_tools.storage.delivery import FileDelivery
from token_tools.storage.journal import EntryDetails, Journal, Limits
from token_tools.storage.state import open_state
from token_tools.times import utc_now

HOUR = timedelta(hours=1)
NOTHING_TO_DO = "No file is to be removed.\n"
NEVER_SENT = ("POST", "PATCH", "DELETE")


@dataclass
class Machine:
    """A machine with files of new tokens, and the requests that its cluster gets.

    `on_request` may do something before the cluster answers, and may give another answer.
    """

    command_line: CommandLine
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    bearers: list[str] = field(default_factory=list[str])
    on_request: Callable[[str, str], Response | None] = lambda _path, _bearer: None

    def __post_init__(self) -> None:
        """Let the cluster know jane, and note what it is asked."""
        self.command_line.set(state_dir=self.state)
        self.serve()

    @property
    def state(self) -> Path:
        """The folder of the journal."""
        return self.command_line.folder / "state"

    @property
    def folder(self) -> Path:
        """The folder of new bearer tokens."""
        return self.state / "tokens"

    def serve(self) -> None:
        """Serve the cluster as it is now."""
        self.command_line.cluster.add_account(JANE)
        app = create_app(self.command_line.cluster)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            bearer = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
            self.requests.append((scope["method"], scope["path"]))
            answer = self.on_request(scope["path"], bearer)
            return await (answer or app)(scope, receive, send)

        self.command_line.serve(serve)

    def deliver(
        self, *, ends: timedelta | None = None, enabled: bool = True, host: str = LOOPBACK, name: str | None = None
    ) -> tuple[Token, Path]:
        """Create a token for jane, and put it into a file as a server does; with a `name` the file gets that then."""
        expiration_time = None if ends is None else utc_now() + ends
        token = self.command_line.cluster.add_token(
            JANE.auth_id, creator="500", expiration_time=expiration_time, enabled=enabled
        )
        self.bearers.append(token.bearer_token)
        delivery = FileDelivery(self.folder, Qq(host, self.command_line.port))
        new = NewAccessToken(id=token.id, bearer_token=SecretStr(token.bearer_token))

        async def store() -> Path:
            delivered = await (await delivery.reserve()).store(new, JANE_IDENTITY)
            return Path(delivered.location.render())

        path = anyio.run(store)
        return token, path if name is None else path.rename(path.with_name(name.format(token.id)))

    def deliver_gone(self, *, host: str = LOOPBACK, name: str | None = None) -> tuple[Token, Path]:
        """Do what `deliver` does, and delete the token."""
        token, path = self.deliver(host=host, name=name)
        del self.command_line.cluster.tokens[token.id]
        return token, path

    def prune(self, *words: str) -> Printed:
        """Run the command; no secret may be printed, and the cluster may be asked to change nothing."""
        printed = self.command_line.run("prune", *words)
        assert find_secrets(printed.text.encode(), self.bearers) == []
        assert [request for request in self.requests if request[0] in NEVER_SENT] == []
        return printed

    def begin(self, operation: str, cluster: str | None = None, **details: Unpack[EntryDetails]) -> None:
        """Write into the journal that a server is working on something, or that it was "created" or "refused"."""
        address = cluster or f"{LOOPBACK}:{self.command_line.port}"
        connections = open_state(StateSettings(state_dir=self.state), utc_now)
        journal = Journal(connections, cluster=address, clock=utc_now, limits=Limits())

        async def record() -> None:
            intent = journal.draft(
                "rotate" if operation == "rotate" else "create", "local:jane", Mandate("somebody"), **details
            )
            if operation == "refused":
                await journal.record_untried(msgspec.structs.replace(intent, outcome="refused"))
                return
            async with journal.record_intent(intent):
                if operation == "created":
                    assert await journal.record_outcome(intent, "created", details.get("token_id")) is None

        anyio.run(record)
        connections.close()


@pytest.fixture
def machine(command_line: CommandLine) -> Machine:
    return Machine(command_line)


def test_the_files_of_tokens_that_are_gone_are_removed_and_those_that_work_are_kept(machine: Machine) -> None:
    gone, gone_file = machine.deliver_gone()
    _, working_file = machine.deliver()

    printed = machine.prune("--yes")

    address = f"{LOOPBACK}:{machine.command_line.port}"
    assert printed.status == 0
    assert list(machine.folder.iterdir()) == [working_file]
    assert f"{working_file}: kept, since its token works at {address}\n" in printed.text
    assert f"{gone_file}: gone, {address} has no token {gone.id} and does not take the bearer token" in printed.text
    assert printed.text.endswith(f"{gone_file}: removed\n")
    assert ("GET", f"{TOKENS_PATH}{gone.id}") in machine.requests


def test_a_server_that_only_reads_may_prune(machine: Machine) -> None:
    machine.command_line.set(read_only="true")
    _, file = machine.deliver_gone()

    assert machine.prune("--yes").status == 0
    assert not file.exists()


def test_a_dry_run_says_what_would_be_removed_and_removes_nothing(machine: Machine) -> None:
    _, file = machine.deliver_gone()

    printed = machine.prune("--dry-run")

    assert printed.status == 0
    assert printed.text.endswith("\n1 file would be removed. Nothing was changed.\n")
    assert file.exists()


def test_nobody_to_ask_is_told_with_the_options_that_answer(machine: Machine) -> None:
    _, file = machine.deliver_gone()

    refusal = machine.command_line.run_refused("prune")

    assert refusal == "nobody can be asked here, so that --yes or --dry-run has to be given."
    assert file.exists()


@pytest.mark.parametrize(("answer", "status", "end"), [("yes", 0, ": removed\n"), ("no", 1, "Nothing was changed.\n")])
def test_a_person_in_a_terminal_is_asked(machine: Machine, answer: str, status: int, end: str) -> None:
    _, file = machine.deliver_gone()
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())

    ended = subprocess.run([COMMAND, "prune"], stdin=theirs, capture_output=True, text=True, timeout=60, check=False)

    os.close(ours)
    os.close(theirs)
    assert (ended.returncode, ended.stderr) == (status, "")
    assert "Remove 1 file? yes or no [no]: " in ended.stdout
    assert ended.stdout.endswith(end)
    assert file.exists() is (status == 1)


def test_where_there_is_nothing_nothing_is_asked(machine: Machine) -> None:
    pruned = machine.prune()
    assert (pruned.status, pruned.text) == (0, NOTHING_TO_DO)
    assert machine.requests == []
    assert not machine.state.exists()


def test_the_file_of_an_expired_token_is_kept_unless_that_is_wanted(machine: Machine) -> None:
    token, file = machine.deliver(ends=-HOUR)

    kept = machine.prune("--yes")
    assert file.exists()
    removed = machine.prune("--expired", "--yes")

    assert (kept.status, removed.status) == (0, 0)
    assert f"still has token {token.id}, which can get a new expiry\n{NOTHING_TO_DO}" in kept.text
    assert not file.exists()


def test_a_token_expires_by_the_clock_of_the_cluster(machine: Machine) -> None:
    machine.command_line.ahead = 2 * HOUR
    _, file = machine.deliver(ends=HOUR)

    machine.prune("--expired", "--yes")

    assert not file.exists()


def test_the_file_of_a_disabled_token_is_kept_whatever_is_wanted(machine: Machine) -> None:
    _, file = machine.deliver(enabled=False)

    printed = machine.prune("--expired", "--yes")

    assert "its token is disabled at " in printed.text
    assert file.exists()


@pytest.mark.parametrize("status", [404, 500, 403])
@pytest.mark.parametrize("asked", ["own token", "id", "bearer token"])
def test_an_answer_that_is_not_clearly_the_clusters_keeps_the_file(machine: Machine, asked: str, status: int) -> None:
    token, file = machine.deliver_gone()
    own = machine.command_line.own

    def answer(path: str, bearer: str) -> Response | None:
        is_it = {
            "own token": path.endswith(own.id),
            "id": path.endswith(token.id),
            "bearer token": bearer == token.bearer_token,
        }
        return HTMLResponse("<h1>Sorry</h1>", status) if is_it[asked] else None

    machine.on_request = answer
    printed = machine.prune("--yes")

    assert printed.status == 3
    assert " does not say clearly that its token is gone: " in printed.text
    assert file.exists()


def test_a_cluster_that_cannot_be_reached_keeps_its_files(machine: Machine) -> None:
    _, file = machine.deliver_gone()
    machine.on_request = lambda _path, _bearer: HTMLResponse("<h1>Busy</h1>", 501)

    assert machine.prune("--yes").status == 3
    assert file.exists()


def test_who_may_not_see_all_tokens_removes_nothing(machine: Machine) -> None:
    machine.command_line.start_cluster(without=[READ_PRIVILEGE])
    machine.serve()
    _, file = machine.deliver_gone()

    printed = machine.prune("--yes")

    assert printed.status == 3
    assert f"The credential lacks {READ_PRIVILEGE}, so it may not see all tokens." in printed.text
    assert file.exists()


def test_a_bearer_token_that_the_cluster_takes_is_kept_under_whatever_name(machine: Machine) -> None:
    _, file = machine.deliver()
    renamed = file.rename(file.with_name(file.name.replace("_jane_", "_jane_1")))

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert "though it has no token of the id in its name" in printed.text
    assert renamed.exists()


def test_the_file_of_another_cluster_is_kept_and_nobody_is_asked_about_it(machine: Machine) -> None:
    token, file = machine.deliver_gone(host="other.example.com")

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert f"{file}: kept, since its name is that of none of the clusters that were asked\n" in printed.text
    assert file.exists()
    assert not [path for _, path in machine.requests if path.endswith(token.id) or path == WHO_AM_I_PATH]


def test_the_file_of_a_cluster_that_is_not_chosen_is_kept(machine: Machine) -> None:
    line = machine.command_line
    _, file = machine.deliver_gone(host="other.example.com")
    here = line.format_table("here")
    line.write_config(here + line.format_table("other", host="other.example.com"))

    assert machine.prune("--yes", "--cluster", "here").status == 0
    assert file.exists()


RECOVERED = "recovered-0123456789abcdef_{}.json"


@pytest.mark.parametrize(
    ("name", "cluster", "is_kept", "told"),
    [
        ("recovered-0123456789abcdef.json", None, True, "neither its name nor the journal tells which token"),
        (RECOVERED, None, True, "neither its name nor the journal tells which token"),
        (RECOVERED, "other.example.com:8000", True, "by the journal its token is one of other.example.com:8000"),
        (RECOVERED, "own", False, ": removed\n"),
    ],
    ids=["no-id", "not-in-the-journal", "another-cluster", "this-cluster"],
)
def test_a_recovered_file_is_removed_only_if_the_journal_knows_its_cluster(
    machine: Machine, name: str, cluster: str | None, told: str, *, is_kept: bool
) -> None:
    token, file = machine.deliver_gone(name=name)
    if cluster is not None:
        machine.begin("created", None if cluster == "own" else cluster, token_id=token.id)

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert told in printed.text
    assert file.exists() is is_kept


def test_a_call_that_only_named_the_token_does_not_tell_its_cluster(machine: Machine) -> None:
    token, file = machine.deliver_gone(name=RECOVERED)
    machine.begin("refused", token_id=token.id)

    assert "neither its name nor the journal tells" in machine.prune("--yes").text
    assert file.exists()


def test_a_file_stays_that_by_the_journal_may_also_be_of_another_cluster(machine: Machine) -> None:
    token, file = machine.deliver_gone()
    machine.begin("created", "other.example.com:8000", token_id=token.id)

    assert "by the journal its token is one of other.example.com:8000, which was not asked" in (
        machine.prune("--yes").text
    )
    assert file.exists()


@pytest.mark.parametrize("operation", ["create", "rotate", "rotate of it"])
def test_no_file_is_touched_that_a_change_under_way_may_be_about(machine: Machine, operation: str) -> None:
    token, file = machine.deliver_gone()
    details: dict[str, EntryDetails] = {
        "create": {},
        "rotate": {"replaces": "1"},
        "rotate of it": {"replaces": token.id, "token_id": "2"},
    }
    machine.begin(operation.partition(" ")[0], **details[operation])

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert f"{file}: kept, since a server is working on a change that may be about it" in printed.text
    assert file.exists()


def test_what_is_no_file_of_a_delivered_token_stays(machine: Machine) -> None:
    _, file = machine.deliver_gone()
    stores = machine.command_line.folder / "elsewhere.json"
    file.rename(stores)
    (machine.folder / file.name).symlink_to(stores)
    (machine.folder / f"1{file.name}").mkdir()
    (machine.folder / f"2{file.name}").write_text("not a store")
    (machine.folder / "notes\n.txt").write_text("mine")
    (machine.folder / ".pending-0123456789abcdef").write_text(" ")
    before = sorted(machine.folder.iterdir())

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert printed.text.count("it is no ordinary file") == 2
    assert "it holds something else than one bearer token" in printed.text
    assert '/"notes\\n.txt": kept, since it is not known to be a server\'s: its name is none that' in printed.text
    assert "the next server that starts looks after it" in printed.text
    assert sorted(machine.folder.iterdir()) == before
    assert stores.exists()


@needs_root
def test_the_file_of_another_user_stays(machine: Machine) -> None:
    _, file = machine.deliver_gone()
    os.chown(file, 1234, -1)

    assert "it belongs to another user (uid 1234)" in machine.prune("--yes").text
    assert file.exists()


def do_when_asked_again(machine: Machine, token: Token, action: Callable[[], object]) -> None:
    """Do something when the bearer token of a file is tried for the second time: right before the file is removed."""
    tried: list[str] = []

    def watch(_path: str, bearer: str) -> None:
        if bearer == token.bearer_token:
            tried.append(bearer)
            if len(tried) == 2:
                action()

    machine.on_request = watch


def test_a_file_that_is_another_one_by_now_is_kept(machine: Machine) -> None:
    token, file = machine.deliver_gone()
    do_when_asked_again(machine, token, lambda: file.write_text(f" {file.read_text()}"))

    printed = machine.prune("--yes")

    assert printed.status == 1
    assert printed.text.endswith(f"{file} was not removed: it is another file by now, or was written to.\n")
    assert file.exists()


def test_a_folder_that_others_can_enter_meanwhile_keeps_its_files(machine: Machine) -> None:
    token, file = machine.deliver_gone()
    do_when_asked_again(machine, token, lambda: machine.folder.chmod(0o755))

    printed = machine.prune("--yes")

    assert printed.status == 1
    assert f"\n{file} was not removed: others can enter {machine.folder} (mode 0755): " in printed.text
    assert file.exists()


@pytest.mark.parametrize(
    ("ends", "told"), [(None, "kept, since its token works at "), (-HOUR, "expired, but ")], ids=["working", "expired"]
)
def test_a_token_that_came_back_meanwhile_keeps_its_file(machine: Machine, ends: timedelta | None, told: str) -> None:
    token, file = machine.deliver_gone()
    tokens = machine.command_line.cluster.tokens
    looks: list[str] = []

    def restore(path: str, _bearer: str) -> None:
        looks.append(path)
        if looks.count(f"{TOKENS_PATH}{token.id}") == 2:
            tokens[token.id] = replace(token, expiration_time=None if ends is None else utc_now() + ends)

    machine.on_request = restore
    printed = machine.prune("--yes")

    assert printed.status == 1
    assert printed.text.splitlines()[-1].startswith(f"{file}: {told}")
    assert file.exists()


def test_an_answer_that_is_not_clear_any_more_keeps_the_file(machine: Machine) -> None:
    token, file = machine.deliver_gone()
    looks: list[str] = []

    def fail(path: str, _bearer: str) -> Response | None:
        looks.append(path)
        return HTMLResponse("", 404) if looks.count(f"{TOKENS_PATH}{token.id}") == 2 else None

    machine.on_request = fail

    assert machine.prune("--yes").status == 3
    assert file.exists()


def test_two_that_prune_at_once_do_not_fail(machine: Machine) -> None:
    token, file = machine.deliver_gone()
    do_when_asked_again(machine, token, file.unlink)

    printed = machine.prune("--yes")

    assert printed.status == 0
    assert printed.text.endswith(f"{file}: was removed by somebody else meanwhile\n")


def test_a_folder_that_others_can_enter_is_refused(machine: Machine) -> None:
    _, file = machine.deliver_gone()
    machine.folder.chmod(0o755)

    ended = run_installed("prune", "--yes")

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"qumulo-token-tools: {machine.folder} cannot be searched: others can enter ")
    assert len(ended.stderr.splitlines()) == 1
    assert file.exists()


def test_a_journal_that_cannot_be_read_keeps_everything(machine: Machine) -> None:
    _, file = machine.deliver_gone()
    (machine.state / "state.db").mkdir()

    ended = run_installed("prune", "--yes")

    assert ended.returncode == 2
    assert ended.stderr.startswith("qumulo-token-tools: ")
    assert file.exists()


def run_installed(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command where nobody can be asked."""
    return subprocess.run(
        [COMMAND, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
