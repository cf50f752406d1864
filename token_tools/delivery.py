"""Where a new bearer token goes: the one place that ever holds it besides the cluster.

A destination is reserved, and so proved to work, before the cluster is asked for anything; what is reserved is then
either kept, with the token in it, or dropped without a trace.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

import anyio
import anyio.to_thread
from pydantic import SecretStr

from token_tools.credentials import read_bearer, write_store
from token_tools.errors import DeliveryError, SettingsError
from token_tools.identity import Identity
from token_tools.models import NewAccessToken
from token_tools.private import create_private_file, discard, open_private_folder, publish
from token_tools.qq import Qq
from token_tools.settings import Settings

ROOM: Final = 4096
"""Bytes proved to be free; a store with one token takes about 150."""

PENDING: Final = ".pending-"
"""How the name of a file begins that holds no token yet; its maker keeps a lock on it."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.@-]+")


@dataclass(frozen=True)
class Delivered:
    """Where the secret of token `id` is now; `bearer_token` is only set if the operator wants it in the answer.

    `account` is its name in the keyring, empty where it is not there. `fingerprint` is the SHA-256 of the whole bearer
    token in hexadecimal: it recognises the token, and tells nothing.
    """

    id: str
    fingerprint: str
    place: str
    how_to_use: str
    account: str = ""
    bearer_token: SecretStr | None = field(default=None, repr=False)


class Reservation(Protocol):
    """A destination that was found to work; to be ended with one of the two."""

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        """Put the token there, durably.

        Raises:
            DeliveryError: If it could not be; nothing of it is left there then.
        """
        ...

    async def drop(self) -> None:
        """Give the destination up, as if it had never been reserved."""
        ...


class Delivery(Protocol):
    """A way to hand new bearer tokens over."""

    async def recover(self) -> Sequence[Path]:
        """The files, under their new names, of tokens whose delivery a killed server began and did not finish.

        What such a server left without a token in it is removed.

        Raises:
            DeliveryError: If the place cannot be looked through.
        """
        ...

    async def reserve(self) -> Reservation:
        """Prove that the next token has a place.

        Raises:
            DeliveryError: If it has none.
        """
        ...

    async def retract(self, delivered: Delivered) -> None:
        """Remove a secret that turned out to be of no use.

        Raises:
            DeliveryError: If it is still there.
        """
        ...


def choose_delivery(settings: Settings, qq: Qq) -> Delivery:
    """The way that the operator chose with `QUMULO_DELIVERY`."""
    ways: dict[str, Delivery] = {
        "file": FileDelivery(settings.delivery_dir, qq),
        "keyring": KeyringDelivery(settings.address),
        "inline": InlineDelivery(),
    }
    return ways[settings.delivery]


def take_fingerprint(bearer_token: SecretStr) -> str:
    """The SHA-256 of a bearer token, in hexadecimal; `printf %s TOKEN | sha256sum` gives the same."""
    return hashlib.sha256(bearer_token.get_secret_value().encode()).hexdigest()


@dataclass(frozen=True)
class InlineDelivery:
    """Into the answer, and so to the model and whatever records the conversation."""

    async def recover(self) -> Sequence[Path]:
        """Nothing is ever left."""
        return ()

    async def reserve(self) -> "InlineDelivery":
        """Nothing to prove: the answer is its own place."""
        return self

    async def retract(self, delivered: Delivered) -> None:
        """Nothing to remove: without success there is no answer that it could stand in."""

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:  # noqa: ARG002 - the protocol's signature
        """The token as part of the answer."""
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place="this answer, and with it the conversation and its logs",
            how_to_use="Store it now: the cluster does not show it again.",
            bearer_token=token.bearer_token,
        )

    async def drop(self) -> None:
        """Nothing to give up."""


@dataclass(frozen=True)
class FileDelivery:
    """Into a file of its own, mode 0600 in a folder of mode 0700, in the format of qq's credentials store."""

    folder: Path
    qq: Qq

    async def recover(self) -> Sequence[Path]:
        """Give the name that it lacks to each whole file that no living process holds."""
        return await anyio.to_thread.run_sync(self._recover)

    def _recover(self) -> Sequence[Path]:
        with _explained(self.folder):
            abandoned = [path for path in self.folder.glob(f"{PENDING}*") if _is_abandoned(path)]
            return [path for path in map(_rescue, abandoned) if path is not None]

    async def retract(self, delivered: Delivered) -> None:
        """Remove the file."""
        with _explained(self.folder):
            await anyio.Path(delivered.place).unlink(missing_ok=True)

    async def reserve(self) -> "ReservedFile":
        """Create the file under a passing name and prove that there is room for the token."""
        return await anyio.to_thread.run_sync(self._reserve)

    def _reserve(self) -> "ReservedFile":
        pending = PENDING + secrets.token_hex(8)
        with _explained(self.folder), ExitStack() as undo:
            folder = open_private_folder(self.folder)
            undo.callback(os.close, folder)
            file = create_private_file(pending, folder)
            undo.callback(discard, pending, folder)
            undo.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
            _overwrite(file, b" " * ROOM)
            return ReservedFile(self, folder, file, pending, undo.pop_all())


@dataclass(frozen=True)
class ReservedFile:
    """A file that holds nothing but blanks yet; `undo` closes it and removes its passing name."""

    delivery: FileDelivery
    folder: int
    file: int
    pending: str
    undo: ExitStack

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        """Write, flush to the disk, and only then give the file its name."""
        return await anyio.to_thread.run_sync(self._keep, token, user)

    async def drop(self) -> None:
        """Remove the file."""
        await anyio.to_thread.run_sync(self.undo.close)

    def _keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        name = f"{_UNSAFE.sub('_', self.delivery.qq.host)}_{_UNSAFE.sub('_', str(user))}_{token.id}.json"
        with _explained(self.delivery.folder), self.undo:
            _overwrite(self.file, write_store(token.bearer_token))
            publish(self.pending, name, self.folder)
        path = self.delivery.folder / name
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=str(path),
            how_to_use=f"It is a credentials store of qq, mode 0600: {self.delivery.qq.who_am_i(path)}",
        )


@dataclass(frozen=True)
class KeyringDelivery:
    """Into the operating system's keyring, through the `keyring` library."""

    address: str

    async def recover(self) -> Sequence[Path]:
        """Nothing is ever left: the keyring takes a token whole or not at all."""
        return ()

    @property
    def service(self) -> str:
        """The name under which the keyring lists the tokens of this cluster."""
        return f"qumulo-token-tools {self.address}"

    async def reserve(self) -> "KeyringDelivery":
        """Prove that the keyring is there and open by keeping, reading and removing a word in it."""
        await anyio.to_thread.run_sync(self._prove)
        return self

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        """Keep the token and read it back."""
        account = f"{user} {token.id}"
        await anyio.to_thread.run_sync(self._store, account, token.bearer_token.get_secret_value())
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=f"the system's keyring, service {self.service!r}, account {account!r}",
            account=account,
            how_to_use=f"To read it on this machine: keyring get {shlex.quote(self.service)} {shlex.quote(account)}",
        )

    async def drop(self) -> None:
        """Nothing to give up: the proof was removed at once."""

    async def retract(self, delivered: Delivered) -> None:
        """Remove the token from the keyring."""
        await anyio.to_thread.run_sync(self._remove, delivered.account)

    def _prove(self) -> None:
        probe = f"probe {secrets.token_hex(8)}"
        with _keyring_explained() as keyring:
            keyring.set_password(self.service, probe, probe)
            keyring.delete_password(self.service, probe)

    def _remove(self, account: str) -> None:
        with _keyring_explained() as keyring:
            keyring.delete_password(self.service, account)

    def _store(self, account: str, secret: str) -> None:
        with _keyring_explained() as keyring:
            keyring.set_password(self.service, account, secret)
            if keyring.get_password(self.service, account) != secret:
                raise DeliveryError("The system's keyring did not keep the new bearer token.")


@contextmanager
def _keyring_explained() -> Generator[ModuleType]:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to load for those who do not use it
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError:
        raise DeliveryError(
            "QUMULO_DELIVERY=keyring needs the keyring library: install qumulo-token-tools[keyring]."
        ) from None
    try:
        yield keyring
    except KeyringError as failure:
        raise DeliveryError(
            f"The system's keyring cannot be used ({type(failure).__name__}): it is locked, or this system has none. "
            "Unlock it, or set QUMULO_DELIVERY=file."
        ) from failure


def _is_abandoned(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _rescue(path: Path) -> Path | None:
    try:
        read_bearer(path)
    except SettingsError:
        path.unlink(missing_ok=True)
        return None
    return path.rename(path.with_name(f"recovered-{path.name.removeprefix(PENDING)}.json"))


def _overwrite(file: int, content: bytes) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "wb", closefd=False) as stream:
        stream.write(content)
        stream.truncate()
    os.fsync(file)


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        raise DeliveryError(
            f"A new bearer token cannot be kept in {folder}: {failure.strerror}. "
            "QUMULO_DELIVERY_DIR names the folder; it must be the server's own, with mode 0700 and room on its disk."
        ) from failure
