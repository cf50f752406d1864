"""Test that an audit without a cluster is one of all clusters, and is never told as whole if it is not."""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.support.example_tokens import remove_findings_of_own_token
from tests.support.fleet import NAMES, FleetHarness, create_fleet
from tests.support.harness import (
    AGREES,
    AUDIT_TOOL,
    JANE,
    NOW,
    TOKENS_PATH,
    WHO_AM_I_PATH,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
    refusal_response,
)
from tests.support.remedies import follow_remedies
from tests.support.waiting import wait_until
from token_tools.sandbox.cluster import Account, Behaviour
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.views.fleet_audit import NOT_AUDITED, NOT_WHOLE

pytestmark = pytest.mark.anyio

MAX_BYTES = 4_000


@pytest.fixture
def fleet(mode: Mode, tmp_path: Path) -> FleetHarness:
    """Create three clusters."""
    return create_fleet(mode, tmp_path)


def find(answer: ToolAnswer, name: str) -> dict[str, Any]:
    """Return a finding by its name."""
    [found] = [finding for finding in answer.fields["findings"] if finding["finding"] == name]
    return dict(found)


def refuse_lists(fleet: FleetHarness, name: str, status: int = 403) -> None:
    """Let a cluster refuse to list its tokens."""

    async def refuse(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(status) if request.url.path == TOKENS_PATH else response

    fleet.clusters[name].recorder.on_served = refuse


async def test_all_clusters_are_told_side_by_side_with_the_sum_of_each_finding(fleet: FleetHarness) -> None:
    for age, name in enumerate(NAMES, 1):
        cluster = fleet.clusters[name].cluster
        cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=age))

    answer = await fleet.call(AUDIT_TOOL)

    tokens = {name: fleet.clusters[name].tokens_of(JANE)[0].id for name in NAMES}
    assert (answer.fields["total"], answer.fields["users"], answer.fields["live"]) == (6, 6, 6)
    assert [line.partition(":")[0] for line in answer.fields["clusters"]] == [
        f"2 access tokens of 2 users on {name} ({name}.example.com" for name in NAMES
    ]
    soon = find(answer, "expires_soon")
    assert (soon["count"], soon["clusters"]) == (3, "production 1, replica 1, lab 1")
    assert soon["mend"] == f'rotate_access_token(cluster="production", id="{tokens["production"]}")'
    assert [line.split()[:2] for line in soon["worst"]] == [[name, tokens[name]] for name in NAMES]
    assert all(line in answer.text for line in (*answer.fields["clusters"], *soon["worst"]))


async def test_an_audit_of_one_of_several_clusters_asks_no_other(fleet: FleetHarness) -> None:
    answer = await fleet.call(AUDIT_TOOL, {"cluster": "lab"})

    assert answer.fields["summary"].startswith("1 access token on 1 cluster. ")
    assert [name for name in NAMES if fleet.clusters[name].recorder.requests] == ["lab"]


async def test_a_cluster_that_cannot_be_read_is_the_first_finding_and_the_others_are_audited(
    fleet: FleetHarness,
) -> None:
    refuse_lists(fleet, "replica")

    answer = await fleet.call(AUDIT_TOOL)

    first = answer.fields["findings"][0]
    assert (first["finding"], first["count"], first["clusters"]) == (NOT_AUDITED, 1, "replica")
    assert "PRIVILEGE_ACCESS_TOKENS_READ" in first["mend"]
    assert answer.fields["summary"].startswith("2 access tokens on 2 of 3 clusters, without replica. ")
    assert answer.text.splitlines()[1].startswith(f"{NOT_AUDITED}: 1 (replica). ")


async def test_nothing_found_is_not_said_of_a_cluster_that_could_not_be_read(fleet: FleetHarness) -> None:
    for name in NAMES:
        remove_findings_of_own_token(fleet.clusters[name])
    whole = await fleet.call(AUDIT_TOOL)
    refuse_lists(fleet, "lab")

    partial = await fleet.call(AUDIT_TOOL)

    assert "Nothing found." in whole.text.splitlines()
    assert "Nothing found among what was listed." in partial.text.splitlines()


@pytest.mark.parametrize(
    ("path", "changes", "reason"),
    [
        (WHO_AM_I_PATH, {"privileges": []}, "lacks PRIVILEGE_ACCESS_TOKENS_READ"),
        (TOKENS_PATH, {"entries": []}, "The list is not whole: it lacks the access token"),
    ],
)
async def test_a_list_that_may_lack_tokens_is_the_first_finding_and_never_told_as_whole(
    fleet: FleetHarness, path: str, changes: dict[str, object], reason: str
) -> None:
    async def change(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=response.json() | changes) if request.url.path == path else response

    for name in NAMES:
        remove_findings_of_own_token(fleet.clusters[name])
    fleet.clusters["replica"].recorder.on_served = change

    answer = await fleet.call(AUDIT_TOOL)

    first = answer.fields["findings"][0]
    assert (first["finding"], first["count"], first["clusters"]) == (NOT_WHOLE, 1, "replica")
    assert reason in first["mend"]
    assert " on 3 clusters, maybe not all of replica. " in answer.fields["summary"]
    assert answer.text.splitlines()[1].startswith(f"{NOT_WHOLE}: 1 (replica). ")
    assert "Nothing found among what was listed." in answer.text.splitlines()


async def test_why_a_cluster_could_not_be_read_is_told_in_full_where_there_is_room(fleet: FleetHarness) -> None:
    refuse_lists(fleet, "replica")

    [failed] = [line for line in (await fleet.call(AUDIT_TOOL)).text.splitlines() if line.startswith(NOT_AUDITED)]

    of_one = await fleet.call(AUDIT_TOOL, {"cluster": "replica"})
    assert of_one.is_error
    assert failed.removeprefix(f"{NOT_AUDITED}: 1 (replica). ") in of_one.text
    assert failed.endswith("user `self`.")


async def test_if_no_cluster_can_be_read_that_is_an_error_which_names_each(fleet: FleetHarness) -> None:
    for name, status in zip(NAMES, (403, 400, 409), strict=True):
        refuse_lists(fleet, name, status)

    answer = await fleet.call(AUDIT_TOOL)

    assert answer.is_error
    assert all(f"{name}: " in answer.text for name in NAMES)


async def test_if_all_clusters_fail_alike_that_is_said_once(fleet: FleetHarness) -> None:
    answer = await fleet.call("list_token_changes", {"since": "tomorrow"})

    assert answer.is_error
    assert answer.text.count("since") == 1


async def test_what_changed_is_told_of_each_cluster_by_itself(fleet: FleetHarness) -> None:
    await fleet.call(AUDIT_TOOL, {"cluster": "production"})
    new = fleet.clusters["production"].cluster.add_token(JANE.auth_id, creator="500")

    answer = await fleet.call(AUDIT_TOOL)

    production, changed, replica, _ = answer.fields["clusters"]
    assert ": 1 new." in production
    assert changed.startswith(f"production: new: {new.id} local:jane")
    assert "Nothing to compare with" in replica


async def test_what_changed_is_told_by_the_next_audit_if_one_is_given_up(fleet: FleetHarness) -> None:
    await fleet.call(AUDIT_TOOL)
    new = fleet.clusters["production"].cluster.add_token(JANE.auth_id, creator="500")
    is_asked, may_answer = anyio.Event(), anyio.Event()

    async def wait(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == TOKENS_PATH:
            is_asked.set()
            await may_answer.wait()
        return response

    fleet.clusters["lab"].recorder.on_served = wait
    async with fleet.connected() as client:
        seen: list[float] = []

        async def report(progress: float, total: float | None, message: str | None) -> None:
            assert (total, message) == (None, f"{progress:,.0f} tokens read")
            seen.append(progress)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.call_tool, AUDIT_TOOL, {}, progress_callback=report))
            await is_asked.wait()
            await wait_until(lambda: 3 in seen)
            # Meanwhile, what was seen of production would have been kept.
            await client.call_tool("list_token_changes", {"cluster": "production"})
            tasks.cancel_scope.cancel()
        may_answer.set()
        answer = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}))

    assert any(line.startswith(f"production: new: {new.id}") for line in answer.fields["clusters"])


async def test_calls_that_mend_are_for_clusters_that_this_server_may_change(fleet: FleetHarness) -> None:
    for name in ("production", "lab"):
        fleet.clusters[name].cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW - timedelta(days=9))
    fleet.change_settings("production", read_only=True)

    both = await fleet.call(AUDIT_TOOL)
    of_one = await fleet.call(AUDIT_TOOL, {"cluster": "production"})

    assert find(both, "expired")["mend"].startswith('delete_access_token(cluster="lab", ')
    assert find(of_one, "expired")["mend"] == "This server changes nothing there: a person mends it"
    assert "production: You may only read here" in both.fields["note"]
    assert both.fields["note"] in both.text


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(("count", "name_chars"), [(2, 9), (5, 9), (5, 40), (12, 9), (12, 40)])
async def test_the_answer_stays_small_whatever_the_clusters_hold(
    mode: Mode, tmp_path: Path, count: int, name_chars: int, *, read_only: bool
) -> None:
    names = [f"cluster-{chr(ord('a') + number):x<{name_chars - 8}}" for number in range(count)]
    fleet = FleetHarness({name: create_harness(mode, tmp_path) for name in names}, mode)
    for number, (name, harness) in enumerate(fleet.clusters.items()):
        fleet.change_settings(name, host=f"{name}.storage.example.com", read_only=read_only)
        for user in range(40):
            account = Account(auth_id=str(1 << 63 | user), domain="LOCAL", name="\N{PILE OF POO}" * 90 + str(user))
            harness.cluster.add_account(account)
            for age in (500 + user, 600 + number):
                expires = None if user % 3 else NOW + timedelta(days=user - 20)
                harness.cluster.add_token(
                    account.auth_id,
                    creator="500",
                    creation_time=NOW - timedelta(days=age),
                    expiration_time=expires,
                    enabled=user % 4 != 1,
                )

    answer = await fleet.call(AUDIT_TOOL)

    assert len(answer.text.encode()) < MAX_BYTES
    assert len(json.dumps(answer.fields)) < MAX_BYTES
    assert answer.fields["total"] == sum(len(harness.cluster.tokens) for harness in fleet.clusters.values())
    assert all(any(name in line for line in answer.fields["clusters"]) for name in names)


async def test_an_answer_without_room_tells_how_much_changed_and_where_there_is_more(
    mode: Mode, tmp_path: Path
) -> None:
    names = [f"cluster-{number:032}" for number in range(12)]
    fleet = FleetHarness({name: create_harness(mode, tmp_path) for name in names}, mode)
    for name in names:
        fleet.change_settings(name, host=f"{name}.example.com")
    for name in names[:11]:
        await fleet.call(AUDIT_TOOL, {"cluster": name})
    for name in names:
        for age in range(10):
            fleet.clusters[name].cluster.add_token(JANE.auth_id, creator="500", creation_time=NOW - timedelta(days=age))

    answer = await fleet.call(AUDIT_TOOL)

    *_, changed, first = answer.fields["clusters"]
    assert changed == f"{names[10]}: 11 tokens, 11 live; 10 changes"
    assert first == f"{names[11]}: 11 tokens, 11 live; changes not known"
    assert "other clusters" in find(answer, "never_expires")["clusters"]
    assert answer.fields["not_known"].endswith("audit_access_tokens(cluster=…) tells more of one of them.")


async def test_clusters_are_asked_at_the_same_time(fleet: FleetHarness) -> None:
    """Each cluster answers its list only once all of them were asked for theirs."""
    asked, all_asked = set[str](), anyio.Event()

    def wait_for_all(name: str) -> None:
        async def wait(request: httpx.Request, response: httpx.Response) -> httpx.Response:
            if request.url.path == TOKENS_PATH:
                asked.add(name)
                if len(asked) == len(NAMES):
                    all_asked.set()
                await all_asked.wait()
            return response

        fleet.clusters[name].recorder.on_served = wait

    for name in NAMES:
        wait_for_all(name)

    answer = await fleet.call(AUDIT_TOOL)

    assert not answer.is_error
    assert asked == {*NAMES}


async def test_progress_is_that_of_all_clusters_together(fleet: FleetHarness) -> None:
    seen: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (None, f"{progress:,.0f} tokens read")
        seen.append(progress)

    async with fleet.connected() as client:
        await client.call_tool(AUDIT_TOOL, {}, progress_callback=report)
        await wait_until(lambda: len(seen) == len(NAMES))

    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("unreachable", "read_only"), [(None, False), ("lab", False), (None, True)])
async def test_following_all_remedies_on_a_fleet_ends_and_stops_no_token_that_works(
    tmp_path: Path, unreachable: str | None, *, read_only: bool
) -> None:
    fleet = create_fleet("auto", tmp_path)
    behaviours = (Behaviour(), Behaviour(sparse_identities=True), Behaviour(counts_dead_tokens=False))
    for name, behaviour in zip(NAMES, behaviours, strict=True):
        fleet.replace_cluster(name, create_demo_cluster(lambda: NOW, behaviour))
    if unreachable is not None:
        refuse_lists(fleet, unreachable)
    fleet.change_settings("production", read_only=read_only)
    before = {name: find_working_tokens(fleet, name) for name in NAMES}

    async with fleet.connected(person=ScriptedPerson([AGREES]), timeout_seconds=120) as client:
        made = await follow_remedies(client, max_calls=300)

    assert made
    for name in NAMES:
        after = find_working_tokens(fleet, name)
        assert {token_id: after.get(token_id) for token_id in before[name]} == before[name]


def find_working_tokens(fleet: FleetHarness, name: str) -> dict[str, object]:
    """Return the tokens of a cluster that authenticate a user, by id."""
    cluster = fleet.clusters[name].cluster
    return {token.id: token for token in cluster.tokens.values() if cluster.authenticate(token.bearer_token)}
