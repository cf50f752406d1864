"""Test how tokens are created and rotated where new bearer tokens go to a command, and where they go nowhere."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from tests.support.example_tokens import add_token, own_token
from tests.support.harness import (
    ADMIN,
    JANE,
    TOKENS_PATH,
    WRITE_TOOLS,
    Harness,
    ToolAnswer,
)
from tests.support.record import forget_outcomes, read_record
from tests.support.secret_scan import find_secrets
from token_tools.sandbox.cluster import Account, Token

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_consent")]

PLACE = "the hands of QUMULO_DELIVERY_COMMAND (vault)"
REMAINS = f"What was delivered is still in {PLACE}, and of no use: only the operator can remove what "

UseCommand = Callable[[str], None]


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """Make the folder that the commands of these tests put tokens into, by their ids."""
    vault = tmp_path / "vault-folder"
    vault.mkdir(mode=0o700)
    return vault


@pytest.fixture
def use_command(harness: Harness, vault: Path, tmp_path: Path) -> UseCommand:
    """Return a function that lets each later server hand tokens to this shell program, whose folder is the vault."""

    def use(body: str) -> None:
        program = tmp_path / "vault"
        program.write_text(f"#!/bin/sh\ncd '{vault}' || exit 99\n{body}\n", encoding="utf-8")
        program.chmod(0o755)
        changes = {"delivery": "command", "delivery_command": (str(program),)}
        harness.settings = harness.settings.model_copy(update=changes)

    return use


STORE = 'cat > "$QUMULO_TOKEN_ID"; echo "$QUMULO_TOKEN_USER|$QUMULO_TOKEN_EXPIRES" > "$QUMULO_TOKEN_ID.of"'


def fail_proofs(harness: Harness) -> None:
    """Let the cluster not accept a new bearer token."""
    own = f"Bearer {own_token(harness).bearer_token}"

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return served if request.headers["Authorization"] == own else httpx.Response(401)

    harness.recorder.on_served = answer


def assert_nothing_leaks(harness: Harness, tokens: list[Token], *texts: str) -> None:
    """Check that no part of a bearer token is in these texts, or in what the server has written."""
    written = [path.read_bytes() for path in harness.settings.state_dir.rglob("*") if path.is_file()]
    assert tokens
    assert (
        find_secrets(b"\n".join([*written, *(text.encode() for text in texts)]), [t.bearer_token for t in tokens]) == []
    )


async def test_a_command_has_the_token_and_the_model_is_told_which_command(
    harness: Harness, use_command: UseCommand, vault: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_command(f"tee copy; cat copy >&2; cat copy | {STORE}; rm copy")

    answer = await harness.call("create_access_token", {"user": "local:jane"})

    [new] = harness.tokens_of(JANE)
    assert (vault / new.id).read_text() == new.bearer_token
    assert (vault / f"{new.id}.of").read_text() == "local:jane|2027-02-22T09:00:00Z\n"
    assert answer.fields["bearer_token_in"] == PLACE
    assert f"Its bearer token is in {PLACE}." in answer.text
    assert answer.fields["next_step"] == (
        "QUMULO_DELIVERY_COMMAND (vault) ended with 0; the operator knows where it keeps bearer tokens."
    )
    [entry] = read_record(harness.settings.state_dir)
    assert json.loads(str(entry["location"])) == {"kind": "command", "program": "vault"}
    told = await harness.call("list_token_changes")
    assert f"bearer token in {PLACE}" in told.text
    assert_nothing_leaks(harness, [new], answer.text, json.dumps(answer.fields), told.text, caplog.text)


async def test_a_token_that_a_command_has_not_taken_is_deleted_again(
    harness: Harness, use_command: UseCommand, caplog: pytest.LogCaptureFixture
) -> None:
    use_command("base64; exit 7")
    made: list[Token] = []

    async def remember(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            made.extend(harness.tokens_of(JANE))
        return served

    harness.recorder.on_served = remember

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert "QUMULO_DELIVERY_COMMAND (vault) ended with exit status 7. The log of this server tells what" in refusal
    assert f"The new token {made[0].id} was deleted again; no token is left of this." in refusal
    assert harness.tokens_of(JANE) == []
    assert "QUMULO_DELIVERY_COMMAND (vault) printed: " in caplog.text
    assert_nothing_leaks(harness, made, refusal, caplog.text)


async def test_nothing_is_asked_of_the_cluster_unless_the_check_ends_with_0(
    harness: Harness, use_command: UseCommand, vault: Path
) -> None:
    use_command(STORE)

    refusal = await harness.call_without_effect(
        "create_access_token", {"user": "local:jane"}, delivery_check=("false",)
    )

    assert refusal.startswith("QUMULO_DELIVERY_CHECK (false) ended with exit status 1. It printed nothing.")
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []
    assert [*vault.iterdir()] == []


async def test_what_a_command_has_stored_of_a_token_that_is_deleted_again_is_told_to_remain(
    harness: Harness, use_command: UseCommand
) -> None:
    use_command(STORE)
    old = add_token(harness)
    fail_proofs(harness)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert "was made and delivered, but did not prove to work." in refusal
    assert f"It was deleted again. {REMAINS}" in refusal
    assert harness.tokens_of(JANE) == [old]


async def test_a_killed_server_may_have_handed_a_token_to_the_command(
    harness: Harness, use_command: UseCommand, caplog: pytest.LogCaptureFixture
) -> None:
    use_command(STORE)
    old = add_token(harness)
    await harness.call("rotate_access_token", {"id": old.id})
    again = await harness.call_refused("rotate_access_token", {"id": old.id})
    forget_outcomes(harness.settings.state_dir)

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})
    listed = await harness.call("list_access_tokens", {"user": "local:jane"})
    report = await harness.read_start_report(caplog)

    unknown = "QUMULO_DELIVERY_COMMAND (vault) may have been handed it, and cannot be asked. If no"
    assert f"its bearer token is in {PLACE}, as far as is known." in again
    assert f"where its bearer token is, is not known: {unknown}" in refusal
    assert f"Where its bearer token is, is not known: {unknown}" in listed.text
    assert "may be among theirs, unless QUMULO_DELIVERY_COMMAND (vault) was handed it" in report


async def test_a_server_goes_on_with_the_successor_of_its_own_token_and_tells_of_the_copy(
    harness: Harness, use_command: UseCommand, tmp_path: Path
) -> None:
    use_command(STORE)
    own = own_token(harness)
    path = tmp_path / "own"
    path.write_text(own.bearer_token, encoding="utf-8")
    path.chmod(0o600)
    harness.settings = harness.settings.model_copy(update={"bearer_token": None, "bearer_token_file": path})

    answer = await harness.call("rotate_access_token", {"id": own.id})

    [new] = [token for token in harness.tokens_of(ADMIN) if token.id != own.id]
    assert path.read_text().strip() == new.bearer_token
    assert f"Its bearer token is in {path}, and this server runs on it now." in answer.text
    assert f"A copy of the bearer token is still in {PLACE} (only the operator can remove what" in answer.text


async def test_each_of_many_tokens_at_once_is_handed_over_with_what_it_is_for(
    harness: Harness, use_command: UseCommand, vault: Path
) -> None:
    use_command(f"sleep 0.05; {STORE}")
    for number in range(6):
        harness.cluster.add_account(Account(auth_id=f"20{number}", domain="LOCAL", name=f"service{number}"))

    async def create(client: Client, number: int) -> None:
        result = await client.call_tool("create_access_token", {"user": f"local:service{number}"})
        answer = ToolAnswer.from_result(result)
        assert not answer.is_error, answer.text

    async with harness.connected() as client, anyio.create_task_group() as calls:
        for number in range(6):
            calls.start_soon(create, client, number)

    made = {token.id: token for token in harness.cluster.tokens.values() if token.user.startswith("20")}
    assert {path.name: path.read_text() for path in vault.iterdir() if path.suffix != ".of"} == {
        token.id: token.bearer_token for token in made.values()
    }
    assert {path.stem: path.read_text().partition("|")[0] for path in vault.glob("*.of")} == {
        token.id: f"local:service{token.user[-1]}" for token in made.values()
    }


async def test_without_a_destination_no_token_is_created_and_the_reason_is_told(harness: Harness) -> None:
    reason = (
        "this server creates no token: its operator names no place for a bearer token (QUMULO_DELIVERY, or over HTTP "
        "QUMULO_HTTP_CLIENT_ID)"
    )
    old = add_token(harness, expiration_time=None)

    async with harness.connected(delivery="none") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        create = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "local:jane"}))
        issue = ToolAnswer.from_result(await client.call_tool("issue_token", {"id": old.id}))
        audit = ToolAnswer.from_result(await client.call_tool("audit_access_tokens", {}))
        deleted = ToolAnswer.from_result(await client.call_tool("delete_access_token", {"id": old.id}))
        prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
        with pytest.raises(MCPError, match=re.escape(f'There is no prompt "rotate_token", since {reason}')):
            await client.get_prompt("rotate_token", {"token": old.id})
        instructions = client.instructions

    assert tools & WRITE_TOOLS == {"update_access_token", "delete_access_token"}
    assert create.text.startswith(f'There is no tool "create_access_token": {reason}. The tools are list_')
    assert f'"issue_token": {reason}.' in issue.text
    assert "This server creates no token, since QUMULO_DELIVERY names no place for one: " in audit.text
    assert not deleted.is_error
    assert prompts == ["review_tokens"]
    assert instructions is not None
    assert "It never shows a bearer token, and creates no token." in instructions
    assert harness.recorder.bodies("POST", TOKENS_PATH) == []


async def test_a_server_that_only_reads_says_so_whatever_its_destination_is(harness: Harness) -> None:
    refusal = await harness.call_refused("create_access_token", read_only=True, delivery="none")

    assert refusal.startswith('There is no tool "create_access_token": this server only reads.')
