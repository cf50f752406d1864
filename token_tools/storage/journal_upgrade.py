"""Values as earlier versions wrote them into the journal, translated when a line is read.

Those versions had other words for the outcomes of a create, and a sentence or a path under `place` where `location` is
now.
"""

import re
from typing import Final

from token_tools.storage.delivery import InlineLocation, KeyringLocation, Location

_FORMER_RESULTS: Final = {
    "made": "created",
    "not made": "not created",
    "deleted again": "rolled back",
    "stranded": "undeletable",
}
_FORMER_INLINE: Final = "this answer, and with it the conversation and its logs"
_FORMER_KEYRING: Final = re.compile(r"the system's keyring, service '(?P<service>[^']*)', account '(?P<account>.*)'")


def upgrade_result(value: object) -> object:
    """Return today's word for a result, and anything else as it is."""
    return _FORMER_RESULTS.get(value, value) if isinstance(value, str) else value


def upgrade_location(value: object) -> object:
    """Return the location that a text stood for, and anything but a text as it is."""
    return _parse_location(value) if isinstance(value, str) else value


def _parse_location(text: str) -> Location | dict[str, str]:
    if text == _FORMER_INLINE:
        return InlineLocation()
    if keyring := _FORMER_KEYRING.fullmatch(text):
        return KeyringLocation(keyring["service"], keyring["account"])
    # Pydantic still has to check that this is a path.
    return {"kind": "file", "path": text}
