"""A file of the user's that is written whole or not at all: the old content stays until the new one is on the disk."""

import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from token_tools.posix import IS_WINDOWS, O_DIRECTORY, fchmod, fchown
from token_tools.storage.private_files import create_private_file, flush, remove_if_exists

_NEW_FOLDER_MODE: Final = 0o700


def replace_file(
    path: Path, content: bytes, *, like: Path | None = None, check: Callable[[], object] = lambda: None
) -> None:
    """Write a file so that it is there with its old content or with the new one, whatever happens meanwhile.

    A link is followed. A file that is there keeps its owner and its mode; a new one gets those of the file `like`, or
    else mode 0600, and each folder that is created for it 0700. On Windows, where those are not, it gets the access
    that its folder hands on. `check` is called when nothing is left but the last step; what it raises leaves everything
    as it was.

    Raises:
        OSError: If it cannot be written; it is as it was then.
    """
    real = Path(os.path.realpath(path))
    _create_folder(real.parent)
    if IS_WINDOWS:
        _replace_by_path(real, content, check)
    else:
        _replace_in_folder(real, content, like or real, check)


def _replace_in_folder(real: Path, content: bytes, like: Path, check: Callable[[], object]) -> None:
    pending = f".{secrets.token_hex(8)}"
    with ExitStack() as cleanup:
        folder = os.open(real.parent, os.O_RDONLY | O_DIRECTORY)
        cleanup.callback(os.close, folder)
        file = create_private_file(pending, folder)
        cleanup.callback(os.close, file)
        cleanup.callback(remove_if_exists, pending, folder)
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        _copy_access(like, file)
        flush(file)
        check()
        os.rename(pending, real.name, src_dir_fd=folder, dst_dir_fd=folder)
        flush(folder)


def _replace_by_path(real: Path, content: bytes, check: Callable[[], object]) -> None:
    """Replace a file where folders have no descriptors and files no modes: a new file has the access of its folder."""
    pending = real.with_name(f".{secrets.token_hex(8)}")
    with ExitStack() as cleanup:
        cleanup.callback(pending.unlink, missing_ok=True)
        with pending.open("xb") as stream:
            stream.write(content)
            stream.flush()
            flush(stream.fileno())
        check()
        pending.replace(real)


def _create_folder(path: Path) -> None:
    # `mkdir` with `parents` would let others enter those; one of them may be the state folder.
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=_NEW_FOLDER_MODE, exist_ok=True)


def _copy_access(path: Path, file_fd: int) -> None:
    """Give a file the owner and the mode of another one, if that is there."""
    if not path.exists():
        return
    status = path.stat()
    # Root may write the file of somebody else, who has to be able to read it afterwards.
    with suppress(PermissionError):
        fchown(file_fd, status.st_uid, status.st_gid)
    fchmod(file_fd, status.st_mode & 0o7777)
