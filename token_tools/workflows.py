"""What is asked of this server, as the steps that the cluster needs for it. Their order is what makes them safe."""

from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import anyio

from token_tools.client import ClusterClient
from token_tools.delivery import Delivered, Delivery
from token_tools.errors import (
    BadAnswer,
    ClusterError,
    DeliveryError,
    Forbidden,
    NotFound,
    Refusal,
    Rejected,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Untrusted,
)
from token_tools.identity import SELF, Identity
from token_tools.models import AccessToken, NewAccessToken, TokenPage
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
class Creation:
    """A token made at `time`, and where its secret went. `by_default` says that nobody named the expiry.

    `found` is the token as the cluster lists it since, None if that could not be read.
    """

    user: Identity
    time: datetime
    expires: datetime | None
    by_default: bool
    delivered: Delivered
    found: AccessToken | None


@dataclass(frozen=True)
class Workflows:
    """Everything that one server works with. `address` is the cluster's, for telling."""

    address: str
    cluster: ClusterClient
    policy: Policy
    delivery: Delivery
    clock: Clock

    async def list_tokens(self, user: User | None, *, after: str | None, limit: int) -> Listing:
        """A page of tokens, in the cluster's order: everybody's, or one user's.

        Raises:
            ClusterError: If the cluster cannot be asked or does not know the user.
        """
        if user is None:
            page = await self._read_filled_page(after, limit)
            unshown = max(0, len(page.entries) - limit)
            return Listing(page.entries[:limit], self.clock(), after=page.after, unshown=unshown)
        who = await self._identify(user)
        return await self._list_of(who, after=after, limit=limit)

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
        theirs = [token for token in page.entries if who.covers(token.user)]
        return Listing(
            theirs[:limit],
            self.clock(),
            user=who,
            after=None if page.after == after or not page.entries else page.after,
            unshown=max(0, len(theirs) - limit),
            foreign=len(page.entries) - len(theirs),
        )

    async def create_token(self, user: User, *, expiration_time: str | None) -> Creation:
        """A new token for a user, its secret delivered.

        Raises:
            Refusal: If a rule forbids it; nothing was asked of the cluster.
            DeliveryError: If the secret had no place to go: before the token was made, or after, when it was deleted.
            ClusterError: If the cluster declined, or could not be asked; no token was made.
            UnknownOutcome: If the cluster may have made a token whose secret nobody has.
        """
        now = self.clock()
        expires = self.policy.choose_expiry(expiration_time, now=now)
        who = await self._identify(user)
        await self._check_slots(who, now)
        with _uninterrupted():
            delivered = await self._make_token(who, expires)
        found = await self._read_back(delivered.id)
        return Creation(who, now, expires, by_default=expiration_time is None, delivered=delivered, found=found)

    async def _make_token(self, who: Identity, expires: datetime | None) -> Delivered:
        reservation = await self.delivery.reserve()
        async with AsyncExitStack() as unless_made:
            unless_made.push_async_callback(reservation.drop)
            new = await self._post(who, expires)
            unless_made.pop_all()
        try:
            return await reservation.keep(new, who)
        except DeliveryError as failure:
            await self.cluster.delete_token(new.id)
            raise DeliveryError(f"{failure} The new token {new.id} was deleted again; no token was made.") from failure

    async def _post(self, who: Identity, expires: datetime | None) -> NewAccessToken:
        try:
            return await self.cluster.create_token(who.as_key(), expires)
        except Untrusted:
            raise
        except (BadAnswer, Unavailable, Unreachable) as failure:
            raise UnknownOutcome(
                f"{failure} It is not known whether a token was made for {who}. Its bearer token would be lost: list "
                "the user's tokens, and delete one that is new and that nobody uses, before creating again."
            ) from failure

    async def _read_back(self, token_id: str) -> AccessToken | None:
        """The new token, to see whether the cluster did what was asked; the success does not depend on it."""
        try:
            return await self.cluster.get_token(token_id)
        except ClusterError:
            return None

    async def _identify(self, user: User) -> Identity:
        """Who is meant, with all that the cluster tells of them; what was said, if it does not let us look them up."""
        asked = (await self.cluster.who_am_i()).identity if user == SELF else user
        try:
            found = await self.cluster.find_identity(asked)
        except (Forbidden, NotFound, Rejected):
            return asked
        if not asked.covers(found):
            raise Refusal(f"The cluster takes {asked} for {found}, which is somebody else. Write the user differently.")
        return found if found.auth_id else asked

    async def _check_slots(self, who: Identity, now: datetime) -> None:
        try:
            present = await self._list_of(who, after=None, limit=SLOTS)
        except (Forbidden, NotFound, Rejected):
            # The filter takes less than a create does, names without their domain for one. The cluster will judge.
            return
        # Whether disabled and expired tokens count is the cluster's to say.
        live = [token for token in present.tokens if token.is_live(now=now)]
        if len(live) >= SLOTS:
            ids = " and ".join(token.id for token in live)
            raise Refusal(
                f"{who} has {SLOTS} access tokens already, as many as a user can have: {ids}. "
                "Nothing was made; one of them has to be deleted first."
            )


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Half of what is done within would be worse than none or all of it, so a cancelled call still comes to its end."""
    with anyio.CancelScope(shield=True):
        yield
