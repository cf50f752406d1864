"""What a request would do and what came of it, as the server found things: the nouns of the workflows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.cluster.pagination import FilteredPage
from token_tools.operations.consent import Plan
from token_tools.operations.create import CreatedToken, CreateRequest
from token_tools.operations.update import AppliedChange
from token_tools.storage.journal import JournalEntry


@dataclass(frozen=True)
class TokenListing:
    """A page of tokens as they stood at `time`, by the cluster's clock.

    `user` is whose tokens they are, None for everybody's. `clock_ahead` is by how much the cluster's clock is known to
    be ahead of ours. `caveats` say what cannot be right.
    """

    page: FilteredPage
    time: datetime
    user: Identity | None = None
    clock_ahead: timedelta = timedelta()
    caveats: Sequence[str] = ()

    def shorten(self, count: int) -> "TokenListing":
        """Return the listing with the first `count` of its tokens, at least 1."""
        return replace(self, page=self.page.shorten(count))


@dataclass(frozen=True)
class TokenView:
    """One token as it stood at `time`.

    `is_own` says whether the server itself runs on it, and `other_tokens` are its user's other tokens; each is None if
    that could not be found out, and `caveats` say why. `clock_ahead` is as in `TokenListing`.
    """

    token: AccessToken
    time: datetime
    is_own: bool | None
    other_tokens: Sequence[AccessToken] | None
    caveats: Sequence[str]
    clock_ahead: timedelta = timedelta()


@dataclass(frozen=True, kw_only=True)
class CreatePlan(Plan):
    """What a create would do. `has_default_expiry` says that nobody named the expiry."""

    create_request: CreateRequest
    has_default_expiry: bool


@dataclass(frozen=True, kw_only=True)
class RotatePlan(CreatePlan):
    """What a rotate would do: a new token beside `old_token`.

    `is_own` says whether the server itself runs on that, and `earlier_rotations` is how the rotates of it before ended.
    """

    old_token: AccessToken
    is_own: bool
    earlier_rotations: Sequence[JournalEntry]


@dataclass(frozen=True, kw_only=True)
class UpdatePlan(Plan):
    """What an update would do: nothing, if the token is as wanted."""

    token: AccessToken
    wanted: TokenState


@dataclass(frozen=True, kw_only=True)
class DeletePlan(Plan):
    """What a delete would do."""

    token: AccessToken


@dataclass(frozen=True)
class CreateResult:
    """A plan for a new token, carried out."""

    plan: CreatePlan
    created: CreatedToken


@dataclass(frozen=True)
class RotateResult:
    """A plan for a token beside another, carried out."""

    plan: RotatePlan
    created: CreatedToken


@dataclass(frozen=True)
class UpdateResult:
    """A plan for a change, carried out; `applied` is None where there was nothing to change.

    `max_lifetime` is the longest life that the operator allows.
    """

    plan: UpdatePlan
    applied: AppliedChange | None
    max_lifetime: timedelta | None


@dataclass(frozen=True)
class DeleteResult:
    """A plan for a deletion, carried out; `max_lifetime` is as in `UpdateResult`."""

    plan: DeletePlan
    applied: AppliedChange
    max_lifetime: timedelta | None
