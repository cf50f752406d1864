"""Where can the server's own credential come from, other than a variable? Each source is read anew at each call.

A source may be a file, a program whose output is the credential, or an entry of the system's keyring. Errors name the
source and what mends it, and quote nothing that came from it.
"""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeGuard, cast

from pydantic import SecretStr

from token_tools.credentials import MAX_CREDENTIAL_BYTES, decode_bearer, read_bearer
from token_tools.errors import SettingsError
from token_tools.file_reading import decode_text, read_whole
from token_tools.operator_input import check_ordinary, find_secret_reason, format_input
from token_tools.paths import parse_path, validate_path
from token_tools.posix import IS_WINDOWS, SIGKILL, killpg
from token_tools.system_keyring import KEYRING_TIMEOUT_SECONDS, KeyringEntry, KeyringUnusable, read_keyring

COMMAND_TIMEOUT_SECONDS: Final = 10.0
"""Seconds in which a program must have ended."""

_SHELL_SIGNS: Final = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>"})
_BY_HAND: Final = "Run it by hand, as the user of this server, to see what it says"


def parse_command(value: object) -> tuple[str, ...]:
    """Return the words of a command: those of a list, or those that a shell would split a text into.

    A program that is a path is absolute in the result.

    Raises:
        ValueError: If it cannot be run without a shell, or if a secret is among its words, which other users of the
            machine could read.
    """
    words = _split_command(value) if isinstance(value, str) else value
    if not _is_command(words):
        raise ValueError("must be a command: a program and its arguments")
    for word in words:
        if secret := find_secret_reason(word):
            raise ValueError(f"is wrong: {secret}")
    program, *arguments = words
    check_ordinary(program)
    return (str(validate_path(parse_path(program))) if Path(program).name != program else program, *arguments)


def _split_command(text: str) -> Sequence[str]:
    try:
        words = split_words(text)
    except ValueError:
        raise ValueError("is no command: a quote in it has no end") from None
    if not _SHELL_SIGNS.isdisjoint(words):
        raise ValueError("has a shell's signs in it, and no shell runs it: write a script, and name that")
    return words


def split_words(text: str) -> Sequence[str]:
    """Return the words into which a shell would split a text; a backslash is an ordinary sign in a path of Windows.

    Raises:
        ValueError: If a quote in it has no end.
    """
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.commenters = True, ""
    if IS_WINDOWS:
        words.escape = ""
    return [*words]


def _is_command(words: object) -> TypeGuard[Sequence[str]]:
    """Tell whether something is a program and its arguments, of which none can have a NUL in it."""
    if not isinstance(words, list | tuple):
        return False
    items = cast(Sequence[object], words)
    return any(items[:1]) and all(isinstance(item, str) and "\0" not in item for item in items)


def read_command(words: Sequence[str], *, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> SecretStr:
    """Return the bearer token that a program prints, bare or in the format of qq's credentials store.

    What else it prints, to stderr too, is told nowhere.

    Raises:
        SettingsError: If the program cannot be run, fails, does not end in time or prints something else.
    """
    explain = partial(_explain_command, words[0])
    try:
        output = _run(words, timeout_seconds)
    except OSError as failure:
        raise explain(
            f"cannot be run: {failure.strerror}. It must be an absolute path, or a program on the PATH of this server"
        ) from None
    except subprocess.CalledProcessError as failure:
        raise explain(f"{render_exit_status(failure.returncode)}. {_BY_HAND}") from None
    except subprocess.TimeoutExpired:
        raise explain(f"closed its output and did not end within {timeout_seconds:g} seconds") from None
    except ValueError as reason:
        raise explain(f"has an output that {reason}") from None
    try:
        return decode_bearer(decode_text(output))
    except ValueError as reason:
        raise explain(f"has an output that {reason}. {_BY_HAND}") from None


def _explain_command(program: str, reason: str) -> SettingsError:
    return SettingsError(f"QUMULO_CREDENTIALS_COMMAND: {format_input(program)} {reason}.")


def render_exit_status(status: int) -> str:
    """Return how a program ended, as a clause that follows its name; a negative status is a signal."""
    return f"ended with exit status {status}" if status >= 0 else f"was ended by signal {-status}"


def _run(words: Sequence[str], timeout_seconds: float) -> bytes:
    """Return what a program prints to stdout. Unless it ends in time, it is killed with its process group.

    Raises:
        OSError: If it cannot be started.
        CalledProcessError: If it ends with another status than 0.
        TimeoutExpired: If it closes its output in time and does not end.
        ValueError: If its output is too large, or has no end in time.
    """
    deadline = time.monotonic() + timeout_seconds
    devnull = subprocess.DEVNULL
    with subprocess.Popen(  # noqa: S603 - the operator names the program, and no shell reads it
        words, stdin=devnull, stdout=subprocess.PIPE, stderr=devnull, start_new_session=True
    ) as process:
        try:
            stdout_fd = cast(IO[bytes], process.stdout).fileno()
            output = read_whole(stdout_fd, max_bytes=MAX_CREDENTIAL_BYTES, timeout_seconds=timeout_seconds)
            status = process.wait(max(deadline - time.monotonic(), 0))
        finally:
            if process.returncode is None:
                # Nobody has waited for it yet, so its number is still its own. It may have ended by itself.
                _kill_all(process)
    if status != 0:
        raise subprocess.CalledProcessError(status, "")
    return output


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that nobody has waited for yet, with what it has started, as far as that is known."""
    if IS_WINDOWS:
        from psutil import Error, Process  # noqa: PLC0415 - it takes time, and few need it

        with suppress(Error):
            for child in Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            killpg(process.pid, SIGKILL)


def read_keyring_entry(entry: KeyringEntry, *, timeout_seconds: float = KEYRING_TIMEOUT_SECONDS) -> SecretStr:
    """Return the bearer token in an entry of the keyring, bare or in the format of qq's credentials store.

    Raises:
        SettingsError: If the keyring does not give it in time, or gives something else.
    """
    try:
        return decode_bearer(read_keyring(entry, timeout_seconds=timeout_seconds))
    except KeyringUnusable as reason:
        raise SettingsError(f"QUMULO_KEYRING names {format_input(str(entry))}, and {reason}.") from None
    except ValueError as reason:
        raise SettingsError(f"QUMULO_KEYRING names {format_input(str(entry))}, which {reason}.") from None


def _read_token_file(path: Path) -> SecretStr:
    return read_bearer(path, setting="bearer_token_file")


READERS: Final[Mapping[str, Callable[[Any], SecretStr]]] = {
    "bearer_token_file": _read_token_file,
    "credentials_file": read_bearer,
    "credentials_command": read_command,
    "keyring": read_keyring_entry,
}
"""The settings that name a source of the server's credential, and how each is read."""
