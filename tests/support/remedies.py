"""The calls of tools that an answer advises."""

import json
import re
from typing import Any

from mcp.client import Client

from tests.support.harness import AUDIT_TOOL, ToolAnswer

CALL_PATTERN = re.compile(r"(\w+_access_tokens?)\(([^)]*)\)")
ARGUMENT_PATTERN = re.compile(r'(\w+)=("[^"]*"|\w+)')


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that stand in a text, each as a tool and its arguments."""
    return [
        (tool, {name: json.loads(value) for name, value in ARGUMENT_PATTERN.findall(arguments)})
        for tool, arguments in CALL_PATTERN.findall(text)
    ]


async def find_remedies(client: Client) -> list[tuple[str, dict[str, Any]]]:
    """Audit the cluster, and return the calls that mend its findings, each once."""
    answer = ToolAnswer.from_result(await client.call_tool(AUDIT_TOOL, {}))
    remedies = [remedy for finding in answer.fields["findings"] for remedy in parse_calls(finding["mend"])]
    return [remedy for number, remedy in enumerate(remedies) if remedy not in remedies[:number]]


async def follow_remedies(client: Client, *, max_calls: int) -> list[tuple[str, dict[str, Any]]]:
    """Follow the remedies of the audit until none is left, and return the calls that were made, each once."""
    made: list[tuple[str, dict[str, Any]]] = []
    while calls := await find_remedies(client):
        for remedy in calls:
            assert remedy not in made
            made.append(remedy)
            answer = ToolAnswer.from_result(await client.call_tool(*remedy))
            assert not answer.is_error, answer.text
        assert len(made) < max_calls
    return made
