"""Models to the words that an assistant reads, and to the same facts as fields.

Some hosts hand their model only the text of a result and others only its structured part, so each carries everything
and each is compact. Text that the cluster's users chose appears in the spelling of `identity`, which shows it as data.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import BaseModel, Field

from token_tools.identity import tell_name
from token_tools.models import AccessToken
from token_tools.times import format_instant, tell_distance, tell_time
from token_tools.workflows import SLOTS, Creation, CreationPlan, Listing

LONGEST: Final = 25_000
"""Characters that one channel of an answer may have; hosts cut or refuse what is longer."""


class TokenEntry(BaseModel):
    """One access token; what the cluster does not tell is left out."""

    id: str
    user: str
    creator: str | None = None
    creation_time: str
    expiration_time: str | None = Field(None, description="Absent: never expires")
    expired: bool | None = None
    enabled: bool | None = None


class TokenList(BaseModel):
    """Access tokens, a page at a time."""

    summary: str
    now: str
    tokens: list[TokenEntry]
    after: str | None = Field(None, description="Key of the next page")
    next_step: str | None = None


class NewToken(BaseModel):
    """An access token just made."""

    summary: str
    id: str
    user: str
    expiration_time: str | None = Field(None, description="Absent: never expires")
    bearer_token_in: str = Field(description="Where the bearer token is")
    fingerprint: str = Field(description="SHA-256 of the bearer token")
    bearer_token: str | None = None
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
        return max(len(self.text), len(json.dumps(self.fields.model_dump(mode="json", exclude_none=True))))


def summarize_listing(listing: Listing, *, address: str) -> Summary:
    """A page of tokens: how many and whose, a line for each, and how to go on."""
    headline = _tell_headline(listing, address)
    next_step = _tell_next_step(listing)
    rows = [_tell_token(token, listing.time) for token in listing.tokens]
    columns = ["id | user | expires | created | creator"] if rows else []
    fields = TokenList(
        summary=headline,
        now=format_instant(listing.time.replace(microsecond=0)),
        tokens=[_describe(token, listing.time) for token in listing.tokens],
        after=listing.after,
        next_step=next_step,
    )
    return Summary("\n".join([headline, *columns, *rows, *([next_step] if next_step else [])]), fields)


def summarize_creation(creation: Creation, *, address: str) -> Summary:
    """What was made, until when it lives, and where its secret is."""
    plan, delivered = creation.plan, creation.minted.delivered
    user, expires = plan.order.user, plan.order.expires
    secret = None if delivered.bearer_token is None else delivered.bearer_token.get_secret_value()
    fields = NewToken(
        summary=f"Created access token {delivered.id} for {user} on {address}; it {_tell_expiry(plan)}. "
        f"Its bearer token is in {delivered.place}.",
        id=delivered.id,
        user=str(user),
        expiration_time=expires and format_instant(expires),
        bearer_token_in=delivered.place,
        fingerprint=delivered.fingerprint,
        bearer_token=secret,
        warning=" ".join(_tell_warnings(creation)) or None,
        next_step=delivered.how_to_use,
    )
    lines = [
        fields.summary,
        fields.bearer_token,
        f"SHA-256 of the bearer token: {fields.fingerprint}",
        fields.warning,
        fields.next_step,
    ]
    return Summary("\n".join(line for line in lines if line), fields)


def tell_question(plan: CreationPlan, *, address: str) -> str:
    """What a human is asked before a token is made: everything as the server found it, nothing as a model said it."""
    user, present = plan.order.user, plan.order.present
    key = f" (auth_id {user.auth_id})" if user.auth_id else ""
    domain = tell_name(user.domain) if user.domain else "domain not known"
    used = "an unknown number" if present is None else str(len(present))
    return (
        f"Make an access token for the user {user}{key}, {domain}, on the cluster {address}? "
        f"Whoever has it can act as that user. It {_tell_expiry(plan)}. "
        f"The user has {used} of {SLOTS} possible tokens now. Asked because {' and '.join(plan.reasons)}."
        f"{_tell_intents(plan)} [question {plan.number}]"
    )


def _tell_headline(listing: Listing, address: str) -> str:
    tokens = _count(len(listing.tokens), "access token")
    whose = f" of {listing.user}" if listing.user else ""
    more = ", and there are more" if listing.after or listing.unshown else ""
    return f"{tokens}{whose} on {address}{more}. It is {tell_time(listing.time)}."


def _tell_next_step(listing: Listing) -> str | None:
    steps: list[str] = []
    if listing.foreign:
        steps.append(
            f"{_count(listing.foreign, 'token')} left out: of another user with that name, or not to be told from one. "
            "Name the user by auth_id to be sure."
        )
    if listing.after:
        steps.append(f"For the next page, call again with after={json.dumps(listing.after)}.")
    elif listing.unshown:
        steps.append(f"{_count(listing.unshown, 'token')} more did not fit: raise limit, or name a user.")
    return " ".join(steps) or None


def _tell_token(token: AccessToken, now: datetime) -> str:
    expires = "never" if token.expires is None else f"{tell_time(token.expires)} ({_tell_state(token, now)})"
    cells = [token.id, str(token.user), expires, tell_time(token.created), str(token.creator or "-")]
    return " | ".join([*cells, "disabled"] if token.is_disabled else cells)


def _tell_state(token: AccessToken, now: datetime) -> str:
    distance = tell_distance(token.expires or now, now=now)
    return f"expired {distance}" if token.is_expired(now=now) else distance


def _tell_expiry(plan: CreationPlan) -> str:
    expires = plan.order.expires
    if expires is None:
        return "never expires"
    default = ", the default lifetime" if plan.by_default else ""
    return f"expires {tell_time(expires)} ({tell_distance(expires, now=plan.time)}{default})"


def _tell_warnings(creation: Creation) -> Iterator[str]:
    """What the cluster did otherwise than asked (an old one may not know about expiry), and what was left open."""
    order, found = creation.plan.order, creation.minted.found
    if found is not None and order.user.completed_by(found.user) is None:
        yield f"Beware: the cluster made it for {found.user}. Delete it unless that is who was meant."
    if found is not None and found.expires != order.expires:
        expires = "never expires" if found.expires is None else f"expires {tell_time(found.expires)}"
        yield f"Beware: the cluster did not take the expiry as asked; there, the token {expires}."
    if creation.minted.unwritten:
        yield creation.minted.unwritten
    yield from [_tell_intents(creation.plan).strip()] if creation.plan.order.open_intents else []


def _tell_intents(plan: CreationPlan) -> str:
    if not plan.order.open_intents:
        return ""
    times = ", ".join(tell_time(intent.time) for intent in plan.order.open_intents)
    return (
        f" The journal knows no outcome of an earlier create for this user ({times}): "
        "a token of that time whose bearer token nobody has may be among theirs."
    )


def _describe(token: AccessToken, now: datetime) -> TokenEntry:
    return TokenEntry(
        id=token.id,
        user=str(token.user),
        creator=token.creator and str(token.creator),
        creation_time=token.creation_time,
        expiration_time=token.expiration_time,
        expired=token.is_expired(now=now) or None,
        enabled=token.enabled,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
