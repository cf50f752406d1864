"""The warning in every answer that the server's own token expires soon."""

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from token_tools.operations.fleet import Fleet
from token_tools.server.strict_tool import WARNING_FIELD
from token_tools.views.own_expiry import render_expiry_warning
from token_tools.views.rendered_result import append_warning, join_warnings


async def warn_of_expiry(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Return the answer of a tool with a warning for each of its clusters on which the server's own token ends soon.

    The clusters are asked while the tool works. What is not known soon after its end, the next answer tells.
    """
    if ctx.method != "tools/call":
        return await call_next(ctx)
    fleet: Fleet = ctx.lifespan_context
    for services in fleet.members:
        if services.own_token_watch is not None:
            services.own_token_watch.begin()
    result = await call_next(ctx)
    # A question to a person has no content, and no place for a warning.
    if isinstance(result, dict) and "content" in result and (warning := await _join_warnings(fleet)):
        [block], fields = result["content"], result.get("structuredContent")
        text, fields = append_warning(block["text"], fields, field=WARNING_FIELD, warning=warning)
        structured = {} if fields is None else {"structuredContent": fields}
        return {**result, "content": [{**block, "text": text}], **structured}
    return result


async def _join_warnings(fleet: Fleet) -> str | None:
    """Return the warnings about all clusters of a call as one text, None if there are none."""
    found = [
        (services, await services.own_token_watch.find())
        for services in fleet.members
        if services.own_token_watch is not None
    ]
    return join_warnings(*(render_expiry_warning(services, own) for services, own in found if own is not None))
