"""The next steps that refusals and answers share: how a token is replaced, and how one is retired."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from token_tools.cluster.models import AccessToken
from token_tools.operations.calls import format_call
from token_tools.operations.services import Services
from token_tools.storage.delivery import Location, PickupLocation, TakenPage

DISABLE_FIRST_ADVICE: Final = "Better disable a token first, watch whether anything breaks, and delete it then."
"""What the vendor's guide says about retiring a token."""

HAND_OVER_STEP: Final = "Put it where the old one is used"
"""The first step to the successor of a token, unless this server runs on that token."""

_PICK_UP_STEP: Final = "Let it be picked up, and put where the old one is used, which works until it is retired"

PERSON_DECIDES: Final = (
    "Each of them works as far as is known, so a person has to say which can go: better disable that one first, and "
    "delete it once nothing breaks."
)


_RESTART_STEP: Final = "Start each server again that still runs on the old one"
"""The first step to a successor that stands where servers read their own credential."""


def choose_hand_over(services: Services, *, is_own: bool) -> str:
    """Return the first step to the successor of a token; `is_own` says whether this server runs on that token."""
    return render_hand_over(services.credential_location) if is_own else HAND_OVER_STEP


def render_hand_over(credential_location: str, *, naming_setting: str | None = None) -> str:
    """Render the first step to the successor of the server's own token.

    `naming_setting` is the setting that can name the place of the new bearer token, None if there is none.
    """
    if naming_setting is None:
        named = ""
    elif credential_location.startswith(f"{naming_setting} "):
        named = " (or let it name the new one)"
    else:
        named = f" (or let {naming_setting} name the new one instead)"
    return f"This server runs on the old one: replace {credential_location}{named} and start it again"


def choose_earlier_hand_over(services: Services, location: Location, hand_over: str) -> str:
    """Return the first step to a successor that exists at a location: `hand_over`, unless servers read it there."""
    place = services.credential_place
    if place is None or place.location != location:
        return choose_first_step(location, hand_over)
    return _RESTART_STEP


def choose_first_step(location: Location, hand_over: str) -> str:
    """Return the first step to a successor whose bearer token is there: `hand_over`, unless it waits for a person."""
    is_to_be_picked_up = isinstance(location, PickupLocation) and not isinstance(location, TakenPage)
    return _PICK_UP_STEP if is_to_be_picked_up and hand_over == HAND_OVER_STEP else hand_over


def render_steps(old: AccessToken, now: datetime, hand_over: str = HAND_OVER_STEP) -> str:
    """Render what remains to be done when a token has a successor; `hand_over` is the first step."""
    return _render_numbered([hand_over, "Test that", *_list_retirement(old, now)])


def render_own_steps(old: AccessToken, now: datetime) -> str:
    """Render what remains to be done once this server has gone on with the successor of its own token."""
    return f"The old one works until it is deleted. {_render_numbered(_list_retirement(old, now))}"


def _list_retirement(old: AccessToken, now: datetime) -> Sequence[str]:
    disabling = [format_call("update_access_token", id=old.id, enabled=False)] if old.is_live(now=now) else []
    return [*disabling, f"Once nothing breaks, {_format_deletion(old.id)}"]


def _render_numbered(steps: Sequence[str]) -> str:
    return f"What remains: {' '.join(f'{number}. {step}.' for number, step in enumerate(steps, 1))}"


def render_retirement(token_id: str) -> str:
    """Render how to remove a token that nothing uses, so that a new one can be created."""
    disabling = format_call("update_access_token", id=token_id, enabled=False)
    return f"If nothing uses it: {disabling}, watch, {_format_deletion(token_id)}, and rotate again."


def render_delete_and_rotate(token_id: str) -> str:
    """Render how to remove a token that is of no use, so that a new one can be created."""
    return f"{_format_deletion(token_id)}, then rotate again"


def _format_deletion(token_id: str) -> str:
    return format_call("delete_access_token", id=token_id)
