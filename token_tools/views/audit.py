"""Render an audit: which risks there are, how many tokens have each, and what mends it."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from token_tools.cluster.clock import render_present
from token_tools.cluster.identity import Identity, format_name
from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import WRITE_PRIVILEGE
from token_tools.operations.audit import AuditResult
from token_tools.operations.audit_users import EXAMPLES_PER_FINDING, Example, Tally, user_key_of
from token_tools.operations.findings import STALE_AFTER, USERS_WITH_TWO_TOKENS, Finding, Remedy
from token_tools.operations.policy import is_built_in
from token_tools.times import format_duration, format_duration_argument, format_relative_time, format_rfc3339
from token_tools.views.rendered_result import RenderedResult
from token_tools.views.tokens import format_count, render_future_caveat

MAX_CHANNEL_BYTES: Final = 4_000
"""Bytes that the text or the fields of an audit may have, whatever the cluster holds."""

MAX_USER_BYTES: Final = 40
"""Bytes, as JSON, of a user's spelling; a user with a longer one is shown by a number."""

SUGGESTED_LIFETIME: Final = timedelta(days=90)
"""How long a token that never expires is to live from now on, unless the operator allows less."""

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

_CHOOSE_ONE: Final = "A person decides which one stays"


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
    """Return the counts, the findings with their worst few and what mends them, and what is not known.

    Of each finding, as many examples are shown as fit.
    """
    max_examples = EXAMPLES_PER_FINDING
    rendered = _render(result, address, max_examples)
    while max_examples > 0 and _count_bytes(rendered) >= MAX_CHANNEL_BYTES:
        max_examples -= 1
        rendered = _render(result, address, max_examples)
    return rendered


def _count_bytes(rendered: RenderedResult) -> int:
    """Return the bytes of the text or of the fields, whichever has more."""
    return max(len(rendered.text.encode()), len(json.dumps(rendered.structured)))


def _render(result: AuditResult, address: str, max_examples: int) -> RenderedResult:
    audit = result.audit
    unfinished = result.unfinished_notes[: max(max_examples, 1)]
    found = {finding: tally for finding, tally in audit.tallies.items() if tally.count}
    remedies = _render_remedies(found, result)
    caveats = [*result.caveats, *render_future_caveat(audit.latest_creation, audit.scope.now)]
    fields = AuditReport(
        summary=_render_headline(result, address),
        total=audit.total,
        users=len(audit.census.tokens_per_user),
        **audit.token_counts,
        findings=[
            FindingCount(finding=finding.name, count=tally.count, mend=remedies[finding])
            for finding, tally in found.items()
        ],
        worst=[
            _to_worst_token(finding, example)
            for finding, tally in found.items()
            for example in tally.worst[:max_examples]
        ],
        own_token_findings=", ".join(audit.own_findings) or None,
        not_known=" ".join([ALWAYS_UNKNOWN, *map(_truncate, caveats)]),
        note=" ".join([*unfinished, *(_render_cannot_mend(result) if found else ())]) or None,
        report=None if result.report_path is None else str(result.report_path),
    )
    return RenderedResult(_render_text(fields, result, unfinished), fields)


def _render_headline(result: AuditResult, address: str) -> str:
    audit = result.audit
    by_status = ", ".join(f"{count:,} {status}" for status, count in audit.token_counts.items())
    return (
        f"{format_count(audit.total, 'access token')} of {format_count(len(audit.census.tokens_per_user), 'user')} "
        f"on {address}: {by_status}. {render_present(audit.scope.now, result.clock_ahead)}. "
        f"Soon is within {format_duration(audit.scope.expiring_within)}."
    )


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
    """Return why this server cannot make the calls that mend, if it cannot."""
    return [READ_ONLY_NOTE] if result.read_only else [] if result.may_write else [LACKS_WRITE_NOTE]


def _to_worst_token(finding: Finding, example: Example) -> WorstToken:
    since = format_rfc3339(example.since.replace(microsecond=0))
    return WorstToken(finding=finding.name, id=example.token.id, user=_format_user(example.token.user), since=since)


def _format_user(user: Identity) -> str:
    """Return the spelling of a user if it is short, else a number."""
    spelling = str(user)
    if len(json.dumps(spelling)) <= MAX_USER_BYTES:
        return spelling
    return str(user.as_minimal_identity()) if user.auth_id else format_name((user.name or "")[: MAX_USER_BYTES // 8])


def _truncate(caveat: str) -> str:
    return caveat if len(caveat) <= MAX_CAVEAT_CHARS else f"{caveat[: MAX_CAVEAT_CHARS - 1]}…"


class _Advice(NamedTuple):
    """What to do about a token. `token_id` is the token that a call in the text changes, None if there is no call."""

    text: str
    token_id: str | None = None


def _render_remedies(found: Mapping[Finding, Tally], result: AuditResult) -> Mapping[Finding, str]:
    """Return what mends each finding; each call is named once, so that all can be made one after the other."""
    remedies: dict[Finding, str] = {}
    finding_by_called_id: dict[str, Finding] = {}
    for finding, tally in found.items():
        advice = _list_advice(finding, tally, result)
        calls = [(each.token_id, each.text) for each in advice if each.token_id is not None]
        new_call = next(((called, text) for called, text in calls if called not in finding_by_called_id), None)
        if new_call is not None:
            called_id, remedies[finding] = new_call
            finding_by_called_id[called_id] = finding
        elif calls:
            called_id, _ = calls[0]
            remedies[finding] = f"{called_id}: see {finding_by_called_id[called_id].name}"
        else:
            remedies[finding] = advice[0].text
    return remedies


def _list_advice(finding: Finding, tally: Tally, result: AuditResult) -> Sequence[_Advice]:
    """Return what to do about each of the worst tokens; the one that the server runs on comes last."""
    if not tally.worst:
        # Users with two tokens are counted before their tokens are read, and that may fail.
        return [_Advice(f"Whose, list_access_tokens tells. {_CHOOSE_ONE}")]
    tokens = sorted((example.token for example in tally.worst), key=lambda token: token.id == result.audit.own_token_id)
    return [_advise(_choose_remedy(finding, token, result), token, result) for token in tokens]


def _choose_remedy(finding: Finding, token: AccessToken, result: AuditResult) -> Remedy:
    """Return what mends a token: who its user is and whether it works count for more than the finding."""
    if is_built_in(result.audit.census.resolve(token.user)):
        return "move_work"
    if token.is_expired(now=result.audit.scope.now):
        return "delete"
    return "delete_once_unused" if token.is_disabled else finding.remedy


def _advise(remedy: Remedy, token: AccessToken, result: AuditResult) -> _Advice:
    match remedy:
        case "move_work":
            return _Advice("A person decides: its work may move to a service account")
        case "delete":
            return _advise_call("delete_access_token", token)
        case "delete_once_unused":
            return _advise_on_disabled(token, result)
        case "ask_user":
            return _Advice("Usual for services; else a person asks their user")
        case "choose_one":
            return _Advice(_render_two_tokens(token, result))
        case _:
            return _advise_on_live(remedy, token, result)


def _advise_on_live(
    remedy: Literal["find_user", "rotate", "rotate_with_expiry"], token: AccessToken, result: AuditResult
) -> _Advice:
    """Return the call that creates a successor, or why there is none; a token that works is left alone."""
    census, user = result.audit.census, user_key_of(token.user)
    if user in census.missing:
        # A token of a user who does not exist authenticates nobody.
        return _advise_call("update_access_token", token, "enabled=false")
    if census.is_at_limit(user):
        return _Advice(f"{token.id}: no place for a second one; see {USERS_WITH_TWO_TOKENS.name}")
    if remedy == "find_user" or census.resolve(token.user).domain is None:
        return _Advice("Whose they are is not known: a person finds out, and decides")
    if not result.may_rotate:
        return _Advice("A person decides: this cluster does not tell what would prove that a second one works")
    needs_expiry = remedy == "rotate_with_expiry" or result.policy.default_lifetime is None
    return _advise_call("rotate_access_token", token, *([_format_suggested_expiry(result)] if needs_expiry else []))


def _format_suggested_expiry(result: AuditResult) -> str:
    lifetime = min(SUGGESTED_LIFETIME, result.policy.max_lifetime or SUGGESTED_LIFETIME)
    return f'expiration_time="{format_duration_argument(lifetime)}"'


def _advise_on_disabled(token: AccessToken, result: AuditResult) -> _Advice:
    disabling = result.journal_history.disablings.get(token.id)
    if disabling is None:
        return _Advice(f"Since when {token.id} is disabled is not known here: a person asks before it is deleted")
    since, now = disabling.last_seen, result.audit.scope.now
    if since > now - STALE_AFTER:
        when = format_relative_time(since, now=now)
        return _Advice(f"{token.id} was disabled {when} by {disabling.actor}: watch whether anything breaks")
    return _advise_call("delete_access_token", token)


def _render_two_tokens(token: AccessToken, result: AuditResult) -> str:
    """Return what helps a person to decide which of two tokens that work stays."""
    if token.id in result.lost_ids:
        return f"Maybe nobody has the bearer token of {token.id} (see what is unfinished): a person decides"
    successors = [entry for entry in result.journal_history.rotations.values() if entry.replaces == token.id]
    if successors:
        return f"{successors[-1].token_id} was made to replace {token.id}: once in use, a person retires the old one"
    return _CHOOSE_ONE


def _advise_call(tool: str, token: AccessToken, *arguments: str) -> _Advice:
    named = [f'id="{token.id}"', *arguments]
    return _Advice(f"{tool}({', '.join(named)})", token.id)
