"""A keyring in memory that takes the place of the system's keyring in tests."""

import threading
from typing import Any, cast

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class FakeKeyring(KeyringBackend):
    """A keyring in memory that can fail.

    `failing_step` names how it fails; an empty string means that it works.

    - `get` and `set` raise `failure` before a password is read or stored; `kept` raises it after one was stored.
    - `silent` waits in a read and `hang` in a write, until the test sets `hang_released` or 30 seconds have passed.
    - `deny` returns no password, and `forget` stores none.
    - `crash` raises an error whose text is the password.

    With `refuses_deletion`, a deletion raises `failure`.
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
        """Return the password, or None if there is none."""
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
