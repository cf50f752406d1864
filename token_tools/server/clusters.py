"""Which cluster is a call about, where a server has several?

Each tool then takes `cluster`. It is taken off the arguments before the tool sees them, and the tool gets the services
of that cluster alone. Where it may be left out, the tool gets those of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.types import CallToolResult, TextContent

from token_tools.configuration import Profile
from token_tools.operations.calls import naming_cluster
from token_tools.operations.fleet import Fleet
from token_tools.quoting import quote_untrusted
from token_tools.server.strict_tool import StrictTool, is_empty
from token_tools.views.hints import MAX_NAME_CHARS

ARGUMENT = "cluster"


@dataclass(frozen=True)
class OfferedTool:
    """A tool of a server that has several clusters, and those of them for which it may be called.

    `for_all` says that a call without a cluster is about all of these.
    """

    tool: StrictTool
    profiles: Sequence[Profile]
    for_all: bool

    def publish(self) -> StrictTool:
        """Return the tool with the argument that names a cluster, before its other ones."""
        schema = self.tool.parameters
        choice = {
            "type": "string",
            "enum": [profile.name for profile in self.profiles],
            "description": "Which cluster; all if absent." if self.for_all else "Which cluster.",
        }
        required = [*([] if self.for_all else [ARGUMENT]), *schema.get("required", [])]
        parameters = schema | {"properties": {ARGUMENT: choice, **schema["properties"]}}
        return self.tool.model_copy(update={"parameters": parameters | ({"required": required} if required else {})})

    def find_cluster(self, given: object) -> str | None:
        """Return the name of the cluster that an argument means, however its letters are written; None for no such."""
        word = given.strip().casefold() if isinstance(given, str) else None
        return next((name for profile in self.profiles if (name := str(profile.name)).casefold() == word), None)

    def explain_mistake(self, given: object, all_profiles: Sequence[Profile]) -> str:
        """Explain which clusters there are instead of what was given."""
        choices = "; ".join(map(render_cluster, self.profiles))
        known = replace(self, profiles=all_profiles).find_cluster(given)
        if known is not None:
            return f"This server may only read {known}. {self.tool.name} can be called for: {choices}."
        if is_empty(given):
            return f"`{ARGUMENT}` is missing. It is one of: {choices}."
        what = f" {quote_untrusted(given, max_chars=MAX_NAME_CHARS)}" if isinstance(given, str) else ""
        return f"`{ARGUMENT}` must be the name of a cluster, and there is none{what}. It is one of: {choices}."


@dataclass(frozen=True)
class ClusterChoice:
    """The middleware that narrows each call to the cluster that it names."""

    profiles: Sequence[Profile]
    offered: Mapping[str, OfferedTool]

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Return the answer of the server for the cluster that a call names, or say which ones there are."""
        params = dict(ctx.params or {})
        offered = self.offered.get(str(params.get("name"))) if ctx.method == "tools/call" else None
        if offered is None:
            return await call_next(ctx)
        rest = dict(cast(Mapping[str, Any], params.get("arguments") or {}))
        given = rest.pop(ARGUMENT, None)
        fleet: Fleet = ctx.lifespan_context
        narrowed = replace(ctx, params=params | {"arguments": rest})
        if is_empty(given) and offered.for_all:
            return await call_next(narrowed)
        name = offered.find_cluster(given)
        if name is None:
            text = str(offered.tool.explain_refusal(offered.explain_mistake(given, self.profiles)))
            return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
        with naming_cluster(name):
            return await call_next(replace(narrowed, lifespan_context=fleet.narrow(name)))


def render_cluster(profile: Profile) -> str:
    """Render a cluster in a line: `lab (lab.example.com:8000), only read: Nothing of value`."""
    access = ", only read" if profile.settings.read_only else ""
    description = f": {profile.description}" if profile.description else ""
    return f"{profile.label}{access}{description}"
