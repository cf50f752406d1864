"""Changing and deleting one token, from the written intent to the written outcome.

The request is sent once. If no clear answer comes, the token is read again, which tells in most cases what happened;
after a deletion it is looked for whatever the answer was.
"""

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime

import anyio

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    Forbidden,
    NotFound,
    Refusal,
    Rejected,
    StillThere,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unsent,
)
from token_tools.storage.journal import Journal, JournalEntry, Operation, Outcome
from token_tools.times import format_rfc3339, format_time


@dataclass(frozen=True)
class AppliedChange:
    """A token changed or deleted: `token_after` is what the cluster tells of it since, None if it is gone.

    `warnings` say what went otherwise than it should, such as why the journal does not know the outcome.
    """

    token_after: AccessToken | None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class TokenUpdater:
    """Where tokens are changed and deleted, and where it is written down."""

    cluster: ClusterClient
    journal: Journal

    async def update(self, token: AccessToken, wanted: TokenState) -> AppliedChange:
        """The token with another state. Cancellation waits until this is over.

        Raises:
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; the token is as it was.
            UnknownOutcome: If the token may or may not have been changed.
        """
        changes = token.state.changes_to(wanted)
        change = format_change(wanted, token.state)
        async with self._intended("update", token, change) as intent:
            try:
                after = await self.cluster.update_token(token.id, changes)
            except (BadAnswer, Unavailable, Unreachable) as failure:
                after = await self._resolve_unclear_update(token, wanted, intent, failure)
            except Rejected as failure:
                await self.journal.record_outcome(intent, "not done")
                raise _explain_rejected_update(failure, changes) from failure
            except NotFound as failure:
                await self.journal.record_outcome(intent, "not done")
                raise explain_missing_token(token.id, failure) from failure
            except ClusterError:
                await self.journal.record_outcome(intent, "not done")
                raise
            if after.state != wanted:
                # An answer may be one from before.
                after = await self._read_after_update(
                    token, intent, "The cluster's answer tells another state than was asked for."
                )
            outcome: Outcome = "not done" if after.state == token.state else "done"
            return AppliedChange(after, _without_none([await self.journal.record_outcome(intent, outcome)]))

    async def delete(self, token: AccessToken) -> AppliedChange:
        """Nothing is left of the token: it was looked for. Cancellation waits until this is over.

        Raises:
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; the token is still there.
            UnknownOutcome: If the token may or may not be there.
        """
        async with self._intended("delete", token) as intent:
            try:
                doubt = await delete_and_verify(self.cluster, token.id, token.user)
            except UnknownOutcome:
                await self.journal.record_outcome(intent, "unknown")
                raise
            except ClusterError:
                await self.journal.record_outcome(intent, "not done")
                raise
            return AppliedChange(None, _without_none([doubt, await self.journal.record_outcome(intent, "done")]))

    @asynccontextmanager
    async def _intended(
        self, operation: Operation, token: AccessToken, change: str | None = None
    ) -> AsyncGenerator[JournalEntry]:
        with shielded():
            async with self.journal.record_intent(
                str(token.user), operation, token_id=token.id, change=change
            ) as intent:
                yield intent

    async def _resolve_unclear_update(
        self, token: AccessToken, wanted: TokenState, intent: JournalEntry, failure: ClusterError
    ) -> AccessToken:
        """The token as it is after a change without a clear answer, if it is as wanted."""
        if isinstance(failure, Unsent):
            await self.journal.record_outcome(intent, "not done")
            raise failure
        after = await self._read_after_update(token, intent, str(failure))
        if after.state != wanted:
            await self.journal.record_outcome(intent, "unknown")
            raise UnknownOutcome(
                f"{failure} So far, token {token.id} is not changed as asked. "
                "Look at it with get_access_token before you try again."
            ) from failure
        return after

    async def _read_after_update(self, token: AccessToken, intent: JournalEntry, cluster_answer: str) -> AccessToken:
        """The token as it is after a change; `cluster_answer` is what the cluster said to that."""
        try:
            return await self.cluster.get_token(token.id)
        except ClusterError as failure:
            await self.journal.record_outcome(intent, "unknown")
            raise UnknownOutcome(
                f"{cluster_answer} It could not be found out whether token {token.id} was changed: {failure} "
                "Look at it with get_access_token before you try again."
            ) from failure


@contextmanager
def shielded() -> Generator[None]:
    """Half of what is done within would be worse than none or all of it, so a cancelled call still comes to its end."""
    with anyio.CancelScope(shield=True):
        yield


async def delete_and_verify(cluster: ClusterClient, token_id: str, user: Identity) -> str | None:
    """Delete a token of that user with one request, and look whether it is gone.

    Gives what is to be said besides: that somebody else may have deleted it, None if nothing is.

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
    """Nothing if a token is gone; `cluster_answer` is what the cluster said to its deletion."""
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
        # Whoever may only see their own tokens may be refused one that is nobody's.
        return token_id not in {token.id for token in await fetch_user_tokens(cluster, user)}
    return False


def render_undeleted(token: str, failure: ClusterError) -> str:
    """What a failed deletion means for a token that was just made; `token` is how to call it."""
    if isinstance(failure, UnknownOutcome) and not isinstance(failure, StillThere):
        return f"Whether {token} was deleted again is not known: {failure}"
    return f"{token[:1].upper()}{token[1:]} could not be deleted again: {failure}"


def explain_missing_token(token_id: str, failure: NotFound, deleted_at: datetime | None = None) -> NotFound:
    """What a cluster means that does not know a token, and where to look; `deleted_at` is when this server did that."""
    why = f"This server deleted it at {format_time(deleted_at)};" if deleted_at else "If the id is mistyped:"
    return NotFound(f"There is no access token {token_id}. {failure} {why} list_access_tokens tells the ids.")


def _explain_rejected_update(failure: Rejected, changes: Mapping[str, bool | str | None]) -> Rejected:
    if changes.get("expiration_time", "") is not None:
        return failure
    return Rejected(f"{failure} This cluster may not let an expiry be cleared: give a late time instead.")


def _without_none(warnings: Iterable[str | None]) -> Sequence[str]:
    return [warning for warning in warnings if warning]


def format_change(wanted: TokenState, before: TokenState | None = None) -> str:
    """`enabled: false, expires: never`: what is wanted, as far as it is not so before."""
    changes = {"enabled", "expiration_time"} if before is None else before.changes_to(wanted).keys()
    enabled = f"enabled: {str(wanted.enabled).lower()}" if "enabled" in changes else ""
    expires = "never" if wanted.expires is None else format_rfc3339(wanted.expires)
    return ", ".join(filter(None, [enabled, f"expires: {expires}" if "expiration_time" in changes else ""]))
