"""A keyring in memory, in place of the system's."""

import threading
from typing import Any, cast

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class Keychain(KeyringBackend):
    """A keyring in memory; `broken` says at which verb it fails, or forgets, and `failure` how."""

    priority = cast("Any", 1)

    def __init__(self) -> None:
        self.broken = ""
        self.failure: BaseException = KeyringLocked()
        self.stays = False
        self.go_on = threading.Event()
        self.was_read = threading.Event()
        self.secrets: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """What was kept."""
        if self.broken == "get":
            raise self.failure
        if self.broken == "silent":
            self.go_on.wait(30)
        if self.broken == "deny":
            return None
        self.was_read.set()
        return self.secrets.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        if self.broken == "set":
            raise self.failure
        if self.broken == "crash":
            raise RuntimeError(password)
        if self.broken == "hang":
            self.go_on.wait(30)
        if self.broken != "forget":
            self.secrets[service, username] = password
        if self.broken == "kept":
            raise self.failure

    def delete_password(self, service: str, username: str) -> None:
        """Forget it."""
        if self.stays:
            raise self.failure
        del self.secrets[service, username]
        self.go_on.set()
