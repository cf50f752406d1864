"""Who calls, as the record tells it, and the services for that caller."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final

from mcp.server.mcpserver import Context

from token_tools.errors import Refusal
from token_tools.operations.fleet import Fleet
from token_tools.operations.services import Services
from token_tools.quoting import has_secret, is_visible
from token_tools.storage.attempts import Attempt, Mandate, Operation

MAX_CLIENT_CHARS: Final = 60
"""Characters of a client's name, and of its version."""

MAX_REASON_CHARS: Final = 600
"""Characters of the reason for a refusal."""


def get_services(context: Context[Any, Any]) -> Services:
    """Return the services of the one cluster that a call is about, for its caller."""
    [services] = get_fleet(context).members
    return services


def get_fleet(context: Context[Any, Any]) -> Fleet:
    """Return the clusters that a call is about, for its caller."""
    fleet: Fleet = context.request_context.lifespan_context
    actor = _render_actor(context)
    return Fleet([replace(services, actor=actor) for services in fleet.members])


def draft_refusal(services: Services, operation: Operation, arguments: Mapping[str, Any], refusal: Refusal) -> Attempt:
    """Return the entry about a call that a rule forbids. What was asked for is told as it was written."""
    token_id = arguments.get("id")
    is_id = isinstance(token_id, str) and token_id.isascii() and token_id.isdecimal()
    return services.journal.draft(
        operation,
        _clean(refusal.user or str(arguments.get("user") or "")),
        Mandate(services.actor),
        outcome="refused",
        token_id=token_id if is_id else None,
        reason=_clean(str(refusal), max_chars=MAX_REASON_CHARS),
    )


def _render_actor(context: Context[Any, Any]) -> str:
    """Return who calls: the user of this system, and the client's own name for itself."""
    parameters = context.session.client_params
    if parameters is None:
        return f"{find_system_user(os.getuid())} via an unnamed client"
    client = parameters.client_info
    return f"{find_system_user(os.getuid())} via {_clean(client.name)} {_clean(client.version)}"


def _clean(text: str, *, max_chars: int = MAX_CLIENT_CHARS) -> str:
    """Return what can be recorded of a text that somebody else wrote, on one line."""
    shown = "".join(char if is_visible(char) else " " for char in text).strip()
    # The beginning of a secret may be too short to be recognised by itself.
    if has_secret(text) or has_secret(shown):
        return "[withheld]"
    return shown if len(shown) <= max_chars else f"{shown[: max_chars - 1]}…"


@cache
def find_system_user(number: int) -> str:
    """Return the name of a user of this system, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
