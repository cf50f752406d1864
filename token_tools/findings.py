"""An audit to the words that an assistant reads: what is a risk, how much of it, and what to do about it."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from token_tools.audit import FEW, Example, Finding, Tally
from token_tools.clock import tell_present
from token_tools.identity import Identity, tell_name
from token_tools.plans import Review
from token_tools.summary import Summary, count, tell_future
from token_tools.times import format_instant, tell_duration

LARGEST: Final = 4_000
"""Bytes that one channel of an audit may have, whatever the cluster holds."""

LONGEST_USER: Final = 40
"""Bytes, as JSON, of a user's spelling; a longer one gives way to a key."""

LIFETIME: Final = timedelta(days=90)
"""What a token that never expires is to live from now on, unless the operator allows less."""
HOUR: Final = timedelta(hours=1)

LONGEST_DOUBT: Final = 200
"""Characters of each thing that is not known."""

READ_ONLY: Final = "This server only reads: the calls that mend are for one that may write, or for a person with qq."
NOT_KNOWN: Final = "The cluster tells neither when a token was last used nor since when one is disabled."


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
    """What is a risk about the cluster's tokens, in order of danger."""

    summary: str
    total: int
    users: int
    live: int
    disabled: int
    expired: int
    findings: list[FindingCount]
    worst: list[WorstToken]
    own_token_findings: str | None = None
    not_known: str
    note: str | None = None
    report: str | None = None


def summarize_review(review: Review, *, address: str) -> Summary:
    """The counts, the findings with their worst few and the calls that mend them, and what is not known."""
    few = FEW
    summary = _summarize(review, address, few)
    while few > 0 and _measure(summary) >= LARGEST:
        few -= 1
        summary = _summarize(review, address, few)
    return summary


def _measure(summary: Summary) -> int:
    """Bytes in the larger channel."""
    return max(len(summary.text.encode()), len(json.dumps(summary.structured)))


def _summarize(review: Review, address: str, few: int) -> Summary:
    audit = review.audit
    present = tell_present(audit.now, review.ahead)
    headline = (
        f"{count(audit.total, 'access token')} of {count(audit.users, 'user')} on {address}: "
        f"{audit.live:,} live, {audit.disabled:,} disabled, {audit.expired:,} expired. {present}. "
        f"Soon is within {tell_duration(audit.within)}."
    )
    found: dict[Finding, Tally] = {finding: tally for finding, tally in audit.tallies.items() if tally.count}
    fields = AuditReport(
        summary=headline,
        total=audit.total,
        users=audit.users,
        live=audit.live,
        disabled=audit.disabled,
        expired=audit.expired,
        findings=[
            FindingCount(
                finding=finding,
                count=tally.count,
                mend=_tell_mend(finding, tally, review),
            )
            for finding, tally in found.items()
        ],
        worst=[_describe(finding, example) for finding, tally in found.items() for example in tally.worst[:few]],
        own_token_findings=", ".join(audit.own) or None,
        not_known=" ".join([NOT_KNOWN, *map(_cut, [*review.doubts, *tell_future(audit.latest, audit.now)])]),
        note=READ_ONLY if review.read_only and found else None,
        report=None if review.report is None else str(review.report),
    )
    return Summary(_write(fields, review), fields)


def _write(fields: AuditReport, review: Review) -> str:
    lines = [fields.summary]
    if not fields.findings:
        lines.append("Nothing found." if review.is_whole else "Nothing found among what was listed.")
    for finding in fields.findings:
        lines.append(f"{finding.finding}: {finding.count:,}. {finding.mend}")
        worst = (token for token in fields.worst if token.finding == finding.finding)
        lines += [f"  {token.id} {token.user} {token.since}" for token in worst]
    if fields.own_token_findings:
        lines.append(f"This server's own token is among: {fields.own_token_findings}.")
    lines.append(fields.not_known)
    if fields.note:
        lines.append(fields.note)
    if fields.report:
        lines.append(f"All rows are in {fields.report}")
    return "\n".join(lines)


def _describe(finding: Finding, example: Example) -> WorstToken:
    since = format_instant(example.since.replace(microsecond=0))
    return WorstToken(finding=finding, id=example.token.id, user=_tell_user(example.token.user), since=since)


def _tell_user(user: Identity) -> str:
    """The spelling if it is short, else the key."""
    spelling = str(user)
    if len(json.dumps(spelling)) <= LONGEST_USER:
        return spelling
    return str(user.as_key()) if user.auth_id else tell_name((user.name or "")[: LONGEST_USER // 8])


def _cut(doubt: str) -> str:
    return doubt if len(doubt) <= LONGEST_DOUBT else f"{doubt[: LONGEST_DOUBT - 1]}…"


def _tell_mend(finding: Finding, tally: Tally, review: Review) -> str:
    """The call that mends the worst of them that this server may mend."""
    own_id = review.audit.own_id
    token = next((example.token for example in tally.worst if example.token.id != own_id), None)
    if token is None:
        # Whoever has two tokens is known by number before their tokens are read, which may fail.
        return f'rotate_access_token(id="{own_id}")' if tally.worst else "list_access_tokens(user=…)"
    if finding == "users_with_two_tokens" and token.is_live(now=review.audit.now):
        return f'If unused, update_access_token(id="{token.id}", enabled=false)'
    lifetime = LIFETIME if review.max_lifetime is None else min(LIFETIME, review.max_lifetime)
    return _MENDS[finding].format(id=f'id="{token.id}"', lifetime=_write_duration(lifetime))


def _write_duration(duration: timedelta) -> str:
    return f"{duration.days}d" if duration.days else f"{duration // HOUR}h"


_MENDS: Final[Mapping[Finding, str]] = {
    "never_expires": 'update_access_token({id}, expiration_time="{lifetime}")',
    "built_in_user": "Move its work to a service account, then update_access_token({id}, enabled=false)",
    "made_by_another": "Usual for services; else get_access_token({id})",
    "user_has_no_name": "update_access_token({id}, enabled=false)",
    "expired": "delete_access_token({id})",
    "disabled_and_old": "delete_access_token({id})",
    "users_with_two_tokens": "If unused, delete_access_token({id})",
    "older_than_a_year": "rotate_access_token({id})",
    "expires_soon": "rotate_access_token({id})",
}
