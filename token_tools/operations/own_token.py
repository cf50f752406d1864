"""Which access token the server itself runs on, and what must not be done to that one."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, NamedTuple

import anyio.to_thread

from token_tools.cluster.models import AccessToken
from token_tools.cluster.responses import READ_PRIVILEGE, WRITE_PRIVILEGE
from token_tools.errors import ClusterError, Refusal, SettingsError, Unauthenticated
from token_tools.operations.services import Services

INCOMPLETE_LIST: Final = "The list is not whole: it lacks the access token that this server itself runs on."

SURELY_EXPIRED_AFTER: Final = timedelta(days=1)
"""A server cannot run on a token that expired so long ago, however much the clocks differ."""


class OwnToken(NamedTuple):
    """The access token that the server runs on.

    `token_id` is None if the server runs on no token, or if the id is not known. `is_token` says whether it runs on a
    token, None if that is not known. `caveats` say what is not known. `has_unknown_id` says that the cluster does not
    tell the id. `may_write` says whether the server may change other users' tokens, as far as is known.
    """

    token_id: str | None
    is_token: bool | None
    caveats: Sequence[str]
    has_unknown_id: bool = False
    may_write: bool = True

    def may_be_complete(self, *, total: int, has_own_token: bool) -> bool:
        """Whether a list of `total` tokens can have all of the cluster's: those include the server's own."""
        return has_own_token if self.token_id is not None else total > 0 or self.is_token is False

    def list_caveats(self, *, total: int, has_own_token: bool) -> Sequence[str]:
        """Return what is not known of a list of `total` tokens, which may have the server's own among them."""
        may_be_complete = self.may_be_complete(total=total, has_own_token=has_own_token)
        return [*self.caveats, *([] if may_be_complete or self.is_token is None else [INCOMPLETE_LIST])]


async def read_own_token(services: Services) -> OwnToken:
    """Return what the server runs on. A cluster that cannot be asked is a caveat, no error."""
    try:
        me = await services.cluster.who_am_i()
    except ClusterError as failure:
        return OwnToken(None, is_token=None, caveats=[f"Which token this server runs on is not known: {failure}"])
    caveats: list[str] = []
    if me.privileges is not None and READ_PRIVILEGE not in me.privileges:
        caveats.append(
            f"This server's credential lacks {READ_PRIVILEGE}: these may be its own user's tokens only, "
            "not the cluster's."
        )
    return OwnToken(
        me.access_token_id,
        me.is_token or me.access_token_id is not None,
        caveats,
        has_unknown_id=me.is_unidentified_token,
        may_write=me.privileges is None or WRITE_PRIVILEGE in me.privileges,
    )


async def is_own_token(services: Services, token: AccessToken) -> bool | None:
    """Whether the server runs on a token; None if it runs on one and the cluster does not tell on which.

    Raises:
        ClusterError: If the cluster cannot be asked.
    """
    me = await services.cluster.who_am_i()
    return None if me.is_unidentified_token else me.access_token_id == token.id


async def check_no_lockout(services: Services, token: AccessToken, action: str) -> None:
    """Check that the server does not run on a token that is to be deleted, disabled or shortened.

    Raises:
        Refusal: If it runs on that token, or may do so. `action` is what it will not do, such as "delete it".
        ClusterError: If the cluster cannot be asked.
    """
    me = await services.cluster.who_am_i()
    if me.access_token_id == token.id:
        raise Refusal(
            f"This server itself runs on token {token.id}, so it will not {action}: it would lock itself out. "
            f"{await _render_replacement(services, token)}"
        )
    is_alive = token.is_live(now=services.clock() - SURELY_EXPIRED_AFTER)
    if me.is_unidentified_token and me.is_user(token.user) and is_alive:
        raise Refusal(
            f"This server runs on a token of {token.user}, and the cluster does not tell which, so it will not "
            f"{action}: it could lock itself out. A person can do it with qq."
        )


async def check_not_replaced(services: Services, own: AccessToken) -> None:
    """Check that no other token stands where a server gets its own: rotating the old one would make a third.

    Raises:
        Refusal: If one does, and works.
    """
    with suppress(Unauthenticated):
        if other := await _find_other_token(services, own):
            raise Refusal(_render_restart(services, other))


async def _render_replacement(services: Services, own: AccessToken) -> str:
    """Render how to make the server run on another token."""
    try:
        other = await _find_other_token(services, own)
    except Unauthenticated:
        return f"{services.credential_location} holds another bearer token by now, which the cluster does not take."
    if other is None:
        return "To replace it, call rotate_access_token and let the server run on the new one."
    return _render_restart(services, other)


async def _find_other_token(services: Services, own: AccessToken) -> str | None:
    """Return the id of the token that a server which starts now would run on; None if it is not known to be another.

    Raises:
        Unauthenticated: If the cluster does not take what such a server would run on.
    """
    try:
        bearer = await anyio.to_thread.run_sync(services.read_bearer, abandon_on_cancel=True)
        if bearer == services.cluster.bearer:
            return None
        principal = await services.cluster.verify_bearer(bearer)
    except Unauthenticated:
        raise
    except (ClusterError, SettingsError):
        return None
    return None if principal.access_token_id == own.id else principal.access_token_id


def _render_restart(services: Services, other_id: str) -> str:
    return (
        f"{services.credential_location} holds token {other_id} by now: start the server again, "
        "it still runs on the old one."
    )
