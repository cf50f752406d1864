"""Test how the record names who asked for a change."""

from pathlib import Path

import anyio
import pytest

from tests.support.json_rpc import COMMAND, REQUEST_META, Message
from tests.support.record import read_record
from tests.support.server_process import TIMEOUT_SECONDS, served_cluster
from tests.support.stdio_client import receive, send
from token_tools.server.callers import MAX_CLIENT_CHARS
from token_tools.system_user import find_user_name

pytestmark = pytest.mark.anyio

UNKNOWN_USER = 54321


def test_a_user_without_a_name_is_told_by_a_number() -> None:
    assert find_user_name(UNKNOWN_USER) == f"uid {UNKNOWN_USER}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "told"),
    [
        pytest.param(None, "an unnamed client", id="unnamed"),
        pytest.param({"name": "a\nb\u202e", "version": "1"}, "a b 1", id="hostile"),
        pytest.param({"name": "n" * 99, "version": "1"}, f"{'n' * (MAX_CLIENT_CHARS - 1)}… 1", id="long"),
    ],
)
async def test_a_client_is_told_as_it_names_itself_as_data(
    tmp_path: Path, client: dict[str, str] | None, told: str
) -> None:
    meta: dict[str, object] = {name: value for name, value in REQUEST_META.items() if not name.endswith("clientInfo")}
    if client is not None:
        meta["io.modelcontextprotocol/clientInfo"] = client
    call: Message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "create_access_token", "arguments": {"user": "local:jane"}, "_meta": meta},
    }
    with served_cluster(tmp_path) as cluster, anyio.fail_after(TIMEOUT_SECONDS):
        async with await anyio.open_process([COMMAND], env=cluster.create_environment()) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await send(process, call)
            await receive(process.stdout, 1)
            await process.stdin.aclose()
            await process.wait()

    [entry] = read_record(cluster.state_folder)
    assert entry["outcome"] == "created"
    assert entry["actor"].endswith(f" via {told}")
