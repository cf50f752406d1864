"""Audit all tokens of the cluster: count their findings while the list is read, and keep a few tokens as examples."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, get_args

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import fetch_user_tokens, merge_user, process_all_tokens
from token_tools.errors import ClusterError, NotFound, Refusal, Rejected
from token_tools.operations.audit_users import (
    EXAMPLES_PER_FINDING,
    Example,
    Tally,
    UserCensus,
    UserKey,
    user_key_of,
)
from token_tools.operations.drift import Drift, keep_sighting, read_drift
from token_tools.operations.findings import (
    CLUSTER_ACCOUNT,
    FINDINGS,
    AuditScope,
    Finding,
    TokenStatus,
    find_internal_account,
    find_status,
)
from token_tools.operations.fleet import Fleet, FleetAnswers
from token_tools.operations.journal_history import JournalHistory, read_history
from token_tools.operations.own_token import OwnToken, read_own_token
from token_tools.operations.policy import Policy, is_internal
from token_tools.operations.services import Services
from token_tools.operations.unfinished import (
    list_lost_ids,
    locate_unfinished,
    read_principal,
    render_unfinished,
    render_untraced_count,
    tell_not_picked_up,
)
from token_tools.storage.sightings import ASSISTANT

MAX_UNFINISHED_LOOKUPS: Final = 8
"""How many users without a name are looked up, because an unfinished attempt may be about one of their tokens."""

ProgressCallback = Callable[[int], Awaitable[None]]

_TESTS_BY_STATUS: Final = {
    status: [
        (finding, finding.find_since)
        for finding in FINDINGS
        if finding.find_since is not None and status in finding.statuses
    ]
    for status in get_args(TokenStatus)
}
_INTERNAL_TESTS: Final = [(CLUSTER_ACCOUNT, find_internal_account)]


class AuditRequest(NamedTuple):
    """How soon is soon to expire, and with which audit this one is compared: the last one of its series."""

    expiring_within: timedelta
    series: str = ASSISTANT


@dataclass
class Audit:
    """The counts of an audit; each token is to be added once.

    `tallies` count the findings that single tokens show, until `finalize` adds what only the whole list shows.
    `drift` tells what changed since the last audit. `latest_creation` is when the newest token was created. `own_token`
    is the token that the server runs on, None unless it was added.
    """

    scope: AuditScope
    own_token_id: str | None
    drift: Drift
    census: UserCensus = field(default_factory=UserCensus)
    token_counts: dict[TokenStatus, int] = field(default_factory=lambda: dict.fromkeys(get_args(TokenStatus), 0))
    tallies: Mapping[Finding, Tally] = field(
        default_factory=lambda: {finding: Tally(max_examples=finding.max_examples) for finding in FINDINGS}
    )
    latest_creation: datetime | None = None
    own_token: AccessToken | None = None
    _own_findings: Sequence[str] = ()

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return sum(self.token_counts.values())

    def add(self, token: AccessToken) -> Sequence[str]:
        """Count a token, and return the names of the findings that this token shows by itself."""
        status = find_status(token, self.scope.now)
        self.token_counts[status] += 1
        self.census.add(token)
        if self.latest_creation is None or token.created > self.latest_creation:
            self.latest_creation = token.created
        found: list[str] = []
        for finding, find_since in _INTERNAL_TESTS if is_internal(token.user) else _TESTS_BY_STATUS[status]:
            if (since := find_since(token, self.scope)) is not None:
                self.tallies[finding].add(token, since)
                found.append(finding.name)
        if token.id == self.own_token_id:
            self.own_token, self._own_findings = token, found
        return found

    def finalize(self) -> None:
        """Make the tallies final; call it once, after all tokens were added and all users were looked up."""
        self.tallies = {finding: finding.finalize(tally, self.census) for finding, tally in self.tallies.items()}

    def complete_findings(self, user: UserKey, found: Sequence[str]) -> Sequence[str]:
        """Return all findings of a user's token, in order, by name; `found` are those that it shows by itself."""
        return [
            finding.name for finding in FINDINGS if finding.concerns(user, self.census, found=finding.name in found)
        ]

    @property
    def has_own_token(self) -> bool:
        """Whether the token that the server runs on is among those that were added."""
        return self.own_token is not None

    @property
    def own_findings(self) -> Sequence[str]:
        """The names of the findings of the token that the server runs on."""
        own = self.own_token
        return () if own is None else self.complete_findings(user_key_of(own.user), self._own_findings)

    def list_examples_to_resolve(self) -> Mapping[UserKey, AccessToken]:
        """Return one token of each user who has an example and of whom only a key is known, by the key."""
        examples = [example.token for tally in self.tallies.values() for example in tally.worst]
        unknown = {user_key_of(token.user): token for token in examples if token.user.domain is None}
        known = self.census.resolved.keys() | self.census.missing
        return {user: token for user, token in unknown.items() if user not in known}


@dataclass(frozen=True)
class AuditResult:
    """An audit that has seen every token.

    `list_caveats` say why the tokens that were listed may not be all, and `caveats` what else is not known.
    `unfinished_notes` say what other calls left unfinished. `lost_ids` are the ids of the tokens whose bearer token is
    lost, as far as is known.

    The rest decides what can mend a finding: the operator's `policy`, what the journal knows, whether this server is
    `read_only`, `may_create_tokens`, or has a credential that may not write, and whether the cluster lets a new token
    be proved, so that this server `may_rotate`. By `clock_ahead`, the cluster's clock is known to be ahead of ours.
    """

    audit: Audit
    list_caveats: Sequence[str]
    caveats: Sequence[str]
    policy: Policy
    journal_history: JournalHistory
    unfinished_notes: Sequence[str]
    lost_ids: AbstractSet[str]
    read_only: bool
    may_create_tokens: bool = True
    may_write: bool = True
    may_rotate: bool = True
    clock_ahead: timedelta = timedelta()

    @property
    def not_known(self) -> Sequence[str]:
        """All that is not known: first why the tokens that were listed may not be all."""
        return [*self.list_caveats, *self.caveats]


PageCallback = Callable[[Audit, Sequence[tuple[AccessToken, Sequence[str]]]], Awaitable[None]]


async def _ignore_page(_audit: Audit, _tokens: Sequence[tuple[AccessToken, Sequence[str]]]) -> None:
    pass


async def audit_tokens(services: Services, expiring_within: timedelta, *, on_progress: ProgressCallback) -> AuditResult:
    """Examine all tokens as `examine_tokens` does, and keep what was seen for the next audit.

    Raises:
        ClusterError: If the cluster cannot be asked.
    """
    request = AuditRequest(expiring_within)
    return await _keep(services, await examine_tokens(services, request, on_progress=on_progress))


async def audit_fleet(
    fleet: Fleet, expiring_within: timedelta, *, on_progress: ProgressCallback
) -> FleetAnswers[AuditResult]:
    """Audit all clusters at once. `on_progress` is awaited with the number of tokens of all of them seen so far.

    What was seen is kept only once all have answered. A call that is given up before tells nobody what changed, so the
    next one has to.

    Raises:
        TokenToolsError: If no cluster can be audited.
    """
    seen: dict[str | None, int] = {}

    async def examine(services: Services) -> tuple[Services, AuditResult]:
        async def report(count: int) -> None:
            seen[services.name] = count
            await on_progress(sum(seen.values()))

        return services, await examine_tokens(services, AuditRequest(expiring_within), on_progress=report)

    found = await fleet.ask_all(examine)
    kept = [(label, await _keep(services, result)) for label, (services, result) in found.answers]
    return FleetAnswers(kept, found.failures)


async def _keep(services: Services, result: AuditResult) -> AuditResult:
    """Keep what an audit saw for the next one, and return it with why that was not possible."""
    return replace(result, caveats=[*result.caveats, *await keep_audit(services, result)])


async def keep_audit(services: Services, result: AuditResult, *, told: bytes = b"") -> Sequence[str]:
    """Keep what an audit saw and told for the next one of its series, and return why that was not possible."""
    if result.journal_history.journal_error is not None:
        # The audit says so already.
        return []
    return await keep_sighting(services, result.audit.drift, result.audit.scope.now, told)


async def examine_tokens(
    services: Services,
    request: AuditRequest,
    *,
    on_progress: ProgressCallback,
    on_page: PageCallback = _ignore_page,
) -> AuditResult:
    """Look at every token of the cluster once.

    `on_page` is awaited after each page with its tokens, each with the names of the findings that it shows by itself,
    and then `on_progress` with the number of tokens seen so far.

    Raises:
        ClusterError: If the cluster cannot be asked.
    """
    own = await read_own_token(services)
    history = await read_history(services)
    scope = AuditScope(services.clock(), request.expiring_within, history.disabled_since, history.rotations.keys())
    audit = Audit(scope, own.token_id, await read_drift(services, history, request.series))
    suspect_filter = history.build_suspect_filter(clock_ahead=services.clock.ahead)

    async def process(tokens: Sequence[AccessToken]) -> None:
        found = [(token, audit.add(token)) for token in tokens]
        audit.drift.compare(tokens)
        suspect_filter.add_suspects(tokens)
        await on_page(audit, found)
        await on_progress(audit.total)

    await process_all_tokens(services.cluster, process)
    return await _conclude(services, audit, own, history, suspect_filter.suspects)


async def _conclude(
    services: Services, audit: Audit, own: OwnToken, history: JournalHistory, found_suspects: Sequence[AccessToken]
) -> AuditResult:
    """Find out what only the whole list and look-ups tell; `found_suspects` are what open attempts may concern."""
    list_caveats = own.list_caveats(total=audit.total, has_own_token=audit.has_own_token)
    if not list_caveats:
        audit.drift.finalize()
    await _look_up_unnamed_users(services, audit.census)
    suspects = await _look_up_names(services, found_suspects)
    me = await read_principal(services.cluster, history)
    unfinished = await locate_unfinished(services, history, suspects, me=me)
    lost_ids = frozenset(list_lost_ids(unfinished))
    audit.census.at_limit_examples = await _read_examples_at_limit(services, audit.census.at_limit, lost_ids)
    audit.finalize()
    await _resolve_examples(services, audit)
    return AuditResult(
        audit,
        list_caveats,
        [*_list_caveats(audit, history), *audit.drift.caveats],
        services.policy,
        history,
        [
            *render_unfinished(unfinished),
            *render_untraced_count(history, suspects, services.clock),
            *await tell_not_picked_up(services),
        ],
        lost_ids,
        read_only=services.read_only,
        may_create_tokens=services.may_create_tokens,
        may_write=own.may_write,
        may_rotate=not own.has_unknown_id,
        clock_ahead=services.clock.ahead,
    )


async def _look_up_names(services: Services, suspects: Sequence[AccessToken]) -> Sequence[AccessToken]:
    """Return tokens with the names of their users; those of whom the list has only a key are looked up."""
    named = [token for token in suspects if token.user.name]
    for token in [token for token in suspects if not token.user.name][:MAX_UNFINISHED_LOOKUPS]:
        with suppress(ClusterError, Refusal):
            named.append(merge_user(token, await services.cluster.resolve_identity(token.user.as_minimal_identity())))
    return named


async def _resolve_examples(services: Services, audit: Audit) -> None:
    """Look up the users of examples if the list has only their key: advice depends on who they are."""
    for user, token in audit.list_examples_to_resolve().items():
        try:
            found = await services.cluster.resolve_identity(token.user.as_minimal_identity())
        except NotFound:
            audit.census.missing.add(user)
        except (ClusterError, Refusal):
            continue
        else:
            audit.census.resolved[user] = token.user.merged_with(found) or token.user


async def _look_up_unnamed_users(services: Services, census: UserCensus) -> None:
    """Find out for the first few users whom the list does not name whether they have a name."""
    for user, tally in census.unnamed.items():
        unnamed = tally.worst[0].token.user
        if not unnamed.is_identified:
            continue
        try:
            found = await services.cluster.resolve_identity(unnamed.as_minimal_identity())
        except NotFound:
            census.nameless.add(user)
            census.missing.add(user)
        except Rejected:
            census.nameless.add(user)
        except ClusterError:
            break
        else:
            if unnamed.as_minimal_identity().merged_with(found) is None:
                break
            census.resolved[user] = found
            (census.named if found.name else census.nameless).add(user)


async def _read_examples_at_limit(
    services: Services, users_at_limit: Sequence[UserKey], lost_ids: AbstractSet[str]
) -> Sequence[Example]:
    """Return for each of the first few users at the token limit the token that is most likely unused.

    That is one of the `lost_ids`, or else one that does not work.
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


def _list_caveats(audit: Audit, history: JournalHistory) -> Sequence[str]:
    """Return what an audit does not know of the tokens that were listed."""
    undecided = audit.census.count_undecided_tokens()
    return [
        *([f"Whether the users of {undecided:,} tokens have a name: the list does not tell."] if undecided else []),
        *filter(None, [history.journal_error]),
    ]
