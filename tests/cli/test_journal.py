"""Test the command `journal`: what was really done is printed for people and programs, without a cluster."""

import base64
import csv
import io
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.example_tokens import add_token
from tests.support.forked_command import Ended, run_forked
from tests.support.harness import AGREES, DECLINES, Harness, ScriptedPerson
from tests.support.json_rpc import COMMAND
from tests.support.record import add_entries, end_leases, execute, forget_outcomes, state_file
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 60
FORMULA = "=cmd|' /C calc'!A0"


def nothing_in(state: StateSettings | Path) -> str:
    """Return what the command prints if it finds no entry."""
    if isinstance(state, Path):
        return f"no such entries in the journal {state / 'state.db'}\n"
    where = "in the database of QUMULO_STATE_URL" if state.state_url else state_file(state.state_dir)
    return f"no such entries in the journal {where}\n"


def run_journal(*words: str, state: StateSettings | Path, columns: int = 80) -> Ended:
    """Run the command on a record, without any other setting."""
    settings = state if isinstance(state, StateSettings) else StateSettings(state_dir=state)
    environment = os.environ | {"QUMULO_STATE_DIR": str(settings.state_dir), "COLUMNS": str(columns)}
    if settings.state_url is not None:
        environment |= {"QUMULO_STATE_URL": settings.state_url.get_secret_value()}
    return run_forked("journal", *words, environment=environment)


def read_lines(*words: str, state: StateSettings | Path) -> list[dict[str, Any]]:
    """Return the entries that the command prints as JSON, checking that all is well."""
    ended = run_journal(*words, "--format=json", state=state)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def do_changes(harness: Harness) -> Mapping[str, str]:
    """Create, rotate, update and delete, and ask for what is declined and refused; return the ids of the tokens."""
    old = add_token(harness)
    agrees = ScriptedPerson([AGREES])
    rotated = await harness.call("rotate_access_token", {"id": old.id})
    created = await harness.call("create_access_token", {"user": "ldap_user:bob"})
    await harness.call("delete_access_token", {"id": old.id}, person=ScriptedPerson([DECLINES]))
    await harness.call("update_access_token", {"id": old.id, "enabled": False}, person=agrees)
    await harness.call("delete_access_token", {"id": old.id}, person=agrees)
    [own] = [token for token in harness.cluster.tokens.values() if token.user == "500"]
    await harness.call("delete_access_token", {"id": own.id}, person=agrees)
    return {"old": old.id, "new": rotated.fields["id"], "bob": created.fields["id"], "own": own.id}


async def test_the_beginning_of_a_secret_that_was_given_for_a_user_is_not_recorded(harness: Harness) -> None:
    """An argument is cut for the record; what is left of a secret would not be recognised any more."""
    secret = base64.b64encode(bytes(range(7, 250, 3))).decode()

    for chars in range(40, 60):
        await harness.call("create_access_token", {"user": f"{'x' * chars} {secret}", "expiration_time": "2020-01-01"})

    assert [line["outcome"] for line in read_lines(state=harness.settings)] == ["refused"] * 20
    assert secret[:6] not in run_journal(state=harness.settings, columns=1000).stdout


async def test_a_record_of_a_newer_program_is_not_read(record_harness: Harness) -> None:
    await do_changes(record_harness)
    execute(record_harness.settings, "UPDATE state SET version = 7")

    ended = run_journal(state=record_harness.settings)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("qumulo-token-tools: The journal was written by a newer version of this program")


def test_a_database_without_a_table_has_nothing_recorded(state: StateSettings) -> None:
    """A server that is killed at its first change may leave an empty file."""
    state.state_dir.mkdir(mode=0o700)
    if state.state_url is None:
        state_file(state.state_dir).touch(mode=0o600)

    ended = run_journal(state=state)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("no such entries in the journal")


async def test_what_was_really_done_is_printed_in_its_order_for_people(record_harness: Harness) -> None:
    ids = await do_changes(record_harness)

    ended = run_journal(state=record_harness.settings)

    lines = ended.stdout.splitlines()
    rows = [line for line in lines if not line.startswith(" ")]
    assert (ended.returncode, ended.stderr) == (0, "")
    assert rows == [
        "On c.example.com:8000:",
        "TIME (UTC)        CHANGE  OUTCOME   USER",
        "2026-11-24 09:00  rotate  created   local:jane",
        "2026-11-24 09:00  create  created   ldap_user:bob",
        "2026-11-24 09:00  delete  declined  local:jane",
        "2026-11-24 09:00  update  done      local:jane",
        "2026-11-24 09:00  delete  done      local:jane",
        "2026-11-24 09:00  delete  refused   local:admin",
    ]
    assert f"    token {ids['old']} -> {ids['new']}; " in lines[3]
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in lines)


async def test_the_entries_are_whole_in_json(record_harness: Harness) -> None:
    ids = await do_changes(record_harness)

    rotated, created, declined, updated, deleted, refused = read_lines(state=record_harness.settings)

    assert (
        rotated.items()
        >= {
            "time": "2026-11-24T09:00:00Z",
            "ended": "2026-11-24T09:00:00Z",
            "cluster": "c.example.com:8000",
            "operation": "rotate",
            "user": "local:jane",
            "id": ids["new"],
            "replaces": ids["old"],
            "outcome": "created",
            "unfinished": False,
            "consent": "not needed",
        }.items()
    )
    assert rotated["location"].endswith(f"{ids['new']}.json")
    assert (created["id"], created["user"]) == (ids["bob"], "ldap_user:bob")
    assert (declined["outcome"], declined["consent"]) == ("declined", "declined")
    assert (updated["before"], updated["after"]) == ("enabled: true", "enabled: false")
    assert (deleted["consent"], len(deleted["question"])) == ("agreed", 8)
    assert (refused["id"], refused["outcome"]) == (ids["own"], "refused")
    assert "lock itself out" in refused["reason"]


async def test_the_entries_can_be_chosen(record_harness: Harness) -> None:
    ids = await do_changes(record_harness)
    state = record_harness.settings
    other: dict[str, object] = {"cluster": "other:8000", "begun": "2020-01-01T00:00:00.000000Z", "outcome": "done"}
    add_entries(state, [other])

    def count(*words: str) -> int:
        return len(read_lines(*words, state=state))

    assert count() == 7
    assert count("--user", "ldap_user:bob") == 1
    assert count("--user", "local:jane", "--cluster", "c.example.com:8000") == 4
    assert count("--token", ids["old"]) == 4
    assert count("--operation", "delete") == 3
    assert count("--since", "2026-01-01") == 6
    assert count("--cluster", "other:8000") == 1
    assert count("--unfinished") == 0


async def test_entries_of_several_clusters_each_tell_theirs(harness: Harness) -> None:
    await do_changes(harness)
    add_entries(harness.settings, [{"cluster": "other:8000", "outcome": "done"}])

    lines = run_journal(state=harness.settings).stdout.splitlines()

    assert lines[0].startswith("TIME (UTC)")
    assert "    on other:8000; " in lines[-1]
    assert lines[2].startswith("    on c.example.com:8000; token ")


async def test_what_is_unfinished_makes_the_exit_status_one(record_harness: Harness) -> None:
    await record_harness.call("create_access_token", {"user": "local:jane"})
    state = record_harness.settings
    before = run_journal("--unfinished", state=state)
    forget_outcomes(state)

    found = run_journal("--unfinished", state=state)
    all_of_it = run_journal(state=state)
    execute(state, "UPDATE changes SET leased_until = ?", "2999-01-01T00:00:00.000000Z")
    at_work = run_journal("--unfinished", state=state)

    assert (before.returncode, before.stdout) == (0, nothing_in(state))
    assert (found.returncode, found.stdout.splitlines()[2]) == (1, "2026-11-24 09:00  create  unfinished  local:jane")
    assert (all_of_it.returncode, all_of_it.stdout) == (0, found.stdout)
    assert (at_work.returncode, at_work.stdout) == (0, nothing_in(state))
    assert "  at work  " in run_journal(state=state).stdout


def test_an_empty_record_is_told_and_no_database_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    printed = {name: run_journal(f"--format={name}", state=folder) for name in ("text", "json", "csv")}

    assert [ended.returncode for ended in printed.values()] == [0, 0, 0]
    assert printed["text"].stdout == nothing_in(folder)
    assert printed["json"].stdout == ""
    assert printed["csv"].stdout.startswith("time,ended,cluster,operation,user,id,")
    assert not folder.exists()


def test_the_folder_can_be_an_option_before_or_after_the_command(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "QUMULO_STATE_DIR"}
    for words in (["--state-dir", str(tmp_path), "journal"], ["journal", "--state-dir", str(tmp_path)]):
        ended = subprocess.run(
            [COMMAND, *words], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, env=environment
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, nothing_in(tmp_path), "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--since", "yesterday"], "argument --since: is not understood. Write a duration such as 7d"),
        (["--user", "self"], "argument --user: "),
        (["--user", "sid:1"], "argument --user: "),
        (["--token", "184…"], "argument --token: must be the digits of a token"),
        (["--operation", "revoke"], "--operation must be create, rotate, update, delete, export or pickup."),
        (["--format", "yaml"], "--format must be text, json or csv."),
        (["--sinc", "7d"], "there is no option --sinc; nearest is --since."),
        (["--state-dir", "relative"], "QUMULO_STATE_DIR "),
    ],
    ids=["since", "self", "no-user", "token", "operation", "format", "misspelt", "folder"],
)
def test_a_wrong_call_is_one_line_and_status_two(tmp_path: Path, words: list[str], expected: str) -> None:
    ended = run_journal(*words, state=tmp_path)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"qumulo-token-tools: {expected}")
    assert ended.stderr.count("\n") == 1


async def test_a_record_that_cannot_be_read_is_one_line_and_status_two(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"})
    state_file(harness.settings.state_dir).write_text("no database at all")

    ended = run_journal(state=harness.settings)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("qumulo-token-tools: The journal ")
    assert "QUMULO_STATE_DIR" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("output_format", ["text", "csv"])
def test_a_disk_that_is_full_is_one_line_and_status_two(tmp_path: Path, output_format: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [COMMAND, "journal", "--format", output_format, "--state-dir", str(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    expected = "qumulo-token-tools: The journal cannot be printed: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (2, expected)


async def test_a_reader_that_has_gone_ends_the_command_quietly(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"})
    entry: dict[str, object] = {"outcome": "done"}
    add_entries(harness.settings, [entry] * 1_000)
    with subprocess.Popen(
        [COMMAND, "journal", "--state-dir", str(harness.settings.state_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "On c.example.com:8000:\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(TIMEOUT_SECONDS) == 2


async def test_no_text_of_a_caller_is_a_formula_in_a_spreadsheet(record_harness: Harness) -> None:
    await do_changes(record_harness)
    hostile = dict.fromkeys(["user_name", "actor", "reason"], FORMULA)
    add_entries(record_harness.settings, [{**hostile, "outcome": "refused", "replaces": "2" * 22}])

    ended = run_journal("--format=csv", state=record_harness.settings)

    rows = [*csv.DictReader(io.StringIO(ended.stdout))]
    assert len(rows) == 7
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    quoted = json.dumps(FORMULA).replace("=", "\\u003d")
    assert [rows[-1][name] for name in ("user", "actor", "reason")] == [quoted] * 3
    assert json.loads(rows[-1]["reason"]) == FORMULA
    assert rows[-1]["replaces"] == f"id:{'2' * 22}"
    assert rows[-1]["id"] == ""
    assert (rows[4]["operation"], rows[4]["unfinished"]) == ("delete", "false")


async def test_a_long_user_and_a_hostile_client_stay_on_lines_of_their_own(harness: Harness) -> None:
    await harness.call("create_access_token", {"user": "local:jane"})
    user = f"local:{'x' * 70}"
    hostile = 'x"; done; by admin'
    add_entries(harness.settings, [{"user_name": user, "actor": hostile, "outcome": "done"}])
    end_leases(harness.settings)

    *_, row, first, second = run_journal(state=harness.settings).stdout.splitlines()

    assert row == "2026-11-24 09:00  rotate  done"
    assert first == f"    {user};"
    assert second == f"    by {json.dumps(hostile)}; consent not needed"
