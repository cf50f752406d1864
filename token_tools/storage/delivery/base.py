"""What every destination of a new bearer token is and does, and what they share.

A destination is reserved, and so proved to work, before the cluster is asked for a token. The reservation then either
stores that token or is released without a trace.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Protocol, TypeVar

import anyio
import anyio.to_thread
from pydantic import SecretStr

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.errors import DeliveryError
from token_tools.times import format_duration

DELIVERY_TIMEOUT: Final = timedelta(minutes=1)
"""How long a delivery may take; a person may have to unlock a keyring."""

NEW_TOKENS_PLACE: Final = "The place for new bearer tokens (QUMULO_DELIVERY)"
_UNSAFE_CHARS: Final = re.compile(r"[^A-Za-z0-9.@-]+")

WorkResult = TypeVar("WorkResult")
TimeoutContext = Callable[[float], AbstractContextManager[object]]
"""A block that may take this many seconds and raises `TimeoutError` if it takes longer."""


class Location(Protocol):
    """Where the bearer token of a token went. Each destination has a type of its own, which the journal can store."""

    naming_setting: ClassVar[str | None]
    """The setting that can name such a location for the server's own credential, None if there is none."""

    def render(self) -> str:
        """Return the location in words that can follow "in"."""
        ...

    def find_current(self) -> "Location | None":
        """Return the location as it is to be described now, None if the bearer token is no longer there.

        Raises:
            DeliveryError: If that cannot be found out.
        """
        ...

    def remove(self) -> None:
        """Remove the bearer token from there.

        Raises:
            DeliveryError: If it is still there.
        """
        ...


@dataclass(frozen=True)
class DeliveredToken:
    """A token whose bearer token is in its location.

    `fingerprint` is the SHA-256 of the whole bearer token in hexadecimal, by which it is recognised; it gives nothing
    of the bearer token away. `warning` says what failed after the bearer token was stored. `bearer_token` is only set
    if the operator wants it in the answer.
    """

    id: str
    fingerprint: str
    location: Location
    how_to_use: str
    warning: str | None = None
    bearer_token: SecretStr | None = field(default=None, repr=False)


class Recipient(NamedTuple):
    """A person who can sign in: `id` tells them from everybody else, and `name` is how the record tells them."""

    id: str
    name: str


class AskedToken(NamedTuple):
    """What is known of a token before it is created: its user, and when it is to expire (aware; None for never).

    `recipient` is who asks for it, None if that is no person who can sign in.
    """

    user: Identity
    expires: datetime | None
    recipient: Recipient | None = None


class Reservation(Protocol):
    """A destination that was proved to work; it has to be ended by `store` or by `release`."""

    async def store(self, token: NewAccessToken, user: Identity, /) -> DeliveredToken:
        """Store a bearer token durably.

        Raises:
            DeliveryError: If it could not be stored; nothing of it is left at the destination then.
        """
        ...

    async def release(self) -> None:
        """Leave the destination as if it had never been reserved; a failure is only logged."""
        ...


class Delivery(Protocol):
    """A destination for new bearer tokens."""

    def announce(self, recipient: Recipient | None, /) -> str | None:
        """Return a sentence that says where a new bearer token will wait for somebody; None if it waits nowhere.

        Raises:
            Refusal: If this destination is no way to them.
        """
        ...

    async def recover(self) -> Sequence[Path]:
        """Recover the bearer tokens that killed servers did not deliver completely, and return their files.

        What such a server left without a bearer token in it is removed.

        Raises:
            DeliveryError: If the destination cannot be searched.
        """
        ...

    async def reserve(self, asked: AskedToken | None = None, /) -> Reservation:
        """Prove that the next bearer token can be stored.

        `asked` is the token that is to be created, None if the destination is only tried.

        Raises:
            DeliveryError: If it cannot be.
        """
        ...

    async def locate(self, token_id: str, location: Location | None, users: Collection[str] = (), /) -> Location | None:
        """Return where the bearer token of a token is now, None if it is not found.

        `location` is where it went, None if that was never recorded. `users` are the users for whom the token may have
        been created.

        Raises:
            DeliveryError: If the destination cannot be searched.
        """
        ...

    async def list_unidentified_files(self) -> Sequence[Path]:
        """Return the files of recovered bearer tokens whose names do not say which token they belong to.

        Raises:
            DeliveryError: If the destination cannot be searched.
        """
        ...

    def render_possible_location(self, user: str, /) -> str | None:
        """Return a clause that says where a killed server may have put a token for a user, None if nowhere."""
        ...

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove a bearer token that turned out to be of no use.

        Raises:
            DeliveryError: If it is still there.
        """
        ...


def sha256_fingerprint(bearer_token: SecretStr) -> str:
    """Return the SHA-256 of a bearer token in hexadecimal, as `printf %s TOKEN | sha256sum` prints it."""
    return hashlib.sha256(bearer_token.get_secret_value().encode()).hexdigest()


def format_name_part(text: str) -> str:
    """Return a text as a part of a file name: other characters than letters, digits and `.@-` become underscores."""
    return _UNSAFE_CHARS.sub("_", text)


class ForAnybody:
    """What is common to the destinations for which it does not matter who asks for a token."""

    def announce(self, _recipient: Recipient | None, /) -> None:
        """Return None: a new bearer token waits nowhere."""


class KeepsNoFiles:
    """What is common to the destinations that keep no files on this machine: a killed server leaves nothing of one."""

    async def recover(self) -> Sequence[Path]:
        """Return no files."""
        return ()

    async def list_unidentified_files(self) -> Sequence[Path]:
        """Return no files."""
        return ()


async def locate_recorded(location: Location | None) -> Location | None:
    """Return where a bearer token is now, by nothing but the location that was recorded for it.

    Raises:
        DeliveryError: If that cannot be found out.
    """
    return None if location is None else await run_with_timeout(location.find_current, DELIVERY_TIMEOUT)


async def run_with_timeout(
    work: Callable[[], WorkResult],
    time_limit: timedelta,
    *,
    rollback: Callable[[WorkResult], object] = lambda _: None,
    timeout_context: TimeoutContext = anyio.fail_after,
    place: str = NEW_TOKENS_PLACE,
) -> WorkResult:
    """Do some work in a thread and return its result; `place` are the words for what the thread works on.

    A thread cannot be stopped: one that hangs goes on by itself. If it comes to a result after all, it hands that to
    `rollback`.

    Raises:
        DeliveryError: If the time limit was reached first.
    """
    results: list[WorkResult] = []
    # The thread and the event loop may each come to their end at any moment. Who takes this lock first decides whether
    # the result counts. Without it, the thread could undo what the caller reports as done, or keep what the caller
    # reports as failed.
    decision = threading.Lock()

    def work_or_roll_back() -> None:
        results.append(work())
        if not decision.acquire(blocking=False):
            rollback(results[0])

    try:
        with timeout_context(time_limit.total_seconds()):
            await anyio.to_thread.run_sync(work_or_roll_back, abandon_on_cancel=True)
    except TimeoutError:
        # If the thread was first, the result is there and counts, although the time is over.
        if decision.acquire(blocking=False):
            raise DeliveryError(
                f"{place} did not answer within {format_duration(time_limit)}, or before this server had to stop: "
                "something waits to be unlocked there, or hangs.",
                advice="Try again once the operator has looked at that.",
            ) from None
    except anyio.get_cancelled_exc_class():
        # Nobody waits for the result any more. If the thread was first, it left the undoing to us.
        if not decision.acquire(blocking=False):
            rollback(results[0])
        raise
    return results[0]
