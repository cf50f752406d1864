"""How is the operating system's keyring used? Through the `keyring` library, whose plug-ins may raise anything.

Deliveries write into it, and the server's own credential may be in it.
"""

import shlex
import sys
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from types import ModuleType
from typing import Final, NamedTuple

from token_tools.errors import TokenToolsError
from token_tools.paths import name_session_bus

KEYRING_TIMEOUT_SECONDS: Final = 30.0
"""Seconds in which a keyring must give an entry; it may wait for somebody to unlock it."""


class KeyringUnusable(Exception):
    """The keyring cannot be used; the text says why, as a clause without what a plug-in said."""


class KeyringEntry(NamedTuple):
    """An account of a service in the keyring."""

    service: str
    account: str

    def __str__(self) -> str:
        return f"{self.service}/{self.account}"


def parse_keyring_entry(text: str) -> KeyringEntry:
    """Return the entry that `SERVICE/ACCOUNT` names; a service may have slashes in its name, an account none.

    Raises:
        ValueError: If one of the two is missing.
    """
    service, _, account = text.rpartition("/")
    if not service or not account:
        raise ValueError("must be SERVICE/ACCOUNT, the names of an entry of the system's keyring")
    return KeyringEntry(service, account)


@contextmanager
def open_keyring() -> Generator[ModuleType]:
    """Yield the keyring library.

    Raises:
        KeyringUnusable: If it is not installed, or if the `with` block fails by anything but an error of ours.
    """
    try:
        name_session_bus()
        yield _load_keyring()
    except (KeyringUnusable, TokenToolsError):
        raise
    except BaseException as failure:  # noqa: BLE001 - a plug-in raises what it likes, an exit too, and may quote secrets
        raise KeyringUnusable(
            f"the system's keyring cannot be used ({type(failure).__name__}): it is locked, or this system has none"
        ) from None


def _load_keyring() -> ModuleType:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to load for those who do not use it
    except ImportError:
        raise KeyringUnusable("the keyring library is missing: install qumulo-token-tools[keyring]") from None
    return keyring


def read_keyring(entry: KeyringEntry, *, timeout_seconds: float = KEYRING_TIMEOUT_SECONDS) -> str:
    """Return the secret of an entry.

    Raises:
        KeyringUnusable: If there is none, or if the keyring does not answer in time.
    """
    answer = Future[str | None]()
    # A keyring may wait for ever, and a daemon does not hold up the end of the process.
    threading.Thread(target=_read_into, args=(answer, entry), daemon=True).start()
    try:
        secret = answer.result(timeout_seconds)
    except TimeoutError:
        raise KeyringUnusable(
            f"the system's keyring did not answer within {timeout_seconds:g} seconds: it may wait to be unlocked"
        ) from None
    if secret is None:
        command = shlex.join([sys.executable, "-P", "-m", "keyring", "set", *entry])
        raise KeyringUnusable(f"the system's keyring does not give it: `{command}` asks for it and puts it there")
    return secret


def _read_into(answer: "Future[str | None]", entry: KeyringEntry) -> None:
    try:
        with open_keyring() as keyring:
            answer.set_result(keyring.get_password(*entry))
    except KeyringUnusable as reason:
        answer.set_exception(reason)
