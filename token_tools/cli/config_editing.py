"""Writes the table of a cluster into config.toml, and leaves everything else in the file as it is."""

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from token_tools.config_file import CLUSTERS
from token_tools.errors import SettingsError
from token_tools.posix import IS_WINDOWS, O_DIRECTORY, O_TEMPORARY
from token_tools.storage.atomic_file import replace_file
from token_tools.storage.private_files import try_lock

_LOCK_NAME: Final = ".config.lock"


@contextmanager
def written_table(path: Path, name: str, values: Mapping[str, Any]) -> Generator[None]:
    """Write the table of a cluster for the `with` block and after it; if the block fails, the file is as it was.

    What is None is removed from the table. Nobody else is in such a block for a file of the same folder, so that none
    undoes what another has written.

    Raises:
        SettingsError: If the file cannot be read or written, or if another process is in such a block.
    """
    with ExitStack() as cleanup:
        with _explaining_failures(path):
            cleanup.enter_context(_locked_folder(path))
            before = path.read_bytes() if os.path.lexists(path) else None
            replace_file(path, _add_table(before or b"", name, values))
        try:
            yield
        except BaseException:
            with suppress(OSError):
                replace_file(path, before) if before is not None else path.unlink()
            raise


@contextmanager
def _locked_folder(path: Path) -> Generator[None]:
    """Keep the folder of a file locked; the system ends that with the process, however it ends."""
    folder = Path(os.path.realpath(path)).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        if not (_try_lock_file(folder, cleanup) if IS_WINDOWS else _try_lock_folder(folder, cleanup)):
            raise SettingsError(f"{path} is being written by another process: run this again when that has ended.")
        yield


def _try_lock_folder(folder: Path, cleanup: ExitStack) -> bool:
    folder_fd = os.open(folder, os.O_RDONLY | O_DIRECTORY)
    cleanup.callback(os.close, folder_fd)
    return try_lock(folder_fd)


def _try_lock_file(folder: Path, cleanup: ExitStack) -> bool:
    """Make a file for as long as it is open: a folder cannot be opened on Windows, so this stands for its lock."""
    lock = folder / _LOCK_NAME
    try:
        lock_fd = os.open(lock, os.O_CREAT | os.O_EXCL | O_TEMPORARY)
    except FileExistsError:
        return False
    cleanup.callback(lock.unlink, missing_ok=True)
    cleanup.callback(os.close, lock_fd)
    return True


def _add_table(before: bytes, name: str, values: Mapping[str, Any]) -> bytes:
    document = tomlkit.parse(before.decode())
    tables = document.setdefault(CLUSTERS, tomlkit.table(is_super_table=True))
    table = tables.setdefault(name, tomlkit.table())
    for key in [key for key, value in values.items() if value is None]:
        table.pop(key, None)
    table.update({key: value for key, value in values.items() if value is not None})
    return tomlkit.dumps(document).encode()


@contextmanager
def _explaining_failures(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, TOMLKitError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is not TOML"
        raise SettingsError(f"{path} cannot be written: {reason}.") from None
