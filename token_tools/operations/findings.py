"""The findings of an audit: one record each, which holds all that an audit says about the finding.

A finding is added by adding its record to `FINDINGS`. The answer then counts the finding and says what mends it, and
an exported file has it in each row. A test holds the description of the tool against `described_as`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.operations.audit_users import EXAMPLES_PER_FINDING, Tally, UserCensus, UserKey
from token_tools.operations.policy import is_built_in, is_internal

STALE_AFTER: Final = timedelta(days=30)
"""How long a token can be disabled before it counts as forgotten."""

OLD_AFTER: Final = timedelta(days=365)

TokenStatus = Literal["live", "disabled", "expired"]
"""A token that is both disabled and expired is `expired`."""


def find_status(token: AccessToken, now: datetime) -> TokenStatus:
    """Return the status of a token at a time."""
    if token.is_expired(now=now):
        return "expired"
    return "disabled" if token.is_disabled else "live"


Severity = Literal["urgent", "risk", "notice"]
"""How much a finding matters: what stops by itself, what a security team minds, and what is good to know."""

Remedy = Literal[
    "delete",
    "delete_once_unused",
    "rotate",
    "rotate_with_expiry",
    "find_user",
    "move_work",
    "keep",
    "ask_user",
    "choose_one",
]
"""What mends a finding: a call, or a decision that a person takes. `rotate_with_expiry` says how long to live."""


class AuditScope(NamedTuple):
    """What tokens are judged by: the cluster's present time, how soon is soon, and what the journal knows.

    `disabled_since` is when this server disabled some tokens, and `successor_ids` are the tokens that it created in a
    rotate.
    """

    now: datetime
    expiring_within: timedelta
    disabled_since: Mapping[str, datetime]
    successor_ids: Collection[str]


class WholeList(NamedTuple):
    """What the list of all tokens decides about a finding: which users it concerns, and how often it is found."""

    concerns: Callable[[UserCensus, UserKey], bool]
    tally: Callable[[UserCensus], Tally]


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding:
    """A risk that an audit looks for.

    For people, `words` say it of a token, `meaning` why it matters, and `mended_by` what to do about it.
    `find_since` returns since when a token has the finding, or from when on it will, and None if it has not. It is
    called for tokens of these `statuses`, and is None if a single token cannot show the finding. If a single token is
    not enough, `whole_list` decides in the end. `described_as` are the words for the finding in the description of the
    audit tool, None where the description leaves it out to stay short. At most `max_examples` tokens are shown.
    """

    name: str
    severity: Severity
    words: str
    meaning: str
    mended_by: str
    find_since: Callable[[AccessToken, AuditScope], datetime | None] | None
    statuses: Collection[TokenStatus] = get_args(TokenStatus)
    whole_list: WholeList | None = None
    remedy: Remedy
    described_as: str | None
    max_examples: int = EXAMPLES_PER_FINDING

    def concerns(self, user: UserKey, census: UserCensus, *, found: bool) -> bool:
        """Whether a user's token has the finding in the end; `found` says whether the token showed it by itself."""
        if self.whole_list is None:
            return found
        return (found or self.find_since is None) and self.whole_list.concerns(census, user)

    def finalize(self, tally: Tally, census: UserCensus) -> Tally:
        """Return the final tally; `tally` counts the tokens that showed the finding by themselves."""
        return tally if self.whole_list is None else self.whole_list.tally(census)


def _find_no_expiry(token: AccessToken, _scope: AuditScope) -> datetime | None:
    return token.created if token.expires is None else None


def _find_built_in_user(token: AccessToken, _scope: AuditScope) -> datetime | None:
    return token.created if is_built_in(token.user) and not is_internal(token.user) else None


def find_internal_account(token: AccessToken, _scope: AuditScope) -> datetime | None:
    """Return since when an account of the cluster itself has a token, None if it is of another account."""
    return token.created if is_internal(token.user) else None


def _find_other_creator(token: AccessToken, scope: AuditScope) -> datetime | None:
    is_own_work = token.creator is None or token.id in scope.successor_ids or is_same_user(token.user, token.creator)
    return None if is_own_work else token.created


def is_same_user(user: Identity, creator: Identity) -> bool:
    """Tell whether the user of a token created it."""
    if user.auth_id and creator.auth_id:
        return user.auth_id == creator.auth_id
    return user.may_be(creator) and (user.name or "").casefold() == (creator.name or "").casefold()


def _find_unnamed_user(token: AccessToken, _scope: AuditScope) -> datetime | None:
    return None if token.user.name else token.created


def _find_expiry(token: AccessToken, _scope: AuditScope) -> datetime | None:
    return token.expires


def _find_long_disabled(token: AccessToken, scope: AuditScope) -> datetime | None:
    since = scope.disabled_since.get(token.id, token.created)
    return since if token.is_disabled and since <= scope.now - STALE_AFTER else None


def _find_lately_disabled(token: AccessToken, scope: AuditScope) -> datetime | None:
    since = scope.disabled_since.get(token.id)
    return since if token.is_disabled and since is not None and since > scope.now - STALE_AFTER else None


def _find_old(token: AccessToken, scope: AuditScope) -> datetime | None:
    return token.created if token.created <= scope.now - OLD_AFTER else None


def _find_near_expiry(token: AccessToken, scope: AuditScope) -> datetime | None:
    expires = token.expires
    return expires if expires is not None and expires - scope.now <= scope.expiring_within else None


EXPIRES_SOON: Final = Finding(
    name="expires_soon",
    severity="urgent",
    words="expires soon",
    meaning="What works with it stops when it expires.",
    mended_by="Rotate it, put the new bearer token where the old one is in use, then delete the old one.",
    find_since=_find_near_expiry,
    statuses=["live"],
    remedy="rotate",
    described_as="expire soon",
    max_examples=20,
)
CLUSTER_ACCOUNT: Final = Finding(
    name="cluster_account",
    severity="notice",
    words="belongs to an account of the cluster itself",
    meaning="The cluster works with it, such as for replication.",
    mended_by="Leave it as it is.",
    find_since=find_internal_account,
    remedy="keep",
    described_as=None,
)
"""A token of such an account has no other finding that it shows by itself: nobody but the cluster works with it."""

USERS_WITH_TWO_TOKENS: Final = Finding(
    name="users_with_two_tokens",
    severity="notice",
    words="user has two tokens",
    meaning="A user cannot have a third one, so neither of the two can be rotated.",
    mended_by="Find out which of the two is in use, and delete the other one.",
    find_since=None,
    whole_list=WholeList(UserCensus.is_at_limit, UserCensus.tally_at_limit),
    remedy="choose_one",
    described_as=None,
)

FINDINGS: Final = (
    EXPIRES_SOON,
    Finding(
        name="never_expires",
        severity="risk",
        words="never expires",
        meaning="Whoever gets hold of its bearer token can use it for ever.",
        mended_by="Rotate it into one that expires, put that in its place, then delete it.",
        find_since=_find_no_expiry,
        statuses=["live"],
        remedy="rotate_with_expiry",
        described_as="never expire",
    ),
    Finding(
        name="built_in_user",
        severity="risk",
        words="belongs to the administrator or guest that every cluster has",
        meaning="Nobody can tell who works with it, and the administrator may do everything.",
        mended_by="Let a service account of its own do its work, then disable it.",
        find_since=_find_built_in_user,
        statuses=["live"],
        remedy="move_work",
        described_as="of admin",
    ),
    Finding(
        name="made_by_another",
        severity="notice",
        words="made by somebody other than its user",
        meaning="Its user may not know of it.",
        mended_by="This is usual for services. If it is none, ask its user.",
        find_since=_find_other_creator,
        statuses=["live"],
        remedy="ask_user",
        described_as=None,
    ),
    Finding(
        name="user_has_no_name",
        severity="risk",
        words="its user has no name and may be deleted",
        meaning="Nobody may be responsible for it any more.",
        mended_by="Find out whose it was. If nobody needs it, disable it, and delete it later.",
        find_since=_find_unnamed_user,
        whole_list=WholeList(UserCensus.is_nameless, UserCensus.tally_nameless),
        remedy="find_user",
        described_as="deleted users",
    ),
    Finding(
        name="expired",
        severity="notice",
        words="has expired",
        meaning="It lets nobody in, and takes one of the two places of its user.",
        mended_by="Delete it.",
        find_since=_find_expiry,
        statuses=["expired"],
        remedy="delete",
        described_as="are expired",
    ),
    Finding(
        name="disabled_and_old",
        severity="notice",
        words="disabled long ago, or unknown since when",
        meaning="Nobody has missed it, and it can be enabled again.",
        mended_by="Ask who disabled it, then delete it.",
        find_since=_find_long_disabled,
        statuses=["disabled", "expired"],
        remedy="delete_once_unused",
        described_as="disabled",
    ),
    Finding(
        name="disabled_lately",
        severity="notice",
        words="disabled lately",
        meaning="Something may still need it.",
        mended_by="Wait whether anything breaks, then delete it.",
        find_since=_find_lately_disabled,
        statuses=["disabled", "expired"],
        remedy="delete_once_unused",
        described_as=None,
    ),
    USERS_WITH_TWO_TOKENS,
    CLUSTER_ACCOUNT,
    Finding(
        name="older_than_a_year",
        severity="notice",
        words="older than a year",
        meaning="The longer a bearer token is in use, the more places have a copy of it.",
        mended_by="Rotate it, put the new bearer token where the old one is in use, then delete the old one.",
        find_since=_find_old,
        statuses=["live"],
        remedy="rotate",
        described_as="old",
    ),
)
"""First what cannot wait, since it stops by itself; then in order of danger, the worst first.

The cluster does not tell since when a token is disabled, nor when it was last used.
"""
