"""Test that the audit's description, answer and exported file agree with the one table of findings."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.harness import JANE, NOW, Harness, refusal_response
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.audit_users import UserCensus
from token_tools.operations.findings import FINDINGS

pytestmark = pytest.mark.anyio


async def test_the_description_of_the_audit_names_the_findings_that_it_should_and_no_other(harness: Harness) -> None:
    async with harness.connected() as client:
        described = {tool.name: tool.description or "" for tool in (await client.list_tools()).tools}

    match = re.search(r"Returns how many (.+); the worst few, ", described["audit_access_tokens"])
    assert match is not None
    assert {*re.split(r", or |, | or ", match[1])} == {
        finding.described_as for finding in FINDINGS if finding.described_as is not None
    }


def test_each_finding_has_a_name_and_words_of_its_own_that_a_cell_can_have_among_others() -> None:
    for texts in ([finding.name for finding in FINDINGS], [finding.words for finding in FINDINGS]):
        assert len({*texts}) == len(texts)
        assert all(re.fullmatch(r"\w[\w ,]+", text, re.ASCII) for text in texts)


async def test_the_file_and_the_answer_agree_about_users_whom_the_list_does_not_name(harness: Harness) -> None:
    """The cluster's list has no names, and has more users than an audit looks up."""
    harness.cluster.behaviour = replace(harness.cluster.behaviour, sparse_identities=True)
    for number in range(100):
        account = replace(JANE, auth_id=str(3000 + number), name=f"u{number}")
        harness.cluster.add_account(account)
        harness.cluster.add_token(account.auth_id, creator=account.auth_id, expiration_time=NOW + timedelta(days=99))
    harness.cluster.add_token("2999", creator="2999", expiration_time=NOW + timedelta(days=99))

    answer = await harness.call("export_access_tokens", {"format": "json"})

    rows = json.loads(Path(answer.fields["path"]).read_text())["tokens"]
    assert sum("user_has_no_name" in row["findings"] for row in rows) == 1
    assert "user_has_no_name: 1" in answer.fields["findings"]


async def test_a_user_whom_the_cluster_declines_to_look_up_has_no_name_and_may_exist(harness: Harness) -> None:
    harness.cluster.add_token("2999", creator="2999", expiration_time=NOW + timedelta(days=99))

    async def decline_lookups(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400) if request.url.path.endswith("/identity/find") else response

    harness.recorder.on_served = decline_lookups

    answer = await harness.call("audit_access_tokens")

    mends = {entry["finding"]: entry["mend"] for entry in answer.fields["findings"]}
    assert mends["user_has_no_name"] == "Whose they are is not known: a person finds out, and decides"


def test_the_first_users_at_the_limit_are_those_who_can_be_looked_up_in_order() -> None:
    census = UserCensus()
    for user in (Identity(name="jane"), Identity(auth_id="1002"), Identity(auth_id="1001")):
        for token_id in ("1", "2"):
            census.add(AccessToken(id=token_id, user=user, creation_time="2026-11-24T09:00:00Z"))

    assert census.at_limit[:2] == [1001, 1002]
    assert census.at_limit[2] > 1002
