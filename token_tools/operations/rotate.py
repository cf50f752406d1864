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
from token_tools.cluster.pagination import name_owner, read_user
from token_tools.errors import ClusterError, Forbidden, NotFound, Refusal, Rejected, TokenToolsError
from token_tools.operations.create import SLOTS
from token_tools.operations.unfinished import Inquirer, Memory, Unfinished, denotes, find_unfinished, tell_unfinished
from token_tools.quoting import FEW, tell_some
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Entry, Journal
from token_tools.times import tell_time
from token_tools.views.tokens import HAND_OVER, tell_life, tell_state, tell_steps

_WITHDRAWN: Final = {"stranded", "deleted again"}
A_PERSON: Final = (
    "Each of them works as far as is known, so a person has to say which can go: better disable that one first, and "
    "delete it once nothing breaks."
)
_NOWHERE: Final = "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now."


@dataclass(frozen=True)
class Beside:
    """What there is besides a token that can be rotated.

    `present` are all of its user's tokens, None if they could not be read, and `others` those besides it, as far as is
    known. `history` is what is unfinished for the same user, and `earlier` is how the rotates of this token before
    ended.
    """

    present: Sequence[AccessToken] | None
    others: Sequence[AccessToken]
    history: "History"
    earlier: Sequence[Entry]


@dataclass(frozen=True)
class History:
    """What the journal knows of attempts to make tokens for a user.

    `me` is who this server is, None if that does not matter or is not known. `unfinished` is what is open, and `tokens`
    are those that were looked at. `open_intents` are the intents to tell of: of what is unfinished, and of what nobody
    was told yet; `settled` are those that need not be told again.
    """

    memory: Memory
    me: Caller | None
    tokens: Sequence[AccessToken]
    unfinished: Sequence[Unfinished]
    open_intents: Sequence[Entry]
    settled: Sequence[Entry]


@dataclass(frozen=True)
class Surveyor:
    """Where it is found out whether a token can be rotated."""

    cluster: ClusterClient
    delivery: Delivery
    journal: Journal
    clock: ClusterClock

    @property
    def inquirer(self) -> Inquirer:
        """Where it is found out what is unfinished."""
        return Inquirer(self.delivery, self.journal, self.clock)

    async def find_me(self, memory: Memory) -> Caller | None:
        """Who this server is, None if that does not matter or is not known."""
        try:
            return await self.cluster.who_am_i() if memory.open else None
        except ClusterError:
            return None

    async def recall(self, who: Identity, present: Sequence[AccessToken] | None) -> History:
        """What is known of attempts for a user who has these tokens now, None if that is not known.

        Raises:
            JournalError: If the journal cannot be read.
        """
        memory = Memory(await self.journal.recall())
        theirs = [a for a in memory.open if a.is_making and not a.is_in_flight and denotes(a.intent.user, who)]
        tokens = [name_owner(token, who) for token in present or ()]
        me = await self.find_me(memory)
        found = await self.inquirer.look(memory, tokens, me=me)
        unfinished = [each for each in found if each.attempt.is_making]
        open_ids = {each.attempt.intent.attempt for each in unfinished}
        told = [a.intent for a in reversed(theirs) if a.intent.attempt in open_ids or not a.is_settled]
        settled = [intent for intent in told if intent.attempt not in open_ids]
        return History(memory, me, tokens, unfinished, told, settled)

    async def check_slots(self, who: Identity, history: History) -> None:
        """Nothing if a user has a place for another token, as far as is known.

        Raises:
            Refusal: If there is none: which tokens are there, what is the matter with each, and which of them can go.
        """
        # Whether disabled and expired tokens count is the cluster's to say.
        live = [token for token in history.tokens if who.covers(token.user) and token.is_live(now=self.clock())]
        if len(live) >= SLOTS:
            raise Refusal(
                f"{who} has {len(live):,} access tokens already, as many as a user can have: {self._tell_all(live)}. "
                f"{self._tell_way_out(live, history)}"
            )

    async def explain_creation(self, who: Identity, failure: Rejected) -> Exception:
        """What a cluster most likely means that declined to make a token for a user."""
        try:
            history = await self.recall(who, await read_user(self.cluster, who))
            await self.check_slots(who, history)
        except Refusal as refusal:
            return refusal
        except TokenToolsError:
            return failure
        if len(history.tokens) < SLOTS:
            return failure
        return Rejected(
            f"{failure} {who} has {self._tell_all(history.tokens)} already, and a user can have {SLOTS} tokens, "
            f"disabled and expired ones included. {self._tell_way_out(history.tokens, history)}"
        )

    def _tell_all(self, tokens: Sequence[AccessToken]) -> str:
        return tell_some([f"{token.id} ({tell_life(token, self.clock())})" for token in tokens])

    def _tell_way_out(self, tokens: Sequence[AccessToken], history: History) -> str:
        """Which token can go, as far as is known: what nobody can use before what is dead, and never what works."""
        if history.unfinished:
            return " ".join(tell_unfinished(history.unfinished, self.clock))
        dead = [token for token in tokens if not token.is_live(now=self.clock())]
        return " ".join(self._tell_dead(token, history.memory) for token in dead[:FEW]) or A_PERSON

    def _tell_dead(self, token: AccessToken, memory: Memory) -> str:
        deletion = f'delete_access_token(id="{token.id}")'
        if token.is_expired(now=self.clock()):
            return f"{token.id} has expired; if nobody wants it back: {deletion}."
        since = memory.disabled_since.get(token.id)
        known = f"at {tell_time(since)} by this server" if since else "since when is not known here"
        return f"{token.id} is disabled ({known}); once it is sure that nobody wants it back: {deletion}."

    async def survey(self, old: AccessToken, who: Identity, hand_over: str = HAND_OVER) -> Beside:
        """What there is beside a token of this user; `hand_over` is the first step to a successor that is there.

        Raises:
            Refusal: If the token was rotated before and the new one is still there, or if another takes its place.
            ClusterError: If the cluster cannot be asked.
            DeliveryError: If the place of bearer tokens cannot be looked through.
            JournalError: If the journal cannot be read.
        """
        await self._refuse_rivalry(old)
        # The journal first: what it knows of by then is on the list, and what it does not will be seen as new.
        earlier = await self.journal.find_rotations(old.id)
        try:
            present = await read_user(self.cluster, who)
        except (Forbidden, NotFound, Rejected):
            present = None
        others = [token for token in present or () if token.id != old.id]
        if old.id not in {token.id for token in present or ()}:
            # A list that does not have this token may lack its successors too, and tells nothing of what is new.
            present = None
            others += await self._find_made(earlier, known={token.id for token in others})
        await self._refuse_repetition(old, others, earlier, hand_over)
        beside = Beside(present, others, await self._recall_beside(old, who, present, others), earlier)
        await self._refuse_third(old, who, beside)
        return beside

    async def _recall_beside(
        self, old: AccessToken, who: Identity, present: Sequence[AccessToken] | None, others: Sequence[AccessToken]
    ) -> History:
        history = await self.recall(who, present)
        return history if present is not None else replace(history, tokens=[old, *others])

    async def _refuse_rivalry(self, old: AccessToken) -> None:
        # Within one process, whoever rotates a token holds a lock.
        at_work = [a.intent for a in await self.journal.recall() if a.is_in_flight and a.intent.replaces == old.id]
        if at_work:
            raise Refusal(
                f"Token {old.id} is just being rotated by another server of this user, since "
                f"{tell_time(at_work[-1].time)}. Wait until that has ended, and look at the user's "
                "tokens then: what is new among them is what it makes."
            )

    async def explain(self, old: AccessToken, who: Identity, failure: Rejected) -> Exception:
        """What a cluster most likely means that declined to make a second token."""
        try:
            beside = await self.survey(old, who)
        except Refusal as refusal:
            return refusal
        except TokenToolsError:
            return failure
        if beside.present is None and not beside.others:
            return Rejected(f"{failure} The user's tokens cannot be listed; a user can have {SLOTS}.")
        if not beside.others:
            return failure
        return Rejected(
            f"{failure} {who} has {len(beside.others) + 1:,} access tokens already, and disabled and expired ones seem "
            f"to count here. {self._tell_others(beside)}"
        )

    def _tell_others(self, beside: Beside) -> str:
        others = [
            f"The other is {token.id}, made {tell_time(token.created)}, {tell_state(token.state, self.clock())}."
            for token in beside.others[:FEW]
        ]
        return " ".join([*others, self._tell_way_out(beside.others, beside.history)])

    async def _find_made(self, earlier: Sequence[Entry], *, known: set[str]) -> list[AccessToken]:
        """The tokens that earlier rotates made, each looked at by itself."""
        found: list[AccessToken] = []
        for token_id in sorted({entry.token_id for entry in earlier if entry.token_id} - known):
            try:
                found.append(await self.cluster.get_token(token_id))
            except NotFound:
                continue
        return found

    async def _refuse_repetition(
        self, old: AccessToken, others: Sequence[AccessToken], earlier: Sequence[Entry], hand_over: str
    ) -> None:
        made = {token.id: token for token in others}
        for rotation in reversed(earlier):
            if rotation.token_id in made:
                raise Refusal(
                    f"Token {old.id} was rotated before, at {tell_time(rotation.time)}. "
                    f"{await self._tell_made(old, rotation, made[rotation.token_id], hand_over)}"
                )

    async def _tell_made(self, old: AccessToken, rotation: Entry, new: AccessToken, hand_over: str) -> str:
        """What an earlier rotate made, what is the matter with it, and how to go on."""
        now = self.clock()
        state = f"it is {tell_state(new.state, now)}"
        if rotation.result in _WITHDRAWN:
            flaw = "its bearer token is lost" if rotation.place is None else "it did not prove to work"
            return f"The new token {new.id} is no good: {flaw}, and it could not be deleted. {_tell_deletion(new.id)}."
        if rotation.result == "unknown":
            return (
                f"No clear answer came then; the new token seems to be {new.id}, {state}. Unless somebody else made it "
                f"at that time, its bearer token is lost. {_tell_retirement(new.id)}"
            )
        made = f"The new token is {new.id}; {state}"
        place = await self.delivery.find(new.id, rotation.place, [rotation.user])
        if not new.is_live(now=now):
            return f"{made}. It does not work like that: {_tell_deletion(new.id)}."
        if place is None:
            return (
                f"{made}, but its bearer token is no longer in {rotation.place}.{await self._tell_nameless()} Unless "
                f"that was moved to where it is used: {_tell_deletion(new.id)}."
            )
        return f"{made}, and its bearer token is in {place}. {tell_steps(old, self.clock(), hand_over)}"

    async def _refuse_third(self, old: AccessToken, who: Identity, beside: Beside) -> None:
        # Whether disabled and expired tokens count is the cluster's to say.
        now = self.clock()
        live = [token for token in beside.others if who.covers(token.user) and token.is_live(now=now)]
        if live:
            told = [await self._tell_other(old, token, beside.history) for token in live[:FEW]]
            known = [known for _, known in told if known is not None]
            raise Refusal(
                f"{who} has {len(live) + 1:,} access tokens already, as many as a user can have, so there is no place "
                f"for a new one. {' '.join([*(other for other, _ in told), *(known or [A_PERSON])])}"
            )

    async def _tell_other(self, old: AccessToken, token: AccessToken, history: History) -> tuple[str, str | None]:
        """Which token it is, and what leads on, None if nothing is known but that it works."""
        expires = "never expires" if token.expires is None else f"expires {tell_time(token.expires)}"
        other = f"The other is {token.id}, made {tell_time(token.created)}, which {expires}."
        begun = [
            each
            for each in find_unfinished(history.memory, history.tokens, me=history.me, ahead=self.clock.ahead)
            if each.attempt.is_making and token.id in {suspect.id for suspect in each.suspects}
        ]
        if not begun:
            return other, " ".join(tell_unfinished(history.unfinished, self.clock)) or None
        latest = begun[0]
        if latest.attempt.is_in_flight or latest.attempt.outcome == "stranded":
            return other, " ".join(tell_unfinished([latest], self.clock))
        return other, await self._tell_suspect(old, token, latest)

    async def _tell_suspect(self, old: AccessToken, token: AccessToken, unfinished: Unfinished) -> str:
        """What is known of a token that an attempt may have made which never came to its end."""
        intent = unfinished.attempt.intent
        place = await self.delivery.find(token.id, None, {intent.user, str(token.user)})
        attempt = f"An attempt that was begun at {tell_time(intent.time)} and never finished may have made it;"
        if place is None:
            return f"{attempt} {await self._tell_lost()} {_tell_retirement(token.id)}"
        # Only one way: whoever followed the calls of going on and of going back would stop both tokens.
        leads_on = (
            f"To go on with it: {tell_steps(old, self.clock())}"
            if intent.replaces == old.id
            else _tell_retirement(token.id)
        )
        return f"{attempt} its bearer token is in {place}, not proved to work yet. {leads_on}"

    async def _tell_lost(self) -> str:
        """What is known of a bearer token that nothing tells the place of."""
        nameless = await self._tell_nameless()
        return f"where its bearer token is, nothing tells for sure.{nameless}" if nameless else _NOWHERE

    async def _tell_nameless(self) -> str:
        """Where it may be all the same."""
        paths = await self.delivery.find_nameless()
        if not paths:
            return ""
        told = (
            f"{paths[0]}"
            if len(paths) == 1
            else f"one of the {len(paths)} files {paths[0].with_name('recovered-*.json')}"
        )
        return f" It may be in {told}, which a killed server left and which does not tell whose it is."


def explain_lost_user(old: AccessToken, who: Identity, now: datetime) -> Refusal:
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


def _tell_deletion(token_id: str) -> str:
    return f'delete_access_token(id="{token_id}"), then rotate again'


def _tell_retirement(token_id: str) -> str:
    return (
        f'If nothing uses it: update_access_token(id="{token_id}", enabled=false), watch, '
        f'delete_access_token(id="{token_id}"), and rotate again.'
    )
