"""Updating one token: whether it is enabled, and when it expires.

The request is sent once. If no clear answer comes, the token is read again, which tells in most cases what happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from token_tools.cluster.models import AccessToken, TokenState
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    NotFound,
    PastExpiry,
    Refusal,
    Rejected,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unsent,
)
from token_tools.operations.consent import find_update_risks
from token_tools.operations.journal_history import format_change
from token_tools.operations.own_token import check_no_lockout
from token_tools.operations.read import concerning, explain_missing_token, read_token
from token_tools.operations.services import Services
from token_tools.operations.token_change import (
    AppliedChange,
    TokenChangePlan,
    check_unchanged,
    record_change,
    settle_by_change,
)
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal


@dataclass(frozen=True, kw_only=True)
class UpdatePlan(TokenChangePlan):
    """What an update would do to a token: give it the state `wanted`."""

    wanted: TokenState

    def draft_entry(self, journal: Journal, mandate: Mandate, outcome: Outcome, reason: str | None = None) -> Attempt:
        """Return the entry of the record about this update."""
        return journal.draft(
            "update",
            str(self.token.user),
            mandate,
            outcome=outcome,
            token_id=self.token.id,
            before=format_change(self.token.state, self.wanted),
            after=format_change(self.wanted, self.token.state),
            reason=reason,
        )

    @property
    def changes_something(self) -> bool:
        """Whether the token is not as wanted yet."""
        return self.wanted != self.token.state

    @property
    def reduces(self) -> bool:
        """Whether the token would be disabled or expire sooner."""
        wanted, current = self.wanted, self.token.state
        expires_sooner = wanted.expires is not None and (current.expires is None or wanted.expires < current.expires)
        return expires_sooner or (current.enabled and not wanted.enabled)


@dataclass(frozen=True)
class UpdateResult:
    """An update, carried out; `applied` is None where there was nothing to change.

    `max_lifetime` is the longest lifetime that the operator allows, None if any is allowed.
    """

    plan: UpdatePlan
    applied: AppliedChange | None
    max_lifetime: timedelta | None


def check_asked_for(*, enabled: bool | None, expiration_time: str | None) -> None:
    """Check that an update is to change a part of the state.

    Raises:
        Refusal: If it is not.
    """
    if enabled is None and expiration_time is None:
        raise Refusal("Nothing to do: give `enabled`, `expiration_time`, or both.")


async def plan_update(
    services: Services, token_id: str, *, enabled: bool | None, expiration_time: str | None
) -> UpdatePlan:
    """Return what an update would do; None leaves a part of the state as it is. Planning changes nothing.

    Raises:
        Refusal: If a rule forbids it, or if it would lock the server out.
        ClusterError: If the cluster cannot be asked.
    """
    # A forbidden expiry is refused before the cluster is asked, and chosen once the cluster's clock is known.
    _choose_expiry(services, expiration_time)
    token = await read_token(services, token_id)
    now = services.clock()
    wanted = TokenState(
        enabled=token.state.enabled if enabled is None else enabled,
        expires=token.expires
        if expiration_time is None
        else _keep_fractions(token, _choose_expiry(services, expiration_time)),
    )
    plan = UpdatePlan(
        time=now,
        clock_ahead=services.clock.ahead,
        confirm=services.confirm,
        risks=find_update_risks(token, wanted, now=now),
        token=token,
        wanted=wanted,
    )
    with concerning(token.user):
        await _check_no_lockout(services, plan)
    return plan


def _choose_expiry(services: Services, expiration_time: str | None) -> datetime | None:
    """Return the expiry that an update is to set; None if that is never, or not to be changed.

    Raises:
        Refusal: If it is not a time in the future, or later than the operator allows.
    """
    try:
        return None if expiration_time is None else services.policy.choose_expiry(expiration_time, now=services.clock())
    except PastExpiry as past:
        raise Refusal(f"{past} To stop a token at once, give enabled=false and no `expiration_time`.") from None


def _keep_fractions(token: AccessToken, expires: datetime | None) -> datetime | None:
    """Return the expiry that a token has, if it is the same second: we write seconds, and a cluster nanoseconds."""
    if expires is not None and token.expires is not None and expires == token.expires.replace(microsecond=0):
        return token.expires
    return expires


async def _check_no_lockout(services: Services, plan: UpdatePlan) -> None:
    if plan.reduces:
        await check_no_lockout(services, plan.token, "disable it or shorten its life")


async def update_token(services: Services, plan: UpdatePlan) -> UpdateResult:
    """Update a token as planned; nothing is sent if it is as wanted already. Cancellation waits until this is over.

    Raises:
        Refusal: If the person's answer was used before, or if the token was changed meanwhile.
        JournalError: If the intent could not be written; nothing was asked of the cluster.
        ClusterError: If the cluster declined, or could not be asked; the token is as it was.
        UnknownOutcome: If the token may or may not have been changed.
    """
    with concerning(plan.token.user):
        if not plan.changes_something:
            return UpdateResult(plan, None, services.policy.max_lifetime)
        await check_unchanged(services, plan)
        if plan.needs_consent:
            await _check_no_lockout(services, plan)
        return UpdateResult(plan, await _apply(services, plan), services.policy.max_lifetime)


async def _apply(services: Services, plan: UpdatePlan) -> AppliedChange:
    token, wanted = plan.token, plan.wanted
    async with record_change(services, plan) as intent:
        after = await _send(services, token, wanted, intent)
        if after.state != wanted:
            # The answer may describe the state before the update.
            after = await _read_after_update(
                services, token, intent, "The cluster's answer tells another state than was asked for."
            )
        outcome: Outcome = "not done" if after.state == token.state else "done"
        journal_error = await services.journal.record_outcome(intent, outcome)
        if outcome == "done":
            await settle_by_change(services, token, "changed since" if after.state.enabled else "disabled")
        return AppliedChange.with_warnings(after, [journal_error])


async def _send(services: Services, token: AccessToken, wanted: TokenState, intent: Attempt) -> AccessToken:
    """Send the request once; return the token as it is then."""
    changes = token.state.changes_to(wanted)
    try:
        return await services.cluster.update_token(token.id, changes)
    except Unsent:
        await services.journal.record_outcome(intent, "not done")
        raise
    except (BadAnswer, Unavailable, Unreachable) as unclear:
        return await _resolve_unclear_answer(services, token, wanted, intent, unclear)
    except ClusterError as failure:
        await services.journal.record_outcome(intent, "not done")
        raise _explain_failed_update(token.id, changes, failure) from failure


async def _resolve_unclear_answer(
    services: Services, token: AccessToken, wanted: TokenState, intent: Attempt, unclear: ClusterError
) -> AccessToken:
    """Return the token after an update without a clear answer, if it is as wanted.

    Raises:
        UnknownOutcome: If it is not, or if it cannot be read.
    """
    after = await _read_after_update(services, token, intent, str(unclear))
    if after.state != wanted:
        await services.journal.record_outcome(intent, "unknown")
        raise UnknownOutcome(
            f"{unclear} So far, token {token.id} is not changed as asked. "
            "Look at it with get_access_token before you try again."
        ) from unclear
    return after


async def _read_after_update(
    services: Services, token: AccessToken, intent: Attempt, cluster_answer: str
) -> AccessToken:
    """Return the token as it is after an update, which the cluster answered with `cluster_answer`.

    Raises:
        UnknownOutcome: If it cannot be read.
    """
    try:
        return await services.cluster.get_token(token.id)
    except ClusterError as failure:
        await services.journal.record_outcome(intent, "unknown")
        raise UnknownOutcome(
            f"{cluster_answer} It could not be found out whether token {token.id} was changed: {failure} "
            "Look at it with get_access_token before you try again."
        ) from failure


def _explain_failed_update(
    token_id: str, changes: Mapping[str, bool | str | None], failure: ClusterError
) -> ClusterError:
    if isinstance(failure, NotFound):
        return explain_missing_token(token_id, failure)
    clears_expiry = changes.get("expiration_time", "") is None
    if isinstance(failure, Rejected) and clears_expiry:
        return Rejected(f"{failure} This cluster may not let an expiry be cleared: give a late time instead.")
    return failure
