"""Render an audit for people as CSV: a row for each token, in the columns of an exported file."""

from collections.abc import Iterator
from datetime import datetime
from io import StringIO
from typing import Final

from token_tools.operations.export_file import TokenRow, write_csv_rows
from token_tools.times import parse_rfc3339
from token_tools.views.report.document import AuditDocument, ClusterEntry, TokenEntry

_NOTHING_TO_COMPARE: Final = "nothing to compare with"


def render_csv(document: AuditDocument) -> str:
    """Return a header, and a row for each token of the clusters that could be read."""
    stream = StringIO(newline="")
    write_csv_rows(stream, _list_rows(document))
    return stream.getvalue()


def _list_rows(document: AuditDocument) -> Iterator[tuple[TokenRow, datetime]]:
    words = {finding.name: finding.words for finding in document.findings}
    for cluster in document.clusters:
        now = parse_rfc3339(cluster.time)
        for token in cluster.tokens:
            news = ", ".join([*token.changes, *(f"now {words[name]}" for name in token.new_findings)])
            yield _to_row(cluster, token, news if cluster.changes.since else _NOTHING_TO_COMPARE), now


def _to_row(cluster: ClusterEntry, token: TokenEntry, since_last_audit: str) -> TokenRow:
    return TokenRow(
        cluster=cluster.name,
        id=token.id,
        user=token.user,
        creator=token.creator,
        creation_time=token.created,
        expiration_time=token.expires,
        enabled=token.is_enabled,
        state=token.state,
        findings=token.findings,
        since_last_audit=since_last_audit,
    )
