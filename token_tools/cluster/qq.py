"""The vendor's command line, for what a human does by hand: commands to copy, quoted for a shell.

Source: `qumulo-api` 7.10; the tests run these commands.
"""

import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import TokenState
from token_tools.times import format_rfc3339


@dataclass(frozen=True)
class Qq:
    """`qq` for one cluster."""

    host: str
    port: int

    def who_am_i(self, store: Path) -> str:
        """Ask the cluster whom the token in a credentials store stands for."""
        return self._format_command("--credentials-store", str(store), "who_am_i")

    def create_token(self, user: Identity, expires: datetime | None, file_name: str) -> str:
        """Make a token, its secret in a new private file of this name in the home folder, and nowhere else.

        `file_name` has nothing that a shell would read. If there is such a file, nothing is done.
        """
        # Without an offset qq takes a time for local, whatever its help says.
        until = [] if expires is None else ["--expiration-time", format_rfc3339(expires)]
        create = self._format_command("auth_create_access_token", str(user.as_minimal_identity()), *until)
        # By itself qq would print the secret, and leave its file readable for others.
        file = f"~/{file_name}"
        return (
            f"(umask 077; set -C; : > {file} && {{ {create} --file {file} > /dev/null || {{ rm {file}; exit 1; }}; }})"
        )

    def update_token(self, token_id: str, before: TokenState, wanted: TokenState) -> str | None:
        """Change a token; None where an expiry would have to be cleared, which `qq` cannot."""
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
        """Delete a token."""
        return self._format_command("auth_delete_access_token", token_id)

    def _format_command(self, *arguments: str) -> str:
        return shlex.join(["qq", "--host", self.host, "--port", str(self.port), *arguments])
