"""What the record tells of an attempt to change a token: what was intended, who asked, who agreed, what came of it."""

from collections.abc import Collection
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
from pydantic import TypeAdapter

from token_tools.storage.delivery import Location, StoredLocation

Operation = Literal["create", "rotate", "update", "delete", "export", "pickup"]
"""What was asked for. An export changes nothing, and is only recorded if it was refused. A pickup is of the bearer
token of a new token, by the person who asked for that."""
Outcome = Literal[
    "intended", "created", "not created", "rolled back", "undeletable", "done", "not done", "unknown",
    "asked", "refused", "declined", "could not ask", "handed out", "picked up",
]  # fmt: skip
"""What came of an attempt.

It is `intended` while it is worked on, and stays so if that was cut off; it is `unknown` if no clear answer came. A
create or rotate ends `created`, `not created`, `rolled back` (created and deleted again) or `undeletable` (created, of
no use to anybody, and still there). An update or delete ends `done` or `not done`. The cluster was never asked to
change anything if a person was `asked` and never answered, if a rule `refused` it, if a person `declined`, or if the
client `could not ask` them. Nor is it if a bearer token was `handed out` to a browser, or `picked up`: then that
browser has confirmed the receipt.
"""
Consent = Literal["not needed", "asked", "agreed", "declined", "could not ask"]
Settlement = Literal["deleted", "disabled", "not found", "delivered", "as wanted", "changed since", "told to a person"]
"""Why an attempt without a known end is settled: what became of its token, or that a person was told and agreed."""

UNTRIED: Final[frozenset[Outcome]] = frozenset(
    {"asked", "refused", "declined", "could not ask", "handed out", "picked up"}
)
"""The outcomes of attempts of which the cluster never heard."""

_LOCATION: Final[TypeAdapter[Location]] = TypeAdapter(StoredLocation)
_OPEN: Final[frozenset[Outcome]] = frozenset({"intended", "unknown", "undeletable"})
_CREATING: Final[frozenset[Operation]] = frozenset({"create", "rotate"})


class Mandate(NamedTuple):
    """Who asked for a change, and what a person said to it.

    `question` is the number of the question that they answered, None if none was asked.
    """

    actor: str
    consent: Consent = "not needed"
    question: str | None = None


def encode_location(location: Location) -> str:
    """Return a location as the record has it."""
    return _LOCATION.dump_json(location).decode()


_COLUMN_NAMES: Final = {
    "user": "user_name",
    "before": "state_before",
    "after": "state_after",
    "stored_location": "location",
}


class Attempt(msgspec.Struct, frozen=True, kw_only=True, rename=_COLUMN_NAMES):
    """An attempt to change a token, as the record has it.

    `token_id` is the token that is changed or deleted, or that was created. `replaces` is the token for which a rotate
    creates another one, and `tokens_before` are the ids of those that the user had. `before` and `after` are the state
    of the token, as it was and as it was to become, in the notation `enabled: false, expires: never`.
    `stored_location` is where a new bearer token went, as JSON. `reason` says why nothing was tried. `is_in_flight`
    says whether a server was working on it when the record was read. Times are in UTC.
    """

    id: str
    begun: datetime
    cluster: str
    operation: Operation
    user: str
    actor: str
    consent: Consent = "not needed"
    question: str | None = None
    token_id: str | None = None
    replaces: str | None = None
    tokens_before: str | None = None
    before: str | None = None
    after: str | None = None
    outcome: Outcome = "intended"
    ended: datetime | None = None
    reason: str | None = None
    stored_location: str | None = None
    settled: datetime | None = None
    settlement: Settlement | None = None
    is_in_flight: bool = False
    number: int = 0

    @property
    def known_ids(self) -> Collection[str]:
        """The ids of tokens that this cannot have created."""
        return [*(self.tokens_before or "").split(), *([self.replaces] if self.replaces else [])]

    @property
    def location(self) -> Location | None:
        """Where a new bearer token went; None if that is not recorded."""
        return None if self.stored_location is None else _LOCATION.validate_json(self.stored_location)

    @property
    def last_seen(self) -> datetime:
        """When it ended, or else when it began."""
        return self.ended or self.begun

    @property
    def is_creating(self) -> bool:
        """Whether it is to create a token."""
        return self.operation in _CREATING

    @property
    def is_tried(self) -> bool:
        """Whether the cluster may have been asked for it."""
        return self.outcome not in UNTRIED

    @property
    def is_open(self) -> bool:
        """Whether its end is not known, or it left a token behind that is of no use.

        A token that was not found when it was looked for can still appear on a cluster that is slow.
        """
        return self.outcome in _OPEN and self.settlement in {None, "not found"}

    @property
    def is_unfinished(self) -> bool:
        """Whether it is to be told until somebody has settled it."""
        return self.outcome in _OPEN and self.settled is None and not self.is_in_flight
