"""Clusters that answer what they should not, and proxies in front of a cluster that do."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.support.harness import TOKENS_PATH, WHO_AM_I_PATH, Harness, refusal_response
from tests.support.recording_transport import OnServed
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Token
from token_tools.sandbox.faults import Endpoint, Fault, Faults


def deny_lists(harness: Harness) -> None:
    """Let the cluster refuse to list the tokens of a user. Each token can still be read by its id."""

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        return refusal_response(403) if "user" in request.url.params else served

    harness.recorder.on_served = answer


def hide_token_ids(harness: Harness, *, numeric: bool = False) -> None:
    """Let who-am-i leave out the id of the token, or with `numeric` give it as a number."""

    async def answer(request: httpx.Request, served: httpx.Response) -> httpx.Response:
        if request.url.path != WHO_AM_I_PATH:
            return served
        told = served.json()
        token_id = told.pop("access_token_id")
        return httpx.Response(200, json=told | ({"access_token_id": int(token_id)} if numeric else {}))

    harness.recorder.on_served = answer


HTML_PAGE = "<html><body><h1>Sorry</h1></body></html>"


def replace_answer(method: str, answer: httpx.Response, *, path: str | None = None) -> OnServed:
    """Replace the answer to each request at `path`, or to each one about tokens, once the cluster has served it."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_there = request.url.path.startswith(TOKENS_PATH) if path is None else request.url.path == path
        return answer if request.method == method and is_there else response

    return serve


class BlockingTransport(httpx.AsyncBaseTransport):
    """A proxy that answers requests of one method about tokens itself, and passes on all others."""

    def __init__(self, cluster: httpx.AsyncBaseTransport, method: str, answer: httpx.Response) -> None:
        self.cluster, self.method, self.answer = cluster, method, answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the proxy's answer or the cluster's."""
        is_it = request.method == self.method and request.url.path.startswith(TOKENS_PATH)
        return self.answer if is_it else await self.cluster.handle_async_request(request)


def block_requests(harness: Harness, method: str, answer: httpx.Response) -> None:
    """Put a proxy in front of the cluster that blocks requests of this method about tokens."""
    harness.recorder.cluster = BlockingTransport(harness.recorder.cluster, method, answer)


FALSE_DELETE_ANSWERS = [
    pytest.param(httpx.Response(404, html=HTML_PAGE), id="404-page"),
    pytest.param(httpx.Response(404), id="404-bare"),
    pytest.param(refusal_response(404), id="404-of-the-vendor-s"),
    pytest.param(httpx.Response(200, html=HTML_PAGE), id="200-page"),
    pytest.param(httpx.Response(200, text="garbage"), id="200-garbage"),
    pytest.param(httpx.Response(200, json=None), id="200-null"),
    pytest.param(httpx.Response(200), id="200-empty"),
    pytest.param(httpx.Response(204), id="204"),
    pytest.param(httpx.Response(202), id="202"),
    pytest.param(httpx.Response(403, html=HTML_PAGE), id="403-page"),
    pytest.param(httpx.Response(401), id="401-bare"),
]

REFUSAL_STATUSES = [400, 401, 403, 404, 405, 407, 409, 413, 421, 451]


def answer_about_another(other: Token) -> OnServed:
    """Give the id of `other` in each answer about one token, as a cache does that mixes requests up."""

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.startswith(TOKENS_PATH) and request.url.path != TOKENS_PATH and response.content:
            told = response.json() | {"id": other.id}
            return httpx.Response(200, json=told)
        return response

    return serve


def rewrite_answers(
    harness: Harness, method: str, path: str, rewrite: Callable[[dict[str, Any]], dict[str, Any]], *, first: int = 1
) -> None:
    """Rewrite the JSON of answers to this method and path, from the one with the number `first` on."""
    before: Callable[[httpx.Request, httpx.Response], Awaitable[httpx.Response]] = harness.recorder.on_served
    seen = 0

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        if (request.method, request.url.path) != (method, path):
            return await before(request, response)
        seen += 1
        return httpx.Response(200, json=rewrite(response.json())) if seen >= first else response

    harness.recorder.on_served = serve


def inject_faults(harness: Harness, plan: dict[Endpoint, Fault]) -> None:
    """Let these endpoints of the cluster fail."""
    harness.recorder.cluster = httpx.ASGITransport(Faults(create_app(harness.cluster), plan))


def lose_delivery_folder(harness: Harness) -> None:
    """Remove the reserved file while the cluster serves a create, so that the bearer token cannot be stored."""
    before = harness.recorder.on_served

    async def serve(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            for file in harness.settings.delivery_dir.iterdir():
                file.unlink()
        return await before(request, response)

    harness.recorder.on_served = serve


def hide_tokens_in_first_list(harness: Harness) -> None:
    """Let the first list of tokens be empty, and the later ones complete."""
    seen = 0

    async def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal seen
        seen += request.url.path == TOKENS_PATH
        return httpx.Response(200, json={"entries": []}) if request.url.path == TOKENS_PATH and seen == 1 else response

    harness.recorder.on_served = answer
