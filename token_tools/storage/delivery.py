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
from token_tools.credentials import encode_store, is_valid_store
from token_tools.errors import RETRY_ONCE_FIXED, DeliveryError
from token_tools.settings import Settings
from token_tools.storage.private_files import (
    HOW_TO_SET_FOLDER,
    create_private_file,
    ensure_private_folder,
    flush,
    format_path,
    has_name,
    open_private_folder,
    read_private_mode,
    remove_if_exists,
    rename,
    try_or_log,
)
from token_tools.times import format_duration

RESERVED_BYTES: Final = 4096
"""Bytes proved to be free; a store with one token takes about 150."""

PENDING_PREFIX: Final = ".pending-"
"""How the name of a file begins that is not handed over yet; its maker keeps a lock on it.

It ends in `_` and the id of the token that goes into it, once that is known.
"""

RECOVERED_PREFIX: Final = "recovered-"
"""How the name of a file begins whose maker was killed before it could hand it over."""

MAX_FILE_NAME_CHARS: Final = 143
"""Characters of a file name: there is no file system in use that takes less (eCryptfs)."""

DELIVERY_TIMEOUT: Final = timedelta(minutes=1)
"""How long a delivery may take: a human may have to unlock a keyring."""

_LOG: Final = logging.getLogger(__name__)
_INLINE_LOCATION: Final = "this answer, and with it the conversation and its logs"
_MAX_STORE_BYTES: Final = 65_536
_MAX_NAME_PART_CHARS: Final = 60
_UNSAFE_CHARS: Final = re.compile(r"[^A-Za-z0-9.@-]+")


WorkResult = TypeVar("WorkResult")
TimeoutContext = Callable[[float], AbstractContextManager[object]]
"""A block that may take so many seconds, and raises `TimeoutError` if it takes longer."""


@dataclass(frozen=True)
class DeliveredToken:
    """Where the secret of token `id` is now; `bearer_token` is only set if the operator wants it in the answer.

    `account` is its name in the keyring, empty where it is not there; `is_store` says that `location` is a file in the
    format of qq's credentials store. `fingerprint` is the SHA-256 of the whole bearer token in hexadecimal: it
    recognises the token, and tells nothing. `warning` is what failed afterwards, and changes nothing about that.
    """

    id: str
    fingerprint: str
    location: str
    how_to_use: str
    account: str = ""
    is_store: bool = False
    warning: str | None = None
    bearer_token: SecretStr | None = field(default=None, repr=False)


class Reservation(Protocol):
    """A destination that was found to work; to be ended with one of the two."""

    async def store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        """Put the token there, durably.

        Raises:
            DeliveryError: If it could not be; nothing of it is left there then.
        """
        ...

    async def release(self) -> None:
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

    async def locate(self, token_id: str, location: str | None, users: Collection[str] = ()) -> str | None:
        """Where the secret of a token is now, None if it is nowhere to be found.

        `location` is where it went, None if that was never written down; `users` are whom it can have been made for.

        Raises:
            DeliveryError: If it cannot be looked for.
        """
        ...

    async def list_unidentified_files(self) -> Sequence[Path]:
        """The files of recovered tokens that do not tell by their names whose they are.

        Raises:
            DeliveryError: If they cannot be looked for.
        """
        ...

    def render_possible_location(self, user: str) -> str | None:
        """Where a killed server may have put a token for a user, for somebody who looks; None if nowhere."""
        ...

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove a secret that turned out to be of no use.

        Raises:
            DeliveryError: If it is still there.
        """
        ...


def choose_delivery(settings: Settings, qq: Qq, *, timeout_context: TimeoutContext = anyio.fail_after) -> Delivery:
    """Return the delivery that `QUMULO_DELIVERY` names; it times what must not stop half way with `timeout_context`."""
    ways: dict[str, Delivery] = {
        "file": FileDelivery(settings.delivery_dir, qq, timeout_context=timeout_context),
        "keyring": KeyringDelivery(settings.address, timeout_context=timeout_context),
        "inline": InlineDelivery(),
    }
    return ways[settings.delivery]


def sha256_fingerprint(bearer_token: SecretStr) -> str:
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

    async def locate(self, token_id: str, location: str | None, users: Collection[str] = ()) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went."""
        return await _run_with_timeout(partial(_find_current_location, location), DELIVERY_TIMEOUT)

    async def list_unidentified_files(self) -> Sequence[Path]:
        """There are none."""
        return ()

    def render_possible_location(self, user: str) -> None:
        """An answer that was not given is nowhere."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Nothing to remove: without success there is no answer that it could stand in."""

    async def store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:  # noqa: ARG002 - the protocol's signature
        """The token as part of the answer."""
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=_INLINE_LOCATION,
            how_to_use="Store it now: the cluster does not show it again.",
            bearer_token=token.bearer_token,
        )

    async def release(self) -> None:
        """Nothing to give up."""


@dataclass(frozen=True)
class FileDelivery:
    """Into a file of its own, mode 0600 in a folder of mode 0700, in the format of qq's credentials store."""

    folder: Path
    qq: Qq
    timeout: timedelta = DELIVERY_TIMEOUT
    timeout_context: TimeoutContext = anyio.fail_after

    async def recover(self) -> Sequence[Path]:
        """Give the name that it lacks to each whole file that no living process holds."""
        return await _run_with_timeout(self._recover_pending, self.timeout)

    def _recover_pending(self, ending: str = "") -> Sequence[Path]:
        """As `recover`, of those whose pending name ends so."""
        with _explain_os_errors(self.folder), ExitStack() as closing:
            try:
                folder = open_private_folder(self.folder)
            except FileNotFoundError:
                return ()
            closing.callback(_close, self.folder, folder)
            names = sorted(os.listdir(folder))  # noqa: PTH208 - the folder that was looked at, whatever its name is now
            pending = [name for name in names if name.startswith(PENDING_PREFIX) and name.endswith(ending)]
            return [
                self.folder / name for name in (_recover_file(name, folder) for name in pending) if name is not None
            ]

    async def locate(self, token_id: str, location: str | None, users: Collection[str] = ()) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Where it went, or the file that has the token's id in its name."""
        return await _run_with_timeout(partial(self._locate, token_id, location), self.timeout)

    def _locate(self, token_id: str, location: str | None) -> str | None:
        # Whoever was to give the file its name may have been killed since this server started.
        self._recover_pending(f"_{token_id}")
        its_own = (
            rf"(?:{re.escape(self._name_prefix)}_.*|{RECOVERED_PREFIX}[0-9a-f]*)_{re.escape(token_id)}(?:-\d+)?\.json"
        )
        return _find_current_location(location) or next(map(str, self._list_named(its_own)), None)

    async def list_unidentified_files(self) -> Sequence[Path]:
        """What was recovered of a server that did not write the id into the pending name yet."""
        return await _run_with_timeout(partial(self._list_named, rf"{RECOVERED_PREFIX}[0-9a-f]*\.json"), self.timeout)

    def _list_named(self, pattern: str) -> Sequence[Path]:
        """The files with such a name, the best name first."""
        with _explain_os_errors(self.folder):
            names = [name for name in _list_names(self.folder) if re.fullmatch(pattern, name)]
        return [self.folder / name for name in sorted(names, key=lambda name: (len(name), name))]

    def render_possible_location(self, user: str) -> str:  # noqa: ARG002 - the protocol's signature
        """The files of the folder."""
        return f"a file in {format_path(self.folder)} has its id in its name"

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove the file."""
        with _explain_os_errors(self.folder):
            await _run_with_timeout(
                partial(_remove_delivered, delivered), self.timeout, timeout_context=self.timeout_context
            )

    async def reserve(self) -> "ReservedFile":
        """Take each step that the delivery will take, with as many blanks as there is room needed for the token."""
        return await _run_with_timeout(self._reserve, self.timeout, rollback=ReservedFile.remove_and_close)

    def _reserve(self) -> "ReservedFile":
        with _explain_os_errors(self.folder), ExitStack() as unless_reserved:
            folder = ensure_private_folder(self.folder)
            unless_reserved.callback(os.close, folder)
            while True:
                name = PENDING_PREFIX + secrets.token_hex(8)
                # As long as any name that the file will have.
                first = name.ljust(MAX_FILE_NAME_CHARS, "-")
                file = create_private_file(first, folder)
                unless_reserved.callback(remove_if_exists, first, folder)
                unless_reserved.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX)
                # A server that starts removes what nobody has a lock on, and may have come before the lock.
                if has_name(file, first, folder):
                    break
            _overwrite(file, b" " * RESERVED_BYTES)
            unless_reserved.callback(remove_if_exists, name, folder)
            rename(first, name, folder)
            flush(folder)
            unless_reserved.pop_all()
        return ReservedFile(self, folder, file, name)

    @property
    def _name_prefix(self) -> str:
        return f"{_UNSAFE_CHARS.sub('_', self.qq.host[:_MAX_NAME_PART_CHARS])}_{self.qq.port}"

    def propose_file_names(self, user: Identity, token_id: str) -> Iterator[str]:
        """How the file of a token can be called, the best name first; none is longer than `MAX_FILE_NAME_CHARS`."""
        ending = f"_{_UNSAFE_CHARS.sub('_', token_id)}"
        whose = _UNSAFE_CHARS.sub("_", str(user)[:_MAX_NAME_PART_CHARS])
        rests = itertools.chain([f"{ending}.json"], (f"{ending}-{number}.json" for number in itertools.count(2)))
        return (f"{self._name_prefix}_{whose}"[: MAX_FILE_NAME_CHARS - len(rest)] + rest for rest in rests)


@dataclass
class ReservedFile:
    """A file that holds nothing but blanks yet; `name` is what it is called by now."""

    delivery: FileDelivery
    folder_fd: int
    file_fd: int
    name: str

    async def store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        """Write, flush to the disk, and only then give the file its name."""
        keep = partial(self._store, token, user)
        return await _run_with_timeout(
            keep, self.delivery.timeout, rollback=_remove_delivered, timeout_context=self.delivery.timeout_context
        )

    async def release(self) -> None:
        """Remove the file."""
        await anyio.to_thread.run_sync(self.remove_and_close)

    def remove_and_close(self) -> None:
        """Remove the file, if that can be done."""
        self._remove()
        self._close()

    @property
    def _path(self) -> Path:
        return self.delivery.folder / self.name

    def _store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        try:
            mode = self._write_token(token, user)
        except OSError as failure:
            raise DeliveryError(f"{_render_failure(self.delivery.folder, failure)}{self._rollback()}") from failure
        failed = self._close()
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=str(self._path),
            is_store=True,
            how_to_use=f"The file with the bearer token is a credentials store of qq, mode {mode:04o}. To try it: "
            f"{self.delivery.qq.who_am_i(self._path)}",
            warning=f"{failed}. The bearer token was on the disk before that." if failed else None,
        )

    def _write_token(self, token: NewAccessToken, user: Identity) -> int:
        """The mode that the file has in the end."""
        # Whoever finds it after a kill has to know whose it is.
        self._rename(f"{self.name}_{token.id}")
        _overwrite(self.file_fd, encode_store(token.bearer_token))
        for name in self.delivery.propose_file_names(user, token.id):
            with suppress(FileExistsError):
                self._rename(name)
                return read_private_mode(self.file_fd)
        raise AssertionError  # pragma: no cover - there is always another name

    def _rename(self, name: str) -> None:
        rename(self.name, name, self.folder_fd)
        self.name = name
        flush(self.folder_fd)

    def _rollback(self) -> str:
        """Leave nothing of a token that could not be kept, and tell where that failed."""
        # A name may be there to stay; the secret is not.
        is_full = try_or_log(f"{self._path} could not be emptied", partial(_overwrite, self.file_fd, b""))
        left = self._remove()
        self._close()
        return f" {left}; what is in it is of no use once the token is deleted." if is_full and left else ""

    def _remove(self) -> str | None:
        return try_or_log(f"{self._path} could not be removed", partial(remove_if_exists, self.name, self.folder_fd))

    def _close(self) -> str | None:
        """Give the lock and the descriptors back; nothing depends on that any more."""
        failures = [_close(self._path, self.file_fd), _close(self.delivery.folder, self.folder_fd)]
        return "; ".join(filter(None, failures)) or None


@dataclass(frozen=True)
class KeyringDelivery:
    """Into the operating system's keyring, through the `keyring` library."""

    address: str
    timeout: timedelta = DELIVERY_TIMEOUT
    timeout_context: TimeoutContext = anyio.fail_after

    async def recover(self) -> Sequence[Path]:
        """Nothing is ever left: the keyring takes a token whole or not at all."""
        return ()

    @property
    def service(self) -> str:
        """The name under which the keyring lists the tokens of this cluster."""
        return f"qumulo-token-tools {self.address}"

    async def reserve(self) -> "KeyringDelivery":
        """Prove that the keyring is there and open by keeping, reading and removing a word in it."""
        await _run_with_timeout(self._probe, self.timeout)
        return self

    async def store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        """Keep the token and read it back."""
        account = _format_account(str(user), token.id)
        store = partial(self._store_or_rollback, account, token.bearer_token.get_secret_value())
        await _run_with_timeout(
            store, self.timeout, rollback=lambda _: self._delete_password(account), timeout_context=self.timeout_context
        )
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=self._format_location(account),
            account=account,
            how_to_use=f"To have it in a private file on this machine: {self._format_get_command(account, token.id)}",
        )

    async def locate(self, token_id: str, location: str | None, users: Collection[str] = ()) -> str | None:
        """The account that it has in the keyring, or else the other place where it went."""
        accounts = [_format_account(user, token_id) for user in users]
        return await _run_with_timeout(partial(self._locate, accounts, location), self.timeout)

    def _locate(self, accounts: Sequence[str], location: str | None) -> str | None:
        places = {self._format_location(account): account for account in accounts}
        found = next((told for told, account in places.items() if self._is_stored(account)), None)
        return found or (None if location in places else _find_current_location(location))

    async def list_unidentified_files(self) -> Sequence[Path]:
        """There are none: each account has the id in its name."""
        return ()

    def render_possible_location(self, user: str) -> str:
        """The account that it would have."""
        return f"it is in {self._format_location(_format_account(user, 'ID'))}, with its id for ID"

    def _format_get_command(self, account: str, token_id: str) -> str:
        """What a person gives a shell to have the token in a new file; nothing of it is shown, nor in a transcript."""
        get = shlex.join([sys.executable, "-P", "-m", "keyring", "get", self.service, account])
        return f"(umask 077; set -C; {get} > ~/{_UNSAFE_CHARS.sub('_', f'bearer-token_{token_id}')})"

    def _format_location(self, account: str) -> str:
        return f"the system's keyring, service '{self.service}', account '{account}'"

    async def release(self) -> None:
        """Nothing to give up: the proof was removed at once."""

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove the token from the keyring."""
        await _run_with_timeout(
            partial(self._delete_password, delivered.account), self.timeout, timeout_context=self.timeout_context
        )

    def _probe(self) -> None:
        probe = f"probe {secrets.token_hex(8)}"
        with ExitStack() as unless_kept:
            unless_kept.callback(self._rollback, probe)
            self._set_password(probe, probe)
            unless_kept.pop_all()
        self._delete_password(probe)

    def _store_or_rollback(self, account: str, secret: str) -> None:
        try:
            self._set_password(account, secret)
        except DeliveryError as failure:
            raise DeliveryError(f"{failure}{self._rollback(account)}") from None

    def _is_stored(self, account: str) -> bool:
        with _explain_keyring_errors() as keyring:
            return keyring.get_password(self.service, account) is not None

    def _delete_password(self, account: str) -> None:
        with _explain_keyring_errors() as keyring:
            keyring.delete_password(self.service, account)

    def _set_password(self, account: str, secret: str) -> None:
        with _explain_keyring_errors() as keyring:
            keyring.set_password(self.service, account, secret)
            if keyring.get_password(self.service, account) != secret:
                raise DeliveryError("The system's keyring did not keep what it was given.")

    def _rollback(self, account: str) -> str:
        """Leave nothing of what could not be kept, and tell where that failed."""
        with suppress(DeliveryError):
            self._delete_password(account)
            return ""
        try:
            is_left = self._is_stored(account)
        except DeliveryError:
            return f" Whether something of it is left there, as account '{account}', is not known."
        return f" Something of it is left there, as account '{account}', and is of no use." if is_left else ""


def _format_account(user: str, token_id: str) -> str:
    return f"{user} {token_id}"


@contextmanager
def _explain_keyring_errors() -> Generator[ModuleType]:
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


async def _run_with_timeout(
    work: Callable[[], WorkResult],
    timeout_after: timedelta,
    *,
    rollback: Callable[[WorkResult], object] = lambda _: None,
    timeout_context: TimeoutContext = anyio.fail_after,
) -> WorkResult:
    """What is done in a thread, which is left alone if it hangs; what comes of it too late is undone there."""
    outcome: list[WorkResult] = []
    # Taken by what comes first, the end of the work or of the time: in between, one would undo what the other tells.
    decided = threading.Lock()

    def work_or_undo() -> None:
        outcome.append(work())
        if not decided.acquire(blocking=False):
            rollback(outcome[0])

    try:
        with timeout_context(timeout_after.total_seconds()):
            await anyio.to_thread.run_sync(work_or_undo, abandon_on_cancel=True)
    except TimeoutError:
        if decided.acquire(blocking=False):
            raise DeliveryError(
                "The place for new bearer tokens (QUMULO_DELIVERY) did not answer within "
                f"{format_duration(timeout_after)}, or before this server had to stop: something waits to be unlocked "
                "there, or hangs.",
                advice="Try again once the operator has looked at that.",
            ) from None
    except anyio.get_cancelled_exc_class():
        if not decided.acquire(blocking=False):
            rollback(outcome[0])
        raise
    return outcome[0]


def _find_current_location(location: str | None) -> str | None:
    """A place as it is told later; None for a file that is gone."""
    if location is None or location == _INLINE_LOCATION:
        return location and location.replace("this answer", "the answer to that call")
    path = Path(location)
    with _explain_os_errors(path.parent):
        return None if path.is_absolute() and path.name not in _list_names(path.parent) else location


def _list_names(folder: Path) -> Sequence[str]:
    """What is in a folder, if it is there; `glob` would pass over one that cannot be read."""
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _remove_delivered(delivered: DeliveredToken) -> None:
    Path(delivered.location).unlink(missing_ok=True)


def _recover_file(name: str, folder_fd: int) -> str | None:
    """The new name of an abandoned file that holds a token; one without a token is removed, anything else let be."""
    with ExitStack() as ending:
        try:
            # NFS gives a lock for writing to nobody who only reads.
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
        except OSError:
            return None
        ending.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode) or not _try_lock(file):
            return None
        if not is_valid_store(os.read(file, _MAX_STORE_BYTES)):
            remove_if_exists(name, folder_fd)
            return None
        rescued = f"{RECOVERED_PREFIX}{name.removeprefix(PENDING_PREFIX)}.json"
        rename(name, rescued, folder_fd)
        flush(folder_fd)
        return rescued


def _try_lock(file_fd: int) -> bool:
    try:
        fcntl.flock(file_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _overwrite(file_fd: int, content: bytes) -> None:
    os.lseek(file_fd, 0, os.SEEK_SET)
    with open(file_fd, "wb", closefd=False) as stream:
        stream.write(content)
        stream.truncate()
    flush(file_fd)


def _close(path: Path, fd: int) -> str | None:
    return try_or_log(f"{path} could not be closed", partial(os.close, fd))


@contextmanager
def _explain_os_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        raise DeliveryError(_render_failure(folder, failure), advice=RETRY_ONCE_FIXED) from failure


def _render_failure(folder: Path, failure: OSError) -> str:
    return (
        f"A new bearer token cannot be kept in {format_path(folder)}: {failure.strerror}. "
        f"{HOW_TO_SET_FOLDER}; it must be the server's own, with mode 0700 and room on its disk."
    )
