"""Render the answers of update and delete, with what undoes them."""

from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel, Field

from token_tools.cluster.clock import render_clock_note
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.operations.calls import format_call
from token_tools.operations.delete import DeleteResult
from token_tools.operations.next_steps import DISABLE_FIRST_ADVICE
from token_tools.operations.update import UpdateResult
from token_tools.times import format_duration_argument, format_rfc3339, format_time
from token_tools.views.rendered_result import RenderedResult, join_lines, join_warnings
from token_tools.views.tokens import TABLE_HEADER, TokenEntry, render_row, to_entry

MIN_PROPOSED_LIFETIME: Final = timedelta(minutes=1)


class ChangedToken(BaseModel):
    """An access token before and after a change."""

    summary: str
    id: str
    user: str
    changed: bool
    enabled_before: bool
    enabled: bool
    expiration_time_before: str | None = None
    expiration_time: str | None = Field(None, description="Absent: never")
    warning: str | None = None
    next_step: str | None = None


class DeletedToken(TokenEntry):
    """An access token that is gone."""

    summary: str
    warning: str | None = None
    next_step: str


def render_update_result(result: UpdateResult, *, address: str, now: datetime) -> RenderedResult:
    """Render a token before and after an update, and what undoes it."""
    token, wanted = result.plan.token, result.plan.wanted
    after = wanted if result.applied is None or result.applied.token_after is None else result.applied.token_after.state
    whose = f"access token {token.id} of {token.user} on {address}"
    if result.applied is None:
        headline = f"Nothing changed: {whose} is as asked already ({after.render(now=now)})."
    elif after == token.state:
        headline = (
            f"Nothing changed: {whose} is as before ({after.render(now=now)}), though the cluster took the request."
        )
    else:
        headline = f"Changed {whose}: it is {after.render(now=now)}. Before: {token.state.render(now=now)}."
    warnings = [*(result.applied.warnings if result.applied else ()), render_clock_note(result.plan.clock_ahead)]
    fields = ChangedToken(
        summary=headline,
        id=token.id,
        user=str(token.user),
        changed=after != token.state,
        enabled_before=token.state.enabled,
        enabled=after.enabled,
        expiration_time_before=token.expiration_time,
        expiration_time=None if after.expires is None else format_rfc3339(after.expires),
        warning=join_warnings(_render_ignored_update(wanted, after, now), *warnings),
        next_step=_render_undo(result, after, now),
    )
    return RenderedResult(join_lines([headline, fields.warning, fields.next_step]), fields)


def _render_ignored_update(wanted: TokenState, after: TokenState, now: datetime) -> str | None:
    if wanted == after:
        return None
    return f"Beware: the cluster did not take the change as asked; there, the token is {after.render(now=now)}."


def _render_undo(result: UpdateResult, after: TokenState, now: datetime) -> str | None:
    """Render what undoes a change that may stop a service, and what of it cannot be undone; None for other changes."""
    token, before = result.plan.token, result.plan.token.state
    is_stopped = before.enabled and not after.enabled
    is_shortened = after.expires is not None and (before.expires is None or after.expires < before.expires)
    if not is_stopped and not (is_shortened and token.is_live(now=now)):
        return None
    is_moved = before.expires != after.expires
    lost_expiry = _render_lost_expiry(before, now, result.max_lifetime) if is_moved else None
    expires = "never" if before.expires is None else format_rfc3339(before.expires)
    enabling: dict[str, str | bool] = {"enabled": True} if is_stopped else {}
    moving: dict[str, str | bool] = {"expiration_time": expires} if is_moved and lost_expiry is None else {}
    arguments = enabling | moving
    undone = "this" if lost_expiry is None else "the disabling"
    undoing = f"{format_call('update_access_token', id=token.id, **arguments)} undoes {undone}" if arguments else None
    final_call = f"{format_call('delete_access_token', id=token.id)} makes it final" if is_stopped else None
    calls = ", ".join(filter(None, [undoing, final_call]))
    watch = f"Watch whether anything breaks{f'; {calls}' if calls else ''}."
    return watch if lost_expiry is None else f"{watch} {lost_expiry}"


def _render_lost_expiry(before: TokenState, now: datetime, max_lifetime: timedelta | None) -> str | None:
    """Render why the expiry that a token had cannot be set again; None if it can."""
    if before.expires is not None and before.expires <= now:
        return "The expiry from before is over, and cannot be set again."
    if max_lifetime is not None and (before.expires is None or before.expires > now + max_lifetime):
        was = "that it never expired" if before.expires is None else f"the expiry of {format_time(before.expires)}"
        return f"The new expiry stays: QUMULO_MAX_LIFETIME does not allow {was} again."
    return None


def render_delete_result(result: DeleteResult, *, address: str) -> RenderedResult:
    """Render the token that was deleted, and the call that creates another like it."""
    token, now = result.plan.token, result.plan.time
    again = _format_same_expiry(token, now, result.max_lifetime)
    headline = (
        f"Deleted access token {token.id} of {token.user} on {address} for ever: {token.render_lifetime(now=now)}."
    )
    advice = f" The deleted one still worked. {DISABLE_FIRST_ADVICE}" if token.is_live(now=now) else ""
    another = format_call("create_access_token", user=str(token.user), expiration_time=again)
    fields = to_entry(
        DeletedToken,
        token,
        now,
        summary=headline,
        warning=join_warnings(*result.applied.warnings, render_clock_note(result.plan.clock_ahead)),
        next_step=f"Another like it: {another}.{advice}",
    )
    row = render_row(token, fields, now)
    return RenderedResult(join_lines([headline, TABLE_HEADER, row, fields.warning, fields.next_step]), fields)


def _format_same_expiry(token: AccessToken, now: datetime, max_lifetime: timedelta | None) -> str:
    """Return the argument that gives another token this expiry: the same time, or the same lifetime if it is over.

    Where the operator does not allow that, it is the longest lifetime that is allowed.
    """
    if token.expires is None:
        return "never" if max_lifetime is None else format_duration_argument(max_lifetime)
    is_over = token.is_expired(now=now)
    lifetime = token.expires - (token.created if is_over else now)
    if max_lifetime is not None and lifetime > max_lifetime:
        return format_duration_argument(max_lifetime)
    if is_over:
        return format_duration_argument(max(lifetime, MIN_PROPOSED_LIFETIME))
    return format_rfc3339(token.expires)
