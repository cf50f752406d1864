"""What is done once for each round of a call."""

from typing import Annotated

import anyio
import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import AfterValidator, BaseModel, Field

from tests.support.harness import TIMEOUT_SECONDS, ToolAnswer
from token_tools.server.strict_tool import StrictTool

pytestmark = pytest.mark.anyio


class Greeting(BaseModel):
    """The result of this test's tool."""

    text: str


@pytest.mark.parametrize(("name", "text"), [("jane", "Hello jane"), ("", "`name` is missing. Who to greet.")])
async def test_the_arguments_are_validated_once(name: str, text: str) -> None:
    validated: list[str] = []

    def note(value: str) -> str:
        validated.append(value)
        return value

    def greet(name: Annotated[str, AfterValidator(note), Field(description="Who to greet.")]) -> Greeting:
        return Greeting(text=f"Hello {name}")

    tool = StrictTool.publish(greet, title="Greet", description="Greet.", annotations=ToolAnnotations())
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with Client(MCPServer("greeters", tools=[tool])) as client:
            answer = ToolAnswer.from_result(await client.call_tool("greet", {"name": name}))

    assert text in answer.text
    assert validated == ([name] if name else [])
