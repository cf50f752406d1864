"""What is asked of this server, as the steps that the cluster needs for it. Their order is what makes them safe."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from token_tools.cluster.identity import HOW_TO_WRITE_A_USER, SELF, Identity, bare_name, format_name
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.cluster.pagination import (
    FilteredPage,
    fetch_filtered_page,
    fetch_user_tokens,
    merge_user,
)
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
from token_tools.operations.consent import Plan
from token_tools.operations.create import CreateRequest, TokenCreator
from token_tools.operations.own_token import INCOMPLETE_LIST, read_own_token
from token_tools.operations.plans import (
    CreatePlan,
    CreateResult,
    DeletePlan,
    DeleteResult,
    RotatePlan,
    RotateResult,
    TokenListing,
    TokenView,
    UpdatePlan,
    UpdateResult,
)
from token_tools.operations.policy import is_built_in
from token_tools.operations.rotate import Preflight, explain_missing_user, explain_unprovable
from token_tools.operations.services import Services
from token_tools.operations.unfinished import read_caller, render_unfinished
from token_tools.operations.update import TokenUpdater, explain_missing_token
from token_tools.times import is_lifetime
from token_tools.views.tokens import HAND_OVER_STEP, render_hand_over

ALL_USERS_HINT: Final = " Without `user`, everybody's tokens are listed."

SURELY_EXPIRED_AFTER: Final = timedelta(days=1)
"""Whatever the clocks say, nobody runs on a token that expired so long ago."""

User = Identity | Literal["self"]
SomePlan = TypeVar("SomePlan", bound=Plan)


class UpdateRequest(NamedTuple):
    """What an update was asked for; None leaves a thing as it is."""

    token_id: str
    enabled: bool | None
    expiration_time: str | None


class Workflows(Services):
    """What is asked of this server."""

    @property
    def token_creator(self) -> TokenCreator:
        """Where tokens are made."""
        return TokenCreator(self.cluster, self.delivery, self.journal, self.qq, self.clock)

    async def list_tokens(self, user: User | None, *, cursor: str | None, limit: int) -> TokenListing:
        """A page of tokens, in the cluster's order: everybody's, or one user's.

        Raises:
            ClusterError: If the cluster cannot be asked or does not know the user.
        """
        if user is None:
            page = await self._read_page_of_all(cursor, limit)
            caveats = await self._find_list_caveats(page) if cursor is None else ()
            caveats = [*caveats, *await self._render_unfinished(page.tokens)]
            return TokenListing(page, self.clock(), clock_ahead=self.clock.ahead, caveats=caveats)
        who, doubt = await self._identify(user)
        try:
            page = await fetch_filtered_page(self.cluster, user=who, cursor=cursor, limit=limit)
        except (NotFound, Rejected) as failure:
            if isinstance(doubt, NotFound | Rejected):
                raise _explain_missing_user(user, who, doubt, ALL_USERS_HINT) from failure
            raise _explain_unlisted_user(who, doubt, failure, cursor) from failure
        if not page.tokens and isinstance(doubt, NotFound | Rejected):
            # The filter drops the domain, so what it finds may be a namesake: nobody is no user without tokens.
            raise _explain_missing_user(user, who, doubt, ALL_USERS_HINT)
        caveats = await self._render_unfinished(page.tokens)
        return TokenListing(page, self.clock(), user=who, clock_ahead=self.clock.ahead, caveats=caveats)

    async def _render_unfinished(self, tokens: Sequence[AccessToken]) -> Sequence[str]:
        """What is unfinished about these tokens, as far as the journal can be read."""
        inquirer = self._preflight.unfinished_finder
        memory = await inquirer.get_history()
        unfinished = await inquirer.locate_unfinished(memory, tokens, me=await read_caller(self.cluster, memory))
        return [*render_unfinished(unfinished, self.clock), *filter(None, [memory.journal_error])]

    async def _find_list_caveats(self, page: FilteredPage) -> Sequence[str]:
        """What there is to say about a list of everybody's tokens that has none although this server runs on one."""
        if page.tokens or page.cursor is not None:
            return ()
        own = await read_own_token(self)
        return [INCOMPLETE_LIST] if own.is_token else []

    async def _read_page_of_all(self, cursor: str | None, limit: int) -> FilteredPage:
        try:
            return await fetch_filtered_page(self.cluster, cursor=cursor, limit=limit)
        except Rejected as failure:
            raise Rejected(f"{failure}{_render_cursor_hint(cursor)}") from failure

    async def get_token(self, token_id: str) -> TokenView:
        """One token, its user's others, and whether it is the server's own.

        Raises:
            ClusterError: If the token itself cannot be read.
        """
        token = await self._read_token(token_id)
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
            others = [other for other in await fetch_user_tokens(self.cluster, token.user) if other.id != token.id]
        except (ClusterError, Refusal) as failure:
            doubts.append(f"The user's other tokens are not known: {failure}")
        theirs = [merge_user(each, token.user) for each in [token, *(others or ())]]
        doubts += await self._render_unfinished(theirs)
        return TokenView(token, self.clock(), is_own, others, doubts, self.clock.ahead)

    async def plan_create(self, user: User, expiration_time: str | None) -> CreatePlan:
        """What a create would do; nothing is changed by finding out. While a human is asked, it stays the same plan.

        Raises:
            Refusal: If a rule forbids it.
            ClusterError: If the cluster cannot be asked.
            JournalError: If the journal cannot be read.
        """
        request = ("create", user, expiration_time)
        return await self._get_or_add_plan(
            CreatePlan, request, partial(self._plan_create, request, user, expiration_time)
        )

    async def _plan_create(self, request_key: Hashable, user: User, expiration_time: str | None) -> CreatePlan:
        self.policy.choose_expiry(expiration_time, now=self.clock())
        if isinstance(user, Identity):
            self.policy.check_user(user)
        who, doubt = await self._identify(user)
        self.policy.check_user(who)
        try:
            present = await fetch_user_tokens(self.cluster, who)
        except Forbidden:
            present = None
        except (NotFound, Rejected) as failure:
            # The filter takes less than a create does, names without their domain for one; but two noes are one.
            if isinstance(doubt, NotFound | Rejected):
                raise _explain_missing_user(user, who, doubt) from failure
            present = None
        if user == SELF:
            await self._check_own_token_listed(who, present)
        # What was read by now may have told the cluster's time.
        now = self.clock()
        history = await self._preflight.get_user_history(who, present)
        await self._preflight.check_token_limit(who, history)
        expires = self.policy.choose_expiry(expiration_time, now=now)
        caveat = None if user == SELF else _render_identity_caveat(user, who, doubt)
        return CreatePlan(
            request_key=request_key,
            time=now,
            clock_ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_create(who, expires, caveat=caveat),
            create_request=CreateRequest(
                who,
                expires,
                present,
                history.open_intents,
                history.settled_intents,
                lifetime=_find_lifetime(expiration_time, expires, now),
                max_lifetime=self.policy.max_lifetime,
            ),
            has_default_expiry=expiration_time is None,
        )

    async def _check_own_token_listed(self, who: Identity, current_tokens: Sequence[AccessToken] | None) -> None:
        """Whoever this server is has the token that it runs on."""
        own_id = (await self.cluster.who_am_i()).access_token_id
        if current_tokens is not None and own_id is not None and own_id not in {token.id for token in current_tokens}:
            raise BadAnswer(
                f"Who-am-i tells that this server is {who}, and among their tokens is not the one that it runs on. "
                "One of the two answers is about somebody else."
            )

    async def create_token(self, plan: CreatePlan) -> CreateResult:
        """A new token as planned, its secret delivered. A plan that a human agreed to is carried out once.

        Raises:
            Refusal: If the plan was carried out before, or time has gone over it.
            TokenToolsError: As `TokenCreator.build_plan`.
        """
        self.pending_plans.consume(plan)
        order = await self._refresh_create_request(plan)
        try:
            return CreateResult(plan, await self.token_creator.create(order))
        except Rejected as failure:
            raise await self._preflight.explain_rejected_create(order.user, failure) from failure

    async def plan_rotate(self, token_id: str, expiration_time: str | None) -> RotatePlan:
        """What a rotate would do; as `plan_create`.

        Raises:
            Refusal: If a rule forbids it, if there is no place for a second token, or if one was made for this before.
            ClusterError: If the cluster cannot be asked.
            JournalError: If the journal cannot be read.
        """
        request = ("rotate", token_id, expiration_time)
        return await self._get_or_add_plan(
            RotatePlan, request, partial(self._plan_rotate, request, token_id, expiration_time)
        )

    async def _plan_rotate(self, request_key: Hashable, token_id: str, expiration_time: str | None) -> RotatePlan:
        self.policy.choose_expiry(expiration_time, now=self.clock())
        old = await self._read_token(token_id)
        who, doubt = await self._identify(old.user)
        if isinstance(doubt, NotFound) and not is_built_in(who):
            raise explain_missing_user(old, who, self.clock())
        is_own = await self._is_own(old)
        if is_own is None:
            raise explain_unprovable(who)
        async with self._rotation_lock(old):
            beside = await self._preflight.collect_existing_tokens(old, who, self._render_hand_over(is_own=is_own))
        now = self.clock()
        expires = self.policy.choose_expiry(expiration_time, now=now)
        return RotatePlan(
            request_key=request_key,
            time=now,
            clock_ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_create(who, expires),
            create_request=CreateRequest(
                who,
                expires,
                beside.current_tokens,
                beside.history.open_intents,
                beside.history.settled_intents,
                replaces=old,
                lifetime=_find_lifetime(expiration_time, expires, now),
                max_lifetime=self.policy.max_lifetime,
            ),
            has_default_expiry=expiration_time is None,
            old_token=old,
            is_own=is_own,
            earlier_rotations=beside.earlier_rotations,
        )

    async def rotate_token(self, plan: RotatePlan) -> RotateResult:
        """A second token for the user of another, delivered and proved to work; the other stays as it is.

        Of several calls for the same token, one at a time makes a new one, so that the next finds what it made.

        Raises:
            Refusal: As `create_token`, or if one was made for this meanwhile.
            TokenToolsError: As `TokenCreator.build_plan`.
        """
        self.pending_plans.consume(plan)
        async with self._rotation_lock(plan.old_token):
            order = await self._refresh_rotate_request(plan)
            try:
                return RotateResult(plan, await self.token_creator.create(order))
            except Rejected as failure:
                raise await self._preflight.explain_rejected_rotate(plan.old_token, order.user, failure) from failure
            except NotFound as failure:
                # Whom a look-up finds is no lost user, whatever else the cluster does not find.
                who, doubt = await self._identify(order.user)
                is_lost = doubt is not None and not is_built_in(who)
                raise (explain_missing_user(plan.old_token, who, self.clock()) if is_lost else failure) from failure

    def _rotation_lock(self, old: AccessToken) -> anyio.Lock:
        """Held while a token is rotated, so that nobody takes what is half made for somebody else's."""
        return self.rotation_locks.setdefault(old.id, anyio.Lock())

    async def _refresh_rotate_request(self, plan: RotatePlan) -> CreateRequest:
        """As `_refresh_create_request`; another call may have been faster."""
        order = plan.create_request
        if plan.reasons:
            await self._read_token(plan.old_token.id)
        if plan.reasons or [*await self.journal.list_rotations(plan.old_token.id)] != [*plan.earlier_rotations]:
            hand_over = self._render_hand_over(is_own=plan.is_own)
            beside = await self._preflight.collect_existing_tokens(plan.old_token, order.user, hand_over)
            order = replace(order, current_tokens=beside.current_tokens)
        return self._require_future_expiry(order)

    async def _refresh_create_request(self, plan: CreatePlan) -> CreateRequest:
        """The order as things are now; a human may have taken minutes.

        Raises:
            Refusal: If it can no longer be carried out.
        """
        order = plan.create_request
        if plan.reasons and order.current_tokens is not None:
            order = replace(order, current_tokens=await fetch_user_tokens(self.cluster, order.user))
            await self._preflight.check_token_limit(
                order.user, await self._preflight.get_user_history(order.user, order.current_tokens)
            )
        return self._require_future_expiry(order)

    def _require_future_expiry(self, request: CreateRequest) -> CreateRequest:
        if request.expires is not None and request.expires <= self.clock():
            raise Refusal("The expiry has passed meanwhile.")
        return request

    async def plan_update(self, token_id: str, *, enabled: bool | None, expiration_time: str | None) -> UpdatePlan:
        """What an update would do; as `plan_create`.

        Raises:
            Refusal: If nothing is asked for, if a rule forbids it, or if it would lock the server out.
            ClusterError: If the cluster cannot be asked.
        """
        if enabled is None and expiration_time is None:
            raise Refusal("Nothing to do: give `enabled`, `expiration_time`, or both.")
        request = UpdateRequest(token_id, enabled, expiration_time)
        return await self._get_or_add_plan(UpdatePlan, request, partial(self._plan_update, request))

    async def _plan_update(self, request: UpdateRequest) -> UpdatePlan:
        token_id, enabled, expiration_time = request
        self._choose_new_expiry(expiration_time)
        token = await self._read_token(token_id)
        now = self.clock()
        expires = self._choose_new_expiry(expiration_time)
        if expires is not None and token.expires is not None and expires == token.expires.replace(microsecond=0):
            # What was read and written back is no change, though a cluster counts in nanoseconds.
            expires = token.expires
        wanted = TokenState(
            enabled=token.state.enabled if enabled is None else enabled,
            expires=token.expires if expiration_time is None else expires,
        )
        if _is_reduced(wanted, token.state):
            await self._check_no_lockout(token, "disable it or shorten its life")
        reasons = self.policy.find_reasons_to_update(token, wanted, now=now)
        return UpdatePlan(
            request_key=request, time=now, clock_ahead=self.clock.ahead, reasons=reasons, token=token, wanted=wanted
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

    async def update_token(self, plan: UpdatePlan) -> UpdateResult:
        """The token as planned; nothing is sent if it is like that already.

        Raises:
            Refusal: If the plan was carried out before, or the token was changed meanwhile.
            TokenToolsError: As `TokenUpdater.update`.
        """
        self.pending_plans.consume(plan)
        if plan.wanted == plan.token.state:
            return UpdateResult(plan, None, self.policy.max_lifetime)
        await self._check_unchanged(plan.token, plan)
        if plan.reasons and _is_reduced(plan.wanted, plan.token.state):
            await self._check_no_lockout(plan.token, "disable it or shorten its life")
        edited = await self._updater.update(plan.token, plan.wanted)
        return UpdateResult(plan, edited, self.policy.max_lifetime)

    async def plan_delete(self, token_id: str) -> DeletePlan:
        """What a delete would do; as `plan_create`.

        Raises:
            Refusal: If it would lock the server out.
            ClusterError: If the cluster cannot be asked.
        """
        request = ("delete", token_id)
        return await self._get_or_add_plan(DeletePlan, request, partial(self._plan_delete, request, token_id))

    async def _plan_delete(self, request_key: Hashable, token_id: str) -> DeletePlan:
        token = await self._read_token(token_id)
        await self._check_no_lockout(token, "delete it")
        return DeletePlan(
            request_key=request_key,
            time=self.clock(),
            clock_ahead=self.clock.ahead,
            reasons=self.policy.find_reasons_to_delete(),
            token=token,
        )

    async def delete_token(self, plan: DeletePlan) -> DeleteResult:
        """Nothing is left of the token.

        Raises:
            Refusal: If the plan was carried out before, or the token was changed meanwhile.
            TokenToolsError: As `TokenUpdater.delete`.
        """
        self.pending_plans.consume(plan)
        await self._check_unchanged(plan.token, plan)
        if plan.reasons:
            await self._check_no_lockout(plan.token, "delete it")
        return DeleteResult(plan, await self._updater.delete(plan.token), self.policy.max_lifetime)

    def decline(self, plan: Plan) -> None:
        """Forget a plan that nobody agreed to.

        Raises:
            Refusal: If its question was answered before.
        """
        self.pending_plans.consume(plan)

    async def _get_or_add_plan(
        self, kind: type[SomePlan], request_key: Hashable, build_plan: Callable[[], Awaitable[SomePlan]]
    ) -> SomePlan:
        return self.pending_plans.get(kind, request_key, now=self.clock()) or self.pending_plans.add(await build_plan())

    async def _read_token(self, token_id: str) -> AccessToken:
        try:
            return await self.cluster.get_token(token_id)
        except NotFound as failure:
            memory = await self._preflight.unfinished_finder.get_history()
            raise explain_missing_token(token_id, failure, memory.deleted_at.get(token_id)) from failure

    async def _is_own(self, token: AccessToken) -> bool | None:
        """Whether the server runs on it; None if it runs on a token and the cluster does not tell on which."""
        me = await self.cluster.who_am_i()
        return None if me.is_unidentified_token else me.access_token_id == token.id

    def _render_hand_over(self, *, is_own: bool | None) -> str:
        """The first step to the successor of a token."""
        return render_hand_over(self.credential_location) if is_own else HAND_OVER_STEP

    async def _check_no_lockout(self, token: AccessToken, action: str) -> None:
        me = await self.cluster.who_am_i()
        if me.access_token_id == token.id:
            raise Refusal(
                f"This server itself runs on token {token.id}, so it will not {action}: it would lock itself out. "
                f"{await self._render_replacement(token)}"
            )
        if (
            me.is_unidentified_token
            and me.is_user(token.user)
            and token.is_live(now=self.clock() - SURELY_EXPIRED_AFTER)
        ):
            raise Refusal(
                f"This server runs on a token of {token.user}, and the cluster does not tell which, so it will not "
                f"{action}: it could lock itself out. A person can do it with qq."
            )

    async def _render_replacement(self, own: AccessToken) -> str:
        """How the server comes to run on another token than its own."""
        try:
            caller = await self.cluster.verify_bearer(await anyio.to_thread.run_sync(self.read_bearer))
        except Unauthenticated:
            return f"{self.credential_location} holds another bearer token by now, which the cluster does not take."
        except (ClusterError, SettingsError):
            caller = None
        if caller is None or caller.access_token_id in {None, own.id}:
            return "To replace it, call rotate_access_token and let the server run on the new one."
        return (
            f"{self.credential_location} holds token {caller.access_token_id} by now: start the server again, "
            "it still runs on "
            "the old one."
        )

    async def _check_unchanged(self, token: AccessToken, plan: Plan) -> None:
        """A human agreed to what they were told, and may have taken minutes for it."""
        if plan.reasons and await self._read_token(token.id) != token:
            raise Refusal(f"Token {token.id} was changed meanwhile. Call again to see how it is now.")

    @property
    def _preflight(self) -> Preflight:
        return Preflight(self.cluster, self.delivery, self.journal, self.clock)

    @property
    def _updater(self) -> TokenUpdater:
        return TokenUpdater(self.cluster, self.journal)

    async def _identify(self, user: User) -> tuple[Identity, ClusterError | None]:
        """Who is meant, with all that the cluster tells of them, or as it was said with what the look-up failed for."""
        asked = (await self.cluster.who_am_i()).identity if user == SELF else user
        try:
            found = await self.cluster.resolve_identity(asked)
        except (Forbidden, NotFound, Rejected) as doubt:
            return asked, doubt
        who = asked.merged_with(found)
        if who is not None and not asked.shares_identifier_with(found):
            # Nothing of it says that it is the answer to what was asked.
            return asked, BadAnswer("The cluster's answer has nothing in common with what was asked for.")
        if who is None:
            raise Refusal(f"The cluster takes {asked} for {found}, which is somebody else. Write the user differently.")
        return who, None


def _find_lifetime(expiration_time: str | None, expires: datetime | None, now: datetime) -> timedelta | None:
    """How long a token is to live, if that was asked for, and not until when."""
    is_asked_for = expiration_time is None or is_lifetime(expiration_time)
    return expires - now if expires is not None and is_asked_for else None


def _is_reduced(wanted: TokenState, current: TokenState) -> bool:
    """Whether a state gives less than another: disabled, or an earlier end."""
    sooner = wanted.expires is not None and (current.expires is None or wanted.expires < current.expires)
    return sooner or (current.enabled and not wanted.enabled)


def _render_identity_caveat(asked: User, who: Identity, lookup_error: ClusterError | None) -> str | None:
    """Why it is not certain who is meant; None if it is."""
    if lookup_error is not None:
        return "the cluster did not tell who that is"
    if isinstance(asked, Identity) and asked.name and who.name and not _may_be_same_name(asked.name, who.name):
        return f"the cluster calls that user {format_name(who.name)}, and not {format_name(asked.name)}"
    return None


def _may_be_same_name(asked: str, found: str) -> bool:
    """Whether a name is written as another, or as a distinguished name, which cannot be compared."""
    return "=" in asked + found or bare_name(asked) == bare_name(found)


def _explain_missing_user(asked: User, who: Identity, lookup_error: ClusterError, hint: str = "") -> NotFound:
    if asked == SELF:
        better = "That is whom it names as the user of this server's own credential: another spelling does not help."
    elif who.name is None:
        better = "A deleted user is not found any more; if they are not deleted, check the number."
    elif isinstance(lookup_error, Rejected) and who.domain is None:
        name = format_name(who.name)
        better = rf"Better say in which domain: local:{name}, ad:DOMAIN\{name} or ldap_user:{name}."
    else:
        better = f"Better {HOW_TO_WRITE_A_USER}."
    # What a cluster says to a name that several users have is not known.
    told = f"finds no user {who}" if isinstance(lookup_error, NotFound) else f"did not tell which user {who} is"
    return NotFound(f"The cluster {told}. {lookup_error} {better}{hint}")


def _explain_unlisted_user(
    who: Identity, lookup_error: ClusterError | None, failure: NotFound | Rejected, cursor: str | None
) -> ClusterError:
    """That the list was refused; that nobody is meant is only said where the cluster said so."""
    key = _render_cursor_hint(cursor) if isinstance(failure, Rejected) else ""
    if lookup_error is None:
        return type(failure)(f"The cluster found the user {who}, but did not list their tokens. {failure}{key}")
    return type(failure)(
        f"The cluster did not list the tokens of {who}. {failure}{key} Nor did it tell who that is. {lookup_error}"
    )


def _render_cursor_hint(cursor: str | None) -> str:
    return "" if cursor is None else " `after` has to be as the answer before gave it; without it, all begins anew."
