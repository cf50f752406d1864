"""Render tokens as rows and as fields, and the answers that list tokens or show one.

The text gives times to the minute. Text that the cluster's users chose appears in the spelling of `identity`, which
shows it as data.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar

from pydantic import BaseModel, Field

from token_tools.cluster.clock import MIN_CLOCK_DIFFERENCE, render_present
from token_tools.cluster.identity import Identity, format_name, format_sid
from token_tools.cluster.models import AccessToken
from token_tools.operations.read import TokenListing, TokenView
from token_tools.operations.selection import SelectedState, TokenSelection
from token_tools.quoting import MAX_ANSWER_CHARS
from token_tools.times import (
    format_duration,
    format_relative_time,
    format_time,
    format_time_without_zone,
)
from token_tools.views.rendered_result import RenderedResult, join_lines, join_warnings

MAX_LIMIT: Final = 200
"""Tokens of one answer that a caller can ask for."""

MAX_USER_BYTES: Final = 40
"""Bytes, as JSON, of a user's spelling where space is short; a user with a longer one is shown by a number."""

MAX_OTHER_ROWS: Final = 20
"""Rows of a user's other tokens; a user can have two tokens."""

_SELECTION_WORDS: Final[Mapping[SelectedState, tuple[str, str]]] = {
    "expiring": ("Enabled and expiring within {within}", "soonest"),
    "expired": ("Expired, enabled or not", "latest"),
    "never_expires": ("Enabled and never expiring", "oldest"),
    "disabled": ("Disabled and not expired", "oldest"),
}
"""Which tokens are in a state, and which of them come first."""

TABLE_HEADER: Final = "id | user | expires (UTC) | created (UTC) | state, where not enabled | creator"


class TokenEntry(BaseModel):
    """One access token; what the cluster does not tell is left out."""

    id: str
    user: str
    creator: str | None = None
    creation_time: str
    expiration_time: str | None = Field(None, description="Absent: never")
    expired: bool | None = Field(None, description="Absent: false", json_schema_extra={"default": False})
    enabled: bool | None = Field(None, description="Absent: true", json_schema_extra={"default": True})


Entry = TypeVar("Entry", bound=TokenEntry)
Listing = TypeVar("Listing", TokenListing, TokenSelection)


class TokenList(BaseModel):
    """Access tokens: a page of them, or the first of those in one state."""

    summary: str
    usual_creator: str | None = Field(None, description="Of the tokens without one")
    tokens: list[TokenEntry]
    after: str | None = None
    left_out: int | None = None
    next_step: str | None = None


class TokenDetails(TokenEntry):
    """One access token with all that is known."""

    summary: str
    user_domain: str | None = None
    user_auth_id: str | None = None
    user_uid: int | None = None
    user_gid: int | None = None
    user_sid: str | None = None
    user_name: str | None = None
    creator_domain: str | None = None
    creator_auth_id: str | None = None
    creator_uid: int | None = None
    creator_gid: int | None = None
    creator_sid: str | None = None
    creator_name: str | None = None
    is_own: bool | None = None
    other_tokens: list[str] | None = None
    warning: str | None = None


def render_listing(listing: TokenListing, *, address: str) -> RenderedResult:
    """Render a page of tokens, or as many of them as fit into an answer, with the cursor of those that follow."""
    return _render_what_fits(listing, partial(_render_page, address=address))


def render_selection(selection: TokenSelection, *, address: str) -> RenderedResult:
    """Render the tokens in one state, or as many of them as fit into an answer, with the number of the others."""
    selected_count = len(selection.tokens)

    def render(shown: TokenSelection) -> RenderedResult:
        next_step = _render_way_to_rest(shown, does_fit=len(shown.tokens) == selected_count)
        table = _render_table(_render_selection_headline(shown, address), shown, next_step)
        table.fields.left_out = shown.left_out or None
        return RenderedResult(table.text, table.fields)

    return _render_what_fits(selection, render)


def _render_what_fits(listing: Listing, render: Callable[[Listing], RenderedResult]) -> RenderedResult:
    rendered = render(listing)
    while rendered.char_count >= MAX_ANSWER_CHARS and (count := len(listing.tokens)) > 1:
        fitting = count * MAX_ANSWER_CHARS // rendered.char_count
        listing = listing.shorten(max(1, min(fitting, count - 1)))
        rendered = render(listing)
    return rendered


def _render_page(listing: TokenListing, address: str) -> RenderedResult:
    table = _render_table(_render_headline(listing, address), listing, _render_next_page(listing))
    table.fields.after = listing.page.cursor
    return RenderedResult(table.text, table.fields)


class _Table(NamedTuple):
    text: str
    fields: TokenList


def _render_table(headline: str, listing: TokenListing | TokenSelection, next_step: str | None) -> _Table:
    tokens = listing.tokens
    entries = [to_entry(TokenEntry, token, listing.time) for token in tokens]
    # Most tokens of a cluster are made by one administrator: naming them once is a seventh of the answer.
    usual = _find_usual_creator(entries)
    rows = [
        render_row(token, entry, listing.time, usual_creator=usual)
        for token, entry in zip(tokens, entries, strict=True)
    ]
    for entry in entries:
        entry.creator = None if entry.creator == usual else entry.creator
        entry.enabled = None if entry.enabled else entry.enabled
    columns = [f"{TABLE_HEADER}, where not {usual}" if usual else TABLE_HEADER] if rows else []
    fields = TokenList(summary=headline, usual_creator=usual, tokens=entries, next_step=next_step)
    return _Table(join_lines([headline, *columns, *rows, next_step]), fields)


def render_token_view(view: TokenView, *, address: str) -> RenderedResult:
    """Render one token: each field of its user and creator, the user's other tokens, and whether it is our own."""
    token, now = view.token, view.time
    own = {True: ". This server runs on it", False: ". This server does not run on it", None: ""}[view.is_own]
    life = f"{token.render_lifetime(now=now)}{own}"
    present = render_present(now, view.clock_ahead)
    headline = f"Access token {token.id} of {token.user} on {address}: {life}. {present}."
    others = None if view.other_tokens is None else _render_rows(view.other_tokens, now)
    identities = _to_identity_fields("user", token.user) | _to_identity_fields("creator", token.creator or Identity())
    fields = to_entry(
        TokenDetails,
        token,
        now,
        **identities,
        summary=headline,
        is_own=view.is_own,
        other_tokens=others,
        warning=join_warnings(
            *view.caveats, *render_future_caveat(_find_latest_creation([token, *(view.other_tokens or [])]), now)
        ),
    )
    lines = [
        headline,
        TABLE_HEADER,
        render_row(token, fields, now),
        "; ".join(f"{name} {value}" for name, value in identities.items()),
        _render_others_heading(view),
        *(others or []),
        fields.warning,
    ]
    return RenderedResult(join_lines(lines), fields)


def render_row(token: AccessToken, entry: TokenEntry, now: datetime, *, usual_creator: str | None = None) -> str:
    """Render a token, whose fields are `entry`, as a row under `TABLE_HEADER`; the usual creator is left out.

    A cell without content stays as an empty cell, unless no other cell follows it.
    """
    expires = (
        "never"
        if token.expires is None
        else f"{format_time_without_zone(token.expires)} ({_render_expiry_distance(token, now)})"
    )
    state, creator = "disabled" if token.is_disabled else "", entry.creator or "unknown"
    cells = [token.id, entry.user, expires, format_time_without_zone(token.created), state]
    return " | ".join([*cells, "" if creator == usual_creator else creator]).rstrip(" |")


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_short_user(user: Identity) -> str:
    """Return the spelling of a user if it is short, else a number."""
    spelling = str(user)
    if len(json.dumps(spelling)) <= MAX_USER_BYTES:
        return spelling
    return str(user.as_minimal_identity()) if user.auth_id else format_name((user.name or "")[: MAX_USER_BYTES // 8])


def _find_usual_creator(entries: Iterable[TokenEntry]) -> str | None:
    """Return who created most of the tokens, if that is more than one token."""
    for creator, number in Counter(entry.creator for entry in entries).most_common(1):
        return creator if number > 1 else None
    return None


def _render_headline(listing: TokenListing, address: str) -> str:
    more = ", and there are more" if listing.page.cursor else ""
    count = f"{format_count(len(listing.tokens), 'access token')}{_render_owner(listing)} on {address}{more}."
    return " ".join([count, *_render_circumstances(listing)])


def _render_selection_headline(selection: TokenSelection, address: str) -> str:
    which, order = _SELECTION_WORDS[selection.criterion.state]
    within = format_duration(selection.criterion.expiring_within)
    of_all = f"{selection.match_count:,} of {format_count(selection.total, 'access token')}"
    count = f"{which.format(within=within)}: {of_all}{_render_owner(selection)} on {address}, the {order} first."
    return " ".join([count, *_render_circumstances(selection)])


def _render_owner(listing: TokenListing | TokenSelection) -> str:
    return f" of {listing.user}" if listing.user else ""


def _render_circumstances(listing: TokenListing | TokenSelection) -> Sequence[str]:
    """Render the time of a list, and what is missing or unfinished."""
    future_caveat = render_future_caveat(_find_latest_creation(listing.tokens), listing.time)
    return [f"{render_present(listing.time, listing.clock_ahead)}.", *listing.caveats, *future_caveat]


def _render_namesakes(count: int) -> Sequence[str]:
    left_out = f"{format_count(count, 'token')} left out, of what is or may be another user with that name."
    return [f"{left_out} Name the user by auth_id to be sure."] if count else []


def _render_way_to_rest(selection: TokenSelection, *, does_fit: bool) -> str | None:
    """Render how many tokens were left out, and how to see them."""
    steps = [*_render_namesakes(selection.namesake_count)]
    if selection.left_out:
        how = "raise `limit`, or " if does_fit and len(selection.tokens) < MAX_LIMIT else ""
        steps.append(f"{selection.left_out:,} more left out: {how}name a `user`.")
    return " ".join(steps) or None


def _render_next_page(listing: TokenListing) -> str | None:
    steps = [*_render_namesakes(listing.page.filtered_out)]
    if listing.page.cursor:
        steps.append(f"For the next page, call again with after={json.dumps(listing.page.cursor)}.")
    return " ".join(steps) or None


def _render_expiry_distance(token: AccessToken, now: datetime) -> str:
    distance = format_relative_time(token.expires or now, now=now)
    return f"expired {distance}" if token.is_expired(now=now) else distance


def _render_rows(tokens: Sequence[AccessToken], now: datetime) -> list[str]:
    rows = [render_row(token, to_entry(TokenEntry, token, now), now) for token in tokens[:MAX_OTHER_ROWS]]
    return rows if len(rows) == len(tokens) else [*rows, f"and {len(tokens) - len(rows):,} more"]


def render_future_caveat(latest: datetime | None, now: datetime) -> Iterator[str]:
    """Render the caveat that the clocks differ, if the latest creation of some tokens is still to come."""
    if latest is not None and latest - now >= MIN_CLOCK_DIFFERENCE:
        yield (
            f"A token here was made at {format_time(latest)}, which is still to come by this machine's clock. "
            f"The clocks differ, so distances in time may be wrong by {format_duration(latest - now)} or more."
        )


def _find_latest_creation(tokens: Iterable[AccessToken]) -> datetime | None:
    return max((token.created for token in tokens), default=None)


def _render_others_heading(view: TokenView) -> str | None:
    if view.other_tokens is None:
        return None
    return "The user's other tokens:" if view.other_tokens else "The user has no other token."


def to_entry(model: type[Entry], token: AccessToken, now: datetime, **others: object) -> Entry:
    """Return a token as a `TokenEntry`, or as a model that extends it and takes `others`."""
    return model.model_validate(
        {
            "id": token.id,
            "user": str(token.user),
            "creator": None if token.creator is None else str(token.creator),
            "creation_time": token.creation_time,
            "expiration_time": token.expiration_time,
            "expired": token.is_expired(now=now) or None,
            "enabled": token.enabled,
            **others,
        }
    )


def _to_identity_fields(role: str, identity: Identity) -> dict[str, str | int]:
    """Return each field that is known. Text that somebody chose is quoted where that is needed to show it as data."""
    formats = {"domain": format_name, "name": format_name, "sid": format_sid}
    return {
        f"{role}_{key}": formats[key](value) if key in formats and isinstance(value, str) else value
        for key, value in identity.known_fields().items()
    }
