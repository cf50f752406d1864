"""The tools and prompts of a server by name, and what is said to a call of one that there is not.

The SDK answers a tool that it does not know in two words, and a prompt that it cannot render as a fault of the server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, TextContent

from token_tools.quoting import quote_untrusted
from token_tools.server.strict_tool import MAX_MISTAKES, is_empty
from token_tools.views.hints import MAX_NAME_CHARS, render_unknown_tool


@dataclass(frozen=True)
class Catalogue:
    """The middleware that answers for tools and prompts that there are not, and for a prompt's arguments.

    `withheld` are the names of those that a server would have if it did not only read.
    """

    tools: Sequence[Tool]
    prompts: Sequence[Prompt]
    withheld: Sequence[str] = ()

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The answer of the server, or an error in words that mend the call.

        Raises:
            MCPError: If the arguments are none, or it is a prompt's.
        """
        if ctx.request_id is None:
            # Nobody hears what a notification is answered.
            return await call_next(ctx)
        params = dict(ctx.params or {})
        match ctx.method, params:
            case "tools/call", {"name": str(name)} if name not in (offered := [tool.name for tool in self.tools]):
                # A result, as the SDK does it: many hosts show a model nothing else.
                text = render_unknown_tool(name, offered, self.withheld)
                return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
            case "tools/call", {"name": str(name), "arguments": arguments} if not isinstance(arguments, Mapping | None):
                [takes] = [tool.parameters["properties"] for tool in self.tools if tool.name == name]
                raise _explain_wrong_arguments(f"{name} takes {', '.join(takes)}.")
            case "prompts/get", {"name": str(name)}:
                arguments = _validate_arguments(self._find_prompt(name), params.get("arguments") or {})
                return await call_next(replace(ctx, params=params | {"arguments": arguments}))
            case _:
                return await call_next(ctx)

    def _find_prompt(self, name: str) -> Prompt:
        for prompt in self.prompts:
            if prompt.name == name:
                return prompt
        because = ", since this server only reads" if name in self.withheld else ""
        raise MCPError(
            INVALID_PARAMS,
            f"There is no prompt {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}{because}. "
            f"Prompts are: {', '.join(prompt.name for prompt in self.prompts)}.",
        )


def _validate_arguments(prompt: Prompt, given: object) -> dict[str, str]:
    """The arguments that a prompt is rendered with.

    Raises:
        MCPError: If one is missing, is of a wrong type, or does not exist.
    """
    known = {argument.name: argument for argument in prompt.arguments or []}
    takes = "; ".join(f"`{argument.name}`: {argument.description}" for argument in known.values())
    if not isinstance(given, Mapping):
        raise _explain_wrong_arguments(f"{prompt.name} takes {takes}.")
    arguments = cast(Mapping[str, Any], given)
    said = {name: value for name, value in arguments.items() if not is_empty(value)}
    unknown = [name for name in said if name not in known][:MAX_MISTAKES]
    mistakes = [f"{prompt.name} has no argument {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}" for name in unknown]
    mistakes += [f"`{name}` must be text in quotes" for name in known if not isinstance(said.get(name, ""), str)]
    mistakes += [f"`{name}` is missing" for name in known if known[name].required and name not in said]
    if mistakes:
        raise MCPError(INVALID_PARAMS, f"{'; '.join(mistakes)}. {prompt.name} takes {takes}.")
    return said


def _explain_wrong_arguments(takes: str) -> MCPError:
    return MCPError(INVALID_PARAMS, f"The arguments must be a JSON object. {takes}")
