"""Which hosts on this machine have an entry for this server, and does each entry start?"""

from collections.abc import AsyncIterator
from typing import Final

import anyio.to_thread

from token_tools.cli.checks.check import Check
from token_tools.cli.hosts.change import FoundEntry, list_found_entries
from token_tools.cli.hosts.probe import probe
from token_tools.server.app import SERVER_NAME

_NAME: Final = "hosts"


async def check_hosts() -> AsyncIterator[Check]:
    """Yield what is the case with each host that has an entry, or whose file cannot be read; one check if none is."""
    entries = [*list_found_entries()]
    for found in entries:
        yield await anyio.to_thread.run_sync(_check_entry, found)
    if not entries:
        yield Check(_NAME, "skipped", "none on this machine has an entry", f"`{SERVER_NAME} install --client all`")


def _check_entry(found: FoundEntry) -> Check:
    where = f"{found.host.title} ({found.path})"
    if found.problem is not None:
        return Check(_NAME, "warning", f"{where} {found.problem}", "mend that file, and start this again")
    if found.entry is None:
        return Check(_NAME, "failed", f"{where} has an entry that starts no command", _render_install(found))
    if not found.may_be_started:
        return Check(_NAME, "skipped", f"{where} has an entry of another program or of a project, which is not started")
    proof = probe(found.entry)
    if proof.reason is None:
        return Check(_NAME, "ok", f"{where} starts this server, which has {proof.tools} tools")
    mend = f"`{SERVER_NAME} doctor --client {found.host.name}` checks all that this entry says"
    if not proof.is_started:
        mend = _render_install(found)
    return Check(_NAME, "failed", f"{where} does not start this server: {proof.reason}", mend)


def _render_install(found: FoundEntry) -> str:
    scope = "" if found.scope == "user" else f" --scope {found.scope}"
    return f"`{SERVER_NAME} install --client {found.host.name}{scope}` writes it again"
