"""Render what changed since the last audit: the counts in a sentence, and the worst few tokens in a line each."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from token_tools.operations.audit_users import UserCensus
from token_tools.operations.drift import ChangedToken, Drift
from token_tools.quoting import quote_untrusted
from token_tools.times import format_relative_time, format_time
from token_tools.views.tokens import format_count, format_short_user

MAX_ACTOR_CHARS: Final = 80
"""Characters of who asked for the last audit."""


def render_drift(drift: Drift, *, now: datetime) -> str:
    """Return how many tokens changed in which way, in a sentence: `Since … (…): 3 new (1 by this server), 1 gone`."""
    if drift.last is None:
        known = "Nothing to compare with: this cluster has no earlier audit in the record."
        return "What changed since the last audit is not known." if drift.caveats else known
    since = _render_since(drift.last.time, drift.last.actor, now)
    if drift.is_replaced:
        gone, new = format_count(drift.counts["gone"], "token"), format_count(drift.counts["new"], "other")
        return f"Since {since}: all {gone} went and {new} came; it may be another cluster, or one that was set up anew."
    counts = ", ".join(_render_counts(drift))
    if drift.is_whole:
        return f"Since {since}: {counts}." if counts else f"Nothing changed since {since}."
    told = f"Since {since}: {counts}" if counts else f"Nothing changed among what was listed since {since}"
    return f"{told}. What is gone is not known: the list may not be whole."


def render_brief_drift(drift: Drift) -> str:
    """Return how many changes there were, in two or three words: `3 changes`."""
    if drift.last is None:
        return "changes not known"
    return f"{'' if drift.is_whole else 'at least '}{format_count(sum(drift.counts.values()), 'change')}"


def _render_since(time: datetime, actor: str, now: datetime) -> str:
    distance = "a time still to come" if time > now else format_relative_time(time, now=now)
    return f"{format_time(time)} ({distance}, audited by {quote_untrusted(actor, max_chars=MAX_ACTOR_CHARS)})"


def _render_counts(drift: Drift) -> Iterator[str]:
    for change, count in drift.counts.items():
        if count:
            words = change if count == 1 else change.replace("expires", "expire")
            own_work = drift.counts_by_this_server[change]
            yield f"{count:,} {words}{f' ({own_work:,} by this server)' if own_work else ''}"


def render_worst(drift: Drift, census: UserCensus, *, count: int) -> Sequence[str]:
    """Return the worst few tokens in a line each; none if all tokens are others than then."""
    return [] if drift.is_replaced else [_render_changed(each, census) for each in drift.list_worst(count)]


def _render_changed(changed: ChangedToken, census: UserCensus) -> str:
    whose = f" {format_short_user(census.resolve(changed.user))}" if changed.user.is_identified else ""
    return ", ".join([f"{changed.change}: {changed.id}{whose}", *_render_details(changed, census)])


def _render_details(changed: ChangedToken, census: UserCensus) -> Iterator[str]:
    token = changed.token
    if token is None:
        if changed.by_this_server:
            yield "deleted by this server"
        return
    if changed.by_this_server:
        yield "created by this server"
    elif changed.change == "new" and token.creator is not None:
        yield f"created by {format_short_user(census.resolve(token.creator))}"
    if changed.change != "never expires now":
        yield "never expires" if token.expires is None else f"expires {format_time(token.expires)}"
