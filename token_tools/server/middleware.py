"""What is checked before the SDK sees a request: secrets as names, tools and prompts that do not exist.

The SDK answers an unknown tool in two words, repeats an unknown name whatever it is, and reports a prompt that it
cannot render as a fault of the server.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, TextContent

from token_tools.operator_input import MAX_INPUT_CHARS
from token_tools.quoting import has_secret, quote_untrusted
from token_tools.server.strict_tool import MAX_MISTAKES, is_empty
from token_tools.views.hints import MAX_NAME_CHARS, name_clusters, render_unknown_tool


async def refuse_secret_names(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Refuse a request whose method, name or URI is too long or looks like a secret, since the SDK may repeat it.

    Raises:
        MCPError: If it does. The text does not repeat it.
    """
    params = ctx.params or {}
    named = [name for name in (ctx.method, params.get("name"), params.get("uri")) if isinstance(name, str)]
    if ctx.request_id is not None and any(len(name) > MAX_INPUT_CHARS or has_secret(name) for name in named):
        raise MCPError(
            INVALID_PARAMS,
            "There is no such thing here. Its name is not repeated: it is too long, or looks like a secret.",
        )
    return await call_next(ctx)


@dataclass(frozen=True)
class Catalogue:
    """The middleware that answers calls of unknown tools and prompts, and checks the arguments of prompts.

    `withheld` says for each tool and prompt that this server does not offer why it does not.
    """

    tools: Sequence[Tool]
    prompts: Sequence[Prompt]
    withheld: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def names(self) -> Sequence[str]:
        """Return the names of all that is there."""
        return [*(tool.name for tool in self.tools), *(prompt.name for prompt in self.prompts)]

    def without(self, names: Collection[str], *, reason: str) -> Self:
        """Return a catalogue in which these are withheld as well."""
        return replace(
            self,
            tools=[tool for tool in self.tools if tool.name not in names],
            prompts=[prompt for prompt in self.prompts if prompt.name not in names],
            withheld={**self.withheld, **dict.fromkeys(names, reason)},
        )

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Return the answer of the server, or an error that says how to mend the call.

        Raises:
            MCPError: If the arguments are no JSON object, or if a prompt is unknown or does not take its arguments.
        """
        if ctx.request_id is None:
            # A notification has no answer that could say what is wrong.
            return await call_next(ctx)
        params = dict(ctx.params or {})
        match ctx.method, params:
            case "tools/call", {"name": str(name)} if name not in (offered := [tool.name for tool in self.tools]):
                # This is a result, as the SDK's own answer is, since many hosts show a model no other errors.
                text = name_clusters(
                    render_unknown_tool(name, offered, self.withheld), self.tools[0].parameters["properties"]
                )
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
        because = f", since {self.withheld[name]}" if name in self.withheld else ""
        raise MCPError(
            INVALID_PARAMS,
            f"There is no prompt {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}{because}. "
            f"Prompts are: {', '.join(prompt.name for prompt in self.prompts)}.",
        )


def _validate_arguments(prompt: Prompt, given: object) -> dict[str, str]:
    """Return the arguments of a prompt that say something.

    Raises:
        MCPError: If one is missing, is of a wrong type, or does not exist.
    """
    known = {argument.name: argument for argument in prompt.arguments or []}
    takes = "; ".join(f"`{argument.name}`: {argument.description}" for argument in known.values())
    if not isinstance(given, Mapping):
        raise _explain_wrong_arguments(f"{prompt.name} takes {takes}.")
    arguments = cast(Mapping[str, Any], given)
    present = {name: value for name, value in arguments.items() if not is_empty(value)}
    unknown = [name for name in present if name not in known][:MAX_MISTAKES]
    mistakes = [f"{prompt.name} has no argument {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}" for name in unknown]
    mistakes += [f"`{name}` must be text in quotes" for name in known if not isinstance(present.get(name, ""), str)]
    mistakes += [f"`{name}` is missing" for name in known if known[name].required and name not in present]
    if mistakes:
        raise MCPError(INVALID_PARAMS, f"{'; '.join(mistakes)}. {prompt.name} takes {takes}.")
    return present


def _explain_wrong_arguments(takes: str) -> MCPError:
    return MCPError(INVALID_PARAMS, f"The arguments must be a JSON object. {takes}")
