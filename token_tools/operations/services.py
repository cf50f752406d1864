"""What is asked of this server, as the steps that the cluster needs for it. Their order is what makes them safe."""

import re
from collections.abc import Awaitable, Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final, Literal, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from pydantic import SecretStr

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import HOW_TO_WRITE_A_USER, SELF, Identity, bare_name, tell_name
from token_tools.cluster.models import AccessToken, State
from token_tools.cluster.pagination import Part, name_owner, read_all, read_part, read_user
from token_tools.cluster.responses import READ, WRITE
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    Forbidden,
    NotFound,
    PastExpiry,
    Refusal,
    Rejected,
    SettingsError,
    Unauthenticated,
)
from token_tools.operations.audit import FEW, Audit, Example, Finding, UserKey, key_of
from token_tools.operations.audit_export import Format, open_report
from token_tools.operations.consent import OpenQuestions, Plan
from token_tools.operations.create import Mint, Order
from token_tools.operations.plans import (
    Creation,
    CreationPlan,
    Deletion,
    DeletionPlan,
    Listing,
    Portrait,
    Review,
    Rotation,
    RotationPlan,
    Update,
    UpdatePlan,
)
from token_tools.operations.policy import Policy, is_built_in
from token_tools.operations.rotate import Surveyor, explain_lost_user, explain_unprovable
from token_tools.operations.unfinished import Memory, Unfinished, list_lost, tell_unfinished
from token_tools.operations.update import Editor, explain_absence
from token_tools.storage.journal import Journal
from token_tools.times import names_lifetime
from token_tools.views.tokens import HAND_OVER, tell_hand_over

EVERYBODY: Final = " Without `user`, everybody's tokens are listed."

MOST_CONCERNED: Final = 8
"""How many users without a name are looked up for what is unfinished."""

CERTAINLY: Final = timedelta(days=1)
"""Whatever the clocks say, nobody runs on a token that expired so long ago."""

_NOT_WHOLE: Final = "The list is not whole: it lacks the access token that this server itself runs on."

User = Identity | Literal["self"]
Progress = Callable[[int], Awaitable[None]]
Some = TypeVar("Some", bound=Plan)


class UpdateRequest(NamedTuple):
    """What an update was asked for; None leaves a thing as it is."""

    token_id: str
    enabled: bool | None
    expiration_time: str | None


class Own(NamedTuple):
    """What a server runs on: the id of its access token, None if it has none or that is not known.

    `is_token` is None where nothing of it is known, and `doubts` say what is not. `is_unnamed` says that the cluster
    does not tell which token it is, and `may_write` whether it may change what is everybody's, as far as is known.
    """

    token_id: str | None
    is_token: bool | None
    doubts: Sequence[str]
    is_unnamed: bool = False
    may_write: bool = True

    def may_be_all(self, audit: Audit) -> bool:
        """Whether what an audit saw can be all tokens of the cluster: those have the server's own among them."""
        return audit.has_own if self.token_id is not None else audit.total > 0 or self.is_token is False


@dataclass(frozen=True)
class Workflows:
    """Everything that one server works with.

    `address` is the cluster's, for telling; `credential` tells where the server has its own bearer token from, and
    `read_bearer` gives it as it is there now.
    `patience` is how long a human has for an answer while a call waits for it. Reports go to `folder`. `rotating` has a
    lock for each token that is being rotated.
    """

    address: str
    credential: str
    cluster: ClusterClient
    policy: Policy
    mint: Mint
    journal: Journal
    folder: Path
    clock: ClusterClock
    read_bearer: Callable[[], SecretStr]
    read_only: bool = False
    patience: timedelta = timedelta(minutes=5)
    questions: OpenQuestions = field(default_factory=OpenQuestions)
    rotating: WeakValueDictionary[str, anyio.Lock] = field(default_factory=WeakValueDictionary[str, anyio.Lock])

    async def list_tokens(self, user: User | None, *, after: str | None, limit: int) -> Listing:
        """A page of tokens, in the cluster's order: everybody's, or one user's.

        Raises:
            ClusterError: If the cluster cannot be asked or does not know the user.
        """
        if user is None:
            part = await self._read_everybody(after, limit)
            doubts = await self._doubt_emptiness(part) if after is None else ()
            doubts = [*doubts, *await self._tell_unfinished(part.tokens)]
            return Listing(part.tokens, self.clock(), after=part.after, ahead=self.clock.ahead, doubts=doubts)
        who, doubt = await self._identify(user)
        try:
            part = await read_part(self.cluster, user=who, after=after, limit=limit)
        except (NotFound, Rejected) as failure:
            if isinstance(doubt, NotFound | Rejected):
                raise _tell_nobody(user, who, doubt, EVERYBODY) from failure
            raise _tell_unlisted(who, doubt, failure, after) from failure
        if not part.tokens and isinstance(doubt, NotFound | Rejected):
            # The filter drops the domain, so what it finds may be a namesake: nobody is no user without tokens.
            raise _tell_nobody(user, who, doubt, EVERYBODY)
        tokens = [name_owner(token, who) for token in part.tokens]
        return Listing(
            tokens,
            self.clock(),
            user=who,
            after=part.after,
            foreign=part.foreign,
            ahead=self.clock.ahead,
            doubts=await self._tell_unfinished(tokens),
        )

    async def _tell_unfinished(self, tokens: Sequence[AccessToken]) -> Sequence[str]:
        """What is unfinished about these tokens, as far as the journal can be read."""
        inquirer = self._surveyor.inquirer
        memory = await inquirer.recall()
        unfinished = await inquirer.look(memory, tokens, me=await self._surveyor.find_me(memory))
        return [*tell_unfinished(unfinished, self.clock), *filter(None, [memory.doubt])]

    async def _doubt_emptiness(self, part: Part) -> Sequence[str]:
        """What there is to say about a list of everybody's tokens that has none although this server runs on one."""
        if part.tokens or part.after is not None:
            return ()
        own = await self._find_own()
        return [_NOT_WHOLE] if own.is_token else []

    async def _read_everybody(self, after: str | None, limit: int) -> Part:
        try:
            return await read_part(self.cluster, after=after, limit=limit)
        except Rejected as failure:
            raise Rejected(f"{failure}{_tell_key(after)}") from failure

    async def get_token(self, token_id: str) -> Portrait:
        """One token, its user's others, and whether it is the server's own.

        Raises:
            ClusterError: If the token itself cannot be read.
        """
        token = await self._get(token_id)
        doubts: list[str] = []
        is_own = others = None
        try:
            is_own = await self._is_own(token)
            if is_own is None:
                doubts.append(
                    "Whether this server runs on it is not known: the cluster does not tell which access token the "
                    "server's credential is."
                )
        except ClusterError as failure:
            doubts.append(f"Whether this server runs on it is not known: {failure}")
        try:
            others = [other for other in await read_user(self.cluster, token.user) if other.id != token.id]
        except (ClusterError, Refusal) as failure:
            doubts.append(f"The user's other tokens are not known: {failure}")
        theirs = [name_owner(each, token.user) for each in [token, *(others or ())]]
        doubts += await self._tell_unfinished(theirs)
        return Portrait(token, self.clock(), is_own, others, doubts, self.clock.ahead)

    async def plan_creation(self, user: User, expiration_time: str | None) -> CreationPlan:
        """What a create would do; nothing is changed by finding out. While a human is asked, it stays the same plan.

        Raises:
            Refusal: If a rule forbids it.
            ClusterError: If the cluster cannot be asked.
            JournalError: If the journal cannot be read.
        """
        request = ("create", user, expiration_time)
        return await self._recall_or_plan(
            CreationPlan, request, partial(self._plan_creation, request, user, expiration_time)
        )

    async def _plan_creation(self, request: Hashable, user: User, expiration_time: str | None) -> CreationPlan:
        self.policy.choose_expiry(expiration_time, now=self.clock())
        if isinstance(user, Identity):
            self.policy.check_user(user)
        who, doubt = await self._identify(user)
        self.policy.check_user(who)
        try:
            present = await read_user(self.cluster, who)
        except Forbidden:
            present = None
        except (NotFound, Rejected) as failure:
            # The filter takes less than a create does, names without their domain for one; but two noes are one.
            if isinstance(doubt, NotFound | Rejected):
                raise _tell_nobody(user, who, doubt) from failure
            present = None
        if user == SELF:
            await self._check_self(who, present)
        # What was read by now may have told the cluster's time.
        now = self.clock()
        history = await self._surveyor.recall(who, present)
        await self._surveyor.check_slots(who, history)
        expires = self.policy.choose_expiry(expiration_time, now=now)
        caveat = None if user == SELF else _tell_caveat(user, who, doubt)
        return CreationPlan(
            request=request,
            time=now,
            ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_make(who, expires, caveat=caveat),
            order=Order(
                who,
                expires,
                present,
                history.open_intents,
                history.settled,
                lifetime=_find_lifetime(expiration_time, expires, now),
                max_lifetime=self.policy.max_lifetime,
            ),
            by_default=expiration_time is None,
        )

    async def _check_self(self, who: Identity, present: Sequence[AccessToken] | None) -> None:
        """Whoever this server is has the token that it runs on."""
        own_id = (await self.cluster.who_am_i()).access_token_id
        if present is not None and own_id is not None and own_id not in {token.id for token in present}:
            raise BadAnswer(
                f"Who-am-i tells that this server is {who}, and among their tokens is not the one that it runs on. "
                "One of the two answers is about somebody else."
            )

    async def create_token(self, plan: CreationPlan) -> Creation:
        """A new token as planned, its secret delivered. A plan that a human agreed to is carried out once.

        Raises:
            Refusal: If the plan was carried out before, or time has gone over it.
            TokenToolsError: As `Mint.make`.
        """
        self.questions.close(plan)
        order = await self._renew(plan)
        try:
            return Creation(plan, await self.mint.make(order))
        except Rejected as failure:
            raise await self._surveyor.explain_creation(order.user, failure) from failure

    async def plan_rotation(self, token_id: str, expiration_time: str | None) -> RotationPlan:
        """What a rotate would do; as `plan_creation`.

        Raises:
            Refusal: If a rule forbids it, if there is no place for a second token, or if one was made for this before.
            ClusterError: If the cluster cannot be asked.
            JournalError: If the journal cannot be read.
        """
        request = ("rotate", token_id, expiration_time)
        return await self._recall_or_plan(
            RotationPlan, request, partial(self._plan_rotation, request, token_id, expiration_time)
        )

    async def _plan_rotation(self, request: Hashable, token_id: str, expiration_time: str | None) -> RotationPlan:
        self.policy.choose_expiry(expiration_time, now=self.clock())
        old = await self._get(token_id)
        who, doubt = await self._identify(old.user)
        if isinstance(doubt, NotFound) and not is_built_in(who):
            raise explain_lost_user(old, who, self.clock())
        is_own = await self._is_own(old)
        if is_own is None:
            raise explain_unprovable(who)
        async with self._turn(old):
            beside = await self._surveyor.survey(old, who, self._tell_hand_over(is_own=is_own))
        now = self.clock()
        expires = self.policy.choose_expiry(expiration_time, now=now)
        return RotationPlan(
            request=request,
            time=now,
            ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_make(who, expires),
            order=Order(
                who,
                expires,
                beside.present,
                beside.history.open_intents,
                beside.history.settled,
                replaces=old,
                lifetime=_find_lifetime(expiration_time, expires, now),
                max_lifetime=self.policy.max_lifetime,
            ),
            by_default=expiration_time is None,
            old=old,
            is_own=is_own,
            earlier=beside.earlier,
        )

    async def rotate_token(self, plan: RotationPlan) -> Rotation:
        """A second token for the user of another, delivered and proved to work; the other stays as it is.

        Of several calls for the same token, one at a time makes a new one, so that the next finds what it made.

        Raises:
            Refusal: As `create_token`, or if one was made for this meanwhile.
            TokenToolsError: As `Mint.make`.
        """
        self.questions.close(plan)
        async with self._turn(plan.old):
            order = await self._renew_rotation(plan)
            try:
                return Rotation(plan, await self.mint.make(order))
            except Rejected as failure:
                raise await self._surveyor.explain(plan.old, order.user, failure) from failure
            except NotFound as failure:
                # Whom a look-up finds is no lost user, whatever else the cluster does not find.
                who, doubt = await self._identify(order.user)
                is_lost = doubt is not None and not is_built_in(who)
                raise (explain_lost_user(plan.old, who, self.clock()) if is_lost else failure) from failure

    def _turn(self, old: AccessToken) -> anyio.Lock:
        """Held while a token is rotated, so that nobody takes what is half made for somebody else's."""
        return self.rotating.setdefault(old.id, anyio.Lock())

    async def _renew_rotation(self, plan: RotationPlan) -> Order:
        """As `_renew`; another call may have been faster."""
        order = plan.order
        if plan.reasons:
            await self._get(plan.old.id)
        if plan.reasons or [*await self.journal.find_rotations(plan.old.id)] != [*plan.earlier]:
            hand_over = self._tell_hand_over(is_own=plan.is_own)
            beside = await self._surveyor.survey(plan.old, order.user, hand_over)
            order = replace(order, present=beside.present)
        return self._check_expiry(order)

    async def _renew(self, plan: CreationPlan) -> Order:
        """The order as things are now; a human may have taken minutes.

        Raises:
            Refusal: If it can no longer be carried out.
        """
        order = plan.order
        if plan.reasons and order.present is not None:
            order = replace(order, present=await read_user(self.cluster, order.user))
            await self._surveyor.check_slots(order.user, await self._surveyor.recall(order.user, order.present))
        return self._check_expiry(order)

    def _check_expiry(self, order: Order) -> Order:
        if order.expires is not None and order.expires <= self.clock():
            raise Refusal("The expiry has passed meanwhile.")
        return order

    async def plan_update(self, token_id: str, *, enabled: bool | None, expiration_time: str | None) -> UpdatePlan:
        """What an update would do; as `plan_creation`.

        Raises:
            Refusal: If nothing is asked for, if a rule forbids it, or if it would lock the server out.
            ClusterError: If the cluster cannot be asked.
        """
        if enabled is None and expiration_time is None:
            raise Refusal("Nothing to do: give `enabled`, `expiration_time`, or both.")
        request = UpdateRequest(token_id, enabled, expiration_time)
        return await self._recall_or_plan(UpdatePlan, request, partial(self._plan_update, request))

    async def _plan_update(self, request: UpdateRequest) -> UpdatePlan:
        token_id, enabled, expiration_time = request
        self._choose_new_expiry(expiration_time)
        token = await self._get(token_id)
        now = self.clock()
        expires = self._choose_new_expiry(expiration_time)
        if expires is not None and token.expires is not None and expires == token.expires.replace(microsecond=0):
            # What was read and written back is no change, though a cluster counts in nanoseconds.
            expires = token.expires
        wanted = State(
            enabled=token.state.enabled if enabled is None else enabled,
            expires=token.expires if expiration_time is None else expires,
        )
        if _is_less(wanted, token.state):
            await self._refuse_lockout(token, "disable it or shorten its life")
        reasons = self.policy.find_reasons_to_modify(token, wanted, now=now)
        return UpdatePlan(
            request=request, time=now, ahead=self.clock.ahead, reasons=reasons, token=token, wanted=wanted
        )

    def _choose_new_expiry(self, expiration_time: str | None) -> datetime | None:
        """The expiry that an update is to set, None if that is never, or not to be changed.

        Raises:
            Refusal: As `Policy.choose_expiry`.
        """
        try:
            return None if expiration_time is None else self.policy.choose_expiry(expiration_time, now=self.clock())
        except PastExpiry as past:
            raise Refusal(f"{past} To stop a token at once, give enabled=false and no `expiration_time`.") from None

    async def update_token(self, plan: UpdatePlan) -> Update:
        """The token as planned; nothing is sent if it is like that already.

        Raises:
            Refusal: If the plan was carried out before, or the token was changed meanwhile.
            TokenToolsError: As `Editor.modify`.
        """
        self.questions.close(plan)
        if plan.wanted == plan.token.state:
            return Update(plan, None, self.policy.max_lifetime)
        await self._check_unchanged(plan.token, plan)
        if plan.reasons and _is_less(plan.wanted, plan.token.state):
            await self._refuse_lockout(plan.token, "disable it or shorten its life")
        edited = await self._editor.modify(plan.token, plan.wanted)
        return Update(plan, edited, self.policy.max_lifetime)

    async def plan_deletion(self, token_id: str) -> DeletionPlan:
        """What a delete would do; as `plan_creation`.

        Raises:
            Refusal: If it would lock the server out.
            ClusterError: If the cluster cannot be asked.
        """
        request = ("delete", token_id)
        return await self._recall_or_plan(DeletionPlan, request, partial(self._plan_deletion, request, token_id))

    async def _plan_deletion(self, request: Hashable, token_id: str) -> DeletionPlan:
        token = await self._get(token_id)
        await self._refuse_lockout(token, "delete it")
        return DeletionPlan(
            request=request,
            time=self.clock(),
            ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_delete(),
            token=token,
        )

    async def delete_token(self, plan: DeletionPlan) -> Deletion:
        """Nothing is left of the token.

        Raises:
            Refusal: If the plan was carried out before, or the token was changed meanwhile.
            TokenToolsError: As `Editor.delete`.
        """
        self.questions.close(plan)
        await self._check_unchanged(plan.token, plan)
        if plan.reasons:
            await self._refuse_lockout(plan.token, "delete it")
        return Deletion(plan, await self._editor.delete(plan.token), self.policy.max_lifetime)

    def turn_down(self, plan: Plan) -> None:
        """Forget a plan that nobody agreed to.

        Raises:
            Refusal: If its question was answered before.
        """
        self.questions.close(plan)

    async def audit_tokens(self, within: timedelta, *, report: Format | None, tell_progress: Progress) -> Review:
        """Every token of the cluster, looked at once; `within` bounds what counts as expiring soon.

        `tell_progress` is awaited with the number of tokens seen so far, after each page.

        Raises:
            ClusterError: If the cluster cannot be asked.
            DeliveryError: If the report cannot be written.
        """
        own = await self._find_own()
        memory = await self._surveyor.inquirer.recall()
        audit = Audit(self.clock(), within, own.token_id, memory.disabled_since, memory.successions.keys())
        concern = memory.may_concern(ahead=self.clock.ahead)

        def digest(token: AccessToken) -> Sequence[Finding]:
            concern.add(token)
            return audit.add(token)

        with ExitStack() as ending:
            name = f"audit_{re.sub('[^A-Za-z0-9.-]+', '_', self.address)}_{self.clock():%Y%m%dT%H%M%SZ}_{token_hex(2)}"
            sheet = ending.enter_context(open_report(self.folder, name, report)) if report else None
            async for found in read_all(self.cluster, digest):
                if sheet is not None:
                    await anyio.to_thread.run_sync(sheet.add, found)
                await tell_progress(audit.total)
            unsettled = audit.settle_names(*await self._look_up_nameless(audit))
            unfinished = await self._look_into(memory, concern.found)
            crowded = await anyio.to_thread.run_sync(audit.find_crowded)
            audit.settle_crowds(await self._find_crowding(crowded, {*list_lost(unfinished)}))
            await self._identify_examples(audit)
            path = None if sheet is None else await anyio.to_thread.run_sync(sheet.finish, audit.judge)
        return Review(
            audit,
            _list_doubts(own, audit, memory, unsettled),
            path,
            self.policy,
            memory,
            tell_unfinished(unfinished, self.clock),
            frozenset(list_lost(unfinished)),
            read_only=self.read_only,
            may_write=own.may_write,
            may_rotate=not own.is_unnamed,
            is_whole=own.may_be_all(audit),
            ahead=self.clock.ahead,
        )

    async def _look_into(self, memory: Memory, concerned: Sequence[AccessToken]) -> Sequence[Unfinished]:
        """What is unfinished about some tokens, of which a list may have told no more of their users than a key."""
        named = [token for token in concerned if token.user.name]
        for token in [token for token in concerned if not token.user.name][:MOST_CONCERNED]:
            with suppress(ClusterError, Refusal):
                named.append(name_owner(token, await self.cluster.find_identity(token.user.as_key())))
        return await self._surveyor.inquirer.look(memory, named, me=await self._surveyor.find_me(memory))

    async def _identify_examples(self, audit: Audit) -> None:
        """Look the users up of whom something will be advised, where the list tells no more than a key."""
        for user, token in audit.list_unidentified().items():
            try:
                found = await self.cluster.find_identity(token.user.as_key())
            except NotFound:
                audit.absent.add(user)
            except (ClusterError, Refusal):
                continue
            else:
                audit.identified[user] = token.user.completed_by(found) or token.user

    async def _find_own(self) -> Own:
        """What the server runs on."""
        try:
            me = await self.cluster.who_am_i()
        except ClusterError as failure:
            return Own(None, is_token=None, doubts=[f"Which token this server runs on is not known: {failure}"])
        doubts: list[str] = []
        if me.privileges is not None and READ not in me.privileges:
            doubts.append(
                f"This server's credential lacks {READ}: these may be its own user's tokens only, not the cluster's."
            )
        return Own(
            me.access_token_id,
            me.is_token or me.access_token_id is not None,
            doubts,
            is_unnamed=me.is_unnamed_token,
            may_write=me.privileges is None or WRITE in me.privileges,
        )

    async def _look_up_nameless(self, audit: Audit) -> tuple[Sequence[UserKey], Sequence[UserKey]]:
        """Those of the users without a name whom the cluster does not find, and those for whom it has a name."""
        gone: list[UserKey] = []
        named: list[UserKey] = []
        for user, tally in audit.nameless.items():
            who = tally.worst[0].token.user
            if not who.is_somebody:
                continue
            try:
                found = await self.cluster.find_identity(who.as_key())
            except (NotFound, Rejected) as failure:
                gone.append(user)
                audit.absent |= {user} if isinstance(failure, NotFound) else set()
            except ClusterError:
                break
            else:
                if who.as_key().completed_by(found) is None:
                    break
                audit.identified[user] = found
                (named if found.name else gone).append(user)
        return gone, named

    async def _find_crowding(self, crowded: Sequence[UserKey], lost: AbstractSet[str]) -> list[Example]:
        """A token each of the first few users who have as many as one can have: the one that is most likely unused.

        That is one of the `lost`, of which nobody is known to have the bearer token, or else one that does not work.
        """
        examples: list[Example] = []
        for user in crowded[:FEW]:
            try:
                tokens = await read_user(self.cluster, Identity(auth_id=str(user)))
            except ClusterError:
                break
            now = self.clock()
            tokens.sort(key=lambda token: (token.id not in lost, token.is_live(now=now), token.created))
            examples += [Example(token, token.created) for token in tokens[:1] if key_of(token.user) == user]
        return examples

    async def _recall_or_plan(self, kind: type[Some], request: Hashable, make: Callable[[], Awaitable[Some]]) -> Some:
        return self.questions.recall(kind, request, now=self.clock()) or self.questions.keep(await make())

    async def _get(self, token_id: str) -> AccessToken:
        try:
            return await self.cluster.get_token(token_id)
        except NotFound as failure:
            memory = await self._surveyor.inquirer.recall()
            raise explain_absence(token_id, failure, memory.deleted.get(token_id)) from failure

    async def _is_own(self, token: AccessToken) -> bool | None:
        """Whether the server runs on it; None if it runs on a token and the cluster does not tell on which."""
        me = await self.cluster.who_am_i()
        return None if me.is_unnamed_token else me.access_token_id == token.id

    def _tell_hand_over(self, *, is_own: bool | None) -> str:
        """The first step to the successor of a token."""
        return tell_hand_over(self.credential) if is_own else HAND_OVER

    async def _refuse_lockout(self, token: AccessToken, deed: str) -> None:
        me = await self.cluster.who_am_i()
        if me.access_token_id == token.id:
            raise Refusal(
                f"This server itself runs on token {token.id}, so it will not {deed}: it would lock itself out. "
                f"{await self._tell_replacement(token)}"
            )
        if me.is_unnamed_token and me.is_user(token.user) and token.is_live(now=self.clock() - CERTAINLY):
            raise Refusal(
                f"This server runs on a token of {token.user}, and the cluster does not tell which, so it will not "
                f"{deed}: it could lock itself out. A person can do it with qq."
            )

    async def _tell_replacement(self, own: AccessToken) -> str:
        """How the server comes to run on another token than its own."""
        try:
            caller = await self.cluster.prove(await anyio.to_thread.run_sync(self.read_bearer))
        except Unauthenticated:
            return f"{self.credential} holds another bearer token by now, which the cluster does not take."
        except (ClusterError, SettingsError):
            caller = None
        if caller is None or caller.access_token_id in {None, own.id}:
            return "To replace it, call rotate_access_token and let the server run on the new one."
        return (
            f"{self.credential} holds token {caller.access_token_id} by now: start the server again, it still runs on "
            "the old one."
        )

    async def _check_unchanged(self, token: AccessToken, plan: Plan) -> None:
        """A human agreed to what they were told, and may have taken minutes for it."""
        if plan.reasons and await self._get(token.id) != token:
            raise Refusal(f"Token {token.id} was changed meanwhile. Call again to see how it is now.")

    @property
    def _surveyor(self) -> Surveyor:
        return Surveyor(self.cluster, self.mint.delivery, self.journal, self.clock)

    @property
    def _editor(self) -> Editor:
        return Editor(self.cluster, self.journal)

    async def _identify(self, user: User) -> tuple[Identity, ClusterError | None]:
        """Who is meant, with all that the cluster tells of them, or as it was said with what the look-up failed for."""
        asked = (await self.cluster.who_am_i()).identity if user == SELF else user
        try:
            found = await self.cluster.find_identity(asked)
        except (Forbidden, NotFound, Rejected) as doubt:
            return asked, doubt
        who = asked.completed_by(found)
        if who is not None and not asked.shares_key(found):
            # Nothing of it says that it is the answer to what was asked.
            return asked, BadAnswer("The cluster's answer has nothing in common with what was asked for.")
        if who is None:
            raise Refusal(f"The cluster takes {asked} for {found}, which is somebody else. Write the user differently.")
        return who, None


def _list_doubts(own: Own, audit: Audit, memory: Memory, unsettled: int) -> Sequence[str]:
    """What an audit does not know; of the users of `unsettled` tokens it is whether they have a name."""
    return [
        *own.doubts,
        *([] if own.may_be_all(audit) or own.is_token is None else [_NOT_WHOLE]),
        *([f"Whether the users of {unsettled:,} tokens have a name: the list does not tell."] if unsettled else []),
        *filter(None, [memory.doubt]),
    ]


def _find_lifetime(expiration_time: str | None, expires: datetime | None, now: datetime) -> timedelta | None:
    """How long a token is to live, if that was asked for, and not until when."""
    is_asked_for = expiration_time is None or names_lifetime(expiration_time)
    return expires - now if expires is not None and is_asked_for else None


def _is_less(wanted: State, present: State) -> bool:
    """Whether a state gives less than another: disabled, or an earlier end."""
    sooner = wanted.expires is not None and (present.expires is None or wanted.expires < present.expires)
    return sooner or (present.enabled and not wanted.enabled)


def _tell_caveat(asked: User, who: Identity, doubt: ClusterError | None) -> str | None:
    """Why it is not certain who is meant; None if it is."""
    if doubt is not None:
        return "the cluster did not tell who that is"
    if isinstance(asked, Identity) and asked.name and who.name and not _may_be_names_of_one(asked.name, who.name):
        return f"the cluster calls that user {tell_name(who.name)}, and not {tell_name(asked.name)}"
    return None


def _may_be_names_of_one(asked: str, found: str) -> bool:
    """Whether a name is written as another, or as a distinguished name, which cannot be compared."""
    return "=" in asked + found or bare_name(asked) == bare_name(found)


def _tell_nobody(asked: User, who: Identity, doubt: ClusterError, besides: str = "") -> NotFound:
    if asked == SELF:
        better = "That is whom it names as the user of this server's own credential: another spelling does not help."
    elif who.name is None:
        better = "A deleted user is not found any more; if they are not deleted, check the number."
    elif isinstance(doubt, Rejected) and who.domain is None:
        name = tell_name(who.name)
        better = rf"Better say in which domain: local:{name}, ad:DOMAIN\{name} or ldap_user:{name}."
    else:
        better = f"Better {HOW_TO_WRITE_A_USER}."
    # What a cluster says to a name that several users have is not known.
    told = f"finds no user {who}" if isinstance(doubt, NotFound) else f"did not tell which user {who} is"
    return NotFound(f"The cluster {told}. {doubt} {better}{besides}")


def _tell_unlisted(
    who: Identity, doubt: ClusterError | None, failure: NotFound | Rejected, after: str | None
) -> ClusterError:
    """That the list was refused; that nobody is meant is only said where the cluster said so."""
    key = _tell_key(after) if isinstance(failure, Rejected) else ""
    if doubt is None:
        return type(failure)(f"The cluster found the user {who}, but did not list their tokens. {failure}{key}")
    return type(failure)(
        f"The cluster did not list the tokens of {who}. {failure}{key} Nor did it tell who that is. {doubt}"
    )


def _tell_key(after: str | None) -> str:
    return "" if after is None else " `after` has to be as the answer before gave it; without it, all begins anew."
