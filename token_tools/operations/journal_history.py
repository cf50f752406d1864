"""What the journal knows of a cluster's tokens, and which tokens an attempt without a known end may be about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final
from weakref import WeakKeyDictionary

from token_tools.cluster.models import AccessToken, TokenState
from token_tools.errors import JournalError
from token_tools.operations.services import Services
from token_tools.storage.attempts import Attempt
from token_tools.storage.journal import Journal
from token_tools.times import format_rfc3339

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""By how much the cluster's clock may be behind ours without being noticed."""

MAX_CREATION_DELAY: Final = timedelta(hours=1)
"""How long after the last entry of an attempt its token may still be created: a cluster that hangs may take long."""


@dataclass(frozen=True)
class JournalHistory:
    """The attempts in the journal, in the order in which they began.

    `journal_error` says why there may be more, None if the journal was read.
    """

    attempts: Sequence[Attempt] = ()
    journal_error: str | None = None

    @cached_property
    def open_attempts(self) -> Sequence[Attempt]:
        """The attempts without a known end, the latest first; those that are being worked on are among them."""
        return [attempt for attempt in reversed(self.attempts) if attempt.is_open]

    @cached_property
    def created_ids(self) -> frozenset[str]:
        """The ids of the tokens that an attempt is known to have created."""
        return frozenset(a.token_id for a in self.attempts if a.is_creating and a.token_id)

    @cached_property
    def rotations(self) -> Mapping[str, Attempt]:
        """The rotations that created a token, by the id of that token."""
        created = [a for a in self.attempts if a.outcome == "created" or a.settlement == "delivered"]
        return {attempt.token_id: attempt for attempt in created if attempt.replaces and attempt.token_id}

    @cached_property
    def deleted_at(self) -> Mapping[str, datetime]:
        """When this server deleted tokens, by their ids."""
        deleted = [a for a in self.attempts if (a.operation, a.outcome) == ("delete", "done")]
        rolled_back = [attempt for attempt in self.attempts if attempt.outcome == "rolled back"]
        return {a.token_id: a.last_seen for a in [*deleted, *rolled_back] if a.token_id}

    @cached_property
    def disablings(self) -> Mapping[str, Attempt]:
        """The updates that disabled tokens, by their ids; without those that may have been enabled again since.

        A token was enabled when such an update began. So one that is disabled now was not before, even if the end of
        the update is not known.
        """
        disablings: dict[str, Attempt] = {}
        for attempt in self.attempts:
            token_id, change = attempt.token_id, attempt.after or ""
            if token_id is None or not change.startswith("enabled: ") or attempt.outcome == "not done":
                continue
            disablings.pop(token_id, None)
            if change.startswith("enabled: false"):
                disablings[token_id] = attempt
        return disablings

    @cached_property
    def disabled_since(self) -> Mapping[str, datetime]:
        """When tokens were disabled, by their ids."""
        return {token_id: attempt.last_seen for token_id, attempt in self.disablings.items()}

    @cached_property
    def last_changes(self) -> Mapping[str, int]:
        """The number of the last change or deletion with a known end, by the id of its token."""
        return {a.token_id: a.number for a in self.attempts if a.token_id and not a.is_creating and not a.is_open}

    def build_suspect_filter(self, *, clock_ahead: timedelta) -> "SuspectFilter":
        """Return the filter for tokens that open attempts may be about, on a cluster whose clock is ahead of ours."""
        spans = [
            find_creation_span(attempt, clock_ahead)
            for attempt in self.open_attempts
            if attempt.is_creating and attempt.token_id is None
        ]
        ids = {token_id for a in self.open_attempts for token_id in (a.token_id, a.replaces) if token_id}
        return SuspectFilter(frozenset(ids), spans)


@dataclass(frozen=True)
class SuspectFilter:
    """Collects the tokens with one of these ids, or that were created within one of these spans."""

    token_ids: frozenset[str]
    creation_spans: Sequence[tuple[datetime, datetime]]
    suspects: list[AccessToken] = field(default_factory=list[AccessToken])

    def add_suspects(self, tokens: Iterable[AccessToken]) -> None:
        """Collect the tokens that an open attempt may be about."""
        if self.token_ids or self.creation_spans:
            self.suspects.extend(filter(self._is_suspect, tokens))

    def _is_suspect(self, token: AccessToken) -> bool:
        return token.id in self.token_ids or any(begin <= token.created <= end for begin, end in self.creation_spans)


_LATEST: Final = WeakKeyDictionary[Journal, JournalHistory]()
"""What was read last of each journal: what is found out about thousands of attempts holds until something changes."""


async def read_known_history(services: Services) -> JournalHistory:
    """Return what the journal knows.

    Raises:
        JournalError: If it cannot be read.
    """
    attempts = await services.journal.list_attempts()
    latest = _LATEST.get(services.journal)
    if latest is None or latest.attempts is not attempts:
        latest = _LATEST[services.journal] = JournalHistory(attempts)
    return latest


async def read_history(services: Services) -> JournalHistory:
    """Return what the journal knows. A journal that cannot be read stops nobody who only reads."""
    try:
        return await read_known_history(services)
    except JournalError as failure:
        return JournalHistory(journal_error=f"What was begun and not finished is not known: {failure}")


def find_creation_span(attempt: Attempt, clock_ahead: timedelta) -> tuple[datetime, datetime]:
    """Return when, by the cluster's clock, an attempt can have created a token."""
    return _shift_within_calendar(attempt.begun, clock_ahead - CLOCK_TOLERANCE), _shift_within_calendar(
        attempt.last_seen, clock_ahead + MAX_CREATION_DELAY
    )


def _shift_within_calendar(time: datetime, by: timedelta) -> datetime:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    return time + min(max(by, first - time), last - time)


def format_change(wanted: TokenState, before: TokenState | None = None) -> str:
    """Return a state in the journal's notation, `enabled: false, expires: never`, without what `before` has as well."""
    changes = {"enabled", "expiration_time"} if before is None else before.changes_to(wanted).keys()
    enabled = f"enabled: {str(wanted.enabled).lower()}" if "enabled" in changes else ""
    expires = "never" if wanted.expires is None else format_rfc3339(wanted.expires)
    return ", ".join(filter(None, [enabled, f"expires: {expires}" if "expiration_time" in changes else ""]))
