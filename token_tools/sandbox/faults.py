"""The ways in which each endpoint of a cluster can fail, or the network or a gateway in front of it.

If the name of a fault ends in `-after`, the cluster has carried out the request before the fault comes. Otherwise the
cluster never sees the request.

In one process with the client, a cut connection is the error that httpx raises. Over HTTPS, the server drops the
connection instead of sending an answer. It does so for `refuse` as well, because it learns what is asked only after the
connection was accepted.
"""

import gzip
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import anyio
import httpx
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from token_tools.errors import UsageError

Endpoint = Literal["who-am-i", "find", "list", "list-again", "create", "get", "modify", "delete", "version"]
Fault = Literal[
    "refuse",
    "cut-before",
    "cut-after",
    "hang-after",
    "error-400",
    "error-500",
    "html",
    "busy",
    "redirect",
    "half",
    "no-json",
    "other-json",
    "slow",
    "endless",
    "foreign",
    "another",
    "page-200",
    "page-400",
    "page-401",
    "page-403",
    "page-404",
    "page-405",
    "page-407",
    "page-409",
    "page-413",
    "page-421",
    "page-451",
    "page-502",
    "bare-401",
    "bare-403",
    "bare-404",
    "null",
    "nothing",
    "gzip",
    "page-200-after",
    "page-400-after",
    "page-401-after",
    "page-403-after",
    "page-404-after",
    "page-405-after",
    "page-407-after",
    "page-409-after",
    "page-413-after",
    "page-421-after",
    "page-451-after",
    "page-502-after",
    "bare-401-after",
    "bare-403-after",
    "bare-404-after",
    "null-after",
    "nothing-after",
    "gzip-after",
    "busy-after",
    "redirect-after",
]

_TOKENS_PATH: Final = "/v1/auth/access-tokens/"
_ENDPOINTS: Final[Mapping[Endpoint, tuple[str, re.Pattern[str]]]] = {
    "who-am-i": ("GET", re.compile("/v1/session/who-am-i")),
    "find": ("POST", re.compile("/v1(/auth)?/identity/find")),
    # This fault begins with the second list: it hits the look after a create, and not the one before it.
    "list-again": ("GET", re.compile(_TOKENS_PATH)),
    "list": ("GET", re.compile(_TOKENS_PATH)),
    "create": ("POST", re.compile(_TOKENS_PATH)),
    "get": ("GET", re.compile(_TOKENS_PATH + "[^/]+")),
    "modify": ("PATCH", re.compile(_TOKENS_PATH + "[^/]+")),
    "delete": ("DELETE", re.compile(_TOKENS_PATH + "[^/]+")),
    "version": ("GET", re.compile("/v1/version")),
}


@dataclass
class Faults:
    """An ASGI application that hands requests on to `app`, except for the endpoints that fail by `plan`."""

    app: ASGIApp
    plan: dict[Endpoint, Fault]
    list_requests: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or fail."""
        fault = self._find_fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self.app(scope, receive, send)
        elif fault in _FAULTS_INSTEAD:
            await _FAULTS_INSTEAD[fault](Request(scope, receive))(scope, receive, send)
        elif fault in {"refuse", "cut-before"}:
            raise httpx.ConnectError("refused") if fault == "refuse" else httpx.ReadError("cut")
        else:
            body = await self._serve_unanswered(scope, receive)
            await _FAULTS_AFTERWARDS[fault](body, scope, receive, send)

    def _find_fault(self, scope: Scope) -> Fault | None:
        endpoints = [
            endpoint
            for endpoint, (method, path) in _ENDPOINTS.items()
            if scope["method"] == method and path.fullmatch(scope["path"])
        ]
        self.list_requests += "list" in endpoints
        if self.list_requests == 1 and "list-again" in endpoints:
            endpoints.remove("list-again")
        return next((self.plan[endpoint] for endpoint in endpoints if endpoint in self.plan), None)

    async def _serve_unanswered(self, scope: Scope, receive: Receive) -> bytes:
        """Let the cluster carry out the request, and return the body of its answer without sending it."""
        chunks: list[bytes] = []

        async def collect(message: Message) -> None:
            chunks.append(message.get("body", b""))

        await self.app(scope, receive, collect)
        return b"".join(chunks)


def parse_faults(words: Iterable[str]) -> dict[Endpoint, Fault]:
    """Return the plan of faults that are each written as one word, such as `create=cut-after`.

    Raises:
        UsageError: If a word is no fault; the message names all endpoints and faults.
    """
    try:
        return TypeAdapter(dict[Endpoint, Fault]).validate_python(dict(word.split("=", 1) for word in words))
    except ValueError:
        raise UsageError(
            f"A fault is written ENDPOINT=FAULT, with an endpoint of {', '.join(get_args(Endpoint))} "
            f"and a fault of {', '.join(get_args(Fault))}."
        ) from None


async def _cut(_body: bytes, _scope: Scope, _receive: Receive, _send: Send) -> None:
    raise httpx.ReadError("cut")


async def _hang(_body: bytes, _scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _trickle(body: bytes, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Send a byte now and then, until the client gives up."""
    length = str(len(body) + 1_000_000).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    while True:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await anyio.sleep(0.05)


def _rewrite_answer(rewrite: Callable[[bytes], Response]) -> Callable[[bytes, Scope, Receive, Send], Awaitable[None]]:
    async def answer(body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        await rewrite(body)(scope, receive, send)

    return answer


def _replace_answer(
    create_response: Callable[[Request], Response],
) -> Callable[[bytes, Scope, Receive, Send], Awaitable[None]]:
    async def answer(_body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        await create_response(Request(scope, receive))(scope, receive, send)

    return answer


def _link_next_page(prefix: str) -> Callable[[bytes], Response]:
    """Return an answer that is a page without tokens and links to a next page, each time with another cursor."""

    def create_response(body: bytes) -> Response:
        link = f"{prefix}/v1/auth/access-tokens/?after=k{hash(body) & 0xFFFF}{id(object()) & 0xFFFF}"
        return JSONResponse({"entries": [], "paging": {"next": link}})

    return create_response


def _refuse(status: int) -> Callable[[Request], Response]:
    """Return an answer in the vendor's envelope that repeats the credential."""

    def create_response(request: Request) -> Response:
        description = f"cannot do this for {request.headers.get('authorization')}"
        envelope = {"module": "sandbox", "error_class": "fault_error", "description": description}
        return JSONResponse(envelope, status_code=status)

    return create_response


def _echo_credential(status: int) -> Callable[[Request], Response]:
    """Return an HTML page, such as gateways and firewalls send, that repeats the credential."""

    def create_response(request: Request) -> Response:
        credential = request.headers.get("authorization")
        return HTMLResponse(f"<html><h1>Sorry</h1><pre>{credential}</pre></html>", status_code=status)

    return create_response


def _answer_empty(status: int) -> Callable[[Request], Response]:
    return lambda _: Response(status_code=status)


def _answer_too_many_requests(_: Request) -> Response:
    return PlainTextResponse("", status_code=429, headers={"Retry-After": "1"})


def _redirect(_: Request) -> Response:
    return RedirectResponse("https://elsewhere.example.com/", status_code=302)


def _compress(_: Request) -> Response:
    """Answer in an encoding that the client did not ask for, and that grows to a megabyte when it is decoded."""
    body = gzip.compress(gzip.compress(b"{}" + b" " * 1_000_000))
    return Response(body, media_type="application/json", headers={"Content-Encoding": "gzip, gzip"})


def _answer_about_another(body: bytes) -> Response:
    """Change the answer so that it seems to be about another token or user."""
    fields = json.loads(body or b"{}")
    others = {"id": "9007199254740993", "auth_id": "501", "name": "guest"}
    return JSONResponse(fields | {key: value for key, value in others.items() if key in fields})


_INTERMEDIARY_ANSWERS: Final[Mapping[str, Callable[[Request], Response]]] = {
    **{
        f"page-{status}": _echo_credential(status)
        for status in (200, 400, 401, 403, 404, 405, 407, 409, 413, 421, 451, 502)
    },
    **{f"bare-{status}": _answer_empty(status) for status in (401, 403, 404)},
    "null": lambda _: Response("null", media_type="application/json"),
    "nothing": _answer_empty(200),
    "gzip": _compress,
    "busy": _answer_too_many_requests,
    "redirect": _redirect,
}
"""What a gateway answers instead of the cluster: before the request reaches the cluster, or with `-after`, later."""

_FAULTS_INSTEAD: Final[Mapping[str, Callable[[Request], Response]]] = {
    **_INTERMEDIARY_ANSWERS,
    "error-400": _refuse(400),
    "error-500": _refuse(500),
    "html": _echo_credential(502),
}
_FAULTS_AFTERWARDS: Final[Mapping[str, Callable[[bytes, Scope, Receive, Send], Awaitable[None]]]] = {
    **{f"{fault}-after": _replace_answer(answer) for fault, answer in _INTERMEDIARY_ANSWERS.items()},
    "cut-after": _cut,
    "hang-after": _hang,
    "slow": _trickle,
    "half": _rewrite_answer(lambda body: Response(body[: len(body) // 2], media_type="application/json")),
    "no-json": _rewrite_answer(lambda body: PlainTextResponse(f"OK {body!r}")),
    "other-json": _rewrite_answer(lambda body: JSONResponse([body.decode()])),
    "endless": _rewrite_answer(_link_next_page("")),
    "foreign": _rewrite_answer(_link_next_page("https://elsewhere.example.com")),
    "another": _rewrite_answer(_answer_about_another),
}
