"""What is a risk about a cluster's tokens: counted as they come by, so that it takes no more memory than a few of them.

There is no I/O and no clock in here. Of each token nothing is kept but eight bytes that tell its user; the worst few of
each finding are kept whole.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from secrets import token_hex
from typing import Final

import anyio
import anyio.to_thread

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_all_tokens, fetch_user_tokens, merge_user
from token_tools.errors import ClusterError, NotFound, Refusal, Rejected
from token_tools.operations.audit_export import ReportFormat, open_report
from token_tools.operations.create import MAX_TOKENS_PER_USER
from token_tools.operations.findings import FINDINGS, Finding, UserKey, user_key_of
from token_tools.operations.own_token import INCOMPLETE_LIST, OwnToken, read_own_token
from token_tools.operations.policy import Policy, is_built_in
from token_tools.operations.services import Services
from token_tools.operations.unfinished import (
    JournalHistory,
    Unfinished,
    UnfinishedFinder,
    list_lost_ids,
    read_caller,
    render_unfinished,
)

EXAMPLES_PER_FINDING: Final = 3
STALE_AFTER: Final = timedelta(days=30)
"""After this, a token that is disabled is one that was forgotten."""
YEAR: Final = timedelta(days=365)
MAX_USER_LOOKUPS: Final = 64
"""How many users without a name are looked up before it is said that there are more."""

MAX_UNFINISHED_LOOKUPS: Final = 8
"""How many users without a name are looked up for what is unfinished."""

ProgressCallback = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Example:
    """A token of a finding, and since when it is one, or when it will be."""

    token: AccessToken
    since: datetime


@dataclass
class Tally:
    """How many tokens share a finding, and the worst few: those of the earliest time."""

    count: int = 0
    worst: list[Example] = field(default_factory=list[Example])

    def add(self, token: AccessToken, since: datetime) -> None:
        """Count a token."""
        self.count += 1
        if len(self.worst) < EXAMPLES_PER_FINDING or since < self.worst[-1].since:
            self.worst = sorted([*self.worst, Example(token, since)], key=lambda example: example.since)[
                :EXAMPLES_PER_FINDING
            ]


@dataclass
class Audit:
    """The findings among the tokens that were added, as of `now`; each token is to be added once.

    `tallies` count each finding; `users_with_two_tokens` only after `finalize_users_at_limit`. A token is either
    `live`, `disabled` or `expired`, the last also where it is both. `unnamed_users` are the tallies of the first few
    users without a name, `other_unnamed_tokens` counts the tokens of all further ones; `list_has_names` says that the
    list has a name for others. `disabled_since` tells of some tokens since when they are disabled, and `successor_ids`
    are those that this server made in a rotate. Of the users, `resolved_users` are some whom a look-up told more of
    than the list, and `missing_users` are those whom the cluster does not know. `user_count` counts the users who are
    known, and `users_at_limit` are those with two tokens. `latest_creation` is when the youngest token was made.
    """

    now: datetime
    expiring_within: timedelta
    own_token_id: str | None
    disabled_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    successor_ids: Collection[str] = ()
    live: int = 0
    disabled: int = 0
    expired: int = 0
    tallies: dict[Finding, Tally] = field(default_factory=lambda: {finding: Tally() for finding in FINDINGS})
    unnamed_users: dict[UserKey, Tally] = field(default_factory=dict[UserKey, Tally])
    other_unnamed_tokens: int = 0
    list_has_names: bool = False
    user_count: int = 0
    users_at_limit: Sequence[UserKey] = ()
    latest_creation: datetime | None = None
    resolved_users: dict[UserKey, Identity] = field(default_factory=dict[UserKey, Identity])
    missing_users: set[UserKey] = field(default_factory=set[UserKey])
    _named_users: set[UserKey] = field(default_factory=set[UserKey])
    _own_token: tuple[UserKey, Sequence[Finding]] | None = None
    _user_keys: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return self.live + self.disabled + self.expired

    def add(self, token: AccessToken) -> Sequence[Finding]:
        """Count a token, and tell what was found about it alone."""
        if token.user.is_identified:
            self._user_keys.append(user_key_of(token.user))
        found = self._classify(token)
        for finding, since in found:
            self.tallies[finding].add(token, since)
        if token.id == self.own_token_id:
            self._own_token = user_key_of(token.user), [finding for finding, _ in found]
        return [finding for finding, _ in found]

    def find_users_at_limit(self) -> Sequence[UserKey]:
        """The users who have as many tokens as one can have, so that none of theirs can be rotated, in order."""
        self.user_count, crowded = 0, list[UserKey]()
        for user, tokens in groupby(sorted(self._user_keys)):
            self.user_count += 1
            crowded += [user] if sum(1 for _ in tokens) >= MAX_TOKENS_PER_USER else []
        self.users_at_limit = crowded
        return crowded

    @property
    def has_own_token(self) -> bool:
        """Whether the token that the server runs on came by."""
        return self._own_token is not None

    @property
    def own_findings(self) -> Sequence[Finding]:
        """The findings about the token that the server runs on."""
        return () if self._own_token is None else self.complete_findings(*self._own_token)

    def finalize_users_at_limit(self, examples: Sequence[Example]) -> None:
        """Count the users with two tokens, with a token each of a few of them."""
        self.tallies["users_with_two_tokens"] = Tally(len(self.users_at_limit), [*examples])

    def is_at_limit(self, user: UserKey) -> bool:
        """Whether a user has as many tokens as one can have."""
        place = bisect_left(self.users_at_limit, user)
        return place < len(self.users_at_limit) and self.users_at_limit[place] == user

    def resolve_user(self, user: Identity) -> Identity:
        """A user with what a look-up told of them, if there was one."""
        return self.resolved_users.get(user_key_of(user), user)

    def list_examples_to_resolve(self) -> Mapping[UserKey, AccessToken]:
        """A token each of the users who are told as examples, and of whom nothing is known but a key."""
        examples = [example.token for tally in self.tallies.values() for example in tally.worst]
        unknown = {user_key_of(token.user): token for token in examples if token.user.domain is None}
        return {
            user: token
            for user, token in unknown.items()
            if user not in self.resolved_users.keys() | self.missing_users
        }

    def complete_findings(self, user: UserKey, found: Sequence[Finding]) -> Sequence[Finding]:
        """The findings about a token of that user, with what only the whole list tells."""
        told = {*found, "users_with_two_tokens"} if self.is_at_limit(user) else {*found}
        if user in self._named_users:
            told.discard("user_has_no_name")
        return [finding for finding in FINDINGS if finding in told]

    def finalize_names(self, gone: Collection[UserKey], named: Collection[UserKey]) -> int:
        """Leave of `user_has_no_name` those whom a look-up did not find; gives how many tokens nothing is known of.

        Whom nobody looked up counts as without a name only if the list tells names, and none for them.
        """
        self._named_users = {*named} if self.list_has_names else {*self.unnamed_users} - {*gone}
        without = [tally for user, tally in self.unnamed_users.items() if user not in self._named_users]
        worst = sorted((example for tally in without for example in tally.worst), key=lambda example: example.since)
        besides = self.other_unnamed_tokens if self.list_has_names else 0
        counted = sum(tally.count for tally in without) + besides
        settled = sum(self.unnamed_users[user].count for user in {*gone, *named})
        unsettled = sum(tally.count for tally in self.unnamed_users.values()) + self.other_unnamed_tokens - settled
        self.tallies["user_has_no_name"] = Tally(counted, worst[:EXAMPLES_PER_FINDING])
        return 0 if self.list_has_names else unsettled

    def _add_unnamed_user(self, token: AccessToken) -> None:
        user = user_key_of(token.user)
        if user not in self.unnamed_users and len(self.unnamed_users) >= MAX_USER_LOOKUPS:
            self.other_unnamed_tokens += 1
        else:
            self.unnamed_users.setdefault(user, Tally()).add(token, token.created)

    def _classify(self, token: AccessToken) -> list[tuple[Finding, datetime]]:
        """What there is to say about a token alone; it is counted as what it is by the way."""
        now, user, created, expires = self.now, token.user, token.created, token.expires
        found: list[tuple[Finding, datetime]] = []
        self.latest_creation = (
            created if self.latest_creation is None or created > self.latest_creation else self.latest_creation
        )
        if expires is not None and expires <= now:
            self.expired += 1
            found.append(("expired", expires))
        elif token.is_disabled:
            self.disabled += 1
        else:
            self.live += 1
            if expires is None:
                found.append(("never_expires", created))
            elif expires - now <= self.expiring_within:
                found.append(("expires_soon", expires))
            if is_built_in(user):
                found.append(("built_in_user", created))
            if (
                token.creator is not None
                and token.id not in self.successor_ids
                and not _is_same_user(user, token.creator)
            ):
                found.append(("made_by_another", created))
            if created <= now - YEAR:
                found.append(("older_than_a_year", created))
        since = self.disabled_since.get(token.id, created)
        if token.is_disabled and since <= now - STALE_AFTER:
            found.append(("disabled_and_old", since))
        if user.name:
            self.list_has_names = True
        else:
            found.append(("user_has_no_name", created))
            self._add_unnamed_user(token)
        return found


def _is_same_user(user: Identity, creator: Identity) -> bool:
    if user.auth_id and creator.auth_id:
        return user.auth_id == creator.auth_id
    return user.may_be(creator) and (user.name or "").casefold() == (creator.name or "").casefold()


@dataclass(frozen=True)
class AuditResult:
    """An audit that has seen every token.

    `caveats` say what is not known, `report_path` is the file with all rows. What mends a finding has to keep to
    `policy` and to what is in `journal_history`, and is not for a server that is `read_only`, or whose credential may
    not write. `may_rotate` says whether the cluster lets a new token be proved. `unfinished_notes` tells what is, and
    of the `lost_ids` tokens nobody is known to have the bearer token. `is_complete` says whether what was listed can be
    all. `clock_ahead` is as in `TokenListing`.
    """

    audit: Audit
    caveats: Sequence[str]
    report_path: Path | None
    policy: Policy
    journal_history: JournalHistory
    unfinished_notes: Sequence[str]
    lost_ids: AbstractSet[str]
    read_only: bool
    may_write: bool = True
    may_rotate: bool = True
    is_complete: bool = True
    clock_ahead: timedelta = timedelta()


async def audit_tokens(
    services: Services, expiring_within: timedelta, *, report_format: ReportFormat | None, on_progress: ProgressCallback
) -> AuditResult:
    """Every token of the cluster, looked at once; `expiring_within` bounds what counts as expiring soon.

    `on_progress` is awaited with the number of tokens seen so far, after each page.

    Raises:
        ClusterError: If the cluster cannot be asked.
        DeliveryError: If the report cannot be written.
    """
    own = await read_own_token(services)
    memory = await _finder(services).get_history()
    audit = Audit(
        services.clock(), expiring_within, own.token_id, memory.disabled_since, memory.successor_entries.keys()
    )
    concern = memory.build_suspect_filter(clock_ahead=services.clock.ahead)

    def digest(token: AccessToken) -> Sequence[Finding]:
        concern.add_if_suspect(token)
        return audit.add(token)

    with ExitStack() as ending:
        name = (
            f"audit_{re.sub('[^A-Za-z0-9.-]+', '_', services.address)}_{services.clock():%Y%m%dT%H%M%SZ}_{token_hex(2)}"
        )
        sheet = (
            ending.enter_context(open_report(services.report_folder, name, report_format)) if report_format else None
        )
        async for found in fetch_all_tokens(services.cluster, digest):
            if sheet is not None:
                await anyio.to_thread.run_sync(sheet.add, found)
            await on_progress(audit.total)
        unsettled = audit.finalize_names(*await _look_up_unnamed_users(services, audit))
        unfinished = await _locate_unfinished(services, memory, concern.suspects)
        crowded = await anyio.to_thread.run_sync(audit.find_users_at_limit)
        audit.finalize_users_at_limit(await _read_examples_at_limit(services, crowded, {*list_lost_ids(unfinished)}))
        await _resolve_examples(services, audit)
        path = None if sheet is None else await anyio.to_thread.run_sync(sheet.finish, audit.complete_findings)
    return AuditResult(
        audit,
        _list_caveats(own, audit, memory, unsettled),
        path,
        services.policy,
        memory,
        render_unfinished(unfinished, services.clock),
        frozenset(list_lost_ids(unfinished)),
        read_only=services.read_only,
        may_write=own.may_write,
        may_rotate=not own.has_unknown_id,
        is_complete=_may_be_complete(own, audit),
        clock_ahead=services.clock.ahead,
    )


async def _locate_unfinished(
    services: Services, journal_history: JournalHistory, suspects: Sequence[AccessToken]
) -> Sequence[Unfinished]:
    """What is unfinished about some tokens, of which a list may have told no more of their users than a key."""
    named = [token for token in suspects if token.user.name]
    for token in [token for token in suspects if not token.user.name][:MAX_UNFINISHED_LOOKUPS]:
        with suppress(ClusterError, Refusal):
            named.append(merge_user(token, await services.cluster.resolve_identity(token.user.as_minimal_identity())))
    return await _finder(services).locate_unfinished(
        journal_history, named, me=await read_caller(services.cluster, journal_history)
    )


async def _resolve_examples(services: Services, audit: Audit) -> None:
    """Look the users up of whom something will be advised, where the list tells no more than a key."""
    for user, token in audit.list_examples_to_resolve().items():
        try:
            found = await services.cluster.resolve_identity(token.user.as_minimal_identity())
        except NotFound:
            audit.missing_users.add(user)
        except (ClusterError, Refusal):
            continue
        else:
            audit.resolved_users[user] = token.user.merged_with(found) or token.user


async def _look_up_unnamed_users(services: Services, audit: Audit) -> tuple[Sequence[UserKey], Sequence[UserKey]]:
    """Those of the users without a name whom the cluster does not find, and those for whom it has a name."""
    gone: list[UserKey] = []
    named: list[UserKey] = []
    for user, tally in audit.unnamed_users.items():
        who = tally.worst[0].token.user
        if not who.is_identified:
            continue
        try:
            found = await services.cluster.resolve_identity(who.as_minimal_identity())
        except (NotFound, Rejected) as failure:
            gone.append(user)
            audit.missing_users |= {user} if isinstance(failure, NotFound) else set()
        except ClusterError:
            break
        else:
            if who.as_minimal_identity().merged_with(found) is None:
                break
            audit.resolved_users[user] = found
            (named if found.name else gone).append(user)
    return gone, named


async def _read_examples_at_limit(
    services: Services, users_at_limit: Sequence[UserKey], lost_ids: AbstractSet[str]
) -> list[Example]:
    """A token each of the first few users who have as many as one can have: the one that is most likely unused.

    That is one of the `lost_ids`, of which nobody is known to have the bearer token, or else one that does not
    work.
    """
    examples: list[Example] = []
    for user in users_at_limit[:EXAMPLES_PER_FINDING]:
        try:
            tokens = await fetch_user_tokens(services.cluster, Identity(auth_id=str(user)))
        except ClusterError:
            break
        now = services.clock()
        tokens.sort(key=lambda token: (token.id not in lost_ids, token.is_live(now=now), token.created))
        examples += [Example(token, token.created) for token in tokens[:1] if user_key_of(token.user) == user]
    return examples


def _finder(services: Services) -> UnfinishedFinder:
    return UnfinishedFinder(services.delivery, services.journal, services.clock)


def _may_be_complete(own: OwnToken, audit: Audit) -> bool:
    """Whether what an audit saw can be all tokens of the cluster: those have the server's own among them."""
    return audit.has_own_token if own.token_id is not None else audit.total > 0 or own.is_token is False


def _list_caveats(own: OwnToken, audit: Audit, journal_history: JournalHistory, unnamed_tokens: int) -> Sequence[str]:
    """What an audit does not know; of the users of `unnamed_tokens` tokens it is whether they have a name."""
    return [
        *own.caveats,
        *([] if _may_be_complete(own, audit) or own.is_token is None else [INCOMPLETE_LIST]),
        *(
            [f"Whether the users of {unnamed_tokens:,} tokens have a name: the list does not tell."]
            if unnamed_tokens
            else []
        ),
        *filter(None, [journal_history.journal_error]),
    ]
