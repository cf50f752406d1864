"""Which `qq` command does the same by hand? Commands of the vendor's client, quoted for a shell, for a person to copy.

No command prints a bearer token: a person may run it where a model reads the output.

Source: `qumulo-api` 7.10; the tests run these commands.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import TokenState
from token_tools.times import format_rfc3339


@dataclass(frozen=True)
class Qq:
    """The `qq` commands for one cluster."""

    host: str
    port: int

    def create_account(self, name: str, privileges: Sequence[str]) -> Sequence[str]:
        """Return the commands that create a local user, and a role of that name with these privileges for them."""
        return [
            self._format_command("auth_add_user", "--name", name),
            self._format_command("auth_create_role", "--role", name, "--description", "Access tokens by an assistant"),
            self.grant(name, privileges),
            self._format_command("auth_assign_role", "--role", name, "--trustee", f"local:{name}"),
        ]

    def grant(self, role: str, privileges: Sequence[str]) -> str:
        """Return the command that gives these privileges to a role."""
        return self._format_command("auth_modify_role", "--role", role, "--grant", *privileges)

    def who_am_i(self, store: Path) -> str:
        """Return the command that asks the cluster for the user of the token in a credentials store."""
        return self._format_command("--credentials-store", str(store), "who_am_i")

    def create_token(self, user: Identity, expires: datetime | None, file_name: str) -> str:
        """Return the command that creates a token and writes its secret to a new private file in the home folder.

        `file_name` must have no characters that are special in a shell. If the file exists, the command does nothing.
        """
        # qq reads a time without an offset as local time, whatever its help says.
        until = [] if expires is None else ["--expiration-time", format_rfc3339(expires)]
        create = self._format_command("auth_create_access_token", str(user.as_minimal_identity()), *until)
        # qq alone would print the secret, and would leave the file readable for others.
        file = f"~/{file_name}"
        return (
            f"(umask 077; set -C; : > {file} && {{ {create} --file {file} > /dev/null || {{ rm {file}; exit 1; }}; }})"
        )

    def update_token(self, token_id: str, before: TokenState, wanted: TokenState) -> str | None:
        """Return the command that updates a token; None if it would have to clear an expiry, which `qq` cannot do."""
        changes = before.changes_to(wanted)
        arguments: list[str] = []
        if "expiration_time" in changes:
            if wanted.expires is None:
                return None
            arguments += ["--expiration-time", format_rfc3339(wanted.expires)]
        if "enabled" in changes:
            arguments.append("--enable" if wanted.enabled else "--disable")
        return self._format_command("auth_modify_access_token", token_id, *arguments)

    def delete_token(self, token_id: str) -> str:
        """Return the command that deletes a token."""
        return self._format_command("auth_delete_access_token", token_id)

    def _format_command(self, *arguments: str) -> str:
        return shlex.join(["qq", "--host", self.host, "--port", str(self.port), *arguments])
