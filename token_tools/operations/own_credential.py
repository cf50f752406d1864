"""Whose credential does the server run on, and when does it expire? Asked now and then, beside the calls of tools."""

import logging
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup
from pydantic import SecretStr

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.models import AccessToken, Principal
from token_tools.errors import ClusterError, TokenToolsError
from token_tools.times import Clock

KNOWN_FOR: Final = timedelta(hours=1)
"""How long an answer of the cluster counts."""

RETRY_AFTER: Final = timedelta(minutes=5)
"""After which time the cluster is asked again if it gave no answer."""

_LOG: Final = logging.getLogger(__name__)


class OwnCredential(NamedTuple):
    """Whose credential the server runs on.

    `token` is the access token that it is; None if it is a login, if the cluster does not tell the id, or if the token
    could not be read, for which `failure` is the reason then.
    """

    principal: Principal
    token: AccessToken | None = None
    failure: ClusterError | None = None

    def find_time_left(self, *, now: datetime) -> timedelta | None:
        """Return how long the token still lives; negative if it has expired, None if it has no known end."""
        return None if self.token is None or self.token.expires is None else self.token.expires - now


async def read_own_credential(cluster: ClusterClient) -> OwnCredential:
    """Ask the cluster who the server is, and for the token that it runs on: two requests, or one for a login.

    Raises:
        ClusterError: If the cluster does not tell who the server is.
    """
    me = await cluster.who_am_i()
    if me.access_token_id is None:
        return OwnCredential(me)
    try:
        return OwnCredential(me, await cluster.get_token(me.access_token_id))
    except ClusterError as failure:
        return OwnCredential(me, failure=failure)


class _Reading(NamedTuple):
    """What was read of a credential, and until when it counts.

    `found` is None if there was no answer, and `bearer` if no request could be made at all.
    """

    bearer: SecretStr | None
    found: OwnCredential | None
    counts_until: datetime


class OwnTokenWatch:
    """Knows what the server's own credential is, once a call has begun to look at it.

    It reads in `tasks`, so that a reading outlives the call that began it. Calls wait for a reading until `patience`
    has passed since it began.
    """

    def __init__(self, cluster: ClusterClient, *, clock: Clock, tasks: TaskGroup, patience: timedelta) -> None:
        self._cluster = cluster
        self._clock = clock
        self._tasks = tasks
        self._patience = patience
        self._last: _Reading | None = None
        self._done = anyio.Event()
        self._done.set()
        self._deadline = 0.0

    def begin(self) -> None:
        """Begin to ask the cluster, unless it was asked lately or is being asked."""
        if self._done.is_set() and not self._is_fresh():
            self._done = anyio.Event()
            self._deadline = anyio.current_time() + self._patience.total_seconds()
            self._tasks.start_soon(self._read)

    async def find(self) -> OwnCredential | None:
        """Return what the credential is, None if that is not known by now; a reading has a moment to end."""
        with anyio.move_on_at(self._deadline):
            await self._done.wait()
        return self._last.found if self._last is not None and self._is_fresh() else None

    def _is_fresh(self) -> bool:
        """Whether the last reading still counts, and is about the credential that the server runs on now."""
        last = self._last
        if last is None or self._clock() >= last.counts_until:
            return False
        return last.bearer is None or last.bearer == self._cluster.bearer

    async def _read(self) -> None:
        bearer = found = None
        try:
            bearer = self._cluster.bearer
            found = await read_own_credential(self._cluster)
        except TokenToolsError as failure:
            # The call that runs beside this one tells it, if it asks the cluster too.
            _LOG.debug("The server's own token is not known: %s", failure)
        except Exception as crash:  # noqa: BLE001 - it would end the server, and is about no more than a warning
            _LOG.error("This server stumbled over a %s while it looked at its own token", type(crash).__name__)
        is_whole = found is not None and found.failure is None
        self._last = _Reading(bearer, found, self._clock() + (KNOWN_FOR if is_whole else RETRY_AFTER))
        self._done.set()
