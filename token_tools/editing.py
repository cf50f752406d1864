"""Changing and deleting one token, from the written intent to the written outcome.

The request is sent once. If no clear answer comes, the token is read again, which tells in most cases what happened.
"""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio

from token_tools.client import ClusterClient
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    NotFound,
    Rejected,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unsent,
)
from token_tools.journal import Entry, Journal, Operation
from token_tools.models import AccessToken, State
from token_tools.times import format_instant


@dataclass(frozen=True)
class Edited:
    """A token changed or deleted: `after` is what the cluster tells of it since, None if it is gone.

    `unwritten` says why the journal does not know the outcome, None if it does.
    """

    after: AccessToken | None
    unwritten: str | None


@dataclass(frozen=True)
class Editor:
    """Where tokens are changed and deleted, and where it is written down."""

    cluster: ClusterClient
    journal: Journal

    async def modify(self, token: AccessToken, wanted: State) -> Edited:
        """The token with another state. Cancellation waits until this is over.

        Raises:
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; the token is as it was.
            UnknownOutcome: If the token may or may not have been changed.
        """
        changes = token.state.changes_to(wanted)
        change = _tell_change(token.state, wanted)
        async with self._intended("update", token, change) as intent:
            try:
                after = await self.cluster.modify_token(token.id, changes)
            except (BadAnswer, Unavailable, Unreachable) as failure:
                after = await self._reread(token, wanted, intent, failure)
            except Rejected as failure:
                await self.journal.conclude(intent, "not done")
                raise _explain_refusal(failure, changes) from failure
            except NotFound as failure:
                await self.journal.conclude(intent, "not done")
                raise explain_absence(token.id, failure) from failure
            except ClusterError:
                await self.journal.conclude(intent, "not done")
                raise
            return Edited(after, await self.journal.conclude(intent, "done"))

    async def delete(self, token: AccessToken) -> Edited:
        """Nothing is left of the token. Cancellation waits until this is over.

        Raises:
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; the token is still there.
            UnknownOutcome: If the token may or may not be there.
        """
        async with self._intended("delete", token) as intent:
            try:
                await delete_once(self.cluster, token.id)
            except UnknownOutcome:
                await self.journal.conclude(intent, "unknown")
                raise
            except ClusterError:
                await self.journal.conclude(intent, "not done")
                raise
            return Edited(None, await self.journal.conclude(intent, "done"))

    @asynccontextmanager
    async def _intended(
        self, operation: Operation, token: AccessToken, change: str | None = None
    ) -> AsyncGenerator[Entry]:
        with uninterrupted():
            async with self.journal.intend(str(token.user), operation, token_id=token.id, change=change) as intent:
                yield intent

    async def _reread(self, token: AccessToken, wanted: State, intent: Entry, failure: ClusterError) -> AccessToken:
        """The token as it is after a change without a clear answer, if it is as wanted."""
        if isinstance(failure, Unsent):
            await self.journal.conclude(intent, "not done")
            raise failure
        try:
            after = await self.cluster.get_token(token.id)
        except ClusterError as second:
            await self.journal.conclude(intent, "unknown")
            raise UnknownOutcome(
                f"{failure} It could not be found out whether token {token.id} was changed: {second} "
                "Look at it with get_access_token before you try again."
            ) from failure
        if after.state != wanted:
            await self.journal.conclude(intent, "unknown")
            raise UnknownOutcome(
                f"{failure} So far, token {token.id} is not changed as asked. "
                "Look at it with get_access_token before you try again."
            ) from failure
        return after


@contextmanager
def uninterrupted() -> Generator[None]:
    """Half of what is done within would be worse than none or all of it, so a cancelled call still comes to its end."""
    with anyio.CancelScope(shield=True):
        yield


async def delete_once(cluster: ClusterClient, token_id: str) -> None:
    """Delete a token with one request; one that is gone already is as good.

    Raises:
        ClusterError: If the cluster declined, or could not be asked; the token is still there.
        UnknownOutcome: If no clear answer came and the token is still there, or it is not known whether it is.
    """
    try:
        await cluster.delete_token(token_id)
    except NotFound:
        return
    except (BadAnswer, Unavailable, Unreachable) as failure:
        if isinstance(failure, Unsent):
            raise
        await _check_gone(cluster, token_id, failure)


async def _check_gone(cluster: ClusterClient, token_id: str, failure: ClusterError) -> None:
    try:
        await cluster.get_token(token_id)
    except NotFound:
        return
    except ClusterError as second:
        raise UnknownOutcome(
            f"{failure} It could not be found out whether token {token_id} was deleted: {second} "
            "Look for it with get_access_token before you try again."
        ) from failure
    raise UnknownOutcome(
        f"{failure} So far, token {token_id} is still there. Look at it with get_access_token before you try again."
    ) from failure


def explain_absence(token_id: str, failure: NotFound) -> NotFound:
    """What a cluster means that does not know a token, and where to look."""
    return NotFound(
        f"There is no access token {token_id}. {failure} It may have been deleted, or the id is mistyped: "
        "list_access_tokens tells the ids."
    )


def _explain_refusal(failure: Rejected, changes: Mapping[str, bool | str | None]) -> Rejected:
    if changes.get("expiration_time", "") is not None:
        return failure
    return Rejected(f"{failure} This cluster may not let an expiry be cleared: give a late time instead.")


def _tell_change(before: State, wanted: State) -> str:
    changes = before.changes_to(wanted)
    enabled = f"enabled: {str(wanted.enabled).lower()}" if "enabled" in changes else ""
    expires = "never" if wanted.expires is None else format_instant(wanted.expires)
    return ", ".join(filter(None, [enabled, f"expires: {expires}" if "expiration_time" in changes else ""]))
