"""A question to a person, as it waits in the database for its answer, whichever server that reaches."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

QUESTION_TIMEOUT: Final = timedelta(minutes=10)
"""How long a question can be answered. The state that the SDK seals for it lives as long."""


class OpenQuestion(NamedTuple):
    """A question that waits for an answer of its caller.

    `request` is equal for equal requests. What it asks about was planned at `planned` by the cluster's clock, when that
    of the server showed `asked`. `digest` is equal for equal texts.
    """

    id: str
    caller: str
    request: str
    planned: datetime
    asked: datetime
    digest: str

    @property
    def clock_ahead(self) -> timedelta:
        """How far the cluster's clock was known to be ahead of the server's."""
        return self.planned - self.asked
