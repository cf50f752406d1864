"""Which changes a person has to agree to first, and the plans that wait for their answer.

A client answers a question by calling again. It may do so more than once, and a model may repeat a call. Which
questions are open is therefore in the database, and the first answer to one closes it. A later call finds no open
question and asks anew. It cannot spend the old answer, since the new question has another id. How a person is asked is
in `server.elicitation`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final, Literal, NamedTuple

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.errors import Refusal
from token_tools.operations.policy import is_admin
from token_tools.settings import Confirm
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal

MAX_PENDING_PLANS: Final = 256
"""Plans that a server keeps while people are asked about them; the oldest are forgotten."""

MAX_COUNTED_REQUESTS: Final = 256
"""Requests whose questions without a yes are counted; the oldest are forgotten."""

NoConsent = Literal["declined", "dismissed", "not_ticked", "not_boolean", "failed", "timed_out"]
"""Why there is no consent: a no, a closed form, a form without its tick or its field, an error, no answer in time."""


class NotAgreed(Refusal):
    """A person has to agree first, and did not; `entry` is what the record is to tell about that."""

    def __init__(self, message: str, entry: Attempt) -> None:
        super().__init__(message)
        self.entry = entry


class Risk(NamedTuple):
    """Something that a person should know before they agree; `reason` goes on after "because"."""

    reason: str


FOR_ADMIN: Final = Risk("it is for the built-in administrator")
NEVER_EXPIRES: Final = Risk("it would never expire")
WAS_DISABLED: Final = Risk("it was disabled, and only people know why")
HAS_EXPIRED: Final = Risk("it has expired and would live on")
LIVES_LONGER: Final = Risk("it would live longer")
STOPS_SOONER: Final = Risk("it would stop working sooner")
STOPS_USERS: Final = Risk("whoever works with it would be stopped")
IRREVERSIBLE: Final = Risk("this cannot be undone")


def find_create_risks(user: Identity, expires: datetime | None, *, caveat: str | None = None) -> Sequence[Risk]:
    """Return the risks of a new token.

    `caveat` says why it is not certain who the user is, None if it is certain. A user whom the cluster did not identify
    may be the administrator.
    """
    risks = [FOR_ADMIN] if is_admin(user) else [Risk(caveat)] if caveat else []
    return [*risks, NEVER_EXPIRES] if expires is None else risks


def find_update_risks(token: AccessToken, wanted: TokenState, *, now: datetime) -> Sequence[Risk]:
    """Return the risks of a change to a token.

    A longer life is a risk, and so is to enable a token again: it may have been disabled because it leaked. A shorter
    life, or to disable the token, may stop a service that works with it.
    """
    risks = [FOR_ADMIN] if is_admin(token.user) and wanted.enabled else []
    if token.is_disabled and wanted.enabled:
        risks.append(WAS_DISABLED)
    if wanted.expires is None and token.expires is not None:
        risks.append(NEVER_EXPIRES)
    elif _is_later(wanted.expires, token.expires):
        risks.append(HAS_EXPIRED if token.is_expired(now=now) else LIVES_LONGER)
    elif wanted.expires != token.expires and token.is_live(now=now):
        risks.append(STOPS_SOONER)
    if not wanted.enabled and token.is_live(now=now):
        risks.append(STOPS_USERS)
    return risks


def _is_later(wanted: datetime | None, current: datetime | None) -> bool:
    return wanted is not None and current is not None and wanted > current


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """What a request would do, as the server found things at `time`.

    `time` is by the cluster's clock, which is known to be `clock_ahead` of ours. `confirm` is the operator's rule.
    `question_id` tells the question about this plan from every other, and `question` is its text, None if nobody is
    asked. `request` is equal for equal requests.
    """

    time: datetime
    clock_ahead: timedelta = timedelta()
    confirm: Confirm
    risks: Sequence[Risk]
    question_id: str = field(default_factory=lambda: token_hex(4))
    question: str | None = None
    request: str = ""

    @property
    def changes_something(self) -> bool:
        """Whether anything would be different once this is carried out."""
        return True

    @property
    def needs_consent(self) -> bool:
        """Whether a person has to agree before this is carried out."""
        if not self.changes_something or self.confirm == "none":
            return False
        return self.confirm == "all" or len(self.risks) > 0

    @abstractmethod
    def draft_entry(self, journal: Journal, mandate: Mandate, outcome: Outcome, reason: str | None = None) -> Attempt:
        """Return the entry of the record about this; `reason` says why it is not tried."""

    def draft_intent(self, journal: Journal, actor: str) -> Attempt:
        """Return the intent to carry this out, once it may be, for the one who asked for it."""
        mandate = Mandate(actor, "agreed", self.question_id) if self.needs_consent else Mandate(actor)
        return self.draft_entry(journal, mandate, "intended")


class PendingPlans:
    """The plans of one server about which people are asked, by the numbers of their questions.

    Which questions are open is in the database, for all servers. A plan that is forgotten here is made anew.
    """

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._no_consent_counts: dict[tuple[str, str], int] = {}

    def find(self, question_id: str) -> Plan | None:
        """Return the plan that this question is about, if it is known here."""
        return self._plans.get(question_id)

    def add(self, plan: Plan) -> None:
        """Store a plan about which a person is asked."""
        self._plans[plan.question_id] = plan
        _forget_oldest(self._plans, MAX_PENDING_PLANS)

    def discard(self, plan: Plan) -> None:
        """Forget a plan whose question is answered."""
        self._plans.pop(plan.question_id, None)

    def count_no_consent(self, caller: str, plan: Plan) -> int:
        """Return how many times in a row a caller's equal request got no yes here, this time included."""
        times = self._no_consent_counts.pop((caller, plan.request), 0) + 1
        self._no_consent_counts[caller, plan.request] = times
        _forget_oldest(self._no_consent_counts, MAX_COUNTED_REQUESTS)
        return times

    def reset_no_consent_count(self, caller: str, plan: Plan) -> None:
        """Start the count of such requests at zero: somebody agreed to this one, or nobody had to."""
        self._no_consent_counts.pop((caller, plan.request), None)


def _forget_oldest(entries: dict[Any, Any], max_entries: int) -> None:
    if len(entries) > max_entries:
        del entries[next(iter(entries))]
