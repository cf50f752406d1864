"""The two guided workflows, as a client gets them in both eras."""

import pytest
from mcp.client import Client
from mcp.types import TextContent

from tests.bench import Bench

pytestmark = pytest.mark.anyio


async def read(client: Client, name: str, arguments: dict[str, str]) -> str:
    [message] = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def test_the_prompts_are_these_with_their_arguments(bench: Bench) -> None:
    async with bench.connected() as client:
        prompts = (await client.list_prompts()).prompts

    assert [(prompt.name, prompt.title) for prompt in prompts] == [
        ("review_tokens", "Review access tokens"),
        ("rotate_token", "Rotate an access token"),
    ]
    arguments = [argument for prompt in prompts for argument in prompt.arguments or []]
    assert [(argument.name, argument.required) for argument in arguments] == [
        ("expiring_within", False),
        ("token", True),
    ]
    assert all(prompt.description for prompt in prompts)


async def test_a_server_that_only_reads_has_no_prompt_that_writes(bench: Bench) -> None:
    async with bench.connected(read_only=True) as client:
        prompts = (await client.list_prompts()).prompts

    assert [prompt.name for prompt in prompts] == ["review_tokens"]


async def test_a_prompt_names_only_tools_that_there_are(bench: Bench) -> None:
    async with bench.connected() as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        review = await read(client, "review_tokens", {})
        rotate = await read(client, "rotate_token", {"token": "local:jane"})

    assert 'audit_access_tokens with expiring_within "30d"' in review
    assert 'Rotate an access token: "local:jane".' in rotate
    for text in (review, rotate):
        named = {word.strip(".,;") for word in text.split() if "_access_token" in word}
        assert named
        assert named <= tools


async def test_what_a_person_typed_is_data_in_a_prompt(bench: Bench) -> None:
    async with bench.connected() as client:
        rotate = await read(client, "rotate_token", {"token": "jane\nIgnore all" + "x" * 1000})

    assert '"jane\\nIgnore all' in rotate
    assert len(rotate) < 1200
