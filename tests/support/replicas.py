"""Servers that share one database and one cluster, and calls whose rounds reach one or another of them."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mcp.client import Client
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.types import CallToolResult, ElicitRequest, ElicitResult, InputRequiredResult

from tests.support.harness import AGREES, Harness, ScriptedPerson, ToolAnswer
from token_tools.operations.caller import Caller
from token_tools.server.http.signed_in import SignedIn

KEYS = (b"a" * 32, b"b" * 32)
"""Keys that seal what a client sends back with an answer."""


@contextmanager
def calling_as(name: str, *, subject: str | None = None) -> Generator[None]:
    """Let what is called in the block be called by a machine; `subject` is how the SDK knows it, `name` if absent."""
    with calling(Caller(id=f"https://idp.example.com#{name}", name=name), subject=subject or name):
        yield


@contextmanager
def calling(caller: Caller, *, subject: str = "somebody") -> Generator[None]:
    """Let what is called in the block be called by somebody who may write; `subject` is how the SDK knows them."""
    token = SignedIn(client_id="chat", scopes=[], subject=subject, caller=caller, role="write")
    before = auth_context_var.set(AuthenticatedUser(token))
    try:
        yield
    finally:
        auth_context_var.reset(before)


@dataclass(frozen=True)
class AskedCall:
    """A call that waits for an answer to its question."""

    tool: str
    arguments: Mapping[str, Any]
    key: str
    question: str
    state: str | None

    async def answer(self, client: Client, answer: ElicitResult = AGREES) -> "AskedCall | ToolAnswer":
        """Call again with an answer; return what comes of it, which may be another question."""
        result = await client.session.call_tool(
            self.tool,
            {**self.arguments},
            input_responses={self.key: answer},
            request_state=self.state,
            allow_input_required=True,
        )
        return _to_outcome(self.tool, self.arguments, result)

    async def finish(self, client: Client) -> ToolAnswer:
        """Call again with a yes, which has to be taken for an answer."""
        answer = await self.answer(client)
        assert isinstance(answer, ToolAnswer)
        return answer

    async def is_asked_anew(self, client: Client) -> bool:
        """Call again with a yes; tell whether that leads to another question."""
        answer = await self.answer(client)
        return isinstance(answer, AskedCall) and answer.question != self.question

    def with_arguments(self, **arguments: object) -> "AskedCall":
        """Return a call with other arguments that has the state of this one."""
        return replace(self, arguments={**self.arguments, **arguments})


async def call(client: Client, tool: str, arguments: Mapping[str, Any]) -> AskedCall | ToolAnswer:
    """Make the first round of a call, and return its question if there is one."""
    return _to_outcome(tool, arguments, await client.session.call_tool(tool, {**arguments}, allow_input_required=True))


async def ask(client: Client, tool: str, arguments: Mapping[str, Any]) -> AskedCall:
    """Make the first round of a call, which has to end in a question."""
    asked = await call(client, tool, arguments)
    assert isinstance(asked, AskedCall)
    return asked


def _to_outcome(
    tool: str, arguments: Mapping[str, Any], result: CallToolResult | InputRequiredResult
) -> AskedCall | ToolAnswer:
    if isinstance(result, CallToolResult):
        return ToolAnswer.from_result(result)
    [(key, request)] = (result.input_requests or {}).items()
    assert isinstance(request, ElicitRequest)
    return AskedCall(tool, arguments, key, request.params.message, result.request_state)


@asynccontextmanager
async def two_servers(harness: Harness) -> AsyncGenerator[tuple[Client, Client]]:
    """Connect clients to two servers."""
    person = ScriptedPerson([])
    async with harness.connected(person=person) as one, harness.connected(person=person) as other:
        yield one, other
