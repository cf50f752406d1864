"""The tools, in a model's words: what is described here has one reader, the model that decides whether to call one.

A description has a line for each sentence, and says what is returned and what changes. That of an argument says in
words what its schema says besides, since some hosts hand on no defaults and no bounds.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

from mcp.server.elicitation import AcceptedElicitation, DeclinedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.types import CallToolResult, ClientCapabilities, TextContent, ToolAnnotations
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from token_tools.cluster.identity import Identity, parse_user
from token_tools.errors import Refusal
from token_tools.operations.audit import audit_tokens
from token_tools.operations.consent import NoConsent, Plan
from token_tools.operations.plans import CreatePlan, DeletePlan, RotatePlan, UpdatePlan
from token_tools.operations.workflows import Workflows
from token_tools.quoting import has_secret, truncate
from token_tools.redaction import redact
from token_tools.server.strict_tool import StrictTool, start_consent_timeout, stop_consent_timeout
from token_tools.times import parse_duration
from token_tools.views.audit import AuditReport, render_audit_result
from token_tools.views.changes import ChangedToken, DeletedToken, render_delete_result, render_update_result
from token_tools.views.new_tokens import NewToken, RotatedToken, render_create_result, render_rotate_result
from token_tools.views.questions import render_manual_command, render_no_consent, render_question
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import TokenDetails, TokenList, render_listing, render_token_view

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
DEFAULT_EXPIRING_WITHIN: Final = "30d"
_TOKEN_ID: Final = re.compile(r"[0-9]{21,}")
"""Longer than every number of a user."""

_DECORATED_ID: Final = re.compile(
    # No two of these overlap, so that there is one way to read a text.
    r"(?:access[ _-]?)?(?:token[ _-]?)?(?:id)?[\s:=#\"'`\[]{0,4}([0-9]{1,64})[\s\"'`\]]{0,4}[.,;]?",
    re.ASCII | re.IGNORECASE,
)
_GROUPED_ID: Final = re.compile(r"[0-9]{1,3}([, _'\u2019\u00a0\u202f])[0-9]{3}(?:\1[0-9]{3}){4,20}")
_SHORTENED_ID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+|(?=.*[0-9])[0-9]*(?:\u2026|\.{2,3}|\*)[0-9]*")
_SEVERAL_IDS: Final = re.compile(
    r"[\s\[\"']*[0-9]{2,64}(?:[\s\[\]\"',;&/]|and)+[0-9]{2,64}(?:[\s\[\]\"',;&/]|and|[0-9])*"
)


def _validate_duration(text: str) -> str:
    parse_duration(text)
    return text


def _coerce_id(text: object) -> object:
    """The digits of an id as models and our own answers write it, or what was given.

    Raises:
        ValueError: For what is near to an id, with what to write; it repeats nothing but an id.
    """
    if not isinstance(text, str):
        return text
    stripped = text.strip()
    if written := _DECORATED_ID.fullmatch(stripped):
        return written[1]
    if _GROUPED_ID.fullmatch(stripped) and not has_secret(stripped):
        raise ValueError(f"has marks between its digits: write {re.sub('[^0-9]', '', stripped)}")
    if _SHORTENED_ID.fullmatch(stripped):
        raise ValueError("does not have all digits of an id: list_access_tokens tells them")
    if _SEVERAL_IDS.fullmatch(stripped):
        raise ValueError("has several numbers: make one call for each token, with all digits of its id alone")
    if has_secret(stripped):
        raise ValueError(
            "is a bearer token, or looks like one: list_access_tokens tells the ids, which are digits alone"
        )
    return stripped


def _coerce_user(spelling: object) -> object:
    if isinstance(spelling, str) and _TOKEN_ID.fullmatch(spelling.strip()):
        raise ValueError("is the id of a token, not a user: get_access_token tells whose it is")
    return parse_user(spelling)


def _coerce_word(word: object) -> object:
    return word.strip().lower() if isinstance(word, str) else word


User = Annotated[Identity | Literal["self"], BeforeValidator(_coerce_user), WithJsonSchema({"type": "string"})]
TokenId = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,64}$",
        description="The token's digits as text, 1 to 64 of them, as list_access_tokens tells them.",
    ),
    BeforeValidator(_coerce_id),
]


async def list_access_tokens(
    ctx: Context[Workflows],
    user: Annotated[
        User | None,
        Field(
            description=r"Only this user's tokens: self, local:NAME, ad:DOMAIN\NAME, ldap_user:NAME, uid:N, auth_id:N, "
            "sid:S-1-… or NAME. All users if absent."
        ),
    ] = None,
    after: Annotated[
        str | None, Field(description="Key of the next page, from the previous answer. The first page if absent.")
    ] = None,
    limit: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_PAGE_SIZE,
            description=f"Most tokens to return: 1 to {MAX_PAGE_SIZE}, {DEFAULT_PAGE_SIZE} if absent.",
        ),
    ] = DEFAULT_PAGE_SIZE,
) -> Annotated[CallToolResult, TokenList]:
    """A page of tokens, or fewer where they would be too much to read."""
    workflows = ctx.request_context.lifespan_context
    listing = await workflows.list_tokens(user, cursor=after or None, limit=limit)
    return _to_call_result(render_listing(listing, address=workflows.address))


async def get_access_token(ctx: Context[Workflows], id: TokenId) -> Annotated[CallToolResult, TokenDetails]:
    """One token and what is beside it."""
    workflows = ctx.request_context.lifespan_context
    return _to_call_result(render_token_view(await workflows.get_token(id), address=workflows.address))


async def audit_access_tokens(
    ctx: Context[Workflows],
    expiring_within: Annotated[
        str,
        AfterValidator(_validate_duration),
        Field(
            description=(
                f"How soon is soon to expire: a duration such as {DEFAULT_EXPIRING_WITHIN} or 2w; "
                f"{DEFAULT_EXPIRING_WITHIN} if absent."
            )
        ),
    ] = DEFAULT_EXPIRING_WITHIN,
    report: Annotated[
        Literal["csv", "json", "none"],
        Field(description="csv or json also writes a file of all tokens with their findings; none if absent."),
        BeforeValidator(_coerce_word),
    ] = "none",
) -> Annotated[CallToolResult, AuditReport]:
    """What is a risk about all tokens; it tells its progress to a client that wants to know."""
    workflows = ctx.request_context.lifespan_context

    async def tell_progress(seen: int) -> None:
        await ctx.report_progress(seen, message=f"{seen:,} tokens read")

    chosen = None if report == "none" else report
    review = await audit_tokens(
        workflows, parse_duration(expiring_within), report_format=chosen, on_progress=tell_progress
    )
    return _to_call_result(render_audit_result(review, address=workflows.address))


class Consent(BaseModel):
    """What a human answers; `agree` is None if the client sent neither true nor false."""

    agree: Annotated[bool | None, BeforeValidator(lambda given: given if isinstance(given, bool) else None)] = None

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The form: what the specification lists and nothing else, since some clients take no more.

        Without the default, others show it with the tick set.
        """
        tick = {
            "type": "boolean",
            "title": "Yes, do this",
            "description": "Set this tick to agree; accepting without it does nothing.",
            "default": False,
        }
        return {"type": "object", "properties": {"agree": tick}, "required": ["agree"]}


async def plan_create(
    ctx: Context[Workflows], user: Identity | Literal["self"], expiration_time: str | None
) -> CreatePlan:
    """What the call would do, found out before anybody is asked."""
    return await ctx.request_context.lifespan_context.plan_create(user, expiration_time)


async def plan_rotate(ctx: Context[Workflows], id: str, expiration_time: str | None) -> RotatePlan:
    """The same for a rotate."""
    return await ctx.request_context.lifespan_context.plan_rotate(id, expiration_time)


async def plan_update(
    ctx: Context[Workflows],
    id: str,
    enabled: bool | None,
    expiration_time: str | None,
) -> UpdatePlan:
    """The same for an update."""
    workflows = ctx.request_context.lifespan_context
    return await workflows.plan_update(id, enabled=enabled, expiration_time=expiration_time)


async def plan_delete(ctx: Context[Workflows], id: str) -> DeletePlan:
    """The same for a delete."""
    return await ctx.request_context.lifespan_context.plan_delete(id)


def consent_resolver(plan_resolver: Callable[..., Awaitable[Plan]]) -> Resolve:
    """The resolver that asks a human about a plan, or gives consent where nobody has to be asked."""

    async def ask_for_consent(
        ctx: Context[Workflows], plan: Annotated[Plan, Resolve(plan_resolver)]
    ) -> Elicit[Consent] | Consent:
        if not plan.reasons:
            return Consent(agree=True)
        workflows = ctx.request_context.lifespan_context
        if not _has_forms(ctx.client_capabilities):
            raise Refusal(
                f"A person has to agree to this first ({' and '.join(plan.reasons)}), and this client cannot ask them. "
                f"{render_manual_command(plan, workflows.qq)}"
            )
        start_consent_timeout(workflows.consent_timeout, lambda no_yes: _render_no_consent(workflows, plan, no_yes))
        return Elicit(redact(truncate(render_question(plan, address=workflows.address))), Consent)

    return Resolve(ask_for_consent)


def _has_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether the client shows forms; an empty declaration means them, from the time when there was nothing else."""
    elicitation = None if capabilities is None else capabilities.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _require_consent(ctx: Context[Workflows], consent: ElicitationResult[Consent], plan: Plan) -> Workflows:
    """What carries the plan out, if a human agreed to it or nobody had to."""
    stop_consent_timeout()
    workflows = ctx.request_context.lifespan_context
    if (no_yes := _find_no_consent(consent)) is not None:
        workflows.decline(plan)
        raise Refusal(_render_no_consent(workflows, plan, no_yes))
    workflows.pending_plans.reset_no_consent_count(plan)
    return workflows


def _find_no_consent(consent: ElicitationResult[Consent]) -> NoConsent | None:
    match consent:
        case AcceptedElicitation(data=Consent(agree=None)):
            return "not_boolean"
        case AcceptedElicitation(data=Consent(agree=agree)):
            return None if agree else "not_ticked"
        case DeclinedElicitation():
            return "declined"
        case _:
            return "dismissed"


def _render_no_consent(workflows: Workflows, plan: Plan, no_consent: NoConsent) -> str:
    times = workflows.pending_plans.count_no_consent(plan)
    return render_no_consent(plan, workflows.qq, no_consent, times=times)


async def create_access_token(
    ctx: Context[Workflows],
    plan: Annotated[CreatePlan, Resolve(plan_create)],
    consent: Annotated[ElicitationResult[Consent], consent_resolver(plan_create)],
    user: Annotated[
        User,
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
    """A new token as planned, once it is agreed to."""
    workflows = _require_consent(ctx, consent, plan)
    return _to_call_result(render_create_result(await workflows.create_token(plan), address=workflows.address))


async def update_access_token(  # noqa: PLR0913, PLR0917 - three of them are filled by the server
    ctx: Context[Workflows],
    plan: Annotated[UpdatePlan, Resolve(plan_update)],
    consent: Annotated[ElicitationResult[Consent], consent_resolver(plan_update)],
    id: TokenId,
    enabled: Annotated[
        bool | None,
        Field(description="true to enable it, false to disable it, which can be undone. Unchanged if absent."),
    ] = None,
    expiration_time: Annotated[
        str | None,
        Field(
            description="As in create_access_token: 90d from now, 2027-01-31T17:00:00Z, or never. Unchanged if absent."
        ),
    ] = None,
) -> Annotated[CallToolResult, ChangedToken]:
    """The token as planned, once it is agreed to."""
    workflows = _require_consent(ctx, consent, plan)
    update = await workflows.update_token(plan)
    return _to_call_result(render_update_result(update, address=workflows.address, now=plan.time))


async def delete_access_token(
    ctx: Context[Workflows],
    plan: Annotated[DeletePlan, Resolve(plan_delete)],
    consent: Annotated[ElicitationResult[Consent], consent_resolver(plan_delete)],
    id: TokenId,
) -> Annotated[CallToolResult, DeletedToken]:
    """Nothing of the token, once that is agreed to."""
    workflows = _require_consent(ctx, consent, plan)
    return _to_call_result(render_delete_result(await workflows.delete_token(plan), address=workflows.address))


async def rotate_access_token(
    ctx: Context[Workflows],
    plan: Annotated[RotatePlan, Resolve(plan_rotate)],
    consent: Annotated[ElicitationResult[Consent], consent_resolver(plan_rotate)],
    id: TokenId,
    expiration_time: Annotated[
        str | None, Field(description="As in create_access_token, such as 90d. The operator's default if absent.")
    ] = None,
) -> Annotated[CallToolResult, RotatedToken]:
    """A second token beside the old one, once it is agreed to."""
    workflows = _require_consent(ctx, consent, plan)
    rotation = await workflows.rotate_token(plan)
    return _to_call_result(
        render_rotate_result(rotation, address=workflows.address, credential_location=workflows.credential_location)
    )


def _to_call_result(rendered: RenderedResult) -> CallToolResult:
    text, structured = rendered.truncate()
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=structured)


_READS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
# A report is a new file at each call.
_REPORTS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
# Some hosts ask a person by this hint alone, and a new credential is no less than a change. What `90d` from now is
# differs at each call.
_CHANGES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
_DELETES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

READ_TOOLS: Final = (
    StrictTool.publish(
        list_access_tokens,
        title="List access tokens",
        description=(
            "List the cluster's access tokens, a page at a time.\n"
            "Returns the id, user, expiry and creator of each, and whether it is disabled; never a bearer token.\n"
            "Changes nothing."
        ),
        annotations=_READS,
    ),
    StrictTool.publish(
        get_access_token,
        title="Get an access token",
        description=(
            "Get one access token: all that is known of it.\n"
            "Returns its user's other tokens too, and whether this server runs on it.\n"
            "Changes nothing."
        ),
        annotations=_READS,
    ),
    StrictTool.publish(
        audit_access_tokens,
        title="Audit access tokens",
        description=(
            "Audit all access tokens of the cluster in one call: what is a risk, and what mends it.\n"
            "Returns how many never expire, expire soon, have expired, are disabled or old, or belong to admin or "
            "deleted users, and the worst few.\n"
            "Changes no token."
        ),
        annotations=_REPORTS,
    ),
)
WRITE_TOOLS: Final = (
    StrictTool.publish(
        create_access_token,
        title="Create an access token",
        description=(
            "Create an access token for a user, so that a service can act as them over REST; not for groups.\n"
            "Each call makes another token, and a user can have two.\n"
            "Returns its id, and the place that the operator configured for its bearer token."
        ),
        annotations=_CHANGES,
    ),
    StrictTool.publish(
        update_access_token,
        title="Change an access token",
        description=("Enable or disable an access token, or move its expiry.\nReturns it before and after."),
        annotations=_CHANGES,
    ),
    StrictTool.publish(
        delete_access_token,
        title="Delete an access token",
        description=(
            "Delete an access token for ever.\n"
            "To be able to go back, disable it with update_access_token first.\n"
            "Returns it as it was."
        ),
        annotations=_DELETES,
    ),
    StrictTool.publish(
        rotate_access_token,
        title="Rotate an access token",
        description=(
            "Rotate an access token: make a second one for the same user, deliver it, and prove that it works.\n"
            "The old one stays alive.\n"
            "Returns the id of the new one, the place of its bearer token, and how to retire the old one."
        ),
        annotations=_CHANGES,
    ),
)
