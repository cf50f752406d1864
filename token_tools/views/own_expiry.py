"""Render when the server's own token expires: a fact of an audit, and near its end a warning in every answer."""

from datetime import datetime, timedelta
from typing import Final

from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import WRITE_PRIVILEGE
from token_tools.operations.calls import format_call, naming_cluster
from token_tools.operations.fleet import Label
from token_tools.operations.own_credential import OwnCredential
from token_tools.operations.services import Services
from token_tools.times import format_relative_time, format_time

WARNED_WITHIN: Final = timedelta(days=14)
"""How long before its end the server's own token is warned of."""


def render_own_expiry(token: AccessToken, *, now: datetime) -> str:
    """Return `own token 184… expires 2026-12-04 09:00 UTC (in 10 days)`."""
    if token.expires is None:
        return f"own token {token.id} never expires"
    return f"own token {token.id} expires {format_time(token.expires)} ({format_relative_time(token.expires, now=now)})"


def render_expiry_warning(services: Services, credential: OwnCredential) -> str | None:
    """Return a sentence that warns of the end of the server's own token and says what mends that; None if it is far."""
    now = services.clock()
    token, left = credential.token, credential.find_time_left(now=now)
    if token is None or left is None or left > WARNED_WITHIN:
        return None
    label = Label(services.address, services.name)
    expiry = render_own_expiry(token, now=now)
    return f"{label.prefix}This server's {expiry}: {_render_mend(services, credential, token)}."


def _render_mend(services: Services, credential: OwnCredential, token: AccessToken) -> str:
    where, privileges = services.credential_location, credential.principal.privileges
    if not services.may_create_tokens or (privileges is not None and WRITE_PRIVILEGE not in privileges):
        return f"the operator has to replace {where}, which this server may not do itself"
    with naming_cluster(services.name):
        call = format_call("rotate_access_token", id=token.id)
    if services.credential_place is not None:
        return f"{call} makes its successor, and this server goes on with that if it can write {where}"
    return f"{call} makes its successor, and the operator then has to replace {where}"
