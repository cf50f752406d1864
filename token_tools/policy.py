"""What may be made: the operator's rules for new tokens."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from token_tools.settings import Settings
from token_tools.times import parse_expiry


@dataclass(frozen=True)
class Policy:
    """The rules in force. `default_lifetime` is None where a new token lives for ever unless the caller limits it."""

    default_lifetime: timedelta | None

    def choose_expiry(self, expiration_time: str | None, *, now: datetime) -> datetime | None:
        """When a new token expires, in whole seconds, or None for never.

        Raises:
            Refusal: If what the caller wrote is not a time in the future.
        """
        if expiration_time is not None:
            return parse_expiry(expiration_time, now=now)
        return None if self.default_lifetime is None else (now + self.default_lifetime).replace(microsecond=0)


def choose_policy(settings: Settings) -> Policy:
    """The rules that the operator set."""
    return Policy(default_lifetime=settings.default_lifetime)
