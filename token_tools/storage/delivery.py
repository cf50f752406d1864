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
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
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

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
from token_tools.credentials import holds_bearer, write_store
from token_tools.errors import ONCE_MENDED, DeliveryError
from token_tools.settings import Settings
from token_tools.storage.private_files import (
    HOW_TO_NAME_A_FOLDER,
    attempt,
    create_private_file,
    discard,
    find_private_mode,
    flush,
    is_in,
    make_private_folder,
    open_private_folder,
    rename,
    tell_path,
)
from token_tools.times import tell_duration

ROOM: Final = 4096
"""Bytes proved to be free; a store with one token takes about 150."""

PENDING: Final = ".pending-"
"""How the name of a file begins that is not handed over yet; its maker keeps a lock on it.

It ends in `_` and the id of the token that goes into it, once that is known.
"""

RECOVERED: Final = "recovered-"
"""How the name of a file begins whose maker was killed before it could hand it over."""

LONGEST_NAME: Final = 143
"""Characters of a file name: there is no file system in use that takes less (eCryptfs)."""

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
    recognises the token, and tells nothing. `warning` is what failed afterwards, and changes nothing about that.
    """

    id: str
    fingerprint: str
    place: str
    how_to_use: str
    account: str = ""
    is_store: bool = False
    warning: str | None = None
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

    async def find(self, token_id: str, place: str | None, users: Collection[str] = ()) -> str | None:
        """Where the secret of a token is now, None if it is nowhere to be found.

        `place` is where it went, None if that was never written down; `users` are whom it can have been made for.

        Raises:
            DeliveryError: If it cannot be looked for.
        """
        ...

    async def find_nameless(self) -> Sequence[Path]:
        """The files of recovered tokens that do not tell by their names whose they are.

        Raises:
            DeliveryError: If they cannot be looked for.
        """
        ...

    def tell_whereabouts(self, user: str) -> str | None:
        """Where a killed server may have put a token for a user, for somebody who looks; None if nowhere."""
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

    async def find(self, token_id: str, place: str | None, users: Collection[str] = ()) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went."""
        return await _in_time(partial(_recall, place), PATIENCE)

    async def find_nameless(self) -> Sequence[Path]:
        """There are none."""
        return ()

    def tell_whereabouts(self, user: str) -> None:
        """An answer that was not given is nowhere."""

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
        return await _in_time(self._rescue, self.patience)

    def _rescue(self, ending: str = "") -> Sequence[Path]:
        """As `recover`, of those whose pending name ends so."""
        with _explained(self.folder), ExitStack() as closing:
            try:
                folder = open_private_folder(self.folder)
            except FileNotFoundError:
                return ()
            closing.callback(_close, self.folder, folder)
            names = sorted(os.listdir(folder))  # noqa: PTH208 - the folder that was looked at, whatever its name is now
            pending = [name for name in names if name.startswith(PENDING) and name.endswith(ending)]
            return [self.folder / name for name in (_rescue(name, folder) for name in pending) if name is not None]

    async def find(self, token_id: str, place: str | None, users: Collection[str] = ()) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went, or the file that has the token's id in its name."""
        return await _in_time(partial(self._find, token_id, place), self.patience)

    def _find(self, token_id: str, place: str | None) -> str | None:
        # Whoever was to give the file its name may have been killed since this server started.
        self._rescue(f"_{token_id}")
        its_own = rf"(?:{re.escape(self._prefix)}_.*|{RECOVERED}[0-9a-f]*)_{re.escape(token_id)}(?:-\d+)?\.json"
        return _recall(place) or next(map(str, self._find_named(its_own)), None)

    async def find_nameless(self) -> Sequence[Path]:
        """What was recovered of a server that did not write the id into the pending name yet."""
        return await _in_time(partial(self._find_named, rf"{RECOVERED}[0-9a-f]*\.json"), self.patience)

    def _find_named(self, pattern: str) -> Sequence[Path]:
        """The files with such a name, the best name first."""
        with _explained(self.folder):
            names = [name for name in _list_names(self.folder) if re.fullmatch(pattern, name)]
        return [self.folder / name for name in sorted(names, key=lambda name: (len(name), name))]

    def tell_whereabouts(self, user: str) -> str:  # noqa: ARG002 - the protocol's signature
        """The files of the folder."""
        return f"a file in {tell_path(self.folder)} has its id in its name"

    async def retract(self, delivered: Delivered) -> None:
        """Remove the file."""
        with _explained(self.folder):
            await _in_time(partial(_remove_file, delivered), self.patience, within=self.within)

    async def reserve(self) -> "ReservedFile":
        """Take each step that the delivery will take, with as many blanks as there is room needed for the token."""
        return await _in_time(self._reserve, self.patience, undo=ReservedFile.close)

    def _reserve(self) -> "ReservedFile":
        with _explained(self.folder), ExitStack() as unless_reserved:
            folder = make_private_folder(self.folder)
            unless_reserved.callback(os.close, folder)
            while True:
                name = PENDING + secrets.token_hex(8)
                # As long as any name that the file will have.
                first = name.ljust(LONGEST_NAME, "-")
                file = create_private_file(first, folder)
                unless_reserved.callback(discard, first, folder)
                unless_reserved.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX)
                # A server that starts removes what nobody has a lock on, and may have come before the lock.
                if is_in(file, first, folder):
                    break
            _overwrite(file, b" " * ROOM)
            unless_reserved.callback(discard, name, folder)
            rename(first, name, folder)
            flush(folder)
            unless_reserved.pop_all()
        return ReservedFile(self, folder, file, name)

    @property
    def _prefix(self) -> str:
        return f"{_UNSAFE.sub('_', self.qq.host[:_LONGEST_PART])}_{self.qq.port}"

    def name_files(self, user: Identity, token_id: str) -> Iterator[str]:
        """How the file of a token can be called, the best name first; none is longer than `LONGEST_NAME`."""
        ending = f"_{_UNSAFE.sub('_', token_id)}"
        whose = _UNSAFE.sub("_", str(user)[:_LONGEST_PART])
        rests = itertools.chain([f"{ending}.json"], (f"{ending}-{number}.json" for number in itertools.count(2)))
        return (f"{self._prefix}_{whose}"[: LONGEST_NAME - len(rest)] + rest for rest in rests)


@dataclass
class ReservedFile:
    """A file that holds nothing but blanks yet; `name` is what it is called by now."""

    delivery: FileDelivery
    folder: int
    file: int
    name: str

    async def keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        """Write, flush to the disk, and only then give the file its name."""
        keep = partial(self._keep, token, user)
        return await _in_time(keep, self.delivery.patience, undo=_remove_file, within=self.delivery.within)

    async def drop(self) -> None:
        """Remove the file."""
        await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Remove the file, if that can be done."""
        self._remove()
        self._close()

    @property
    def _path(self) -> Path:
        return self.delivery.folder / self.name

    def _keep(self, token: NewAccessToken, user: Identity) -> Delivered:
        try:
            mode = self._write(token, user)
        except OSError as failure:
            raise DeliveryError(f"{_tell_failure(self.delivery.folder, failure)}{self._abandon()}") from failure
        failed = self._close()
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=str(self._path),
            is_store=True,
            how_to_use=f"The file with the bearer token is a credentials store of qq, mode {mode:04o}. To try it: "
            f"{self.delivery.qq.who_am_i(self._path)}",
            warning=f"{failed}. The bearer token was on the disk before that." if failed else None,
        )

    def _write(self, token: NewAccessToken, user: Identity) -> int:
        """The mode that the file has in the end."""
        # Whoever finds it after a kill has to know whose it is.
        self._rename(f"{self.name}_{token.id}")
        _overwrite(self.file, write_store(token.bearer_token))
        for name in self.delivery.name_files(user, token.id):
            with suppress(FileExistsError):
                self._rename(name)
                return find_private_mode(self.file)
        raise AssertionError  # pragma: no cover - there is always another name

    def _rename(self, name: str) -> None:
        rename(self.name, name, self.folder)
        self.name = name
        flush(self.folder)

    def _abandon(self) -> str:
        """Leave nothing of a token that could not be kept, and tell where that failed."""
        # A name may be there to stay; the secret is not.
        is_full = attempt(f"{self._path} could not be emptied", partial(_overwrite, self.file, b""))
        left = self._remove()
        self._close()
        return f" {left}; what is in it is of no use once the token is deleted." if is_full and left else ""

    def _remove(self) -> str | None:
        return attempt(f"{self._path} could not be removed", partial(discard, self.name, self.folder))

    def _close(self) -> str | None:
        """Give the lock and the descriptors back; nothing depends on that any more."""
        failures = [_close(self._path, self.file), _close(self.delivery.folder, self.folder)]
        return "; ".join(filter(None, failures)) or None


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
        account = _name_account(str(user), token.id)
        store = partial(self._keep, account, token.bearer_token.get_secret_value())
        await _in_time(store, self.patience, undo=lambda _: self._remove(account), within=self.within)
        return Delivered(
            token.id,
            take_fingerprint(token.bearer_token),
            place=self._tell_place(account),
            account=account,
            how_to_use=f"To have it in a private file on this machine: {self._write_command(account, token.id)}",
        )

    async def find(self, token_id: str, place: str | None, users: Collection[str] = ()) -> str | None:
        """The account that it has in the keyring, or else the other place where it went."""
        accounts = [_name_account(user, token_id) for user in users]
        return await _in_time(partial(self._find, accounts, place), self.patience)

    def _find(self, accounts: Sequence[str], place: str | None) -> str | None:
        places = {self._tell_place(account): account for account in accounts}
        found = next((told for told, account in places.items() if self._is_kept(account)), None)
        return found or (None if place in places else _recall(place))

    async def find_nameless(self) -> Sequence[Path]:
        """There are none: each account has the id in its name."""
        return ()

    def tell_whereabouts(self, user: str) -> str:
        """The account that it would have."""
        return f"it is in {self._tell_place(_name_account(user, 'ID'))}, with its id for ID"

    def _write_command(self, account: str, token_id: str) -> str:
        """What a person gives a shell to have the token in a new file; nothing of it is shown, nor in a transcript."""
        get = shlex.join([sys.executable, "-P", "-m", "keyring", "get", self.service, account])
        return f"(umask 077; set -C; {get} > ~/{_UNSAFE.sub('_', f'bearer-token_{token_id}')})"

    def _tell_place(self, account: str) -> str:
        return f"the system's keyring, service '{self.service}', account '{account}'"

    async def drop(self) -> None:
        """Nothing to give up: the proof was removed at once."""

    async def retract(self, delivered: Delivered) -> None:
        """Remove the token from the keyring."""
        await _in_time(partial(self._remove, delivered.account), self.patience, within=self.within)

    def _prove(self) -> None:
        probe = f"probe {secrets.token_hex(8)}"
        with ExitStack() as unless_kept:
            unless_kept.callback(self._clean_up, probe)
            self._store(probe, probe)
            unless_kept.pop_all()
        self._remove(probe)

    def _keep(self, account: str, secret: str) -> None:
        try:
            self._store(account, secret)
        except DeliveryError as failure:
            raise DeliveryError(f"{failure}{self._clean_up(account)}") from None

    def _is_kept(self, account: str) -> bool:
        with _keyring_explained() as keyring:
            return keyring.get_password(self.service, account) is not None

    def _remove(self, account: str) -> None:
        with _keyring_explained() as keyring:
            keyring.delete_password(self.service, account)

    def _store(self, account: str, secret: str) -> None:
        with _keyring_explained() as keyring:
            keyring.set_password(self.service, account, secret)
            if keyring.get_password(self.service, account) != secret:
                raise DeliveryError("The system's keyring did not keep what it was given.")

    def _clean_up(self, account: str) -> str:
        """Leave nothing of what could not be kept, and tell where that failed."""
        with suppress(DeliveryError):
            self._remove(account)
            return ""
        try:
            is_left = self._is_kept(account)
        except DeliveryError:
            return f" Whether something of it is left there, as account '{account}', is not known."
        return f" Something of it is left there, as account '{account}', and is of no use." if is_left else ""


def _name_account(user: str, token_id: str) -> str:
    return f"{user} {token_id}"


@contextmanager
def _keyring_explained() -> Generator[ModuleType]:
    try:
        yield _load_keyring()
    except DeliveryError:
        raise
    except BaseException as failure:  # noqa: BLE001 - a plug-in raises what it likes, an exit too, and may quote secrets
        raise DeliveryError(
            f"The system's keyring cannot be used ({type(failure).__name__}): it is locked, or this system has none. "
            "The operator has to unlock it, or to choose another place (QUMULO_DELIVERY)."
        ) from None


def _load_keyring() -> ModuleType:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to load for those who do not use it
    except ImportError:
        raise DeliveryError(
            "QUMULO_DELIVERY=keyring needs the keyring library: install qumulo-token-tools[keyring]."
        ) from None
    return keyring


async def _in_time(
    work: Callable[[], Some],
    patience: timedelta,
    *,
    undo: Callable[[Some], object] = lambda _: None,
    within: Within = anyio.fail_after,
) -> Some:
    """What is done in a thread, which is left alone if it hangs; what comes of it too late is undone there."""
    outcome: list[Some] = []
    # Taken by what comes first, the end of the work or of the time: in between, one would undo what the other tells.
    decided = threading.Lock()

    def work_or_undo() -> None:
        outcome.append(work())
        if not decided.acquire(blocking=False):
            undo(outcome[0])

    try:
        with within(patience.total_seconds()):
            await anyio.to_thread.run_sync(work_or_undo, abandon_on_cancel=True)
    except TimeoutError:
        if decided.acquire(blocking=False):
            raise DeliveryError(
                f"The place for new bearer tokens (QUMULO_DELIVERY) did not answer within {tell_duration(patience)}, "
                "or before this server had to stop: something waits to be unlocked there, or hangs.",
                advice="Try again once the operator has looked at that.",
            ) from None
    except anyio.get_cancelled_exc_class():
        if not decided.acquire(blocking=False):
            undo(outcome[0])
        raise
    return outcome[0]


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
            # NFS gives a lock for writing to nobody who only reads.
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            return None
        ending.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode) or not _try_lock(file):
            return None
        if not holds_bearer(os.read(file, _LARGEST_STORE)):
            discard(name, folder)
            return None
        rescued = f"{RECOVERED}{name.removeprefix(PENDING)}.json"
        rename(name, rescued, folder)
        flush(folder)
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
    flush(file)


def _close(path: Path, descriptor: int) -> str | None:
    return attempt(f"{path} could not be closed", partial(os.close, descriptor))


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        raise DeliveryError(_tell_failure(folder, failure), advice=ONCE_MENDED) from failure


def _tell_failure(folder: Path, failure: OSError) -> str:
    return (
        f"A new bearer token cannot be kept in {tell_path(folder)}: {failure.strerror}. "
        f"{HOW_TO_NAME_A_FOLDER}; it must be the server's own, with mode 0700 and room on its disk."
    )
