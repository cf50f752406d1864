"""Whether the process lives, and whether it can serve: for probes, which learn nothing else."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import Response

from token_tools.errors import TokenToolsError
from token_tools.operations.fleet import Fleet
from token_tools.operations.services import Services
from token_tools.server.http.bounds import BOUNDS

_LOG: Final = logging.getLogger(__name__)


async def answer_livez(_request: Request) -> Response:
    """Answer that the process lives."""
    return Response()


@dataclass
class Readiness:
    """Tells whether the clusters of a server and its state can be reached, until `is_ending` says that it ends.

    They have to answer within `timeout`. What was found is told again for a `period`.
    """

    is_ending: Callable[[], bool]
    period: timedelta = BOUNDS.readiness_period
    timeout: timedelta = BOUNDS.readiness_period
    fleet: Fleet = field(init=False)
    _is_ready: bool = False
    _obstacle: str | None = None
    _asked_at: float = -math.inf
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    def begin(self, fleet: Fleet) -> None:
        """Tell from now on whether these clusters can be reached."""
        self.fleet = fleet

    async def answer(self, _request: Request) -> Response:
        """Answer 200 or 503, and nothing besides."""
        async with self._lock:
            await self._look_once_in_a_while()
        return Response(status_code=200 if self._is_ready and not self.is_ending() else 503)

    async def _look_once_in_a_while(self) -> None:
        if anyio.current_time() - self._asked_at > self.period.total_seconds():
            self._note(await self._find_obstacle())
            self._asked_at = anyio.current_time()

    def _note(self, obstacle: str | None) -> None:
        """Keep what was found; the log tells what is in the way, once until it is something else."""
        if obstacle is not None and obstacle != self._obstacle:
            _LOG.warning("Not ready: %s", obstacle)
        elif obstacle is None and self._obstacle is not None:
            _LOG.warning("Ready again.")
        self._is_ready, self._obstacle = obstacle is None, obstacle

    async def _find_obstacle(self) -> str | None:
        """Return why this server cannot serve now, None if it can."""
        with anyio.move_on_after(self.timeout.total_seconds()):
            try:
                await self.fleet.ask_all(_ask_cluster)
                await self.fleet.members[0].journal.check_reachable()
            except TokenToolsError as failure:
                return str(failure)
            return None
        return f"the clusters and the journal took longer than {self.timeout.total_seconds():g} seconds to answer."


async def _ask_cluster(services: Services) -> object:
    return await services.cluster.fetch_version()
