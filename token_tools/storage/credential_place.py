"""Where does the server's own credential stand, if this server can write it there? A file, or an entry of the keyring.

A file is replaced as a whole and never written in place: whoever reads it finds the old bearer token or the new one.
Owner, group and mode stay. What cannot be kept, or cannot be replaced, is noticed by `check_writable`, which takes each
step of the write but the last one, and puts no secret anywhere.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, cast

from pydantic import SecretStr

from token_tools.credential_sources import READERS
from token_tools.credentials import FileSetting, encode_store
from token_tools.errors import RETRY_ONCE_FIXED, DeliveryError, SettingsError
from token_tools.file_reading import read_mode
from token_tools.operator_input import format_input
from token_tools.posix import O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, NotOnWindows, fchmod, fchown
from token_tools.setting_names import variable_name
from token_tools.settings import Settings
from token_tools.storage.delivery import FileLocation, KeyringLocation, Location
from token_tools.storage.private_files import (
    check_privacy_is_told,
    create_private_file,
    ensure_private_folder,
    flush,
    list_names,
    remove_if_exists,
    rename,
    try_lock,
)
from token_tools.system_keyring import KeyringEntry, KeyringUnusable, open_keyring

_STAGED: Final = re.compile(r"\.credential-[0-9a-f]{16}")
"""The name of a file that is not in its place yet. The process that made it keeps it locked."""

_RESERVED_BYTES: Final = 4096
"""Bytes that are proved to be free; a file with one bearer token takes about 150."""

_MOUNT_ID: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class CredentialPlace(Protocol):
    """A place of the server's own credential that a setting names, and that this server can write."""

    @property
    def location(self) -> Location:
        """The place as the journal records it."""
        ...

    def check_writable(self) -> None:
        """Check that `write` will work, as far as that can be tried.

        Raises:
            DeliveryError: If it will not; the text names the setting and the reason.
        """
        ...

    def write(self, bearer: SecretStr) -> None:
        """Put a bearer token there durably, and read it back as a server reads it.

        Raises:
            DeliveryError: If it is not there; what was there may be there still.
        """
        ...


def find_place(settings: Settings) -> CredentialPlace | None:
    """Return the place of the credential that the settings name; None if it is none that this server may write.

    That is a file, which need not exist yet, or an entry of the keyring. It is no pipe, and no login of qq, which qq
    alone writes. It is no file in the folder of new bearer tokens either, where names say which token is in a file.
    """
    name = settings.credential_setting
    if settings.bearer_token is not None or settings.is_login_of_qq:
        return None
    if name == "keyring":
        return KeyringPlace(cast(KeyringEntry, settings.keyring))
    path = settings.bearer_token_file or settings.credentials_file
    if path is None or stat.S_IFMT(read_mode(path)) not in {0, stat.S_IFREG}:
        return None
    real = Path(os.path.realpath(path))
    if real.parent == Path(os.path.realpath(settings.delivery_dir)):
        return None
    return FilePlace(cast(FileSetting, name), path)


@dataclass(frozen=True)
class FilePlace:
    """The file that a setting names, in the format of that setting. One that is made new lets nobody else in.

    Where the system does not tell who can read a file, none is written.
    """

    setting: FileSetting
    path: Path

    @property
    def location(self) -> FileLocation:
        """The file."""
        return FileLocation(self.path)

    def check_writable(self) -> None:
        """Make a file beside it with its owner and mode, of nothing but blanks, rename it, and remove it."""
        with self._explain_errors(), self._open_folder() as folder, ExitStack() as cleanup:
            _remove_abandoned(folder)
            self._check_replaceable(folder)
            staged = self._stage(b" " * _RESERVED_BYTES, folder, cleanup)
            renamed = _name_staged()
            cleanup.callback(remove_if_exists, renamed, folder)
            rename(staged, renamed, folder)
            flush(folder)

    def write(self, bearer: SecretStr) -> None:
        """Replace the file, wait until that is on the disk, and read it back."""
        content = (
            encode_store(bearer) if self.setting == "credentials_file" else f"{bearer.get_secret_value()}\n".encode()
        )
        with self._explain_errors(), self._open_folder() as folder, ExitStack() as cleanup:
            self._check_replaceable(folder)
            staged = self._stage(content, folder, cleanup)
            os.replace(staged, self._real_path.name, src_dir_fd=folder, dst_dir_fd=folder)
            flush(folder)
        _check_kept(self.setting, self.path, bearer)

    @property
    def _real_path(self) -> Path:
        """The file itself: a link that leads to it stays as it is."""
        return Path(os.path.realpath(self.path))

    @contextmanager
    def _open_folder(self) -> Generator[int]:
        """Open the folder of the file; the folder of a file that is not there yet has to be private, or is made so."""
        folder = (
            os.open(self._real_path.parent, os.O_RDONLY | O_DIRECTORY)
            if self._real_path.exists()
            else ensure_private_folder(self._real_path.parent)
        )
        try:
            yield folder
        finally:
            os.close(folder)

    def _check_replaceable(self, folder_fd: int) -> None:
        """Check that the file may be written, and that another one can take its name."""
        with suppress(FileNotFoundError), ExitStack() as cleanup:
            # The mode or an attribute of the file may forbid to write it, which a rename would not notice.
            file = os.open(self._real_path.name, os.O_WRONLY | O_NONBLOCK | O_NOFOLLOW, dir_fd=folder_fd)
            cleanup.callback(os.close, file)
            if _list_mounts(file) != _list_mounts(folder_fd):
                raise OSError(errno.EBUSY, "it is mounted by itself, so no other file can take its place")

    def _stage(self, content: bytes, folder_fd: int, cleanup: ExitStack) -> str:
        """Write a file that can take the place of this one, and return its name; the cleanup removes and closes it."""
        name = _name_staged()
        file = create_private_file(name, folder_fd)
        cleanup.callback(os.close, file)
        cleanup.callback(remove_if_exists, name, folder_fd)
        try_lock(file)
        self._copy_access(file, folder_fd)
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        flush(file)
        return name

    def _copy_access(self, file_fd: int, folder_fd: int) -> None:
        """Give a new file the owner, the group and the mode of the file whose place it is to take, if there is one."""
        with suppress(FileNotFoundError):
            wanted = os.stat(self._real_path.name, dir_fd=folder_fd, follow_symlinks=False)
            if (wanted.st_uid, wanted.st_gid) != (os.fstat(file_fd).st_uid, os.fstat(file_fd).st_gid):
                fchown(file_fd, wanted.st_uid, wanted.st_gid)
            fchmod(file_fd, stat.S_IMODE(wanted.st_mode))

    @contextmanager
    def _explain_errors(self) -> Generator[None]:
        named = f"{variable_name(self.setting)} ({format_input(str(self.path))})"
        try:
            check_privacy_is_told()
            yield
        except NotOnWindows as failure:
            raise DeliveryError(
                f"{named} is not written: {failure.strerror}. The operator can name an entry of the system's keyring "
                "instead, by QUMULO_KEYRING.",
                advice=RETRY_ONCE_FIXED,
            ) from None
        except OSError as failure:
            raise DeliveryError(
                f"{named} cannot be written: {failure.strerror}.",
                advice=RETRY_ONCE_FIXED,
            ) from failure


@dataclass(frozen=True)
class KeyringPlace:
    """An entry of the system's keyring. The bearer token stands in it alone."""

    entry: KeyringEntry

    @property
    def location(self) -> KeyringLocation:
        """The entry."""
        return KeyringLocation(*self.entry)

    def check_writable(self) -> None:
        """Store a word beside the entry, read it and remove it."""
        word = f"probe {secrets.token_hex(8)}"
        with self._explain_errors() as keyring:
            keyring.set_password(self.entry.service, word, word)
            if keyring.get_password(self.entry.service, word) != word:
                raise KeyringUnusable("the system's keyring did not keep what it was given")
            keyring.delete_password(self.entry.service, word)

    def write(self, bearer: SecretStr) -> None:
        """Store the bearer token, and read it back."""
        with self._explain_errors() as keyring:
            keyring.set_password(*self.entry, bearer.get_secret_value())
        _check_kept("keyring", self.entry, bearer)

    @contextmanager
    def _explain_errors(self) -> Generator[ModuleType]:
        try:
            with open_keyring() as keyring:
                yield keyring
        except KeyringUnusable as reason:
            raise DeliveryError(
                f"QUMULO_KEYRING ({format_input(str(self.entry))}) cannot be written: {reason}.",
                advice=RETRY_ONCE_FIXED,
            ) from None


def _check_kept(setting: str, source: object, bearer: SecretStr) -> None:
    """Check that a server which reads its credential now gets this one."""
    try:
        is_kept = READERS[setting](source) == bearer
    except SettingsError as failure:
        raise DeliveryError(str(failure)) from None
    if not is_kept:
        raise DeliveryError(f"{variable_name(setting)} does not have what was just written there.")


def _name_staged() -> str:
    return f".credential-{secrets.token_hex(8)}"


def _remove_abandoned(folder_fd: int) -> None:
    """Remove what processes left that were killed before a file was in its place."""
    for name in filter(_STAGED.fullmatch, list_names(folder_fd)):
        with suppress(OSError), ExitStack() as cleanup:
            file = os.open(name, os.O_RDWR | O_NOFOLLOW | O_NONBLOCK, dir_fd=folder_fd)
            cleanup.callback(os.close, file)
            if try_lock(file):
                remove_if_exists(name, folder_fd)


def _list_mounts(fd: int) -> Sequence[str]:
    """Return the number of the mount that an open file belongs to; nothing where the system tells none, as macOS."""
    facts = Path(f"/proc/self/fdinfo/{fd}")
    return _MOUNT_ID.findall(facts.read_text() if facts.exists() else "")
