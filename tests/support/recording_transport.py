"""A transport that records each request, and can change, delay or drop the answer once the cluster has served it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

OnServed = Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]]


async def _keep_response(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
    return response


@dataclass
class RecordingTransport(httpx.AsyncBaseTransport):
    """A transport between the server and a cluster. `on_served` may change an answer, delay it, or raise instead."""

    cluster: httpx.AsyncBaseTransport
    on_served: OnServed = _keep_response
    requests: list[httpx.Request] = field(default_factory=list[httpx.Request])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Record the request, let the cluster serve it, and return what `on_served` makes of the answer."""
        self.requests.append(request)
        response = await self.cluster.handle_async_request(request)
        await response.aread()
        return await self.on_served(request, response)

    def request_lines(self) -> list[str]:
        """Return `METHOD path?query` of each request, in order."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def bodies(self, method: str, path: str) -> list[bytes]:
        """Return the body of each request to this method and path, in order."""
        return [r.content for r in self.requests if (r.method, r.url.path) == (method, path)]
