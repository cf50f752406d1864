"""Test who is let in over HTTP, from where, and what the others are told."""

import logging

import anyio
import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.support.harness import Harness
from tests.support.http_in_process import (
    ANONYMOUS,
    ASKS_WHO,
    ISSUER,
    JSON_HEADERS,
    WITH_ISSUER,
    WRITER,
    Doorkeeper,
    HttpServer,
    Setup,
    create_request,
    create_tool_call,
    serving,
)
from tests.support.waiting import wait_until
from token_tools.http_settings import HttpSettings
from token_tools.server.http.admission import MAX_REQUESTS_OF_CALLER, Admission, Challenge

pytestmark = pytest.mark.anyio

BEARER = "writer-bVzZCBieSB0aGUgdGVzdHM"
LIST = create_request("tools/list")
METADATA_PATH = "/.well-known/oauth-protected-resource"


def write_challenge(server: HttpServer, **parameters: str) -> str:
    """Return the header that says who lets people in; `parameters` come before that."""
    metadata = f"http://{server.address}{METADATA_PATH}/mcp"
    shown = parameters | {"scope": "tokens:read tokens:write", "resource_metadata": metadata}
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in shown.items())


def assert_refused(answer: httpx.Response, status: int, challenge: str) -> None:
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (status, challenge)


async def test_who_has_no_bearer_token_is_told_where_to_get_one(harness: Harness) -> None:
    async with serving(harness, ASKS_WHO) as server:
        answers = [await server.ask(method, headers=JSON_HEADERS) for method in ("POST", "GET", "DELETE", "PUT")]
        answers.append(await server.ask("POST", "/mcp?access_token=writer", headers=JSON_HEADERS, json=LIST))
        answers.append(await server.ask("POST", data={"access_token": "writer"}))
        let_in = await server.post(LIST, "writer")

    for answer in answers:
        assert_refused(answer, 401, write_challenge(server))
        assert answer.json() == {"error": "unauthorized", "error_description": "A bearer token is needed."}
    assert let_in.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong", "Bearer", "writer", "Basic writer", "Bearer writer writer",
        "Bearer writer,writer", "Token writer", "Bearerwriter", "Bearer\twriter", "Bearer caf\xe9", "", "bearer=writer",
    ],
)  # fmt: skip
async def test_what_is_no_valid_bearer_token_lets_nobody_in(harness: Harness, authorization: str) -> None:
    async with serving(harness, ASKS_WHO) as server:
        headers = {**{name: value.encode() for name, value in JSON_HEADERS.items()}}
        answer = await server.ask(
            "POST", json=LIST, headers={**headers, "Authorization": authorization.encode("latin-1")}
        )

    description = "The bearer token is not valid here."
    assert_refused(answer, 401, write_challenge(server, error="invalid_token", error_description=description))
    assert answer.json() == {"error": "invalid_token", "error_description": description}
    assert harness.recorder.requests == []


async def test_of_two_bearer_tokens_none_counts(harness: Harness) -> None:
    async with serving(harness, ASKS_WHO) as server:
        twice = [("Authorization", "Bearer writer"), ("Authorization", "Bearer writer"), *JSON_HEADERS.items()]
        answer = await server.ask("POST", json=LIST, headers=twice)

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_the_scheme_is_read_in_any_case(harness: Harness) -> None:
    async with serving(harness, ASKS_WHO) as server:
        answers = [await server.post(LIST, Authorization=f"{scheme} writer") for scheme in ("bearer", "BEARER")]

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_who_may_do_nothing_is_told_so_and_of_what_is_missing(harness: Harness) -> None:
    async with serving(harness, ASKS_WHO) as server:
        answer = await server.post(LIST, "stranger")

    description = "No rule of this server lets you in."
    assert_refused(answer, 403, write_challenge(server, error="insufficient_scope", error_description=description))


async def test_without_an_issuer_nobody_is_sent_to_one(harness: Harness) -> None:
    settings = HttpSettings(http_listen=ANONYMOUS.http_listen, http_keys_file=harness.settings.state_dir / "keys")
    async with serving(harness, Setup(settings, Doorkeeper())) as server:
        without, wrong = await server.post(LIST), await server.post(LIST, "wrong")
        metadata = [await server.ask("GET", path) for path in (METADATA_PATH, f"{METADATA_PATH}/mcp")]

    assert_refused(without, 401, "Bearer")
    assert_refused(wrong, 401, 'Bearer error="invalid_token", error_description="The bearer token is not valid here."')
    assert [answer.status_code for answer in metadata] == [404, 404]


@pytest.mark.parametrize("issuer", [ISSUER, f"{ISSUER}/", f"{ISSUER}/realms/storage"])
async def test_the_metadata_name_the_issuer_as_it_is_spelled(harness: Harness, issuer: str) -> None:
    settings = HttpSettings(http_listen=ANONYMOUS.http_listen, http_issuer=issuer, http_readers=("groups=staff",))
    async with serving(harness, Setup(settings, Doorkeeper())) as server:
        page = {"Origin": "https://page.example.com"}
        answers = [await server.ask("GET", path, headers=page) for path in (METADATA_PATH, f"{METADATA_PATH}/mcp")]
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "MCP-Protocol-Version"}
        preflight = await server.ask("OPTIONS", METADATA_PATH, headers=page | asked)

    assert preflight.status_code == 200
    for answer in answers:
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert answer.json() == {
            "resource": server.url,
            "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["tokens:write"],
        }


async def test_the_metadata_of_a_server_below_a_path_are_where_the_standard_says(harness: Harness) -> None:
    """The well-known part comes between the host and the path. Source: RFC 9728, section 3.1."""
    settings = HttpSettings(
        http_listen=ANONYMOUS.http_listen, http_issuer=ISSUER, http_url="https://c.example.com/tokens/",
        http_readers=("groups=a",), http_writers=("groups=b",), http_allowed_hosts=("127.0.0.1:*",),
    )  # fmt: skip
    async with serving(harness, Setup(settings, Doorkeeper())) as server:
        answer = await server.ask("GET", f"{METADATA_PATH}/tokens/mcp")
        refused = await server.post(LIST)

    assert answer.json() == {
        "resource": "https://c.example.com/tokens/mcp",
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
    }
    assert refused.headers["WWW-Authenticate"] == (
        f'Bearer resource_metadata="https://c.example.com{METADATA_PATH}/tokens/mcp"'
    )


async def test_a_caller_with_too_much_at_work_is_asked_to_wait(harness: Harness) -> None:
    """The cluster does not answer the requests that are at work. Another caller is served."""
    released = anyio.Event()

    async def hold(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        await released.wait()
        return response

    harness.recorder.on_served = hold
    statuses, answers = list[int](), list[httpx.Response]()
    async with serving(harness, ASKS_WHO) as server:

        async def call() -> None:
            statuses.append((await server.post(create_tool_call("get_access_token", id="1"), "reader")).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(MAX_REQUESTS_OF_CALLER + 2):
                tasks.start_soon(call)
            await wait_until(lambda: len(statuses) == 2)
            answers += [await server.post(LIST, bearer) for bearer in ("reader", "writer")]
            released.set()

    assert statuses == [429, 429, *[200] * MAX_REQUESTS_OF_CALLER]
    assert [answer.status_code for answer in answers] == [429, 200]
    assert answers[0].headers["Retry-After"] == "1"


async def test_what_is_served_behind_the_sign_in_never_sees_the_bearer_token() -> None:
    seen: list[Scope] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await Response()(scope, receive, send)

    app = Admission(serve, Doorkeeper({BEARER: WRITER}), Challenge(None, []))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        answer = await client.get("/", headers={"Authorization": f"Bearer {BEARER}", "X": "y"})

    assert answer.status_code == 200
    [scope] = seen
    assert BEARER not in str(scope)
    assert (b"x", b"y") in scope["headers"]


async def test_a_bearer_token_is_in_no_log_and_goes_nowhere(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(harness, Setup(WITH_ISSUER, Doorkeeper({BEARER: WRITER}))) as server:
        answers = [await server.post(message, BEARER) for message in (LIST, create_tool_call("list_access_tokens"))]
        answers += [await server.post(LIST, f"{BEARER}x")]

    assert [answer.status_code for answer in answers] == [200, 200, 401]
    sent = [str(request.headers.raw) + str(request.content) for request in harness.recorder.requests]
    # The client of the test logs what it sends.
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    for text in [*sent, *logged, *(answer.text for answer in answers), *(str(answer.headers) for answer in answers)]:
        assert BEARER not in text


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.example.com", "127.0.0.1.evil.example.com", "", "evil@127.0.0.1"]
)
async def test_a_name_that_is_not_this_server_s_is_not_served(harness: Harness, host: str) -> None:
    async with serving(harness) as server:
        answer = await server.post(LIST, Host=host)

    assert (answer.status_code, "evil" in answer.text) == (421, False)


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:8080"])
async def test_this_machine_may_call_itself_by_any_of_its_names(harness: Harness, host: str) -> None:
    async with serving(harness) as server:
        assert (await server.post(LIST, Host=host)).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://localhost", "http://localhost.evil:80"])
async def test_a_page_that_was_not_named_may_not_call(harness: Harness, origin: str) -> None:
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with serving(harness) as server:
        called = await server.post(LIST, Origin=origin)
        asked = await server.ask("OPTIONS", headers=preflight)

    assert called.status_code == 403
    assert asked.status_code == 400
    assert "Access-Control-Allow-Origin" not in {*called.headers, *asked.headers}
    assert "evil" not in called.text + asked.text


async def test_a_page_that_was_named_may_ask_before_it_signs_in_and_read_the_answers(harness: Harness) -> None:
    page = "https://chat.example.com"
    settings = HttpSettings(http_listen=ANONYMOUS.http_listen, http_issuer=ISSUER, http_allowed_origins=(page,))
    preflight = {
        "Origin": page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, mcp-protocol-version, mcp-method, mcp-name",
    }
    async with serving(harness, Setup(settings, Doorkeeper())) as server:
        asked = await server.ask("OPTIONS", headers=preflight)
        refused = await server.post(LIST, Origin=page)
        served = await server.post(LIST, "reader", Origin=page)

    assert (asked.status_code, refused.status_code, served.status_code) == (200, 401, 200)
    for answer in (asked, refused, served):
        assert answer.headers["Access-Control-Allow-Origin"] == page
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "WWW-Authenticate" in refused.headers["Access-Control-Expose-Headers"]


async def test_a_page_of_this_server_itself_may_call(harness: Harness) -> None:
    async with serving(harness) as server:
        origins = [f"http://{server.address}", f"http://localhost:{server.port}"]
        answers = [await server.post(LIST, Origin=origin) for origin in origins]

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_nothing_else_is_there(harness: Harness) -> None:
    paths = ["/", "/mcp/", "//mcp", "/MCP", "/mcp/..%2fmcp", "/x/../mcp2", "/authorize", "/token", "/register", "/docs"]
    async with serving(harness, ASKS_WHO) as server:
        answers = [
            await server.send_raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            for path in paths
        ]

    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 404 Not Found"] * len(paths)
