"""What is asked of this server, as the steps that the cluster needs for it. Their order is what makes them safe."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from token_tools.client import ClusterClient
from token_tools.consent import OpenQuestions, number_question
from token_tools.errors import ClusterError, Forbidden, NotFound, Refusal, Rejected
from token_tools.identity import HOW_TO_WRITE_A_USER, SELF, Identity
from token_tools.journal import Journal
from token_tools.minting import Mint, Minted, Order
from token_tools.models import AccessToken, TokenPage
from token_tools.policy import Policy
from token_tools.times import Clock

SLOTS: Final = 2
"""Tokens that one user can have at a time, says the vendor's guide."""

EMPTY_PAGES: Final = 8
"""How many empty pages in a row are passed over before the list counts as ended."""

User = Identity | Literal["self"]


@dataclass(frozen=True)
class Listing:
    """Tokens as they stood at `time`.

    `user` is whose they are, None for everybody's. `after` asks for what follows, None at the end. `unshown` of the
    user's tokens did not fit into the limit; `foreign` entries belonged to somebody else of the same name, or could
    not be told from such, and were left out.
    """

    tokens: Sequence[AccessToken]
    time: datetime
    user: Identity | None = None
    after: str | None = None
    unshown: int = 0
    foreign: int = 0


@dataclass(frozen=True)
class CreationPlan:
    """What a create would do, as the server found things at `time`.

    `reasons` say why a human has to agree first, and `number` tells that question from every other; there are no
    reasons where nobody has to be asked. `by_default` says that nobody named the expiry.
    """

    order: Order
    time: datetime
    by_default: bool
    reasons: Sequence[str]
    number: str = field(default_factory=number_question)


@dataclass(frozen=True)
class Creation:
    """A plan carried out."""

    plan: CreationPlan
    minted: Minted


@dataclass(frozen=True)
class Workflows:
    """Everything that one server works with.

    `address` is the cluster's, for telling; `patience` is how long a human has for an answer while a call waits for it.
    """

    address: str
    cluster: ClusterClient
    policy: Policy
    mint: Mint
    journal: Journal
    clock: Clock
    patience: timedelta = timedelta(minutes=5)
    questions: OpenQuestions[CreationPlan] = field(default_factory=OpenQuestions[CreationPlan])

    async def list_tokens(self, user: User | None, *, after: str | None, limit: int) -> Listing:
        """A page of tokens, in the cluster's order: everybody's, or one user's.

        Raises:
            ClusterError: If the cluster cannot be asked or does not know the user.
        """
        if user is None:
            page = await self._read_filled_page(after, limit)
            unshown = max(0, len(page.entries) - limit)
            return Listing(page.entries[:limit], self.clock(), after=page.after, unshown=unshown)
        who, doubt = await self._identify(user)
        try:
            return await self._list_of(who, after=after, limit=limit)
        except (NotFound, Rejected) as failure:
            raise _tell_nobody(who, doubt or failure) from failure

    async def _read_filled_page(self, after: str | None, limit: int) -> TokenPage:
        seen = {after}
        page = await self.cluster.list_tokens(after=after, limit=limit)
        while page.after not in seen and not page.entries and len(seen) < EMPTY_PAGES:
            seen.add(page.after)
            page = await self.cluster.list_tokens(after=page.after, limit=limit)
        # A key that repeats, or that comes with nothing at all, leads nowhere.
        return TokenPage(page.entries) if page.after in seen or not page.entries else page

    async def _list_of(self, who: Identity, *, after: str | None, limit: int) -> Listing:
        # A limit is not sent along: some clusters refuse the two together, and a user has two tokens at most.
        page = await self.cluster.list_tokens(user=who.as_query(), after=after)
        theirs = [_name_owner(token, who) for token in page.entries if who.covers(token.user)]
        return Listing(
            theirs[:limit],
            self.clock(),
            user=who,
            after=None if page.after == after or not page.entries else page.after,
            unshown=max(0, len(theirs) - limit),
            foreign=len(page.entries) - len(theirs),
        )

    async def plan_creation(self, user: User, expiration_time: str | None) -> CreationPlan:
        """What a create would do; nothing is changed by finding out. While a human is asked, it stays the same plan.

        Raises:
            Refusal: If a rule forbids it.
            ClusterError: If the cluster cannot be asked.
            JournalError: If the journal cannot be read.
        """
        now = self.clock()
        request = (user, expiration_time)
        plan = self.questions.recall(request, now=now)
        if plan is None:
            plan = await self._plan_creation(user, expiration_time, now)
            if plan.reasons:
                self.questions.keep(request, plan, now=now)
        return plan

    async def _plan_creation(self, user: User, expiration_time: str | None, now: datetime) -> CreationPlan:
        expires = self.policy.choose_expiry(expiration_time, now=now)
        if isinstance(user, Identity):
            self.policy.check_user(user)
        who, doubt = await self._identify(user)
        self.policy.check_user(who)
        try:
            present = await self._read_present(who)
        except Forbidden:
            present = None
        except (NotFound, Rejected) as failure:
            # The filter takes less than a create does, names without their domain for one; but two noes are one.
            if doubt is not None and not isinstance(doubt, Forbidden):
                raise _tell_nobody(who, doubt) from failure
            present = None
        _check_slots(who, present, now)
        return CreationPlan(
            order=Order(who, expires, present, await self.journal.find_open(str(who))),
            time=now,
            by_default=expiration_time is None,
            reasons=self.policy.find_reasons_to_ask(who, expires),
        )

    async def create_token(self, user: User, expiration_time: str | None, plan: CreationPlan) -> Creation:
        """A new token as planned, its secret delivered. A plan that a human agreed to is carried out once.

        Raises:
            Refusal: If the plan was carried out before, or time has gone over it.
            TokenToolsError: As `Mint.make`.
        """
        order = plan.order
        if plan.reasons:
            self.questions.close((user, expiration_time), plan)
            # A human may have taken minutes: look again.
            if order.present is not None:
                order = replace(order, present=await self._read_present(order.user))
            _check_slots(order.user, order.present, self.clock())
        if order.expires is not None and order.expires <= self.clock():
            raise Refusal("The expiry has passed meanwhile. Nothing was made.")
        return Creation(plan, await self.mint.make(order))

    def turn_down(self, user: User, expiration_time: str | None, plan: CreationPlan) -> None:
        """Forget a plan that nobody agreed to.

        Raises:
            Refusal: If its question was answered before.
        """
        self.questions.close((user, expiration_time), plan)

    async def _identify(self, user: User) -> tuple[Identity, ClusterError | None]:
        """Who is meant, with all that the cluster tells of them, or as it was said with what the look-up failed for."""
        asked = (await self.cluster.who_am_i()).identity if user == SELF else user
        try:
            found = await self.cluster.find_identity(asked)
        except (Forbidden, NotFound, Rejected) as doubt:
            return asked, doubt
        who = asked.completed_by(found)
        if who is None:
            raise Refusal(f"The cluster takes {asked} for {found}, which is somebody else. Write the user differently.")
        return who, None

    async def _read_present(self, who: Identity) -> Sequence[AccessToken]:
        page = await self.cluster.list_tokens(user=who.as_query())
        return [token for token in page.entries if who.covers(token.user)]


def _name_owner(token: AccessToken, who: Identity) -> AccessToken:
    """The token with all that is known of its user: some clusters list no more of them than a key."""
    return token.model_copy(update={"user": token.user.completed_by(who) or token.user})


def _tell_nobody(who: Identity, doubt: ClusterError) -> NotFound:
    return NotFound(f"The cluster does not find exactly one user {who}. {doubt} Better {HOW_TO_WRITE_A_USER}.")


def _check_slots(who: Identity, present: Sequence[AccessToken] | None, now: datetime) -> None:
    # Whether disabled and expired tokens count is the cluster's to say.
    live = [token for token in present or () if token.is_live(now=now)]
    if len(live) >= SLOTS:
        ids = " and ".join(token.id for token in live)
        raise Refusal(
            f"{who} has {SLOTS} access tokens already, as many as a user can have: {ids}. "
            "Nothing was made; one of them has to be deleted first."
        )
