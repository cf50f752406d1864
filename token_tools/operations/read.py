"""Listing tokens and looking at one. Nothing here changes anything."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.cluster.pagination import FilteredPage, fetch_filtered_page, fetch_user_tokens, merge_user
from token_tools.errors import ClusterError, NotFound, Refusal, Rejected
from token_tools.operations.journal_history import read_history
from token_tools.operations.own_token import INCOMPLETE_LIST, is_own_token, read_own_token
from token_tools.operations.services import Services
from token_tools.operations.unfinished import render_unfinished_of
from token_tools.operations.user_lookup import MeantUser, User, explain_missing_user, identify
from token_tools.times import format_time

ALL_USERS_HINT: Final = " Without `user`, everybody's tokens are listed."


@dataclass(frozen=True)
class TokenListing:
    """A page of tokens as they stood at `time`, by the cluster's clock.

    `user` is whose tokens they are, None for everybody's. The cluster's clock is known to be `clock_ahead` of ours.
    `caveats` say what is missing or unfinished.
    """

    page: FilteredPage
    time: datetime
    user: Identity | None = None
    clock_ahead: timedelta = timedelta()
    caveats: Sequence[str] = ()

    @property
    def tokens(self) -> Sequence[AccessToken]:
        """The tokens, each with all that is known of its user."""
        return self.page.tokens

    def shorten(self, count: int) -> "TokenListing":
        """Return the listing with the first `count` of its tokens, at least 1."""
        return replace(self, page=self.page.shorten(count))


@dataclass(frozen=True)
class TokenView:
    """One token as it stood at `time`.

    `is_own` says whether the server itself runs on it, and `other_tokens` are its user's other tokens. Each is None if
    that could not be found out, and `caveats` say why. `time` is by the cluster's clock, which is known to be
    `clock_ahead` of ours.
    """

    token: AccessToken
    time: datetime
    is_own: bool | None
    other_tokens: Sequence[AccessToken] | None
    caveats: Sequence[str]
    clock_ahead: timedelta = timedelta()


async def list_tokens(services: Services, user: User | None, *, cursor: str | None, limit: int) -> TokenListing:
    """Return a page of at most `limit` tokens in the cluster's order: everybody's, or one user's.

    Raises:
        ClusterError: If the cluster cannot be asked or does not know the user.
        Refusal: If the cluster takes what was written as the user for somebody else.
    """
    if user is None:
        return await _list_all_tokens(services, cursor, limit)
    meant = await identify(services, user)
    with explaining_unlisted_user(user, meant, cursor):
        page = await fetch_filtered_page(services.cluster, user=meant.identity, cursor=cursor, limit=limit)
    if not page.tokens and meant.is_not_found:
        # The cluster's filter ignores the domain, so an empty page does not prove that there is such a user.
        raise explain_missing_user(user, meant, ALL_USERS_HINT)
    # A page alone does not show that a token is missing.
    is_whole = cursor is None and page.cursor is None
    caveats = await render_unfinished_of(services, page.tokens, user=meant.identity if is_whole else None)
    return TokenListing(page, services.clock(), user=meant.identity, clock_ahead=services.clock.ahead, caveats=caveats)


@contextmanager
def explaining_unlisted_user(user: User, meant: MeantUser, cursor: str | None = None) -> Generator[None]:
    """Let an error in the block, in which a user's tokens are listed, say whether the cluster knows that user.

    Raises:
        ClusterError: If the list was refused in the block.
    """
    try:
        yield
    except (NotFound, Rejected) as failure:
        if meant.is_not_found:
            raise explain_missing_user(user, meant, ALL_USERS_HINT) from failure
        raise _explain_unlisted_user(meant, failure, cursor) from failure


async def _list_all_tokens(services: Services, cursor: str | None, limit: int) -> TokenListing:
    try:
        page = await fetch_filtered_page(services.cluster, cursor=cursor, limit=limit)
    except Rejected as failure:
        raise Rejected(f"{failure}{_render_cursor_hint(cursor)}") from failure
    caveats = await _find_list_caveats(services, page) if cursor is None else ()
    unfinished = await render_unfinished_of(services, page.tokens)
    return TokenListing(page, services.clock(), clock_ahead=services.clock.ahead, caveats=[*caveats, *unfinished])


async def _find_list_caveats(services: Services, page: FilteredPage) -> Sequence[str]:
    """Return a caveat if the whole list is empty although this server runs on a token."""
    if page.tokens or page.cursor is not None:
        return ()
    own = await read_own_token(services)
    return [INCOMPLETE_LIST] if own.is_token else []


async def get_token(services: Services, token_id: str) -> TokenView:
    """Return one token, its user's others, and whether the server runs on it.

    Raises:
        ClusterError: If the token itself cannot be read.
    """
    token = await read_token(services, token_id)
    is_own, own_caveats = await _find_whether_own(services, token)
    caveats = [*own_caveats]
    try:
        others = [other for other in await fetch_user_tokens(services.cluster, token.user) if other.id != token.id]
    except (ClusterError, Refusal) as failure:
        others = None
        caveats.append(f"The user's other tokens are not known: {failure}")
    tokens = [merge_user(each, token.user) for each in [token, *(others or ())]]
    user = token.user if others is not None else None
    caveats += await render_unfinished_of(services, tokens, user=user)
    return TokenView(token, services.clock(), is_own, others, caveats, services.clock.ahead)


async def _find_whether_own(services: Services, token: AccessToken) -> tuple[bool | None, Sequence[str]]:
    """Return whether the server runs on a token, and why that is not known."""
    try:
        is_own = await is_own_token(services, token)
    except ClusterError as failure:
        return None, [f"Whether this server runs on it is not known: {failure}"]
    if is_own is None:
        caveat = (
            "Whether this server runs on it is not known: the cluster does not tell which access token the "
            "server's credential is."
        )
        return None, [caveat]
    return is_own, []


async def read_token(services: Services, token_id: str) -> AccessToken:
    """Return one token as it is now.

    Raises:
        NotFound: If there is none of that id. The text says when this server deleted it, if it did.
        ClusterError: If it cannot be read.
    """
    try:
        return await services.cluster.get_token(token_id)
    except NotFound as failure:
        history = await read_history(services)
        raise explain_missing_token(token_id, failure, history.deleted_at.get(token_id)) from failure


@contextmanager
def concerning(user: Identity) -> Generator[None]:
    """Let a refusal in the block tell the record whose token it is about."""
    try:
        yield
    except Refusal as refusal:
        refusal.user = str(user)
        raise


def explain_missing_token(token_id: str, failure: NotFound, deleted_at: datetime | None = None) -> NotFound:
    """Explain that the cluster knows no token of an id; `deleted_at` is when this server deleted it, None if never."""
    why = f"This server deleted it at {format_time(deleted_at)};" if deleted_at else "If the id is mistyped:"
    return NotFound(f"There is no access token {token_id}. {failure} {why} list_access_tokens tells the ids.")


def _explain_unlisted_user(meant: MeantUser, failure: NotFound | Rejected, cursor: str | None) -> ClusterError:
    """Explain that a user's list was refused. That there is no such user is only said where the cluster said so."""
    hint = _render_cursor_hint(cursor) if isinstance(failure, Rejected) else ""
    user, lookup_error = meant
    if lookup_error is None:
        return type(failure)(f"The cluster found the user {user}, but did not list their tokens. {failure}{hint}")
    return type(failure)(
        f"The cluster did not list the tokens of {user}. {failure}{hint} Nor did it tell who that is. {lookup_error}"
    )


def _render_cursor_hint(cursor: str | None) -> str:
    return "" if cursor is None else " `after` has to be as the answer before gave it; without it, all begins anew."
