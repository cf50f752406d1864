"""Models to the words that an assistant reads, and to the same facts as fields.

Some hosts hand their model only the text of a result and others only its structured part, so each carries everything,
the text with times to the minute, and each is compact. Text that the cluster's users chose appears in the spelling of
`identity`, which shows it as data.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, Field

from token_tools.cluster.clock import MIN_CLOCK_DIFFERENCE, render_clock_note, render_present
from token_tools.cluster.identity import Identity, format_name, format_sid
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.operations.create import CreatePlan, CreateResult
from token_tools.operations.delete import DeleteResult
from token_tools.operations.new_token import CreatedToken
from token_tools.operations.next_steps import DISABLE_FIRST_ADVICE, HAND_OVER_STEP, render_hand_over, render_steps
from token_tools.operations.read import TokenListing, TokenView
from token_tools.operations.rotate import RotateResult
from token_tools.operations.update import UpdateResult
from token_tools.quoting import MAX_ANSWER_CHARS, TRUNCATION_NOTICE, render_first_items, truncate
from token_tools.times import (
    format_duration,
    format_relative_time,
    format_rfc3339,
    format_time,
    format_time_without_zone,
)

MINUTE: Final = timedelta(minutes=1)

MAX_OTHER_ROWS: Final = 20
"""How many of a user's other tokens are told; a user can have two."""

TABLE_HEADER: Final = "id | user | expires (UTC) | created (UTC) | state, where not enabled | creator"

UNKNOWN_CREATOR: Final = "unknown"


class TokenEntry(BaseModel):
    """One access token; what the cluster does not tell is left out."""

    id: str
    user: str
    creator: str | None = None
    creation_time: str
    expiration_time: str | None = Field(None, description="Absent: never")
    expired: bool | None = Field(None, description="Absent: false", json_schema_extra={"default": False})
    enabled: bool | None = Field(None, description="Absent: true", json_schema_extra={"default": True})


class TokenList(BaseModel):
    """Access tokens, a page at a time."""

    summary: str
    usual_creator: str | None = Field(None, description="Of the tokens without one")
    tokens: list[TokenEntry]
    after: str | None = None
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


class NewToken(BaseModel):
    """An access token just made."""

    summary: str
    id: str
    user: str
    expiration_time: str | None = Field(None, description="Absent: never")
    bearer_token_in: str
    fingerprint: str = Field(description="SHA-256 of the bearer token")
    bearer_token: str | None = None
    warning: str | None = None
    next_step: str


class RotatedToken(NewToken):
    """An access token just made to replace another."""

    replaces: str


class ChangedToken(BaseModel):
    """An access token before and after a change."""

    summary: str
    id: str
    user: str
    changed: bool
    enabled_before: bool
    enabled: bool
    expiration_time_before: str | None = None
    expiration_time: str | None = Field(None, description="Absent: never")
    warning: str | None = None
    next_step: str | None = None


class DeletedToken(TokenEntry):
    """An access token that is gone."""

    summary: str
    warning: str | None = None
    next_step: str


@dataclass(frozen=True)
class RenderedResult:
    """One answer in both channels."""

    text: str
    fields: BaseModel

    @property
    def char_count(self) -> int:
        """Characters in the larger channel, the structured one as the most verbose of writers would write it."""
        return max(len(self.text), len(json.dumps(self.structured)))

    @cached_property
    def structured(self) -> dict[str, Any]:
        """The fields that have a value, as JSON knows them."""
        return self.fields.model_dump(mode="json", exclude_none=True)

    def truncate(self) -> tuple[str, dict[str, Any]]:
        """The text and the fields, both within bounds; it says so where something is cut."""
        return truncate(self.text), _truncate_fields(self.structured)


def _truncate_fields(structured: dict[str, Any]) -> dict[str, Any]:
    """The fields, of which the longest are halved until all are within bounds."""
    while len(json.dumps(structured)) >= MAX_ANSWER_CHARS:
        name, value = max(structured.items(), key=lambda field: len(json.dumps(field[1])))
        shorter = value[: len(value) // 2]
        structured = structured | {name: f"{shorter}{TRUNCATION_NOTICE}" if isinstance(value, str) else shorter}
    return structured


def render_listing(listing: TokenListing, *, address: str) -> RenderedResult:
    """A page of tokens, or as many of them as fit into an answer: a headline, a line for each, and how to go on."""
    rendered = _render_listing(listing, address)
    while rendered.char_count >= MAX_ANSWER_CHARS and (count := len(listing.page.tokens)) > 1:
        fitting = count * MAX_ANSWER_CHARS // rendered.char_count
        listing = listing.shorten(max(1, min(fitting, count - 1)))
        rendered = _render_listing(listing, address)
    return rendered


def _render_listing(listing: TokenListing, address: str) -> RenderedResult:
    headline = _render_headline(listing, address)
    next_step = _render_next_page(listing)
    tokens = listing.page.tokens
    # Most tokens of a cluster are made by one administrator: naming them once is a seventh of the answer.
    usual = _find_usual_creator(tokens)
    rows = [render_row(token, listing.time, usual_creator=usual) for token in tokens]
    columns = [f"{TABLE_HEADER}, where not {usual}" if usual else TABLE_HEADER] if rows else []
    fields = TokenList(
        summary=headline,
        usual_creator=usual,
        tokens=[_to_entry(token, listing.time, usual) for token in tokens],
        after=listing.page.cursor,
        next_step=next_step,
    )
    return RenderedResult(_join_lines([headline, *columns, *rows, next_step]), fields)


def render_token_view(view: TokenView, *, address: str) -> RenderedResult:
    """One token: a line, each field of both identities, its user's other tokens, and whether it is the server's own."""
    token, now = view.token, view.time
    own = {True: ". This server runs on it", False: ". This server does not run on it", None: ""}[view.is_own]
    life = f"{token.render_lifetime(now=now)}{own}"
    present = render_present(now, view.clock_ahead)
    headline = f"Access token {token.id} of {token.user} on {address}: {life}. {present}."
    others = None if view.other_tokens is None else _render_rows(view.other_tokens, now)
    identities = _to_identity_fields("user", token.user) | _to_identity_fields("creator", token.creator or Identity())
    fields = TokenDetails.model_validate(
        {
            **_to_fields(token, now),
            **identities,
            "summary": headline,
            "is_own": view.is_own,
            "other_tokens": others,
            "warning": _join_warnings(
                *view.caveats, *render_future_caveat(_find_latest_creation([token, *(view.other_tokens or [])]), now)
            ),
        }
    )
    lines = [
        headline,
        TABLE_HEADER,
        render_row(token, now),
        "; ".join(f"{name} {value}" for name, value in identities.items()),
        _render_others_heading(view),
        *(others or []),
        fields.warning,
    ]
    return RenderedResult(_join_lines(lines), fields)


def render_create_result(result: CreateResult, *, address: str) -> RenderedResult:
    """What was made, until when it lives, and where its secret is."""
    plan, minted = result.plan, result.created
    headline = (
        f"Created access token {minted.delivered.id} for {plan.create_request.user} on {address}; "
        f"it {_render_created_expiry(plan, minted)}. Its bearer token is in {minted.delivered.location.render()}."
    )
    fields = NewToken.model_validate(
        {**_to_new_token_fields(plan, minted), "summary": headline, "next_step": minted.delivered.how_to_use}
    )
    return RenderedResult(_render_new_token(fields), fields)


def render_rotate_result(result: RotateResult, *, address: str, credential_location: str) -> RenderedResult:
    """The new token beside the old, and what remains to be done.

    `credential_location` is where the server has its own from.
    """
    plan, minted = result.plan, result.created
    old, delivered = plan.old_token, minted.delivered
    headline = (
        f"Rotated: new access token {delivered.id} for {plan.create_request.user} on {address}; it "
        f"{_render_created_expiry(plan, minted)}, "
        f"and it works. Its bearer token is in {delivered.location.render()}. The old one, {old.id}, is as it was."
    )
    hand_over = (
        render_hand_over(credential_location, names_file=delivered.location.is_credentials_store)
        if plan.is_own
        else HAND_OVER_STEP
    )
    steps = f"{render_steps(old, plan.time, hand_over)} {delivered.how_to_use}"
    fields = RotatedToken.model_validate(
        {**_to_new_token_fields(plan, minted), "summary": headline, "next_step": steps, "replaces": old.id}
    )
    return RenderedResult(_render_new_token(fields), fields)


def render_update_result(result: UpdateResult, *, address: str, now: datetime) -> RenderedResult:
    """A token before and after."""
    token, wanted = result.plan.token, result.plan.wanted
    after = wanted if result.applied is None or result.applied.token_after is None else result.applied.token_after.state
    whose = f"access token {token.id} of {token.user} on {address}"
    if result.applied is None:
        headline = f"Nothing changed: {whose} is as asked already ({after.render(now=now)})."
    elif after == token.state:
        headline = (
            f"Nothing changed: {whose} is as before ({after.render(now=now)}), though the cluster took the request."
        )
    else:
        headline = f"Changed {whose}: it is {after.render(now=now)}. Before: {token.state.render(now=now)}."
    warnings = [*(result.applied.warnings if result.applied else ()), render_clock_note(result.plan.clock_ahead)]
    fields = ChangedToken(
        summary=headline,
        id=token.id,
        user=str(token.user),
        changed=after != token.state,
        enabled_before=token.state.enabled,
        enabled=after.enabled,
        expiration_time_before=token.expiration_time,
        expiration_time=None if after.expires is None else format_rfc3339(after.expires),
        warning=_join_warnings(_render_ignored_update(wanted, after, now), *warnings),
        next_step=_render_undo(result, after, now),
    )
    return RenderedResult(_join_lines([headline, fields.warning, fields.next_step]), fields)


def _render_undo(result: UpdateResult, after: TokenState, now: datetime) -> str | None:
    """What undoes a change that may stop whoever works with a token, and what of it cannot be undone."""
    before, token_id = result.plan.token.state, result.plan.token.id
    is_stopped = before.enabled and not after.enabled
    is_shortened = after.expires is not None and (before.expires is None or after.expires < before.expires)
    if not is_stopped and not (is_shortened and result.plan.token.is_live(now=now)):
        return None
    is_moved = before.expires != after.expires
    stays = _render_lost_expiry(before, now, result.max_lifetime) if is_moved else None
    expires = "never" if before.expires is None else format_rfc3339(before.expires)
    back = [
        f'id="{token_id}"',
        *(["enabled=true"] if is_stopped else []),
        *([f'expiration_time="{expires}"'] if is_moved and stays is None else []),
    ]
    undone = "this" if stays is None else "the disabling"
    undoing = f"update_access_token({', '.join(back)}) undoes {undone}" if len(back) > 1 else None
    final = f'delete_access_token(id="{token_id}") makes it final' if is_stopped else None
    told = "; ".join(filter(None, ["Watch whether anything breaks", ", ".join(filter(None, [undoing, final]))]))
    return " ".join(filter(None, [f"{told}.", stays]))


def _render_lost_expiry(before: TokenState, now: datetime, max_lifetime: timedelta | None) -> str | None:
    """Why the expiry that a token had cannot be set again; None if it can."""
    if before.expires is not None and before.expires <= now:
        return "The expiry from before is over, and cannot be set again."
    if max_lifetime is not None and (before.expires is None or before.expires > now + max_lifetime):
        was = "that it never expired" if before.expires is None else f"the expiry of {format_time(before.expires)}"
        return f"The new expiry stays: QUMULO_MAX_LIFETIME does not allow {was} again."
    return None


def render_delete_result(result: DeleteResult, *, address: str) -> RenderedResult:
    """What is gone, fully enough to make it again."""
    token, now = result.plan.token, result.plan.time
    again = _format_same_expiry(token, now, result.max_lifetime)
    headline = (
        f"Deleted access token {token.id} of {token.user} on {address} for ever: {token.render_lifetime(now=now)}."
    )
    advice = f" The deleted one still worked. {DISABLE_FIRST_ADVICE}" if token.is_live(now=now) else ""
    user = json.dumps(str(token.user), ensure_ascii=False)
    fields = DeletedToken.model_validate(
        {
            **_to_fields(token, now),
            "summary": headline,
            "warning": _join_warnings(*result.applied.warnings, render_clock_note(result.plan.clock_ahead)),
            "next_step": f'Another like it: create_access_token(user={user}, expiration_time="{again}").{advice}',
        }
    )
    return RenderedResult(
        _join_lines([headline, TABLE_HEADER, render_row(token, now), fields.warning, fields.next_step]), fields
    )


def _format_same_expiry(token: AccessToken, now: datetime, max_lifetime: timedelta | None) -> str:
    """What to ask for to get such an expiry again: the same time, or the same lifetime where that is over.

    It is the longest that the operator allows where the expiry from before is not allowed.
    """
    is_over = token.expires is not None and token.expires <= now
    life = None if token.expires is None else token.expires - (token.created if is_over else now)
    if max_lifetime is not None and (life is None or life > max_lifetime):
        return format_duration_argument(max_lifetime)
    if token.expires is None:
        return "never"
    return (
        format_duration_argument(max(life, MINUTE)) if is_over and life is not None else format_rfc3339(token.expires)
    )


def format_duration_argument(duration: timedelta) -> str:
    """A duration as an argument, in the largest unit that it is one of: `90d`, `12h`, `30min`, `20s`; never more."""
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": MINUTE, "s": timedelta(seconds=1)}
    return next((f"{duration // unit}{name}" for name, unit in units.items() if duration >= unit), "1s")


def render_row(token: AccessToken, now: datetime, *, usual_creator: str | None = None) -> str:
    """A row of a table, as `TABLE_HEADER` heads it: what is told of one token, without a creator that is the usual.

    A cell with nothing to tell is empty, and left out only where no other follows.
    """
    expires = (
        "never"
        if token.expires is None
        else f"{format_time_without_zone(token.expires)} ({_render_expiry_distance(token, now)})"
    )
    state, creator = "disabled" if token.is_disabled else "", _format_creator(token)
    cells = [token.id, str(token.user), expires, format_time_without_zone(token.created), state]
    return " | ".join([*cells, "" if creator == usual_creator else creator]).rstrip(" |")


def render_open_intents(plan: CreatePlan) -> str:
    """What the journal says was begun for the same user and has no outcome."""
    if not plan.create_request.open_intents:
        return ""
    times = render_first_items([format_time(intent.time) for intent in plan.create_request.open_intents])
    return (
        f"The journal knows no outcome of an earlier create for this user ({times}): "
        "a token of that time whose bearer token nobody has may be among theirs."
    )


def render_expiry(plan: CreatePlan) -> str:
    """Until when a new token is to live."""
    expires = plan.create_request.expires
    if expires is None:
        return "never expires"
    default = ", the default lifetime" if plan.has_default_expiry else ""
    return f"expires {format_time(expires)} ({format_relative_time(expires, now=plan.time)}{default})"


def format_count(number: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _find_usual_creator(tokens: Iterable[AccessToken]) -> str | None:
    """Who made most of the tokens, if that is more than one."""
    for creator, number in Counter(map(_format_creator, tokens)).most_common(1):
        return creator if number > 1 and creator != UNKNOWN_CREATOR else None
    return None


def _format_creator(token: AccessToken) -> str:
    return UNKNOWN_CREATOR if token.creator is None else str(token.creator)


def _to_entry(token: AccessToken, now: datetime, usual_creator: str | None) -> TokenEntry:
    creator = _format_creator(token)
    told = _to_fields(token, now) | {"creator": None if creator == usual_creator else creator}
    return TokenEntry.model_validate(told | {"enabled": None if token.enabled else token.enabled})


def _render_headline(listing: TokenListing, address: str) -> str:
    whose = f" of {listing.user}" if listing.user else ""
    more = ", and there are more" if listing.page.cursor else ""
    doubts = [*listing.caveats, *render_future_caveat(_find_latest_creation(listing.page.tokens), listing.time)]
    told = f"{format_count(len(listing.page.tokens), 'access token')}{whose} on {address}{more}."
    return " ".join([told, f"{render_present(listing.time, listing.clock_ahead)}.", *doubts])


def _render_next_page(listing: TokenListing) -> str | None:
    steps: list[str] = []
    if listing.page.filtered_out:
        steps.append(
            f"{format_count(listing.page.filtered_out, 'token')} left out, of what is or may be another user with "
            "that name. "
            "Name the user by auth_id to be sure."
        )
    if listing.page.cursor:
        steps.append(f"For the next page, call again with after={json.dumps(listing.page.cursor)}.")
    return " ".join(steps) or None


def _render_expiry_distance(token: AccessToken, now: datetime) -> str:
    distance = format_relative_time(token.expires or now, now=now)
    return f"expired {distance}" if token.is_expired(now=now) else distance


def _render_rows(tokens: Sequence[AccessToken], now: datetime) -> list[str]:
    rows = [render_row(token, now) for token in tokens[:MAX_OTHER_ROWS]]
    return rows if len(rows) == len(tokens) else [*rows, f"and {len(tokens) - len(rows):,} more"]


def render_future_caveat(latest: datetime | None, now: datetime) -> Iterator[str]:
    """What there is to say where the youngest of some tokens was made at a time that is still to come."""
    if latest is not None and latest - now >= MIN_CLOCK_DIFFERENCE:
        yield (
            f"A token here was made at {format_time(latest)}, which is still to come by this machine's clock. "
            "The clocks "
            f"differ, so distances in time may be wrong by {format_duration(latest - now)} or more."
        )


def _find_latest_creation(tokens: Iterable[AccessToken]) -> datetime | None:
    return max((token.created for token in tokens), default=None)


def _render_others_heading(view: TokenView) -> str | None:
    if view.other_tokens is None:
        return None
    return "The user's other tokens:" if view.other_tokens else "The user has no other token."


def _render_created_expiry(plan: CreatePlan, created: CreatedToken) -> str:
    """Until when a new token lives, as the cluster tells it since."""
    found = created.token
    if found is None or (found.expires == plan.create_request.expires and not created.clock_ahead):
        return render_expiry(plan)
    if found.expires is None:
        return "never expires"
    # It was made just now, by the clock that will end it.
    return f"expires {format_time(found.expires)} ({format_relative_time(found.expires, now=found.created)})"


def _render_warnings(plan: CreatePlan, created: CreatedToken) -> Iterator[str]:
    """What the cluster did otherwise than asked (an old one may not know about expiry), and what was left open."""
    order, found = plan.create_request, created.token
    if found is not None and order.user.merged_with(found.user) is None:
        yield f"Beware: the cluster made it for {found.user}. Delete it unless that is who was meant."
    if clock := render_clock_note(created.clock_ahead):
        yield clock
    if found is None:
        yield "It could not be read back: its user and its expiry are told as they were asked for."
    if found is None and order.max_lifetime is not None:
        yield "Whether it keeps to QUMULO_MAX_LIFETIME could not be verified: look at it with get_access_token."
    if found is not None and found.expires != order.expires:
        yield (
            "Beware: the cluster did not take the expiry as asked; there, the token "
            f"{_render_created_expiry(plan, created)}."
        )
    if created.delivered.warning:
        yield created.delivered.warning
    if created.journal_error:
        yield created.journal_error
    if plan.create_request.open_intents:
        yield render_open_intents(plan)


def _render_ignored_update(wanted: TokenState, after: TokenState, now: datetime) -> str | None:
    if wanted == after:
        return None
    return f"Beware: the cluster did not take the change as asked; there, the token is {after.render(now=now)}."


def _to_fields(token: AccessToken, now: datetime) -> dict[str, object]:
    return {
        "id": token.id,
        "user": str(token.user),
        "creator": None if token.creator is None else str(token.creator),
        "creation_time": token.creation_time,
        "expiration_time": token.expiration_time,
        "expired": token.is_expired(now=now) or None,
        "enabled": token.enabled,
    }


def _to_identity_fields(role: str, identity: Identity) -> dict[str, str | int]:
    """Each field that is known, as it is, but for text that somebody chose, which is quoted where it has to be."""
    tellers = {"domain": format_name, "name": format_name, "sid": format_sid}
    return {
        f"{role}_{key}": tellers[key](value) if key in tellers and isinstance(value, str) else value
        for key, value in identity.known_fields().items()
    }


def _to_new_token_fields(plan: CreatePlan, created: CreatedToken) -> dict[str, object]:
    delivered, found = created.delivered, created.token
    expires = plan.create_request.expires if found is None else found.expires
    return {
        "id": delivered.id,
        "user": str(plan.create_request.user),
        "expiration_time": None if expires is None else format_rfc3339(expires),
        "bearer_token_in": delivered.location.render(),
        "fingerprint": delivered.fingerprint,
        "bearer_token": None if delivered.bearer_token is None else delivered.bearer_token.get_secret_value(),
        "warning": _join_warnings(*_render_warnings(plan, created)),
    }


def _render_new_token(fields: NewToken) -> str:
    fingerprint = f"SHA-256 of the bearer token: {fields.fingerprint}"
    return _join_lines([fields.summary, fields.bearer_token, fingerprint, fields.warning, fields.next_step])


def _join_warnings(*warnings: str | None) -> str | None:
    return " ".join(warning for warning in warnings if warning) or None


def _join_lines(lines: Iterable[str | None]) -> str:
    return "\n".join(line for line in lines if line)
