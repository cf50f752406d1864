"""Which changes a person has to agree to first, and the plans that wait for their answer.

A client answers a question by calling again. It may do so more than once, and a model may repeat a call. The plan
behind a question is therefore stored here and removed once it is carried out. A later call finds no plan and asks anew.
It cannot spend the old answer, since the new question has another id. How a person is asked is in `server.elicitation`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Final, Literal, NamedTuple, TypeVar

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.errors import Refusal
from token_tools.operations.policy import is_admin
from token_tools.settings import Confirm
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal

PLAN_TIMEOUT: Final = timedelta(minutes=10)
"""How long a question can be answered. The state that the SDK seals for it lives as long."""

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

    `request_key` is equal for equal requests. `time` is by the cluster's clock, which is known to be `clock_ahead` of
    ours. `confirm` is the operator's rule. `question_id` tells the question about this plan from every other.
    """

    request_key: Hashable
    time: datetime
    clock_ahead: timedelta = timedelta()
    confirm: Confirm
    risks: Sequence[Risk]
    question_id: str = field(default_factory=lambda: token_hex(4))

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


SomePlan = TypeVar("SomePlan", bound=Plan)


class PendingPlans:
    """The plans of one server that wait for an answer, by their requests."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, Plan] = {}
        self._questions: dict[str, str] = {}
        self._no_consent_counts: dict[Hashable, int] = {}

    def get(self, kind: type[SomePlan], request_key: Hashable, *, now: datetime) -> SomePlan | None:
        """Return the plan that waits for an answer to this request; None if there is none, or if its time is over."""
        self._plans = {key: plan for key, plan in self._plans.items() if now - plan.time < PLAN_TIMEOUT}
        plan = self._plans.get(request_key)
        return plan if isinstance(plan, kind) else None

    def add(self, plan: SomePlan) -> SomePlan:
        """Store a plan that needs consent. If one for an equal request is stored already, return that one."""
        if not plan.needs_consent:
            return plan
        waiting = self.get(type(plan), plan.request_key, now=plan.time) or plan
        self._plans[plan.request_key] = waiting
        return waiting

    def get_question(self, plan: Plan, compose: Callable[[], str]) -> str:
        """Return the question about a plan, which is composed when it is asked first."""
        waiting = {each.question_id for each in self._plans.values()}
        self._questions = {number: text for number, text in self._questions.items() if number in waiting}
        if plan.question_id not in self._questions:
            self._questions[plan.question_id] = compose()
        return self._questions[plan.question_id]

    def consume(self, plan: Plan) -> None:
        """Remove a plan that needs consent, because it is about to be carried out or was not agreed to.

        Raises:
            Refusal: If it was removed before.
        """
        if not plan.needs_consent:
            return
        if self._plans.get(plan.request_key) is not plan:
            raise Refusal(
                "This question was answered before, by the same call, and its answer is used up. What that did is told "
                "there: look at the user's tokens before you call again."
            )
        del self._plans[plan.request_key]

    def count_no_consent(self, plan: Plan) -> int:
        """Return how many times in a row an equal request was asked about without a yes, this time included."""
        times = self._no_consent_counts.pop(plan.request_key, 0) + 1
        self._no_consent_counts[plan.request_key] = times
        if len(self._no_consent_counts) > MAX_COUNTED_REQUESTS:
            del self._no_consent_counts[next(iter(self._no_consent_counts))]
        return times

    def reset_no_consent_count(self, plan: Plan) -> None:
        """Start the count of such requests at zero: somebody agreed to this one, or nobody had to."""
        self._no_consent_counts.pop(plan.request_key, None)
