"""Test the commands `install`, `uninstall` and `clients` on files of hosts, without any host."""

import json
import os
import resource
import stat
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypedDict, Unpack

import anyio
import pytest

from tests.support.json_rpc import COMMAND
from tests.support.permissions import needs_root, permission_bits
from tests.support.stdio_client import run_to_end
from token_tools.cli import clients, doctor, install, uninstall
from token_tools.cli.checks.check import Check
from token_tools.cli.checks.hosts import check_hosts
from token_tools.cli.hosts import own_commands
from token_tools.cli.hosts.catalogue import HOSTS, Scope
from token_tools.cli.hosts.change import carry_out, plan_install, plan_removal, read_entry
from token_tools.cli.hosts.entries import Entry
from token_tools.cli.hosts.executable import find_executable
from token_tools.cli.hosts.files import read_host_file, replace
from token_tools.cli.hosts.probe import probe
from token_tools.errors import SettingsError, UsageError

SECRET: Final = "access-v1:" + "c2VjcmV0IG9mIHRoZSB0ZXN0czogbm9ib2R5J3M5NzQ2NTQ="
ENTRY: Final = Entry(COMMAND, ["--demo"])
CURSOR: Final = ".cursor/mcp.json"
OTHERS: Final = '{\n  // mine\n  "mcpServers": {\n    "other": {"command": "x"}\n  }\n}\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder without hosts, in which no command of a host is found."""
    home = tmp_path / "home"
    for folder in (home, tmp_path / "bin", tmp_path / "work"):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "CODEX_HOME", "CLAUDE_CONFIG_DIR", "COPILOT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return home


@pytest.fixture
def cursor(home: Path) -> Path:
    """Return Cursor's file, with the entry of another server in it."""
    file = home / CURSOR
    file.parent.mkdir()
    file.write_text(OTHERS)
    return file


def add_entry(client: str = "cursor", scope: Scope = "user") -> None:
    """Do what the command does before it starts the entry."""
    carry_out(partial(plan_install, HOSTS[client], scope, ENTRY))


class Options(TypedDict, total=False):
    """The options of the command."""

    settings: Mapping[str, object]
    scope: Scope
    demo: bool
    clusters: Sequence[str]
    print_only: bool
    dry_run: bool


def install_entry(client: str = "cursor", **options: Unpack[Options]) -> int:
    """Run the command with its usual options, for an entry that needs no cluster."""
    usual: Options = {"settings": {}, "scope": "user", "demo": True, "print_only": False, "dry_run": False}
    usual.update(options)
    return install.run(client=client, **usual)


def remove_entry(client: str = "cursor", *, dry_run: bool = False) -> int:
    """Run the command with its usual options."""
    return uninstall.run({}, client=client, scope="user", dry_run=dry_run)


def list_backups(file: Path) -> list[Path]:
    """Return what stands beside a file."""
    return [path for path in file.parent.iterdir() if path != file]


def test_a_new_entry_starts_this_installation_and_has_the_tools(
    cursor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install_entry() == 0

    said = capsys.readouterr().out
    assert f"Cursor: added to {cursor}." in said
    assert "It was started, and has 9 tools." in said
    assert "// mine" in cursor.read_text()
    assert json.loads(cursor.read_text().replace("// mine", ""))["mcpServers"] == {
        "other": {"command": "x"},
        "qumulo-tokens": {"command": COMMAND, "args": ["--demo"], "env": {}},
    }


def test_a_second_time_changes_nothing_and_says_so(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install_entry()
    before, backups = cursor.read_bytes(), list_backups(cursor)

    assert install_entry() == 0

    assert "Cursor: nothing to change in" in capsys.readouterr().out
    assert (cursor.read_bytes(), list_backups(cursor)) == (before, backups)


def test_what_was_there_is_kept_beside_the_file_with_its_mode(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor.chmod(0o640)

    install_entry()

    [backup] = list_backups(cursor)
    assert backup.read_text() == OTHERS
    assert (permission_bits(cursor), permission_bits(backup)) == (0o640, 0o640)
    assert str(backup) in capsys.readouterr().out


@needs_root
def test_the_file_of_another_user_stays_theirs(cursor: Path) -> None:
    os.chown(cursor, 4711, 4712)

    add_entry()

    status = cursor.stat()
    assert (status.st_uid, status.st_gid) == (4711, 4712)


def test_a_new_file_is_its_owners_alone(home: Path) -> None:
    add_entry("kiro")

    file = home / ".kiro/settings/mcp.json"
    assert permission_bits(file) == 0o600
    assert permission_bits(file.parent) == 0o700
    assert list_backups(file) == []


def test_a_link_leads_to_the_file_that_is_changed(home: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text(OTHERS)
    (home / ".cursor").mkdir()
    (home / CURSOR).symlink_to(real)

    add_entry()

    assert (home / CURSOR).is_symlink()
    assert "qumulo-tokens" in real.read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b'{"mcpServers": {', "is not JSON"), (b"\xff\xfe", "is not in UTF-8"), (b'{"mcpServers": 1}', "something else")],
)
def test_a_file_that_cannot_be_edited_is_left_alone_and_the_entry_is_printed(
    cursor: Path, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cursor.write_bytes(content)

    assert install_entry() == 1
    said = capsys.readouterr().out
    remove_entry()

    assert reason in said
    assert f'"command": "{COMMAND}"' in said
    assert (cursor.read_bytes(), list_backups(cursor)) == (content, [])


def test_a_file_that_is_read_only_stays_as_it_is(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor.chmod(0o400)

    assert (install_entry(dry_run=True), install_entry()) == (1, 1)

    assert capsys.readouterr().out.count("is read-only. It was not edited.") == 2
    assert (cursor.read_text(), list_backups(cursor)) == (OTHERS, [])


def test_a_folder_in_the_way_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / CURSOR).mkdir(parents=True)

    assert install_entry() == 1

    assert "is a folder and not a file" in capsys.readouterr().out


def test_a_file_in_the_place_of_a_folder_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".cursor").write_text("")

    assert install_entry() == 1

    assert "cannot be written: Not a directory" in capsys.readouterr().out


def test_a_file_that_another_program_has_changed_meanwhile_is_not_replaced(cursor: Path) -> None:
    read = read_host_file(cursor)
    cursor.write_text("{}")

    with pytest.raises(ValueError, match="was changed by another program"):
        replace(read, OTHERS)

    assert (cursor.read_text(), list_backups(cursor)) == ("{}", [])


def test_an_entry_of_another_program_is_neither_replaced_nor_removed(
    cursor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"mcpServers": {"qumulo-tokens": {"command": "docker", "args": ["run", "x"]}}}'
    cursor.write_text(text)

    assert (install_entry(), remove_entry()) == (1, 1)

    assert capsys.readouterr().out.count("starts something else: rename or remove that first") == 2
    assert cursor.read_text() == text


@pytest.mark.parametrize("value", ["3", '{"url": "https://example.com"}', '{"command": ["a", 1]}', '{"command": ""}'])
def test_an_entry_that_starts_nothing_is_that_of_another_program(
    cursor: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cursor.write_text(f'{{"mcpServers": {{"qumulo-tokens": {value}}}}}')

    assert install_entry() == 1
    assert clients.run({}) == 0

    assert "`qumulo-tokens` is an entry that starts another program, in" in capsys.readouterr().out


def test_an_entry_of_ours_is_brought_up_to_date_and_keeps_what_a_person_added(cursor: Path) -> None:
    old: dict[str, object] = {
        "command": "/old/bin/qumulo-token-tools",
        "args": [],
        "env": {"QUMULO_HOST": "old", "LANG": "de"},
        "disabled": True,
    }
    cursor.write_text(json.dumps({"mcpServers": {"qumulo-tokens": old}}))

    add_entry()

    [entry] = json.loads(cursor.read_text())["mcpServers"].values()
    assert entry == {"command": COMMAND, "args": ["--demo"], "env": {"LANG": "de"}, "disabled": True}


@pytest.mark.parametrize(
    "words", [["uvx", "qumulo-token-tools"], ["/v/python", "-m", "token_tools"], ["/a b/qumulo-token-tools", "--demo"]]
)
def test_an_entry_is_ours_whatever_runs_the_program(cursor: Path, words: list[str]) -> None:
    cursor.write_text(json.dumps({"mcpServers": {"qumulo-tokens": {"command": words[0], "args": words[1:]}}}))

    assert remove_entry() == 0

    assert json.loads(cursor.read_text()) == {"mcpServers": {}}


@pytest.mark.parametrize(
    "words", [["/bin/sh", "-c", "evil", "qumulo-token-tools"], ["python3", "-c", "evil", "-m", "token_tools"]]
)
def test_an_entry_that_names_the_program_and_starts_another_is_not_ours(cursor: Path, words: list[str]) -> None:
    entry = {"command": words[0], "args": words[1:]}
    cursor.write_text(json.dumps({"mcpServers": {"qumulo-tokens": entry}}))

    assert remove_entry() == 1

    assert json.loads(cursor.read_text()) == {"mcpServers": {"qumulo-tokens": entry}}


def test_an_entry_is_removed_and_the_file_is_as_it_was(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_entry()

    assert remove_entry() == 0
    assert remove_entry() == 0

    assert cursor.read_text() == OTHERS
    said = capsys.readouterr().out
    assert f"Cursor: removed from {cursor}." in said
    assert f"Cursor: no entry of this program in {cursor}." in said


def test_a_dry_run_shows_the_difference_and_changes_nothing(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install_entry(dry_run=True) == 0
    assert remove_entry(dry_run=True) == 0

    said = capsys.readouterr().out
    assert '-    "other": {"command": "x"}\n+    "other": {"command": "x"},\n+    "qumulo-tokens": {\n' in said
    assert f"Cursor: nothing would change in {cursor}." in said
    assert (cursor.read_text(), list_backups(cursor)) == (OTHERS, [])


def test_a_dry_run_shows_no_secret_of_another_server(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor.write_text(f'{{"mcpServers": {{"other": {{"env": {{"TOKEN": "{SECRET}"}}}}}}}}')

    assert install_entry(dry_run=True) == 0

    said = capsys.readouterr().out
    assert "-(a line that may have a secret or invisible characters in it)" in said
    assert SECRET not in said


def test_a_dry_run_sends_nothing_to_the_terminal_but_text(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor.write_text('{"mcpServers": {"a\x9b2J": 1}}')

    assert install_entry(dry_run=True) == 0

    assert "\x9b" not in capsys.readouterr().out


def test_a_disk_that_takes_nothing_leaves_everything_as_it_was(cursor: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            add_entry()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (cursor.read_text(), list_backups(cursor)) == (OTHERS, [])


def test_a_dry_run_tells_what_could_not_be_done(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor.write_text("{")

    assert (install_entry(dry_run=True), remove_entry(dry_run=True)) == (1, 1)

    assert capsys.readouterr().out.count("is not JSON") == 2


@pytest.mark.parametrize("client", HOSTS)
def test_the_printed_entry_of_each_host_is_what_the_host_reads(
    home: Path, client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install_entry(client, print_only=True) == 0

    host = HOSTS[client]
    first, _, snippet = capsys.readouterr().out.partition("\n\n")
    file = host.find_file("user")
    assert str(file) in first
    assert not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(snippet)
    assert not plan_install(host, "user", ENTRY).is_needed


def test_codex_gets_the_time_that_a_person_needs(home: Path) -> None:
    add_entry("codex")

    [entry] = tomllib.loads((home / ".codex/config.toml").read_text())["mcp_servers"].values()
    assert (entry["startup_timeout_sec"], entry["tool_timeout_sec"]) == (30, 330)


def test_a_project_has_files_of_its_own(home: Path, tmp_path: Path) -> None:
    add_entry("claude-code", "project")

    assert "qumulo-tokens" in (tmp_path / "work/.mcp.json").read_text()
    assert not (home / ".claude.json").exists()


def test_nothing_of_an_entry_that_a_project_brought_along_is_kept(home: Path, tmp_path: Path) -> None:
    """The new entry is started, and a variable could make it run anything."""
    hostile: dict[str, object] = {"command": "qumulo-token-tools", "args": [], "env": {"LD_PRELOAD": "./x.so"}}
    file = tmp_path / "work/.mcp.json"
    file.write_text(json.dumps({"mcpServers": {"qumulo-tokens": hostile}}))

    add_entry("claude-code", "project")

    [entry] = json.loads(file.read_text())["mcpServers"].values()
    assert entry == {"command": COMMAND, "args": ["--demo"], "env": {}}


@pytest.mark.parametrize("file", [".mcp.json", "../home/.claude.json"])
def test_a_check_starts_no_entry_of_a_project_and_none_of_another_program(
    home: Path, tmp_path: Path, file: str
) -> None:
    started = tmp_path / "started"
    is_project = file == ".mcp.json"
    command = write_program(tmp_path / ("qumulo-token-tools" if is_project else "other"), f"touch {started}")
    (tmp_path / "work" / file).write_text(json.dumps({"mcpServers": {"qumulo-tokens": {"command": command}}}))

    checks = anyio.run(list_checks)

    assert [check.outcome for check in checks] == ["skipped"]
    assert not started.exists()


async def list_checks() -> list[Check]:
    return [check async for check in check_hosts()]


def test_all_are_those_that_are_found(cursor: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".config/goose").mkdir(parents=True)

    assert install_entry("all") == 0

    assert "qumulo-tokens" in cursor.read_text()
    assert "qumulo-tokens" in (home / ".config/goose/config.yaml").read_text()
    assert capsys.readouterr().out.count("9 tools") == 2


@pytest.mark.parametrize(
    ("client", "scope", "reason"),
    [("all", "user", "no host was found on this machine"), ("goose", "project", "Goose has no file of a project")],
)
def test_a_choice_of_no_host_is_refused(home: Path, client: str, scope: Scope, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        install_entry(client, scope=scope)


def test_the_hosts_of_this_machine_are_listed(cursor: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".lmstudio").mkdir()
    (home / ".claude.json").write_text('{"mcpServers": {"qumulo-tokens": {"command": "/old/qumulo-token-tools"}}}')
    (home / ".config/zed").mkdir(parents=True)
    (home / ".config/zed/settings.json").write_text("{")
    add_entry()

    assert clients.run({}) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"Claude Code: an entry that starts another installation, /old/qumulo-token-tools, in {home}/.claude.json",
        f"Cursor: an entry that starts this installation, in {cursor}",
        f"Zed: {home}/.config/zed/settings.json is not JSON",
        f"LM Studio: no entry in {home}/.lmstudio/mcp.json; `qumulo-token-tools install --client lmstudio` adds one",
    ]


def test_a_file_is_listed_once_in_the_folder_where_the_user_and_a_project_share_it(
    home: Path, cursor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    add_entry()

    assert clients.run({}) == 0

    assert capsys.readouterr().out == f"Cursor: an entry that starts this installation, in {cursor}\n"


def test_a_machine_without_hosts_has_none_to_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clients.run({}) == 0

    assert "No host was found" in capsys.readouterr().out


def test_settings_of_options_and_variables_go_into_the_entry(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUMULO_HOST", "cluster.example.com")
    monkeypatch.setenv("QUMULO_KEYRING", "qumulo/mcp")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")

    install_entry(demo=False, print_only=True, settings={"read_only": True, "host": "other.example.com"})

    [entry] = json.loads(capsys.readouterr().out.partition("\n\n")[2])["mcpServers"].values()
    assert entry["env"] == {
        "QUMULO_HOST": "other.example.com",
        "QUMULO_KEYRING": "qumulo/mcp",
        "QUMULO_READ_ONLY": "true",
        "XDG_STATE_HOME": "/var/state",
    }


def test_a_configuration_file_with_clusters_needs_no_variables(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = home / ".config/qumulo-token-tools/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[clusters.a]\nhost = "a"\n[clusters.b]\nhost = "b"\n')

    install_entry(demo=False, print_only=True, clusters=["b"])

    [entry] = json.loads(capsys.readouterr().out.partition("\n\n")[2])["mcpServers"].values()
    assert entry == {"command": COMMAND, "args": ["--cluster", "b"], "env": {}}


@pytest.mark.parametrize(
    ("variables", "clusters", "reason"),
    [
        ({}, (), "no cluster is configured yet: `qumulo-token-tools setup`"),
        ({"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": SECRET}, (), "QUMULO_BEARER_TOKEN is a secret"),
        ({"QUMULO_HOST": "c", "QUMULO_STATE_URL": "postgresql://u:p@h/d"}, (), "QUMULO_STATE_URL is a secret"),
        ({"QUMULO_HOST": SECRET}, (), "QUMULO_HOST"),
        ({"QUMULO_HOST": "c", "QUMULO_PORT": "x"}, (), "QUMULO_PORT must be a whole number"),
        ({"QUMULO_HOST": "c"}, ["a"], "--cluster a chooses a table"),
    ],
)
def test_an_entry_that_could_not_work_is_not_written(
    cursor: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], clusters: Sequence[str], reason: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=reason) as refusal:
        install_entry(demo=False, clusters=clusters)

    assert SECRET not in str(refusal.value)
    assert cursor.read_text() == OTHERS


def test_the_embedded_cluster_is_not_one_of_those_in_the_configuration(home: Path) -> None:
    with pytest.raises(SettingsError, match="--cluster chooses nothing"):
        install_entry(clusters=["a"])


def test_an_entry_that_does_not_start_stays_and_is_told(cursor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install_entry(demo=False, settings={"host": "cluster.example.com"}) == 1

    said = capsys.readouterr().out
    assert "It was started and does not work: qumulo-token-tools could not start:" in said
    assert "qumulo-tokens" in cursor.read_text()


def write_program(path: Path, script: str) -> str:
    """Write a program, and return its path."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


def test_a_program_that_answers_nothing_is_waited_for_within_a_bound(tmp_path: Path) -> None:
    proof = probe(Entry(write_program(tmp_path / "program", "exec /bin/sleep 60")), timeout_seconds=0.1)

    assert proof.reason == "it did not answer within 0.1 seconds"


def test_a_program_that_is_no_server_is_told_by_what_it_did(tmp_path: Path) -> None:
    assert probe(Entry(write_program(tmp_path / "program", "exit 3"))).reason == "Connection closed"


def test_what_a_program_says_is_told_without_a_secret(tmp_path: Path) -> None:
    answer = json.dumps({"jsonrpc": "2.0", "id": "ID", "error": {"code": -32603, "message": f"no {SECRET}"}})
    script = f"""
import json, sys
for line in sys.stdin:
    print(json.dumps(json.loads({answer!r}) | {{"id": json.loads(line)["id"]}}), flush=True)
"""

    proof = probe(Entry(sys.executable, ["-c", script]))

    assert proof.reason
    assert SECRET not in proof.reason


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    proof = probe(Entry(str(tmp_path / "nothing")))

    assert not proof.is_started
    assert "No such file" in str(proof.reason)


def test_an_entry_whose_program_is_gone_is_mended_by_a_new_one(cursor: Path, tmp_path: Path) -> None:
    gone = tmp_path / "qumulo-token-tools"
    cursor.write_text(json.dumps({"mcpServers": {"qumulo-tokens": {"command": str(gone)}}}))

    [found] = anyio.run(list_checks)

    assert found.mend == "`qumulo-token-tools install --client cursor` writes it again"
    with pytest.raises(UsageError, match=f"starts {gone}: No such file .*install --client cursor` mends it"):
        doctor.run({}, as_json=False, client="cursor")


def test_an_entry_that_cannot_be_read_is_not_told_to_be_missing(cursor: Path, home: Path) -> None:
    cursor.write_text("{")

    with pytest.raises(UsageError, match=f"Cursor: {cursor} is not JSON. Mend that file first"):
        doctor.run({}, as_json=False, client="cursor")
    with pytest.raises(UsageError, match="Zed has no entry of this program"):
        doctor.run({}, as_json=False, client="zed")


def test_a_host_is_examined_with_its_entry_and_the_clusters_that_are_chosen(cursor: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    command = write_program(tmp_path / "qumulo-token-tools", f'echo "$@" > {words}; exit 3')
    cursor.write_text(json.dumps({"mcpServers": {"qumulo-tokens": {"command": command}}}))

    assert doctor.run({}, as_json=True, client="cursor", clusters=["lab"]) == 3
    assert words.read_text() == "doctor --cluster lab --json\n"


@pytest.mark.parametrize("client", ["claude-code", "codex", "copilot", "gemini", "vscode"])
def test_the_file_is_edited_where_the_command_of_a_host_fails(home: Path, tmp_path: Path, client: str) -> None:
    host = HOSTS[client]
    write_program(tmp_path / "bin" / str(host.program), "echo no login >&2; exit 5")

    added = carry_out(partial(plan_install, host, "user", ENTRY._replace(env={"QUMULO_HOST": "c"})))
    removed = carry_out(partial(plan_removal, host, "user"))

    reason = 'it ended with 5, and said "no login"'
    # VS Code's command removes nothing.
    assert (added.failure, removed.failure) == (reason, None if client == "vscode" else reason)
    assert "qumulo-tokens" not in host.find_file("user").read_text()


def test_what_the_command_of_a_host_did_is_not_done_again(home: Path, tmp_path: Path) -> None:
    written = """printf '{"mcpServers":{"qumulo-tokens":%s}}' "$4" > "$HOME/.claude.json\""""
    write_program(tmp_path / "bin/claude", written)

    outcome = carry_out(partial(plan_install, HOSTS["claude-code"], "user", ENTRY))

    assert outcome.failure is None
    assert "\n" not in (home / ".claude.json").read_text()


def test_the_command_of_a_host_that_does_nothing_is_not_believed(home: Path, tmp_path: Path) -> None:
    write_program(tmp_path / "bin/claude", "exit 0")

    outcome = carry_out(partial(plan_install, HOSTS["claude-code"], "user", ENTRY))

    assert outcome.failure is None
    assert read_entry(HOSTS["claude-code"], "user") == ENTRY


def test_the_command_of_a_host_is_waited_for_within_a_bound() -> None:
    assert own_commands.run(["/bin/sleep", "60"], timeout_seconds=0.1) == "it did not end within 0.1 seconds"


def test_an_entry_that_is_gone_again_is_told(home: Path) -> None:
    with pytest.raises(ValueError, match="has no entry that starts a command"):
        read_entry(HOSTS["cursor"], "user")


def test_a_command_of_a_host_that_cannot_run_is_told(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin/code"
    program.write_text("")
    program.chmod(stat.S_IRWXU)

    assert install_entry("vscode") == 0

    assert "Its own command did not do that: Exec format error" in capsys.readouterr().out


def test_a_dry_run_shows_the_command_of_a_host(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = write_program(tmp_path / "bin/code", "exit 9")

    assert install_entry("vscode", dry_run=True) == 0

    assert f"VS Code: would run `{program} --add-mcp '{{" in capsys.readouterr().out


def test_an_installation_in_a_cache_is_refused(tmp_path: Path) -> None:
    """`uvx` runs from such a folder."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")

    with pytest.raises(SettingsError, match="may be emptied at any time"):
        find_executable(tmp_path / "uv/archive-v0/x", tmp_path / "uv/archive-v0/x/bin/python")


def test_an_installation_without_a_script_is_started_as_a_module(tmp_path: Path) -> None:
    entry = find_executable(tmp_path, tmp_path / "python3")

    assert entry == Entry(str(tmp_path / "python3"), ["-m", "token_tools"])
    assert entry.is_ours


def test_a_home_that_is_no_path_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "home")

    with pytest.raises(SettingsError, match="HOME is home: it must be an absolute path"):
        clients.run({})


def test_the_installed_command_adds_and_removes_an_entry(cursor: Path) -> None:
    added = run_to_end("install", "--client", "cursor", "--demo")
    listed = run_to_end("clients")
    removed = run_to_end("uninstall", "--client", "cursor")

    assert (added.returncode, added.stderr) == (0, "")
    assert "an entry that starts this installation" in listed.stdout
    assert (removed.returncode, cursor.read_text()) == (0, OTHERS)
