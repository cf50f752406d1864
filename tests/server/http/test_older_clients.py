"""Test what a client of the older protocol is told where it cannot be asked, and that keys alone are no reason."""

import pytest
from pydantic import SecretStr

from tests.support.harness import AGREES, Harness, ScriptedPerson, ToolAnswer
from tests.support.http_in_process import ANONYMOUS, Setup, serving
from token_tools.server.http.bounds import BOUNDS_OF_REPLICA

pytestmark = pytest.mark.anyio


async def test_a_client_of_the_older_protocol_learns_why_it_cannot_ask_here_and_what_can(harness: Harness) -> None:
    answer = await create_for_admin(harness, Setup(bounds=BOUNDS_OF_REPLICA))

    assert answer.is_error
    assert "cannot ask them here: this server has replicas" in answer.text
    assert "in the protocol of 2026-07-28, and this client speaks an older one. One that speaks that can" in answer.text
    assert "a person can do it by hand: (umask 077" in answer.text


async def test_a_single_server_with_keys_asks_a_client_of_the_older_protocol(harness: Harness) -> None:
    settings = ANONYMOUS.model_copy(update={"http_state_keys": (SecretStr("a" * 44),)})

    answer = await create_for_admin(harness, Setup(settings))

    assert not answer.is_error, answer.text
    assert answer.text.startswith("Created")


async def create_for_admin(harness: Harness, setup: Setup) -> ToolAnswer:
    """Call for what a person has to agree to, as a client of the older protocol whose person does."""
    harness.settings = harness.settings.model_copy(update={"delivery": "inline"})
    person = ScriptedPerson([AGREES])
    async with serving(harness, setup) as server, server.connected("legacy", person=person) as client:
        called = await client.call_tool("create_access_token", {"user": "local:admin", "expiration_time": "30d"})
    return ToolAnswer.from_result(called)
