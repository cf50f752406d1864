"""An audit to the words that an assistant reads: what is a risk, how much of it, and what to do about it."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from pydantic import BaseModel

from token_tools.cluster.clock import render_present
from token_tools.cluster.identity import Identity, format_name
from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import WRITE_PRIVILEGE
from token_tools.operations.audit import EXAMPLES_PER_FINDING, STALE_AFTER, AuditResult, Example, Tally
from token_tools.operations.findings import Finding, user_key_of
from token_tools.operations.policy import is_built_in
from token_tools.times import format_duration, format_rfc3339, format_time
from token_tools.views.tokens import RenderedResult, format_count, format_duration_argument, render_future_caveat

MAX_CHANNEL_BYTES: Final = 4_000
"""Bytes that one channel of an audit may have, whatever the cluster holds."""

MAX_USER_BYTES: Final = 40
"""Bytes, as JSON, of a user's spelling; a longer one gives way to a key."""

SUGGESTED_LIFETIME: Final = timedelta(days=90)
"""What a token that never expires is to live from now on, unless the operator allows less."""

MAX_CAVEAT_CHARS: Final = 400
"""Characters of each thing that is not known."""

READ_ONLY_NOTE: Final = (
    "This server only reads: the calls that mend are for one that may write, or for a person with qq."
)
LACKS_WRITE_NOTE: Final = (
    f"This server's credential lacks {WRITE_PRIVILEGE}: the calls that mend are for one "
    "that has it, or for a person with qq."
)
ALWAYS_UNKNOWN: Final = "The cluster tells neither when a token was last used nor since when one is disabled."


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


def render_audit_result(result: AuditResult, *, address: str) -> RenderedResult:
    """The counts, the findings with their worst few and the calls that mend them, and what is not known."""
    few = EXAMPLES_PER_FINDING
    summary = _render(result, address, few)
    while few > 0 and _count_bytes(summary) >= MAX_CHANNEL_BYTES:
        few -= 1
        summary = _render(result, address, few)
    return summary


def _count_bytes(rendered: RenderedResult) -> int:
    """Bytes in the larger channel."""
    return max(len(rendered.text.encode()), len(json.dumps(rendered.structured)))


def _render(result: AuditResult, address: str, max_examples: int) -> RenderedResult:
    audit = result.audit
    present = render_present(audit.now, result.clock_ahead)
    headline = (
        f"{format_count(audit.total, 'access token')} of {format_count(audit.user_count, 'user')} on {address}: "
        f"{audit.live:,} live, {audit.disabled:,} disabled, {audit.expired:,} expired. {present}. "
        f"Soon is within {format_duration(audit.expiring_within)}."
    )
    unfinished = result.unfinished_notes[: max(max_examples, 1)]
    found: dict[Finding, Tally] = {finding: tally for finding, tally in audit.tallies.items() if tally.count}
    mends = _render_mends(found, result)
    fields = AuditReport(
        summary=headline,
        total=audit.total,
        users=audit.user_count,
        live=audit.live,
        disabled=audit.disabled,
        expired=audit.expired,
        findings=[
            FindingCount(
                finding=finding,
                count=tally.count,
                mend=mends[finding],
            )
            for finding, tally in found.items()
        ],
        worst=[
            _to_worst_token(finding, example)
            for finding, tally in found.items()
            for example in tally.worst[:max_examples]
        ],
        own_token_findings=", ".join(audit.own_findings) or None,
        not_known=" ".join(
            [
                ALWAYS_UNKNOWN,
                *map(_truncate, [*result.caveats, *render_future_caveat(audit.latest_creation, audit.now)]),
            ]
        ),
        note=" ".join([*unfinished, *(_render_cannot_mend(result) if found else ())]) or None,
        report=None if result.report_path is None else str(result.report_path),
    )
    return RenderedResult(_render_text(fields, result, unfinished), fields)


def _render_text(fields: AuditReport, result: AuditResult, unfinished: Sequence[str]) -> str:
    lines = [fields.summary, *unfinished]
    if not fields.findings:
        lines.append("Nothing found." if result.is_complete else "Nothing found among what was listed.")
    for finding in fields.findings:
        lines.append(f"{finding.finding}: {finding.count:,}. {finding.mend}")
        worst = (token for token in fields.worst if token.finding == finding.finding)
        lines += [f"  {token.id} {token.user} {token.since}" for token in worst]
    if fields.own_token_findings:
        lines.append(f"This server's own token is among: {fields.own_token_findings}.")
    lines.append(fields.not_known)
    if fields.findings:
        lines += _render_cannot_mend(result)
    if fields.report:
        lines.append(f"All rows are in {fields.report}")
    return "\n".join(lines)


def _render_cannot_mend(result: AuditResult) -> Sequence[str]:
    """Why the calls that mend are not for this server, if they are not."""
    return [READ_ONLY_NOTE] if result.read_only else [] if result.may_write else [LACKS_WRITE_NOTE]


def _to_worst_token(finding: Finding, example: Example) -> WorstToken:
    since = format_rfc3339(example.since.replace(microsecond=0))
    return WorstToken(finding=finding, id=example.token.id, user=_format_user(example.token.user), since=since)


def _format_user(user: Identity) -> str:
    """The spelling if it is short, else the key."""
    spelling = str(user)
    if len(json.dumps(spelling)) <= MAX_USER_BYTES:
        return spelling
    return str(user.as_minimal_identity()) if user.auth_id else format_name((user.name or "")[: MAX_USER_BYTES // 8])


def _truncate(caveat: str) -> str:
    return caveat if len(caveat) <= MAX_CAVEAT_CHARS else f"{caveat[: MAX_CAVEAT_CHARS - 1]}…"


class _Advice(NamedTuple):
    """What to do about a token; `token_id` says that the text is a call on that, which whoever follows it can make."""

    text: str
    token_id: str | None = None


def _render_mends(found: Mapping[Finding, Tally], result: AuditResult) -> Mapping[Finding, str]:
    """What mends each finding; each call is told once, so that all can be followed one after the other."""
    mends: dict[Finding, str] = {}
    told: dict[str, Finding] = {}
    for finding, tally in found.items():
        advice = _list_advice(finding, tally, result)
        calls = [each for each in advice if each.token_id is not None]
        new = next((each for each in calls if each.token_id not in told), None)
        if new is not None and new.token_id is not None:
            told[new.token_id] = finding
        known = [f"{each.token_id}: see {told[each.token_id]}" for each in calls if each.token_id in told]
        mends[finding] = new.text if new is not None else [*known, advice[0].text][0]
    return mends


def _list_advice(finding: Finding, tally: Tally, result: AuditResult) -> Sequence[_Advice]:
    """What to do about each of the worst of them; the one that the server runs on comes last."""
    if not tally.worst:
        # Whoever has two tokens is known by number before their tokens are read, which may fail.
        return [_Advice(f"Whose, list_access_tokens tells. {_DECIDE_WHICH}")]
    tokens = sorted((example.token for example in tally.worst), key=lambda token: token.id == result.audit.own_token_id)
    return [_advise(finding, token, result) for token in tokens]


def _advise(finding: Finding, token: AccessToken, result: AuditResult) -> _Advice:
    if finding == "built_in_user" or is_built_in(result.audit.resolve_user(token.user)):
        return _Advice(_BUILT_IN_ADVICE)
    if token.is_expired(now=result.audit.now):
        return _advise_call("delete_access_token", token)
    if token.is_disabled:
        return _advise_on_disabled(token, result)
    if finding == "made_by_another":
        return _Advice("Usual for services; else a person asks their user")
    if finding == "users_with_two_tokens":
        return _Advice(_render_two_tokens(token, result))
    return _advise_on_live(finding, token, result)


def _advise_on_live(finding: Finding, token: AccessToken, result: AuditResult) -> _Advice:
    """A successor where there is a place for one; what works is let be."""
    audit, policy, user = result.audit, result.policy, user_key_of(token.user)
    if user in audit.missing_users:
        # It authenticates nobody.
        return _advise_call("update_access_token", token, "enabled=false")
    if audit.is_at_limit(user):
        return _Advice(f"{token.id}: no place for a second one; see users_with_two_tokens")
    if finding == "user_has_no_name" or audit.resolve_user(token.user).domain is None:
        return _Advice("Whose they are is not known: a person finds out, and decides")
    if not result.may_rotate:
        return _Advice("A person decides: this cluster does not tell what would prove that a second one works")
    is_for_ever = finding == "never_expires" or policy.default_lifetime is None
    lifetime = SUGGESTED_LIFETIME if policy.max_lifetime is None else min(SUGGESTED_LIFETIME, policy.max_lifetime)
    expiry = [f'expiration_time="{format_duration_argument(lifetime)}"'] if is_for_ever else []
    return _advise_call("rotate_access_token", token, *expiry)


def _advise_on_disabled(token: AccessToken, result: AuditResult) -> _Advice:
    since = result.journal_history.disabled_since.get(token.id)
    if since is None:
        return _Advice(f"Since when {token.id} is disabled is not known here: a person asks before it is deleted")
    if since > result.audit.now - STALE_AFTER:
        return _Advice(f"{token.id} is disabled since {format_time(since)}: watch whether anything breaks")
    return _advise_call("delete_access_token", token)


def _render_two_tokens(token: AccessToken, result: AuditResult) -> str:
    """What there is to know for whoever has to decide about one of two tokens that work."""
    if token.id in result.lost_ids:
        return f"Maybe nobody has the bearer token of {token.id} (see what is unfinished): a person decides"
    successors = [entry for entry in result.journal_history.successor_entries.values() if entry.replaces == token.id]
    if successors:
        return f"{successors[-1].token_id} was made to replace {token.id}: once in use, a person retires the old one"
    return _DECIDE_WHICH


def _advise_call(tool: str, token: AccessToken, *arguments: str) -> _Advice:
    named = [f'id="{token.id}"', *arguments]
    return _Advice(f"{tool}({', '.join(named)})", token.id)


_DECIDE_WHICH: Final = "A person decides which one stays"
_BUILT_IN_ADVICE: Final = "A person decides: its work may move to a service account"
