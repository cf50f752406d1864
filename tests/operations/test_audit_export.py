"""Test the report of an audit: a private file that a spreadsheet can open."""

import csv
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.example_tokens import add_token_without_findings, remove_findings_of_own_token
from tests.support.harness import AUDIT_TOOL, JANE, NOW, TOKENS_PATH, Harness, refusal_response
from tests.support.permissions import permission_bits
from tests.support.scripted_cluster import page_response, render_entry
from token_tools.cluster.identity import Identity

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("file_format", ["csv", "json"])
async def test_the_whole_report_can_be_had_as_a_private_file(harness: Harness, file_format: str) -> None:
    remove_findings_of_own_token(harness)
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    crowded = [
        add_token_without_findings(harness, expiration_time=None),
        add_token_without_findings(harness, expiration_time=NOW - timedelta(days=1)),
    ]
    gone = add_token_without_findings(harness, replace(JANE, auth_id="1099"), enabled=False)

    answer = await harness.call(AUDIT_TOOL, {"report": file_format})

    path = Path(answer.fields["report"])
    assert f"All rows are in {path}" in answer.text
    assert [*harness.settings.delivery_dir.iterdir()] == [path]
    assert path.name.startswith("audit_c.example.com_8000_20261124T090000Z_")
    assert permission_bits(path) == 0o600
    if file_format == "csv":
        rows = [
            row | {"id": row["id"].removeprefix("id:"), "findings": row["findings"].split()} for row in read_csv(path)
        ]
    else:
        rows = json.loads(path.read_text())
    assert {row["id"]: row["findings"] for row in rows if row["findings"]} == {
        crowded[0].id: ["never_expires", "users_with_two_tokens"],
        crowded[1].id: ["expired", "users_with_two_tokens"],
        gone.id: ["user_has_no_name", "disabled_and_old"],
    }
    assert len(rows) == answer.fields["total"]
    assert set(rows[0]) == {"id", "user", "creator", "creation_time", "expiration_time", "enabled", "findings"}


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as stream:
        return [*csv.DictReader(stream)]


@pytest.mark.parametrize(
    "name",
    [
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
    ],
    ids=ascii,
)
async def test_a_name_is_no_formula_in_the_report_wherever_a_cell_begins(harness: Harness, name: str) -> None:
    user = Identity(domain="LOCAL", name=name)
    entry = render_entry(add_token_without_findings(harness)) | {
        "user": user.known_fields(),
        "creator": user.known_fields(),
    }

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    reply = await harness.call(AUDIT_TOOL, {"report": "csv"})

    path = Path(reply.fields["report"])
    assert not re.search(r"(?:^|\W)[-=+@\uff1d\uff20\u2212]", path.read_text())
    [row] = read_csv(path)
    assert [Identity.parse(row["user"]), Identity.parse(row["creator"])] == [user, user]


@pytest.mark.parametrize(
    "user",
    [
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
    ],
    ids=str,
)
async def test_a_spreadsheet_can_take_no_id_and_no_user_for_a_number_or_a_date(
    harness: Harness, user: dict[str, str | int]
) -> None:
    entry = render_entry(add_token_without_findings(harness)) | {"user": user, "creator": user}

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return page_response([entry], None) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = answer

    reply = await harness.call(AUDIT_TOOL, {"report": "csv"})

    [row] = read_csv(Path(reply.fields["report"]))
    assert row["id"] == f"id:{entry['id']}"
    for name in ("user", "creator"):
        assert re.match(r'[a-z_]+:|"', row[name])
        assert Identity.parse(row[name]) == Identity.from_json(user)


async def test_a_report_that_has_no_place_is_refused_before_anything_is_read(harness: Harness) -> None:
    harness.settings.delivery_dir.parent.mkdir(parents=True)
    harness.settings.delivery_dir.write_text("a file where the folder should be")

    refusal = await harness.call_refused(AUDIT_TOOL, {"report": "csv"})

    assert refusal.startswith(f"The report cannot be written to {harness.settings.delivery_dir}: ")
    assert not [line for line in harness.recorder.request_lines() if line.startswith(f"GET {TOKENS_PATH}")]


async def test_an_audit_that_fails_leaves_no_report(harness: Harness) -> None:
    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if request.url.path == TOKENS_PATH else response

    harness.recorder.on_served = fail

    await harness.call_refused(AUDIT_TOOL, {"report": "json"})

    assert [*harness.settings.delivery_dir.iterdir()] == []
