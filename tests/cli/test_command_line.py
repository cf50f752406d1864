"""Test the commands as a person meets them: their help, their completion in a shell, and where options may stand."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import token_tools
from tests.support.command_line import CommandLine
from tests.support.json_rpc import COMMAND
from token_tools.cli.arguments import COMMANDS, parse_arguments
from token_tools.errors import UsageError

TIMEOUT_SECONDS = 30
BASH = shutil.which("bash") or "bash"
COMPLETE = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
completer=$(complete -p qumulo-token-tools)
completer=${completer#*-F }
${completer%% *}
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_its_examples_and_ends_well(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments([command, "--help"])

    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert shown.startswith(f"usage: qumulo-token-tools {command}")
    for example in COMMANDS[command].examples:
        assert f"\n  qumulo-token-tools {example}\n" in shown
    assert "\033" not in shown


def test_the_help_of_the_program_names_the_commands_and_each_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(["--help"])

    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert all(f" {command} " in shown for command in COMMANDS)
    for default in (
        "8000",
        "30s",
        "the user's state folder",
        "that of the certificate that `trust` has saved",
        "false",
    ):
        assert f"(default: {default})" in shown
    assert "--demo" in shown


@pytest.mark.parametrize("command", ["doctor", "trust"])
def test_a_setting_may_stand_before_a_command_and_behind_it(command: str) -> None:
    before = parse_arguments(["--host", "one", "--port", "1", command, "--host", "two"])

    assert before.settings == {"host": "two", "port": "1"}
    assert parse_arguments([command]).settings == {}


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--demo", "doctor"], "--demo is an option for serving, and means nothing to `doctor`."),
        (["--demo", "trust"], "--demo is an option for serving, and means nothing to `trust`."),
        (["--cluster", "lab", "completion", "bash"], "--cluster is an option for serving"),
        (["completion"], "the following arguments are required: SHELL"),
        (["completion", "tcsh"], "SHELL must be bash, zsh or fish."),
        (["doctor", "--jsn"], "there is no option --jsn; nearest is --json."),
        (["trust", "--expect", "12"], "64 hexadecimal digits"),
        (["trust", "--expect"], "expected one argument"),
        (["doctor", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_wrong_call_is_told(words: list[str], refusal: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_arguments(words)

    assert refusal in str(raised.value)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_the_script_that_completes_the_commands(command_line: CommandLine, shell: str) -> None:
    script = command_line.run("completion", shell).text

    assert all(command in script for command in COMMANDS)
    if shutil.which(shell) is not None:
        path = command_line.write("script", script)
        checked = subprocess.run([shell, "-n", path], capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["do"], {"doctor"}),
        (["tru"], {"trust"}),
        (["doctor", "--js"], {"--json"}),
        (["trust", "--exp"], {"--expect"}),
        (["--read"], {"--read-only"}),
        (["completion", "z"], {"zsh"}),
    ],
    ids=" ".join,
)
def test_bash_completes_commands_and_options(command_line: CommandLine, words: list[str], expected: set[str]) -> None:
    script = command_line.write("script", command_line.run("completion", "bash").text)

    completed = subprocess.run(
        [BASH, "-c", COMPLETE, "bash", script, "qumulo-token-tools", *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )

    assert expected == {*completed.stdout.split()}


def run_in_terminal(*words: str, typed: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the installed command in a terminal of its own; return its status and what the terminal shows."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    with subprocess.Popen(
        [COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | (env or {})
    ) as process:
        os.close(theirs)
        shown = read_to_end(ours)
        os.close(ours)
        return process.wait(TIMEOUT_SECONDS), shown


def read_to_end(terminal: int) -> str:
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux says so when the last process has closed the terminal
            return shown.decode()
        if not piece:
            return shown.decode()
        shown += piece


def test_a_server_that_was_started_by_hand_says_in_a_line_what_it_waits_for() -> None:
    status, shown = run_in_terminal("--demo", typed=b"\x04")

    waiting = [line for line in shown.splitlines() if line.startswith("qumulo-token-tools")]
    assert status == 0
    assert len(waiting) == 1
    assert "waits here for an MCP client" in waiting[0]
    assert "`qumulo-token-tools install`" in waiting[0]
    assert "`qumulo-token-tools demo`" in waiting[0]


@pytest.mark.usefixtures("command_line")
def test_doctor_is_in_colour_in_a_terminal_unless_the_user_wants_none() -> None:
    failed, coloured = run_in_terminal("doctor", "--port", "1")
    well, plain = run_in_terminal("doctor", env={"NO_COLOR": "1"})

    assert (failed, well) == (1, 0)
    assert "\033[31mfailed  \033[0mTCP" in coloured
    assert "\033[32mok      \033[0mprogram" in coloured
    assert "\033[3" not in plain
    assert "ok      TCP" in plain


def test_a_question_without_a_default_is_asked_until_there_is_an_answer(command_line: CommandLine) -> None:
    command_line.set(host=None, port=None, fingerprint=None, bearer_token=None)
    ours, theirs = pty.openpty()
    os.write(ours, b"\n  \nlocalhost\n\x04")
    with os.fdopen(theirs, "rb") as terminal:
        ended = subprocess.run([COMMAND, "setup"], stdin=terminal, capture_output=True, timeout=60, check=False)
    os.close(ours)

    assert ended.returncode == 2
    assert ended.stdout.startswith(b"Cluster (its DNS name or address): " * 3)


TELL_PROGRAM = "from token_tools.cli.checks.machine import check_program; print(*check_program().render())"


@pytest.mark.parametrize(
    ("environment", "origin", "said"),
    [
        pytest.param("uv/tools/x", {}, "installed as a tool of uv: `uv tool upgrade` renews it", id="uv"),
        pytest.param("uv/archive-v0/x", {}, "which uv removes when its cache is cleaned", id="uvx"),
        pytest.param("venv", {}, ", installed in ", id="wheel"),
        pytest.param(
            "venv",
            {"url": "file:///src", "dir_info": {"editable": True}},
            "from /src, which may be edited",
            id="edited",
        ),
    ],
)
def test_doctor_tells_how_this_program_was_installed(
    tmp_path: Path, environment: str, origin: dict[str, object], said: str
) -> None:
    python = create_environment(tmp_path / environment, origin)

    told = subprocess.run([python, "-c", TELL_PROGRAM], capture_output=True, text=True, timeout=10, check=True).stdout

    assert said in told
    assert f" {tmp_path / environment}" in told
    assert told.startswith("warning" if "archive" in environment else "ok")


def create_environment(prefix: Path, origin: dict[str, object]) -> Path:
    """Make a virtual environment that has all that this one has, installed from `origin`."""
    packages = prefix / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(sys.executable)
    (prefix / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix, 'bin')}\ninclude-system-site-packages = false\n")
    for folder in {Path(pytest.__file__).parents[1], Path(token_tools.__file__).parents[1]}:
        for path in folder.iterdir():
            if not path.name.startswith("qumulo_token_tools-") and not path.name.startswith("__editable__"):
                (packages / path.name).symlink_to(path)
    installed = packages / "qumulo_token_tools-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: qumulo-token-tools\nVersion: 0.1.0\n")
    (installed / "direct_url.json").write_text(json.dumps(origin))
    return prefix / "bin" / "python"
