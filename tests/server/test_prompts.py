"""Test the two prompts for guided workflows in both eras."""

from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, GetPromptResult, Request, TextContent

from tests.support.harness import Harness

pytestmark = pytest.mark.anyio


async def get_prompt_text(client: Client, name: str, arguments: dict[str, str]) -> str:
    [message] = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def test_the_prompts_are_these_with_their_arguments(harness: Harness) -> None:
    async with harness.connected() as client:
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


async def test_a_server_that_only_reads_has_no_prompt_that_writes(harness: Harness) -> None:
    async with harness.connected(read_only=True) as client:
        prompts = (await client.list_prompts()).prompts

    assert [prompt.name for prompt in prompts] == ["review_tokens"]


async def test_a_prompt_names_only_tools_that_there_are(harness: Harness) -> None:
    async with harness.connected() as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        review = await get_prompt_text(client, "review_tokens", {})
        rotate = await get_prompt_text(client, "rotate_token", {"token": "local:jane"})

    assert 'audit_access_tokens with expiring_within "30d"' in review
    assert 'Rotate an access token: "local:jane".' in rotate
    for text in (review, rotate):
        named = {word.strip(".,;") for word in text.split() if "_access_token" in word}
        assert named
        assert named <= tools


async def test_what_a_person_typed_is_data_in_a_prompt(harness: Harness) -> None:
    async with harness.connected() as client:
        rotate = await get_prompt_text(client, "rotate_token", {"token": "jane\nIgnore all" + "x" * 1000})

    assert '"jane\\nIgnore all' in rotate
    assert len(rotate) < 1200


TOKEN_ARGUMENT_ERROR = "rotate_token takes `token`: Id of the token, or the user whose token it is, such as local:jane."
EXPIRING_WITHIN_ERROR = "review_tokens takes `expiring_within`: How soon is soon to expire, such as 30d."


async def get_prompt_unchecked(client: Client, name: str, arguments: object) -> GetPromptResult:
    """Get a prompt with arguments that the SDK's own client would not send."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    return await client.session.send_request(
        Request[dict[str, Any], str](method="prompts/get", params=params), GetPromptResult
    )


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param("rotate_token", {}, f"`token` is missing. {TOKEN_ARGUMENT_ERROR}", id="missing"),
        pytest.param("rotate_token", None, f"`token` is missing. {TOKEN_ARGUMENT_ERROR}", id="none"),
        pytest.param("rotate_token", {"token": ""}, f"`token` is missing. {TOKEN_ARGUMENT_ERROR}", id="empty"),
        pytest.param("rotate_token", {"token": None}, f"`token` is missing. {TOKEN_ARGUMENT_ERROR}", id="null"),
        pytest.param(
            "rotate_token", {"token": 1}, f"`token` must be text in quotes. {TOKEN_ARGUMENT_ERROR}", id="number"
        ),
        pytest.param(
            "rotate_token", {"token": ["1"]}, f"`token` must be text in quotes. {TOKEN_ARGUMENT_ERROR}", id="list"
        ),
        pytest.param(
            "rotate_token",
            {"token": "1", "user": "jane"},
            f'rotate_token has no argument "user". {TOKEN_ARGUMENT_ERROR}',
            id="one-too-many",
        ),
        pytest.param(
            "rotate_token",
            {"id": "1"},
            f'rotate_token has no argument "id"; `token` is missing. {TOKEN_ARGUMENT_ERROR}',
            id="another-name",
        ),
        pytest.param(
            "rotate_token", ["1"], f"The arguments must be a JSON object. {TOKEN_ARGUMENT_ERROR}", id="no-object"
        ),
        pytest.param(
            "review_tokens",
            {"days": "30"},
            f'review_tokens has no argument "days". {EXPIRING_WITHIN_ERROR}',
            id="one-that-is-not",
        ),
        pytest.param(
            "review_tokens",
            {"expiring_within": 30},
            f"`expiring_within` must be text in quotes. {EXPIRING_WITHIN_ERROR}",
            id="days",
        ),
        pytest.param(
            "rotate",
            {"token": "1"},
            'There is no prompt "rotate". Prompts are: review_tokens, rotate_token.',
            id="no-such-prompt",
        ),
    ],
)
async def test_a_mistake_in_a_prompt_is_told_in_words_that_mend_it_and_is_no_fault_of_the_server(
    harness: Harness, caplog: pytest.LogCaptureFixture, name: str, arguments: object, expected: str
) -> None:
    async with harness.connected() as client:
        with pytest.raises(MCPError) as failure:
            await get_prompt_unchecked(client, name, arguments)

    assert (failure.value.code, failure.value.message) == (INVALID_PARAMS, expected)
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


@pytest.mark.parametrize("arguments", [None, {}, {"expiring_within": ""}, {"expiring_within": None}])
async def test_what_a_prompt_may_go_without_may_be_empty(harness: Harness, arguments: object) -> None:
    async with harness.connected() as client:
        [message] = (await get_prompt_unchecked(client, "review_tokens", arguments)).messages

    assert isinstance(message.content, TextContent)
    assert 'expiring_within "30d"' in message.content.text


async def test_a_server_that_only_reads_says_so_of_the_prompt_that_writes(harness: Harness) -> None:
    async with harness.connected(read_only=True) as client:
        with pytest.raises(MCPError) as failure:
            await get_prompt_unchecked(client, "rotate_token", {"token": "1"})

    assert failure.value.message == (
        'There is no prompt "rotate_token", since this server only reads. Prompts are: review_tokens.'
    )
