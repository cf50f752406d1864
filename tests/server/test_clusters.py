"""Test how a server with several clusters finds out which one a call is about, and names it in all that it says."""

import json
import ssl
from collections.abc import Sequence
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, Tool

from tests.support.fleet import NAMES, FleetHarness, create_fleet
from tests.support.harness import (
    AGREES,
    JANE,
    NOTHING_DONE,
    NOW,
    TIMEOUT_SECONDS,
    WRITE_TOOLS,
    Harness,
    Mode,
    ScriptedPerson,
    ToolAnswer,
    create_harness,
)
from tests.support.questions import call_until_question, call_with_answers
from token_tools.configuration import Profile
from token_tools.server.app import create_server

pytestmark = pytest.mark.anyio

FOR_ALL = {"audit_access_tokens", "list_token_changes"}
MAX_MORE_BYTES = 200


@pytest.fixture
def fleet(mode: Mode, tmp_path: Path) -> FleetHarness:
    """Create three clusters."""
    return create_fleet(mode, tmp_path)


async def test_each_tool_takes_a_cluster_that_only_the_audit_and_the_record_may_leave_out(fleet: FleetHarness) -> None:
    async with fleet.connected() as client:
        tools = (await client.list_tools()).tools

    for tool in tools:
        choice = tool.input_schema["properties"]["cluster"]
        assert (choice["type"], choice["enum"]) == ("string", [*NAMES])
        assert ("cluster" in tool.input_schema.get("required", [])) is (tool.name not in FOR_ALL), tool.name


async def test_several_clusters_cost_few_bytes_more(mode: Mode, tmp_path: Path) -> None:
    five = FleetHarness({f"cluster-{number}": create_harness(mode, tmp_path) for number in range(5)}, mode)
    for name in five.clusters:
        five.change_settings(name, host=name)

    async with five.connected() as client:
        after = count_definition_bytes((await client.list_tools()).tools)
    async with five.clusters["cluster-0"].connected() as client:
        before = count_definition_bytes((await client.list_tools()).tools)

    assert before.keys() == after.keys()
    assert [name for name in before if after[name] - before[name] > MAX_MORE_BYTES] == []


def count_definition_bytes(tools: Sequence[Tool]) -> dict[str, int]:
    """Return how many bytes a model sees of each tool: its name, its description and the schema of its arguments."""
    return {
        tool.name: len(json.dumps([tool.name, tool.description, tool.input_schema], separators=(",", ":")).encode())
        for tool in tools
    }


async def test_the_instructions_list_the_clusters_a_line_each(fleet: FleetHarness) -> None:
    fleet.descriptions = {"lab": "Nothing of value"}
    fleet.change_settings("replica", read_only=True)

    async with fleet.connected() as client:
        instructions = client.instructions or ""

    assert instructions.splitlines()[1:] == [
        "production (production.example.com:8000)",
        "replica (replica.example.com:8000), only read",
        "lab (lab.example.com:8000): Nothing of value",
    ]


@pytest.mark.parametrize("spelling", ["lab", " Lab ", "LAB"])
async def test_a_call_reaches_the_cluster_that_it_names_and_no_other(fleet: FleetHarness, spelling: str) -> None:
    answer = await fleet.call("list_access_tokens", {"cluster": spelling})

    assert "on lab (lab.example.com:8000)" in answer.text
    assert [name for name in NAMES if fleet.clusters[name].recorder.requests] == ["lab"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "`cluster` is missing. It is one of: "),
        ({"cluster": ""}, "`cluster` is missing. It is one of: "),
        ({"cluster": "prod"}, '`cluster` must be the name of a cluster, and there is none "prod". It is one of: '),
        ({"cluster": ["lab"]}, "`cluster` must be the name of a cluster, and there is none. It is one of: "),
    ],
)
@pytest.mark.parametrize("tool", ["list_access_tokens", "create_access_token"])
async def test_a_wrong_cluster_is_answered_with_those_that_there_are(
    fleet: FleetHarness, tool: str, given: dict[str, object], expected: str
) -> None:
    fleet.descriptions = {"lab": "Nothing of value"}

    answer = await fleet.call(tool, {"user": "local:jane", **given})

    assert answer.is_error
    assert answer.text == (
        f"{NOTHING_DONE if tool in WRITE_TOOLS else ''}{expected}production (production.example.com:8000); "
        "replica (replica.example.com:8000); lab (lab.example.com:8000): Nothing of value."
    )
    assert not any(fleet.clusters[name].recorder.requests for name in NAMES)


async def test_a_cluster_that_may_only_be_read_is_not_offered_to_tools_that_write(fleet: FleetHarness) -> None:
    fleet.change_settings("production", read_only=True)

    async with fleet.connected() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        answer = ToolAnswer.from_result(
            await client.call_tool("create_access_token", {"cluster": "production", "user": "local:jane"})
        )

    assert tools["create_access_token"].input_schema["properties"]["cluster"]["enum"] == ["replica", "lab"]
    assert tools["list_access_tokens"].input_schema["properties"]["cluster"]["enum"] == [*NAMES]
    assert answer.text.startswith(f"{NOTHING_DONE}This server may only read production.")
    assert not fleet.clusters["production"].recorder.requests


async def test_a_question_its_answer_and_a_refusal_name_the_cluster(fleet: FleetHarness) -> None:
    person = ScriptedPerson([AGREES])
    token = fleet.clusters["lab"].cluster.add_token(JANE.auth_id, creator="500")

    disabled = await fleet.call(
        "update_access_token", {"cluster": "lab", "id": token.id, "enabled": False}, person=person
    )
    refused = await fleet.call("delete_access_token", {"cluster": "replica", "id": token.id}, person=person)

    assert "on the cluster lab (lab.example.com:8000)?" in person.questions[0]
    assert "on lab (lab.example.com:8000)" in disabled.text
    assert f'update_access_token(cluster="lab", id="{token.id}", enabled=true) undoes this' in disabled.text
    assert refused.text.startswith(f"{NOTHING_DONE}On replica (replica.example.com:8000): There is no access token")


async def test_a_yes_for_one_cluster_does_nothing_on_another(fleet: FleetHarness) -> None:
    tokens = {name: fleet.clusters[name].cluster.add_token(JANE.auth_id, creator="500") for name in NAMES}
    person = ScriptedPerson([AGREES])

    await fleet.call("delete_access_token", {"cluster": "lab", "id": tokens["lab"].id}, person=person)

    assert tokens["lab"].id not in fleet.clusters["lab"].cluster.tokens
    assert all(tokens[name].id in fleet.clusters[name].cluster.tokens for name in ("production", "replica"))


async def test_the_record_of_all_clusters_is_told_together_and_names_each(fleet: FleetHarness) -> None:
    for name in ("lab", "production"):
        fleet.change_settings(name, confirm="none")
        await fleet.call("create_access_token", {"cluster": name, "user": "local:jane"})

    everything = await fleet.call("list_token_changes")
    of_one = await fleet.call("list_token_changes", {"cluster": "lab"})

    assert {line.partition(":")[0] for line in everything.fields["changes"]} == {"lab", "production"}
    assert [line.partition(":")[0] for line in of_one.fields["changes"]] == ["lab"]
    assert "on replica (replica.example.com:8000)" in everything.text
    assert "replica" not in of_one.text


async def test_a_yes_that_is_sent_back_with_another_cluster_does_nothing_there(tmp_path: Path) -> None:
    fleet = create_fleet("auto", tmp_path)

    async with fleet.connected(person=ScriptedPerson([AGREES])) as client:
        answers, state = await call_until_question(client, cluster="lab")
        with pytest.raises(MCPError, match="requestState"):
            await call_with_answers(client, answers, state, cluster="replica")
        done = await call_with_answers(client, answers, state, cluster="lab")

    assert isinstance(done, CallToolResult)
    assert not done.is_error
    assert {name: len(fleet.clusters[name].tokens_of(JANE)) for name in NAMES} == {
        "production": 0,
        "replica": 0,
        "lab": 1,
    }


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("disable_access_token", {}, ": update_access_token(cluster=…, id=…, enabled=false) disables a token."),
        ("list_tokens", {}, ": list_access_tokens(cluster=…) lists all tokens, with "),
        ("audit", {}, ": audit_access_tokens() looks at all tokens"),
        ("audit_access_tokens", {"user": "x"}, "; list_access_tokens(cluster=…, user=…) lists one user's tokens."),
        ("audit_access_tokens", {"cluster_name": "lab"}, "; nearest is `cluster`: Which cluster; all if absent."),
        ("get_access_token", {"cluster": "lab", "id": "1", "host": "x"}, ": `cluster` is given already; "),
        (
            "create_access_token",
            {"cluster": "lab", "user": "a", "enabled": "true"},
            'update_access_token(cluster="lab", id=…, enabled=false) disables one.',
        ),
    ],
)
async def test_a_hint_names_a_cluster_in_its_calls(
    fleet: FleetHarness, tool: str, arguments: dict[str, str], expected: str
) -> None:
    answer = await fleet.call(tool, arguments)

    assert answer.is_error
    assert expected in answer.text


async def test_a_refusal_of_wrong_arguments_names_the_cluster(fleet: FleetHarness) -> None:
    answer = await fleet.call("delete_access_token", {"cluster": "lab", "id": "jane"})

    assert answer.text.startswith(f"{NOTHING_DONE}On lab: `id` must be ")


async def test_a_failure_names_the_keys_of_the_cluster_s_table(fleet: FleetHarness) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    fleet.clusters["lab"].recorder.cluster = httpx.MockTransport(fail)

    told = [
        (await fleet.call("list_access_tokens", {"cluster": "lab"})).text,
        (await fleet.call("audit_access_tokens")).text,
        (await fleet.call("list_token_changes", {"user": "self"})).text,
    ]

    assert all("Are [clusters.lab] host and [clusters.lab] port right" in text for text in told)
    assert told[0].endswith("\nFor the operator: run `qumulo-token-tools doctor --cluster lab`.")


async def test_the_only_table_is_named_too_where_an_option_for_the_host_would_be_refused(harness: Harness) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x") from ssl.SSLCertVerificationError("x")

    profile = Profile(harness.settings, table="lab")
    server = create_server([profile], cluster_transport=httpx.MockTransport(fail), clock=lambda: NOW)
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(server, mode=harness.mode) as client:
            told = ToolAnswer.from_result(await client.call_tool("list_access_tokens", {})).text

    assert "the operator can trust it: `qumulo-token-tools trust --cluster lab`." in told
    assert told.endswith("\nFor the operator: run `qumulo-token-tools doctor --cluster lab`.")
    assert "--host" not in told


async def test_a_failure_of_all_clusters_names_the_command_for_all(fleet: FleetHarness) -> None:
    for cluster in fleet.clusters.values():
        cluster.recorder.cluster = httpx.MockTransport(lambda _: httpx.Response(401))

    answer = await fleet.call("audit_access_tokens")

    assert answer.text.endswith("\nFor the operator: run `qumulo-token-tools doctor`.")
