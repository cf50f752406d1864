"""Test the embedded cluster and the answers of our tools against the vendor's Python SDK and `qq`."""

import json
import os
import re
import shlex
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.types import TextContent
from pydantic import SecretStr

from tests.support.permissions import permission_bits
from tests.support.sandbox_process import BIN_FOLDER, SandboxProcess, run_process, running_sandbox
from token_tools.cluster.identity import Identity
from token_tools.configuration import Profile
from token_tools.server.app import create_server
from token_tools.settings import Settings

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60


def create_settings(sandbox: SandboxProcess, folder: Path) -> Settings:
    return Settings(
        host=sandbox.settings["QUMULO_HOST"],
        port=int(sandbox.settings["QUMULO_PORT"]),
        ca_file=Path(sandbox.settings["QUMULO_CA_FILE"]),
        bearer_token=SecretStr(sandbox.settings["QUMULO_BEARER_TOKEN"]),
        delivery_dir=folder / "tokens",
    )


def run_who_am_i(sandbox: SandboxProcess, store: Path) -> dict[str, Any]:
    """Return the JSON at the beginning of the output of `qq who_am_i`, for the token in a store."""
    answer = sandbox.run_qq("who_am_i", store=store)
    assert (answer.returncode, answer.stderr) == (0, "")
    me: dict[str, Any] = json.JSONDecoder().raw_decode(answer.stdout)[0]
    return me


def test_the_sdk_is_told_who_it_is_and_by_which_token(sandbox: SandboxProcess) -> None:
    me = sandbox.run_sdk("client.auth.who_am_i()")

    assert (me["name"], me["id"]) == ("admin", "500")
    assert sandbox.run_sdk(f"tokens.get({me['access_token_id']!r}).to_dict()")["user"]["auth_id"] == me["id"]


def test_the_sdk_reads_the_version(sandbox: SandboxProcess) -> None:
    assert sandbox.run_sdk("client.version.version()")["revision_id"] == "Qumulo Core 7.9.2.1"


def test_the_sdk_makes_gets_changes_and_deletes_a_token(sandbox: SandboxProcess) -> None:
    made = sandbox.run_sdk("tokens.create(Identity('local:jane'), parse('2030-01-01T00:00:00Z')).to_dict()")
    token_id = made["id"]

    assert made["bearer_token"].startswith("access-v1:")
    assert sandbox.run_sdk(f"tokens.get({token_id!r}).to_dict()")["expiration_time"] == "2030-01-01T00:00:00Z"
    assert sandbox.run_sdk("client.auth.who_am_i()", bearer_token=made["bearer_token"])["name"] == "jane"

    changed = sandbox.run_sdk(f"tokens.modify({token_id!r}, parse('2031-01-01T00:00:00+02:00'), False).to_dict()")

    assert (changed["expiration_time"], changed["enabled"]) == ("2030-12-31T22:00:00Z", False)
    assert sandbox.run_sdk("client.auth.who_am_i()", bearer_token=made["bearer_token"])["status"] == 401

    assert sandbox.run_sdk(f"tokens.delete({token_id!r})") is None
    assert sandbox.run_sdk(f"tokens.get({token_id!r}).to_dict()") == {
        "status": 404,
        "error_class": "http_not_found_error",
        "description": "no such access token",
    }


def test_the_sdk_lists_page_by_page_what_it_lists_at_once(sandbox: SandboxProcess) -> None:
    at_once = sandbox.run_sdk("[[e.id for e in page.entries] for page in tokens.list()]")
    paged = sandbox.run_sdk("[[e.id for e in page.entries] for page in tokens.list(limit=3)]")

    assert len(at_once) == 1
    assert [len(page) for page in paged] == [3] * (len(at_once[0]) // 3) + [len(at_once[0]) % 3]
    assert [*chain.from_iterable(paged)] == at_once[0]


def test_the_sdk_lists_the_tokens_of_one_user(sandbox: SandboxProcess) -> None:
    owners = sandbox.run_sdk("[e.user['name'] for page in tokens.list(Identity('local:backup')) for e in page.entries]")

    assert owners == ["backup", "backup"]


@pytest.mark.parametrize(
    ("expression", "status"),
    [
        pytest.param("tokens.create(Identity('local:backup'))", 400, id="third-token"),
        pytest.param("tokens.create(Identity('local:Users'))", 400, id="group"),
        pytest.param("tokens.create(Identity('local:nobody'))", 404, id="unknown-user"),
        pytest.param("client.request('GET', '/v1/nothing')", 404, id="unknown-path"),
        pytest.param("client.request('PUT', '/v1/version')", 405, id="wrong-verb"),
    ],
)
def test_the_sdk_understands_each_refusal(sandbox: SandboxProcess, expression: str, status: int) -> None:
    answer = sandbox.run_sdk(expression)

    assert answer["status"] == status
    assert answer["error_class"].endswith("_error")
    assert answer["description"] != "Dev error: No json error response."


def test_qq_makes_lists_disables_and_deletes_a_token(sandbox: SandboxProcess, tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = json.loads(sandbox.run_qq("auth_create_access_token", "local:metrics", "--file", str(store)).stdout)

    assert run_who_am_i(sandbox, store)["access_token_id"] == made["id"]
    assert made["id"] in sandbox.run_qq("auth_list_access_tokens", "--user", "local:metrics").stdout
    assert sandbox.run_qq("auth_modify_access_token", made["id"], "--disable").returncode == 0
    assert "401" in sandbox.run_qq("who_am_i", store=store).stderr
    assert sandbox.run_qq("auth_delete_access_token", made["id"]).returncode == 0
    assert "Error 404: http_not_found_error" in sandbox.run_qq("auth_get_access_token", made["id"]).stderr


@pytest.fixture
async def by_hand_command(sandbox: SandboxProcess, tmp_path: Path) -> str:
    """Return the command that a client which cannot ask gets, adapted to an operator who has logged in."""
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(create_server([Profile(create_settings(sandbox, tmp_path))])) as client:
            answer = await client.call_tool(
                "create_access_token", {"user": r"ad:CORP\tom.meyer", "expiration_time": "never"}
            )
    [text] = answer.content
    assert isinstance(text, TextContent)
    command = re.search(r"by hand: (.*)$", text.text)
    assert command is not None
    return command[1].replace("qq ", f"{BIN_FOLDER / 'qq'} --credentials-store {sandbox.settings['store']} ", 1)


@pytest.mark.anyio
@pytest.mark.parametrize("shell", ["sh", "bash"])
async def test_a_creation_by_hand_makes_a_private_file_and_shows_no_secret(
    sandbox: SandboxProcess, tmp_path: Path, by_hand_command: str, shell: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()

    answer = run_process("env", f"HOME={home}", shell, "-c", f"umask 000; {by_hand_command}")

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    [store] = home.iterdir()
    assert permission_bits(store) == 0o600
    me = run_who_am_i(sandbox, store)
    assert me["name"] == "CORP\\tom.meyer"
    sandbox.run_sdk(f"tokens.delete({me['access_token_id']!r})")


@pytest.mark.anyio
@pytest.mark.parametrize("shell", ["sh", "bash"])
async def test_a_creation_by_hand_makes_no_token_where_the_file_exists_and_leaves_that(
    sandbox: SandboxProcess, tmp_path: Path, by_hand_command: str, shell: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    [name] = set(re.findall(r"access-token-\w+", by_hand_command))
    home.joinpath(name).write_text("somebody's")
    before = sandbox.run_sdk("[e.id for page in tokens.list() for e in page.entries]")

    answer = run_process("env", f"HOME={home}", shell, "-c", by_hand_command)

    assert answer.returncode != 0
    assert answer.stdout == ""
    assert "exist" in answer.stderr
    assert home.joinpath(name).read_text() == "somebody's"
    assert sandbox.run_sdk("[e.id for page in tokens.list() for e in page.entries]") == before


@pytest.mark.anyio
@pytest.mark.parametrize("shell", ["sh", "bash"])
async def test_a_creation_by_hand_that_the_cluster_declines_says_so_and_leaves_no_file(
    tmp_path: Path, by_hand_command: str, shell: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()

    answer = run_process(
        "env", f"HOME={home}", shell, "-c", re.sub(r"(create_access_token) \S+", r"\1 auth_id:1", by_hand_command)
    )

    assert (answer.returncode, answer.stdout) == (1, "")
    assert "Error 404" in answer.stderr
    assert [*home.iterdir()] == []


def test_qq_tells_the_version(sandbox: SandboxProcess) -> None:
    assert "Qumulo Core 7.9.2.1" in sandbox.run_qq("version").stdout


@pytest.mark.anyio
async def test_our_list_and_the_sdk_s_are_the_same_entry_by_entry(sandbox: SandboxProcess, tmp_path: Path) -> None:
    theirs = sandbox.run_sdk("[e.to_dict() for page in tokens.list() for e in page.entries]")

    ours: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(create_server([Profile(create_settings(sandbox, tmp_path))])) as client:
            while True:
                answer = (await client.call_tool("list_access_tokens", {"limit": 7} | after)).structured_content
                assert answer is not None
                usual = {"enabled": True} | ({"creator": answer["usual_creator"]} if "usual_creator" in answer else {})
                ours += [usual | entry for entry in answer["tokens"]]
                if "after" not in answer:
                    break
                after = {"after": answer["after"]}

    def as_we_tell_it(entry: dict[str, Any]) -> dict[str, Any]:
        answer = entry | {
            "user": str(Identity.from_json(entry["user"])),
            "creator": str(Identity.from_json(entry["creator"])),
        }
        return {key: value for key, value in answer.items() if value is not None}

    assert [{k: v for k, v in entry.items() if k != "expired"} for entry in ours] == [*map(as_we_tell_it, theirs)]


@pytest.mark.anyio
async def test_qq_works_with_a_token_as_our_create_delivers_it(sandbox: SandboxProcess, tmp_path: Path) -> None:
    settings = create_settings(sandbox, tmp_path)
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(create_server([Profile(settings)])) as client:
            answer = (await client.call_tool("create_access_token", {"user": r"ad:CORP\tom.meyer"})).structured_content

    assert answer is not None
    me = run_who_am_i(sandbox, Path(answer["bearer_token_in"]))
    assert (me["name"], me["access_token_id"]) == ("CORP\\tom.meyer", answer["id"])
    sandbox.run_sdk(f"tokens.delete({answer['id']!r})")


@pytest.mark.anyio
async def test_a_sandbox_told_to_fail_makes_an_orphan_that_is_found_and_can_be_deleted_as_told(tmp_path: Path) -> None:
    """The test uses a real connection, and runs the command that the error names."""
    with running_sandbox("--fault", "create=cut-after") as sandbox:
        with anyio.fail_after(TIMEOUT_SECONDS):
            async with Client(create_server([Profile(create_settings(sandbox, tmp_path))])) as client:
                answer = await client.call_tool("create_access_token", {"user": "local:metrics"})

        [text] = answer.content
        assert isinstance(text, TextContent)
        command = re.search(r"qq --host .* auth_delete_access_token (\d+)$", text.text)
        assert command is not None
        assert sandbox.run_qq("auth_get_access_token", command[1]).returncode == 0
        bin_qq, *arguments = shlex.split(command[0])
        run_process(str(BIN_FOLDER / bin_qq), "--credentials-store", sandbox.settings["store"], *arguments)
        assert sandbox.run_qq("auth_get_access_token", command[1]).returncode != 0


def test_a_fault_that_does_not_exist_is_refused_with_those_that_do() -> None:
    answer = run_process(str(BIN_FOLDER / "qumulo-token-tools"), "sandbox", "--fault", "create=explode")

    assert (answer.returncode, answer.stdout) == (2, "")
    assert "cut-after" in answer.stderr


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_is_none_is_refused_in_one_line(port: str) -> None:
    answer = run_process(str(BIN_FOLDER / "qumulo-token-tools"), "sandbox", f"--port={port}")

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "qumulo-token-tools: argument --port: must be a whole number from 0 to 65535\n"


def test_a_port_that_is_taken_is_told_in_one_line(sandbox: SandboxProcess) -> None:
    port = sandbox.settings["QUMULO_PORT"]

    answer = run_process(str(BIN_FOLDER / "qumulo-token-tools"), "sandbox", "--port", port)

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == f"qumulo-token-tools: --port {port} cannot be served: Address already in use.\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_sandbox_cleanly_and_leaves_no_secret_behind(signum: signal.Signals) -> None:
    with running_sandbox() as sandbox:
        store = Path(sandbox.settings["store"])
        assert permission_bits(store) == 0o600
        os.kill(sandbox.process.pid, signum)

        assert sandbox.process.wait(TIMEOUT_SECONDS) == 0
        assert sandbox.process.stderr is not None
        assert sandbox.process.stderr.read() == ""
        assert not store.parent.exists()
