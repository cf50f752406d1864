"""The client of the REST API, on a cluster that plays a script."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import httpx
from pydantic import SecretStr

from token_tools.cluster.client import ClusterClient, connect
from token_tools.settings import Settings

OWN_CREDENTIAL = "1:legacy/own+bearer=="
TIMEOUT_SECONDS = 20
EMPTY_PAGE: dict[str, object] = {"entries": [], "paging": {"next": None}}
Handler = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def connected(
    transport: httpx.AsyncBaseTransport | Handler | None, settings: Settings | None = None
) -> AsyncGenerator[ClusterClient]:
    settings = settings or Settings(host="c", bearer_token=SecretStr(OWN_CREDENTIAL))
    if not (transport is None or isinstance(transport, httpx.AsyncBaseTransport)):
        transport = httpx.MockTransport(transport)
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with connect(settings, cluster_transport=transport) as cluster:
            yield cluster


class ScriptedCluster:
    """A handler that returns these answers, or raises these failures, one after the other and then repeats the last."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Return the next answer, or raise the next failure."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer


def empty_page_response() -> httpx.Response:
    return httpx.Response(200, json=EMPTY_PAGE)
