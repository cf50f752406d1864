"""The record of all changes: what was intended, who asked, who agreed, and what came of it; never a secret.

An intent is written before the cluster is asked to change anything, and its outcome afterwards. Both are durable when
the call returns, so a process that is killed leaves at worst an intent without an outcome. The server that works on an
intent holds a lease and renews it. Once a lease has run out, its server is gone, on whichever machine it was, and every
other server can say what is unfinished.
"""

import logging
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from operator import attrgetter
from secrets import token_hex
from typing import Final, NamedTuple, TypedDict, Unpack

import anyio
import msgspec

from token_tools.errors import JournalError, Refusal
from token_tools.storage.attempts import Attempt, Mandate, Operation, Outcome, Settlement, encode_location
from token_tools.storage.delivery import Location
from token_tools.storage.questions import OpenQuestion
from token_tools.storage.sightings import Sighting
from token_tools.storage.state import record
from token_tools.storage.state.connections import WAIT_SECONDS, Connection, Connections
from token_tools.storage.state.schema import probe, read_revision
from token_tools.storage.state.transactions import Transactions
from token_tools.times import Clock, format_time

CHANGES_PERIOD: Final = timedelta(hours=1)
"""The time in which the changes are counted that the operator allows."""

_UP_TO_A_MINUTE: Final = timedelta(minutes=1) - timedelta.resolution
"""What makes a time that is shown to the minute one that has come, not one that is still to come by seconds."""

_LOG: Final = logging.getLogger(__name__)


class _History(NamedTuple):
    """What was read last: the attempts as they were when the record was at `revision`, the earliest first.

    `in_flight` are those among them whose lease may have run out since.
    """

    revision: int
    attempts: Sequence[Attempt]
    in_flight: Sequence[Attempt]


class Limits(NamedTuple):
    """How long and how many entries are kept, how many changes may be made in an hour, and how long a call may take.

    No `max_changes` are any number. A lease is renewed every `renewal_seconds`. Of what was tried, and of what was not,
    `max_entries` are kept each.
    """

    keep: timedelta = timedelta(days=400)
    max_changes: int = 0
    timeout_seconds: float = 2 * WAIT_SECONDS
    renewal_seconds: float = record.LEASE_SECONDS / 4
    max_entries: int = 100_000


class EntryDetails(TypedDict, total=False):
    """What an entry may tell besides who asked for what for whom; see `Attempt`."""

    outcome: Outcome
    token_id: str | None
    replaces: str | None
    tokens_before: str | None
    before: str | None
    after: str | None
    reason: str | None


class Journal:
    """The record as one server on one cluster reads and writes it.

    Calls of this process have their turn in the order in which they came.
    """

    def __init__(self, connections: Connections, *, cluster: str, clock: Clock, limits: Limits) -> None:
        self.transactions = Transactions(connections, limits.timeout_seconds)
        self._cluster = cluster
        self._clock = clock
        self._limits = limits
        self._in_flight: set[str] = set()
        self._unwritten: dict[str, Attempt] = {}
        self._history: _History | None = None

    async def check_ready(self) -> None:
        """Check that a change could be recorded, and that the operator allows another one now.

        Raises:
            JournalError: If the record cannot be written.
            Refusal: If there were too many changes.
        """
        await self.transactions.write(self._check_ready)

    async def find_question(self, caller: str, request: str) -> OpenQuestion | None:
        """Return the question that is open about a caller's request, and check what `check_ready` does.

        Raises:
            JournalError: If the record cannot be written.
            Refusal: If there were too many changes.
        """

        def find(connection: Connection) -> OpenQuestion | None:
            self._check_ready(connection)
            return record.find_question(connection, self._cluster, caller, request)

        return await self.transactions.write(find)

    async def open_question(
        self, question: OpenQuestion, entry: Attempt, *, replaces: OpenQuestion | None
    ) -> OpenQuestion:
        """Write that a person is asked, and return the question that is open then.

        It is another one if another call asked about the same request meanwhile, after it was known that no question
        but `replaces` was open about it.

        Raises:
            JournalError: If it cannot be written.
        """

        def write(connection: Connection) -> OpenQuestion:
            present = record.find_question(connection, self._cluster, question.caller, question.request)
            if present is not None and present != replaces:
                return present
            record.replace_question(connection, self._cluster, question)
            record.insert_attempt(connection, entry)
            self._prune(connection)
            return question

        return await self.transactions.write(write)

    async def spend_question(self, question_id: str) -> None:
        """Write that a question is answered, whatever the answer is and whatever comes of it.

        Raises:
            JournalError: If it cannot be written.
            Refusal: If the question is not open any more.
        """

        def close(connection: Connection) -> None:
            if not record.close_question(connection, self._cluster, question_id):
                raise _explain_used_answer()

        await self.transactions.write(close)

    async def check_reachable(self) -> None:
        """Check that the record can be read, if there is one.

        Raises:
            JournalError: If it cannot be.
        """
        await self.transactions.read(read_revision, if_missing=None)

    def draft(self, operation: Operation, user: str, mandate: Mandate, **details: Unpack[EntryDetails]) -> Attempt:
        """Return an entry that is not written yet; it is an intent unless the details say something else."""
        return Attempt(
            id=token_hex(8),
            begun=self._clock(),
            cluster=self._cluster,
            operation=operation,
            user=user,
            actor=mandate.actor,
            consent=mandate.consent,
            question=mandate.question,
            **details,
        )

    async def record_untried(self, entry: Attempt) -> None:
        """Write why nothing was tried, in the place of the question if one was asked.

        Raises:
            JournalError: If it cannot be written.
        """

        def write(connection: Connection) -> None:
            record.take_question(connection, entry)
            record.insert_attempt(connection, entry)
            self._prune(connection)

        await self.transactions.write(write)

    @asynccontextmanager
    async def record_intent(self, intent: Attempt, *, known_rotations: Collection[str] = ()) -> AsyncGenerator[Attempt]:
        """Write what is about to be done; until the block ends, it counts as worked on.

        `known_rotations` are the ids of the earlier rotations of the same token that the caller knows of.

        Raises:
            JournalError: If it cannot be written. The cluster must not be asked to change anything then.
            Refusal: If there were too many changes, if the person's answer was used before, or if the token is being
                rotated, or was since.
        """

        def begin(connection: Connection) -> None:
            self._check_change_limit(connection)
            if intent.replaces is not None:
                _check_not_rotated(connection, intent, known_rotations)
            if not record.take_question(connection, intent) and intent.question is not None:
                raise _explain_used_answer()
            record.insert_attempt(connection, intent)
            self._prune(connection)

        await self.transactions.write(begin)
        self._in_flight.add(intent.id)
        try:
            yield intent
        finally:
            self._in_flight.discard(intent.id)

    async def record_outcome(
        self,
        intent: Attempt,
        outcome: Outcome,
        token_id: str | None = None,
        *,
        location: Location | None = None,
    ) -> str | None:
        """Write what came of an intent, and return None; or return why it could not be written.

        A failure raises no exception, because the change on the cluster has happened in any case.
        """
        ended = msgspec.structs.replace(
            intent,
            outcome=outcome,
            ended=self._clock(),
            token_id=token_id or intent.token_id,
            stored_location=None if location is None else encode_location(location),
        )
        try:
            await self.transactions.write(lambda connection: record.update_attempt(connection, ended))
        except JournalError as failure:
            _LOG.warning("%s", failure)
            self._unwritten[ended.id] = ended
            return str(failure)
        return None

    async def settle(self, attempts: Collection[Attempt], settlement: Settlement) -> str | None:
        """Write why attempts need not be told any more, and return None; or return why it could not be written."""
        unsettled = [attempt for attempt in attempts if attempt.settled is None]
        if not unsettled:
            return None
        try:
            await self.transactions.write(
                lambda connection: record.settle_attempts(connection, unsettled, settlement, self._clock())
            )
        except JournalError as failure:
            _LOG.warning("%s", failure)
            return str(failure)
        return None

    async def list_attempts(self) -> Sequence[Attempt]:
        """Return all changes that were tried on this cluster, the earliest first.

        Raises:
            JournalError: If the record cannot be read.
        """
        return await self.transactions.read(self._read_history, if_missing=())

    async def list_entries(self, *, since: datetime | None = None) -> Sequence[Attempt]:
        """Return all entries of this cluster that were begun since then, the earliest first.

        Raises:
            JournalError: If the record cannot be read.
        """
        return await self.transactions.read(
            lambda connection: _read_entries(connection, self._cluster, since), if_missing=()
        )

    async def list_concurrent(self, user: str, *, excluding: Attempt) -> tuple[set[str], bool]:
        """Return the ids of the tokens that were created for a user, and whether another one is being created now.

        Raises:
            JournalError: If the record cannot be read.
        """
        others = [
            attempt
            for attempt in await self.list_attempts()
            if attempt.is_creating and attempt.user == user and attempt.id != excluding.id
        ]
        created = {attempt.token_id for attempt in others if attempt.token_id and attempt.outcome == "created"}
        return created, any(attempt.is_in_flight for attempt in others)

    async def list_rotations(self, token_id: str) -> Sequence[Attempt]:
        """Return the earlier rotations of a token, the earliest first.

        Raises:
            JournalError: If the record cannot be read.
        """
        return [attempt for attempt in await self.list_attempts() if attempt.replaces == token_id]

    async def read_sighting(self, series: str) -> Sighting | None:
        """Return what the last audit of this cluster saw in a series, None if there was none.

        Raises:
            JournalError: If it cannot be read.
        """

        def read(connection: Connection) -> Sighting | None:
            if read_revision(connection) is None:
                return None
            return record.select_sighting(connection, self._cluster, series)

        return await self.transactions.read(read, if_missing=None)

    async def read_latest_sighting(self) -> Sighting | None:
        """Return what the last audit of this cluster saw, of whichever series, None if there was none.

        Raises:
            JournalError: If it cannot be read.
        """

        def read(connection: Connection) -> Sighting | None:
            if read_revision(connection) is None:
                return None
            return record.select_latest_sighting(connection, self._cluster)

        return await self.transactions.read(read, if_missing=None)

    async def record_sighting(self, series: str, sighting: Sighting) -> None:
        """Write what an audit saw, for the next one of its series; this counts as no change.

        Raises:
            JournalError: If it cannot be written.
        """
        await self.transactions.write(
            lambda connection: record.replace_sighting(connection, self._cluster, series, sighting)
        )

    async def renew_sighting(self, series: str, last: Sighting, renewed: Sighting) -> None:
        """Write that an audit saw and told what the last one had, unless another one saw something since.

        Raises:
            JournalError: If it cannot be written.
        """
        await self.transactions.write(
            lambda connection: record.renew_sighting(connection, self._cluster, series, last, renewed)
        )

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Renew the leases of what this server works on until the block ends, and close the database then."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_leases)
            yield
            tasks.cancel_scope.cancel()
        await self.transactions.close()

    async def _keep_leases(self) -> None:
        while True:
            await anyio.sleep(self._limits.renewal_seconds)
            if self._in_flight or self._unwritten:
                try:
                    await self._renew([*self._in_flight], [*self._unwritten.values()])
                except JournalError as failure:
                    _LOG.warning("%s", failure)

    async def _renew(self, in_flight: Collection[str], unwritten: Collection[Attempt]) -> None:
        """Renew leases, and write the outcomes that could not be written when they were known."""

        def renew(connection: Connection) -> None:
            record.renew_leases(connection, in_flight)
            for ended in unwritten:
                record.update_attempt(connection, ended)

        await self.transactions.write(renew)
        for ended in unwritten:
            del self._unwritten[ended.id]

    def _read_history(self, connection: Connection) -> Sequence[Attempt]:
        """Return the attempts as they are now; of these, only what may have changed is read again."""
        revision = read_revision(connection)
        if revision is None:
            return ()
        known = self._history
        if known is not None and known.revision == revision and not known.in_flight:
            return known.attempts
        known_attempts: Sequence[Attempt] = []
        changed = None
        if known is not None and known.attempts:
            known_attempts = known.attempts
            changed = record.select_changed_attempts(
                connection,
                cluster=self._cluster,
                revision=known.revision,
                last=known_attempts[-1],
                in_flight=known.in_flight,
            )
        if changed is None:
            known_attempts = []
            changed = record.select_attempts(connection, cluster=self._cluster, only_tried=True)
        attempts = _update_attempts(known_attempts, changed)
        self._history = _History(revision, attempts, [attempt for attempt in changed if attempt.is_in_flight])
        return attempts

    def _check_ready(self, connection: Connection) -> None:
        probe(connection)
        self._check_change_limit(connection)

    def _prune(self, connection: Connection) -> None:
        record.prune(connection, before=self._clock() - self._limits.keep, max_entries=self._limits.max_entries)

    def _check_change_limit(self, connection: Connection) -> None:
        count = self._limits.max_changes
        if not count:
            return
        first = record.find_oldest_of_last(connection, count, self._clock() - CHANGES_PERIOD)
        if first is not None:
            raise Refusal(
                "As many changes were made within an hour as the operator allows "
                f"(QUMULO_MAX_CHANGES={count}). The next one may be made at "
                f"{format_time(first + CHANGES_PERIOD + _UP_TO_A_MINUTE)}: until then, tell the person what is left to "
                "do. What cannot wait, such as to disable a token, they can do by hand with qq."
            )


def read_entries(
    connections: Connections, *, cluster: str | None = None, since: datetime | None = None
) -> Sequence[Attempt]:
    """Return the entries of one cluster, or of all, that were begun since then, the earliest first.

    It waits for the database.

    Raises:
        JournalError: If the record cannot be read.
    """
    return connections.read(lambda connection: _read_entries(connection, cluster, since), if_missing=())


def _read_entries(connection: Connection, cluster: str | None, since: datetime | None) -> Sequence[Attempt]:
    if read_revision(connection) is None:
        return ()
    return record.select_attempts(connection, cluster=cluster, since=since)


def _check_not_rotated(connection: Connection, intent: Attempt, known: Collection[str]) -> None:
    """Check, while no other server can write, that a token is not being rotated and was not since.

    Raises:
        Refusal: If it is, or was.
    """
    rotations = record.select_attempts(connection, cluster=intent.cluster, replaces=intent.replaces, only_tried=True)
    at_work = [attempt for attempt in rotations if attempt.is_in_flight]
    if at_work:
        raise explain_concurrent_rotation(at_work[-1])
    if {attempt.id for attempt in rotations} - {*known}:
        raise Refusal(f"Token {intent.replaces} was rotated meanwhile. Call again to see how it is now.")


def _explain_used_answer() -> Refusal:
    return Refusal(
        "This question was answered before, or its time is over, and its answer is used up. What that did is told "
        "there: look at the user's tokens before you call again."
    )


def _update_attempts(known: Sequence[Attempt], changed: Sequence[Attempt]) -> Sequence[Attempt]:
    """Return the attempts as they are now; of too many, the earliest are left out that are finished."""
    if not changed:
        return known
    # What changes is among the last of very many.
    first = bisect_left(known, changed[0].number, key=attrgetter("number"))
    by_number = {attempt.number: attempt for attempt in (*known[first:], *changed)}
    attempts = [*known[:first], *(by_number[number] for number in sorted(by_number))]
    surplus = max(0, len(attempts) - record.MAX_READ)
    unfinished = [attempt for attempt in attempts[:surplus] if attempt.is_unfinished or attempt.is_in_flight]
    return [*unfinished, *attempts[surplus:]]


def explain_concurrent_rotation(attempt: Attempt) -> Refusal:
    """Explain why a token cannot be rotated that another server just rotates."""
    return Refusal(
        f"Token {attempt.replaces} is just being rotated by another server, since {format_time(attempt.begun)}, "
        "unless that was cut off within the last minute. Wait until that has ended, and look at the user's tokens "
        "then: what is new among them is what it makes."
    )
