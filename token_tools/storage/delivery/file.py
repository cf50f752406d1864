"""Delivery of new bearer tokens into files: one a token, in a private folder, in the format of qq's credentials store.

A file is created, locked and filled with blanks before the cluster is asked, so that the disk has room for the token.
Its pending name tells a server that starts later what it is; the lock tells whether the process that created it still
runs, since the system releases the locks of a process that ends.
"""

import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import anyio
import anyio.to_thread
from pydantic import AfterValidator

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
from token_tools.credentials import encode_store, is_valid_store
from token_tools.errors import RETRY_ONCE_FIXED, DeliveryError
from token_tools.paths import validate_path_form
from token_tools.posix import LOCK_EX, O_NOFOLLOW, O_NONBLOCK, flock
from token_tools.storage.delivery.base import (
    DELIVERY_TIMEOUT,
    AskedToken,
    DeliveredToken,
    ForAnybody,
    Location,
    TimeoutContext,
    format_name_part,
    run_with_timeout,
    sha256_fingerprint,
)
from token_tools.storage.private_files import (
    HOW_TO_SET_FOLDER,
    create_private_file,
    ensure_private_folder,
    flush,
    has_name,
    list_names,
    open_private_folder,
    read_private_mode,
    remove_if_exists,
    rename,
    try_lock,
    try_or_log,
)

RESERVED_BYTES: Final = 4096
"""Bytes that are proved to be free; a credentials store with one token takes about 150."""

PENDING_PREFIX: Final = ".pending-"
"""Begins the name of a file that is not delivered yet and that the process which created it keeps locked.

The name ends in `_` and the id of the token as soon as that is known.
"""

RECOVERED_PREFIX: Final = "recovered-"
"""Begins the name of a file whose server was killed before it could deliver it."""

MAX_FILE_NAME_CHARS: Final = 143
"""Characters of a file name that every file system in use takes; eCryptfs takes the fewest."""

_MAX_STORE_BYTES: Final = 65_536
_MAX_NAME_PART_CHARS: Final = 60


@dataclass(frozen=True)
class FileLocation:
    """A file on this machine."""

    path: Annotated[Path, AfterValidator(validate_path_form)]
    kind: Literal["file"] = "file"
    naming_setting: ClassVar[str | None] = "QUMULO_CREDENTIALS_FILE"

    def render(self) -> str:
        """Return the path."""
        return str(self.path)

    def find_current(self) -> "FileLocation | None":
        """Return the location itself, None if the file is gone."""
        with _explain_os_errors(self.path.parent):
            try:
                self.path.lstat()
            except FileNotFoundError:
                return None
        return self

    def remove(self) -> None:
        """Remove the file if it is there."""
        with _explain_os_errors(self.path.parent):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class FileDelivery(ForAnybody):
    """The destination "a private file of its own in a private folder"."""

    folder: Path
    qq: Qq
    timeout: timedelta = DELIVERY_TIMEOUT
    timeout_context: TimeoutContext = anyio.fail_after

    async def recover(self) -> Sequence[Path]:
        """Rename each pending file that holds a bearer token and that no living process has locked."""
        return await run_with_timeout(self._recover_pending, self.timeout)

    async def locate(
        self, token_id: str, location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the recorded location if it is still there, or else a file that has the token's id in its name."""
        return await run_with_timeout(partial(self._locate, token_id, location), self.timeout)

    async def list_unidentified_files(self) -> Sequence[Path]:
        """Return the recovered files whose servers were killed before they wrote the id into the pending name."""
        return await run_with_timeout(partial(self._list_named, rf"{RECOVERED_PREFIX}[0-9a-f]*\.json"), self.timeout)

    def render_possible_location(self, _user: str, /) -> str:
        """Name the folder."""
        return f"a file in {self.folder} has its id in its name"

    async def remove(self, delivered: DeliveredToken) -> None:
        """Remove the file."""
        await run_with_timeout(delivered.location.remove, self.timeout, timeout_context=self.timeout_context)

    async def reserve(self, _asked: AskedToken | None = None, /) -> "ReservedFile":
        """Take each step that the delivery will take, with as many blanks as the bearer token needs bytes."""
        return await run_with_timeout(self._reserve, self.timeout, rollback=ReservedFile.remove_and_close)

    def propose_file_names(self, user: Identity, token_id: str) -> Iterator[str]:
        """Yield names for the file of a token, the best first; none is longer than `MAX_FILE_NAME_CHARS`."""
        begin = f"{self._name_prefix}_{format_name_part(str(user)[:_MAX_NAME_PART_CHARS])}"
        end = f"_{format_name_part(token_id)}"
        ends = itertools.chain([f"{end}.json"], (f"{end}-{number}.json" for number in itertools.count(2)))
        return (begin[: MAX_FILE_NAME_CHARS - len(end)] + end for end in ends)

    @property
    def _name_prefix(self) -> str:
        return format_cluster_prefix(self.qq.host, self.qq.port)

    def _recover_pending(self, name_end: str = "") -> Sequence[Path]:
        """Recover the pending files whose names end in this way."""
        return self._visit(rf"{re.escape(PENDING_PREFIX)}.*{re.escape(name_end)}", _recover_file)

    def _locate(self, token_id: str, location: Location | None) -> Location | None:
        # The server that was to rename the file may have been killed since this one started.
        self._recover_pending(f"_{token_id}")
        own_name = (
            rf"(?:{re.escape(self._name_prefix)}_.*|{RECOVERED_PREFIX}[0-9a-f]*)_{re.escape(token_id)}(?:-\d+)?\.json"
        )
        current = None if location is None else location.find_current()
        return current or next(map(FileLocation, self._list_named(own_name)), None)

    def _list_named(self, pattern: str) -> Sequence[Path]:
        """Return the files whose names match, the shortest name first."""
        return sorted(self._visit(pattern, lambda name, _: name), key=lambda path: len(path.name))

    def _visit(self, pattern: str, visit: Callable[[str, int], str | None]) -> Sequence[Path]:
        """Call `visit` with each name that matches and the folder's descriptor; return the files that it names."""
        with _explain_os_errors(self.folder), ExitStack() as cleanup:
            try:
                folder = open_private_folder(self.folder)
            except FileNotFoundError:
                return ()
            cleanup.callback(_close, self.folder, folder)
            names = [name for name in list_names(folder) if re.fullmatch(pattern, name)]
            return [self.folder / name for name in [visit(name, folder) for name in names] if name is not None]

    def _reserve(self) -> "ReservedFile":
        with _explain_os_errors(self.folder), ExitStack() as rollback:
            folder = ensure_private_folder(self.folder)
            rollback.callback(os.close, folder)
            file, first_name = _create_locked_file(folder, rollback)
            _overwrite(file, b" " * RESERVED_BYTES)
            name = first_name.rstrip("-")
            rollback.callback(remove_if_exists, name, folder)
            rename(first_name, name, folder)
            flush(folder)
            rollback.pop_all()
        return ReservedFile(self, folder, file, name)


@dataclass
class ReservedFile:
    """A file that holds nothing but blanks yet, or whose token is being stored; `name` is its name at the moment."""

    delivery: FileDelivery
    folder_fd: int
    file_fd: int
    name: str

    async def store(self, token: NewAccessToken, user: Identity, /) -> DeliveredToken:
        """Write the bearer token, wait until it is on the disk, and only then give the file its last name."""
        return await run_with_timeout(
            partial(self._store, token, user),
            self.delivery.timeout,
            rollback=lambda delivered: delivered.location.remove(),
            timeout_context=self.delivery.timeout_context,
        )

    async def release(self) -> None:
        """Remove the file."""
        await anyio.to_thread.run_sync(self.remove_and_close)

    def remove_and_close(self) -> None:
        """Remove the file if that is possible, and give its lock back."""
        self._remove()
        self._close()

    @property
    def _path(self) -> Path:
        return self.delivery.folder / self.name

    def _store(self, token: NewAccessToken, user: Identity) -> DeliveredToken:
        try:
            mode = self._write_token(token, user)
        except OSError as failure:
            raise DeliveryError(f"{_render_failure(self.delivery.folder, failure)}{self._roll_back()}") from failure
        failure_text = self._close()
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=FileLocation(self._path),
            how_to_use=f"The file with the bearer token is a credentials store of qq, mode {mode:04o}. To try it: "
            f"{self.delivery.qq.who_am_i(self._path)}",
            warning=f"{failure_text}. The bearer token was on the disk before that." if failure_text else None,
        )

    def _write_token(self, token: NewAccessToken, user: Identity) -> int:
        """Write the bearer token and return the mode that the file has in the end."""
        # The name tells the id before the file has the bearer token: if this process is killed in between, the next one
        # can tell to which token a recovered file belongs.
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

    def _roll_back(self) -> str:
        """Leave nothing of a bearer token that could not be stored, and return what is left in words."""
        # The file may be impossible to remove, so it is emptied first.
        emptying_failure = try_or_log(f"{self._path} could not be emptied", partial(_overwrite, self.file_fd, b""))
        removal_failure = self._remove()
        self._close()
        if not (emptying_failure and removal_failure):
            return ""
        return f" {removal_failure}; what is in it is of no use once the token is deleted."

    def _remove(self) -> str | None:
        return try_or_log(f"{self._path} could not be removed", partial(remove_if_exists, self.name, self.folder_fd))

    def _close(self) -> str | None:
        """Close the descriptors, which gives the lock back; nothing depends on that any more."""
        failures = [_close(self._path, self.file_fd), _close(self.delivery.folder, self.folder_fd)]
        return "; ".join(filter(None, failures)) or None


def format_cluster_prefix(host: str, port: int) -> str:
    """Return how the names of the files begin that hold the bearer tokens of a cluster: `HOST_PORT`."""
    return f"{format_name_part(host[:_MAX_NAME_PART_CHARS])}_{port}"


def _create_locked_file(folder_fd: int, rollback: ExitStack) -> tuple[int, str]:
    """Create a pending file and lock it; return its descriptor and its name, which is as long as any it may get.

    The name without the hyphens at its end is the pending name.
    """
    while True:
        name = f"{PENDING_PREFIX}{secrets.token_hex(8)}".ljust(MAX_FILE_NAME_CHARS, "-")
        file = create_private_file(name, folder_fd)
        rollback.callback(remove_if_exists, name, folder_fd)
        rollback.callback(os.close, file)
        flock(file, LOCK_EX)
        # A server that starts removes pending files that nobody has locked. It may have come before this file was
        # locked.
        if has_name(file, name, folder_fd):
            return file, name


def _recover_file(name: str, folder_fd: int) -> str | None:
    """Rename an abandoned pending file that holds a bearer token, and return its new name.

    Return None for anything else: an abandoned file without a token is removed, and other things stay as they are.
    """
    with ExitStack() as cleanup:
        try:
            # Over NFS only a descriptor that can write gets a lock for writing.
            file = os.open(name, os.O_RDWR | O_NOFOLLOW | O_NONBLOCK, dir_fd=folder_fd)
        except OSError:
            return None
        cleanup.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode) or not try_lock(file):
            return None
        if not is_valid_store(os.read(file, _MAX_STORE_BYTES)):
            remove_if_exists(name, folder_fd)
            return None
        recovered_name = f"{RECOVERED_PREFIX}{name.removeprefix(PENDING_PREFIX)}.json"
        rename(name, recovered_name, folder_fd)
        flush(folder_fd)
        return recovered_name


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
        f"A new bearer token cannot be kept in {folder}: {failure.strerror}. "
        f"{HOW_TO_SET_FOLDER}; it must be the server's own, with mode 0700 and room on its disk."
    )
