"""Render an audit of several clusters side by side, in one answer of the size that an audit of one cluster has."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple

from pydantic import BaseModel

from token_tools.cluster.clock import render_clock_note
from token_tools.operations.audit import AuditResult
from token_tools.operations.audit_users import EXAMPLES_PER_FINDING, Tally
from token_tools.operations.calls import naming_cluster
from token_tools.operations.findings import FINDINGS, Finding
from token_tools.operations.fleet import FleetAnswers, Label
from token_tools.times import format_duration, format_time
from token_tools.views.audit import (
    ALWAYS_UNKNOWN,
    MAX_CAVEAT_CHARS,
    MOST_EXAMPLES,
    FindingCount,
    cut_unfinished,
    render_cannot_mend,
    render_changed,
    render_clocks_caveat,
    render_counts,
    render_example,
    render_own_token,
    render_remainder,
    render_what_fits,
    truncate,
)
from token_tools.views.audit_advice import Advice, choose_remedies, list_found
from token_tools.views.drift import render_brief_drift, render_drift
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import format_count

NOT_AUDITED: Final = "cluster_not_audited"
"""The finding about a cluster that could not be audited."""

NOT_WHOLE: Final = "cluster_not_whole"
"""The finding about a cluster whose list may lack tokens."""

MIN_CAVEAT_CHARS: Final = 60
"""Characters of each thing that is not known, however many clusters there are."""

_MORE_OF_ONE: Final = "audit_access_tokens(cluster=…) tells more of one of them."


class FleetFinding(FindingCount):
    """How many tokens share a finding, on which clusters (`production 10, lab 4`), and the worst few of all of them.

    Of each of those are told its cluster, its id, its user, and since when, in a line.
    """

    clusters: str
    worst: list[str] | None = None


class FleetAuditReport(BaseModel):
    """What is a risk about the tokens of several clusters. The sums are of those that could be audited."""

    summary: str
    clusters: list[str]
    total: int
    users: int
    live: int
    disabled: int
    expired: int
    findings: list[FleetFinding]
    not_known: str
    note: str | None = None


class _Size(NamedTuple):
    """What an answer has room for.

    That is so many examples of each finding, so many clusters that are told in full and beside each finding, and so
    many characters of each thing that is not known.
    """

    examples: int
    clusters: int
    caveat_chars: int


class _Audited(NamedTuple):
    """The audit of one cluster, with its findings and what mends each."""

    label: Label
    result: AuditResult
    found: Mapping[Finding, Tally]
    remedies: Mapping[Finding, Advice]

    @property
    def name(self) -> str:
        return str(self.label.name)

    @property
    def can_mend(self) -> bool:
        """Whether this server may change tokens of this cluster."""
        return not render_cannot_mend(self.result)


def render_fleet_audit(found: FleetAnswers[AuditResult]) -> RenderedResult:
    """Return what could not be audited, the counts of each cluster, and the findings over all in order of danger."""
    audited = [_audit_one(label, result) for label, result in found.answers]
    return render_what_fits(partial(_render, found, audited), _list_sizes(len([*found.answers, *found.failures])))


def _list_sizes(clusters: int) -> Sequence[_Size]:
    """Return the sizes of an answer about so many clusters: first the long lists of examples are shortened."""
    few_chars = max(MAX_CAVEAT_CHARS // clusters, MIN_CAVEAT_CHARS)
    return [
        *(_Size(examples, clusters, MAX_CAVEAT_CHARS) for examples in range(MOST_EXAMPLES, EXAMPLES_PER_FINDING, -1)),
        *(_Size(examples, clusters, few_chars) for examples in range(EXAMPLES_PER_FINDING, -1, -1)),
        *(_Size(0, fewer_clusters, few_chars) for fewer_clusters in (clusters // 2, clusters // 4, 0)),
    ]


def _audit_one(label: Label, result: AuditResult) -> _Audited:
    with naming_cluster(label.name):
        return _Audited(label, result, list_found(result), choose_remedies(result))


def _render(found: FleetAnswers[AuditResult], audited: Sequence[_Audited], size: _Size) -> RenderedResult:
    audits = [each.result.audit for each in audited]
    unfinished = [
        f"{each.label.prefix}{note}" for each in audited for note in cut_unfinished(each.result, size.examples)
    ]
    fields = FleetAuditReport(
        summary=_render_headline(found, audited),
        clusters=[line for number, each in enumerate(audited) for line in _render_cluster(each, number, size)],
        total=sum(audit.total for audit in audits),
        users=sum(len(audit.census.tokens_per_user) for audit in audits),
        live=sum(audit.token_counts["live"] for audit in audits),
        disabled=sum(audit.token_counts["disabled"] for audit in audits),
        expired=sum(audit.token_counts["expired"] for audit in audits),
        findings=[*_list_missing(found, size), *_count_findings(audited, size)],
        not_known=" ".join([ALWAYS_UNKNOWN, *_list_caveats(audited, size)]),
        note=" ".join([*unfinished, *_render_cannot_mend(audited)]) or None,
    )
    return RenderedResult(_render_text(fields, audited, unfinished), fields)


def _list_missing(found: FleetAnswers[AuditResult], size: _Size) -> Iterator[FleetFinding]:
    """Return what is not known of whole clusters, as findings: those without an audit, and those without all tokens."""
    failures = [(NOT_AUDITED, label, label.render_failure(failure)) for label, failure in found.failures]
    partial_lists = [(NOT_WHOLE, label, " ".join(each.list_caveats)) for label, each in found.answers]
    for finding, label, reason in [*failures, *partial_lists]:
        if reason:
            mend = truncate(reason, max_chars=size.caveat_chars)
            yield FleetFinding(finding=finding, count=1, clusters=str(label.name), mend=mend)


def _render_headline(found: FleetAnswers[AuditResult], audited: Sequence[_Audited]) -> str:
    first = audited[0].result
    total, now = sum(each.result.audit.total for each in audited), first.audit.scope.now - first.clock_ahead
    of_all = f" of {len(found.answers) + len(found.failures)}" if found.failures else ""
    without = ", ".join(str(label.name) for label, _ in found.failures)
    in_part = ", ".join(each.name for each in audited if each.result.list_caveats)
    not_among = f"{f', without {without}' if without else ''}{f', maybe not all of {in_part}' if in_part else ''}"
    clusters = f"{len(audited)}{of_all} cluster{'' if len(audited) == 1 and not of_all else 's'}"
    return (
        f"{format_count(total, 'access token')} on {clusters}{not_among}. It is {format_time(now)}. "
        f"Soon is within {format_duration(first.audit.scope.expiring_within)}."
    )


def _render_cluster(audited: _Audited, number: int, size: _Size) -> Iterator[str]:
    """Render the counts of a cluster, and what changed there since the last audit; the sums alone without room."""
    result, audit = audited.result, audited.result.audit
    if number >= size.clusters:
        tokens = f"{format_count(audit.total, 'token')}, {audit.token_counts['live']:,} live"
        yield f"{audited.label.prefix}{tokens}; {render_brief_drift(audit.drift)}"
        return
    drift = render_drift(audit.drift, now=audit.scope.now)
    own_token = render_own_token(result)
    own = own_token and f"This server's {own_token}."
    counts = f"{render_counts(result, audited.label.address)}."
    yield " ".join(filter(None, [counts, drift, own, render_clock_note(result.clock_ahead)]))
    for changed in render_changed(result, size.examples):
        yield f"{audited.label.prefix}{changed}"


def _count_findings(audited: Sequence[_Audited], size: _Size) -> Iterator[FleetFinding]:
    for finding in FINDINGS:
        having = [each for each in audited if finding in each.found]
        if having:
            counts = {each.name: each.found[finding].count for each in having}
            yield FleetFinding(
                finding=finding.name,
                count=sum(counts.values()),
                clusters=_render_counts_by_cluster(counts, size.clusters),
                mend=_choose_remedy(finding, having),
                worst=_list_worst(finding, having)[: size.examples] or None,
            )


def _render_counts_by_cluster(counts: Mapping[str, int], max_clusters: int) -> str:
    """Return how often clusters have a finding, in the operator's order; without room, only where there is most."""
    most = sorted(counts, key=lambda name: -counts[name])[:max_clusters]
    others = len(counts) - len(most)
    named = [f"{name} {count:,}" for name, count in counts.items() if name in most]
    return ", ".join([*named, *([format_count(others, "other cluster")] if others else [])])


def _choose_remedy(finding: Finding, having: Sequence[_Audited]) -> str:
    """Return what mends a finding on one cluster; the next audit tells it of the next one.

    A call comes first. What this server may not change is left to whoever may.
    """
    mendable = [each for each in having if each.can_mend]
    if not mendable:
        return "This server changes nothing there: a person mends it"
    calls = [each.remedies[finding].text for each in mendable if each.remedies[finding].token_id is not None]
    return calls[0] if calls else f"{mendable[0].label.prefix}{mendable[0].remedies[finding].text}"


def _list_worst(finding: Finding, having: Sequence[_Audited]) -> list[str]:
    """Return the worst few tokens of all clusters, in a line each."""
    examples = [(example.since, each.name, example) for each in having for example in each.found[finding].worst]
    worst = sorted(examples, key=itemgetter(0))[: finding.max_examples]
    return [f"{name} {render_example(example)}" for _, name, example in worst]


def _list_caveats(audited: Sequence[_Audited], size: _Size) -> Iterator[str]:
    for each in audited:
        for caveat in [*each.result.caveats, *render_clocks_caveat(each.result)]:
            yield f"{each.label.prefix}{truncate(caveat, max_chars=size.caveat_chars)}"
    if size.clusters < len(audited):
        yield _MORE_OF_ONE


def _render_cannot_mend(audited: Sequence[_Audited]) -> Iterator[str]:
    """Render why this server cannot make the calls that mend, and on which clusters."""
    names_by_note: dict[str, list[str]] = {}
    for each in audited:
        for note in render_cannot_mend(each.result) if each.found else ():
            names_by_note.setdefault(note, []).append(each.name)
    for note, names in names_by_note.items():
        yield f"{', '.join(names)}: {note}"


def _render_text(fields: FleetAuditReport, audited: Sequence[_Audited], unfinished: Sequence[str]) -> str:
    missing = [finding for finding in fields.findings if finding.finding in {NOT_AUDITED, NOT_WHOLE}]
    findings = fields.findings[len(missing) :]
    lines = [
        fields.summary,
        *map(_render_finding, missing),
        *unfinished,
        *fields.clusters,
        *([] if findings else ["Nothing found among what was listed." if missing else "Nothing found."]),
        *map(_render_finding, findings),
        fields.not_known,
        *_render_cannot_mend(audited),
    ]
    return "\n".join(lines)


def _render_finding(finding: FleetFinding) -> str:
    worst = finding.worst or []
    first = f"{finding.finding}: {finding.count:,} ({finding.clusters}). {finding.mend}"
    return "\n  ".join([first, *worst, *render_remainder(finding, len(worst))])
