"""Deleting one token. The request is sent once, and the token is looked for afterwards, whatever the answer was."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.identity import Identity
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    Forbidden,
    JournalError,
    NotFound,
    Refusal,
    StillThere,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unsent,
)
from token_tools.operations.consent import IRREVERSIBLE
from token_tools.operations.journal_history import format_change
from token_tools.operations.own_token import check_no_lockout
from token_tools.operations.read import concerning, read_token
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

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DeletePlan(TokenChangePlan):
    """What a deletion would do."""

    def draft_entry(self, journal: Journal, mandate: Mandate, outcome: Outcome, reason: str | None = None) -> Attempt:
        """Return the entry of the record about this deletion."""
        return journal.draft(
            "delete",
            str(self.token.user),
            mandate,
            outcome=outcome,
            token_id=self.token.id,
            before=format_change(self.token.state),
            reason=reason,
        )


@dataclass(frozen=True)
class DeleteResult:
    """A deletion, carried out; `max_lifetime` is the longest lifetime that the operator allows, None if any is."""

    plan: DeletePlan
    applied: AppliedChange
    max_lifetime: timedelta | None


async def plan_delete(services: Services, token_id: str) -> DeletePlan:
    """Return what a deletion would do. Planning changes nothing.

    Raises:
        Refusal: If it would lock the server out.
        ClusterError: If the cluster cannot be asked.
    """
    token = await read_token(services, token_id)
    with concerning(token.user):
        await check_no_lockout(services, token, "delete it")
    return DeletePlan(
        time=services.clock(),
        clock_ahead=services.clock.ahead,
        confirm=services.confirm,
        risks=[IRREVERSIBLE],
        token=token,
    )


async def delete_token(services: Services, plan: DeletePlan) -> DeleteResult:
    """Delete a token as planned and check that it is gone. Cancellation waits until this is over.

    Raises:
        Refusal: If the person's answer was used before, or if the token was changed meanwhile.
        JournalError: If the intent could not be written; nothing was asked of the cluster.
        ClusterError: If the cluster declined, or could not be asked; the token is still there.
        UnknownOutcome: If the token may or may not be there.
    """
    with concerning(plan.token.user):
        await check_unchanged(services, plan)
        if plan.needs_consent:
            await check_no_lockout(services, plan.token, "delete it")
        return DeleteResult(plan, await _apply(services, plan), services.policy.max_lifetime)


async def _apply(services: Services, plan: DeletePlan) -> AppliedChange:
    token = plan.token
    async with record_change(services, plan) as intent:
        try:
            warning = await delete_and_verify(services.cluster, token.id, token.user)
        except UnknownOutcome:
            await services.journal.record_outcome(intent, "unknown")
            raise
        except ClusterError:
            await services.journal.record_outcome(intent, "not done")
            raise
        journal_error = await services.journal.record_outcome(intent, "done")
        await settle_by_change(services, token, "deleted")
        await _end_pickup(services, token.id)
        return AppliedChange.with_warnings(None, [warning, journal_error])


async def _end_pickup(services: Services, token_id: str) -> None:
    """Let the page at which the bearer token of a deleted token waits tell that, if there is one."""
    if services.pickups is not None:
        try:
            await services.pickups.end_by_deletion(token_id)
        except JournalError as failure:
            # What waits is looked at on the cluster again before anybody gets it.
            _LOG.warning("%s", failure)


async def delete_and_verify(cluster: ClusterClient, token_id: str, user: Identity) -> str | None:
    """Delete a token of that user with one request, and check that it is gone.

    Return a warning that somebody else may have deleted it; None if there is nothing to warn of.

    Raises:
        ClusterError: If the cluster declined, or could not be asked; the token is still there.
        StillThere: If the token is there although the cluster did not decline.
        UnknownOutcome: If it is not known whether the token is there.
    """
    try:
        await cluster.delete_token(token_id)
    except Unsent:
        raise
    except NotFound as absent:
        await _check_deleted(cluster, token_id, user, str(absent))
        return "The cluster did not know it any more when it was to be deleted: somebody else may have done it."
    except (BadAnswer, Unavailable, Unreachable) as unclear:
        await _check_deleted(cluster, token_id, user, str(unclear))
    else:
        await _check_deleted(cluster, token_id, user, "The cluster took the deletion.")
    return None


async def _check_deleted(cluster: ClusterClient, token_id: str, user: Identity, cluster_answer: str) -> None:
    """Check that a token is gone, whose deletion the cluster answered with `cluster_answer`."""
    try:
        is_gone = await _is_deleted(cluster, token_id, user)
    except (ClusterError, Refusal) as failure:
        raise UnknownOutcome(
            f"{cluster_answer} It could not be found out whether token {token_id} was deleted: {failure} "
            "Look for it with get_access_token before you try again."
        ) from failure
    if not is_gone:
        raise StillThere(
            f"{cluster_answer} So far, token {token_id} is still there. Look at it with get_access_token "
            "before you try again."
        )


async def _is_deleted(cluster: ClusterClient, token_id: str, user: Identity) -> bool:
    try:
        await cluster.get_token(token_id)
    except NotFound:
        return True
    except Forbidden:
        # A caller who may only see their own tokens may be refused a token that does not exist.
        return token_id not in {token.id for token in await fetch_user_tokens(cluster, user)}
    return False
