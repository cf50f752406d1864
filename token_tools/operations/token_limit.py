"""How many tokens a user can have, and which of them can go if a user has as many as that."""

from collections.abc import Sequence
from typing import Final

from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import Refusal
from token_tools.operations.calls import format_call
from token_tools.operations.journal_history import JournalHistory
from token_tools.operations.next_steps import PERSON_DECIDES
from token_tools.operations.unfinished import UserHistory, render_unfinished
from token_tools.quoting import MAX_ITEMS_SHOWN, render_first_items
from token_tools.times import format_time

MAX_TOKENS_PER_USER: Final = 2
"""Tokens that one user can have at a time. Source: the vendor's guide."""


def check_token_limit(user: Identity, history: UserHistory, clock: ClusterClock) -> None:
    """Check that a user can have another token, as far as is known.

    Raises:
        Refusal: If the user cannot. It names the user's tokens, what is the matter with each, and which of them can go.
    """
    # Only live tokens count here: whether disabled and expired ones count too, only the cluster knows.
    live = [token for token in history.tokens if user.may_be(token.user) and token.is_live(now=clock())]
    if len(live) >= MAX_TOKENS_PER_USER:
        raise Refusal(
            f"{user} has {len(live):,} access tokens already, as many as a user can have: "
            f"{render_lifetimes(live, clock)}. {render_way_out(live, history, clock)}"
        )


def render_lifetimes(tokens: Sequence[AccessToken], clock: ClusterClock) -> str:
    """Render the first few of these tokens with their lifetimes."""
    return render_first_items([f"{token.id} ({token.render_lifetime(now=clock())})" for token in tokens])


def render_way_out(tokens: Sequence[AccessToken], history: UserHistory, clock: ClusterClock) -> str:
    """Render which of these tokens can go.

    Tokens that nobody can use come first, then those that do not work. Among tokens that work, a person has to decide.
    """
    if history.unfinished:
        return " ".join(render_unfinished(history.unfinished))
    dead = [token for token in tokens if not token.is_live(now=clock())]
    return (
        " ".join(_render_dead_token(token, history.journal_history, clock) for token in dead[:MAX_ITEMS_SHOWN])
        or PERSON_DECIDES
    )


def _render_dead_token(token: AccessToken, journal_history: JournalHistory, clock: ClusterClock) -> str:
    deletion = format_call("delete_access_token", id=token.id)
    if token.is_expired(now=clock()):
        return f"{token.id} has expired; if nobody wants it back: {deletion}."
    disabling = journal_history.disablings.get(token.id)
    known = (
        f"at {format_time(disabling.last_seen)} by {disabling.actor}" if disabling else "since when is not known here"
    )
    return f"{token.id} is disabled ({known}); once it is sure that nobody wants it back: {deletion}."
