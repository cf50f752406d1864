"""Test the exported file of all tokens: private, whole, and such that a spreadsheet changes nothing in it."""

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest

from tests.support.example_tokens import add_token_without_findings, remove_findings_of_own_token
from tests.support.harness import (
    EXPORT_TOOL,
    JANE,
    LDAP_BOB,
    NOW,
    TOKENS_PATH,
    Harness,
    refusal_response,
)
from tests.support.permissions import permission_bits
from tests.support.scripted_cluster import page_response, render_entry
from token_tools.cluster.identity import Identity
from token_tools.cluster.pagination import PAGE_SIZE
from token_tools.operations.drift import NOTHING_TO_COMPARE
from token_tools.operations.export_file import COLUMNS
from token_tools.sandbox.cluster import Token

pytestmark = pytest.mark.anyio

OFFICE: Final = shutil.which("soffice")
OFFICE_TIMEOUT_SECONDS: Final = 120
FORMULA_NAMES: Final = [
    "=1+1",
    "@sum",
    "-2",
    "+x",
    "a;=cmd|'/C calc'!A0;b",
    "a\t=1",
    'a"=1',
    "x,=1",
    "x.-1",
    "svc--old",
    "CORP\\-x",
    "==1",
    "\uff1d1",
    "\uff20x",
    "x \u22121",
    "jane@corp.example.com",
    "a-b=c+d",
]
GUESSED_USERS: Final[list[dict[str, str | int]]] = [
    {"auth_id": "18446744073709551615"},
    {"uid": 1001},
    {"name": "184467440737095516150000"},
    {"name": "1e5"},
    {"name": "1-2"},
    {"name": "12.5"},
    {"name": "sept2"},
    {"name": "0x1F"},
    {"name": "TRUE"},
    {"name": "$5"},
    {"name": "CORP\\1"},
    {"name": "1e5", "domain": "LOCAL"},
]
"""Users whose names or numbers a spreadsheet would take for a number, a date or a truth value."""


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return [*csv.DictReader(stream)]


def list_entries(harness: Harness, entries: Sequence[dict[str, Any]]) -> None:
    """Let the cluster list these entries."""

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response(entries, None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer


@pytest.fixture
def found(harness: Harness) -> dict[str, list[str]]:
    """Add tokens with findings, on a cluster that lists users by number only, and return the findings by id."""
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    crowded = [
        add_token_without_findings(harness, expiration_time=None),
        add_token_without_findings(harness, expiration_time=NOW - timedelta(days=1)),
    ]
    gone = add_token_without_findings(harness, replace(JANE, auth_id="1099"), enabled=False)
    return {
        crowded[0].id: ["never_expires", "users_with_two_tokens"],
        crowded[1].id: ["expired", "users_with_two_tokens"],
        gone.id: ["user_has_no_name", "disabled_and_old"],
    }


@pytest.mark.parametrize("file_format", ["csv", "json"])
async def test_the_answer_tells_the_place_of_a_private_file_and_what_is_in_it(
    harness: Harness, found: dict[str, list[str]], file_format: str
) -> None:
    answer = await harness.call(EXPORT_TOOL, {"format": file_format})

    path = Path(answer.fields["path"])
    assert [*harness.settings.report_dir.iterdir()] == [path]
    assert re.fullmatch(rf"access_tokens_c\.example\.com_8000_20261124T090000Z_[0-9a-f]{{4}}\.{file_format}", path.name)
    assert permission_bits(path) == 0o600
    assert permission_bits(path.parent) == 0o700
    assert not harness.settings.delivery_dir.exists()
    assert answer.fields == {
        "summary": (
            "4 access tokens of 3 users on c.example.com:8000: 2 live, 1 disabled, 1 expired. "
            "It is 2026-11-24 09:00 UTC. Soon is within 30 days."
        ),
        "path": str(path),
        "rows": 4,
        "findings": [
            "never_expires: 1",
            "user_has_no_name: 1",
            "expired: 1",
            "disabled_and_old: 1",
            "users_with_two_tokens: 1",
        ],
        "not_known": answer.fields["not_known"],
    }
    assert answer.text.splitlines() == [
        f"4 rows, one for each token, in {path}",
        answer.fields["summary"],
        *answer.fields["findings"],
        answer.fields["not_known"],
    ]
    assert not any(token_id in answer.text for token_id in found)


async def test_json_tells_exact_values_and_names_and_by_what_tokens_were_judged(
    harness: Harness, found: dict[str, list[str]]
) -> None:
    precise = add_token_without_findings(harness, LDAP_BOB, creation_time=NOW - timedelta(days=3, microseconds=1))

    answer = await harness.call(EXPORT_TOOL, {"format": "json"})

    file = json.loads(Path(answer.fields["path"]).read_text())
    rows = {row["id"]: row for row in file.pop("tokens")}
    assert file == {
        "version": 1,
        "time": "2026-11-24T09:00:00Z",
        "clusters": ["c.example.com:8000"],
        "thresholds": {"expiring_within": "30d", "old_after": "365d", "stale_after": "30d"},
        "not_known": [],
    }
    assert {token_id: row["findings"] for token_id, row in rows.items() if row["findings"]} == found
    assert rows[precise.id] == {
        "cluster": "c.example.com:8000",
        "id": precise.id,
        "user": f"auth_id:{LDAP_BOB.auth_id}",
        "creator": f"auth_id:{LDAP_BOB.auth_id}",
        "creation_time": "2026-11-21T08:59:59.999999Z",
        "expiration_time": "2027-01-13T09:00:00Z",
        "enabled": True,
        "state": "live",
        "findings": [],
        "since_last_audit": NOTHING_TO_COMPARE,
    }


async def test_csv_has_a_row_for_each_token_as_a_person_reads_it(harness: Harness) -> None:
    remove_findings_of_own_token(harness)
    jane = add_token_without_findings(harness, expiration_time=NOW + timedelta(days=2, hours=23))
    bob = add_token_without_findings(
        harness, LDAP_BOB, creation_time=NOW - timedelta(days=400), expiration_time=None, creator="500"
    )

    answer = await harness.call(EXPORT_TOOL)

    path = Path(answer.fields["path"])
    rows = {row["id"]: row for row in read_csv(path)}
    assert path.read_bytes().startswith(b"\xef\xbb\xbfcluster,id,user,")
    assert all((*row,) == COLUMNS for row in rows.values())
    assert rows[f"id:{jane.id}"] == {
        "cluster": "c.example.com:8000",
        "id": f"id:{jane.id}",
        "user": "local:jane",
        "creator": "local:jane",
        "created (UTC)": "2026-10-15 09:00:00",
        "expires (UTC)": "2026-11-27 08:00:00",
        "days left": "2",
        "state": "live",
        "findings": "expires soon",
        "since last audit": NOTHING_TO_COMPARE,
    }
    assert rows[f"id:{bob.id}"] == {
        "cluster": "c.example.com:8000",
        "id": f"id:{bob.id}",
        "user": "ldap_user:bob",
        "creator": "local:admin",
        "created (UTC)": "2025-10-20 09:00:00",
        "expires (UTC)": "never",
        "days left": "",
        "state": "live",
        "findings": "never expires; made by somebody other than its user; older than a year",
        "since last audit": NOTHING_TO_COMPARE,
    }


@pytest.mark.parametrize(
    ("special", "state", "days_left"),
    [
        ({"expiration_time": NOW + timedelta(seconds=1)}, "live", "0"),
        ({"expiration_time": NOW + timedelta(days=1)}, "live", "1"),
        ({"expiration_time": NOW + timedelta(days=9), "enabled": False}, "disabled", "9"),
        ({"expiration_time": NOW}, "expired", ""),
        ({"expiration_time": NOW - timedelta(days=9), "enabled": False}, "expired", ""),
        ({"expiration_time": None, "enabled": False}, "disabled", ""),
    ],
)
async def test_the_days_left_are_whole_and_empty_where_there_are_none_to_count(
    harness: Harness, special: dict[str, Any], state: str, days_left: str
) -> None:
    token = add_token_without_findings(harness, JANE, **special)

    answer = await harness.call(EXPORT_TOOL)

    [row] = [row for row in read_csv(Path(answer.fields["path"])) if row["id"] == f"id:{token.id}"]
    assert (row["state"], row["days left"]) == (state, days_left)


@pytest.mark.parametrize("name", FORMULA_NAMES, ids=ascii)
async def test_a_name_is_no_formula_in_the_file_wherever_a_cell_begins(harness: Harness, name: str) -> None:
    user = Identity(domain="LOCAL", name=name)
    named = {"user": user.known_fields(), "creator": user.known_fields()}
    list_entries(harness, [render_entry(add_token_without_findings(harness)) | named])

    answer = await harness.call(EXPORT_TOOL)

    path = Path(answer.fields["path"])
    assert not re.search(r"(?:^|\W)[-=+@\uff1d\uff20\u2212]", path.read_text())
    [row] = read_csv(path)
    assert [Identity.parse(row["user"]), Identity.parse(row["creator"])] == [user, user]


@pytest.mark.parametrize("user", GUESSED_USERS, ids=str)
async def test_a_spreadsheet_can_take_no_id_and_no_user_for_a_number_or_a_date(
    harness: Harness, user: dict[str, str | int]
) -> None:
    entry = render_entry(add_token_without_findings(harness)) | {"user": user, "creator": user}
    list_entries(harness, [entry])

    answer = await harness.call(EXPORT_TOOL)

    [row] = read_csv(Path(answer.fields["path"]))
    assert row["id"] == f"id:{entry['id']}"
    for name in ("user", "creator"):
        assert re.match(r'[a-z_]+:|"', row[name])
        assert Identity.parse(row[name]) == Identity.from_json(user)


async def test_what_the_cluster_does_not_tell_of_a_creator_is_empty(harness: Harness) -> None:
    list_entries(harness, [render_entry(add_token_without_findings(harness)) | {"creator": None}])

    table = await harness.call(EXPORT_TOOL)
    tree = await harness.call(EXPORT_TOOL, {"format": "json"})

    [row] = read_csv(Path(table.fields["path"]))
    [entry] = json.loads(Path(tree.fields["path"]).read_text())["tokens"]
    assert (row["creator"], entry["creator"]) == ("", None)


@pytest.mark.slow
@pytest.mark.skipif(OFFICE is None, reason="needs LibreOffice, whose half gigabyte the gate does not install")
async def test_libreoffice_opens_the_file_with_every_id_and_every_name_intact(harness: Harness, tmp_path: Path) -> None:
    """It is told to look for numbers and dates, as a person may tell it to, and to write what it has understood."""
    names = [*FORMULA_NAMES, "Zoë", "用户", "0123", "3/4"]
    users = [*({"domain": "LOCAL", "name": name} for name in names), *GUESSED_USERS]
    token = add_token_without_findings(harness)
    ids = [str(10**digits // 7) for digits in range(22, 31)]
    entries = [
        render_entry(replace(token, id=f"{ids[number % len(ids)]}{number:02}")) | {"user": user, "creator": user}
        for number, user in enumerate(users)
    ]
    list_entries(harness, entries)
    path = Path((await harness.call(EXPORT_TOOL)).fields["path"])

    opened = await anyio.to_thread.run_sync(open_in_libreoffice, path, tmp_path)

    assert opened == read_csv(path)
    assert [row["id"] for row in opened] == [f"id:{entry['id']}" for entry in entries]


def open_in_libreoffice(path: Path, folder: Path) -> list[dict[str, str]]:
    """Return the rows as LibreOffice shows them after it has opened a file."""
    assert OFFICE is not None
    subprocess.run(
        [
            OFFICE,
            f"-env:UserInstallation={(folder / 'profile').as_uri()}",
            "--headless",
            "--infilter=CSV:44,34,76,1,,1033,false,true",
            "--convert-to",
            "csv:Text - txt - csv (StarCalc):44,34,76,1,,1033,false,true",
            "--outdir",
            str(folder / "opened"),
            str(path),
        ],
        check=True,
        capture_output=True,
        timeout=OFFICE_TIMEOUT_SECONDS,
        env={**os.environ, "HOME": str(folder)},
    )
    opened = folder / "opened" / path.name
    if not opened.exists():
        pytest.skip("this LibreOffice came without Calc, its spreadsheet, and converts nothing")
    return read_csv(opened)


async def test_pages_of_tokens_are_each_written_once_and_with_progress(harness: Harness) -> None:
    for number in range(2 * PAGE_SIZE):
        harness.cluster.add_token(str(2000 + number), creator="500")
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with harness.connected() as client:
        result = await client.call_tool(EXPORT_TOOL, {"format": "json"}, progress_callback=hear)

    assert result.structured_content is not None
    rows = json.loads(Path(result.structured_content["path"]).read_text())["tokens"]
    assert sorted(row["id"] for row in rows) == sorted(harness.cluster.tokens)
    assert heard == [PAGE_SIZE, 2 * PAGE_SIZE, 2 * PAGE_SIZE + 1]


async def test_each_call_writes_another_file(harness: Harness) -> None:
    paths = [(await harness.call(EXPORT_TOOL)).fields["path"] for _ in range(2)]

    assert {str(path) for path in harness.settings.report_dir.iterdir()} == {*paths}
    assert len({*paths}) == 2


async def test_a_file_that_has_no_place_is_refused_before_anything_is_read(harness: Harness) -> None:
    harness.settings.report_dir.parent.mkdir(parents=True)
    harness.settings.report_dir.write_text("a file where the folder should be")

    refusal = await harness.call_refused(EXPORT_TOOL)

    assert refusal.startswith(f"The file cannot be written to {harness.settings.report_dir}: ")
    assert "The operator names the folder by QUMULO_REPORT_DIR, or without it by QUMULO_STATE_DIR.\n" in refusal
    assert harness.recorder.request_lines() == []


@pytest.mark.parametrize("file_format", ["csv", "json"])
async def test_an_export_that_fails_leaves_no_file(harness: Harness, file_format: str) -> None:
    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = fail

    await harness.call_refused(EXPORT_TOOL, {"format": file_format})

    assert [*harness.settings.report_dir.iterdir()] == []


async def test_a_server_that_only_reads_exports_to_the_folder_that_the_operator_has_named(
    harness: Harness, tmp_path: Path
) -> None:
    answer = await harness.call(EXPORT_TOOL, read_only=True, report_dir=tmp_path / "named")

    assert Path(answer.fields["path"]).parent == tmp_path / "named"


async def test_what_is_not_known_is_told_in_the_answer_and_in_the_file(harness: Harness, found: object) -> None:
    other: Token = add_token_without_findings(harness)
    list_entries(harness, [render_entry(other)])

    answer = await harness.call(EXPORT_TOOL, {"format": "json"})

    file = json.loads(Path(answer.fields["path"]).read_text())
    assert file["not_known"] == ["The list is not whole: it lacks the access token that this server itself runs on."]
    assert file["not_known"][0] in answer.fields["not_known"]
