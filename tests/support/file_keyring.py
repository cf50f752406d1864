"""A keyring in a file, for a process that a test starts: the file is named by the variable `FILE_KEYRING`."""

import json
import os
from pathlib import Path
from typing import Any, cast

from keyring.backend import KeyringBackend


class FileKeyring(KeyringBackend):
    """A keyring whose file is a JSON object of passwords by `service/username`."""

    priority = cast("Any", 1)

    @property
    def path(self) -> Path:
        """The file, which need not exist yet."""
        return Path(os.environ["FILE_KEYRING"])

    def read_passwords(self) -> dict[str, str]:
        """Read all passwords."""
        passwords: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return passwords

    def get_password(self, service: str, username: str) -> str | None:
        """Return a password, or None if there is none."""
        return self.read_passwords().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Add or replace a password."""
        self.path.write_text(json.dumps(self.read_passwords() | {f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        """Remove a password."""
        passwords = self.read_passwords()
        del passwords[f"{service}/{username}"]
        self.path.write_text(json.dumps(passwords))
