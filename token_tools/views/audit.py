"""Render an audit: which risks there are, how many tokens have each, and what mends it."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from pydantic import BaseModel

from token_tools.cluster.clock import render_present
from token_tools.cluster.responses import WRITE_PRIVILEGE
from token_tools.operations.audit import AuditResult
from token_tools.operations.audit_users import EXAMPLES_PER_FINDING, Example
from token_tools.operations.findings import EXPIRES_SOON, FINDINGS, Finding
from token_tools.times import format_duration, format_rfc3339
from token_tools.views.audit_advice import choose_remedies, list_found
from token_tools.views.drift import render_drift, render_worst
from token_tools.views.own_expiry import render_own_expiry
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import format_count, format_short_user, render_future_caveat

MAX_CHANNEL_BYTES: Final = 4_000
"""Bytes that the text or the fields of an audit may have, whatever the cluster holds."""

CHANGES_PER_EXAMPLE: Final = 2
"""How many changed tokens are shown for each example that a finding has."""

MAX_CAVEAT_CHARS: Final = 400
"""Characters of each thing that is not known."""

READ_ONLY_NOTE: Final = (
    "You may only read here: the calls that mend are for a server or a caller that may write, or for a person with qq."
)
CREATES_NONE_NOTE: Final = (
    "This server creates no token, since QUMULO_DELIVERY names no place for one: create_access_token and "
    "rotate_access_token are for a server that does, or for a person with qq."
)
LACKS_WRITE_NOTE: Final = (
    f"This server's credential lacks {WRITE_PRIVILEGE}: the calls that mend are for one "
    "that has it, or for a person with qq."
)
MOST_EXAMPLES: Final = max(finding.max_examples for finding in FINDINGS)
ALWAYS_UNKNOWN: Final = "The cluster tells neither when a token was last used nor since when one is disabled."

Size = TypeVar("Size")


class FindingCount(BaseModel):
    """How many tokens share a finding, or users for `users_with_two_tokens`."""

    finding: str
    count: int
    mend: str


class WorstToken(BaseModel):
    """One of the worst few of a finding."""

    finding: str
    id: str
    user: str
    since: str


class AuditReport(BaseModel):
    """What is a risk about the cluster's tokens: first what expires soon, then in order of danger."""

    summary: str
    total: int
    users: int
    live: int
    disabled: int
    expired: int
    findings: list[FindingCount]
    worst: list[WorstToken]
    own_token: str | None = None
    since_last_audit: list[str]
    not_known: str
    note: str | None = None


def render_audit_result(result: AuditResult, *, address: str) -> RenderedResult:
    """Return the counts, the findings with their worst few and what mends them, and what is not known."""
    # The longest list of examples is shortened first.
    return render_what_fits(partial(_render, result, address), range(MOST_EXAMPLES, -1, -1))


def render_what_fits(render: Callable[[Size], RenderedResult], sizes: Iterable[Size]) -> RenderedResult:
    """Return what `render` gives for the first of the sizes, each smaller than the one before, that fits an answer.

    If none does, that is the last one.
    """
    renderings = map(render, sizes)
    rendered = next(renderings)
    while _count_bytes(rendered) >= MAX_CHANNEL_BYTES and (smaller := next(renderings, None)) is not None:
        rendered = smaller
    return rendered


def _count_bytes(rendered: RenderedResult) -> int:
    """Return the bytes of the text or of the fields, whichever has more."""
    return max(len(rendered.text.encode()), len(json.dumps(rendered.structured)))


def _render(result: AuditResult, address: str, max_examples: int) -> RenderedResult:
    audit, found = result.audit, list_found(result)
    unfinished = cut_unfinished(result, max_examples)
    remedies = choose_remedies(result)
    fields = AuditReport(
        summary=render_headline(result, address),
        total=audit.total,
        users=len(audit.census.tokens_per_user),
        **audit.token_counts,
        findings=[
            FindingCount(finding=finding.name, count=tally.count, mend=remedies[finding].text)
            for finding, tally in found.items()
        ],
        worst=[
            _to_worst_token(finding, example)
            for finding, tally in found.items()
            for example in tally.worst[:max_examples]
        ],
        own_token=render_own_token(result),
        since_last_audit=[render_drift(audit.drift, now=audit.scope.now), *render_changed(result, max_examples)],
        not_known=render_not_known(result),
        note=" ".join([*unfinished, *(render_cannot_mend(result) if found else ())]) or None,
    )
    return RenderedResult(_render_text(fields, result, unfinished), fields)


def render_own_token(result: AuditResult) -> str | None:
    """Return when the token that the server runs on expires, and which findings it has; None if it was not listed."""
    audit = result.audit
    if audit.own_token is None:
        return None
    findings = f"; it is among: {', '.join(audit.own_findings)}" if audit.own_findings else ""
    return f"{render_own_expiry(audit.own_token, now=audit.scope.now)}{findings}"


def cut_unfinished(result: AuditResult, max_examples: int) -> Sequence[str]:
    """Return what is unfinished; the fewer examples fit, the less, but always the first."""
    return result.unfinished_notes[: max(min(max_examples, EXAMPLES_PER_FINDING), 1)]


def render_changed(result: AuditResult, max_examples: int) -> Sequence[str]:
    """Return the worst few of the tokens that changed since the last audit, in a line each."""
    count = CHANGES_PER_EXAMPLE * min(max_examples, EXAMPLES_PER_FINDING)
    return render_worst(result.audit.drift, result.audit.census, count=count)


def render_not_known(result: AuditResult) -> str:
    """Return what an audit does not know."""
    caveats = [*result.not_known, *render_clocks_caveat(result)]
    return " ".join([ALWAYS_UNKNOWN, *(truncate(caveat, max_chars=MAX_CAVEAT_CHARS) for caveat in caveats)])


def render_clocks_caveat(result: AuditResult) -> Iterable[str]:
    """Return that the clocks differ, if a token was created at a time that is still to come."""
    return render_future_caveat(result.audit.latest_creation, result.audit.scope.now)


def truncate(text: str, *, max_chars: int) -> str:
    """Return the beginning of a text that is too long."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def render_headline(result: AuditResult, address: str) -> str:
    """Return how many tokens there are in each status, and as of which time."""
    scope = result.audit.scope
    present = render_present(scope.now, result.clock_ahead)
    return f"{render_counts(result, address)}. {present}. Soon is within {format_duration(scope.expiring_within)}."


def render_counts(result: AuditResult, address: str) -> str:
    """Return how many tokens of a cluster there are in each status, without the full stop."""
    audit = result.audit
    by_status = ", ".join(f"{count:,} {status}" for status, count in audit.token_counts.items())
    return (
        f"{format_count(audit.total, 'access token')} of {format_count(len(audit.census.tokens_per_user), 'user')} "
        f"on {address}: {by_status}"
    )


def _render_text(fields: AuditReport, result: AuditResult, unfinished: Sequence[str]) -> str:
    lines = [fields.summary, *unfinished]
    if not fields.findings:
        lines.append("Nothing found among what was listed." if result.list_caveats else "Nothing found.")
    for finding in fields.findings:
        lines.append(f"{finding.finding}: {finding.count:,}. {finding.mend}")
        worst = [token for token in fields.worst if token.finding == finding.finding]
        lines += [f"  {token.id} {token.user} {token.since}" for token in worst]
        lines += [f"  {remainder}" for remainder in render_remainder(finding, len(worst))]
    if fields.own_token:
        lines.append(f"This server's {fields.own_token}.")
    lines.append("\n  ".join(fields.since_last_audit))
    lines.append(fields.not_known)
    if fields.findings:
        lines += render_cannot_mend(result)
    return "\n".join(lines)


def render_remainder(finding: FindingCount, shown: int) -> Sequence[str]:
    """Render how many there are besides those shown, where a person asks for all."""
    is_cut = finding.finding == EXPIRES_SOON.name and 0 < shown < finding.count
    return [f"and {finding.count - shown:,} more"] if is_cut else []


def render_cannot_mend(result: AuditResult) -> Sequence[str]:
    """Return why this server cannot make the calls that mend, if it cannot."""
    if result.read_only:
        return [READ_ONLY_NOTE]
    if not result.may_write:
        return [LACKS_WRITE_NOTE]
    return [] if result.may_create_tokens else [CREATES_NONE_NOTE]


def _to_worst_token(finding: Finding, example: Example) -> WorstToken:
    token_id, user, since = _format_example(example)
    return WorstToken(finding=finding.name, id=token_id, user=user, since=since)


def render_example(example: Example) -> str:
    """Return one of the worst few of a finding: its id, its user, and since when or from when on it has it."""
    return " ".join(_format_example(example))


def _format_example(example: Example) -> tuple[str, str, str]:
    since = format_rfc3339(example.since.replace(microsecond=0))
    return example.token.id, format_short_user(example.token.user), since
