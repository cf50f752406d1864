"""Delivery of new bearer tokens into the operating system's keyring, through the `keyring` library."""

import secrets
import shlex
import sys
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import ClassVar, Literal

import anyio

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.errors import DeliveryError
from token_tools.posix import IS_WINDOWS
from token_tools.storage.delivery.base import (
    DELIVERY_TIMEOUT,
    AskedToken,
    DeliveredToken,
    ForAnybody,
    KeepsNoFiles,
    Location,
    TimeoutContext,
    format_name_part,
    run_with_timeout,
    sha256_fingerprint,
)
from token_tools.system_keyring import KeyringUnusable, open_keyring


@dataclass(frozen=True)
class KeyringLocation:
    """An account of a service in the keyring."""

    service: str
    account: str
    kind: Literal["keyring"] = "keyring"
    naming_setting: ClassVar[str | None] = "QUMULO_KEYRING"

    def render(self) -> str:
        """Name the service and the account."""
        return f"the system's keyring, service '{self.service}', account '{self.account}'"

    def find_current(self) -> "KeyringLocation":
        """Return the location itself: a keyring that is no longer the destination is not unlocked for a look."""
        return self

    def remove(self) -> None:
        """Remove the account."""
        with _explain_keyring_errors() as keyring:
            keyring.delete_password(self.service, self.account)

    def is_stored(self) -> bool:
        """Tell whether the keyring has something for the account.

        Raises:
            DeliveryError: If the keyring cannot be used.
        """
        with _explain_keyring_errors() as keyring:
            return keyring.get_password(self.service, self.account) is not None

    def store(self, secret: str) -> None:
        """Store a secret in the account and read it back.

        Raises:
            DeliveryError: If it is not stored; something of it may be left.
        """
        with _explain_keyring_errors() as keyring:
            keyring.set_password(self.service, self.account, secret)
            if keyring.get_password(self.service, self.account) != secret:
                raise DeliveryError("The system's keyring did not keep what it was given.")

    def roll_back(self) -> str:
        """Remove what a failed `store` may have left, and return a sentence about what is left, or nothing."""
        with suppress(DeliveryError):
            self.remove()
            return ""
        try:
            is_left = self.is_stored()
        except DeliveryError:
            return f" Whether something of it is left there, as account '{self.account}', is not known."
        return f" Something of it is left there, as account '{self.account}', and is of no use." if is_left else ""


@dataclass(frozen=True)
class KeyringDelivery(ForAnybody, KeepsNoFiles):
    """The destination "the keyring", for the tokens of the cluster at an address.

    It stores a token completely or not at all, and the name of each account has the id of its token.
    """

    address: str
    timeout: timedelta = DELIVERY_TIMEOUT
    timeout_context: TimeoutContext = anyio.fail_after

    @property
    def service(self) -> str:
        """The name under which the keyring lists the tokens of this cluster."""
        return f"qumulo-token-tools {self.address}"

    async def reserve(self, _asked: AskedToken | None = None, /) -> "KeyringDelivery":
        """Prove that the keyring is there and unlocked: store a word in it, read it and remove it."""
        await run_with_timeout(self._probe, self.timeout)
        return self

    async def store(self, token: NewAccessToken, user: Identity, /) -> DeliveredToken:
        """Store the bearer token and read it back."""
        location = self._location_of(str(user), token.id)
        await run_with_timeout(
            partial(_store_or_roll_back, location, token.bearer_token.get_secret_value()),
            self.timeout,
            rollback=lambda _: location.remove(),
            timeout_context=self.timeout_context,
        )
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=location,
            how_to_use=_render_use(location, token.id),
        )

    async def locate(self, token_id: str, location: Location | None, users: Collection[str] = (), /) -> Location | None:
        """Return the account of one of the users that has the token, or else the recorded location elsewhere."""
        candidates = [self._location_of(user, token_id) for user in users]
        return await run_with_timeout(partial(_locate, candidates, location), self.timeout)

    def render_possible_location(self, user: str, /) -> str:
        """Name the account that the token would have."""
        return f"it is in {self._location_of(user, 'ID').render()}, with its id for ID"

    async def release(self) -> None:
        """Do nothing: the word that proved the keyring is removed already."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove the account."""
        await run_with_timeout(delivered.location.remove, self.timeout, timeout_context=self.timeout_context)

    def _location_of(self, user: str, token_id: str) -> KeyringLocation:
        return KeyringLocation(self.service, f"{user} {token_id}")

    def _probe(self) -> None:
        word = f"probe {secrets.token_hex(8)}"
        location = KeyringLocation(self.service, word)
        with ExitStack() as rollback:
            rollback.callback(location.roll_back)
            location.store(word)
            rollback.pop_all()
        location.remove()


def _store_or_roll_back(location: KeyringLocation, secret: str) -> None:
    try:
        location.store(secret)
    except DeliveryError as failure:
        raise DeliveryError(f"{failure}{location.roll_back()}") from None


def _locate(candidates: Sequence[KeyringLocation], recorded: Location | None) -> Location | None:
    found = next((candidate for candidate in candidates if candidate.is_stored()), None)
    if found is not None or recorded is None or recorded in candidates:
        return found
    return recorded.find_current()


def _render_use(location: KeyringLocation, token_id: str) -> str:
    if IS_WINDOWS:
        names = f"{location.service!r}, {location.account!r}"
        return f"A program in Python has it by the library keyring: keyring.get_password({names})."
    return f"To have it in a private file on this machine: {_format_get_command(location, token_id)}"


def _format_get_command(location: KeyringLocation, token_id: str) -> str:
    """Return the shell command that writes the bearer token into a new private file and shows nothing of it."""
    get = shlex.join([sys.executable, "-P", "-m", "keyring", "get", location.service, location.account])
    return f"(umask 077; set -C; {get} > ~/{format_name_part(f'bearer-token_{token_id}')})"


@contextmanager
def _explain_keyring_errors() -> Generator[ModuleType]:
    try:
        with open_keyring() as keyring:
            yield keyring
    except KeyringUnusable as reason:
        raise DeliveryError(
            f"QUMULO_DELIVERY=keyring: {reason}. The operator has to mend that, or to choose another place."
        ) from None
