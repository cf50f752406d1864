"""The tools, in a model's words. A docstring here has one reader: the model that decides whether to call the tool."""

from typing import Annotated, Final, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BeforeValidator, Field, WithJsonSchema

from token_tools.calls import StrictTool
from token_tools.identity import Identity, parse_user
from token_tools.summary import LONGEST, NewToken, Summary, TokenList, summarize_creation, summarize_listing
from token_tools.workflows import Workflows

PAGE: Final = 50
LONGEST_PAGE: Final = 200

Spelling = (BeforeValidator(parse_user), WithJsonSchema({"type": "string"}))


async def list_access_tokens(
    ctx: Context[Workflows],
    user: Annotated[
        Identity | Literal["self"] | None,
        *Spelling,
        Field(
            description=r"Only this user's tokens: self, local:NAME, ad:DOMAIN\NAME, ldap_user:NAME, uid:N, auth_id:N, "
            "sid:S-1-… or NAME. All users if absent."
        ),
    ] = None,
    after: Annotated[str | None, Field(description="Key of the next page, from the previous answer.")] = None,
    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE, description="Most tokens to return.")] = PAGE,
) -> Annotated[CallToolResult, TokenList]:
    """List the cluster's access tokens: id, user, expiry, creator and whether disabled.

    A page at a time; bearer tokens are never shown.
    """
    workflows = ctx.request_context.lifespan_context
    listing = await workflows.list_tokens(user, after=after or None, limit=limit)
    summary = summarize_listing(listing, address=workflows.address)
    while summary.size > LONGEST and limit > 1:
        # Asked again for fewer, since only the cluster can tell the key that goes on after the last one shown.
        limit = max(1, min(limit, len(listing.tokens)) * LONGEST // summary.size)
        listing = await workflows.list_tokens(user, after=after or None, limit=limit)
        summary = summarize_listing(listing, address=workflows.address)
    return _answer(summary)


async def create_access_token(
    ctx: Context[Workflows],
    user: Annotated[
        Identity | Literal["self"],
        *Spelling,
        Field(
            description=r"Whom the token authenticates: self, local:NAME, ad:DOMAIN\NAME, ldap_user:NAME, uid:N, "
            "auth_id:N, sid:S-1-… or NAME."
        ),
    ],
    expiration_time: Annotated[
        str | None,
        Field(
            description="Duration from now (90d, 12h, P90D), time with offset (2027-01-31T17:00:00Z), or never. "
            "The operator's default if absent."
        ),
    ] = None,
) -> Annotated[CallToolResult, NewToken]:
    """Create an access token for a user, so that a service can act as them over REST. Not for groups.

    The bearer token goes where the operator configured; the answer tells the place. Each call makes another token, and
    a user can have two.
    """
    workflows = ctx.request_context.lifespan_context
    creation = await workflows.create_token(user, expiration_time=expiration_time)
    return _answer(summarize_creation(creation, address=workflows.address))


READING: Final = (
    StrictTool.publish(
        list_access_tokens,
        title="List access tokens",
        annotations=ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    ),
)
WRITING: Final = (
    StrictTool.publish(
        create_access_token,
        title="Create an access token",
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
        ),
    ),
)


def _answer(summary: Summary) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=summary.text)],
        structured_content=summary.fields.model_dump(mode="json", exclude_none=True),
    )
