"""Render an audit for people as text: for a terminal, and for a mail."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from token_tools.operations.findings import USERS_WITH_TWO_TOKENS
from token_tools.times import format_relative_time, format_time, parse_rfc3339
from token_tools.views.report.document import (
    AuditDocument,
    Changes,
    ClusterEntry,
    FindingTotal,
    FindingWords,
    TokenEntry,
)
from token_tools.views.tokens import format_count

MAX_TOKENS: Final = 50
"""Tokens that are shown of each finding, and of what changed; the other formats have all."""


def render_text(document: AuditDocument) -> str:
    """Return what could not be read, and for each cluster its findings with their tokens, and what changed."""
    return "\n".join(_render_lines(document)) + "\n"


def _render_lines(document: AuditDocument) -> Iterator[str]:
    yield f"{document.summary} ({format_time(parse_rfc3339(document.time))})"
    for failed in document.failed:
        yield f"\n{failed.name} could not be read: {failed.reason}"
    for cluster in document.clusters:
        yield ""
        yield from _render_cluster(cluster, document)


def _render_cluster(cluster: ClusterEntry, document: AuditDocument) -> Iterator[str]:
    total = format_count(cluster.live + cluster.disabled + cluster.expired, "token")
    states = f"{cluster.live:,} live, {cluster.disabled:,} disabled, {cluster.expired:,} expired"
    yield f"{cluster.name}: {total} of {format_count(cluster.users, 'user')}: {states}."
    yield from (f"  {note}" for note in [*cluster.not_whole, *cluster.unfinished])
    words = {finding.name: finding for finding in document.findings}
    findings = [total for total in cluster.findings if total.new] if document.only_new else cluster.findings
    if not findings:
        yield _render_nothing_found(cluster, document)
    for finding in findings:
        yield from _render_finding(finding, words[finding.name], cluster, document)
    yield from _render_changes(cluster)
    yield from (f"  {note}" for note in cluster.not_known)


def _render_nothing_found(cluster: ClusterEntry, document: AuditDocument) -> str:
    what = "No finding is new" if document.only_new else "Nothing was found"
    return f"  {what}{' among what was listed' if cluster.not_whole else ''}."


def _render_finding(
    total: FindingTotal, words: FindingWords, cluster: ClusterEntry, document: AuditDocument
) -> Iterator[str]:
    new = f", {total.new:,} new" if cluster.changes.since and total.new else ""
    yield f"  {words.words[0].upper()}{words.words[1:]}: {total.count:,}{new}. {words.mend}"
    tokens = [
        token for token in cluster.tokens if total.name in (token.new_findings if document.only_new else token.findings)
    ]
    # What expires first comes first, or else what is oldest.
    tokens.sort(key=lambda token: parse_rfc3339(token.expires or token.created))
    if total.name == USERS_WITH_TWO_TOKENS.name:
        tokens.sort(key=lambda token: token.user)
    yield from _render_tokens(tokens, now=parse_rfc3339(cluster.time))


def _render_tokens(tokens: Sequence[TokenEntry], *, now: datetime) -> Iterator[str]:
    for token in tokens[:MAX_TOKENS]:
        own = ", this server's own" if token.is_own else ""
        yield f"    {token.id} {token.user}, {_render_expiry(token, now)}{own}"
    if len(tokens) > MAX_TOKENS:
        yield f"    and {len(tokens) - MAX_TOKENS:,} more, which the other formats have"


def _render_expiry(token: TokenEntry, now: datetime) -> str:
    disabled = "" if token.is_enabled else ", disabled"
    if token.expires is None:
        return f"never expires{disabled}"
    expires = parse_rfc3339(token.expires)
    verb = "expires" if expires > now else "expired"
    return f"{verb} {format_time(expires)} ({format_relative_time(expires, now=now)}){disabled}"


def _render_changes(cluster: ClusterEntry) -> Iterator[str]:
    yield f"  {cluster.changes.summary}"
    if cluster.changes.since is None:
        return
    lines = [*_list_changed(cluster.tokens), *_list_gone(cluster.changes)]
    yield from (f"    {line}" for line in lines[:MAX_TOKENS])
    if len(lines) > MAX_TOKENS:
        yield f"    and {len(lines) - MAX_TOKENS:,} more, which the other formats have"


def _list_changed(tokens: Sequence[TokenEntry]) -> Iterator[str]:
    for token in tokens:
        if token.changes:
            creator = f", created by {token.creator}" if "new" in token.changes and token.creator else ""
            yield f"{', '.join(token.changes)}: {token.id} {token.user}{creator}"


def _list_gone(changes: Changes) -> Iterator[str]:
    for gone in changes.gone:
        by_whom = ", deleted by this server" if gone.by_this_server else ""
        yield f"gone: {gone.id} {gone.user or 'of an unknown user'}{by_whom}"
