"""What the update and the deletion of a token share: their plan, their intent in the journal, and their result."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from token_tools.cluster.models import AccessToken
from token_tools.errors import Refusal
from token_tools.operations.cancellation import shielded
from token_tools.operations.consent import Plan
from token_tools.operations.journal_history import read_history
from token_tools.operations.read import read_token
from token_tools.operations.services import Services
from token_tools.operations.unfinished import find_unfinished
from token_tools.storage.attempts import Attempt, Settlement


@dataclass(frozen=True, kw_only=True)
class TokenChangePlan(Plan):
    """What would be done to a token that is there."""

    token: AccessToken


@dataclass(frozen=True)
class AppliedChange:
    """A token changed or deleted: `token_after` is what the cluster tells of it since, None if it is gone.

    `warnings` say what went otherwise than it should, such as why the journal does not know the outcome.
    """

    token_after: AccessToken | None
    warnings: Sequence[str] = ()

    @classmethod
    def with_warnings(cls, token_after: AccessToken | None, warnings: Iterable[str | None]) -> Self:
        """Return a change with the warnings that are not None."""
        return cls(token_after, [warning for warning in warnings if warning])


async def check_unchanged(services: Services, plan: TokenChangePlan) -> None:
    """Check that a token is as it was when a person was asked about it, who may have taken minutes to answer.

    Raises:
        Refusal: If it was changed since.
        ClusterError: If it cannot be read.
    """
    if plan.needs_consent and await read_token(services, plan.token.id) != plan.token:
        raise Refusal(f"Token {plan.token.id} was changed meanwhile. Call again to see how it is now.")


@asynccontextmanager
async def record_change(services: Services, plan: TokenChangePlan) -> AsyncGenerator[Attempt]:
    """Write what is about to be done to a token into the journal. The block is not cancelled before its end.

    Raises:
        JournalError: If it cannot be written; then nothing may be asked of the cluster.
        Refusal: If there were too many changes, or if the person's answer was used before.
    """
    with shielded():
        async with services.journal.record_intent(plan.draft_intent(services.journal, services.actor)) as intent:
            yield intent


async def settle_by_change(services: Services, token: AccessToken, settlement: Settlement) -> None:
    """Settle what was unfinished about a token that was changed or deleted now.

    A token that a person lets be disabled or deleted is the one that an attempt left behind, if it can be that one.
    """
    history = await read_history(services)
    attempts = [
        attempt for attempt in history.open_attempts if attempt.token_id == token.id and not attempt.is_creating
    ]
    if settlement != "changed since":
        attempts += [each.attempt for each in find_unfinished(history, [token], clock=services.clock)]
    await services.journal.settle([attempt for attempt in attempts if attempt.is_unfinished], settlement)
