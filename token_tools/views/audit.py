"""An audit to the words that an assistant reads: what is a risk, how much of it, and what to do about it."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from pydantic import BaseModel

from token_tools.cluster.clock import tell_present
from token_tools.cluster.identity import Identity, tell_name
from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import WRITE
from token_tools.operations.audit import FEW, LONG, Example, Finding, Tally, key_of
from token_tools.operations.plans import Review
from token_tools.operations.policy import is_built_in
from token_tools.times import format_instant, tell_duration, tell_time
from token_tools.views.tokens import Summary, count, tell_future, write_duration

LARGEST: Final = 4_000
"""Bytes that one channel of an audit may have, whatever the cluster holds."""

LONGEST_USER: Final = 40
"""Bytes, as JSON, of a user's spelling; a longer one gives way to a key."""

LIFETIME: Final = timedelta(days=90)
"""What a token that never expires is to live from now on, unless the operator allows less."""

LONGEST_DOUBT: Final = 400
"""Characters of each thing that is not known."""

READ_ONLY: Final = "This server only reads: the calls that mend are for one that may write, or for a person with qq."
LACKS_WRITE: Final = (
    f"This server's credential lacks {WRITE}: the calls that mend are for one that has it, or for a person with qq."
)
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
    unfinished = review.unfinished[: max(few, 1)]
    found: dict[Finding, Tally] = {finding: tally for finding, tally in audit.tallies.items() if tally.count}
    mends = _tell_mends(found, review)
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
                mend=mends[finding],
            )
            for finding, tally in found.items()
        ],
        worst=[_describe(finding, example) for finding, tally in found.items() for example in tally.worst[:few]],
        own_token_findings=", ".join(audit.own) or None,
        not_known=" ".join([NOT_KNOWN, *map(_cut, [*review.doubts, *tell_future(audit.latest, audit.now)])]),
        note=" ".join([*unfinished, *(_tell_hindrance(review) if found else ())]) or None,
        report=None if review.report is None else str(review.report),
    )
    return Summary(_write(fields, review, unfinished), fields)


def _write(fields: AuditReport, review: Review, unfinished: Sequence[str]) -> str:
    lines = [fields.summary, *unfinished]
    if not fields.findings:
        lines.append("Nothing found." if review.is_whole else "Nothing found among what was listed.")
    for finding in fields.findings:
        lines.append(f"{finding.finding}: {finding.count:,}. {finding.mend}")
        worst = (token for token in fields.worst if token.finding == finding.finding)
        lines += [f"  {token.id} {token.user} {token.since}" for token in worst]
    if fields.own_token_findings:
        lines.append(f"This server's own token is among: {fields.own_token_findings}.")
    lines.append(fields.not_known)
    if fields.findings:
        lines += _tell_hindrance(review)
    if fields.report:
        lines.append(f"All rows are in {fields.report}")
    return "\n".join(lines)


def _tell_hindrance(review: Review) -> Sequence[str]:
    """Why the calls that mend are not for this server, if they are not."""
    return [READ_ONLY] if review.read_only else [] if review.may_write else [LACKS_WRITE]


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


class _Advice(NamedTuple):
    """What to do about a token; `token_id` says that the text is a call on that, which whoever follows it can make."""

    text: str
    token_id: str | None = None


def _tell_mends(found: Mapping[Finding, Tally], review: Review) -> Mapping[Finding, str]:
    """What mends each finding; each call is told once, so that all can be followed one after the other."""
    mends: dict[Finding, str] = {}
    told: dict[str, Finding] = {}
    for finding, tally in found.items():
        advice = _list_advice(finding, tally, review)
        calls = [each for each in advice if each.token_id is not None]
        new = next((each for each in calls if each.token_id not in told), None)
        if new is not None and new.token_id is not None:
            told[new.token_id] = finding
        known = [f"{each.token_id}: see {told[each.token_id]}" for each in calls if each.token_id in told]
        mends[finding] = new.text if new is not None else [*known, advice[0].text][0]
    return mends


def _list_advice(finding: Finding, tally: Tally, review: Review) -> Sequence[_Advice]:
    """What to do about each of the worst of them; the one that the server runs on comes last."""
    if not tally.worst:
        # Whoever has two tokens is known by number before their tokens are read, which may fail.
        return [_Advice(f"Whose, list_access_tokens tells. {_DECIDE_WHICH}")]
    tokens = sorted((example.token for example in tally.worst), key=lambda token: token.id == review.audit.own_id)
    return [_advise(finding, token, review) for token in tokens]


def _advise(finding: Finding, token: AccessToken, review: Review) -> _Advice:
    if finding == "built_in_user" or is_built_in(review.audit.identify(token.user)):
        return _Advice(_OF_THE_CLUSTER)
    if token.is_expired(now=review.audit.now):
        return _call("delete_access_token", token)
    if token.is_disabled:
        return _advise_on_disabled(token, review)
    if finding == "made_by_another":
        return _Advice("Usual for services; else a person asks their user")
    if finding == "users_with_two_tokens":
        return _Advice(_tell_two(token, review))
    return _advise_on_live(finding, token, review)


def _advise_on_live(finding: Finding, token: AccessToken, review: Review) -> _Advice:
    """A successor where there is a place for one; what works is let be."""
    audit, policy, user = review.audit, review.policy, key_of(token.user)
    if user in audit.absent:
        # It authenticates nobody.
        return _call("update_access_token", token, "enabled=false")
    if audit.is_crowded(user):
        return _Advice(f"{token.id}: no place for a second one; see users_with_two_tokens")
    if finding == "user_has_no_name" or audit.identify(token.user).domain is None:
        return _Advice("Whose they are is not known: a person finds out, and decides")
    if not review.may_rotate:
        return _Advice("A person decides: this cluster does not tell what would prove that a second one works")
    is_for_ever = finding == "never_expires" or policy.default_lifetime is None
    lifetime = LIFETIME if policy.max_lifetime is None else min(LIFETIME, policy.max_lifetime)
    expiry = [f'expiration_time="{write_duration(lifetime)}"'] if is_for_ever else []
    return _call("rotate_access_token", token, *expiry)


def _advise_on_disabled(token: AccessToken, review: Review) -> _Advice:
    since = review.memory.disabled_since.get(token.id)
    if since is None:
        return _Advice(f"Since when {token.id} is disabled is not known here: a person asks before it is deleted")
    if since > review.audit.now - LONG:
        return _Advice(f"{token.id} is disabled since {tell_time(since)}: watch whether anything breaks")
    return _call("delete_access_token", token)


def _tell_two(token: AccessToken, review: Review) -> str:
    """What there is to know for whoever has to decide about one of two tokens that work."""
    if token.id in review.lost:
        return f"Maybe nobody has the bearer token of {token.id} (see what is unfinished): a person decides"
    successors = [entry for entry in review.memory.successions.values() if entry.replaces == token.id]
    if successors:
        return f"{successors[-1].token_id} was made to replace {token.id}: once in use, a person retires the old one"
    return _DECIDE_WHICH


def _call(tool: str, token: AccessToken, *arguments: str) -> _Advice:
    named = [f'id="{token.id}"', *arguments]
    return _Advice(f"{tool}({', '.join(named)})", token.id)


_DECIDE_WHICH: Final = "A person decides which one stays"
_OF_THE_CLUSTER: Final = "A person decides: its work may move to a service account"
