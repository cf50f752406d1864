"""Test the plugin for Claude Code and the extension for Gemini CLI, with the real commands of both.

Both start the server by a `uvx` that stands in for uv's: it notes how it was called, and starts what is installed here.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from packages.extensions import create_gemini_extension, create_plugin
from packages.project import list_tools
from packages.questions import QUESTIONS
from tests.support.environment import BEARER_TOKEN
from tests.support.node_tools import HOSTS_BIN, needs_hosts
from tests.support.page_names import REPOSITORY
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings

TIMEOUT_SECONDS: Final = 120
MAX_TOOL_NAME_CHARS: Final = 64
"""What the API takes of a tool's name."""
PLUGIN: Final = "qumulo-tokens@qumulo-token-tools"
VARIABLES: Final = [variable_name(question.setting) for question in QUESTIONS]
STAND_IN: Final = """#!{python}
import json, os, sys
names = [name for name in os.environ if name.startswith("QUMULO_")]
with open({notes!r}, "a") as notes:
    notes.write(json.dumps([sys.argv[1:], {{name: os.environ[name] for name in names}}]) + "\\n")
os.execv(sys.executable, [sys.executable, "-m", "token_tools"])
"""


class Started(NamedTuple):
    """How a host started the server: the arguments of `uvx`, and the variables of this program."""

    args: list[str]
    variables: Mapping[str, str]


class Machine(NamedTuple):
    """A home folder with one cluster in config.toml, and a folder that is published as the repository is."""

    home: Path
    published: Path

    def run(self, *command: str, answer: str = "") -> str:
        """Run a host's command to its end, and return what it says."""
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, input=answer
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def read_starts(self) -> list[Started]:
        """Return how the server was started, each time."""
        return [Started(*json.loads(line)) for line in (self.home / "starts").read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Prepare an empty home folder, in which the commands of hosts are found."""
    home, published, programs = (tmp_path / name for name in ("home", "published", "programs"))
    for folder in (home, published, programs):
        folder.mkdir()
    shutil.copytree(REPOSITORY / ".claude-plugin", published / ".claude-plugin")
    shutil.copy(REPOSITORY / "gemini-extension.json", published)
    (programs / "uvx").write_text(STAND_IN.format(python=sys.executable, notes=str(home / "starts")))
    (programs / "uvx").chmod(0o755)
    token, config = home / "token", home / ".config" / "qumulo-token-tools" / "config.toml"
    config.parent.mkdir(parents=True)
    token.write_text(BEARER_TOKEN)
    config.write_text(f'[clusters.lab]\nhost = "lab.example.com"\nbearer_token_file = "{token}"\n')
    for file in (token, config):
        file.chmod(0o600)
    for name, value in {"HOME": str(home), "PATH": f"{programs}:{HOSTS_BIN}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.chdir(home)
    return Machine(home, published)


def test_the_names_of_tools_stay_short_enough_in_the_plugin() -> None:
    [server] = create_plugin()["mcpServers"]

    names = [f"mcp__plugin_{create_plugin()['name']}_{server}__{tool['name']}" for tool in list_tools()]

    assert len(names) == 9
    assert [name for name in names if len(name) > MAX_TOOL_NAME_CHARS] == []


def test_a_secret_is_marked_as_one_and_nothing_else_is() -> None:
    options, settings = create_plugin()["userConfig"], create_gemini_extension()["settings"]

    secrets = {variable_name(name) for name in SECRET_SETTINGS & {*Settings.model_fields}}
    assert {variable_name(name) for name, option in options.items() if option.get("sensitive")} == secrets & {
        *VARIABLES
    }
    assert {setting["envVar"] for setting in settings if setting["sensitive"]} == secrets & {*VARIABLES}
    assert [setting["envVar"] for setting in settings] == VARIABLES


@needs_hosts
@pytest.mark.slow
def test_claude_code_accepts_both_of_its_files_and_finds_nothing_to_say_of_them(machine: Machine) -> None:
    for file in (".claude-plugin/plugin.json", ".claude-plugin/marketplace.json"):
        said = machine.run("claude", "plugin", "validate", "--strict", str(machine.published / file))

        assert "Validation passed" in said


@needs_hosts
@pytest.mark.slow
def test_claude_code_installs_the_plugin_and_starts_it_to_read_only(machine: Machine) -> None:
    machine.run("claude", "plugin", "marketplace", "add", str(machine.published))
    machine.run("claude", "plugin", "install", PLUGIN, "--config", "max_lifetime=7d")

    assert "Connected" in machine.run("claude", "mcp", "list")

    started = machine.read_starts()[-1]
    assert [started.args[0], *started.args[2:]] == ["--from", "qumulo-token-tools"]
    assert started.args[1].endswith("[keyring]")
    given = {"QUMULO_READ_ONLY": "true", "QUMULO_MAX_LIFETIME": "7d"}
    assert started.variables == dict.fromkeys(VARIABLES, "") | given


@needs_hosts
@pytest.mark.slow
def test_gemini_installs_the_extension_and_starts_it_to_read_only(machine: Machine) -> None:
    # It asks whether the folder is to be trusted.
    machine.run("gemini", "extensions", "install", str(machine.published), "--consent", "--skip-settings", answer="y\n")
    folder = machine.home / ".gemini" / "extensions" / "qumulo-tokens"
    (folder / ".env").write_text("QUMULO_MAX_LIFETIME=7d\n")

    assert "Connected" in machine.run("gemini", "mcp", "list")

    given = {"QUMULO_READ_ONLY": "true", "QUMULO_MAX_LIFETIME": "7d"}
    assert machine.read_starts()[-1] == Started(["--from", f"{folder}[keyring]", "qumulo-token-tools"], given)
