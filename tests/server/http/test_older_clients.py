"""Test what a client of the older protocol is told by a server that shares its keys with others."""

import pytest
from pydantic import SecretStr

from tests.support.harness import AGREES, Harness, ScriptedPerson, ToolAnswer
from tests.support.http_in_process import ANONYMOUS, Setup, serving

pytestmark = pytest.mark.anyio


async def test_a_client_of_the_older_protocol_learns_why_it_cannot_ask_here_and_what_can(harness: Harness) -> None:
    harness.settings = harness.settings.model_copy(update={"delivery": "inline"})
    settings = ANONYMOUS.model_copy(update={"http_state_keys": (SecretStr("a" * 44),)})
    person = ScriptedPerson([AGREES])

    async with serving(harness, Setup(settings)) as server, server.connected("legacy", person=person) as client:
        called = await client.call_tool("create_access_token", {"user": "local:admin", "expiration_time": "30d"})

    answer = ToolAnswer.from_result(called)
    assert answer.is_error
    assert "cannot ask them here: this server has replicas" in answer.text
    assert "in the protocol of 2026-07-28, and this client speaks an older one. One that speaks that can" in answer.text
    assert "a person can do it by hand: (umask 077" in answer.text
