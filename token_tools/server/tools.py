"""The tools, described for the model that decides whether to call one.

A description has three lines: what the tool does, what it returns, and what it changes. The description of an argument
repeats in words what its schema says, since some hosts pass on neither defaults nor bounds. Every conversation pays for
all of it, and so a pattern is published only where models write a bare number.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from token_tools.operations.audit import audit_fleet, audit_tokens
from token_tools.operations.changes import list_changes
from token_tools.operations.create import CreatePlan, create_token, plan_create
from token_tools.operations.delete import DeletePlan, delete_token, plan_delete
from token_tools.operations.export import export_tokens
from token_tools.operations.fleet import Fleet
from token_tools.operations.read import get_token, list_tokens
from token_tools.operations.rotate import RotatePlan, plan_rotate, rotate_token
from token_tools.operations.selection import ProgressCallback, choose_criterion, select_tokens
from token_tools.operations.update import UpdatePlan, check_asked_for, plan_update, update_token
from token_tools.operations.user_lookup import User
from token_tools.server.callers import get_fleet, get_services
from token_tools.server.elicitation.asking import AskingTool, ConsentAnswer, consent_resolver, require_consent
from token_tools.server.elicitation.page_offer import OfferingTool, note_delivered
from token_tools.server.elicitation.planning import find_plan
from token_tools.server.strict_tool import StrictTool
from token_tools.server.tool_arguments import (
    NO_BARE_NUMBER,
    NO_BARE_NUMBER_OR_EMPTY,
    DurationArgument,
    FormatArgument,
    IdArgument,
    OptionalIdArgument,
    StateArgument,
    UserArgument,
)
from token_tools.settings import Settings
from token_tools.times import parse_duration
from token_tools.views.audit import AuditReport, render_audit_result
from token_tools.views.changes import ChangedToken, DeletedToken, render_delete_result, render_update_result
from token_tools.views.export import ExportedFile, render_export_result
from token_tools.views.fleet_audit import FleetAuditReport, render_fleet_audit
from token_tools.views.new_tokens import NewToken, RotatedToken, render_create_result, render_rotate_result
from token_tools.views.record import TokenChanges, render_changes_result
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import (
    MAX_LIMIT,
    TokenDetails,
    TokenList,
    render_listing,
    render_selection,
    render_token_view,
)

DEFAULT_LIMIT: Final = 50
DEFAULT_EXPIRING_WITHIN: Final = "30d"
SoonArgument = Annotated[
    Annotated[DurationArgument, NO_BARE_NUMBER_OR_EMPTY],
    Field(description=f"What counts as soon, such as 2w; default {DEFAULT_EXPIRING_WITHIN}."),
]


async def list_access_tokens(  # noqa: PLR0913, PLR0917 - one of them is filled by the server
    ctx: Context[Fleet],
    user: Annotated[
        Annotated[UserArgument, NO_BARE_NUMBER_OR_EMPTY] | None,
        Field(
            description=r"Only this user's: self, local:jane, ad:CORP\jane, ldap_user:jane, uid:N or jane; all if "
            "absent."
        ),
    ] = None,
    after: Annotated[str | None, Field(description="From the previous answer; first page if absent.")] = None,
    limit: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_LIMIT,
            description=f"1 to {MAX_LIMIT} tokens; default {DEFAULT_LIMIT}.",
        ),
    ] = DEFAULT_LIMIT,
    expiring_within: Annotated[
        DurationArgument | None,
        Field(description="Only those that expire within this time, such as 30d; all if absent."),
    ] = None,
    state: Annotated[
        StateArgument,
        Field(description="Only those expiring (in 30d), expired, never_expires or disabled; default any."),
    ] = "any",
) -> Annotated[CallToolResult, TokenList]:
    """Return a page of tokens, or the first of those in one state; fewer where they would be too much to read."""
    services = get_services(ctx)
    criterion = choose_criterion(
        None if state == "any" else state,
        None if expiring_within is None else parse_duration(expiring_within),
        cursor=after,
    )
    if criterion is None:
        listing = await list_tokens(services, user, cursor=after, limit=limit)
        return _to_call_result(render_listing(listing, address=services.address))
    on_progress = _progress_reporter(ctx)
    selection = await select_tokens(services, criterion, user, limit=limit, on_progress=on_progress)
    return _to_call_result(render_selection(selection, address=services.address))


async def get_access_token(ctx: Context[Fleet], id: IdArgument) -> Annotated[CallToolResult, TokenDetails]:
    """Return one token, and its user's other tokens."""
    services = get_services(ctx)
    return _to_call_result(render_token_view(await get_token(services, id), address=services.address))


async def audit_access_tokens(
    ctx: Context[Fleet],
    expiring_within: SoonArgument = DEFAULT_EXPIRING_WITHIN,
) -> Annotated[CallToolResult, AuditReport]:
    """Return what is a risk about all tokens, and report the progress to a client that asks for it."""
    services = get_services(ctx)
    audit = await audit_tokens(services, parse_duration(expiring_within), on_progress=_progress_reporter(ctx))
    return _to_call_result(render_audit_result(audit, address=services.address))


async def export_access_tokens(
    ctx: Context[Fleet],
    format: Annotated[
        FormatArgument, Field(description="csv for spreadsheets, json for programs; default csv.")
    ] = "csv",
) -> Annotated[CallToolResult, ExportedFile]:
    """Write a file of all tokens, and report the progress to a client that asks for it."""
    services = get_services(ctx)
    export = await export_tokens(services, format, on_progress=_progress_reporter(ctx))
    return _to_call_result(render_export_result(export, address=services.address))


async def audit_clusters(
    ctx: Context[Fleet],
    expiring_within: SoonArgument = DEFAULT_EXPIRING_WITHIN,
) -> Annotated[CallToolResult, FleetAuditReport]:
    """Return what is a risk about the tokens of all clusters, and report the progress to a client that asks for it."""
    on_progress = _progress_reporter(ctx)
    audits = await audit_fleet(get_fleet(ctx), parse_duration(expiring_within), on_progress=on_progress)
    return _to_call_result(render_fleet_audit(audits))


async def list_token_changes(
    ctx: Context[Fleet],
    since: Annotated[
        str | None,
        Field(description="Such as 7d, or a time; 30d if absent, all with `id`."),
    ] = None,
    user: Annotated[UserArgument | None, Field(description="As in list_access_tokens; all if absent.")] = None,
    id: Annotated[OptionalIdArgument | None, Field(description="Only this token's; all if absent.")] = None,
) -> Annotated[CallToolResult, TokenChanges]:
    """Return what the record tells, once it is settled what became of what was left unfinished."""
    found = await get_fleet(ctx).ask_all(
        lambda services: list_changes(services, since=since, user=user, token_id=id),
    )
    return _to_call_result(render_changes_result(found))


async def _resolve_create_plan(ctx: Context[Fleet], user: User, expiration_time: str | None) -> CreatePlan:
    return await find_plan(ctx, plan_create, user, expiration_time)


async def _resolve_update_plan(
    ctx: Context[Fleet], id: str, enabled: bool | None, expiration_time: str | None
) -> UpdatePlan:
    check_asked_for(enabled=enabled, expiration_time=expiration_time)
    return await find_plan(ctx, plan_update, id, enabled=enabled, expiration_time=expiration_time)


async def _resolve_delete_plan(ctx: Context[Fleet], id: str) -> DeletePlan:
    return await find_plan(ctx, plan_delete, id)


async def _resolve_rotate_plan(ctx: Context[Fleet], id: str, expiration_time: str | None) -> RotatePlan:
    return await find_plan(ctx, plan_rotate, id, expiration_time)


async def create_access_token(
    ctx: Context[Fleet],
    plan: Annotated[CreatePlan, Resolve(_resolve_create_plan)],
    consent: Annotated[ElicitationResult[ConsentAnswer], consent_resolver(_resolve_create_plan)],
    user: Annotated[
        Annotated[UserArgument, NO_BARE_NUMBER],
        Field(
            description=r"Whom the token authenticates: self, local:jane, ad:CORP\jane, ldap_user:jane, uid:N or jane."
        ),
    ],
    expiration_time: Annotated[
        Annotated[str, NO_BARE_NUMBER_OR_EMPTY] | None,
        Field(description="90d from now, 2027-01-31T17:00:00Z, or never; the operator's default if absent."),
    ] = None,
) -> Annotated[CallToolResult, NewToken]:
    """Create a token as planned, once it is agreed to."""
    services = await require_consent(ctx, consent, plan)
    creation = await create_token(services, plan)
    note_delivered(creation.created.delivered)
    return _to_call_result(render_create_result(creation, address=services.address))


async def update_access_token(  # noqa: PLR0913, PLR0917 - three of them are filled by the server
    ctx: Context[Fleet],
    plan: Annotated[UpdatePlan, Resolve(_resolve_update_plan)],
    consent: Annotated[ElicitationResult[ConsentAnswer], consent_resolver(_resolve_update_plan)],
    id: IdArgument,
    enabled: Annotated[
        bool | None,
        Field(description="false disables it, true undoes that; unchanged if absent."),
    ] = None,
    expiration_time: Annotated[
        Annotated[str, NO_BARE_NUMBER_OR_EMPTY] | None,
        Field(description="90d from now, 2027-01-31T17:00:00Z, or never; unchanged if absent."),
    ] = None,
) -> Annotated[CallToolResult, ChangedToken]:
    """Update a token as planned, once it is agreed to."""
    services = await require_consent(ctx, consent, plan)
    update = await update_token(services, plan)
    return _to_call_result(render_update_result(update, address=services.address, now=plan.time))


async def delete_access_token(
    ctx: Context[Fleet],
    plan: Annotated[DeletePlan, Resolve(_resolve_delete_plan)],
    consent: Annotated[ElicitationResult[ConsentAnswer], consent_resolver(_resolve_delete_plan)],
    id: IdArgument,
) -> Annotated[CallToolResult, DeletedToken]:
    """Delete a token as planned, once it is agreed to."""
    services = await require_consent(ctx, consent, plan)
    return _to_call_result(render_delete_result(await delete_token(services, plan), address=services.address))


async def rotate_access_token(
    ctx: Context[Fleet],
    plan: Annotated[RotatePlan, Resolve(_resolve_rotate_plan)],
    consent: Annotated[ElicitationResult[ConsentAnswer], consent_resolver(_resolve_rotate_plan)],
    id: IdArgument,
    expiration_time: Annotated[
        Annotated[str, NO_BARE_NUMBER_OR_EMPTY] | None,
        Field(description="90d from now, a time, or never; the operator's default if absent."),
    ] = None,
) -> Annotated[CallToolResult, RotatedToken]:
    """Create a second token beside the old one, once it is agreed to."""
    services = await require_consent(ctx, consent, plan)
    rotation = await rotate_token(services, plan)
    note_delivered(rotation.created.delivered)
    return _to_call_result(
        render_rotate_result(rotation, address=services.address, credential_location=services.credential_location)
    )


def _progress_reporter(ctx: Context[Fleet]) -> ProgressCallback:
    async def report_progress(seen: int) -> None:
        await ctx.report_progress(seen, message=f"{seen:,} tokens read")

    return report_progress


def _to_call_result(rendered: RenderedResult) -> CallToolResult:
    text, structured = rendered.truncate()
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=structured)


_READS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
# Each call writes another file.
_WRITES_FILES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
# Some hosts ask a person only where this hint says that a tool destroys, and a new credential deserves a question too.
# No call is idempotent: 90 days from now is another time at each.
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
            "List access tokens: all, or of one user, expiring soon, or in one state.\n"
            "Returns a page of id, user, creator, expiry and state.\n"
            "Changes nothing."
        ),
        annotations=_READS,
    ),
    StrictTool.publish(
        get_access_token,
        title="Get an access token",
        description=(
            "Get one access token.\n"
            "Returns all that is known of it, its user's other tokens, and whether this server runs on it.\n"
            "Changes nothing."
        ),
        annotations=_READS,
    ),
    StrictTool.publish(
        audit_access_tokens,
        title="Audit access tokens",
        description=(
            "Audit all access tokens of the cluster for risks.\n"
            "Returns how many never expire, expire soon, are expired, disabled, old, or of admin or deleted users; "
            "the worst few, what mends it, what is new since the last audit.\n"
            "Changes no token."
        ),
        annotations=_READS,
    ),
    StrictTool.publish(
        list_token_changes,
        title="List changes",
        description=(
            "List what this server did to tokens since a time, of all users or one.\n"
            "Returns when, by whom, and who agreed; first what is half done.\n"
            "Changes no token."
        ),
        annotations=_READS,
    ),
)
EXPORT_TOOL: Final = StrictTool.publish(
    export_access_tokens,
    title="Export access tokens",
    description=(
        "Write all access tokens, with what an audit finds about each, to a file for people.\n"
        "Returns its path and how many have each finding.\n"
        "Changes no token."
    ),
    annotations=_WRITES_FILES,
)
WRITE_TOOLS: Final = (
    OfferingTool.publish(
        create_access_token,
        title="Create an access token",
        description=(
            "Create an access token with which a service can act as a user over REST; not for groups.\n"
            "Returns its id and the place of its bearer token.\n"
            "Changes the cluster: each call creates a token, of two a user can have."
        ),
        annotations=_CHANGES,
    ),
    AskingTool.publish(
        update_access_token,
        title="Change an access token",
        description=(
            "Enable or disable an access token, or move its expiry.\n"
            "Returns it before and after.\n"
            "Changes only what is given: enabled, expiration_time."
        ),
        annotations=_CHANGES,
    ),
    AskingTool.publish(
        delete_access_token,
        title="Delete an access token",
        description=(
            "Delete an access token for ever: what uses it stops working.\n"
            "Returns it as it was.\n"
            "Changes what cannot be undone: disable it with update_access_token first."
        ),
        annotations=_DELETES,
    ),
    OfferingTool.publish(
        rotate_access_token,
        title="Rotate an access token",
        description=(
            "Rotate an access token: create a second one for its user, deliver it, and prove that it works.\n"
            "Returns the new id, the place of its bearer token, and how to retire the old one.\n"
            "Changes nothing else: the old one stays alive."
        ),
        annotations=_CHANGES,
    ),
)


FOR_ALL: Final = ("audit_access_tokens", "list_token_changes")
"""The tools of which one call can be for all clusters of a server."""
CREATING: Final = ("create_access_token", "rotate_access_token")
"""The tools that create a token."""


class ToolRule(NamedTuple):
    """A tool, whether the operator's settings for a cluster allow it, and whether one call can be for all clusters."""

    tool: StrictTool
    is_allowed: Callable[[Settings], bool]
    for_all: bool = False


def _is_always_allowed(_settings: Settings) -> bool:
    return True


def _may_write(settings: Settings) -> bool:
    return not settings.read_only


def _may_create(settings: Settings) -> bool:
    return settings.may_create_tokens


def _may_write_reports(settings: Settings) -> bool:
    return settings.may_write_reports


TOOLS: Final = (
    *(ToolRule(tool, _is_always_allowed, tool.name in FOR_ALL) for tool in READ_TOOLS),
    ToolRule(EXPORT_TOOL, _may_write_reports),
    *(ToolRule(tool, _may_create if tool.name in CREATING else _may_write) for tool in WRITE_TOOLS),
)
"""The tools of a server with one cluster, in the order in which they are listed."""


def list_fleet_tools() -> Sequence[ToolRule]:
    """Return the tools of a server with several clusters, in that order. No other server waits for their schemas."""
    audit_tool = StrictTool.publish(
        audit_clusters,
        name="audit_access_tokens",
        title="Audit access tokens",
        description=(
            "Audit all access tokens of one cluster or all for risks.\n"
            "Returns what could not be audited; how many never expire, expire soon, are expired, disabled, old, or of "
            "admin or deleted users; the worst few, what mends it, what is new since the last audit.\n"
            "Changes no token."
        ),
        annotations=_READS,
    )
    return [rule._replace(tool=audit_tool) if rule.tool.name == audit_tool.name else rule for rule in TOOLS]
