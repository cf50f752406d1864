"""Test the command where what Windows lacks is hidden: all of it loads, serves a client, and says what it refuses."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from tests.support.file_keyring import FileKeyring
from tests.support.harness import JANE
from tests.support.json_rpc import create_call
from tests.support.page_names import REPOSITORY
from tests.support.secret_scan import find_secrets
from tests.support.server_process import (
    TIMEOUT_SECONDS,
    ServedCluster,
    ServerProcess,
    running_server,
    served_cluster,
)
from token_tools.cli.arguments import COMMANDS
from token_tools.credentials import encode_store
from token_tools.sandbox.https import LOOPBACK

AS_ON_WINDOWS = [sys.executable, "-m", "tests.support.like_windows"]
WITHOUT_COMMANDS = "from tests.support.like_windows import hide_what_windows_lacks\nhide_what_windows_lacks()\n"
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """The variables of a user whose keyring is a file."""
    return os.environ | {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "XDG_CONFIG_HOME": "",
        "XDG_STATE_HOME": "",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHON_KEYRING_BACKEND": f"{FileKeyring.__module__}.{FileKeyring.__name__}",
        "FILE_KEYRING": str(home / "keyring.json"),
    }


def run(words: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=REPOSITORY,
    )


def run_command(environment: Mapping[str, str], *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return run([*AS_ON_WINDOWS, "qumulo-token-tools", *words], {**environment, **settings})


@contextmanager
def serving(cluster: ServedCluster, environment: Mapping[str, str]) -> Generator[ServerProcess]:
    with running_server(
        cluster,
        wrapper=" ".join(AS_ON_WINDOWS),
        USERPROFILE=environment["USERPROFILE"],
        PYTHONPATH=environment["PYTHONPATH"],
        PYTHON_KEYRING_BACKEND=environment["PYTHON_KEYRING_BACKEND"],
        FILE_KEYRING=environment["FILE_KEYRING"],
    ) as server:
        yield server


def ask(server: ServerProcess, message: Mapping[str, object]) -> dict[str, Any]:
    server.send({**message})
    result: dict[str, Any] = json.loads(server.read_line())["result"]
    return result


def test_every_module_loads_and_every_command_explains_itself(environment: dict[str, str]) -> None:
    script = f"""{WITHOUT_COMMANDS}
import importlib, pkgutil, sys
import token_tools
names = [module.name for module in pkgutil.walk_packages(token_tools.__path__, "token_tools.")]
loaded = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
from token_tools.cli.arguments import parse_arguments
for command in {[*COMMANDS]!r}:
    try:
        parse_arguments([command, "--help"])
    except SystemExit as ended:
        print(f"status of {{command}}: {{ended.code}}")
print(len(loaded) > 200, sys.modules["fcntl"])
"""

    ended = run([sys.executable, "-c", script], environment)

    assert ended.stderr == ""
    assert [line for line in ended.stdout.splitlines() if line.startswith("status of")] == [
        f"status of {command}: 0" for command in COMMANDS
    ]
    assert ended.stdout.endswith("True None\n")


def test_a_client_is_served_and_a_new_bearer_token_goes_into_the_keyring(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with served_cluster(tmp_path) as cluster, serving(cluster, environment) as server:
        tools = {tool["name"] for tool in ask(server, LIST)["tools"]}
        listed = ask(server, create_call(3, "list_access_tokens"))
        created = ask(server, create_call(4, "create_access_token", user="local:jane", expiration_time="30d"))
        again = ask(server, create_call(5, "create_access_token", user="local:jane", expiration_time="30d"))
        exported = ask(server, create_call(6, "export_access_tokens"))
        server.process.send_signal(signal.SIGTERM)
        status, told = server.wait_for_exit()

    assert {"list_access_tokens", "create_access_token"} <= tools
    assert "export_access_tokens" not in tools
    assert "on Windows nothing shows it who else can read a file" in exported["content"][0]["text"]
    assert "QUMULO_REPORT_DIR" not in exported["content"][0]["text"], "which is refused there"
    assert "1 access token" in listed["content"][0]["text"]
    assert not created["isError"]
    assert not again["isError"]
    tokens = cluster.cluster.tokens.of_user(JANE.auth_id)
    passwords = json.loads((tmp_path / "keyring.json").read_text())
    assert sorted(passwords.values()) == sorted(token.bearer_token for token in tokens)
    assert len(passwords) == 2
    text = created["content"][0]["text"]
    assert "keyring.get_password('qumulo-token-tools " in text
    assert "mode 0600" not in text
    assert find_secrets(json.dumps([created, again]).encode(), [token.bearer_token for token in tokens]) == []
    assert cluster.read_outcomes() == ["created", "created"]
    assert not (cluster.state_folder / "tokens").exists()
    assert (status, told) == (0, "")


def test_a_server_ends_with_its_input(tmp_path: Path, environment: dict[str, str]) -> None:
    with served_cluster(tmp_path) as cluster, serving(cluster, environment) as server:
        # A line that is no message gets no answer, and takes nothing from the next one.
        os.write(server.stdin_fd, b"no message\n")
        assert "tools" in ask(server, LIST)
        server.close(server.stdin_fd)

        assert server.wait_for_exit() == (0, "")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param(
            {"QUMULO_DELIVERY": "file"},
            "QUMULO_DELIVERY=file is not for Windows, where nothing shows this server who else can read a file: set "
            "QUMULO_DELIVERY=keyring;",
            id="file",
        ),
        pytest.param(
            {"QUMULO_DELIVERY": "command", "QUMULO_DELIVERY_COMMAND": "vault"},
            "QUMULO_DELIVERY=command is not for Windows, where this server cannot see whether a program has read what "
            "it was given: set QUMULO_DELIVERY=keyring;",
            id="command",
        ),
        pytest.param(
            {"QUMULO_REPORT_DIR": "/reports"},
            "QUMULO_REPORT_DIR is not for Windows, where nothing shows this server who else can read a file: remove "
            "it;",
            id="reports",
        ),
        pytest.param(
            {"USERPROFILE": None},
            "needs a home folder, and USERPROFILE is not set. Set QUMULO_STATE_DIR to an absolute path",
            id="home",
        ),
        pytest.param(
            {"QUMULO_BEARER_TOKEN": "", "QUMULO_CREDENTIALS_COMMAND": "'C:\\no tools\\print.exe' --now"},
            r'QUMULO_CREDENTIALS_COMMAND: "C:\\no tools\\print.exe" cannot be run: No such file or directory.',
            id="path",
        ),
    ],
)
def test_what_is_not_for_windows_is_refused_with_the_reason(
    environment: dict[str, str], settings: dict[str, str | None], reason: str
) -> None:
    own = {"QUMULO_HOST": LOOPBACK, "QUMULO_BEARER_TOKEN": "access-v1:abc"}

    present = {name: value for name, value in {**environment, **own, **settings}.items() if value is not None}
    ended = run_command(present)

    assert ended.returncode == 2
    assert reason in ended.stderr


def test_a_unix_socket_is_refused(environment: dict[str, str]) -> None:
    ended = run_command(environment, "http", "--http-listen", "unix:/run/socket", QUMULO_HOST=LOOPBACK)

    assert ended.returncode == 2
    assert "which Windows has not as this server needs it: name ADDRESS:PORT" in ended.stderr


def test_setup_puts_the_own_credential_into_the_keyring(tmp_path: Path, environment: dict[str, str]) -> None:
    with served_cluster(tmp_path) as cluster:
        login = tmp_path / "login"
        login.write_bytes(encode_store(SecretStr(cluster.own_bearer_token)))
        words = ["setup", "--host", LOOPBACK, "--port", str(cluster.port), "--user", "local:jane", "--yes"]
        words += ["--no-read-only", "--name", "lab", "--login", str(login)]
        in_file = run_command(environment, *words, "--bearer-token-file", str(tmp_path / "own"))
        ended = run_command(environment, *words)
        [token] = cluster.cluster.tokens.of_user(JANE.auth_id)

        # What another process is writing is left to it.
        folder = tmp_path / ".config" / "qumulo-token-tools"
        (folder / ".config.lock").touch()
        meanwhile = run_command(environment, *words)

    assert "QUMULO_BEARER_TOKEN_FILE (" in in_file.stdout
    assert "Windows has no owner and mode of a file" in in_file.stdout
    assert "by QUMULO_KEYRING" in in_file.stdout
    assert not (tmp_path / "own").exists()
    assert json.loads((tmp_path / "keyring.json").read_text()) == {"qumulo-token-tools/lab": token.bearer_token}
    table = tomllib.loads((folder / "config.toml").read_text())["clusters"]["lab"]
    assert table["keyring"] == "qumulo-token-tools/lab"
    assert "credentials_file" not in table
    assert "new bearer tokens go to the system's keyring, which was tried" in ended.stdout
    assert "is being written by another process" in meanwhile.stdout + meanwhile.stderr
    assert find_secrets(f"{ended}{in_file}{meanwhile}".encode(), [token.bearer_token, cluster.own_bearer_token]) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".config.lock"]


def test_a_report_is_written_and_a_folder_of_bearer_tokens_is_not_even_searched(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with served_cluster(tmp_path) as cluster:
        settings = cluster.create_environment() | environment
        report = tmp_path / "new" / "report.json"
        audited = run_command(settings, "audit", "--format", "json", "--output", str(report), "--since-last")
        first = report.read_text()
        again = run_command(settings, "audit", "--format", "json", "--output", str(report), "--since-last")
        pruned = run_command(settings, "prune", "--yes")

    assert (audited.returncode, audited.stdout) == (0, "")
    assert again.returncode == 0
    assert json.loads(first)
    assert report.read_text() != first
    assert [path.name for path in report.parent.iterdir()] == ["report.json"]
    assert pruned.returncode == 2
    assert "cannot be searched: Windows has no owner and mode of a file" in pruned.stderr
    assert "so new bearer tokens are in the keyring" in pruned.stderr


def test_doctor_says_that_it_does_not_know_who_can_read_a_file(tmp_path: Path, environment: dict[str, str]) -> None:
    with served_cluster(tmp_path) as cluster:
        store = tmp_path / "own-token"
        store.write_text(cluster.own_bearer_token)
        store.chmod(0o666)
        settings = cluster.create_environment(QUMULO_BEARER_TOKEN_FILE=str(store), QUMULO_DELIVERY="none")
        settings |= environment | {"QUMULO_BEARER_TOKEN": ""}

        told = run_command(settings, "doctor").stdout

    assert "whether others can read it is not known" in told
    assert "icacls" in told


def test_a_command_for_the_credential_is_ended_with_all_that_it_has_started(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    started = tmp_path / "started"
    settings = {
        "QUMULO_HOST": LOOPBACK,
        "QUMULO_BEARER_TOKEN": "",
        "QUMULO_CREDENTIALS_COMMAND": f"sh -c 'sleep 600 & echo $! > {started}; head -c 99999 /dev/zero; wait'",
    }

    ended = run_command(environment, **settings)

    assert "has an output that is larger than 64 KiB" in ended.stderr
    assert not is_running(int(started.read_text()))


def is_running(process_id: int) -> bool:
    """Tell whether a process still runs; one of which nobody has taken leave does not."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_trial_puts_nothing_into_the_keyring_and_what_has_no_end_in_time_is_given_up(
    environment: dict[str, str],
) -> None:
    script = f"""{WITHOUT_COMMANDS}
import os
from token_tools.cli.serve_demo import open_demo_cluster
from token_tools.file_reading import read_whole
with open_demo_cluster({{}}) as (profile, _):
    print(profile.settings.delivery)
reader, writer = os.pipe()
try:
    read_whole(reader, max_bytes=10, timeout_seconds=0.01)
except ValueError as reason:
    print(reason)
os.close(writer)
"""

    ended = run([sys.executable, "-c", script], environment)

    assert ended.stdout == "inline\nhas no end: whoever writes into it took longer than 0.01 seconds\n"


def test_a_host_is_told_of_this_server_where_it_looks_on_windows(tmp_path: Path, environment: dict[str, str]) -> None:
    words = ["install", "--client", "claude-desktop", "--demo", "--dry-run"]

    named = run_command(environment, *words, APPDATA=str(tmp_path / "roaming"))

    assert str(tmp_path / "roaming" / "Claude" / "claude_desktop_config.json") in named.stdout
