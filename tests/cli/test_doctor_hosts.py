"""Test what `doctor` finds at the hosts of this machine, and that it checks a host's entry as that host starts it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command_line import CommandLine, fingerprint_of_port
from tests.support.json_rpc import COMMAND
from token_tools.errors import UsageError
from token_tools.sandbox.https import LOOPBACK

CURSOR = ".cursor/mcp.json"
TIMEOUT_SECONDS = 60


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any host."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return home


def write_entry(home: Path, entry: Mapping[str, object]) -> None:
    """Let Cursor have this entry."""
    file = home / CURSOR
    file.parent.mkdir()
    file.write_text(json.dumps({"mcpServers": {"qumulo-tokens": entry}}))


def test_without_any_entry_the_command_that_writes_them_is_told(command_line: CommandLine, home: Path) -> None:
    found = command_line.examine().checks["hosts"]

    assert found.outcome == "skipped"
    assert found.told == "none on this machine has an entry → `qumulo-token-tools install --client all`"


def test_an_entry_that_starts_is_told_with_the_number_of_its_tools(command_line: CommandLine, home: Path) -> None:
    write_entry(home, {"command": COMMAND, "args": ["--demo"]})

    found = command_line.examine().checks["hosts"]

    assert found.outcome == "ok"
    assert found.text == f"Cursor ({home / CURSOR}) starts this server, which has 9 tools"


class Broken(NamedTuple):
    """An entry that does not work, and what is told of it."""

    entry: Mapping[str, object]
    outcome: str
    text: str
    mend: str


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(
            Broken(
                {"command": COMMAND, "env": {"QUMULO_HOST": "c"}},
                "failed",
                "does not start this server: qumulo-token-tools could not start: QUMULO_BEARER_TOKEN, ",
                "`qumulo-token-tools doctor --client cursor` checks all that this entry says",
            ),
            id="no-credential",
        ),
        pytest.param(
            Broken(
                {"command": "/gone/qumulo-token-tools"}, "failed", "does not start this server: ", "--client cursor"
            ),
            id="moved",
        ),
        pytest.param(
            Broken(
                {"url": "https://other"}, "failed", "has an entry that starts no command", "install --client cursor"
            ),
            id="url",
        ),
        pytest.param(
            Broken({"command": "/bin/false"}, "skipped", "has an entry of another program", ""), id="another-program"
        ),
    ],
)
def test_an_entry_that_does_not_work_is_told_with_its_mend(
    command_line: CommandLine, home: Path, broken: Broken
) -> None:
    write_entry(home, broken.entry)

    found = command_line.examine().checks["hosts"]

    assert found.outcome == broken.outcome
    assert broken.text in found.text
    assert broken.mend in found.mend


def test_a_file_of_a_host_that_does_not_parse_is_told(command_line: CommandLine, home: Path) -> None:
    (home / CURSOR).parent.mkdir()
    (home / CURSOR).write_text('{"mcpServers": ')

    found = command_line.examine()

    assert found.status == 1
    assert str(home / CURSOR) in found.checks["hosts"].text


def test_a_host_s_entry_is_checked_as_the_host_starts_it(command_line: CommandLine, home: Path) -> None:
    token_file = command_line.write("own.token", command_line.own.bearer_token)
    env = {
        "QUMULO_HOST": LOOPBACK,
        "QUMULO_PORT": str(command_line.port),
        "QUMULO_FINGERPRINT": fingerprint_of_port(command_line.port),
        "QUMULO_BEARER_TOKEN_FILE": str(token_file),
    }
    write_entry(home, {"command": COMMAND, "env": env})

    ended = subprocess.run(
        [COMMAND, "doctor", "--client", "cursor", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
    )

    checks = {check["name"]: check for check in json.loads(ended.stdout)["checks"]}
    assert ended.returncode == 0
    assert "bearer_token_file = " in "".join(checks["settings"]["details"])
    assert checks["who am I"]["outcome"] == "ok"


def test_the_exit_status_of_the_entry_s_check_is_passed_on(command_line: CommandLine, home: Path) -> None:
    write_entry(home, {"command": COMMAND, "env": {}})

    assert command_line.run("doctor", "--client", "cursor").status == 1


def test_a_host_without_an_entry_cannot_be_checked(command_line: CommandLine, home: Path) -> None:
    with pytest.raises(UsageError, match="Cursor has no entry of this program: `qumulo-token-tools install"):
        command_line.run("doctor", "--client", "cursor")


def test_an_entry_of_another_program_is_not_run(command_line: CommandLine, home: Path) -> None:
    write_entry(home, {"command": "/bin/false"})

    with pytest.raises(UsageError, match="Cursor has no entry of this program"):
        command_line.run("doctor", "--client", "cursor")


def test_a_program_that_is_gone_is_told(command_line: CommandLine, home: Path) -> None:
    write_entry(home, {"command": "/gone/qumulo-token-tools"})

    with pytest.raises(UsageError, match="Cursor starts /gone/qumulo-token-tools: No such file or directory"):
        command_line.run("doctor", "--client", "cursor")
