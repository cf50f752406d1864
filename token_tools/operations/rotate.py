"""What stands beside a token that is to be rotated: the one that was made for it before, or one that takes its place.

A rotate that is repeated goes on with what was begun, so whoever calls gets told what that is and which calls lead on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, Caller
from token_tools.cluster.pagination import fetch_user_tokens, merge_user
from token_tools.errors import Forbidden, NotFound, Refusal, Rejected, TokenToolsError
from token_tools.operations.create import MAX_TOKENS_PER_USER
from token_tools.operations.unfinished import (
    JournalHistory,
    Unfinished,
    UnfinishedFinder,
    find_unfinished,
    may_denote,
    read_caller,
    render_unfinished,
)
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Journal, JournalEntry
from token_tools.times import format_time
from token_tools.views.tokens import HAND_OVER_STEP, render_lifetime, render_state, render_steps

_FAILED_OUTCOMES: Final = {"undeletable", "rolled back"}
PERSON_DECIDES: Final = (
    "Each of them works as far as is known, so a person has to say which can go: better disable that one first, and "
    "delete it once nothing breaks."
)
_NO_LOCATION: Final = "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now."


@dataclass(frozen=True)
class ExistingTokens:
    """What there is besides a token that can be rotated.

    `current_tokens` are all of its user's tokens, None if they could not be read, and `other_tokens` those besides it,
    as far as is known. `history` is what is unfinished for the same user, and `earlier_rotations` is how the rotates of
    this token before ended.
    """

    current_tokens: Sequence[AccessToken] | None
    other_tokens: Sequence[AccessToken]
    history: "UserHistory"
    earlier_rotations: Sequence[JournalEntry]


@dataclass(frozen=True)
class UserHistory:
    """What the journal knows of attempts to make tokens for a user.

    `me` is who this server is, None if that does not matter or is not known. `unfinished` is what is open, and `tokens`
    are those that were looked at. `open_intents` are the intents to tell of: of what is unfinished, and of what nobody
    was told yet; `settled_intents` are those that need not be told again.
    """

    journal_history: JournalHistory
    me: Caller | None
    tokens: Sequence[AccessToken]
    unfinished: Sequence[Unfinished]
    open_intents: Sequence[JournalEntry]
    settled_intents: Sequence[JournalEntry]


@dataclass(frozen=True)
class Preflight:
    """Where it is found out whether a token can be rotated."""

    cluster: ClusterClient
    delivery: Delivery
    journal: Journal
    clock: ClusterClock

    @property
    def unfinished_finder(self) -> UnfinishedFinder:
        """Where it is found out what is unfinished."""
        return UnfinishedFinder(self.delivery, self.journal, self.clock)

    async def get_user_history(self, who: Identity, current_tokens: Sequence[AccessToken] | None) -> UserHistory:
        """What is known of attempts for a user who has these tokens now, None if that is not known.

        Raises:
            JournalError: If the journal cannot be read.
        """
        memory = JournalHistory(await self.journal.list_attempts())
        theirs = [
            a for a in memory.open_attempts if a.is_creating and not a.is_in_flight and may_denote(a.intent.user, who)
        ]
        tokens = [merge_user(token, who) for token in current_tokens or ()]
        me = await read_caller(self.cluster, memory)
        found = await self.unfinished_finder.locate_unfinished(memory, tokens, me=me)
        unfinished = [each for each in found if each.attempt.is_creating]
        open_ids = {each.attempt.intent.attempt for each in unfinished}
        told = [a.intent for a in reversed(theirs) if a.intent.attempt in open_ids or not a.is_settled]
        settled = [intent for intent in told if intent.attempt not in open_ids]
        return UserHistory(memory, me, tokens, unfinished, told, settled)

    async def check_token_limit(self, who: Identity, history: UserHistory) -> None:
        """Nothing if a user has a place for another token, as far as is known.

        Raises:
            Refusal: If there is none: which tokens are there, what is the matter with each, and which of them can go.
        """
        # Whether disabled and expired tokens count is the cluster's to say.
        live = [token for token in history.tokens if who.may_be(token.user) and token.is_live(now=self.clock())]
        if len(live) >= MAX_TOKENS_PER_USER:
            raise Refusal(
                f"{who} has {len(live):,} access tokens already, as many as a user can have: "
                f"{self._render_tokens(live)}. "
                f"{self._render_way_out(live, history)}"
            )

    async def explain_rejected_create(self, who: Identity, failure: Rejected) -> Exception:
        """What a cluster most likely means that declined to make a token for a user."""
        try:
            history = await self.get_user_history(who, await fetch_user_tokens(self.cluster, who))
            await self.check_token_limit(who, history)
        except Refusal as refusal:
            return refusal
        except TokenToolsError:
            return failure
        if len(history.tokens) < MAX_TOKENS_PER_USER:
            return failure
        return Rejected(
            f"{failure} {who} has {self._render_tokens(history.tokens)} already, and a user can have "
            f"{MAX_TOKENS_PER_USER} tokens, "
            f"disabled and expired ones included. {self._render_way_out(history.tokens, history)}"
        )

    def _render_tokens(self, tokens: Sequence[AccessToken]) -> str:
        return render_first_items([f"{token.id} ({render_lifetime(token, self.clock())})" for token in tokens])

    def _render_way_out(self, tokens: Sequence[AccessToken], history: UserHistory) -> str:
        """Which token can go, as far as is known: what nobody can use before what is dead, and never what works."""
        if history.unfinished:
            return " ".join(render_unfinished(history.unfinished, self.clock))
        dead = [token for token in tokens if not token.is_live(now=self.clock())]
        return (
            " ".join(self._render_dead_token(token, history.journal_history) for token in dead[:MAX_ITEMS_SHOWN])
            or PERSON_DECIDES
        )

    def _render_dead_token(self, token: AccessToken, journal_history: JournalHistory) -> str:
        deletion = f'delete_access_token(id="{token.id}")'
        if token.is_expired(now=self.clock()):
            return f"{token.id} has expired; if nobody wants it back: {deletion}."
        since = journal_history.disabled_since.get(token.id)
        known = f"at {format_time(since)} by this server" if since else "since when is not known here"
        return f"{token.id} is disabled ({known}); once it is sure that nobody wants it back: {deletion}."

    async def collect_existing_tokens(
        self, old: AccessToken, who: Identity, hand_over: str = HAND_OVER_STEP
    ) -> ExistingTokens:
        """What there is beside a token of this user; `hand_over` is the first step to a successor that is there.

        Raises:
            Refusal: If the token was rotated before and the new one is still there, or if another takes its place.
            ClusterError: If the cluster cannot be asked.
            DeliveryError: If the place of bearer tokens cannot be looked through.
            JournalError: If the journal cannot be read.
        """
        await self._check_no_concurrent_rotation(old)
        # The journal first: what it knows of by then is on the list, and what it does not will be seen as new.
        earlier = await self.journal.list_rotations(old.id)
        try:
            present = await fetch_user_tokens(self.cluster, who)
        except (Forbidden, NotFound, Rejected):
            present = None
        others = [token for token in present or () if token.id != old.id]
        if old.id not in {token.id for token in present or ()}:
            # A list that does not have this token may lack its successors too, and tells nothing of what is new.
            present = None
            others += await self._read_successors(earlier, known={token.id for token in others})
        await self._check_not_rotated_before(old, others, earlier, hand_over)
        beside = ExistingTokens(present, others, await self._get_rotation_history(old, who, present, others), earlier)
        await self._check_room_for_second(old, who, beside)
        return beside

    async def _get_rotation_history(
        self,
        old: AccessToken,
        who: Identity,
        current_tokens: Sequence[AccessToken] | None,
        others: Sequence[AccessToken],
    ) -> UserHistory:
        history = await self.get_user_history(who, current_tokens)
        return history if current_tokens is not None else replace(history, tokens=[old, *others])

    async def _check_no_concurrent_rotation(self, old: AccessToken) -> None:
        # Within one process, whoever rotates a token holds a lock.
        at_work = [
            a.intent for a in await self.journal.list_attempts() if a.is_in_flight and a.intent.replaces == old.id
        ]
        if at_work:
            raise Refusal(
                f"Token {old.id} is just being rotated by another server of this user, since "
                f"{format_time(at_work[-1].time)}. Wait until that has ended, and look at the user's "
                "tokens then: what is new among them is what it makes."
            )

    async def explain_rejected_rotate(self, old: AccessToken, who: Identity, failure: Rejected) -> Exception:
        """What a cluster most likely means that declined to make a second token."""
        try:
            beside = await self.collect_existing_tokens(old, who)
        except Refusal as refusal:
            return refusal
        except TokenToolsError:
            return failure
        if beside.current_tokens is None and not beside.other_tokens:
            return Rejected(f"{failure} The user's tokens cannot be listed; a user can have {MAX_TOKENS_PER_USER}.")
        if not beside.other_tokens:
            return failure
        return Rejected(
            f"{failure} {who} has {len(beside.other_tokens) + 1:,} access tokens already, and disabled and "
            "expired ones seem "
            f"to count here. {self._render_others(beside)}"
        )

    def _render_others(self, existing: ExistingTokens) -> str:
        others = [
            f"The other is {token.id}, made {format_time(token.created)}, {render_state(token.state, self.clock())}."
            for token in existing.other_tokens[:MAX_ITEMS_SHOWN]
        ]
        return " ".join([*others, self._render_way_out(existing.other_tokens, existing.history)])

    async def _read_successors(self, earlier: Sequence[JournalEntry], *, known: set[str]) -> list[AccessToken]:
        """The tokens that earlier rotates made, each looked at by itself."""
        found: list[AccessToken] = []
        for token_id in sorted({entry.token_id for entry in earlier if entry.token_id} - known):
            try:
                found.append(await self.cluster.get_token(token_id))
            except NotFound:
                continue
        return found

    async def _check_not_rotated_before(
        self, old: AccessToken, others: Sequence[AccessToken], earlier: Sequence[JournalEntry], hand_over: str
    ) -> None:
        made = {token.id: token for token in others}
        for rotation in reversed(earlier):
            if rotation.token_id in made:
                raise Refusal(
                    f"Token {old.id} was rotated before, at {format_time(rotation.time)}. "
                    f"{await self._render_earlier_rotation(old, rotation, made[rotation.token_id], hand_over)}"
                )

    async def _render_earlier_rotation(
        self, old: AccessToken, rotation: JournalEntry, new: AccessToken, hand_over: str
    ) -> str:
        """What an earlier rotate made, what is the matter with it, and how to go on."""
        now = self.clock()
        state = f"it is {render_state(new.state, now)}"
        if rotation.result in _FAILED_OUTCOMES:
            flaw = "its bearer token is lost" if rotation.location is None else "it did not prove to work"
            return (
                f"The new token {new.id} is no good: {flaw}, and it could not be deleted. "
                f"{_render_delete_and_rotate(new.id)}."
            )
        if rotation.result == "unknown":
            return (
                f"No clear answer came then; the new token seems to be {new.id}, {state}. Unless somebody else made it "
                f"at that time, its bearer token is lost. {_render_retirement(new.id)}"
            )
        made = f"The new token is {new.id}; {state}"
        location = await self.delivery.locate(new.id, rotation.location, [rotation.user])
        if not new.is_live(now=now):
            return f"{made}. It does not work like that: {_render_delete_and_rotate(new.id)}."
        if location is None:
            recorded = rotation.location.render() if rotation.location else "the place where it was put"
            return (
                f"{made}, but its bearer token is no longer in "
                f"{recorded}.{await self._render_unattributed_files()} Unless "
                f"that was moved to where it is used: {_render_delete_and_rotate(new.id)}."
            )
        return f"{made}, and its bearer token is in {location.render()}. {render_steps(old, self.clock(), hand_over)}"

    async def _check_room_for_second(self, old: AccessToken, who: Identity, existing: ExistingTokens) -> None:
        # Whether disabled and expired tokens count is the cluster's to say.
        now = self.clock()
        live = [token for token in existing.other_tokens if who.may_be(token.user) and token.is_live(now=now)]
        if live:
            told = [await self._render_other(old, token, existing.history) for token in live[:MAX_ITEMS_SHOWN]]
            known = [known for _, known in told if known is not None]
            raise Refusal(
                f"{who} has {len(live) + 1:,} access tokens already, as many as a user can have, so there is no place "
                f"for a new one. {' '.join([*(other for other, _ in told), *(known or [PERSON_DECIDES])])}"
            )

    async def _render_other(self, old: AccessToken, token: AccessToken, history: UserHistory) -> tuple[str, str | None]:
        """Which token it is, and what leads on, None if nothing is known but that it works."""
        expires = "never expires" if token.expires is None else f"expires {format_time(token.expires)}"
        other = f"The other is {token.id}, made {format_time(token.created)}, which {expires}."
        begun = [
            each
            for each in find_unfinished(
                history.journal_history, history.tokens, me=history.me, clock_ahead=self.clock.ahead
            )
            if each.attempt.is_creating and token.id in {suspect.id for suspect in each.suspects}
        ]
        if not begun:
            return other, " ".join(render_unfinished(history.unfinished, self.clock)) or None
        latest = begun[0]
        if latest.attempt.is_in_flight or latest.attempt.outcome == "undeletable":
            return other, " ".join(render_unfinished([latest], self.clock))
        return other, await self._render_suspect(old, token, latest)

    async def _render_suspect(self, old: AccessToken, token: AccessToken, unfinished: Unfinished) -> str:
        """What is known of a token that an attempt may have made which never came to its end."""
        intent = unfinished.attempt.intent
        location = await self.delivery.locate(token.id, None, {intent.user, str(token.user)})
        attempt = f"An attempt that was begun at {format_time(intent.time)} and never finished may have made it;"
        if location is None:
            return f"{attempt} {await self._render_lost_location()} {_render_retirement(token.id)}"
        # Only one way: whoever followed the calls of going on and of going back would stop both tokens.
        leads_on = (
            f"To go on with it: {render_steps(old, self.clock())}"
            if intent.replaces == old.id
            else _render_retirement(token.id)
        )
        return f"{attempt} its bearer token is in {location.render()}, not proved to work yet. {leads_on}"

    async def _render_lost_location(self) -> str:
        """What is known of a bearer token that nothing tells the place of."""
        nameless = await self._render_unattributed_files()
        return f"where its bearer token is, nothing tells for sure.{nameless}" if nameless else _NO_LOCATION

    async def _render_unattributed_files(self) -> str:
        """Where it may be all the same."""
        paths = await self.delivery.list_unidentified_files()
        if not paths:
            return ""
        told = (
            f"{paths[0]}"
            if len(paths) == 1
            else f"one of the {len(paths)} files {paths[0].with_name('recovered-*.json')}"
        )
        return f" It may be in {told}, which a killed server left and which does not tell whose it is."


def explain_missing_user(old: AccessToken, who: Identity, now: datetime) -> Refusal:
    """Why a token whose user the cluster does not know cannot be rotated."""
    rest = (
        f'To let nobody use it: update_access_token(id="{old.id}", enabled=false).'
        if old.is_live(now=now)
        else "It does not work as it is."
    )
    return Refusal(f"The cluster does not know {who}, the user of token {old.id}: there is nothing to rotate. {rest}")


def explain_unprovable(who: Identity) -> Refusal:
    """Why no token is rotated on a cluster that does not tell with which one a caller came."""
    user = json.dumps(str(who), ensure_ascii=False)
    return Refusal(
        "The cluster does not tell which access token a caller comes with, so a new one could not be proved to work, "
        "and would be deleted again. If a person wants a second one without that proof: "
        f"create_access_token(user={user})."
    )


def _render_delete_and_rotate(token_id: str) -> str:
    return f'delete_access_token(id="{token_id}"), then rotate again'


def _render_retirement(token_id: str) -> str:
    return (
        f'If nothing uses it: update_access_token(id="{token_id}", enabled=false), watch, '
        f'delete_access_token(id="{token_id}"), and rotate again.'
    )
