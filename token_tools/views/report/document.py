"""What an audit for people tells, as data: the JSON of the command `audit`, and the one JSON element of its page.

It has every token of every cluster, and no secret. Texts are for people, and may hold any character that a cluster
allows in a name. Times are in RFC 3339 and in UTC, those of tokens as the cluster wrote them.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from token_tools import __version__
from token_tools.operations.audit_users import Tally
from token_tools.operations.calls import naming_cluster
from token_tools.operations.drift import Drift, TokenChange
from token_tools.operations.findings import (
    FINDINGS,
    OLD_AFTER,
    STALE_AFTER,
    Finding,
    Severity,
    TokenStatus,
    find_status,
)
from token_tools.operations.fleet import FleetAnswers, Label
from token_tools.operations.inventory import Inventory, InventoryRequest, ListedToken
from token_tools.times import format_duration_argument, format_rfc3339
from token_tools.views.audit import ALWAYS_UNKNOWN, render_clocks_caveat
from token_tools.views.audit_advice import Advice, choose_remedies, list_found
from token_tools.views.drift import render_drift
from token_tools.views.tokens import format_count

_NAMES_NEEDING_ATTENTION: Final = frozenset(finding.name for finding in FINDINGS if finding.severity != "notice")


class FindingWords(msgspec.Struct, frozen=True):
    """A finding in plain words, whether any token has it or not.

    `words` say it of a token: `never expires`. `meaning` says why it is a risk, and `mend` what to do about it. Those
    in `FINDINGS` come in that order, so that the worst comes first.
    """

    name: str
    severity: Severity
    words: str
    meaning: str
    mend: str


class Thresholds(msgspec.Struct, frozen=True):
    """From when on tokens count: durations such as `30d`. `expiring_within` has the longest first."""

    expiring_within: Sequence[str]
    old_after: str
    stale_after: str


class TokenEntry(msgspec.Struct, frozen=True):
    """A token. `findings` are names, and `new_findings` those of them that it did not have at the last audit.

    `changes` say what happened to it since then. `is_own` says that the audit itself ran on it.
    """

    id: str
    user: str
    creator: str | None
    created: str
    expires: str | None
    state: TokenStatus
    is_enabled: bool
    is_own: bool
    findings: Sequence[str]
    new_findings: Sequence[str]
    changes: Sequence[TokenChange]


class GoneToken(msgspec.Struct, frozen=True):
    """A token that the last audit saw, and that is not there any more; `user` is None if it is not known."""

    id: str
    user: str | None
    by_this_server: bool


class FindingTotal(msgspec.Struct, frozen=True):
    """How many tokens of a cluster share a finding, or users for `users_with_two_tokens`.

    Of so many of them the last audit did not tell: `new`. `mend` is what an assistant can do first on this cluster.
    """

    name: str
    count: int
    new: int
    mend: str


class Changes(msgspec.Struct, frozen=True):
    """What changed since the last audit. `since` and `audited_by` are None if there is nothing to compare with.

    `summary` says it in a sentence. What happened to tokens that are still there stands beside them.
    """

    since: str | None
    audited_by: str | None
    summary: str
    gone: Sequence[GoneToken]


class ClusterEntry(msgspec.Struct, frozen=True):
    """A cluster that was read. `time` is its own. `unfinished` says what a server began and did not end.

    `not_whole` says why the tokens may not be all, and `not_known` what else is not known.
    """

    name: str
    time: str
    users: int
    live: int
    disabled: int
    expired: int
    findings: Sequence[FindingTotal]
    changes: Changes
    unfinished: Sequence[str]
    not_whole: Sequence[str]
    not_known: Sequence[str]
    tokens: Sequence[TokenEntry]


class FailedCluster(msgspec.Struct, frozen=True):
    """A cluster that could not be read, and why."""

    name: str
    reason: str


class AuditDocument(msgspec.Struct, frozen=True):
    """An audit of all clusters that were asked for; `time` is when it was made, by this machine's clock.

    `summary` says in a sentence how many tokens need attention. With `only_new`, it was asked for what is new since the
    last audit, and the entries of `tokens` without anything new are left out; the counts are of all. `program` is the
    name of this program and its version.
    """

    version: Literal[1]
    time: str
    program: str
    summary: str
    only_new: bool
    thresholds: Thresholds
    findings: Sequence[FindingWords]
    clusters: Sequence[ClusterEntry]
    failed: Sequence[FailedCluster]


def create_report(
    found: FleetAnswers[Inventory], request: InventoryRequest, *, time: datetime, only_new: bool
) -> AuditDocument:
    """Return an audit for people that was made at this time by our clock."""
    clusters = [_describe_cluster(label, inventory) for label, inventory in found.answers]
    document = AuditDocument(
        version=1,
        time=format_rfc3339(time.replace(microsecond=0)),
        program=f"qumulo-token-tools {__version__}",
        summary=_render_summary(clusters, len(found.failures)),
        only_new=only_new,
        thresholds=Thresholds(
            expiring_within=[format_duration_argument(each) for each in sorted(request.thresholds, reverse=True)],
            old_after=format_duration_argument(OLD_AFTER),
            stale_after=format_duration_argument(STALE_AFTER),
        ),
        findings=[
            FindingWords(each.name, each.severity, each.words, each.meaning, each.mended_by) for each in FINDINGS
        ],
        clusters=clusters,
        failed=[FailedCluster(label.title, label.render_failure(failure)) for label, failure in found.failures],
    )
    return _leave_out_old(document) if only_new else document


def _leave_out_old(document: AuditDocument) -> AuditDocument:
    clusters = [
        msgspec.structs.replace(each, tokens=[token for token in each.tokens if token.new_findings or token.changes])
        for each in document.clusters
    ]
    return msgspec.structs.replace(document, clusters=clusters)


def _render_summary(clusters: Sequence[ClusterEntry], failures: int) -> str:
    tokens = [token for cluster in clusters for token in cluster.tokens]
    worrying = sum(not _NAMES_NEEDING_ATTENTION.isdisjoint(token.findings) for token in tokens)
    told = f"{worrying:,} of {format_count(len(tokens), 'access token')} on {format_count(len(clusters), 'cluster')}"
    verb = "needs" if worrying == 1 else "need"
    partial = [each for each in clusters if each.not_whole]
    return " ".join(
        [
            *([f"{told} {verb} attention."] if clusters else []),
            *([f"{format_count(failures, 'cluster')} could not be read."] if failures else []),
            *([f"The list of {format_count(len(partial), 'cluster')} may not be whole."] if partial else []),
        ]
    )


def _describe_cluster(label: Label, inventory: Inventory) -> ClusterEntry:
    result = inventory.result
    audit = result.audit
    with naming_cluster(label.name):
        remedies = choose_remedies(result)
    return ClusterEntry(
        name=label.title,
        time=format_rfc3339(audit.scope.now),
        users=len(audit.census.tokens_per_user),
        **audit.token_counts,
        findings=[
            _count_finding(finding, tally, remedies[finding], inventory)
            for finding, tally in list_found(result).items()
        ],
        changes=_describe_changes(inventory, audit.drift),
        unfinished=result.unfinished_notes,
        not_whole=result.list_caveats,
        not_known=[ALWAYS_UNKNOWN, *result.caveats, *render_clocks_caveat(result)],
        tokens=[_describe_token(listed, inventory) for listed in inventory.tokens],
    )


def _count_finding(finding: Finding, tally: Tally, remedy: Advice, inventory: Inventory) -> FindingTotal:
    return FindingTotal(finding.name, tally.count, inventory.count_new(finding.name), remedy.text)


def _describe_changes(inventory: Inventory, drift: Drift) -> Changes:
    census, now = inventory.result.audit.census, inventory.result.audit.scope.now
    gone = [
        GoneToken(each.id, str(census.resolve(each.user)) if each.user.is_identified else None, each.by_this_server)
        for each in inventory.gone
    ]
    since = None if drift.last is None else format_rfc3339(drift.last.time.replace(microsecond=0))
    return Changes(since, None if drift.last is None else drift.last.actor, render_drift(drift, now=now), gone)


def _describe_token(listed: ListedToken, inventory: Inventory) -> TokenEntry:
    token, audit = listed.token, inventory.result.audit
    return TokenEntry(
        id=token.id,
        user=str(audit.census.resolve(token.user)),
        creator=None if token.creator is None else str(audit.census.resolve(token.creator)),
        created=token.creation_time,
        expires=token.expiration_time,
        state=find_status(token, audit.scope.now),
        is_enabled=not token.is_disabled,
        is_own=token.id == audit.own_token_id,
        findings=listed.findings,
        new_findings=listed.new_findings,
        changes=listed.changes,
    )
