"""How often does the log tell what strangers can cause? Once a minute for each kind, with the number of times."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from token_tools.times import Clock

PAUSE: Final = timedelta(minutes=1)
"""The time in which a kind is told once."""


@dataclass
class _Told:
    """When a kind was told last, and how many times it has happened since."""

    time: datetime
    untold: int = 0


@dataclass(frozen=True)
class ThrottledLog:
    """Warnings of which somebody outside can cause any number."""

    log: logging.Logger
    clock: Clock
    _told: dict[str, _Told] = field(default_factory=dict[str, _Told])

    def tell(self, kind: str, text: str) -> None:
        """Tell this if nothing of its kind was told in the last minute, or else count it.

        There must be a bounded number of kinds.
        """
        now, last = self.clock(), self._told.get(kind)
        if last is not None and abs(now - last.time) < PAUSE:
            last.untold += 1
            return
        more = f" ({last.untold:,} more of this kind before)" if last is not None and last.untold else ""
        self._told[kind] = _Told(now)
        self.log.warning("%s%s", text, more)
