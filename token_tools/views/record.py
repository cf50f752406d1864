"""Render what the record tells of changes: a line for each entry, and the answer of `list_token_changes`.

A line names only what is known. What callers and their clients wrote about themselves is quoted, as data.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from typing import Final

from pydantic import BaseModel

from token_tools.cluster.identity import Identity
from token_tools.operations.calls import format_call, naming_cluster
from token_tools.operations.changes import ChangeList, Resolution
from token_tools.operations.fleet import FleetAnswers
from token_tools.operations.unfinished import render_unfinished
from token_tools.quoting import MAX_ANSWER_CHARS, quote_untrusted, render_first_items
from token_tools.storage.attempts import Attempt, Settlement
from token_tools.times import format_relative_time, format_time, format_time_without_zone
from token_tools.views.rendered_result import RenderedResult, join_lines, join_warnings
from token_tools.views.tokens import format_count

MAX_ACTOR_CHARS: Final = 160
"""Characters of who asked for a change."""

MAX_USER_CHARS: Final = 100
"""Characters of a user whom a refused call names in a way that is no spelling of a user."""

MAX_REASON_CHARS: Final = 600
"""Characters of the reason why nothing was tried."""

MAX_LINES: Final = 500
"""Entries that are rendered for an answer; no more can fit."""

MAX_TOLD: Final = 20
"""Unfinished attempts, and resolved ones, that an answer tells one by one."""

_UNFINISHED: Final = "unfinished"
_AT_WORK: Final = "at work"
_SETTLEMENT_TEXTS: Final[dict[Settlement, str]] = {
    "deleted": "its token is deleted",
    "disabled": "its token does not work any more",
    "not found": "no token of it is there",
    "delivered": "its token is there, and so is its bearer token",
    "as wanted": "the cluster shows it done",
    "changed since": "the token was changed again since",
    "told to a person": "a person was told of it",
}


class TokenChanges(BaseModel):
    """What the record tells, the newest first."""

    summary: str
    unfinished: list[str] | None = None
    resolved: list[str] | None = None
    changes: list[str]
    warning: str | None = None
    next_step: str | None = None


def render_outcome(entry: Attempt) -> str:
    """Return what came of an attempt, in a word or two."""
    if entry.is_in_flight:
        return _AT_WORK
    if entry.is_unfinished:
        return _UNFINISHED
    return "resolved" if entry.settlement is not None else entry.outcome


def render_user(spelling: str) -> str:
    """Return a user as they are spelled everywhere; what is no such spelling is quoted, as data."""
    return _spell_user(spelling) if spelling else "an unnamed user"


@lru_cache(maxsize=1024)
def _spell_user(spelling: str) -> str:
    try:
        return str(Identity.parse(spelling))
    except ValueError:
        return quote_untrusted(spelling, max_chars=MAX_USER_CHARS)


def render_state_change(entry: Attempt) -> str | None:
    """Return the state of a token before and after: `enabled: true -> enabled: false`; None if it is not told."""
    if entry.before is not None and entry.after is None:
        return f"was {entry.before}"
    return " -> ".join(filter(None, [entry.before, entry.after])) or None


def render_consent(entry: Attempt) -> str | None:
    """Return whether a person was asked, and what they said, with the number of the question.

    None says that the outcome tells it already.
    """
    question = f"question {entry.question}" if entry.question is not None else None
    if entry.operation == "pickup" or entry.outcome in {"refused", entry.consent}:
        return question
    return f"consent {entry.consent}{f' ({question})' if question else ''}"


def render_details(entry: Attempt) -> Iterator[str]:
    """Yield what an entry tells besides its time, operation, token, user and outcome."""
    if (change := render_state_change(entry)) is not None:
        yield change
    if entry.reason not in {None, entry.outcome}:
        yield f"why: {quote_untrusted(str(entry.reason), max_chars=MAX_REASON_CHARS)}"
    if entry.location is not None:
        yield f"bearer token in {entry.location.render()}"
    if entry.settlement is not None and entry.settled is not None:
        yield f"{_SETTLEMENT_TEXTS[entry.settlement]} (seen {format_time_without_zone(entry.settled)})"
    yield f"by {quote_untrusted(entry.actor, max_chars=MAX_ACTOR_CHARS)}"
    if (consent := render_consent(entry)) is not None:
        yield consent


def render_tokens(entry: Attempt) -> str:
    """Return the token that an entry is about; of a rotate, the old one and the new one: `123 -> 456`."""
    return " -> ".join(filter(None, [entry.replaces, entry.token_id]))


def render_entry(entry: Attempt) -> str:
    """Render an entry as one line: `2026-11-24 09:00 update 184… of local:jane: done; …`."""
    tokens = render_tokens(entry)
    whose = render_user(entry.user)
    about = f"{tokens} of {whose}" if tokens else f"for {whose}"
    begun = f"{format_time_without_zone(entry.begun)} {entry.operation} {about}"
    return f"{begun}: {'; '.join([render_outcome(entry), *render_details(entry)])}"


def render_changes_result(found: FleetAnswers[ChangeList]) -> RenderedResult:
    """Render what is unfinished, what became of it, and as many of the entries as fit, the newest first."""
    entries = [
        (entry.number, f"{label.prefix}{render_entry(entry)}")
        for label, changes in found.answers
        for entry in changes.entries[-MAX_LINES:]
    ]
    lines = [line for _, line in sorted(entries, key=itemgetter(0), reverse=True)[:MAX_LINES]]
    rendered = _render_changes(found, lines)
    while rendered.char_count >= MAX_ANSWER_CHARS and lines:
        fitting = len(lines) * MAX_ANSWER_CHARS // rendered.char_count
        lines = lines[: min(fitting, len(lines) - 1)]
        rendered = _render_changes(found, lines)
    return rendered


def _render_changes(found: FleetAnswers[ChangeList], lines: Sequence[str]) -> RenderedResult:
    unfinished = _render_each(found, _render_unfinished)
    resolved = _render_each(found, _render_resolved)
    fields = TokenChanges(
        summary=" ".join(
            [*_render_failures(found), *(_render_summary(changes, label.address) for label, changes in found.answers)]
        ),
        unfinished=unfinished or None,
        resolved=resolved or None,
        changes=[*lines],
        warning=join_warnings(*_render_each(found, lambda changes: iter(changes.caveats))),
        next_step=_render_remainder(found, len(lines)),
    )
    return RenderedResult(
        join_lines([fields.summary, *unfinished, *resolved, fields.warning, *lines, fields.next_step]), fields
    )


def _render_each(found: FleetAnswers[ChangeList], render: Callable[[ChangeList], Iterator[str]]) -> list[str]:
    """Render something of each cluster; the calls in it name that cluster."""
    sentences: list[str] = []
    for label, changes in found.answers:
        with naming_cluster(label.name):
            sentences += [f"{label.prefix}{sentence}" for sentence in render(changes)]
    return sentences


def _render_failures(found: FleetAnswers[ChangeList]) -> Iterator[str]:
    return (f"Not known of {label.address}: {label.render_failure(failure)}" for label, failure in found.failures)


def _render_summary(changes: ChangeList, address: str) -> str:
    counts = Counter(map(render_outcome, changes.entries))
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common())
    whose = f" of {changes.user}" if changes.user else ""
    about = f"access token {changes.token_id}{whose}" if changes.token_id else f"access tokens{whose}"
    attempts = f"{format_count(len(changes.entries), 'attempt')} to change {about} on {address}"
    order = " Times are in UTC, the newest first." if len(changes.entries) > 1 else ""
    listed = f": {outcomes}." if outcomes else "."
    return f"{attempts} recorded {_render_period(changes)}{listed} {_render_unfinished_count(changes)}{order}"


def _render_period(changes: ChangeList) -> str:
    if changes.since is None:
        return "so far"
    return f"since {format_time(changes.since)} ({format_relative_time(changes.since, now=changes.time)})"


def _render_unfinished_count(changes: ChangeList) -> str:
    at_work = [each for each in changes.unfinished if each.attempt.is_in_flight]
    count = len(changes.unfinished) - len(at_work) + len(changes.unseen)
    if count:
        return f"{count:,} left unfinished, whenever begun."
    if any(entry.is_in_flight for entry in changes.entries):
        return "Nothing else is left unfinished: ask again in a minute whether what is at work has ended."
    return "Nothing is left unfinished."


def _render_remainder(found: FleetAnswers[ChangeList], shown: int) -> str | None:
    """Render how to get at entries that are not told, or who else knows of a token; None if neither helps."""
    count = sum(len(changes.entries) for _, changes in found.answers)
    if (omitted := count - shown) > 0:
        return (
            f"{omitted:,} earlier left out, which do not fit: a shorter `since`, `user` or `id` narrows this, and "
            "`qumulo-token-tools journal` shows the operator all."
        )
    if count:
        return None
    [(_, changes), *others] = found.answers
    creator = (
        f"; {format_call('get_access_token', id=changes.token_id)} tells who created it"
        if changes.token_id and not others
        else ""
    )
    return f"The record has only what was asked of servers that share it{creator}."


def _render_unfinished(changes: ChangeList) -> Iterator[str]:
    yield from render_unfinished(changes.unfinished, max_sentences=MAX_TOLD)
    yield from _render_first(map(_render_unseen, changes.unseen), len(changes.unseen))


def _render_resolved(changes: ChangeList) -> Iterator[str]:
    return _render_first(map(_render_resolution, changes.resolved), len(changes.resolved))


def _render_first(sentences: Iterable[str], count: int) -> Iterator[str]:
    yield from islice(sentences, MAX_TOLD)
    if count > MAX_TOLD:
        yield f"{count - MAX_TOLD:,} more like these."


def _render_unseen(attempt: Attempt) -> str:
    token = f", of token {attempt.token_id}," if attempt.token_id else ""
    return f"Unfinished: {_render_begun(attempt)}{token} has no known end, and its token could not be looked at."


def _render_resolution(resolution: Resolution) -> str:
    about = f" (token {render_first_items(resolution.token_ids)})" if resolution.token_ids else ""
    end = _SETTLEMENT_TEXTS[resolution.settlement]
    return f"Resolved: {_render_begun(resolution.attempt)}{about} had no known end; {end}."


def _render_begun(attempt: Attempt) -> str:
    return f"the {attempt.operation} for {render_user(attempt.user)} begun at {format_time(attempt.begun)}"
