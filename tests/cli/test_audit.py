"""Test that `audit` tells people and jobs what is a risk and what is new, by its report and by its exit status."""

import csv
import io
import json
import os
import re
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from tests.support.command_line import CommandLine
from tests.support.harness import ADMIN, JANE, TOKENS_PATH
from tests.support.json_rpc import COMMAND
from tests.support.permissions import needs_root, permission_bits
from tests.support.record import add_entries, execute
from token_tools.operations.own_token import INCOMPLETE_LIST
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Account, Token
from token_tools.times import utc_now

DAY = timedelta(days=1)
TIMEOUT_SECONDS = 60
ROBOT = Account("1077", "LOCAL", "robot")


@pytest.fixture(autouse=True)
def _give_everybody_an_account(command_line: CommandLine) -> None:
    for account in (JANE, ROBOT):
        command_line.cluster.add_account(account)


def add_token(
    command_line: CommandLine, user: Account = JANE, *, lives: timedelta | None = 300 * DAY, age: timedelta = DAY
) -> Token:
    """Add a token that its user made; `lives` is how long from now on, None for ever."""
    now = utc_now()
    return command_line.cluster.add_token(
        user.auth_id,
        creator=user.auth_id,
        creation_time=now - age,
        expiration_time=None if lives is None else now + lives,
    )


def put_token(command_line: CommandLine, token: Token) -> None:
    """Put a token in the place of the one with its id on the cluster."""
    command_line.cluster.tokens[token.id] = token


def find_block(text: str, beginning: str) -> str:
    """Return the line that begins so, with the lines below it that are indented more."""
    found = re.search(rf"^( *){re.escape(beginning)}.*(?:\n\1 +.*)*", text, re.MULTILINE)
    assert found, text
    return found[0]


def read_document(command_line: CommandLine, *words: str, status: int = 0) -> Mapping[str, Any]:
    """Return what the command prints as JSON."""
    printed = command_line.run("audit", "--format", "json", *words)
    assert printed.status == status
    document: Mapping[str, Any] = json.loads(printed.text)
    return document


def find_state(command_line: CommandLine) -> Path:
    """Let the record be in a folder of its own, and return that."""
    folder = command_line.folder / "state"
    command_line.set(state_dir=folder)
    return folder


# --- What is a risk ---


def test_a_person_reads_each_finding_with_its_tokens_and_with_what_mends_it(command_line: CommandLine) -> None:
    soon, later = add_token(command_line, lives=20 * DAY), add_token(command_line, ROBOT, lives=3 * DAY)

    printed = command_line.run("audit")

    assert printed.status == 0
    assert printed.text.startswith("3 of 3 access tokens on 1 cluster need attention. (")
    expiring = find_block(printed.text, "Expires soon: 2. Rotate it, put the new bearer token where the old one is")
    assert expiring.index(f"{later.id} local:robot, expires ") < expiring.index(f"{soon.id} local:jane, expires ")
    own = f"{command_line.own.id} local:admin, never expires, this server's own"
    assert own in find_block(printed.text, "Never expires: 1. ")
    assert own in find_block(printed.text, "Belongs to the administrator or guest that every cluster has: 1. ")
    assert "3 tokens of 3 users: 3 live, 0 disabled, 0 expired." in printed.text
    assert "  Nothing to compare with: this cluster has no earlier audit in the record.\n" in printed.text
    assert printed.text.endswith("neither when a token was last used nor since when one is disabled.\n")


def test_where_nothing_is_a_risk_that_is_said(command_line: CommandLine) -> None:
    command_line.cluster.add_account(ADMIN)
    own = command_line.cluster.tokens.pop(command_line.own.id)
    command_line.cluster.add_account(Account("1099", "LOCAL", "mcp-service", privileges=ADMIN.privileges))
    token = command_line.cluster.add_token("1099", creator="1099", expiration_time=utc_now() + 300 * DAY)
    command_line.set(bearer_token=token.bearer_token)

    printed = command_line.run("audit", "--fail-on", "any")

    assert printed.status == 0
    assert own.id not in printed.text
    assert printed.text.startswith("0 of 1 access token on 1 cluster need attention. (")
    assert "  Nothing was found.\n" in printed.text


def test_a_disabled_and_an_expired_token_are_told_as_what_they_are(command_line: CommandLine) -> None:
    disabled, expired = add_token(command_line, age=90 * DAY), add_token(command_line, ROBOT, lives=-DAY, age=9 * DAY)
    put_token(command_line, replace(disabled, enabled=False))

    text = command_line.run("audit").text

    assert re.search(rf"{disabled.id} local:jane, expires \S+ \S+ UTC \(in \d+ days\), disabled\n", text)
    assert re.search(
        rf"{expired.id} local:robot, expired \S+ \S+ UTC \(a day ago\)", find_block(text, "Has expired: 1")
    )


def test_the_two_tokens_of_a_user_stand_beside_each_other(command_line: CommandLine) -> None:
    robots = add_token(command_line, ROBOT, lives=100 * DAY), add_token(command_line, ROBOT, lives=300 * DAY)
    janes = add_token(command_line, JANE, lives=200 * DAY), add_token(command_line, JANE, lives=250 * DAY)

    block = find_block(command_line.run("audit").text, "User has two tokens: 2. ")

    assert re.findall(r"^ +(\d+) ", block, re.MULTILINE) == [token.id for token in (*janes, *robots)]


def test_a_long_list_is_cut_in_the_text_and_nowhere_else(command_line: CommandLine) -> None:
    for number in range(60):
        command_line.cluster.add_account(Account(str(2000 + number), "LOCAL", f"service-{number}"))
        add_token(command_line, Account(str(2000 + number), "LOCAL", f"service-{number}"), lives=None)

    text = command_line.run("audit").text
    rows = [*csv.DictReader(io.StringIO(command_line.run("audit", "--format", "csv").text))]

    block = find_block(text, "Never expires: 61. ")
    assert len(re.findall(r"^    \d+ ", block, re.MULTILINE)) == 50
    assert block.endswith("\n    and 11 more, which the other formats have")
    assert sum("never expires" in row["findings"] for row in rows) == 61


# --- What the exit status tells ---


@pytest.mark.parametrize(
    ("fail_on", "status"),
    [("expires_soon", 1), ("expired", 0), ("expired,expires_soon", 1), ("any", 1), ("changed", 0), ("expired, any", 1)],
)
def test_the_status_is_1_if_what_is_asked_for_was_found(command_line: CommandLine, fail_on: str, status: int) -> None:
    add_token(command_line, lives=DAY)

    assert command_line.run("audit", "--fail-on", fail_on).status == status


def test_how_soon_is_soon_can_be_said(command_line: CommandLine) -> None:
    add_token(command_line, lives=10 * DAY)

    assert command_line.run("audit", "--fail-on", "expires_soon", "--expiring-within", "9d").status == 0
    assert command_line.run("audit", "--fail-on", "expires_soon", "--expiring-within", "1d,11d").status == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail-on", "expire_soon"], "argument --fail-on: there is no such finding; nearest is expires_soon"),
        (["--fail-on", ""], "argument --fail-on: there is no such finding; there are expires_soon, never_expires, "),
        (["--expiring-within", "soon"], "argument --expiring-within: "),
        (["--since-last", "../x"], "argument --since-last: a job's name has at most 40 letters, digits, dots, "),
        (["--format", "pdf"], "--format must be text, json, csv or html."),
        (["--cluster", "lab"], "lab"),
        (["--output", "."], "--output . is no file: name one, or leave it out for stdout."),
        (["--output", "/dev/null"], "--output /dev/null is no file: name one, or leave it out for stdout."),
    ],
)
def test_a_wrong_call_is_refused_before_the_cluster_is_asked(
    command_line: CommandLine, words: list[str], told: str
) -> None:
    asked: list[str] = []

    async def note(scope: Scope, _receive: Receive, _send: Send) -> None:
        asked.append(scope["path"])

    command_line.serve(note)

    assert told in command_line.run_refused("audit", *words)
    assert asked == []


def test_a_wrong_call_has_status_2(command_line: CommandLine) -> None:
    ended = subprocess.run(
        [COMMAND, "audit", "--output", command_line.folder],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"qumulo-token-tools: --output {command_line.folder} is no file: name one, or leave it out for stdout.\n"
    )


# --- What is new ---


def test_what_was_told_is_not_told_again(command_line: CommandLine) -> None:
    old = add_token(command_line, lives=DAY)
    first = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")
    again = command_line.run("audit", "--since-last", "--fail-on", "any,changed")
    new = add_token(command_line, ROBOT, lives=None)

    third = command_line.run("audit", "--since-last", "--fail-on", "never_expires")
    fourth = command_line.run("audit", "--since-last", "--fail-on", "any,changed")

    assert (first.status, again.status, third.status, fourth.status) == (1, 0, 1, 0)
    assert old.id in first.text
    assert "  No finding is new.\n" in again.text
    assert old.id not in again.text + third.text
    assert f"{new.id} local:robot, never expires" in find_block(third.text, "Never expires: 2, 1 new. ")
    assert f"new: {new.id} local:robot, created by local:robot\n" in third.text
    assert new.id not in fourth.text


def test_a_token_is_told_of_as_it_comes_within_each_time_before_its_expiry(command_line: CommandLine) -> None:
    token = add_token(command_line, lives=40 * DAY)
    words = ["audit", "--since-last", "--expiring-within", "30d,14d,1d", "--fail-on", "expires_soon"]
    told: list[int] = []

    for passed in (0, 5, 11, 12, 25, 27, 39.5, 39.6):
        command_line.ahead = passed * DAY
        printed = command_line.run(*words)
        assert (token.id in find_block(printed.text, f"127.0.0.1:{command_line.port}: ")) == (printed.status == 1)
        told.append(printed.status)

    assert told == [0, 0, 1, 0, 0, 1, 1, 0]


def test_one_job_takes_no_news_from_another_nor_from_people_nor_from_the_assistant(command_line: CommandLine) -> None:
    command_line.run("audit", "--since-last", "mail")
    token = add_token(command_line, lives=DAY)

    people = command_line.run("audit", "--fail-on", "expires_soon")
    chat = command_line.run("audit", "--since-last", "chat", "--fail-on", "expires_soon")
    mail = command_line.run("audit", "--since-last", "mail", "--fail-on", "expires_soon")

    assert [people.status, chat.status, mail.status] == [1, 1, 1]
    assert "Nothing to compare with" in people.text
    assert "Nothing to compare with" in chat.text
    assert f"new: {token.id}" in mail.text


def test_people_see_what_changed_since_the_last_report_for_people(command_line: CommandLine) -> None:
    gone, revived = add_token(command_line), add_token(command_line, ROBOT)
    put_token(command_line, replace(revived, enabled=False))
    command_line.run("audit")
    del command_line.cluster.tokens[gone.id]
    put_token(command_line, replace(revived, enabled=True))

    printed = command_line.run("audit", "--fail-on", "changed")

    block = find_block(printed.text, "Since ")
    assert printed.status == 1
    assert ", audited by " in block
    assert " via qumulo-token-tools audit" in block
    assert f"\n    enabled again: {revived.id} local:robot\n    gone: {gone.id} auth_id:1001" in block


def test_many_changes_are_cut_in_the_text(command_line: CommandLine) -> None:
    command_line.run("audit")
    for number in range(60):
        command_line.cluster.add_account(Account(str(2000 + number), "LOCAL", f"service-{number}"))
        add_token(command_line, Account(str(2000 + number), "LOCAL", f"service-{number}"))

    block = find_block(command_line.run("audit").text, "Since ")

    assert len(block.splitlines()) == 52
    assert block.endswith("\n    and 10 more, which the other formats have")


def test_what_this_server_deleted_is_told_so_and_an_unknown_user_too(command_line: CommandLine) -> None:
    state = find_state(command_line)
    gone, other = add_token(command_line), add_token(command_line, ROBOT)
    command_line.run("audit")
    entry = {"operation": "delete", "outcome": "done", "cluster": f"127.0.0.1:{command_line.port}"}
    add_entries(state, [entry | {"token_id": gone.id, "ended": f"{utc_now():%Y-%m-%dT%H:%M:%S.%fZ}"}])
    del command_line.cluster.tokens[gone.id], command_line.cluster.tokens[other.id]

    text = command_line.run("audit", "--since-last").text + command_line.run("audit").text

    assert f"gone: {gone.id} auth_id:1001, deleted by this server\n" in text
    assert f"gone: {other.id} auth_id:1077\n" in text


def test_gone_tokens_of_users_who_are_not_known_are_told_too(command_line: CommandLine) -> None:
    token = add_token(command_line)
    serve_without_auth_ids(command_line)
    command_line.run("audit")
    del command_line.cluster.tokens[token.id]

    [cluster] = read_document(command_line)["clusters"]

    assert cluster["changes"]["gone"] == [{"id": token.id, "user": None, "by_this_server": False}]


def test_news_that_could_not_be_written_is_news_the_next_time(command_line: CommandLine) -> None:
    token = add_token(command_line, lives=DAY)
    command_line.write("file", "")

    failed = command_line.run("audit", "--since-last", "--output", "file/report.txt")
    again = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")

    assert (failed.status, failed.text) == (2, "")
    assert failed.errors == (
        "qumulo-token-tools: The report file/report.txt cannot be written: Not a directory. Nothing counts as told.\n"
    )
    assert (again.status, token.id in again.text) == (1, True)


def test_a_full_disk_behind_stdout_is_told_and_nothing_counts_as_told(command_line: CommandLine) -> None:
    add_token(command_line, lives=DAY)
    with Path("/dev/full").open("wb", buffering=0) as full:
        ended = subprocess.run(
            [COMMAND, "audit", "--since-last"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    assert ended.returncode == 2
    assert "The report cannot be written: No space left on device. Nothing counts as told.\n" in ended.stderr
    assert command_line.run("audit", "--since-last", "--fail-on", "expires_soon").status == 1


def test_a_reader_that_has_gone_is_not_taken_for_a_finding(command_line: CommandLine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [COMMAND, "audit"], stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_SECONDS, check=False
    )
    os.close(writing)

    assert ended.returncode == 2


def test_what_cannot_be_kept_is_told_on_stderr_and_told_again(command_line: CommandLine) -> None:
    state = find_state(command_line)
    command_line.run("audit", "--since-last")
    execute(state, "CREATE TRIGGER full BEFORE UPDATE ON audits BEGIN SELECT RAISE(ABORT, 'no'); END")
    token = add_token(command_line, lives=DAY)

    first = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")
    again = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")

    assert (first.status, again.status) == (1, 1)
    assert token.id in again.text
    assert first.errors.startswith("qumulo-token-tools: The next audit is not compared with this one: ")


@pytest.mark.parametrize("damaged", [b"not packed", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_if_it_is_not_known_what_was_told_all_is_told_again(command_line: CommandLine, damaged: bytes) -> None:
    state = find_state(command_line)
    token = add_token(command_line, lives=DAY)
    command_line.run("audit", "--since-last")
    execute(state, "UPDATE audits SET told = ?", damaged)

    printed = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")

    assert printed.status == 1
    assert token.id in printed.text
    assert "Which findings are new is not known: " in printed.text


# --- Clusters that cannot be read ---


def test_a_cluster_that_cannot_be_read_has_status_3_and_the_others_are_told(command_line: CommandLine) -> None:
    down = command_line.format_table("down", port=1)
    command_line.write_config(f"{command_line.format_table('lab')}\n{down}")
    token = add_token(command_line, lives=DAY)

    printed = command_line.run("audit", "--fail-on", "expires_soon")

    assert printed.status == 3
    assert "1 cluster could not be read." in printed.text.splitlines()[0]
    assert "down could not be read: No connection to 127.0.0.1:1: " in printed.text
    assert "in config.toml" in printed.text or "clusters.down" in printed.text
    assert token.id in find_block(printed.text, "lab: ")
    assert printed.errors == ""


def test_what_is_new_while_a_cluster_cannot_be_read_is_told_the_next_time(command_line: CommandLine) -> None:
    command_line.run("audit", "--since-last")
    token = add_token(command_line, lives=DAY)
    command_line.inject("list", "half")
    failed = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")
    command_line.serve(create_app(command_line.cluster))

    printed = command_line.run("audit", "--since-last", "--fail-on", "expires_soon")

    assert failed.status == 3
    assert token.id not in failed.text
    assert (printed.status, token.id in printed.text) == (1, True)


def _write_null(found: re.Match[bytes]) -> bytes:
    # The length of the answer was told before.
    return b'"auth_id":null'.ljust(len(found[0]))


def serve_without_auth_ids(command_line: CommandLine) -> None:
    """Let the list tell users by their names alone."""
    app = create_app(command_line.cluster)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.body" and scope["path"] == TOKENS_PATH:
                message["body"] = re.sub(rb'"auth_id": ?"\d+"', _write_null, message["body"])
            await send(message)

        await app(scope, receive, send_without)

    command_line.serve(answer)


def serve_empty_list(command_line: CommandLine) -> None:
    """Let the list be empty, although it is asked for with a token that should be in it."""
    app = create_app(command_line.cluster)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        shown = JSONResponse({"entries": [], "paging": {"next": ""}}) if scope["path"] == TOKENS_PATH else app
        await shown(scope, receive, send)

    command_line.serve(answer)


def test_a_list_that_may_not_be_whole_has_status_3_and_takes_no_news(command_line: CommandLine) -> None:
    serve_empty_list(command_line)

    printed = command_line.run("audit", "--output", "report.txt")
    again = command_line.run("audit", "--fail-on", "any")

    report = Path("report.txt").read_text()
    assert (printed.status, again.status) == (3, 3)
    assert "The list of 1 cluster may not be whole." in report.splitlines()[0]
    assert "  Nothing was found among what was listed.\n" in report
    assert INCOMPLETE_LIST in report
    assert INCOMPLETE_LIST in printed.errors
    assert "whose list may not be whole" in printed.errors
    assert "Nothing to compare with" in again.text


def test_a_cluster_is_called_the_same_whether_it_is_asked_alone_or_with_others(command_line: CommandLine) -> None:
    command_line.write_config(f"{command_line.format_table('lab')}\n{command_line.format_table('down', port=1)}")

    names = [
        [cluster["name"] for cluster in read_document(command_line, *words, status=status)["clusters"]]
        for words, status in (([], 3), (["--cluster", "lab"], 0))
    ]

    assert names == [["lab"], ["lab"]]


# --- Forms, and where they go ---


def test_a_report_is_a_file_that_only_its_owner_can_read(command_line: CommandLine) -> None:
    printed = command_line.run("audit", "--output", "reports/tonight.txt")

    report = Path("reports/tonight.txt")
    assert (printed.status, printed.text, printed.errors) == (0, "", "")
    assert command_line.own.id in report.read_text()
    assert permission_bits(report) == 0o600
    assert permission_bits(report.parent) == 0o700


def test_a_report_that_others_may_read_stays_so(command_line: CommandLine) -> None:
    path = command_line.write("tonight.csv", "old", mode=0o640)

    command_line.run("audit", "--format", "csv", "--output", str(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert command_line.own.id in path.read_text()


def test_csv_has_the_columns_of_an_export_and_what_is_new(command_line: CommandLine) -> None:
    put_token(command_line, replace(command_line.own, expiration_time=utc_now() + 300 * DAY))
    first = [*csv.DictReader(io.StringIO(command_line.run("audit", "--format", "csv").text))]
    token = add_token(command_line, lives=5 * DAY)

    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(command_line.run("audit", "--format", "csv").text))}

    assert [row["since last audit"] for row in first] == ["nothing to compare with"]
    assert rows[f"id:{token.id}"] == {
        "cluster": f"127.0.0.1:{command_line.port}",
        "id": f"id:{token.id}",
        "user": "local:jane",
        "creator": "local:jane",
        "created (UTC)": f"{token.creation_time:%Y-%m-%d %H:%M:%S}",
        "expires (UTC)": f"{token.expiration_time:%Y-%m-%d %H:%M:%S}",
        "days left": "4",
        "state": "live",
        "findings": "expires soon",
        "since last audit": "new, now expires soon",
    }
    assert rows[f"id:{command_line.own.id}"]["since last audit"] == ""


def test_json_has_all_that_is_known_of_each_token(command_line: CommandLine) -> None:
    token = add_token(command_line, lives=5 * DAY)

    document = read_document(command_line, "--expiring-within", "1d,30d")

    [cluster] = document["clusters"]
    [entry] = [each for each in cluster["tokens"] if each["id"] == token.id]
    assert document["version"] == 1
    assert document["thresholds"] == {"expiring_within": ["30d", "1d"], "old_after": "365d", "stale_after": "30d"}
    assert (cluster["live"], cluster["users"], cluster["changes"]["since"]) == (2, 2, None)
    assert {key: entry[key] for key in ("user", "state", "is_enabled", "is_own", "findings", "new_findings")} == {
        "user": "local:jane",
        "state": "live",
        "is_enabled": True,
        "is_own": False,
        "findings": ["expires_soon"],
        "new_findings": ["expires_soon"],
    }
    [total] = [each for each in cluster["findings"] if each["name"] == "expires_soon"]
    assert (total["count"], total["new"]) == (1, 1)
    assert total["mend"] == f'rotate_access_token(id="{token.id}")'


def test_users_are_counted_where_users_are_what_is_found(command_line: CommandLine) -> None:
    for user in (JANE, ROBOT):
        for _ in range(2):
            add_token(command_line, user)

    [cluster] = read_document(command_line)["clusters"]

    [total] = [each for each in cluster["findings"] if each["name"] == "users_with_two_tokens"]
    assert (total["count"], total["new"]) == (2, 2)


def test_only_what_is_new_is_in_a_file_of_what_is_new(command_line: CommandLine) -> None:
    command_line.run("audit", "--since-last")
    token = add_token(command_line)

    document = read_document(command_line, "--since-last")

    [cluster] = document["clusters"]
    assert document["only_new"] is True
    assert [each["id"] for each in cluster["tokens"]] == [token.id]
    assert cluster["live"] == 2


def test_no_secret_is_in_any_report_even_if_a_cluster_repeats_one(command_line: CommandLine) -> None:
    command_line.cluster.add_account(Account("3000", "LOCAL", f"x {command_line.own.bearer_token}"))
    command_line.cluster.add_token("3000", creator="3000")

    for output_format in ("text", "json", "csv", "html"):
        # The command line looks for parts of the secret in all that is printed.
        assert command_line.run("audit", "--format", output_format).status in {0, 3}


@needs_root
def test_no_report_is_written_through_a_device_of_the_system(command_line: CommandLine) -> None:
    status = Path("/dev/null").stat()

    command_line.run_refused("audit", "--output", "/dev/null")

    assert Path("/dev/null").stat().st_ino == status.st_ino
