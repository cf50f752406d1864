"""Test the page about privileges: its commands against a sandbox, and its table of what each tool needs."""

import re
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client

from tests.support.harness import ADMIN, JANE, ToolAnswer, create_harness
from tests.support.page_names import REPOSITORY, list_blocks
from tests.support.permissions import permission_bits
from tests.support.sandbox_process import BIN_FOLDER, TIMEOUT_SECONDS, SandboxProcess, running_sandbox
from token_tools.configuration import Profile
from token_tools.sandbox.cluster import LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE
from token_tools.server.app import create_server
from token_tools.settings import Settings
from token_tools.times import parse_rfc3339, utc_now

pytestmark = pytest.mark.anyio

PAGE = (REPOSITORY / "docs" / "privileges.md").read_text(encoding="utf-8")
NEEDS = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
PRIVILEGES = (READ_PRIVILEGE, WRITE_PRIVILEGE, LOOKUP_PRIVILEGE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home folder in which the commands of the page are run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def sandbox(home: Path) -> Generator[SandboxProcess]:
    """Run every command of the page, in its order, and yield the sandbox with what they made there."""
    with running_sandbox() as sandbox:
        for block in list_blocks(PAGE, "sh"):
            run_block(block, sandbox, home)
        yield sandbox


def run_block(block: str, sandbox: SandboxProcess, home: Path) -> None:
    """Run the commands of a block, which may ask for one password."""
    here = f"--host {sandbox.settings['QUMULO_HOST']} --port {sandbox.settings['QUMULO_PORT']}"
    ran = subprocess.run(
        ["/bin/sh", "-ec", f"umask 022; {block.replace('--host cluster.example.com', here)}"],
        input=f"{sandbox.settings['password'] if ' login ' in block else 'long and random'}\n",
        env={"PATH": f"{BIN_FOLDER}:/usr/bin:/bin", "HOME": str(home)},
        # Without a terminal, qq reads a password from stdin.
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "v1:" not in ran.stdout + ran.stderr


@asynccontextmanager
async def connected(sandbox: SandboxProcess, credentials_file: Path, folder: Path) -> AsyncGenerator[Client]:
    """Connect a client to a server that works with this credential."""
    settings = Settings(
        host=sandbox.settings["QUMULO_HOST"],
        port=int(sandbox.settings["QUMULO_PORT"]),
        ca_file=Path(sandbox.settings["QUMULO_CA_FILE"]),
        credentials_file=credentials_file,
        state_dir=folder,
    )
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(create_server([Profile(settings)])) as client:
            yield client


async def call(client: Client, tool: str, **arguments: object) -> ToolAnswer:
    return ToolAnswer.from_result(await client.call_tool(tool, arguments))


@pytest.mark.slow
async def test_the_reader_of_the_page_reads_and_creates_for_nobody_but_itself(
    sandbox: SandboxProcess, home: Path, tmp_path: Path
) -> None:
    store = home / ".config" / "qumulo" / "mcp-reader"

    async with connected(sandbox, store, tmp_path) as client:
        listed = await call(client, "list_access_tokens")
        audited = await call(client, "audit_access_tokens")
        created = await call(client, "create_access_token", user="local:metrics")
        created_for_itself = await call(client, "create_access_token", user="self")

    assert permission_bits(store) == 0o600
    [own] = [token for token in listed.fields["tokens"] if token["user"] == "local:mcp-reader"]
    assert timedelta(days=89) < parse_rfc3339(own["expiration_time"]) - utc_now() <= timedelta(days=90)
    assert not audited.is_error
    assert created.is_error
    assert created.text.startswith("Nothing was done. This server's credential lacks a privilege")
    assert f"An administrator can grant {WRITE_PRIVILEGE} through a role." in created.text
    assert "for local:mcp-reader" in created_for_itself.text


@pytest.mark.slow
async def test_the_writer_of_the_page_creates_for_others(sandbox: SandboxProcess, home: Path, tmp_path: Path) -> None:
    store = home / ".config" / "qumulo" / "mcp-writer"

    async with connected(sandbox, store, tmp_path) as client:
        created = await call(client, "create_access_token", user="local:metrics")

    assert permission_bits(store) == 0o600
    assert "Created access token" in created.text
    assert "local:metrics" in created.text


@pytest.mark.slow
def test_no_login_of_the_administrator_is_left(sandbox: SandboxProcess, home: Path) -> None:
    left = {path.name for path in (home / ".config" / "qumulo").rglob("*") if path.is_file()}

    assert sandbox.process.poll() is None
    assert left == {"mcp-reader", "mcp-writer"}


async def test_the_page_has_each_tool(tmp_path: Path) -> None:
    async with create_harness("auto", tmp_path).connected() as client:
        tools = (await client.list_tools()).tools

    assert [tool for tool, *_ in NEEDS] == [tool.name for tool in tools]


@pytest.mark.parametrize(("tool", "cells"), [(tool, cells) for tool, *cells in NEEDS], ids=[tool for tool, *_ in NEEDS])
async def test_a_tool_works_with_the_privileges_that_it_needs_and_names_one_that_it_lacks(
    tool: str, cells: list[str], tmp_path: Path
) -> None:
    needed = {privilege for privilege, cell in zip(PRIVILEGES, cells, strict=True) if cell == "needed"}

    assert not (await call_with(needed, tool, tmp_path)).is_error
    for privilege in needed:
        lacking = await call_with(needed - {privilege}, tool, tmp_path)
        assert lacking.is_error
        assert f"An administrator can grant {privilege} through a role." in lacking.text


async def call_with(privileges: set[str], tool: str, folder: Path) -> ToolAnswer:
    """Call a tool, about another user's token, of a server whose credential has these privileges."""
    harness = create_harness("auto", folder)
    harness.cluster.add_account(replace(ADMIN, privileges=frozenset(privileges)))
    token = harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id)
    about_token = {"id": token.id}
    arguments: dict[str, dict[str, Any]] = {
        "get_access_token": about_token,
        "update_access_token": about_token | {"enabled": False},
        "delete_access_token": about_token,
        "rotate_access_token": about_token,
        "create_access_token": {"user": "ldap_user:bob"},
        "export_access_tokens": {"format": "csv"},
    }
    return await harness.call(tool, arguments.get(tool, {}), confirm="none", report_dir=folder / "reports")
