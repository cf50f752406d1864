"""Test what somebody may see and call who only reads, and how callers are told apart."""

from pathlib import Path

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from tests.support.fleet import create_fleet
from tests.support.harness import AGREES, JANE, NOTHING_DONE, WRITE_TOOLS, Harness, Mode, ScriptedPerson, ToolAnswer
from tests.support.http_in_process import (
    ASKS_NOBODY,
    ASKS_WHO,
    ISSUER,
    WITH_ISSUER,
    Doorkeeper,
    Setup,
    create_caller,
    serving,
)
from tests.support.record import read_record
from tests.support.recording_transport import RecordingTransport
from token_tools.cluster.identity import Identity
from token_tools.configuration import Profile
from token_tools.server.app import Wire, create_server
from token_tools.server.prompts import CREATING_PROMPTS, READ_PROMPTS
from token_tools.views.audit import READ_ONLY_NOTE

pytestmark = pytest.mark.anyio

READ_TOOLS = {"list_access_tokens", "get_access_token", "audit_access_tokens", "list_token_changes"}
ALL_TOOLS = READ_TOOLS | WRITE_TOOLS | {"export_access_tokens"}


@pytest.fixture
def inline(harness: Harness) -> Harness:
    """Deliver new bearer tokens in the answer, so that they can be created."""
    harness.settings = harness.settings.model_copy(update={"delivery": "inline"})
    return harness


async def list_names(client: Client) -> tuple[set[str], set[str]]:
    tools, prompts = (await client.list_tools()).tools, (await client.list_prompts()).prompts
    return {tool.name for tool in tools}, {prompt.name for prompt in prompts}


async def test_each_caller_sees_what_they_may_call(inline: Harness, mode: Mode) -> None:
    async with serving(inline, ASKS_WHO) as server:
        async with server.connected(mode, "reader") as reader:
            read = await list_names(reader)
        async with server.connected(mode, "writer") as writer:
            written = await list_names(writer)

    reading, writing = ({prompt.name for prompt in prompts} for prompts in (READ_PROMPTS, CREATING_PROMPTS))
    assert read == (READ_TOOLS, reading)
    assert written == (ALL_TOOLS, reading | writing)


async def test_a_reader_s_change_is_refused_and_recorded(inline: Harness, mode: Mode) -> None:
    token = inline.cluster.add_token(JANE.auth_id, creator="500")
    async with serving(inline, ASKS_WHO) as server, server.connected(mode, "reader") as reader:
        answers = [
            ToolAnswer.from_result(await reader.call_tool("delete_access_token", {"id": token.id})),
            ToolAnswer.from_result(await reader.call_tool("create_access_token", {"user": "local:jane"})),
        ]
        record = ToolAnswer.from_result(await reader.call_tool("list_token_changes"))

    for answer, tool in zip(answers, ("delete_access_token", "create_access_token"), strict=True):
        assert answer.is_error
        assert answer.text == (
            f"{NOTHING_DONE}You may read the access tokens, and not call {tool}. "
            "An operator of this server decides who may change tokens."
        )
    assert inline.cluster.tokens[token.id] is token
    entries = read_record(inline.settings.state_dir)
    assert [(each["operation"], each["outcome"], each["actor"]) for each in entries] == [
        (operation, "refused", f"{ISSUER}#rita (Rita)") for operation in ("delete", "create")
    ]
    assert (entries[0]["token_id"], entries[1]["user_name"]) == (token.id, "local:jane")
    assert "rita" in record.text


async def test_a_reader_s_export_is_refused(inline: Harness) -> None:
    async with serving(inline, ASKS_WHO) as server, server.connected("auto", "reader") as reader:
        answer = ToolAnswer.from_result(await reader.call_tool("export_access_tokens", {}))

    assert (answer.is_error, "not call export_access_tokens" in answer.text) == (True, True)
    assert not inline.settings.report_dir.exists()


async def test_a_reader_gets_no_prompt_that_leads_to_a_change(inline: Harness, mode: Mode) -> None:
    async with serving(inline, ASKS_WHO) as server, server.connected(mode, "reader") as reader:
        for prompt in CREATING_PROMPTS:
            with pytest.raises(MCPError, match=f"not call {prompt.name}"):
                await reader.get_prompt(prompt.name, {"token": "1"})
        for prompt in READ_PROMPTS:
            assert (await reader.get_prompt(prompt.name, {})).messages


async def test_a_reader_is_not_advised_to_call_what_they_may_not(inline: Harness, mode: Mode) -> None:
    async with serving(inline, ASKS_WHO) as server, server.connected(mode, "reader") as reader:
        unknown = [
            ToolAnswer.from_result(await reader.call_tool(name, {}))
            for name in ("delete_token", "make_token", "x", "export")
        ]
        prompt = await read_prompt_error(reader, "revoke")

        token = inline.cluster.add_token(JANE.auth_id, creator="500")
        known = [
            ToolAnswer.from_result(await reader.call_tool(name, {}))
            for name in ("list_access_tokens", "list_token_changes")
        ]
        known.append(ToolAnswer.from_result(await reader.call_tool("get_access_token", {"id": token.id})))

        audit = ToolAnswer.from_result(await reader.call_tool("audit_access_tokens", {}))

    for text in [*(answer.text + str(answer.fields) for answer in (*unknown, *known)), prompt]:
        assert [name for name in ALL_TOOLS - READ_TOOLS if name in text] == [], text
        assert [each.name for each in CREATING_PROMPTS if each.name in text] == [], text
    # The audit says what mends, and for whom that is.
    assert READ_ONLY_NOTE in audit.text


async def read_prompt_error(client: Client, name: str) -> str:
    with pytest.raises(MCPError) as unknown:
        await client.get_prompt(name)
    return unknown.value.message


async def test_a_reader_of_several_clusters_reads_all_of_them_and_changes_none(mode: Mode, tmp_path: Path) -> None:
    fleet = create_fleet("auto", tmp_path)
    harness = next(iter(fleet.clusters.values()))
    harness.recorder = RecordingTransport(fleet.transport)
    async with serving(harness, ASKS_WHO, fleet.profiles) as server, server.connected(mode, "reader") as reader:
        names, _ = await list_names(reader)
        audit = ToolAnswer.from_result(await reader.call_tool("audit_access_tokens", {}))
        refused = ToolAnswer.from_result(
            await reader.call_tool("create_access_token", {"user": "local:jane", "cluster": "lab"})
        )
        unknown = ToolAnswer.from_result(await reader.call_tool("rotate_tokens", {}))

    assert names == READ_TOOLS
    assert not audit.is_error
    assert refused.text.startswith(f"{NOTHING_DONE}You may read")
    assert [name for name in ALL_TOOLS - READ_TOOLS if name in unknown.text] == []
    entries = read_record(fleet.clusters["lab"].settings.state_dir)
    assert [each["cluster"] for each in entries] == ["lab.example.com:8000"]


async def test_what_is_done_is_recorded_under_the_name_of_who_did_it(inline: Harness, mode: Mode) -> None:
    people = Doorkeeper({"ann": create_caller("ann", "write"), "bob": create_caller("bob", "write")})
    async with serving(inline, Setup(WITH_ISSUER, people)) as server:
        for name in ("ann", "bob"):
            async with server.connected(mode, name, ScriptedPerson([AGREES])) as client:
                created = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "local:jane"}))
                assert not created.is_error, created.text

    entries = read_record(inline.settings.state_dir)
    assert [(each["outcome"], each["actor"]) for each in entries] == [
        ("created", f"{ISSUER}#ann (Ann)"),
        ("created", f"{ISSUER}#bob (Bob)"),
    ]


async def test_where_nobody_signs_in_the_record_says_so_with_what_the_client_calls_itself(
    inline: Harness, mode: Mode
) -> None:
    person = ScriptedPerson([AGREES])
    async with serving(inline, ASKS_NOBODY) as server, server.connected(mode, person=person) as client:
        await client.call_tool("create_access_token", {"user": "local:jane"})

    [entry] = read_record(inline.settings.state_dir)
    assert entry["actor"].startswith("anybody via mcp ")


async def test_self_is_nobody_unless_the_caller_is_a_user_of_the_cluster(inline: Harness, mode: Mode) -> None:
    jane = create_caller("jane", "write", is_self=Identity(domain="LOCAL", name="jane"))
    people = Doorkeeper({"jane": jane, "wim": create_caller("wim", "write")})
    async with serving(inline, Setup(WITH_ISSUER, people)) as server:
        async with server.connected(mode, "jane", ScriptedPerson([AGREES])) as client:
            own = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "self"}))
        async with server.connected(mode, "wim", ScriptedPerson([AGREES])) as client:
            refused = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "self"}))
            listed = ToolAnswer.from_result(await client.call_tool("list_access_tokens", {"user": "self"}))
    async with serving(inline, ASKS_NOBODY) as server, server.connected(mode) as client:
        anonymous = ToolAnswer.from_result(await client.call_tool("list_access_tokens", {"user": "self"}))

    assert not own.is_error, own.text
    assert len(inline.tokens_of(JANE)) == 1
    for answer in (refused, listed, anonymous):
        assert answer.is_error
        assert "self" in answer.text


async def test_a_session_belongs_to_who_began_it(inline: Harness) -> None:
    people = Doorkeeper(
        {
            "ann": create_caller("ann", "write"),
            "bob": create_caller("bob", "write"),
            "ann again": create_caller("ann", "write"),
        }
    )
    async with serving(inline, Setup(WITH_ISSUER, people)) as server:
        session = await server.open_session("ann")
        statuses = {bearer: (await server.ask_in_session(session, bearer)).status_code for bearer in people.callers}
        stream = await server.ask_in_session(session, "bob", method="GET")
        end = await server.ask_in_session(session, "bob", method="DELETE")
        unknown = await server.ask_in_session("0" * 32, "bob")

    assert statuses == {"ann": 200, "bob": 404, "ann again": 200}
    assert (stream.status_code, end.status_code, unknown.status_code) == (404, 404, 404)
    assert end.text == unknown.text


async def test_the_role_is_that_of_each_request_and_not_of_the_first_of_a_session(inline: Harness) -> None:
    people = Doorkeeper({"then": create_caller("ann", "write"), "now": create_caller("ann", "read")})
    async with serving(inline, Setup(WITH_ISSUER, people)) as server:
        session = await server.open_session("then")
        answers = [await server.ask_in_session(session, bearer) for bearer in ("then", "now", "then")]

    assert ["delete_access_token" in answer.text for answer in answers] == [True, False, True]
    assert all("list_access_tokens" in answer.text for answer in answers)


async def test_a_caller_whom_nothing_has_let_in_is_answered_nothing(inline: Harness, mode: Mode) -> None:
    """Whatever stands in front, the server itself does not take somebody unknown for everybody."""
    server = create_server([Profile(inline.settings)], cluster_transport=inline.recorder, wire=Wire(needs_sign_in=True))
    refused = pytest.RaisesExc(MCPError, match="answers nobody who has not signed in")

    with pytest.RaisesGroup(refused, flatten_subgroups=True, allow_unwrapped=True):
        async with Client(server, mode=mode) as client:
            await client.list_tools()
