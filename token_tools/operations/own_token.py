"""Which access token the server itself runs on."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from token_tools.cluster.responses import READ_PRIVILEGE, WRITE_PRIVILEGE
from token_tools.errors import ClusterError
from token_tools.operations.services import Services

INCOMPLETE_LIST: Final = "The list is not whole: it lacks the access token that this server itself runs on."


class OwnToken(NamedTuple):
    """What a server runs on: the id of its access token, None if it has none or that is not known.

    `is_token` is None where nothing of it is known, and `caveats` say what is not. `has_unknown_id` says that the
    cluster does not tell which token it is, and `may_write` whether it may change what is everybody's, as far as is
    known.
    """

    token_id: str | None
    is_token: bool | None
    caveats: Sequence[str]
    has_unknown_id: bool = False
    may_write: bool = True


async def read_own_token(services: Services) -> OwnToken:
    """What the server runs on."""
    try:
        me = await services.cluster.who_am_i()
    except ClusterError as failure:
        return OwnToken(None, is_token=None, caveats=[f"Which token this server runs on is not known: {failure}"])
    doubts: list[str] = []
    if me.privileges is not None and READ_PRIVILEGE not in me.privileges:
        doubts.append(
            f"This server's credential lacks {READ_PRIVILEGE}: these may be its own user's tokens only, "
            "not the cluster's."
        )
    return OwnToken(
        me.access_token_id,
        me.is_token or me.access_token_id is not None,
        doubts,
        has_unknown_id=me.is_unidentified_token,
        may_write=me.privileges is None or WRITE_PRIVILEGE in me.privileges,
    )
