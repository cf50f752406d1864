"""Render the page at which a person picks a bearer token up: what it is, how it is used, and what became of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from token_tools.operations.fleet import Label
from token_tools.operations.pickup import FoundPickup
from token_tools.storage.delivery import Recipient
from token_tools.storage.delivery.base import format_name_part
from token_tools.storage.pickup_states import Pickup, PickupState
from token_tools.times import format_relative_time, format_time
from token_tools.views.record import render_user

_MAX_NAME_PART_CHARS: Final = 40
_ASK_AGAIN: Final = "If you still need one, ask your assistant for another token."


class Fact(NamedTuple):
    """Something that is known, and what it is called."""

    name: str
    text: str


class Usage(NamedTuple):
    """How a bearer token is recognised and used, once a browser has it: in a file of this name, by a command of `qq`.

    `fingerprint` is its SHA-256 in hexadecimal.
    """

    fingerprint: str
    file_name: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page tells.

    `step` is what somebody can do there: sign in, sign in as somebody else, get the bearer token, or confirm that they
    have it; None for nothing of that kind. `signed_in` is who has signed in, None if nobody is known to. `usage` is set
    if they can get the bearer token.
    """

    heading: str
    paragraphs: Sequence[str]
    facts: Sequence[Fact] = ()
    step: Literal["sign in", "sign in again", "hand out", "confirm"] | None = None
    signed_in: str | None = None
    usage: Usage | None = None


SIGNED_OUT: Final = Page(
    heading="Pick up a bearer token",
    paragraphs=[
        "If a bearer token waits at this address, the person who asked for it gets it here, once. Nobody else does.",
        "Sign in as you do for your assistant, to see whether it is for you.",
    ],
    step="sign in",
)
NOT_FOUND: Final = Page(
    heading="There is nothing here",
    paragraphs=["No bearer token waits at this address. Open it again, just as your assistant wrote it."],
)
UNAVAILABLE: Final = Page(
    heading="This does not work just now",
    paragraphs=[
        "This server cannot read what waits here. Nothing is lost: open this page again in a minute.",
        "If that does not help, the operator of this server has to look at its log.",
    ],
)


def render_refused(text: str) -> Page:
    """Render why a request was not served, which is a sentence."""
    return Page(heading="This is not possible", paragraphs=[text])


def render_not_signed_in(text: str) -> Page:
    """Render why nobody was signed in, which is a sentence."""
    return Page(heading="You are not signed in", paragraphs=[text], step="sign in")


def render_for_somebody_else(signed_in: Recipient) -> Page:
    """Render that what waits is not for the person who looks; nothing of it is told."""
    return Page(
        heading="This is for somebody else",
        paragraphs=[
            "Only the person who asked for this bearer token can pick it up.",
            "If that was you, you have signed in here as somebody else than in your assistant.",
        ],
        step="sign in again",
        signed_in=signed_in.name,
    )


def render_pickup(found: FoundPickup) -> Page:
    """Render what waits for the person who looks, or what became of it."""
    pickup = found.pickup
    if found.is_overdue:
        return _render_ended(found, "Its time is over", [f"{_render_missed(pickup)} Its token is being deleted."])
    if pickup.state == "waiting":
        return _render_waiting(found)
    if pickup.state == "handed out":
        return _render_unconfirmed(found)
    heading, render = _ENDINGS[pickup.state]
    return _render_ended(found, heading, render(pickup))


def _render_waiting(found: FoundPickup) -> Page:
    file_name = format_file_name(found)
    return Page(
        heading="Your bearer token is ready",
        paragraphs=["You can get it once, and only you can. Have the place at hand in which you will keep it."],
        facts=[*_list_facts(found), Fact("Waits until", _render_time(found, found.pickup.open_until))],
        step="hand out",
        signed_in=found.pickup.recipient_name,
        usage=Usage(f"{found.pickup.fingerprint}", file_name, found.services.qq.who_am_i(Path(file_name))),
    )


def _render_unconfirmed(found: FoundPickup) -> Page:
    return Page(
        heading="It was handed out, and not confirmed",
        paragraphs=[
            "A browser in which you had signed in got this bearer token, and has not said that it arrived.",
            f"If you have it, say so here by {_render_time(found, found.pickup.open_until)}.",
            f"Otherwise its token is deleted, and this server cannot show it again. {_ASK_AGAIN}",
        ],
        facts=[*_list_facts(found), *_list_fingerprint(found.pickup)],
        step="confirm",
        signed_in=found.pickup.recipient_name,
    )


def _render_ended(found: FoundPickup, heading: str, sentences: Sequence[str]) -> Page:
    pickup = found.pickup
    ended = [] if pickup.ended is None else [Fact(_ENDED_NAMES[pickup.state], _render_time(found, pickup.ended))]
    return Page(
        heading=heading,
        paragraphs=sentences,
        facts=[*_list_facts(found), *ended, *_list_fingerprint(pickup)],
        signed_in=pickup.recipient_name,
    )


def _render_missed(pickup: Pickup) -> str:
    return f"This bearer token was not picked up by {format_time(pickup.open_until)}."


def _render_picked_up(pickup: Pickup) -> Sequence[str]:
    return [
        "A browser in which you had signed in got this bearer token. It is shown once, and this server forgot it then.",
        f"If you do not have it, or if that was not you, ask your assistant to delete token {pickup.token_id}.",
        _ASK_AGAIN,
    ]


def _render_deleted(pickup: Pickup) -> Sequence[str]:
    return [f"{_render_missed(pickup)} So its token was deleted on the cluster again. {_ASK_AGAIN}"]


def _render_gone(_pickup: Pickup) -> Sequence[str]:
    return [f"Its token was deleted on the cluster before it was picked up. {_ASK_AGAIN}"]


def _render_left(pickup: Pickup) -> Sequence[str]:
    return [
        _render_missed(pickup),
        f"Token {pickup.token_id} was not deleted, since the cluster tells another user or time of creation for it.",
        f"Ask your assistant, or an administrator of the cluster, to look at that token. {_ASK_AGAIN}",
    ]


_ENDINGS: Final[Mapping[PickupState, tuple[str, Callable[[Pickup], Sequence[str]]]]] = {
    "picked up": ("It was picked up", _render_picked_up),
    "deleted": ("It was deleted again", _render_deleted),
    "gone": ("Its token does not exist any more", _render_gone),
    "left": ("It was not picked up", _render_left),
}
_ENDED_NAMES: Final[Mapping[PickupState, str]] = {
    "picked up": "Picked up",
    "deleted": "Deleted",
    "gone": "Found to be gone",
    "left": "Looked at",
}


def _list_facts(found: FoundPickup) -> Sequence[Fact]:
    """Return what the token is, and who asked for it."""
    services, pickup = found.services, found.pickup
    now = services.clock()
    expires = pickup.expires
    lifetime = "never" if expires is None else f"{format_time(expires)} ({format_relative_time(expires, now=now)})"
    label = Label(services.address, services.name)
    return [
        Fact("Cluster", f"{label.prefix}{label.address}"),
        Fact("User", render_user(pickup.user_name)),
        Fact("Token", f"{pickup.token_id}"),
        Fact("Expires", lifetime),
        Fact("Asked for by", pickup.recipient_name),
        Fact("Asked for", _render_time(found, pickup.asked)),
    ]


def _list_fingerprint(pickup: Pickup) -> Sequence[Fact]:
    return [Fact("Fingerprint", f"SHA-256 {pickup.fingerprint}")]


def _render_time(found: FoundPickup, instant: datetime) -> str:
    """Render a time of this server and not of the cluster, whose clocks can differ."""
    clock = found.services.clock
    return f"{format_time(instant)} ({format_relative_time(instant, now=clock() - clock.ahead)})"


def format_file_name(found: FoundPickup) -> str:
    """Return how a file with the bearer token is called, in characters that every system takes."""
    parts = (found.services.qq.host, found.pickup.user_name, f"{found.pickup.token_id}")
    return f"{'_'.join(format_name_part(part)[:_MAX_NAME_PART_CHARS] for part in parts)}.json"
