"""Render an export: where the file is, and what is in it."""

from pydantic import BaseModel

from token_tools.operations.export import Export
from token_tools.views.audit import render_headline, render_not_known
from token_tools.views.rendered_result import RenderedResult, join_lines
from token_tools.views.tokens import format_count


class ExportedFile(BaseModel):
    """A file of all tokens; each of `findings` is a name with its count."""

    summary: str
    path: str
    rows: int
    findings: list[str]
    not_known: str


def render_export_result(export: Export, *, address: str) -> RenderedResult:
    """Return where the file is, how many rows it has, how often there is each finding, and what is not known."""
    audit = export.audit_result.audit
    counts = [f"{finding.name}: {tally.count:,}" for finding, tally in audit.tallies.items() if tally.count]
    fields = ExportedFile(
        summary=render_headline(export.audit_result, address),
        path=str(export.path),
        rows=audit.total,
        findings=counts,
        not_known=render_not_known(export.audit_result),
    )
    place = f"{format_count(audit.total, 'row')}, one for each token, in {export.path}"
    return RenderedResult(join_lines([place, fields.summary, *counts, fields.not_known]), fields)
