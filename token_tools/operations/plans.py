"""What a request would do and what came of it, as the server found things: the nouns of the workflows."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, State
from token_tools.operations.audit import Audit
from token_tools.operations.consent import Plan
from token_tools.operations.create import Minted, Order
from token_tools.operations.policy import Policy
from token_tools.operations.unfinished import Memory
from token_tools.operations.update import Edited
from token_tools.storage.journal import Entry


@dataclass(frozen=True)
class Listing:
    """Tokens as they stood at `time`.

    `user` is whose they are, None for everybody's. `after` asks for what follows, None at the end. `foreign` entries
    belonged to somebody else of the same name, or could not be told from such, and were left out. `ahead` is by how
    much the cluster's clock is known to be ahead of ours; `time` is the cluster's. `doubts` say what cannot be right.
    """

    tokens: Sequence[AccessToken]
    time: datetime
    user: Identity | None = None
    after: str | None = None
    foreign: int = 0
    ahead: timedelta = timedelta()
    doubts: Sequence[str] = ()


@dataclass(frozen=True)
class Portrait:
    """One token as it stood at `time`.

    `is_own` says whether the server itself runs on it, and `others` are its user's other tokens; each is None if that
    could not be found out, and `doubts` say why. `ahead` is as in `Listing`.
    """

    token: AccessToken
    time: datetime
    is_own: bool | None
    others: Sequence[AccessToken] | None
    doubts: Sequence[str]
    ahead: timedelta = timedelta()


@dataclass(frozen=True, kw_only=True)
class CreationPlan(Plan):
    """What a create would do. `by_default` says that nobody named the expiry."""

    order: Order
    by_default: bool


@dataclass(frozen=True, kw_only=True)
class RotationPlan(CreationPlan):
    """What a rotate would do: a new token beside `old`.

    `is_own` says whether the server itself runs on that, and `earlier` is how the rotates of it before ended.
    """

    old: AccessToken
    is_own: bool
    earlier: Sequence[Entry]


@dataclass(frozen=True, kw_only=True)
class UpdatePlan(Plan):
    """What an update would do: nothing, if the token is as wanted."""

    token: AccessToken
    wanted: State


@dataclass(frozen=True, kw_only=True)
class DeletionPlan(Plan):
    """What a delete would do."""

    token: AccessToken


@dataclass(frozen=True)
class Creation:
    """A plan for a new token, carried out."""

    plan: CreationPlan
    minted: Minted


@dataclass(frozen=True)
class Rotation:
    """A plan for a token beside another, carried out."""

    plan: RotationPlan
    minted: Minted


@dataclass(frozen=True)
class Update:
    """A plan for a change, carried out; `edited` is None where there was nothing to change.

    `max_lifetime` is the longest life that the operator allows.
    """

    plan: UpdatePlan
    edited: Edited | None
    max_lifetime: timedelta | None


@dataclass(frozen=True)
class Deletion:
    """A plan for a deletion, carried out; `max_lifetime` is as in `Update`."""

    plan: DeletionPlan
    edited: Edited
    max_lifetime: timedelta | None


@dataclass(frozen=True)
class Review:
    """An audit that has seen every token.

    `doubts` say what is not known, `report` is the file with all rows. What mends a finding has to keep to `policy` and
    to what is in `memory`, and is not for a server that is `read_only`, or whose credential may not write. `may_rotate`
    says whether the cluster lets a new token be proved. `unfinished` tells what is, and of the `lost` tokens nobody is
    known to have the bearer token. `is_whole` says whether what was listed can be all. `ahead` is as
    in `Listing`.
    """

    audit: Audit
    doubts: Sequence[str]
    report: Path | None
    policy: Policy
    memory: Memory
    unfinished: Sequence[str]
    lost: AbstractSet[str]
    read_only: bool
    may_write: bool = True
    may_rotate: bool = True
    is_whole: bool = True
    ahead: timedelta = timedelta()
