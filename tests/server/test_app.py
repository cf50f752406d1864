"""Test the server as a whole: its instructions, read-only servers, and folders that cannot be used."""

import pytest

from tests.support.harness import Harness, ToolAnswer
from tests.support.record import state_file

pytestmark = pytest.mark.anyio


async def test_the_instructions_name_the_cluster_and_what_is_never_shown(harness: Harness) -> None:
    async with harness.connected() as client:
        assert client.instructions is not None
        assert "c.example.com:8000" in client.instructions
        assert "never shows a bearer token" in client.instructions
    async with harness.connected(delivery="inline") as client:
        assert client.instructions is not None
        assert "is in the answer, once" in client.instructions


async def test_a_read_only_server_reads_and_does_not_know_how_to_write(harness: Harness) -> None:
    async with harness.connected(read_only=True) as client:
        listed = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))
        refused = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": "self"}))

    assert not listed.is_error
    assert (refused.is_error, refused.text) == (
        True,
        'There is no tool "create_access_token": this server only reads. '
        "The tools are list_access_tokens, get_access_token, audit_access_tokens, list_token_changes.",
    )
    assert not state_file(harness.settings.state_dir).exists()


async def test_a_delivery_folder_in_disorder_does_not_keep_anyone_from_reading(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    (harness.settings.delivery_dir / ".pending-directory").mkdir(parents=True)

    answer = await harness.call("list_access_tokens")

    assert not answer.is_error
    assert "A new bearer token cannot be kept in" in caplog.text
