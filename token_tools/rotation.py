"""What stands beside a token that is to be rotated: the one that was made for it before, or one that takes its place.

A rotate that is repeated goes on with what was begun, so whoever calls gets told what that is and which calls lead on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from token_tools.client import ClusterClient
from token_tools.delivery import Delivery
from token_tools.errors import Forbidden, NotFound, Refusal, Rejected, TokenToolsError
from token_tools.identity import Identity
from token_tools.journal import Entry, Journal
from token_tools.listing import read_user
from token_tools.minting import SLOTS, TOLERANCE
from token_tools.models import AccessToken
from token_tools.quotation import FEW
from token_tools.summary import tell_state, tell_steps
from token_tools.times import Clock, tell_time

_WITHDRAWN: Final = {"stranded", "deleted again"}
_NOWHERE: Final = "then nobody has its bearer token. It is nowhere that QUMULO_DELIVERY puts them now."


@dataclass(frozen=True)
class Beside:
    """What there is besides a token that can be rotated.

    `present` are all of its user's tokens, None if they could not be read, and `others` those besides it, as far as is
    known. `open_intents` are attempts for the same user of which the journal knows no outcome, and `earlier` is how the
    rotates of this token before ended.
    """

    present: Sequence[AccessToken] | None
    others: Sequence[AccessToken]
    open_intents: Sequence[Entry]
    earlier: Sequence[Entry]


@dataclass(frozen=True)
class Surveyor:
    """Where it is found out whether a token can be rotated."""

    cluster: ClusterClient
    delivery: Delivery
    journal: Journal
    clock: Clock

    async def survey(self, old: AccessToken, who: Identity) -> Beside:
        """What there is beside a token of this user.

        Raises:
            Refusal: If the token was rotated before and the new one is still there, or if another takes its place.
            ClusterError: If the cluster cannot be asked.
            DeliveryError: If the place of bearer tokens cannot be looked through.
            JournalError: If the journal cannot be read.
        """
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
        await self._refuse_repetition(old, others, earlier)
        beside = Beside(present, others, await self.journal.find_open(str(who)), earlier)
        await self._refuse_third(old, who, beside)
        return beside

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
        dead = " ".join(
            f"The other is {token.id}, made {tell_time(token.created)}, {tell_state(token.state, self.clock())}. "
            f"If nobody wants it back: {_tell_deletion(token.id)}."
            for token in beside.others[:FEW]
        )
        return Rejected(
            f"{failure} {who} has {len(beside.others) + 1:,} access tokens already, and disabled and expired ones seem "
            f"to count here. {dead}"
        )

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
        self, old: AccessToken, others: Sequence[AccessToken], earlier: Sequence[Entry]
    ) -> None:
        made = {token.id: token for token in others}
        for rotation in reversed(earlier):
            if rotation.token_id in made:
                raise Refusal(
                    f"Token {old.id} was rotated before, at {tell_time(rotation.time)}. "
                    f"{await self._tell_made(old, rotation, made[rotation.token_id])}"
                )

    async def _tell_made(self, old: AccessToken, rotation: Entry, new: AccessToken) -> str:
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
        return f"{made}, and its bearer token is in {place}. {tell_steps(old.id)}"

    async def _refuse_third(self, old: AccessToken, who: Identity, beside: Beside) -> None:
        # Whether disabled and expired tokens count is the cluster's to say.
        now = self.clock()
        live = [token for token in beside.others if who.covers(token.user) and token.is_live(now=now)]
        if live:
            told = [await self._tell_other(old, token, beside.open_intents) for token in live[:FEW]]
            raise Refusal(
                f"{who} has {len(live) + 1:,} access tokens already, as many as a user can have, so there is no place "
                f"for a new one. {' '.join(told)}"
            )

    async def _tell_other(self, old: AccessToken, token: AccessToken, open_intents: Sequence[Entry]) -> str:
        expires = "never expires" if token.expires is None else f"expires {tell_time(token.expires)}"
        other = f"The other is {token.id}, made {tell_time(token.created)}, which {expires}."
        begun = [intent for intent in open_intents if intent.time - token.created <= TOLERANCE]
        if not begun:
            return f"{other} {_tell_retirement(token.id)}"
        place = await self.delivery.find(token.id, None, {intent.user for intent in begun})
        attempt = (
            f"{other} An attempt that was begun at {tell_time(begun[-1].time)} and never finished may have made it;"
        )
        if place is None:
            return f"{attempt} {await self._tell_lost()} {_tell_retirement(token.id)}"
        goes_on = f" To go on with it: {tell_steps(old.id)}" if begun[-1].replaces == old.id else ""
        return (
            f"{attempt} its bearer token is in {place}, not proved to work yet.{goes_on} {_tell_retirement(token.id)}"
        )

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


def _tell_deletion(token_id: str) -> str:
    return f'delete_access_token(id="{token_id}"), then rotate again'


def _tell_retirement(token_id: str) -> str:
    return (
        f'If nothing uses it: update_access_token(id="{token_id}", enabled=false), watch, '
        f'delete_access_token(id="{token_id}"), and rotate again.'
    )
