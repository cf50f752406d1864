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

from token_tools.cluster.clock import MATTERS, tell_clock, tell_present
from token_tools.cluster.identity import Identity, tell_name, tell_sid
from token_tools.cluster.models import AccessToken, State
from token_tools.operations.create import Minted
from token_tools.operations.plans import Creation, CreationPlan, Deletion, Listing, Portrait, Rotation, Update
from token_tools.quoting import CUT, LONGEST, cut, tell_some
from token_tools.times import format_instant, tell_distance, tell_duration, tell_minute, tell_time

ADVICE: Final = "Better disable a token first, watch whether anything breaks, and delete it then."
"""What the vendor's guide says about retiring a token."""

HAND_OVER: Final = "Put it where the old one is used"

MINUTE: Final = timedelta(minutes=1)

MOST_ROWS: Final = 20
"""How many of a user's other tokens are told; a user can have two."""

COLUMNS: Final = "id | user | expires (UTC) | created (UTC) | state, where not enabled | creator"

UNKNOWN: Final = "unknown"


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
class Summary:
    """One answer in both channels."""

    text: str
    fields: BaseModel

    @property
    def size(self) -> int:
        """Characters in the larger channel, the structured one as the most verbose of writers would write it."""
        return max(len(self.text), len(json.dumps(self.structured)))

    @cached_property
    def structured(self) -> dict[str, Any]:
        """The fields that have a value, as JSON knows them."""
        return self.fields.model_dump(mode="json", exclude_none=True)

    def cut(self) -> tuple[str, dict[str, Any]]:
        """The text and the fields, both within bounds; it says so where something is cut."""
        return cut(self.text), _cut_fields(self.structured)


def _cut_fields(structured: dict[str, Any]) -> dict[str, Any]:
    """The fields, of which the longest are halved until all are within bounds."""
    while len(json.dumps(structured)) >= LONGEST:
        name, value = max(structured.items(), key=lambda field: len(json.dumps(field[1])))
        shorter = value[: len(value) // 2]
        structured = structured | {name: f"{shorter}{CUT}" if isinstance(value, str) else shorter}
    return structured


def summarize_listing(listing: Listing, *, address: str) -> Summary:
    """A page of tokens: how many and whose, a line for each, and how to go on."""
    headline = _tell_headline(listing, address)
    next_step = _tell_next_page(listing)
    # Most tokens of a cluster are made by one administrator: naming them once is a seventh of the answer.
    usual = _find_usual_creator(listing.tokens)
    rows = [tell_token(token, listing.time, usual_creator=usual) for token in listing.tokens]
    columns = [f"{COLUMNS}, where not {usual}" if usual else COLUMNS] if rows else []
    fields = TokenList(
        summary=headline,
        usual_creator=usual,
        tokens=[_make_entry(token, listing.time, usual) for token in listing.tokens],
        after=listing.after,
        next_step=next_step,
    )
    return Summary(_join([headline, *columns, *rows, next_step]), fields)


def summarize_portrait(portrait: Portrait, *, address: str) -> Summary:
    """One token: a line, each field of both identities, its user's other tokens, and whether it is the server's own."""
    token, now = portrait.token, portrait.time
    own = {True: ". This server runs on it", False: ". This server does not run on it", None: ""}[portrait.is_own]
    life = f"{tell_life(token, now)}{own}"
    present = tell_present(now, portrait.ahead)
    headline = f"Access token {token.id} of {token.user} on {address}: {life}. {present}."
    others = None if portrait.others is None else _tell_rows(portrait.others, now)
    identities = _describe_identity("user", token.user) | _describe_identity("creator", token.creator or Identity())
    fields = TokenDetails.model_validate(
        {
            **_describe(token, now),
            **identities,
            "summary": headline,
            "is_own": portrait.is_own,
            "other_tokens": others,
            "warning": _join_warnings(
                *portrait.doubts, *tell_future(_find_latest([token, *(portrait.others or [])]), now)
            ),
        }
    )
    lines = [
        headline,
        COLUMNS,
        tell_token(token, now),
        "; ".join(f"{name} {value}" for name, value in identities.items()),
        _tell_others(portrait),
        *(others or []),
        fields.warning,
    ]
    return Summary(_join(lines), fields)


def summarize_creation(creation: Creation, *, address: str) -> Summary:
    """What was made, until when it lives, and where its secret is."""
    plan, minted = creation.plan, creation.minted
    headline = (
        f"Created access token {minted.delivered.id} for {plan.order.user} on {address}; "
        f"it {_tell_made(plan, minted)}. Its bearer token is in {minted.delivered.place}."
    )
    fields = NewToken.model_validate(
        {**_describe_new(plan, minted), "summary": headline, "next_step": minted.delivered.how_to_use}
    )
    return Summary(_join_new(fields), fields)


def summarize_rotation(rotation: Rotation, *, address: str, credential: str) -> Summary:
    """The new token beside the old, and what remains to be done; `credential` is where the server has its own from."""
    plan, minted = rotation.plan, rotation.minted
    old, delivered = plan.old, minted.delivered
    headline = (
        f"Rotated: new access token {delivered.id} for {plan.order.user} on {address}; it {_tell_made(plan, minted)}, "
        f"and it works. Its bearer token is in {delivered.place}. The old one, {old.id}, is as it was."
    )
    hand_over = tell_hand_over(credential, names_file=delivered.is_store) if plan.is_own else HAND_OVER
    steps = f"{tell_steps(old, plan.time, hand_over)} {delivered.how_to_use}"
    fields = RotatedToken.model_validate(
        {**_describe_new(plan, minted), "summary": headline, "next_step": steps, "replaces": old.id}
    )
    return Summary(_join_new(fields), fields)


def tell_steps(old: AccessToken, now: datetime, hand_over: str = HAND_OVER) -> str:
    """What remains to be done when a token has a successor, `hand_over` first."""
    disabling = [f'update_access_token(id="{old.id}", enabled=false)'] if old.is_live(now=now) else []
    steps = [hand_over, "Test that", *disabling, f'Once nothing breaks, delete_access_token(id="{old.id}")']
    return f"What remains: {' '.join(f'{number}. {step}.' for number, step in enumerate(steps, 1))}"


def tell_hand_over(credential: str, *, names_file: bool = False) -> str:
    """The first step where the old token is the server's own; `names_file` if the setting may name the new one's."""
    setting = "QUMULO_CREDENTIALS_FILE"
    named = f" (or let {'it' if credential.startswith(setting) else setting} name the new file)"
    return f"This server runs on the old one: replace {credential}{named if names_file else ''} and start it again"


def summarize_update(update: Update, *, address: str, now: datetime) -> Summary:
    """A token before and after."""
    token, wanted = update.plan.token, update.plan.wanted
    after = wanted if update.edited is None or update.edited.after is None else update.edited.after.state
    whose = f"access token {token.id} of {token.user} on {address}"
    if update.edited is None:
        headline = f"Nothing changed: {whose} is as asked already ({tell_state(after, now)})."
    elif after == token.state:
        headline = (
            f"Nothing changed: {whose} is as before ({tell_state(after, now)}), though the cluster took the request."
        )
    else:
        headline = f"Changed {whose}: it is {tell_state(after, now)}. Before: {tell_state(token.state, now)}."
    warnings = [*(update.edited.warnings if update.edited else ()), tell_clock(update.plan.ahead)]
    fields = ChangedToken(
        summary=headline,
        id=token.id,
        user=str(token.user),
        changed=after != token.state,
        enabled_before=token.state.enabled,
        enabled=after.enabled,
        expiration_time_before=token.expiration_time,
        expiration_time=None if after.expires is None else format_instant(after.expires),
        warning=_join_warnings(_tell_untaken(wanted, after, now), *warnings),
        next_step=_tell_way_back(update, after, now),
    )
    return Summary(_join([headline, fields.warning, fields.next_step]), fields)


def _tell_way_back(update: Update, after: State, now: datetime) -> str | None:
    """What undoes a change that may stop whoever works with a token, and what of it cannot be undone."""
    before, token_id = update.plan.token.state, update.plan.token.id
    is_stopped = before.enabled and not after.enabled
    is_shortened = after.expires is not None and (before.expires is None or after.expires < before.expires)
    if not is_stopped and not (is_shortened and update.plan.token.is_live(now=now)):
        return None
    is_moved = before.expires != after.expires
    stays = _tell_lost_expiry(before, now, update.max_lifetime) if is_moved else None
    expires = "never" if before.expires is None else format_instant(before.expires)
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


def _tell_lost_expiry(before: State, now: datetime, max_lifetime: timedelta | None) -> str | None:
    """Why the expiry that a token had cannot be set again; None if it can."""
    if before.expires is not None and before.expires <= now:
        return "The expiry from before is over, and cannot be set again."
    if max_lifetime is not None and (before.expires is None or before.expires > now + max_lifetime):
        was = "that it never expired" if before.expires is None else f"the expiry of {tell_time(before.expires)}"
        return f"The new expiry stays: QUMULO_MAX_LIFETIME does not allow {was} again."
    return None


def summarize_deletion(deletion: Deletion, *, address: str) -> Summary:
    """What is gone, fully enough to make it again."""
    token, now = deletion.plan.token, deletion.plan.time
    again = _tell_lifetime(token, now, deletion.max_lifetime)
    headline = f"Deleted access token {token.id} of {token.user} on {address} for ever: {tell_life(token, now)}."
    advice = f" The deleted one still worked. {ADVICE}" if token.is_live(now=now) else ""
    user = json.dumps(str(token.user), ensure_ascii=False)
    fields = DeletedToken.model_validate(
        {
            **_describe(token, now),
            "summary": headline,
            "warning": _join_warnings(*deletion.edited.warnings, tell_clock(deletion.plan.ahead)),
            "next_step": f'Another like it: create_access_token(user={user}, expiration_time="{again}").{advice}',
        }
    )
    return Summary(_join([headline, COLUMNS, tell_token(token, now), fields.warning, fields.next_step]), fields)


def _tell_lifetime(token: AccessToken, now: datetime, max_lifetime: timedelta | None) -> str:
    """What to ask for to get such an expiry again: the same time, or the same lifetime where that is over.

    It is the longest that the operator allows where the expiry from before is not allowed.
    """
    is_over = token.expires is not None and token.expires <= now
    life = None if token.expires is None else token.expires - (token.created if is_over else now)
    if max_lifetime is not None and (life is None or life > max_lifetime):
        return write_duration(max_lifetime)
    if token.expires is None:
        return "never"
    return write_duration(max(life, MINUTE)) if is_over and life is not None else format_instant(token.expires)


def write_duration(duration: timedelta) -> str:
    """A duration as an argument, in the largest unit that it is one of: `90d`, `12h`, `30min`, `20s`; never more."""
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": MINUTE, "s": timedelta(seconds=1)}
    return next((f"{duration // unit}{name}" for name, unit in units.items() if duration >= unit), "1s")


def tell_token(token: AccessToken, now: datetime, *, usual_creator: str | None = None) -> str:
    """A row of a table, as `COLUMNS` heads it: what is told of one token, without a creator that is the usual.

    A cell with nothing to tell is empty, and left out only where no other follows.
    """
    expires = "never" if token.expires is None else f"{tell_minute(token.expires)} ({_tell_expiry(token, now)})"
    state, creator = "disabled" if token.is_disabled else "", _tell_creator(token)
    cells = [token.id, str(token.user), expires, tell_minute(token.created), state]
    return " | ".join([*cells, "" if creator == usual_creator else creator]).rstrip(" |")


def tell_intents(plan: CreationPlan) -> str:
    """What the journal says was begun for the same user and has no outcome."""
    if not plan.order.open_intents:
        return ""
    times = tell_some([tell_time(intent.time) for intent in plan.order.open_intents])
    return (
        f"The journal knows no outcome of an earlier create for this user ({times}): "
        "a token of that time whose bearer token nobody has may be among theirs."
    )


def tell_expiry(plan: CreationPlan) -> str:
    """Until when a new token is to live."""
    expires = plan.order.expires
    if expires is None:
        return "never expires"
    default = ", the default lifetime" if plan.by_default else ""
    return f"expires {tell_time(expires)} ({tell_distance(expires, now=plan.time)}{default})"


def count(number: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _find_usual_creator(tokens: Iterable[AccessToken]) -> str | None:
    """Who made most of the tokens, if that is more than one."""
    for creator, number in Counter(map(_tell_creator, tokens)).most_common(1):
        return creator if number > 1 and creator != UNKNOWN else None
    return None


def _tell_creator(token: AccessToken) -> str:
    return UNKNOWN if token.creator is None else str(token.creator)


def _make_entry(token: AccessToken, now: datetime, usual_creator: str | None) -> TokenEntry:
    creator = _tell_creator(token)
    told = _describe(token, now) | {"creator": None if creator == usual_creator else creator}
    return TokenEntry.model_validate(told | {"enabled": None if token.enabled else token.enabled})


def _tell_headline(listing: Listing, address: str) -> str:
    whose = f" of {listing.user}" if listing.user else ""
    more = ", and there are more" if listing.after else ""
    doubts = [*listing.doubts, *tell_future(_find_latest(listing.tokens), listing.time)]
    told = f"{count(len(listing.tokens), 'access token')}{whose} on {address}{more}."
    return " ".join([told, f"{tell_present(listing.time, listing.ahead)}.", *doubts])


def _tell_next_page(listing: Listing) -> str | None:
    steps: list[str] = []
    if listing.foreign:
        steps.append(
            f"{count(listing.foreign, 'token')} left out, of what is or may be another user with that name. "
            "Name the user by auth_id to be sure."
        )
    if listing.after:
        steps.append(f"For the next page, call again with after={json.dumps(listing.after)}.")
    return " ".join(steps) or None


def _tell_expiry(token: AccessToken, now: datetime) -> str:
    distance = tell_distance(token.expires or now, now=now)
    return f"expired {distance}" if token.is_expired(now=now) else distance


def tell_life(token: AccessToken, now: datetime) -> str:
    """`enabled, made 30 days ago by local:admin, expires 2027-01-31 17:00 UTC (in 60 days)`."""
    creator = f" by {token.creator}" if token.creator else ""
    return f"{tell_state(token.state, now)}; made {tell_distance(token.created, now=now)}{creator}"


def tell_state(state: State, now: datetime) -> str:
    """`enabled, expires 2027-01-31 17:00 UTC (in 60 days)`."""
    enabled = "enabled" if state.enabled else "disabled"
    if state.expires is None:
        return f"{enabled}, never expires"
    verb = "expires" if state.expires > now else "expired"
    return f"{enabled}, {verb} {tell_time(state.expires)} ({tell_distance(state.expires, now=now)})"


def _tell_rows(tokens: Sequence[AccessToken], now: datetime) -> list[str]:
    rows = [tell_token(token, now) for token in tokens[:MOST_ROWS]]
    return rows if len(rows) == len(tokens) else [*rows, f"and {len(tokens) - len(rows):,} more"]


def tell_future(latest: datetime | None, now: datetime) -> Iterator[str]:
    """What there is to say where the youngest of some tokens was made at a time that is still to come."""
    if latest is not None and latest - now >= MATTERS:
        yield (
            f"A token here was made at {tell_time(latest)}, which is still to come by this machine's clock. The clocks "
            f"differ, so distances in time may be wrong by {tell_duration(latest - now)} or more."
        )


def _find_latest(tokens: Iterable[AccessToken]) -> datetime | None:
    return max((token.created for token in tokens), default=None)


def _tell_others(portrait: Portrait) -> str | None:
    if portrait.others is None:
        return None
    return "The user's other tokens:" if portrait.others else "The user has no other token."


def _tell_made(plan: CreationPlan, minted: Minted) -> str:
    """Until when a new token lives, as the cluster tells it since."""
    found = minted.found
    if found is None or (found.expires == plan.order.expires and not minted.ahead):
        return tell_expiry(plan)
    if found.expires is None:
        return "never expires"
    # It was made just now, by the clock that will end it.
    return f"expires {tell_time(found.expires)} ({tell_distance(found.expires, now=found.created)})"


def _tell_warnings(plan: CreationPlan, minted: Minted) -> Iterator[str]:
    """What the cluster did otherwise than asked (an old one may not know about expiry), and what was left open."""
    order, found = plan.order, minted.found
    if found is not None and order.user.completed_by(found.user) is None:
        yield f"Beware: the cluster made it for {found.user}. Delete it unless that is who was meant."
    if clock := tell_clock(minted.ahead):
        yield clock
    if found is None:
        yield "It could not be read back: its user and its expiry are told as they were asked for."
    if found is None and order.max_lifetime is not None:
        yield "Whether it keeps to QUMULO_MAX_LIFETIME could not be verified: look at it with get_access_token."
    if found is not None and found.expires != order.expires:
        yield f"Beware: the cluster did not take the expiry as asked; there, the token {_tell_made(plan, minted)}."
    if minted.delivered.warning:
        yield minted.delivered.warning
    if minted.unwritten:
        yield minted.unwritten
    if plan.order.open_intents:
        yield tell_intents(plan)


def _tell_untaken(wanted: State, after: State, now: datetime) -> str | None:
    if wanted == after:
        return None
    return f"Beware: the cluster did not take the change as asked; there, the token is {tell_state(after, now)}."


def _describe(token: AccessToken, now: datetime) -> dict[str, object]:
    return {
        "id": token.id,
        "user": str(token.user),
        "creator": None if token.creator is None else str(token.creator),
        "creation_time": token.creation_time,
        "expiration_time": token.expiration_time,
        "expired": token.is_expired(now=now) or None,
        "enabled": token.enabled,
    }


def _describe_identity(role: str, identity: Identity) -> dict[str, str | int]:
    """Each field that is known, as it is, but for text that somebody chose, which is quoted where it has to be."""
    tellers = {"domain": tell_name, "name": tell_name, "sid": tell_sid}
    return {
        f"{role}_{key}": tellers[key](value) if key in tellers and isinstance(value, str) else value
        for key, value in identity.known().items()
    }


def _describe_new(plan: CreationPlan, minted: Minted) -> dict[str, object]:
    delivered, found = minted.delivered, minted.found
    expires = plan.order.expires if found is None else found.expires
    return {
        "id": delivered.id,
        "user": str(plan.order.user),
        "expiration_time": None if expires is None else format_instant(expires),
        "bearer_token_in": delivered.place,
        "fingerprint": delivered.fingerprint,
        "bearer_token": None if delivered.bearer_token is None else delivered.bearer_token.get_secret_value(),
        "warning": _join_warnings(*_tell_warnings(plan, minted)),
    }


def _join_new(fields: NewToken) -> str:
    fingerprint = f"SHA-256 of the bearer token: {fields.fingerprint}"
    return _join([fields.summary, fields.bearer_token, fingerprint, fields.warning, fields.next_step])


def _join_warnings(*warnings: str | None) -> str | None:
    return " ".join(warning for warning in warnings if warning) or None


def _join(lines: Iterable[str | None]) -> str:
    return "\n".join(line for line in lines if line)
