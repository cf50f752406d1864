"""The tools, in a model's words. A docstring here has one reader: the model that decides whether to call the tool."""

from typing import Annotated, Final, Literal

from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.types import CallToolResult, ClientCapabilities, TextContent, ToolAnnotations
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from token_tools.calls import StrictTool, stop_waiting, wait_for_answer
from token_tools.errors import Refusal
from token_tools.identity import Identity, parse_user
from token_tools.summary import (
    LONGEST,
    NewToken,
    Summary,
    TokenList,
    summarize_creation,
    summarize_listing,
    tell_question,
)
from token_tools.workflows import CreationPlan, Workflows

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


class Consent(BaseModel):
    """What a human answers."""

    agree: bool = Field(default=False, description="Yes, make this token")


async def plan_creation(
    ctx: Context[Workflows], user: Identity | Literal["self"], expiration_time: str | None
) -> CreationPlan:
    """What the call would do, found out before anybody is asked."""
    return await ctx.request_context.lifespan_context.plan_creation(user, expiration_time)


async def ask_for_consent(
    ctx: Context[Workflows], plan: Annotated[CreationPlan, Resolve(plan_creation)]
) -> Elicit[Consent] | Consent:
    """The question to the human, or consent where nobody has to be asked."""
    if not plan.reasons:
        return Consent(agree=True)
    workflows = ctx.request_context.lifespan_context
    if not _can_ask(ctx.client_capabilities):
        by_hand = workflows.mint.qq.create_token(plan.order.user, plan.order.expires)
        raise Refusal(
            f"A human has to agree to this first ({' and '.join(plan.reasons)}), and this client cannot ask them. "
            f"Nothing was done. A human can do it by hand: {by_hand} ; or the operator can set QUMULO_CONFIRM=none."
        )
    wait_for_answer(workflows.patience)
    return Elicit(tell_question(plan, address=workflows.address), Consent)


def _can_ask(capabilities: ClientCapabilities | None) -> bool:
    """Whether the client shows forms; an empty declaration means them, from the time when there was nothing else."""
    elicitation = None if capabilities is None else capabilities.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def create_access_token(
    ctx: Context[Workflows],
    plan: Annotated[CreationPlan, Resolve(plan_creation)],
    consent: Annotated[ElicitationResult[Consent], Resolve(ask_for_consent)],
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
    stop_waiting()
    workflows = ctx.request_context.lifespan_context
    if not (isinstance(consent, AcceptedElicitation) and consent.data.agree):
        workflows.turn_down(user, expiration_time, plan)
        raise Refusal("The human did not agree, so nothing was done. Do not ask for the same again unless they say so.")
    creation = await workflows.create_token(user, expiration_time, plan)
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
