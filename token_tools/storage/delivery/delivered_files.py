"""What lies in a folder of new bearer tokens, and the removal of one of these files.

A file is told by its name, by its owner and by its content. One that is not known to be ours by all three is never
removed.
"""

import os
import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import SecretStr

from token_tools.credentials import MAX_CREDENTIAL_BYTES, decode_store
from token_tools.errors import DeliveryError
from token_tools.posix import NotOnWindows
from token_tools.storage.delivery.file import PENDING_PREFIX, RECOVERED_PREFIX, format_cluster_prefix
from token_tools.storage.private_files import (
    HOW_TO_SET_FOLDER,
    flush,
    list_names,
    open_own_file,
    open_private_folder,
    remove_if_exists,
)

_NAME: Final = re.compile(r"[A-Za-z0-9.@_-]+_(?P<id>[0-9]+)(?:-[0-9]+)?\.json")
_RECOVERED_NAME: Final = re.compile(rf"{RECOVERED_PREFIX}[0-9a-f]+(?:_(?P<id>[0-9]+))?\.json")


class FileVersion(NamedTuple):
    """What tells a file from another one that has got its name since, and from what it was before it was written to."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True)
class DeliveredFile:
    """A file with a bearer token that a server has put there.

    `token_id` is the id of its token, None if the name does not tell it. `is_recovered` says that the server was killed
    before it could give the file its last name: then the name does not tell the cluster.
    """

    path: Path
    token_id: str | None
    is_recovered: bool
    version: FileVersion
    bearer_token: SecretStr = field(repr=False)

    def is_named_after(self, host: str, port: int) -> bool:
        """Tell whether the name says that the token is one of this cluster's."""
        return not self.is_recovered and self.path.name.startswith(f"{format_cluster_prefix(host, port)}_")


@dataclass(frozen=True)
class OtherFile:
    """Something else in the folder: what belongs to a change that is under way or was cut off, or what is not ours.

    `reason` is a clause that says why it is not ours; it is empty for the first.
    """

    path: Path
    kind: Literal["pending", "foreign"]
    reason: str = ""


def list_delivered_files(folder: Path) -> Sequence[DeliveredFile | OtherFile]:
    """Return what lies in a folder, by name; nothing if there is no such folder. It waits for the disk.

    Raises:
        DeliveryError: If the folder cannot be searched, or is not private.
    """
    with _explain_os_errors(f"{folder} cannot be searched"), ExitStack() as cleanup:
        try:
            folder_fd = open_private_folder(folder)
        except FileNotFoundError:
            return ()
        cleanup.callback(os.close, folder_fd)
        return [_read_entry(folder / name, folder_fd) for name in list_names(folder_fd)]


def remove_delivered_file(file: DeliveredFile) -> bool:
    """Remove a file if it is what it was when it was listed; return whether it was still there. It waits for the disk.

    Raises:
        DeliveryError: If it cannot be removed, or if it is not what it was.
    """
    with _explain_os_errors(f"{file.path} was not removed"), ExitStack() as cleanup:
        folder_fd = open_private_folder(file.path.parent)
        cleanup.callback(os.close, folder_fd)
        try:
            file_fd = open_own_file(file.path.name, folder_fd)
        except FileNotFoundError:
            return False
        cleanup.callback(os.close, file_fd)
        if _read_version(file_fd) != file.version:
            raise DeliveryError(f"{file.path} was not removed: it is another file by now, or was written to.")
        remove_if_exists(file.path.name, folder_fd)
        flush(folder_fd)
        return True


def _read_entry(path: Path, folder_fd: int) -> DeliveredFile | OtherFile:
    if path.name.startswith(PENDING_PREFIX):
        return OtherFile(path, "pending")
    recovered = _RECOVERED_NAME.fullmatch(path.name)
    named = recovered or _NAME.fullmatch(path.name)
    if named is None:
        return OtherFile(path, "foreign", "its name is none that a server gives")
    with ExitStack() as cleanup:
        try:
            file_fd = open_own_file(path.name, folder_fd)
            cleanup.callback(os.close, file_fd)
            version, content = _read_version(file_fd), os.read(file_fd, MAX_CREDENTIAL_BYTES)
            bearer_token = decode_store(content)
        except OSError as failure:
            return OtherFile(path, "foreign", f"{failure.strerror}")
        except ValueError:
            return OtherFile(path, "foreign", "it holds something else than one bearer token")
    return DeliveredFile(path, named["id"], recovered is not None, version, bearer_token)


def _read_version(file_fd: int) -> FileVersion:
    status = os.fstat(file_fd)
    return FileVersion(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextmanager
def _explain_os_errors(what_failed: str) -> Generator[None]:
    try:
        yield
    except NotOnWindows as failure:
        raise DeliveryError(f"{what_failed}: {failure.strerror}, so new bearer tokens are in the keyring.") from None
    except OSError as failure:
        raise DeliveryError(f"{what_failed}: {failure.strerror}. {HOW_TO_SET_FOLDER}.") from failure
