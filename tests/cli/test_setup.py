"""Test that `setup` makes a whole, working configuration, that a script can answer it, and that it ends cleanly."""

import json
import os
import pty
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tomllib
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.environment import set_environment
from tests.support.json_rpc import COMMAND
from tests.support.secret_scan import find_secrets
from tests.support.twin_clusters import ReplaceableApp, serve_over_https
from token_tools.cli.arguments import parse_arguments
from token_tools.cli.config_editing import written_table
from token_tools.cluster.certificate_chain import Certificate
from token_tools.errors import SettingsError, UsageError
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import DemoCluster, create_demo_cluster
from token_tools.sandbox.https import LOOPBACK
from token_tools.shutdown import deferring_signals
from token_tools.times import utc_now

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Machine:
    """A home of its own with the administrator's login, and a cluster with a certificate that nobody knows."""

    home: Path
    port: int
    demo: DemoCluster
    app: ReplaceableApp

    @property
    def config(self) -> Path:
        """The file that `setup` writes."""
        return self.home / ".config" / "qumulo-token-tools" / "config.toml"

    @property
    def credential(self) -> Path:
        """The file of the server's own credential."""
        return self.config.parent / "credentials" / "cluster"

    @property
    def login(self) -> Path:
        """The file in which qq keeps the administrator's login."""
        return self.home / ".config" / "qumulo" / "credentials" / f"{LOOPBACK}_{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say where all that is."""
        return {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}

    @property
    def words(self) -> Sequence[str]:
        """What answers all questions but whether to go on."""
        reached = ["--host", LOOPBACK, "--port", str(self.port)]
        return ["setup", *reached, "--user", "local:mcp-service", "--no-read-only"]

    def log_in(self) -> None:
        """Store the login as qq does."""
        self.login.parent.mkdir(parents=True, exist_ok=True)
        self.login.write_text(json.dumps({"bearer_token": self.demo.admin_bearer_token, "version": 1}))
        self.login.chmod(0o600)

    def read_table(self) -> dict[str, object]:
        """Return what config.toml says of the cluster."""
        table: dict[str, object] = tomllib.loads(self.config.read_text())["clusters"]["cluster"]
        return table

    def delete_tokens(self) -> None:
        """Delete the tokens of the service account."""
        for token in [token for token in self.demo.cluster.tokens.values() if token.user == "1010"]:
            del self.demo.cluster.tokens[token.id]

    def count_tokens(self) -> int:
        """Return how many tokens the service account has."""
        return sum(token.user == "1010" for token in self.demo.cluster.tokens.values())


def run_words(words: Sequence[str]) -> int:
    """Run a command line in this process, and return its status."""
    arguments = parse_arguments(words)
    return arguments.run(arguments.settings, **arguments.options)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Machine]:
    demo = create_demo_cluster(utc_now)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    app = ReplaceableApp(create_app(demo.cluster))
    with serve_over_https(app, tmp_path) as port:
        machine = Machine(home, port, demo, app)
        set_environment(monkeypatch, machine.environment)
        machine.log_in()
        machine.delete_tokens()
        yield machine


def test_a_script_that_answers_everything_gets_a_configuration_that_works(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_words([*machine.words, "--yes"]) == 0

    told = capsys.readouterr().out
    assert machine.read_table() == {
        "host": LOOPBACK,
        "port": machine.port,
        "credentials_file": str(machine.credential),
        "read_only": False,
    }
    assert stat.S_IMODE(machine.credential.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.config.stat().st_mode) == 0o600
    assert machine.count_tokens() == 1
    assert "All is well." in told
    assert "mcp-service; own token" in told
    assert "qumulo-token-tools install --client all" in told
    secret = json.loads(machine.credential.read_text())["bearer_token"]
    assert find_secrets(told.encode(), [secret, machine.demo.admin_bearer_token]) == []
    assert max(map(len, told.splitlines())) < 400


def test_a_second_time_nothing_is_made_while_the_credential_works(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run_words([*machine.words, "--yes"])
    before = machine.config.read_text(), machine.credential.read_text()

    assert run_words([*machine.words, "--yes"]) == 0

    assert "has a credential that works: no token is created" in capsys.readouterr().out
    assert (machine.config.read_text(), machine.credential.read_text()) == before
    assert machine.count_tokens() == 1


def test_a_second_time_what_is_answered_holds_although_no_token_is_created(machine: Machine) -> None:
    run_words([*machine.words, "--yes"])

    assert run_words([*machine.words[:-1], "--read-only", "--confirm", "all", "--yes"]) == 0

    table = machine.read_table()
    assert (table["read_only"], table["confirm"], machine.count_tokens()) == (True, "all", 1)


def test_a_token_that_is_about_to_expire_is_named_when_another_takes_its_place(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run_words([*machine.words, "--yes", "--expiration-time", "7d"])
    [first] = [token.id for token in machine.demo.cluster.tokens.values() if token.user == "1010"]

    assert run_words([*machine.words, "--yes"]) == 0

    assert f"Token {first} was there before. Delete it" in capsys.readouterr().out


@pytest.mark.parametrize("old", ['bearer_token_file = "/nowhere/token"', 'credentials_command = ["false"]'])
def test_a_place_that_is_named_takes_the_one_that_the_table_had(machine: Machine, old: str) -> None:
    machine.config.parent.mkdir(parents=True, mode=0o700)
    machine.config.write_text(f'[clusters.lab]\nhost = "127.0.0.1"\nport = {machine.port}\n{old}\n')
    place = machine.config.parent / "own"

    assert run_words([*machine.words, "--yes", "--credentials-file", str(place)]) == 0

    table = tomllib.loads(machine.config.read_text())["clusters"]["lab"]
    assert table["credentials_file"] == str(place)
    assert old.partition(" ")[0] not in table


def test_a_command_that_gives_the_credential_is_not_replaced_unasked(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    table = f'[clusters.lab]\nhost = "127.0.0.1"\nport = {machine.port}\ncredentials_command = ["false"]\n'
    machine.config.write_text(table)

    with pytest.raises(UsageError, match=r"\[clusters\.lab\] gets its credential from credentials_command: mend that"):
        run_words([*machine.words, "--yes"])

    assert machine.config.read_text() == table
    assert machine.count_tokens() == 0


def test_a_second_cluster_of_the_same_derived_name_gets_one_of_its_own(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text('[clusters.cluster]\nhost = "127.0.0.2"\n')

    assert run_words([*machine.words, "--yes"]) == 0

    tables = tomllib.loads(machine.config.read_text())["clusters"]
    assert tables["cluster"] == {"host": "127.0.0.2"}
    assert tables["cluster-2"]["port"] == machine.port


def test_a_name_that_would_take_the_table_of_another_cluster_is_refused(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text('[clusters.other]\nhost = "127.0.0.2"\n')

    with pytest.raises(UsageError, match="--name other: another cluster has that name"):
        run_words([*machine.words, "--yes", "--name", "other"])


def test_a_second_name_of_one_cluster_is_refused(machine: Machine) -> None:
    run_words([*machine.words, "--yes"])

    with pytest.raises(UsageError, match=r"--name lab: this cluster is \[clusters\.cluster\] already"):
        run_words([*machine.words, "--yes", "--name", "lab"])


def test_two_at_once_do_not_write_the_same_file(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    with written_table(machine.config, "other", {"host": "127.0.0.2"}):
        assert run_words([*machine.words, "--yes"]) == 1

    assert "config.toml is being written by another process" in capsys.readouterr().out
    assert machine.count_tokens() == 0
    assert set(tomllib.loads(machine.config.read_text())["clusters"]) == {"other"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="cannot be written"), written_table(tmp_path / "file" / "c", "x", {}):
        raise AssertionError


def test_what_another_process_has_stored_meanwhile_stays(machine: Machine) -> None:
    question = "yes or no"
    run_words([*machine.words, "--yes", "--name", "lab", "--expiration-time", "7d"])
    fingerprint = Certificate.decode(ssl.get_server_certificate((LOOPBACK, machine.port))).fingerprint

    terminal, process = start([COMMAND, *machine.words, "--expect", fingerprint], machine)
    told = read_until(terminal, question)
    machine.delete_tokens()
    run_words([*machine.words, "--yes"])
    os.write(terminal, b"yes\n")
    told += read_until(terminal, None)

    assert process.wait(TIMEOUT_SECONDS) == 1
    assert "No token was created, since another process has stored one: run this again." in told
    assert machine.count_tokens() == 1


def test_a_signal_waits_until_what_was_begun_is_done() -> None:
    came: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with deferring_signals():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_credential_that_does_not_work_any_more_is_replaced_where_it_is(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run_words([*machine.words, "--yes", "--name", "lab"])
    with machine.config.open("a") as config:
        config.write("# by hand\n")
    machine.delete_tokens()

    assert run_words([*machine.words, "--yes"]) == 0

    assert machine.config.read_text().count("[clusters.") == 1
    assert "[clusters.lab]" in machine.config.read_text()
    assert "# by hand" in machine.config.read_text()
    assert machine.count_tokens() == 1
    assert "All is well." in capsys.readouterr().out


def test_a_user_who_is_not_there_is_told_with_the_commands_that_make_them(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("mcp-service", "nobody") for word in machine.words]

    assert run_words([*words, "--yes"]) == 1

    told = capsys.readouterr().out
    assert "Nothing is set up: The cluster finds no user local:nobody" in told
    assert f"qq --host {LOOPBACK} --port {machine.port} auth_add_user --name nobody" in told
    assert "--grant PRIVILEGE_ACCESS_TOKENS_READ PRIVILEGE_ACCESS_TOKENS_WRITE PRIVILEGE_IDENTITY_READ" in told
    assert not machine.config.exists()


def test_a_reader_is_given_no_privilege_to_write(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("mcp-service", "nobody").replace("--no-read-only", "--read-only") for word in machine.words]

    assert run_words([*words, "--yes"]) == 1

    assert "--grant PRIVILEGE_ACCESS_TOKENS_READ PRIVILEGE_IDENTITY_READ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--user", "sid:x"], "--user ", id="no-user"),
        pytest.param(["--name", "two words"], "argument --name: must be a word", id="no-name"),
        pytest.param(["--credentials-file", "relative"], "QUMULO_CREDENTIALS_FILE must be an absolute path", id="path"),
        pytest.param(["--login", "relative"], "QUMULO_CREDENTIALS_FILE must be an absolute path", id="login"),
        pytest.param(["--expect", "AB"], "argument --expect: must be the SHA-256", id="no-fingerprint"),
    ],
)
def test_a_wrong_answer_is_told_in_one_line(machine: Machine, words: list[str], expected: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(expected)}"):
        run_words([*machine.words, "--yes", *words])

    assert machine.count_tokens() == 0
    assert not machine.config.exists()


def test_an_expiry_that_is_none_makes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_words([*machine.words, "--yes", "--expiration-time", "soon"]) == 1

    assert "Nothing is set up: " in capsys.readouterr().out
    assert machine.count_tokens() == 0
    assert not machine.config.exists()


def test_what_nobody_can_be_asked_is_named_as_an_option(machine: Machine) -> None:
    with pytest.raises(UsageError, match=r"so that --read-only or --no-read-only has to be given\.$"):
        run_words([*machine.words[:5], "--user", "local:mcp-service", "--yes"])


def test_without_a_login_the_command_that_makes_one_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.login.unlink()

    with pytest.raises(UsageError, match="--login has to be given"):
        run_words([*machine.words, "--yes"])

    assert f"qq --host {LOOPBACK} --port {machine.port} login" in capsys.readouterr().out


def test_a_login_that_cannot_be_read_is_told_as_that(machine: Machine) -> None:
    machine.login.write_text("nothing")

    with pytest.raises(UsageError, match=r"^the administrator's login "):
        run_words([*machine.words, "--yes"])


def test_a_configuration_that_is_no_text_is_left_alone(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text("[clusters")

    with pytest.raises(SettingsError, match="is not TOML"):
        run_words([*machine.words, "--yes"])

    assert machine.config.read_text() == "[clusters"


def test_a_certificate_that_is_not_the_expected_one_ends_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_words([*machine.words, "--yes", "--expect", "0" * 64]) == 1

    assert "It is not trusted. Nothing was changed." in capsys.readouterr().out
    assert not machine.config.exists()


def test_a_journal_that_is_lost_after_the_token_was_created_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    state = machine.home / ".local" / "state" / "qumulo-token-tools"
    cluster = machine.app.app

    async def lose_journal(scope: Scope, receive: Receive, send: Send) -> None:
        await cluster(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/access-tokens/"):
            shutil.rmtree(state)
            state.write_text("a file where the folder was")

    machine.app.app = lose_journal

    assert run_words([*machine.words, "--yes"]) == 1

    told = capsys.readouterr().out
    assert "was created, and is in " in told
    assert "The journal " in told
    assert machine.count_tokens() == 1


def test_a_variable_that_would_contradict_the_table_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUMULO_HOST", "other.example.com")

    with pytest.raises(UsageError, match="QUMULO_HOST would contradict the table that is to be made: unset it first"):
        run_words([*machine.words, "--yes"])


def test_without_a_home_the_option_that_names_a_place_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "")

    with pytest.raises(UsageError, match="no home folder for config"):
        run_words([*machine.words, "--yes"])


def test_a_configuration_that_cannot_be_written_makes_no_token(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = machine.home / "file"
    blocked.write_text("")
    place = ["--credentials-file", str(machine.home / "own")]

    assert run_words([*machine.words, "--yes", *place, "--config", str(blocked / "config.toml")]) == 1

    assert f"Nothing is set up: {blocked / 'config.toml'} cannot be written: " in capsys.readouterr().out
    assert machine.count_tokens() == 0


def test_a_place_that_no_server_can_write_is_refused(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    pipe = machine.home / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(UsageError, match="cannot be written: --credentials-file or --keyring names another"):
        run_words([*machine.words, "--yes", "--credentials-file", str(pipe)])


def test_a_place_that_cannot_be_written_is_noticed_before_a_token_exists(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = machine.home / "file"
    blocked.write_text("")

    assert run_words([*machine.words, "--yes", "--credentials-file", str(blocked / "credential")]) == 1

    assert "Nothing is set up: " in capsys.readouterr().out
    assert machine.count_tokens() == 0
    assert not machine.config.exists()


def test_a_cluster_that_refuses_the_token_leaves_the_configuration_as_it_was(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text("# mine\n")
    machine.config.chmod(0o640)
    service = machine.demo.cluster
    for _ in range(2):
        service.add_token("1010", creator="500")

    assert run_words([*machine.words, "--yes"]) == 1

    assert "Nothing is set up: " in capsys.readouterr().out
    assert machine.config.read_text() == "# mine\n"
    assert stat.S_IMODE(machine.config.stat().st_mode) == 0o640


def test_another_cluster_is_added_beside_the_first_one(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text('max_lifetime = "180d"\n\n[clusters.other] # far away\nhost = "other.example.com"\n')

    assert run_words([*machine.words, "--yes"]) == 0

    said = machine.config.read_text()
    assert said.startswith('max_lifetime = "180d"\n\n[clusters.other] # far away\nhost = "other.example.com"\n')
    assert set(tomllib.loads(said)["clusters"]) == {"other", "cluster"}
    assert "All is well." in capsys.readouterr().out


def test_a_person_is_asked_for_everything_and_may_say_no(machine: Machine) -> None:
    answers = [LOOPBACK, "yes", "yes", "local:mcp-service", "no"]

    told = talk([COMMAND, "setup", "--port", str(machine.port)], answers, machine)

    assert "Cluster (its DNS name or address): " in told
    assert "Trust it from now on" in told
    assert "May your assistant change tokens" in told
    assert "Create an access token for local:mcp-service" in told
    assert "Nothing is set up: No token was created." in told
    assert machine.count_tokens() == 0
    assert not machine.config.exists()


def talk(words: Sequence[str], answers: Sequence[str], machine: Machine) -> str:
    """Run a command in a terminal, give it the answers, and return what it printed."""
    terminal, process = start(words, machine)
    os.write(terminal, "".join(f"{answer}\n" for answer in answers).encode())
    told = read_until(terminal, None)
    process.wait(TIMEOUT_SECONDS)
    assert sys.platform != "linux" or process.returncode == 1
    return told


def start(words: Sequence[str], machine: Machine) -> tuple[int, subprocess.Popen[bytes]]:
    """Start a command in a terminal, and return its other end and the process."""
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        words, stdin=other_end, stdout=other_end, stderr=other_end, env=os.environ | machine.environment
    )
    os.close(other_end)
    return terminal, process


def read_until(terminal: int, text: str | None) -> str:
    """Return what is printed until a text comes, or until the terminal ends, which is closed then."""
    told = b""
    # At the end of its last process, a terminal is an error on Linux.
    with suppress(OSError):
        while (text is None or text.encode() not in told) and (part := os.read(terminal, 1 << 16)):
            told += part
    if text is None:
        os.close(terminal)
    return told.decode()
