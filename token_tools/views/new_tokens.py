"""Render the answers of create and rotate, and what a question says about a new token before it is created."""

from collections.abc import Iterator

from pydantic import BaseModel, Field

from token_tools.cluster.clock import render_clock_note
from token_tools.operations.create import CreatePlan, CreateResult
from token_tools.operations.new_token import CreatedToken
from token_tools.operations.next_steps import (
    HAND_OVER_STEP,
    choose_first_step,
    render_hand_over,
    render_own_steps,
    render_steps,
)
from token_tools.operations.rotate import RotateResult
from token_tools.operations.unfinished import render_unfinished, render_untraced
from token_tools.storage.delivery import PickupLocation
from token_tools.times import format_relative_time, format_rfc3339, format_time
from token_tools.views.rendered_result import RenderedResult, join_lines, join_warnings


class NewToken(BaseModel):
    """An access token that was just created."""

    summary: str
    id: str
    user: str
    expiration_time: str | None = Field(None, description="Absent: never")
    bearer_token_in: str
    fingerprint: str
    bearer_token: str | None = None
    warning: str | None = None
    next_step: str


class RotatedToken(NewToken):
    """An access token that was just created to replace another."""

    replaces: str


def render_create_result(result: CreateResult, *, address: str) -> RenderedResult:
    """Render which token was created, until when it lives, and where its bearer token is."""
    plan, created = result.plan, result.created
    headline = (
        f"Created access token {created.delivered.id} for {plan.create_request.user} on {address}; "
        f"it {_render_created_expiry(plan, created)}. Its bearer token {_render_place(created)}."
    )
    fields = NewToken.model_validate(
        {**_to_new_token_fields(plan, created), "summary": headline, "next_step": created.delivered.how_to_use}
    )
    return RenderedResult(_render_new_token(fields), fields)


def render_rotate_result(result: RotateResult, *, address: str, credential_location: str) -> RenderedResult:
    """Render the new token beside the old one, and what remains to be done.

    `credential_location` says where the operator keeps the server's own bearer token.
    """
    plan, created = result.plan, result.created
    old, delivered = plan.old_token, created.delivered
    runs_on_it = ", and this server runs on it now" if created.is_adopted else ""
    headline = (
        f"Rotated: new access token {delivered.id} for {plan.create_request.user} on {address}; it "
        f"{_render_created_expiry(plan, created)}, and it works. "
        f"Its bearer token {_render_place(created)}{runs_on_it}. The old one, {old.id}, is as it was."
    )
    steps = _render_rotate_steps(result, credential_location)
    fields = RotatedToken.model_validate(
        {**_to_new_token_fields(plan, created), "summary": headline, "next_step": steps, "replaces": old.id}
    )
    return RenderedResult(_render_new_token(fields), fields)


def _render_rotate_steps(result: RotateResult, credential_location: str) -> str:
    """Render what remains to be done; first, why the server does not go on with the new token although it was to."""
    plan, created = result.plan, result.created
    if created.is_adopted:
        return render_own_steps(plan.old_token, plan.time)
    setting = created.delivered.location.naming_setting
    hand_over = render_hand_over(credential_location, naming_setting=setting) if plan.is_own else HAND_OVER_STEP
    steps = render_steps(plan.old_token, plan.time, choose_first_step(created.delivered.location, hand_over))
    return " ".join(filter(None, [plan.obstacle, created.hand_over_failure, steps, created.delivered.how_to_use]))


def _render_place(created: CreatedToken) -> str:
    location = created.delivered.location
    return f"waits at {location.url}" if isinstance(location, PickupLocation) else f"is in {location.render()}"


def render_unfinished_notes(plan: CreatePlan) -> str:
    """Render what earlier attempts for the same user left unfinished; empty if there are none."""
    request = plan.create_request
    notes = [*render_unfinished(request.unfinished)]
    if request.untraced:
        notes.append(render_untraced(request.untraced))
    return " ".join(notes)


def render_expiry(plan: CreatePlan) -> str:
    """Render until when a new token is to live."""
    expires = plan.create_request.expires
    if expires is None:
        return "never expires"
    default = ", the default lifetime" if plan.has_default_expiry else ""
    return f"expires {format_time(expires)} ({format_relative_time(expires, now=plan.time)}{default})"


def _render_created_expiry(plan: CreatePlan, created: CreatedToken) -> str:
    """Render until when a new token lives according to the cluster, or as planned if it could not be read back."""
    token = created.token
    if token is None or (token.expires == plan.create_request.expires and not created.clock_ahead):
        return render_expiry(plan)
    if token.expires is None:
        return "never expires"
    # The cluster's clock will end it, so its time of creation is the present time to count from.
    return f"expires {format_time(token.expires)} ({format_relative_time(token.expires, now=token.created)})"


def _render_warnings(plan: CreatePlan, created: CreatedToken) -> Iterator[str | None]:
    """Render what the cluster did otherwise than asked, and what is not known. An old cluster may ignore the expiry."""
    request, token = plan.create_request, created.token
    if token is not None and request.user.merged_with(token.user) is None:
        yield f"Beware: the cluster made it for {token.user}. Delete it unless that is who was meant."
    yield render_clock_note(created.clock_ahead)
    if token is None:
        yield "It could not be read back: its user and its expiry are told as they were asked for."
    if token is None and request.max_lifetime is not None:
        yield "Whether it keeps to QUMULO_MAX_LIFETIME could not be verified: look at it with get_access_token."
    if token is not None and token.expires != request.expires:
        yield (
            "Beware: the cluster did not take the expiry as asked; there, the token "
            f"{_render_created_expiry(plan, created)}."
        )
    yield created.delivered.warning
    yield created.journal_error
    yield created.copy_left
    yield render_unfinished_notes(plan) or None
    yield from created.not_picked_up


def _to_new_token_fields(plan: CreatePlan, created: CreatedToken) -> dict[str, object]:
    delivered, token = created.delivered, created.token
    location = delivered.location
    expires = plan.create_request.expires if token is None else token.expires
    return {
        "id": delivered.id,
        "user": str(plan.create_request.user),
        "expiration_time": None if expires is None else format_rfc3339(expires),
        # People get an address by itself, to click on.
        "bearer_token_in": location.url if isinstance(location, PickupLocation) else location.render(),
        "fingerprint": delivered.fingerprint,
        "bearer_token": None if delivered.bearer_token is None else delivered.bearer_token.get_secret_value(),
        "warning": join_warnings(*_render_warnings(plan, created)),
    }


def _render_new_token(fields: NewToken) -> str:
    fingerprint = f"SHA-256 of the bearer token: {fields.fingerprint}"
    return join_lines([fields.summary, fields.bearer_token, fingerprint, fields.warning, fields.next_step])
