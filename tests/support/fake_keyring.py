"""A keyring in memory, in place of the system's."""

import threading
from typing import Any, cast

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class FakeKeyring(KeyringBackend):
    """A keyring in memory that can fail.

    `failing_step` names the step at which it fails, and `failure` is what it raises there. `get` and `set` raise it
    before anything is done, `kept` after a password was stored. `silent` and `hang` wait until the test releases them,
    `deny` shows nothing of what is stored, `forget` stores nothing, and `crash` raises an error with the password in
    it.
    """

    priority = cast("Any", 1)

    def __init__(self) -> None:
        self.failing_step = ""
        self.failure: BaseException = KeyringLocked()
        self.refuses_deletion = False
        self.hang_released = threading.Event()
        self.password_read = threading.Event()
        self.secrets: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """Return the password, None if there is none."""
        if self.failing_step == "get":
            raise self.failure
        if self.failing_step == "silent":
            self.hang_released.wait(30)
        if self.failing_step == "deny":
            return None
        self.password_read.set()
        return self.secrets.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store the password."""
        if self.failing_step == "set":
            raise self.failure
        if self.failing_step == "crash":
            raise RuntimeError(password)
        if self.failing_step == "hang":
            self.hang_released.wait(30)
        if self.failing_step != "forget":
            self.secrets[service, username] = password
        if self.failing_step == "kept":
            raise self.failure

    def delete_password(self, service: str, username: str) -> None:
        """Remove the password."""
        if self.refuses_deletion:
            raise self.failure
        del self.secrets[service, username]
        self.hang_released.set()
