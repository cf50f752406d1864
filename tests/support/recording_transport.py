"""A transport that remembers what the cluster was sent, and can be told to misbehave once a request has been served."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

OnServed = Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]]


async def _keep_response(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
    return response


@dataclass
class RecordingTransport(httpx.AsyncBaseTransport):
    """Stands between the server and a cluster. `on_served` may change an answer, hold it back, or raise instead."""

    cluster: httpx.AsyncBaseTransport
    on_served: OnServed = _keep_response
    requests: list[httpx.Request] = field(default_factory=list[httpx.Request])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Let the cluster serve the request, then do as told."""
        self.requests.append(request)
        response = await self.cluster.handle_async_request(request)
        await response.aread()
        return await self.on_served(request, response)

    def request_lines(self) -> list[str]:
        """`METHOD path?query` of each request, in order."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def bodies(self, method: str, path: str) -> list[bytes]:
        """What was sent with each request of this kind."""
        return [r.content for r in self.requests if (r.method, r.url.path) == (method, path)]
