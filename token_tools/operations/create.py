"""Making one token, from the reserved destination to the written outcome: the part that must not stop half way.

The order is the safety: a place for the secret, the intent on disk, one POST, the secret in its place, the outcome on
disk. Each step can fail, and each failure ends in a text that says what is the case and what to do. No token is ever
deleted that is not known to be new.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import anyio
import anyio.lowlevel

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock, render_clock_difference
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, NewAccessToken
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.cluster.qq import Qq
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    JournalError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Undelivered,
    UnknownOutcome,
    Unproved,
    Unreachable,
    Unsent,
)
from token_tools.operations.update import delete_and_verify, render_undeleted, shielded
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.storage.delivery import DeliveredToken, Delivery, Reservation
from token_tools.storage.journal import Journal, JournalEntry
from token_tools.times import format_duration, format_time

_LOG: Final = logging.getLogger(__name__)
MAX_TOKENS_PER_USER: Final = 2
"""Tokens that one user can have at a time, says the vendor's guide."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""By how much the cluster's clock may well be behind ours."""


MAX_LIFETIME_TOLERANCE: Final = timedelta(minutes=5)
"""By how much a token may live longer than is allowed: a cluster rounds, and its clock may be behind ours."""


REQUESTED_LIFETIME_TOLERANCE: Final = timedelta(days=1)
"""By how much a token may outlive what was asked for where nobody limits it: the difference of the clocks is told."""


@dataclass(frozen=True)
class CreateRequest:
    """What is to be made: a token for `user` that expires at `expires`, or never.

    `current_tokens` are the user's tokens just before, None if they could not be read. `open_intents` are earlier
    attempts for the same user of which nobody knows the end; the answer will mention them. `settled_intents` are those
    that need not be mentioned again. `replaces` is the token that the new one is to replace; the new one then has to
    prove itself. `lifetime` is how long it is to live, if that was asked for and not until when; `max_lifetime` is the
    longest life that the operator allows, None if any is.
    """

    user: Identity
    expires: datetime | None
    current_tokens: Sequence[AccessToken] | None
    open_intents: Sequence[JournalEntry] = ()
    settled_intents: Sequence[JournalEntry] = ()
    replaces: AccessToken | None = None
    lifetime: timedelta | None = None
    max_lifetime: timedelta | None = None

    def may_be_for(self, token: AccessToken) -> bool:
        """Whether a token can be of the user whom it is to be made for."""
        return self.user.as_minimal_identity().merged_with(token.user) is not None

    def is_preexisting(self, token_id: str) -> bool:
        """Whether a token is known to have been there before."""
        before = {token.id for token in [*(self.current_tokens or ()), *([self.replaces] if self.replaces else [])]}
        return token_id in before


@dataclass(frozen=True)
class CreatedToken:
    """A token that was made and whose secret is where it belongs.

    `token` is the token as the cluster tells it since, None if that could not be read; `journal_error` says why the
    journal does not know the outcome, None if it does. `clock_ahead` is by how much the cluster's clock is known to be
    ahead of ours.
    """

    delivered: DeliveredToken
    token: AccessToken | None
    journal_error: str | None
    clock_ahead: timedelta = timedelta()


@dataclass(frozen=True)
class TokenCreator:
    """Where tokens are made, where their secrets go, and where it is written down."""

    cluster: ClusterClient
    delivery: Delivery
    journal: Journal
    qq: Qq
    clock: ClusterClock = field(default_factory=ClusterClock)

    async def create(self, request: CreateRequest) -> CreatedToken:
        """One new token. Cancellation waits until this is over; each of its steps has a deadline of its own.

        Raises:
            DeliveryError: If the secret has no place to go; no token was made.
            Undelivered: If it had none after the token was made; the text tells whether that could be deleted again.
            JournalError: If the intent could not be written; nothing was asked.
            ClusterError: If the cluster declined, or could not be asked; no token was made.
            Unproved: If the new token lives too long or not at all, or is to replace another and does not work; the
                text tells whether it could be deleted again.
            UnknownOutcome: If the cluster may have made a token whose secret nobody has.
        """
        # A keyring may wait for a human here; nothing is begun yet, so that can be cancelled.
        reservation = await self.delivery.reserve()
        with shielded():
            intent, minted = await self._create(request, reservation)
        if minted.delivered.bearer_token is not None:
            try:
                await anyio.lowlevel.checkpoint_if_cancelled()
            except anyio.get_cancelled_exc_class():
                # The secret is nowhere but in an answer that nobody will get.
                with shielded():
                    await self._rollback_undelivered(request, minted.delivered.id, intent)
                raise
        return minted

    async def _create(self, request: CreateRequest, reservation: Reservation) -> tuple[JournalEntry, CreatedToken]:
        async with AsyncExitStack() as ending:
            async with AsyncExitStack() as unless_made:
                unless_made.push_async_callback(reservation.release)
                intent = await ending.enter_async_context(self._intend(request))
                new = await self._create_on_cluster(request, intent)
                unless_made.pop_all()
            try:
                delivered = await reservation.store(new, request.user)
            except DeliveryError as failure:
                raise Undelivered(f"{failure} {await self._rollback_undelivered(request, new.id, intent)}") from failure
            except Exception as crash:  # noqa: BLE001 - it is told and logged, and the token not forgotten
                _LOG.error("This server stumbled over a %s while it delivered a token", type(crash).__name__)
                told = "The new bearer token could not be delivered: this server stumbled."
                raise Undelivered(f"{told} {await self._rollback_undelivered(request, new.id, intent)}") from None
            try:
                found = await self._read_back(request, new.id)
            except _StrayAnswer as failure:
                raise await self._remove_and_explain_stray(request, delivered, intent, failure) from failure
            if found is not None and request.current_tokens is not None and request.may_be_for(found):
                self.clock.observe_creation(found.created, started=intent.time)
            flaw = self._find_lifetime_flaw(request, found) or await self._find_proof_failure(request, new)
            if flaw is not None:
                told = f"The new token {new.id} was made and delivered, but {flaw}"
                raise Unproved(f"{told} {await self._rollback_delivered(request, delivered, intent)}")
            unwritten = await self.journal.record_outcome(
                intent, "created", new.id, location=delivered.location, mentioned=request.settled_intents
            )
            return intent, CreatedToken(delivered, found, unwritten, self.clock.ahead)

    def _intend(self, request: CreateRequest) -> AbstractAsyncContextManager[JournalEntry]:
        if request.replaces is None:
            return self.journal.record_intent(str(request.user))
        return self.journal.record_intent(str(request.user), "rotate", replaces=request.replaces.id)

    async def _create_on_cluster(self, request: CreateRequest, intent: JournalEntry) -> NewAccessToken:
        try:
            return await self._post(request)
        except (BadAnswer, Unavailable, Unreachable) as failure:
            if isinstance(failure, Unsent):
                await self.journal.record_outcome(intent, "not created")
                raise
            raise await self._explain_unknown_outcome(request, intent, failure) from failure
        except ClusterError:
            await self.journal.record_outcome(intent, "not created")
            raise
        except Exception as crash:  # noqa: BLE001 - it is told and logged, and not forgotten
            # Whatever it was, the token may have been made, and that must not go unsaid.
            _LOG.error("This server stumbled over a %s while it asked for a token", type(crash).__name__)
            raise await self._explain_unknown_outcome(
                request, intent, BadAnswer("Its answer made this server stumble.")
            ) from None

    async def _post(self, request: CreateRequest) -> NewAccessToken:
        new = await self.cluster.create_token(request.user.as_minimal_identity(), request.expires)
        if request.is_preexisting(new.id):
            raise BadAnswer(f"The answer is about token {new.id}, which was there before.")
        return new

    async def _find_proof_failure(self, request: CreateRequest, new: NewAccessToken) -> str | None:
        """Why a token that is to replace another does not work, as itself and for its user; None if it does."""
        if request.replaces is None:
            return None
        try:
            caller = await self.cluster.verify_bearer(new.bearer_token)
        except Unauthenticated:
            failure = "The cluster does not accept it."
        except ClusterError as unproved:
            failure = str(unproved)
        else:
            if caller.access_token_id == new.id and caller.is_user(request.user):
                return None
            failure = (
                "The cluster does not tell the id of the token that a caller came with, so it could not be proved."
                if caller.is_unidentified_token and caller.is_user(request.user)
                else "With it, the cluster takes the caller for another user or another token."
            )
        return f"did not prove to work. {failure}"

    def _find_lifetime_flaw(self, request: CreateRequest, found: AccessToken | None) -> str | None:
        """Why a new token does not live as it may, by the cluster's own clock; None if it does, as far as is known."""
        if found is None:
            return None
        difference = render_clock_difference(self.clock.ahead)
        whose = f" by {difference}" if difference else ""
        if found.expires is not None and found.expires <= found.created:
            expired = format_time(found.expires)
            return f"it had expired at {expired}, before it was made at {format_time(found.created)}{whose}."
        if request.max_lifetime is not None and not _is_within_lifetime(found, request.max_lifetime):
            expires = "never expires" if found.expires is None else f"expires only {format_time(found.expires)}"
            made = f", made at {format_time(found.created)}{whose}" if difference else ""
            return f"it {expires}{made}, whatever it was asked for, and QUMULO_MAX_LIFETIME does not allow that."
        if request.lifetime is not None and found.expires == request.expires:
            return _find_surplus_lifetime(found, request.lifetime, whose)
        return None

    async def _rollback_delivered(self, request: CreateRequest, delivered: DeliveredToken, intent: JournalEntry) -> str:
        """Delete a token that is no good, first on the cluster, then where it was delivered; tell what came of that."""
        try:
            await self._delete_new(request, delivered.id)
        except _StrayAnswer as stray:
            return str(await self._remove_and_explain_stray(request, delivered, intent, stray))
        except ClusterError as second:
            await self.journal.record_outcome(intent, "undeletable", delivered.id, location=delivered.location)
            return (
                f"{render_undeleted('it', second)} It is in {delivered.location.render()}. "
                f"{self._render_delete_commands(delivered.id)}"
            )
        await self.journal.record_outcome(intent, "rolled back", delivered.id)
        try:
            await self.delivery.remove(delivered)
        except DeliveryError as second:
            left = f"What was delivered is still in {delivered.location.render()}, and of no use: {second}"
        else:
            left = "No token is left of this." if request.replaces is None else "The old token is as it was."
        return f"It was deleted again. {left}"

    async def _delete_new(self, request: CreateRequest, token_id: str) -> None:
        """Delete a token that was made just now, once it is known to be that, and look whether it is gone.

        Raises:
            _Stray: If it is not what was made.
            ClusterError: If it may still be there, also because it is not known to be new.
        """
        found = await self._read_created_or_listed(request, token_id)
        if not request.may_be_for(found):
            raise Unproved(f"the cluster says that it is of {found.user}, so it was not touched.")
        if request.current_tokens is None and not self._is_recent(found):
            raise Unproved(
                f"which tokens {request.user} had before is not known, so it could be one of those, and was "
                "not touched."
            )
        await delete_and_verify(self.cluster, token_id, request.user)

    async def _explain_unknown_outcome(
        self, request: CreateRequest, intent: JournalEntry, failure: ClusterError
    ) -> UnknownOutcome:
        """What became of a POST without a clear answer, told by the tokens that the user has now."""
        try:
            new, me = await self._read_new_tokens(request)
            made, is_being_made = await self.journal.get_concurrent_attempts(str(request.user), excluding=intent)
        except (ClusterError, JournalError) as second:
            await self.journal.record_outcome(intent, "unknown")
            return UnknownOutcome(
                f"{failure} It could not be found out whether a token was made for {request.user}: {second} "
                "Its bearer token would be lost. List the user's tokens before creating again."
            )
        new = [token for token in new if token.id not in made]
        suspects = [token for token in new if token.creator is None or me.may_be(token.creator)]
        # The cluster's clock is not ours, so a creation time only counts where it leaves somebody to suspect.
        begun = intent.time + self.clock.ahead - CLOCK_TOLERANCE
        recent = [token for token in suspects if token.created > begun]
        suspects = recent or suspects
        if not suspects:
            await self.journal.record_outcome(intent, "unknown")
            others = [f"{token.id} (made {format_time(token.created)} by {token.creator})" for token in new]
            seen = (
                f" is of this server, as far as can be seen: new are only {render_first_items(others)}."
                if others
                else " is there."
            )
            return UnknownOutcome(
                f"{failure} So far, no new token of {request.user}{seen} The cluster may still "
                "be at it, so list the user's tokens again before creating another."
            )
        is_clear = len(suspects) == 1 and not is_being_made
        await self.journal.record_outcome(intent, "unknown", suspects[0].id if is_clear else None)
        told = render_first_items([f"{token.id} (made {format_time(token.created)})" for token in suspects])
        rival = " Another call is making one for the same user just now; that may be it." if is_being_made else ""
        older = (
            " By its time it is older than what was asked for: unless the clocks differ, it was there before and may "
            "be in use."
            if not recent
            else ""
        )
        return UnknownOutcome(
            f"{failure} The cluster seems to have made a token all the same: {told} is new for {request.user}."
            f"{rival}{older} Unless somebody else made it just now, its bearer token is lost and nobody can use it. "
            "It was not touched. "
            f"{' '.join(self._render_delete_commands(token.id) for token in suspects[:MAX_ITEMS_SHOWN])}"
        )

    async def _read_new_tokens(self, request: CreateRequest) -> tuple[list[AccessToken], Identity]:
        """The user's tokens that were not there before, and who we are."""
        if request.current_tokens is None:
            raise BadAnswer("their tokens were not known before.")
        me = await self.cluster.who_am_i()
        now = await fetch_user_tokens(self.cluster, request.user)
        return [t for t in now if not request.is_preexisting(t.id) and t.id != me.access_token_id], me.identity

    async def _rollback_undelivered(self, request: CreateRequest, token_id: str, intent: JournalEntry) -> str:
        """Delete a token whose secret nobody has, and tell what came of that."""
        try:
            await self._delete_new(request, token_id)
        except _StrayAnswer as stray:
            return str(await self._explain_unknown_outcome(request, intent, stray))
        except ClusterError as second:
            await self.journal.record_outcome(intent, "undeletable", token_id)
            return (
                f"{render_undeleted(f'the new token {token_id}', second)} "
                f"Its bearer token is lost. {self._render_delete_commands(token_id)}"
            )
        await self.journal.record_outcome(intent, "rolled back", token_id)
        return f"The new token {token_id} was deleted again; no token is left of this."

    def _render_delete_commands(self, token_id: str) -> str:
        return f'To delete it: delete_access_token(id="{token_id}"), or by hand {self.qq.delete_token(token_id)}'

    async def _read_created(self, request: CreateRequest, token_id: str) -> AccessToken:
        """The token that the answer to a create told of.

        Raises:
            _Stray: If the cluster does not know it, or knows it as an older one of somebody else.
            ClusterError: If it cannot be read now.
        """
        try:
            found = await self.cluster.get_token(token_id)
        except NotFound as failure:
            listed = await self._read_listed(request, token_id)
            if listed is None:
                told = f"The answer was about token {token_id}, which the cluster does not know."
                raise _StrayAnswer(f"{told} {failure}") from None
            found = listed
        if not request.may_be_for(found) and not self._is_recent(found):
            raise _StrayAnswer(
                f"The answer was about token {token_id} of {found.user}, made {format_time(found.created)}, which was "
                "not asked for and was not touched: something in front of the cluster mixes up answers."
            )
        return found

    def _is_recent(self, token: AccessToken) -> bool:
        return abs(token.created - self.clock()) < CLOCK_TOLERANCE

    async def _read_created_or_listed(self, request: CreateRequest, token_id: str) -> AccessToken:
        """The same, by the list of the user's tokens where it cannot be read by itself."""
        try:
            return await self._read_created(request, token_id)
        except _StrayAnswer:
            raise
        except ClusterError as failure:
            listed = await self._read_listed(request, token_id)
            if listed is None:
                raise Unproved(f"{failure} It is not known to be new, and was not touched.") from failure
            return listed

    async def _read_listed(self, request: CreateRequest, token_id: str) -> AccessToken | None:
        """A token in the list of the user's; None if it is not there, or if there is no list."""
        try:
            tokens = await fetch_user_tokens(self.cluster, request.user)
        except ClusterError:
            return None
        return next((token for token in tokens if token.id == token_id), None)

    async def _read_back(self, request: CreateRequest, token_id: str) -> AccessToken | None:
        """The new token, to see whether the cluster did what was asked; None if it cannot be read now.

        Raises:
            _Stray: As `_read_created`.
        """
        try:
            return await self._read_created(request, token_id)
        except _StrayAnswer:
            raise
        except ClusterError:
            return None

    async def _remove_and_explain_stray(
        self, request: CreateRequest, delivered: DeliveredToken, intent: JournalEntry, stray: "_StrayAnswer"
    ) -> UnknownOutcome:
        """What became of a POST that was answered with another token, or with one that is gone again."""
        try:
            await self.delivery.remove(delivered)
        except DeliveryError as second:
            _LOG.warning("%s", second)
        return await self._explain_unknown_outcome(request, intent, stray)


class _StrayAnswer(BadAnswer):
    """The answer to a create is not about the token that was made."""


def _find_surplus_lifetime(found: AccessToken, lifetime: timedelta, whose: str) -> str | None:
    """Why a token that expires when it was asked to lives much longer than was meant; None if it does not."""
    if found.expires is None or _is_within_lifetime(found, lifetime + REQUESTED_LIFETIME_TOLERANCE):
        return None
    life = format_duration(found.expires - found.created)
    return f"made at {format_time(found.created)}{whose}, it would live {life} instead of {format_duration(lifetime)}."


def _is_within_lifetime(found: AccessToken, max_lifetime: timedelta) -> bool:
    return found.expires is not None and found.expires - found.created <= max_lifetime + MAX_LIFETIME_TOLERANCE
