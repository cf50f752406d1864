"""Who calls, as the record tells it, and the services for that caller."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.types import InitializeRequestParams

from token_tools.errors import JournalError, Refusal
from token_tools.operations.caller import Caller
from token_tools.operations.consent import NotAgreed
from token_tools.operations.fleet import Fleet
from token_tools.operations.services import Services
from token_tools.quoting import has_secret, is_visible
from token_tools.server.http.signed_in import find_signed_in, is_reader
from token_tools.storage.attempts import Attempt, Mandate, Operation
from token_tools.system_user import find_system_user

_LOG: Final = logging.getLogger(__name__)
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
    return find_fleet(context.request_context)


def find_fleet(request: ServerRequestContext[Any, Any]) -> Fleet:
    """Return the clusters that a request is about, for its caller."""
    fleet: Fleet = request.lifespan_context
    caller = _find_caller(request)
    members = [replace(services, caller=caller) for services in fleet.members]
    # What is proposed to somebody is what they may do.
    if is_reader():
        members = [replace(services, read_only=True, may_create_tokens=False) for services in members]
    return Fleet(members)


async def record_refusal(services: Services, operation: Operation, arguments: Mapping[str, Any], why: Refusal) -> None:
    """Record a call that a rule forbids, or that a person did not agree to; a failure is logged."""
    entry = why.entry if isinstance(why, NotAgreed) else draft_refusal(services, operation, arguments, why)
    try:
        await services.journal.record_untried(entry)
    except JournalError as unrecorded:
        _LOG.warning("%s", unrecorded)


def draft_refusal(services: Services, operation: Operation, arguments: Mapping[str, Any], refusal: Refusal) -> Attempt:
    """Return the entry about a call that a rule forbids. What was asked for is told as it was written."""
    token_id = arguments.get("id")
    is_id = isinstance(token_id, str) and token_id.isascii() and token_id.isdecimal()
    return services.journal.draft(
        operation,
        clean_text(refusal.user or str(arguments.get("user") or "")),
        Mandate(services.actor),
        outcome="refused",
        token_id=token_id if is_id else None,
        reason=clean_text(str(refusal), max_chars=MAX_REASON_CHARS),
    )


def _find_caller(request: ServerRequestContext[Any, Any]) -> Caller:
    """Return who calls: who signed in, or else the user of this system, and the client's own name for itself."""
    if (signed_in := find_signed_in()) is not None:
        return signed_in.caller
    client = _render_client(request.session.client_params)
    if request.request is not None:
        return Caller(id="", name=f"anybody via {client}", is_self=None)
    return describe_local_user(client)


def describe_local_user(program: str) -> Caller:
    """Return the user of this system as the caller, by way of a program."""
    return Caller(id="", name=f"{find_system_user()} via {program}")


def _render_client(parameters: InitializeRequestParams | None) -> str:
    if parameters is None:
        return "an unnamed client"
    client = parameters.client_info
    return f"{clean_text(client.name)} {clean_text(client.version)}"


def clean_text(text: str, *, max_chars: int = MAX_CLIENT_CHARS) -> str:
    """Return what can be recorded of a text that somebody else wrote, on one line."""
    shown = "".join(char if is_visible(char) else " " for char in text).strip()
    # The beginning of a secret may be too short to be recognised by itself.
    if has_secret(text) or has_secret(shown):
        return "[withheld]"
    return shown if len(shown) <= max_chars else f"{shown[: max_chars - 1]}…"
