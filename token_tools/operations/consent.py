"""Plans that wait for a human: the same question while it is open, and each answer good for one act.

A client answers a question by calling again, and may do so more than once; so may a model that repeats itself. The plan
behind a question is therefore kept here, and taken away when it is carried out: whoever comes later finds none, is
asked anew, and cannot spend the old answer, since the new question has another number in it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Final, Literal, TypeVar

from token_tools.errors import Refusal

PLAN_TIMEOUT: Final = timedelta(minutes=10)
"""How long a question can be answered; the state that the SDK seals for it lives as long."""

MAX_COUNTED_REQUESTS: Final = 256
"""Requests of which it is counted how often they were asked about in vain; the oldest are forgotten."""

NoConsent = Literal["declined", "dismissed", "not_ticked", "not_boolean", "failed", "timed_out"]
"""What comes instead of a yes: a no, a form put away, one without its tick or without its field, an error, nothing."""


def generate_question_id() -> str:
    """A number that no other question has."""
    return token_hex(4)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request would do, as the server found things at `time`.

    `reasons` say why a human has to agree first, and `question_id` tells that question from every other; there are no
    reasons where nobody has to be asked. `time` is the cluster's, whose clock is known to be `clock_ahead` of ours.
    """

    request_key: Hashable
    time: datetime
    reasons: Sequence[str]
    question_id: str = field(default_factory=generate_question_id)
    clock_ahead: timedelta = timedelta()


SomePlan = TypeVar("SomePlan", bound=Plan)


class PendingPlans:
    """The plans of one server that wait for an answer, by what was asked of it."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, Plan] = {}
        self._no_consent_counts: dict[Hashable, int] = {}

    def get(self, kind: type[SomePlan], request_key: Hashable, *, now: datetime) -> SomePlan | None:
        """The plan that already waits for this request, if its question is still open."""
        self._plans = {key: plan for key, plan in self._plans.items() if now - plan.time < PLAN_TIMEOUT}
        plan = self._plans.get(request_key)
        return plan if isinstance(plan, kind) else None

    def add(self, plan: SomePlan) -> SomePlan:
        """Let a plan wait for its answer, if there is something to ask; of equal ones at a time, the first for all."""
        if not plan.reasons:
            return plan
        waiting = self.get(type(plan), plan.request_key, now=plan.time) or plan
        self._plans[plan.request_key] = waiting
        return waiting

    def consume(self, plan: Plan) -> None:
        """Take a plan away that had something to ask: it is about to be carried out, or was not agreed to.

        Raises:
            Refusal: If that has happened before.
        """
        if not plan.reasons:
            return
        if self._plans.get(plan.request_key) is not plan:
            raise Refusal(
                "This question was answered before, by the same call, and its answer is used up. What that did is told "
                "there: look at the user's tokens before you call again."
            )
        del self._plans[plan.request_key]

    def count_no_consent(self, plan: Plan) -> int:
        """How many times in a row the same request was asked about without a yes, this time included."""
        times = self._no_consent_counts.pop(plan.request_key, 0) + 1
        self._no_consent_counts[plan.request_key] = times
        if len(self._no_consent_counts) > MAX_COUNTED_REQUESTS:
            del self._no_consent_counts[next(iter(self._no_consent_counts))]
        return times

    def reset_no_consent_count(self, plan: Plan) -> None:
        """Begin to count anew: somebody agreed to this request, or nobody had to."""
        self._no_consent_counts.pop(plan.request_key, None)
