"""What a caller may call who may only read, and what the others may besides."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, INVALID_REQUEST, CallToolResult, TextContent

from token_tools.errors import Refusal
from token_tools.server.callers import find_fleet, record_refusal
from token_tools.server.http.signed_in import find_signed_in, is_reader
from token_tools.server.middleware import Catalogue
from token_tools.server.observation import note_failure
from token_tools.storage.attempts import Operation

ONLY_READER: Final = "you may only read here"
_LISTS: Final = {"tools/list": "tools", "prompts/list": "prompts"}


class RoleCatalogue:
    """The middleware that tells who calls what is not there what they may call instead.

    `withheld` are the names of the tools and prompts that a caller may not use who only reads.
    """

    def __init__(self, catalogue: Catalogue, withheld: Collection[str]) -> None:
        self._catalogue = catalogue
        self._for_readers = catalogue.without(withheld, reason=ONLY_READER)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Return the answer of the server, or an error that says how to mend the call.

        Raises:
            MCPError: See `Catalogue`.
        """
        is_unknown = _find_name(ctx) not in self._catalogue.names
        catalogue = self._for_readers if is_reader() and is_unknown else self._catalogue
        return await catalogue(ctx, call_next)


@dataclass(frozen=True)
class RoleGate:
    """The middleware that shows a caller what they may call, and refuses and records the rest.

    `withheld` are the names of the tools and prompts that a caller may not use who only reads. `needs_sign_in` says
    that nothing is answered to a caller who is not known.
    """

    withheld: Collection[str]
    needs_sign_in: bool

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Return the answer of the server, or of what a caller may not do, that they may not.

        Raises:
            MCPError: If it is a prompt that leads to what they may not do, or if they have not signed in.
        """
        if self.needs_sign_in and find_signed_in() is None:
            raise MCPError(INVALID_REQUEST, "This server answers nobody who has not signed in.")
        # What has no id is no call, and has no answer.
        if ctx.request_id is None or not is_reader():
            return await call_next(ctx)
        match ctx.method, _find_name(ctx):
            case "tools/call", name if name in self.withheld:
                return await _refuse_call(ctx, name)
            case "prompts/get", name if name in self.withheld:
                raise MCPError(INVALID_PARAMS, f"{_explain(name)} It leads to a change.")
            case "tools/list" | "prompts/list", _:
                return self._filter(ctx.method, await call_next(ctx))
            case _:
                return await call_next(ctx)

    def _filter(self, method: str, result: HandlerResult) -> HandlerResult:
        kind = _LISTS[method]
        answer = cast(Mapping[str, Any], result)
        return {**answer, kind: [item for item in answer[kind] if item["name"] not in self.withheld]}


def _find_name(ctx: ServerRequestContext[Any, Any]) -> str:
    return str((ctx.params or {}).get("name"))


async def _refuse_call(ctx: ServerRequestContext[Any, Any], tool: str) -> CallToolResult:
    refusal = Refusal(f"{_explain(tool)} An operator of this server decides who may change tokens.")
    note_failure(refusal)
    arguments = cast(Mapping[str, Any], (ctx.params or {}).get("arguments") or {})
    for services in find_fleet(ctx).members:
        await record_refusal(services, cast(Operation, tool.partition("_")[0]), arguments, refusal)
    text = f"Nothing was done. {refusal}"
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _explain(name: str) -> str:
    return f"You may read the access tokens, and not call {name}."
