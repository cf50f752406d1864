"""Rotating a token: a second one for the same user, delivered and proved to work, while the old one stays as it is."""

from dataclasses import dataclass, replace
from datetime import datetime

import anyio

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import NotFound, Refusal, Rejected
from token_tools.operations.calls import format_call
from token_tools.operations.consent import find_create_risks
from token_tools.operations.create import CreatePlan, draft_intent
from token_tools.operations.create_request import CreateRequest, find_lifetime
from token_tools.operations.hand_over import check_place, find_own_place
from token_tools.operations.new_token import CreatedToken, create_new_token
from token_tools.operations.next_steps import choose_hand_over
from token_tools.operations.own_token import check_not_replaced, is_own_token
from token_tools.operations.policy import is_built_in
from token_tools.operations.read import concerning, read_token
from token_tools.operations.rotate_preflight import collect_existing_tokens, explain_rejected_rotate
from token_tools.operations.services import Services
from token_tools.operations.user_lookup import identify


@dataclass(frozen=True, kw_only=True)
class RotatePlan(CreatePlan):
    """What a rotate would do: create a token beside `old_token`.

    `is_own` says whether the server itself runs on the old one. The request then has the place where the successor is
    to stand, or `obstacle` says why it cannot stand where the settings say.
    """

    old_token: AccessToken
    is_own: bool
    obstacle: str | None = None


@dataclass(frozen=True)
class RotateResult:
    """A rotate, carried out."""

    plan: RotatePlan
    created: CreatedToken


async def plan_rotate(services: Services, token_id: str, expiration_time: str | None) -> RotatePlan:
    """Return what a rotate would do. Planning changes nothing.

    Raises:
        Refusal: If a rule forbids it, if the user can have no other token, or if the token was rotated before.
        ClusterError: If the cluster cannot be asked.
        DeliveryError: If the destination of bearer tokens cannot be searched.
        JournalError: If the record cannot be read.
    """
    # What the rules forbid is refused before the cluster is asked.
    announcement = services.delivery.announce(services.caller.recipient)
    services.policy.choose_expiry(expiration_time, now=services.clock())
    old = await read_token(services, token_id)
    with concerning(old.user):
        user = await _identify_owner(services, old)
        is_own = await is_own_token(services, old)
        if is_own is None:
            raise _explain_unprovable(user)
        if is_own and not await services.journal.list_rotations(old.id):
            # A rotation that the record knows is told with what remains of it.
            await check_not_replaced(services, old)
        async with _rotation_lock(services, old):
            existing = await collect_existing_tokens(services, old, user, choose_hand_over(services, is_own=is_own))
        place, obstacle = await find_own_place(services) if is_own else (None, None)
    now = services.clock()
    expires = services.policy.choose_expiry(expiration_time, now=now)
    return RotatePlan(
        time=now,
        clock_ahead=services.clock.ahead,
        confirm=services.confirm,
        risks=find_create_risks(user, expires),
        create_request=CreateRequest(
            user,
            expires,
            existing.current_tokens,
            existing.history.unfinished,
            existing.history.untraced,
            replaces=old,
            earlier_rotations=existing.earlier_rotations,
            lifetime=find_lifetime(expiration_time, expires, now),
            max_lifetime=services.policy.max_lifetime,
            place=place,
        ),
        has_default_expiry=expiration_time is None,
        announcement=announcement,
        old_token=old,
        is_own=is_own,
        obstacle=obstacle,
    )


async def _identify_owner(services: Services, old: AccessToken) -> Identity:
    """Return the user of a token.

    Raises:
        Refusal: If the cluster does not know that user.
        ClusterError: If the cluster cannot be asked.
    """
    meant = await identify(services, old.user)
    if isinstance(meant.lookup_error, NotFound) and not is_built_in(meant.identity):
        raise _explain_deleted_user(old, meant.identity, services.clock())
    return meant.identity


def _rotation_lock(services: Services, old: AccessToken) -> anyio.Lock:
    """Return the lock that is held while a token is rotated, so that no other call sees a rotation half way."""
    return services.rotation_locks.setdefault(old.id, anyio.Lock())


async def rotate_token(services: Services, plan: RotatePlan) -> RotateResult:
    """Create a second token as planned, deliver it and prove that it works.

    Calls for the same token run one after the other, so that each finds what the one before it created.

    Raises:
        Refusal: If the plan cannot be carried out any more, if the person's answer was used before, or if a second
            token was created meanwhile.
        TokenToolsError: If the token could not be created, delivered and proved to work; see `create_new_token`.
    """
    with concerning(plan.old_token.user):
        return await _rotate(services, plan)


async def _rotate(services: Services, plan: RotatePlan) -> RotateResult:
    async with _rotation_lock(services, plan.old_token):
        request = await _renew_request(services, plan)
        try:
            return RotateResult(plan, await create_new_token(services, request, draft_intent(services, plan, request)))
        except Rejected as failure:
            raise await explain_rejected_rotate(services, plan.old_token, request.user, failure) from failure
        except NotFound as failure:
            # A user whom a look-up finds is not deleted, whatever else the cluster does not find.
            meant = await identify(services, request.user)
            if meant.lookup_error is None or is_built_in(meant.identity):
                raise
            raise _explain_deleted_user(plan.old_token, meant.identity, services.clock()) from failure


async def _renew_request(services: Services, plan: RotatePlan) -> CreateRequest:
    """Return the request as things are now: a person may have taken minutes, and another call may have been faster.

    Raises:
        Refusal: If it can no longer be carried out.
        DeliveryError: If the place of the server's own credential cannot be written any more.
    """
    request, old = plan.create_request, plan.old_token
    if plan.needs_consent:
        await read_token(services, old.id)
    if plan.needs_consent and request.place is not None:
        await check_place(services, request.place)
    if plan.needs_consent or await services.journal.list_rotations(old.id) != request.earlier_rotations:
        hand_over = choose_hand_over(services, is_own=plan.is_own)
        existing = await collect_existing_tokens(services, old, request.user, hand_over)
        request = replace(request, current_tokens=existing.current_tokens, earlier_rotations=existing.earlier_rotations)
    request.check_expiry(now=services.clock())
    return request


def _explain_deleted_user(old: AccessToken, user: Identity, now: datetime) -> Refusal:
    rest = (
        f"To let nobody use it: {format_call('update_access_token', id=old.id, enabled=False)}."
        if old.is_live(now=now)
        else "It does not work as it is."
    )
    return Refusal(f"The cluster does not know {user}, the user of token {old.id}: there is nothing to rotate. {rest}")


def _explain_unprovable(user: Identity) -> Refusal:
    """Explain why no token is rotated on a cluster that does not say which token signed a request."""
    return Refusal(
        "The cluster does not tell which access token a caller comes with, so a new one could not be proved to work, "
        "and would be deleted again. If a person wants a second one without that proof: "
        f"{format_call('create_access_token', user=str(user))}."
    )
