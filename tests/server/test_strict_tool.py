"""Test that arguments of a wrong type are refused without a request, with an answer that says what to write."""

import json
from datetime import timedelta
from typing import Annotated, Any

import anyio
import httpx
import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, Request, ToolAnnotations
from pydantic import BaseModel, Field

from tests.support.harness import (
    JANE,
    MAX_ANSWER_CHARACTERS,
    NOW,
    TIMEOUT_SECONDS,
    TOKENS_PATH,
    Harness,
    Mode,
    ToolAnswer,
)
from tests.support.scripted_cluster import client_with_answer
from token_tools.server.strict_tool import StrictTool
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import TokenEntry, TokenList

pytestmark = pytest.mark.anyio


class EnabledAnswer(BaseModel):
    """The result of a test's tool that repeats its argument `enabled`."""

    enabled: bool


class ActionAnswer(BaseModel):
    """The result of a test's tool that repeats its argument `action`."""

    action: str


@pytest.mark.parametrize("tool", ["list_access_tokens", "create_access_token"])
@pytest.mark.parametrize(
    "user", [{"oops": 1}, {}, True, ["jane"], 1e30], ids=["other", "empty", "truth", "list", "float"]
)
async def test_a_user_that_is_no_text_is_refused_with_the_forms_that_there_are(
    harness: Harness, tool: str, user: object
) -> None:
    refusal = await harness.call_without_effect(tool, {"user": user})

    assert harness.recorder.requests == []
    assert "`user` must be text. " in refusal
    assert r"self, local:NAME, ad:DOMAIN\NAME" in refusal


async def test_a_flood_of_arguments_is_refused_in_one_sentence(harness: Harness) -> None:
    refusal = await harness.call_refused("list_access_tokens", {f"a{number}": 1 for number in range(2_000)})

    assert refusal == (
        "These are 2,000 arguments. list_access_tokens takes user, after, limit, expiring_within, state."
    )


@pytest.mark.parametrize("arguments", [{"limit": True}, {"limit": False}], ids=["true", "false"])
async def test_a_truth_value_is_no_number(harness: Harness, arguments: dict[str, Any]) -> None:
    refusal = await harness.call_refused("list_access_tokens", arguments)

    assert harness.recorder.requests == []
    assert refusal == "`limit` must be a whole number from 1 to 200."


async def test_a_truth_value_is_taken_where_one_belongs_and_nothing_else_is() -> None:
    def switch(enabled: Annotated[bool, Field(description="On or off.")]) -> EnabledAnswer:
        return EnabledAnswer(enabled=enabled)

    tool = StrictTool.publish(switch, title="Switch", description="Switch.", annotations=ToolAnnotations())
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(MCPServer("switches", tools=[tool])) as client:
            switched = ToolAnswer.from_result(await client.call_tool("switch", {"enabled": True}))
            refused = ToolAnswer.from_result(await client.call_tool("switch", {"enabled": "perhaps"}))

    assert switched.fields == {"enabled": True}
    assert refused.text == "`enabled` must be true or false, as JSON writes them."


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"user": 500},
            "`user` must be text. Write uid:500, auth_id:500 or name:500.",
        ),
        ({"user": {"auth_id": "500"}}, "`user` must be text. Write auth_id:500."),
        ({"user": {"name": "jane", "domain": "local"}}, "`user` must be text. Write local:jane."),
        ({"user": '{"name": "bob", "domain": "ldap_user"}'}, "`user` is an object: write ldap_user:bob."),
        (
            {"user": "jane", "expiration_time": 90},
            "`expiration_time` must be text with a unit: write 90d or 90h or 90s.",
        ),
        (
            {"user": "jane", "expiration_time": 1801414800},
            "`expiration_time` must be text with a unit: write 2027-01-31T17:00:00Z if it counts from 1970.",
        ),
        (
            {"user": "jane", "ttl": "90d"},
            'create_access_token has no argument "ttl"; nearest is `expiration_time`: 90d from now, '
            "2027-01-31T17:00:00Z, or never; the operator's default if absent. It takes user, expiration_time.",
        ),
    ],
    ids=[
        "number",
        "object",
        "domain-in-small-letters",
        "object-in-text",
        "number-without-unit",
        "number-of-seconds",
        "unknown",
    ],
)
async def test_one_answer_is_enough_to_write_it_right(
    harness: Harness, arguments: dict[str, Any], expected: str
) -> None:
    assert expected in await harness.call_without_effect("create_access_token", arguments)


TOOLS_SENTENCE = (
    "The tools are list_access_tokens, get_access_token, audit_access_tokens, list_token_changes, "
    "export_access_tokens, create_access_token, update_access_token, delete_access_token, rotate_access_token."
)
DISABLE_HINT = "update_access_token(id=…, enabled=false) disables a token"
UPDATE_EXPIRY_HINT = "update_access_token(id=…, expiration_time=…) moves the expiry of a token"
ROTATE_HINT = "rotate_access_token(id=…) makes a new token beside an old one"
NO_USER_TOOLS_HINT = "no tool tells of users or changes them; list_access_tokens(user=…) lists a user's tokens"
LIST_HINT = "list_access_tokens() lists all tokens, with user=… those of one user"


@pytest.mark.parametrize(
    ("tool", "call"),
    [
        ("disable_access_token", DISABLE_HINT),
        ("deactivate_token", DISABLE_HINT),
        ("suspendToken", DISABLE_HINT),
        ("enable_access_token", "update_access_token(id=…, enabled=true) enables a token"),
        ("revoke_token", "delete_access_token(id=…) cannot"),
        ("revoke_access_token", "update_access_token(id=…, enabled=false) stops a token and can be undone"),
        ("delete_access_tokens", "delete_access_token(id=…) cannot"),
        ("expire_token", UPDATE_EXPIRY_HINT),
        ("renew_access_token", UPDATE_EXPIRY_HINT),
        ("extend_token_expiry", UPDATE_EXPIRY_HINT),
        ("regenerate_token", ROTATE_HINT),
        ("refresh_access_token", ROTATE_HINT),
        ("rotate_token", ROTATE_HINT),
        ("modify_access_token", "update_access_token(id=…) changes a token: enabled, expiration_time, or both"),
        ("update_token", "update_access_token(id=…) changes a token"),
        ("generate_bearer_token", "create_access_token(user=…) creates a token"),
        ("create-token", "create_access_token(user=…) creates a token"),
        ("list_tokens", LIST_HINT),
        ("search_tokens", LIST_HINT),
        ("get_access_tokens", LIST_HINT),
        ("get_user_tokens", LIST_HINT),
        ("list_expiring_tokens", "list_access_tokens(state=…) lists the tokens that are expiring, expired"),
        ("get_disabled_tokens", "list_access_tokens(state=…) lists the tokens that are expiring, expired"),
        ("audit_expired_tokens", "audit_access_tokens() looks at all tokens and tells what is a risk"),
        ("download_access_tokens", 'export_access_tokens(format="csv") writes a file of all tokens, format="json"'),
        ("export_tokens_csv", 'export_access_tokens(format="csv") writes a file of all tokens, format="json"'),
        ("check_token_expiry", "audit_access_tokens() looks at all tokens and tells what is a risk"),
        ("describe_access_token", "get_access_token(id=…) tells of a token"),
        ("disable_current_token", "update_access_token(id=…, enabled=false) disables a token"),
        ("token_report", "audit_access_tokens() looks at all tokens"),
        ("get_token_expiration", "get_access_token(id=…) tells of a token"),
        ("create_user", NO_USER_TOOLS_HINT),
        ("set_privileges", NO_USER_TOOLS_HINT),
        ("list_groups", NO_USER_TOOLS_HINT),
        ("reset_password", NO_USER_TOOLS_HINT),
        ("change_password", NO_USER_TOOLS_HINT),
        ("get_token_by_user", LIST_HINT),
        ("get_token_value", "nobody can read the bearer token of an existing token"),
        ("read_file", "the tools are for access tokens alone"),
        ("get_cluster_info", "no tool tells of the cluster itself"),
        ("get_audit_log", "list_token_changes() lists what was done"),
        ("get_token_history", "list_token_changes() lists what was done"),
        ("rename_token", "access tokens have no names"),
        ("transfer_token", "whose a token is never changes"),
        ("restore_access_token", "enables a token that was disabled; nothing brings a deleted one back"),
        ("confirm_deletion", "this server asks them itself"),
        ("get_current_user", 'list_access_tokens(user="self")'),
        ("whoami", 'list_access_tokens(user="self")'),
        ("get_user", NO_USER_TOOLS_HINT),
        ("list_users", NO_USER_TOOLS_HINT),
        ("get_token", "get_access_token(id=…) tells of a token"),
        ("verify_token", "get_access_token(id=…) tells of a token"),
        ("get_bearer_token", "nobody can read the bearer token of an existing token"),
        ("mcp__qumulo__list_access_tokens", "its name is list_access_tokens"),
        ("ListAccessTokens", "its name is list_access_tokens"),
        ("qumulo.delete_access_token", "its name is delete_access_token"),
    ],
)
async def test_a_tool_that_there_is_not_is_answered_with_the_call_that_does_it(
    harness: Harness, tool: str, call: str
) -> None:
    refusal = await harness.call_refused(tool, {"id": "1"})

    assert refusal.startswith(f'There is no tool "{tool}": ')
    assert call in refusal
    assert refusal.endswith(f". {TOOLS_SENTENCE}")
    assert harness.recorder.requests == []


async def test_a_tool_that_nobody_has_heard_of_is_answered_with_those_that_there_are(harness: Harness) -> None:
    assert await harness.call_refused("frobnicate") == f'There is no tool "frobnicate". {TOOLS_SENTENCE}'


@pytest.mark.parametrize(
    "tool",
    [
        "delete_access_token",
        "disable_access_token",
        "revoke_token",
        "renew",
        "new_token",
        "export_access_tokens",
        "export",
    ],
)
async def test_of_a_tool_that_writes_a_server_that_only_reads_says_that_it_does(harness: Harness, tool: str) -> None:
    refusal = await harness.call_refused(tool, read_only=True)

    assert refusal == (
        f'There is no tool "{tool}": this server only reads. '
        "The tools are list_access_tokens, get_access_token, audit_access_tokens, list_token_changes."
    )


async def test_a_server_that_only_reads_names_its_own_tools_for_what_they_do(harness: Harness) -> None:
    assert LIST_HINT in await harness.call_refused("list_tokens", read_only=True)


HOST_ARGUMENTS = [
    pytest.param({"toolCallId": "call_1", "sessionId": "s", "action": "sendMessage", "chatInput": "hi", "tool": "x"}),
    pytest.param({"action": "serverEvent"}),
    pytest.param({"wait_for_previous": True}),
    pytest.param({"task_progress": "- [x] one"}),
    pytest.param({"explanation": "To see the tokens."}),
    pytest.param({"__tool_use_purpose": "To see the tokens."}),
    pytest.param({"_meta": {"progressToken": 1}, "tool_call_description": "Lists"}),
]


@pytest.mark.parametrize("added", HOST_ARGUMENTS)
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("list_access_tokens", {}),
        ("audit_access_tokens", {"expiring_within": ""}),
        ("create_access_token", {"user": "ldap_user:bob"}),
    ],
)
async def test_what_a_host_adds_to_a_call_does_not_count(
    harness: Harness, tool: str, arguments: dict[str, Any], added: dict[str, Any]
) -> None:
    answer = await harness.call(tool, arguments | added, confirm="none")

    assert not answer.is_error, answer.text


@pytest.mark.parametrize("action", ["disable", "revokeToken", "ENABLE"])
async def test_an_action_that_a_model_means_is_not_taken_for_a_host_s(harness: Harness, action: str) -> None:
    own = next(iter(harness.cluster.tokens))

    refusal = await harness.call_without_effect("delete_access_token", {"id": own, "action": action}, confirm="none")

    assert 'delete_access_token has no argument "action": each tool does one thing' in refusal
    assert harness.recorder.requests == []


async def test_what_a_host_adds_does_not_hide_a_mistake(harness: Harness) -> None:
    refusal = await harness.call_without_effect("delete_access_token", {"toolCallId": "call_1", "confirm": True})

    assert refusal.startswith("`id` is missing. ")
    assert 'delete_access_token has no argument "confirm"' in refusal
    assert "toolCallId" not in refusal


async def test_an_argument_that_a_tool_has_is_never_taken_for_a_host_s() -> None:
    def act(action: Annotated[str, Field(description="What to do.")]) -> ActionAnswer:
        return ActionAnswer(action=action)

    tool = StrictTool.publish(act, title="Act", description="Act.", annotations=ToolAnnotations())
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(MCPServer("actors", tools=[tool])) as client:
            acted = ToolAnswer.from_result(await client.call_tool("act", {"action": "sing", "tool": "act"}))

    assert acted.fields == {"action": "sing"}


@pytest.mark.parametrize(
    ("tool", "arguments", "heard"),
    [
        ("list_access_tokens", {"user": "", "after": "", "limit": ""}, [f"GET {TOKENS_PATH}?limit=50"]),
        ("list_access_tokens", {"user": None, "after": None, "limit": None}, [f"GET {TOKENS_PATH}?limit=50"]),
        ("list_access_tokens", {"user": "  ", "after": "\n", "limit": " "}, [f"GET {TOKENS_PATH}?limit=50"]),
    ],
    ids=["empty", "null", "blank"],
)
async def test_an_optional_argument_that_says_nothing_is_absent(
    harness: Harness, tool: str, arguments: dict[str, Any], heard: list[str]
) -> None:
    answer = await harness.call(tool, arguments)

    assert not answer.is_error
    assert harness.recorder.request_lines() == heard


@pytest.mark.parametrize("nothing", ["", None, " "], ids=["empty", "null", "blank"])
async def test_a_strict_client_audits_and_exports_as_if_it_had_said_nothing(
    harness: Harness, nothing: str | None
) -> None:
    audit = await harness.call("audit_access_tokens", {"expiring_within": nothing})
    export = await harness.call("export_access_tokens", {"format": nothing})

    assert "Soon is within 30 days" in audit.text
    assert export.fields["path"].endswith(".csv")


@pytest.mark.parametrize("nothing", ["", None, " "], ids=["empty", "null", "blank"])
async def test_a_strict_client_disables_a_token_without_a_new_expiry_and_moves_one_without_a_word_on_the_other(
    harness: Harness, nothing: str | None
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=10))

    for arguments in ({"enabled": False, "expiration_time": nothing}, {"enabled": nothing, "expiration_time": "5d"}):
        answer = await harness.call("update_access_token", {"id": token.id, **arguments}, confirm="none")
        assert not answer.is_error, answer.text

    after = harness.cluster.tokens[token.id]
    assert (after.enabled, after.expiration_time) == (False, NOW + timedelta(days=5))


@pytest.mark.parametrize("nothing", ["", None, " "], ids=["empty", "null", "blank"])
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("create_access_token", "user"),
        ("get_access_token", "id"),
        ("update_access_token", "id"),
        ("delete_access_token", "id"),
        ("rotate_access_token", "id"),
    ],
)
async def test_a_required_argument_that_says_nothing_is_missing(
    harness: Harness, tool: str, name: str, nothing: str | None
) -> None:
    async with harness.connected() as client:
        [published] = [one for one in (await client.list_tools()).tools if one.name == tool]

    refusal = await harness.call_without_effect(tool, {name: nothing})

    assert refusal == f"`{name}` is missing. {published.input_schema['properties'][name]['description']}"


@pytest.mark.parametrize("arguments", ['{"user": "self"}', ["self"], 1], ids=["text", "list", "number"])
async def test_arguments_that_are_no_object_are_answered_with_those_that_there_are(
    harness: Harness, arguments: object
) -> None:
    params: dict[str, Any] = {"name": "list_access_tokens", "arguments": arguments}
    async with harness.connected() as client:
        with pytest.raises(MCPError) as failure:
            await client.session.send_request(
                Request[dict[str, Any], str](method="tools/call", params=params), CallToolResult
            )

    assert (failure.value.code, failure.value.message) == (
        INVALID_PARAMS,
        "The arguments must be a JSON object. list_access_tokens takes user, after, limit, expiring_within, state.",
    )


async def test_a_crash_is_told_without_its_text_and_logged(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    def crash(_request: httpx.Request) -> httpx.Response:
        raise RuntimeError("access-v1:own")

    async with client_with_answer(mode, crash) as client:
        answer = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))

    assert answer.is_error
    assert answer.text == "This server stumbled over a fault of its own, of which its log (stderr) tells the operator."
    assert "unexpected exception" in caplog.text


async def test_a_crash_of_what_writes_is_told_with_what_is_not_known(mode: Mode) -> None:
    def crash(_request: httpx.Request) -> httpx.Response:
        raise RuntimeError("access-v1:own")

    async with client_with_answer(mode, crash) as client:
        answer = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "local:jane"}))

    assert answer.is_error
    assert answer.text.endswith(
        "What was done by then is not known: look at the user's tokens with list_access_tokens before you try again."
    )


def test_what_no_other_bound_kept_short_is_cut_in_both_channels_and_says_so() -> None:
    entry = TokenEntry.model_validate({"id": "1" * 23, "user": "jane", "creation_time": "2026-10-01T10:00:00Z"})
    fields = TokenList.model_validate({"summary": "y" * 40_000, "tokens": [entry] * 1_000})

    text, structured = RenderedResult("x" * 90_000, fields).truncate()

    assert len(text) < MAX_ANSWER_CHARACTERS
    assert text.endswith("(cut here: the whole was too long for an answer)")
    assert len(json.dumps(structured)) < MAX_ANSWER_CHARACTERS
    assert structured["summary"].endswith("(cut here: the whole was too long for an answer)")
    assert 0 < len(structured["tokens"]) < 1_000
