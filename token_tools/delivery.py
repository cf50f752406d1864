"""Where a new bearer token goes: the one place that ever holds it besides the cluster.

A destination is reserved, and so proved to work, before the cluster is asked for anything; what is reserved is then
either kept, with the token in it, or dropped without a trace.
"""

import fcntl
import hashlib
import itertools
import logging
import os
import re
import secrets
import shlex
import stat
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from pydantic import SecretStr

from token_tools.credentials import holds_bearer, write_store
from token_tools.errors import DeliveryError
from token_tools.identity import Identity
from token_tools.models import NewAccessToken
from token_tools.private import create_private_file, discard, is_in, open_private_folder, publish
from token_tools.qq import Qq
from token_tools.settings import Settings
from token_tools.times import tell_duration

ROOM: Final = 4096
"""Bytes proved to be free; a store with one token takes about 150."""

PENDING: Final = ".pending-"
"""How the name of a file begins that holds no token yet; its maker keeps a lock on it."""

PATIENCE: Final = timedelta(minutes=1)
"""How long a delivery may take: a human may have to unlock a keyring."""

_LOG: Final = logging.getLogger(__name__)
_HERE: Final = "this answer, and with it the conversation and its logs"
_LARGEST_STORE: Final = 65_536
_LONGEST_PART: Final = 60
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.@-]+")


Some = TypeVar("Some")
Within = Callable[[float], AbstractContextManager[object]]
"""A block that may take so many seconds, and raises `TimeoutError` if it takes longer."""


@dataclass(frozen=True)
class Delivered:
    """Where the secret of token `id` is now; `bearer_token` is only set if the operator wants it in the answer.

    `account` is its name in the keyring, empty where it is not there; `is_store` says that `place` is a file in the
    format of qq's credentials store. `fingerprint` is the SHA-256 of the whole bearer token in hexadecimal: it
    recognises the token, and tells nothing.
    """

    id: str
    fingerprint: str
    place: str
    how_to_use: str
    account: str = ""
    is_store: bool = False
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
        """Give the destination up, as if it had never been reserved; where that fails, it is only logged."""
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

    async def find(self, token_id: str, place: str | None) -> str | None:
        """Where the secret of a token is now, None if it is nowhere to be found.

        `place` is where it went, None if that was never written down.

        Raises:
            DeliveryError: If it cannot be looked for.
        """
        ...

    async def retract(self, delivered: Delivered) -> None:
        """Remove a secret that turned out to be of no use.

        Raises:
            DeliveryError: If it is still there.
        """
        ...


def choose_delivery(settings: Settings, qq: Qq, *, within: Within = anyio.fail_after) -> Delivery:
    """The way that the operator chose with `QUMULO_DELIVERY`; what must not stop half way is timed by `within`."""
    ways: dict[str, Delivery] = {
        "file": FileDelivery(settings.delivery_dir, qq, within=within),
        "keyring": KeyringDelivery(settings.address, within=within),
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

    async def find(self, token_id: str, place: str | None) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went."""
        return await _in_time(partial(_recall, place), PATIENCE)

    async def retract(self, delivered: Delivered) -> None:
        """Nothing to remove: without success there is no answer that it could stand in."""

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:  # noqa: ARG002 - the protocol's signature
        """The token as part of the answer."""
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=_HERE,
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
    patience: timedelta = PATIENCE
    within: Within = anyio.fail_after

    async def recover(self) -> Sequence[Path]:
        """Give the name that it lacks to each whole file that no living process holds."""
        return await anyio.to_thread.run_sync(self._recover)

    def _recover(self) -> Sequence[Path]:
        with _explained(self.folder), ExitStack() as ending:
            try:
                folder = open_private_folder(self.folder, make=False)
            except FileNotFoundError:
                return ()
            ending.callback(os.close, folder)
            names = sorted(os.listdir(folder))  # noqa: PTH208 - the folder that was looked at, whatever its name is now
            pending = [name for name in names if name.startswith(PENDING)]
            return [self.folder / name for name in (_rescue(name, folder) for name in pending) if name is not None]

    async def find(self, token_id: str, place: str | None) -> str | None:
        """Where it went, or the file that has the token's name."""
        return await _in_time(partial(self._find, token_id, place), self.patience)

    def _find(self, token_id: str, place: str | None) -> str | None:
        with _explained(self.folder):
            names = sorted(_list_names(self.folder), key=lambda name: (len(name), name))
        its_own = re.compile(rf"{re.escape(self._prefix)}_.*_{re.escape(token_id)}(?:-\d+)?\.json")
        return _recall(place) or next((str(self.folder / name) for name in names if its_own.fullmatch(name)), None)

    async def retract(self, delivered: Delivered) -> None:
        """Remove the file."""
        with _explained(self.folder):
            await _in_time(partial(_remove_file, delivered), self.patience, within=self.within)

    async def reserve(self) -> "ReservedFile":
        """Create the file under a passing name and prove that there is room for the token."""
        return await _in_time(self._reserve, self.patience, undo=ReservedFile.close)

    def _reserve(self) -> "ReservedFile":
        with _explained(self.folder), ExitStack() as undo:
            folder = open_private_folder(self.folder)
            undo.callback(os.close, folder)
            while True:
                pending = PENDING + secrets.token_hex(8)
                file = create_private_file(pending, folder)
                undo.callback(discard, pending, folder)
                undo.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX)
                # A server that starts removes what nobody has a lock on, and may have come before the lock.
                if is_in(file, pending, folder):
                    break
            _overwrite(file, b" " * ROOM)
            return ReservedFile(self, folder, file, pending, undo.pop_all())

    @property
    def _prefix(self) -> str:
        return f"{_UNSAFE.sub('_', self.qq.host[:_LONGEST_PART])}_{self.qq.port}"

    def name_files(self, user: Identity, token_id: str) -> Iterator[str]:
        """How the file of a token can be called, the best name first; each is short enough for any file system."""
        name = "_".join([self._prefix, *(_UNSAFE.sub("_", part) for part in (str(user)[:_LONGEST_PART], token_id))])
        yield f"{name}.json"
        yield from (f"{name}-{number}.json" for number in itertools.count(2))


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
        keep = partial(self._keep, token, user)
        return await _in_time(keep, self.delivery.patience, undo=_remove_file, within=self.delivery.within)

    async def drop(self) -> None:
        """Remove the file."""
        await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Remove the file, if that can be done."""
        try:
            self.undo.close()
        except OSError as failure:
            _LOG.warning("%s/%s could not be removed: %s", self.delivery.folder, self.pending, failure.strerror)

    def _keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        with _explained(self.delivery.folder), self.undo, ExitStack() as unless_kept:
            # The name may be there to stay; the secret is not.
            unless_kept.callback(_overwrite, self.file, b"")
            _overwrite(self.file, write_store(token.bearer_token))
            path = self.delivery.folder / self._publish(user, token.id)
            unless_kept.pop_all()
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=str(path),
            is_store=True,
            how_to_use=f"It is a credentials store of qq, mode 0600: {self.delivery.qq.who_am_i(path)}",
        )

    def _publish(self, user: Identity, token_id: str) -> str:
        for name in self.delivery.name_files(user, token_id):
            with suppress(FileExistsError):
                publish(self.pending, name, self.folder)
                return name
        raise AssertionError  # pragma: no cover - there is always another name


@dataclass(frozen=True)
class KeyringDelivery:
    """Into the operating system's keyring, through the `keyring` library."""

    address: str
    patience: timedelta = PATIENCE
    within: Within = anyio.fail_after

    async def recover(self) -> Sequence[Path]:
        """Nothing is ever left: the keyring takes a token whole or not at all."""
        return ()

    @property
    def service(self) -> str:
        """The name under which the keyring lists the tokens of this cluster."""
        return f"qumulo-token-tools {self.address}"

    async def reserve(self) -> "KeyringDelivery":
        """Prove that the keyring is there and open by keeping, reading and removing a word in it."""
        await _in_time(self._prove, self.patience)
        return self

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        """Keep the token and read it back."""
        account = f"{user} {token.id}"
        store = partial(self._store, account, token.bearer_token.get_secret_value())
        await _in_time(store, self.patience, undo=lambda _: self._remove(account), within=self.within)
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=f"the system's keyring, service {self.service!r}, account {account!r}",
            account=account,
            how_to_use=f"To read it on this machine: keyring get {shlex.quote(self.service)} {shlex.quote(account)}",
        )

    async def find(self, token_id: str, place: str | None) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went."""
        return await _in_time(partial(_recall, place), self.patience)

    async def drop(self) -> None:
        """Nothing to give up: the proof was removed at once."""

    async def retract(self, delivered: Delivered) -> None:
        """Remove the token from the keyring."""
        await _in_time(partial(self._remove, delivered.account), self.patience, within=self.within)

    def _prove(self) -> None:
        probe = f"probe {secrets.token_hex(8)}"
        self._store(probe, probe)
        self._remove(probe)

    def _remove(self, account: str) -> None:
        with _keyring_explained() as keyring:
            keyring.delete_password(self.service, account)

    def _store(self, account: str, secret: str) -> None:
        with _keyring_explained() as keyring, ExitStack() as unless_kept:
            unless_kept.callback(self._remove_if_there, account)
            keyring.set_password(self.service, account, secret)
            if keyring.get_password(self.service, account) != secret:
                raise DeliveryError("The system's keyring did not keep what it was given.")
            unless_kept.pop_all()

    def _remove_if_there(self, account: str) -> None:
        with suppress(DeliveryError):
            self._remove(account)


@contextmanager
def _keyring_explained() -> Generator[ModuleType]:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to load for those who do not use it
    except ImportError:
        raise DeliveryError(
            "QUMULO_DELIVERY=keyring needs the keyring library: install qumulo-token-tools[keyring]."
        ) from None
    try:
        yield keyring
    except DeliveryError:
        raise
    except Exception as failure:  # noqa: BLE001 - a backend is a plug-in that raises what it likes, and may quote secrets
        raise DeliveryError(
            f"The system's keyring cannot be used ({type(failure).__name__}): it is locked, or this system has none. "
            "Unlock it, or set QUMULO_DELIVERY=file."
        ) from None


async def _in_time(
    work: Callable[[], Some],
    patience: timedelta,
    *,
    undo: Callable[[Some], object] = lambda _: None,
    within: Within = anyio.fail_after,
) -> Some:
    """What is done in a thread, which is left alone if it hangs; what comes of it too late is undone there."""
    too_late = threading.Event()

    def work_or_undo() -> Some:
        done = work()
        if too_late.is_set():
            undo(done)
        return done

    try:
        with within(patience.total_seconds()):
            return await anyio.to_thread.run_sync(work_or_undo, abandon_on_cancel=True)
    except TimeoutError:
        raise DeliveryError(
            f"The place for new bearer tokens (QUMULO_DELIVERY) did not answer within {tell_duration(patience)}, "
            "or before this server had to stop: something waits to be unlocked there, or hangs."
        ) from None
    finally:
        too_late.set()


def _recall(place: str | None) -> str | None:
    """A place as it is told later; None for a file that is gone."""
    if place is None or place == _HERE:
        return place and place.replace("this answer", "the answer to that call")
    path = Path(place)
    with _explained(path.parent):
        return None if path.is_absolute() and path.name not in _list_names(path.parent) else place


def _list_names(folder: Path) -> Sequence[str]:
    """What is in a folder, if it is there; `glob` would pass over one that cannot be read."""
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _remove_file(delivered: Delivered) -> None:
    Path(delivered.place).unlink(missing_ok=True)


def _rescue(name: str, folder: int) -> str | None:
    """The new name of an abandoned file that holds a token; one without a token is removed, anything else let be."""
    with ExitStack() as ending:
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            return None
        ending.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode) or not _try_lock(file):
            return None
        if not holds_bearer(os.read(file, _LARGEST_STORE)):
            discard(name, folder)
            return None
        rescued = f"recovered-{name.removeprefix(PENDING)}.json"
        publish(name, rescued, folder)
        return rescued


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
