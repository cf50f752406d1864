"""Test `install` and `uninstall` with the real commands of hosts, none of which needs a login for this.

`.ci/run` installs them from npm, and names their folder by HOSTS_BIN.
"""

import json
import os
import shutil
import subprocess
import tomllib
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.json_rpc import COMMAND
from tests.support.node_tools import HOSTS_BIN, needs_hosts
from token_tools.cli.hosts.catalogue import HOSTS
from token_tools.cli.hosts.change import carry_out, plan_install, plan_removal
from token_tools.cli.hosts.entries import ENTRY_NAME, Entry

TIMEOUT_SECONDS: Final = 60
ENTRY: Final = Entry(COMMAND, ["--demo"], {"QUMULO_READ_ONLY": "true"})
QUESTIONS: Final = {
    # It starts the server itself.
    "claude-code": (["mcp", "get", ENTRY_NAME], "Connected"),
    "codex": (["mcp", "get", ENTRY_NAME], COMMAND),
    "copilot": (["mcp", "get", ENTRY_NAME], COMMAND),
    "gemini": (["mcp", "list"], COMMAND),
}
"""What asks a host for our entry, and what its answer has to contain."""

pytestmark = [
    pytest.mark.slow,
    needs_hosts,
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder, in which the commands of hosts are found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("PATH", f"{HOSTS_BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_known(client: str) -> bool:
    """Ask the host itself for our entry."""
    program = shutil.which(str(HOSTS[client].program))
    assert program is not None
    words, expected = QUESTIONS[client]
    ended = subprocess.run(
        [program, *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return expected in ended.stdout + ended.stderr


@pytest.mark.parametrize("client", QUESTIONS)
def test_a_host_adds_and_removes_our_entry_by_its_own_command(home: Path, client: str) -> None:
    host = HOSTS[client]

    added = carry_out(partial(plan_install, host, "user", ENTRY))
    again = plan_install(host, "user", ENTRY)
    known = is_known(client)
    removed = carry_out(partial(plan_removal, host, "user"))

    assert added.change.words is not None
    assert (added.failure, removed.failure) == (None, None)
    assert not again.is_needed
    assert known
    assert ENTRY_NAME not in host.find_file("user").read_text()


@pytest.mark.parametrize("client", QUESTIONS)
def test_a_host_reads_an_entry_that_was_written_into_its_file(
    home: Path, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without_hosts:
        without_hosts.setenv("PATH", "/nowhere")
        written = carry_out(partial(plan_install, HOSTS[client], "user", ENTRY))

    assert written.change.words is None
    assert is_known(client)


def test_a_host_adds_our_entry_for_a_project(home: Path) -> None:
    added = carry_out(partial(plan_install, HOSTS["claude-code"], "project", ENTRY))
    removed = carry_out(partial(plan_removal, HOSTS["claude-code"], "project"))

    assert (added.failure, removed.failure) == (None, None)
    assert json.loads((home / ".mcp.json").read_text()) == {"mcpServers": {}}


def test_codex_is_given_the_time_that_its_own_command_cannot_say(home: Path) -> None:
    carry_out(partial(plan_install, HOSTS["codex"], "user", ENTRY))

    [entry] = tomllib.loads((home / ".codex/config.toml").read_text())["mcp_servers"].values()
    assert (entry["startup_timeout_sec"], entry["tool_timeout_sec"]) == (30, 330)


def test_a_file_that_gemini_does_not_accept_is_edited_all_the_same(home: Path) -> None:
    """Its command refuses a comma before a closing bracket."""
    file = home / ".gemini/settings.json"
    file.parent.mkdir()
    file.write_text('{\n  // mine\n  "ui": {"theme": "x",},\n}\n')

    added = carry_out(partial(plan_install, HOSTS["gemini"], "user", ENTRY))

    assert "Please fix the configuration file" in str(added.failure)
    assert not plan_install(HOSTS["gemini"], "user", ENTRY).is_needed
    assert file.read_text().startswith('{\n  // mine\n  "ui": {"theme": "x",},\n')


def test_a_file_that_does_not_parse_is_not_given_to_the_command_of_its_host(home: Path) -> None:
    """`claude` would put a new file in its place."""
    (home / ".claude.json").write_text('{"a": ')

    with pytest.raises(ValueError, match="is not JSON"):
        carry_out(partial(plan_install, HOSTS["claude-code"], "user", ENTRY))

    assert (home / ".claude.json").read_text() == '{"a": '
