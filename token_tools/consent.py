"""Plans that wait for a human: the same question while it is open, and each answer good for one act.

A client answers a question by calling again, and may do so more than once; so may a model that repeats itself. The plan
behind a question is therefore kept here, and taken away when it is carried out: whoever comes later finds none, is
asked anew, and cannot spend the old answer, since the new question has another number in it.
"""

from collections.abc import Hashable
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Final, Generic, TypeVar

from token_tools.errors import Refusal

OPEN_FOR: Final = timedelta(minutes=10)
"""How long a question can be answered; the state that the SDK seals for it lives as long."""

Plan = TypeVar("Plan")


def number_question() -> str:
    """A number that no other question has."""
    return token_hex(4)


class OpenQuestions(Generic[Plan]):
    """The plans of one server that wait for an answer, by what was asked of it."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, tuple[datetime, Plan]] = {}

    def recall(self, request: Hashable, *, now: datetime) -> Plan | None:
        """The plan that already waits for this request, if its question is still open."""
        self._plans = {key: kept for key, kept in self._plans.items() if now - kept[0] < OPEN_FOR}
        kept = self._plans.get(request)
        return None if kept is None else kept[1]

    def keep(self, request: Hashable, plan: Plan, *, now: datetime) -> None:
        """Let a plan wait for its answer."""
        self._plans[request] = (now, plan)

    def close(self, request: Hashable, plan: Plan) -> None:
        """Take the plan away: it is about to be carried out, or was turned down.

        Raises:
            Refusal: If that has happened before.
        """
        kept = self._plans.pop(request, None)
        if kept is None or kept[1] is not plan:
            raise Refusal("This question was answered before, and its answer is used up. Nothing was done.")
