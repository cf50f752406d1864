"""Two equal clusters under one clock: our tools work on one, the vendor's SDK on the other, over HTTPS."""

import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import httpx
import trustme
import uvicorn
from anyio.from_thread import BlockingPortal
from mcp.client import Client
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.harness import AD_JANE, ADMIN, JANE, LDAP_BOB, NOW, USERS_GROUP, ToolAnswer
from token_tools.configuration import Profile
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Account, Cluster
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.app import create_server
from token_tools.settings import Settings

TIMEOUT_SECONDS: Final = 60
CLUSTER_SEED: Final = 7
SERVICE_ACCOUNT: Final = Account("1010", "LOCAL", "mcp-service", sid="S-1-5-21-1-2-3-1010", privileges=ADMIN.privileges)
REPLICATION_ACCOUNT: Final = Account("4294967297", "API_INTERNAL_DOMAIN", "replication")
ACCOUNTS: Final = (
    SERVICE_ACCOUNT,
    ADMIN,
    JANE,
    AD_JANE,
    LDAP_BOB,
    Account("1002", "LOCAL", "Backup of the House", sid="S-1-5-21-1-2-3-1002"),
    Account("21474836482", "ACTIVE_DIRECTORY", "CORP\\svc-veeam", sid="S-1-5-21-9-9-9-1106"),
    REPLICATION_ACCOUNT,
    Account("4294967298", "API_NULL_DOMAIN", "null"),
    Account("4294967299", "API_INVALID_DOMAIN", "invalid"),
    Account("4294967300", "API_RESERVED_DOMAIN", "reserved"),
    Account("4294967301", "API_OPERATOR_DOMAIN", "operator"),
    Account("18446744069414584320", "API_CREATOR_DOMAIN", "Creator Owner"),
    USERS_GROUP,
    Account("1500", "LOCAL", "staff", is_group=True),
    Account("17179870184", "POSIX_GROUP", "researchers", gid=1000, is_group=True),
    Account("8589934592", "WORLD", "Everyone", sid="S-1-1-0", is_group=True),
)
"""Users and groups of each of the eleven domains. Both sides work with a token of the first one."""

Entry = dict[str, Any]
Result = TypeVar("Result")

_PREFIX_BY_DOMAIN: Final = {"ACTIVE_DIRECTORY": "ad", "POSIX_USER": "ldap_user", "POSIX_GROUP": "ldap_group"}

# The SDK has no stubs and is not marked as typed.
_REST_CLIENT_MODULE: Final[Any] = import_module("qumulo.rest_client")
_AUTH_MODULE: Final[Any] = import_module("qumulo.lib.auth")
_IDENTITY_MODULE: Final[Any] = import_module("qumulo.lib.identity_util")
_REQUEST_MODULE: Final[Any] = import_module("qumulo.lib.request")


@dataclass
class FakeClock:
    """A clock that stands still until it is moved."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        """Return the present time."""
        return self.now


@dataclass(frozen=True)
class UserSpelling:
    """A user as each side writes it: a string for our tools, the argument of `Identity` for the SDK.

    `for_sdk_filter` is for the SDK's list, whose filter loses a domain.
    """

    for_tool: str
    for_sdk: str | Mapping[str, str]
    for_sdk_filter: str


def list_spellings(account: Account) -> Sequence[UserSpelling]:
    """Return every spelling of an account."""
    key, name, sid = f"auth_id:{account.auth_id}", account.name or "", account.sid
    prefix = _PREFIX_BY_DOMAIN.get(account.domain, account.domain.lower())
    in_domain = {"domain": account.domain, "name": name}
    return [
        UserSpelling(f"{prefix}:{name}", in_domain, key),
        UserSpelling(f" {account.domain}: {name.upper()} ", in_domain, key),
        UserSpelling(f"{prefix}:{json.dumps(name)}", in_domain, key),
        # Several users may have this name; both sides then refuse it.
        UserSpelling(name, f"name:{name}", f"name:{name}"),
        UserSpelling(f"NAME:{name}", f"name:{name}", f"name:{name}"),
        UserSpelling(key, key, key),
        UserSpelling(f"auth_id:{int(account.auth_id):#x}", key, key),
        *([UserSpelling(sid, sid, key), UserSpelling(f"sid:{sid.lower()}", f"sid:{sid}", key)] if sid else []),
        *([UserSpelling(f"uid:{account.uid}", f"uid:{account.uid}", key)] if account.uid else []),
    ]


def create_cluster(clock: FakeClock) -> tuple[Cluster, str]:
    """Create a cluster that makes the ids and secrets of every other one; return it and the secret to work with."""
    cluster = Cluster(clock=clock, seed=CLUSTER_SEED)
    for account in ACCOUNTS:
        cluster.add_account(account)
    own = cluster.add_token(SERVICE_ACCOUNT.auth_id, creator=ADMIN.auth_id)
    for account, age, rest, enabled in (
        (JANE, 30, 60, True),
        (AD_JANE, 700, None, False),
        (LDAP_BOB, 300, -10, True),
        (LDAP_BOB, 20, 20, True),
        (ADMIN, 400, None, True),
        (REPLICATION_ACCOUNT, 10, 300, True),
    ):
        cluster.add_token(
            account.auth_id,
            creator=account.auth_id,
            creation_time=NOW - timedelta(days=age, microseconds=age),
            expiration_time=None if rest is None else NOW + timedelta(days=rest),
            enabled=enabled,
        )
    return cluster, own.bearer_token


@dataclass
class ReplaceableApp:
    """An application that can be replaced while it is served."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with the present application."""
        await self.app(scope, receive, send)


@contextmanager
def serve_over_https(
    app: ASGIApp, folder: Path, *, dates_answers: bool = True, authority: trustme.CA | None = None
) -> Generator[int]:
    """Serve an application over HTTPS in a thread of this process, and yield the port.

    Its answers have the time of this machine, unless the application gives them a time itself. Its certificate is of
    the authority, of one of its own if that is None.
    """
    certificate = folder / "server.pem"
    (authority or trustme.CA()).issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(certificate)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=certificate,
            log_level="warning",
            access_log=False,
            date_header=dates_answers,
            lifespan="off",
            ws="none",
            timeout_keep_alive=TIMEOUT_SECONDS,
            timeout_graceful_shutdown=TIMEOUT_SECONDS,
        )
    )
    # Nagle's algorithm would cost 40 ms a request; asyncio turns it off if the protocol is given explicitly.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive()


@dataclass
class SdkSide:
    """The vendor's SDK on a cluster of its own. Its methods return None if the cluster refuses the request."""

    cluster: Cluster
    served_app: ReplaceableApp
    rest: Any

    @classmethod
    @contextmanager
    def connected(cls, folder: Path) -> Generator["SdkSide"]:
        """Serve a new cluster, and yield the SDK with one connection to it."""
        cluster, bearer_token = create_cluster(FakeClock())
        served_app = ReplaceableApp(create_app(cluster))
        with serve_over_https(served_app, folder) as port:
            rest = _REST_CLIENT_MODULE.RestClient(
                LOOPBACK, port, _AUTH_MODULE.Credentials(bearer_token), timeout=TIMEOUT_SECONDS
            )
            try:
                yield cls(cluster, served_app, rest)
            finally:
                rest.close()

    def reset(self, clock: FakeClock) -> None:
        """Replace the cluster with a new one."""
        self.cluster, _ = create_cluster(clock)
        self.served_app.app = create_app(self.cluster)

    def who_am_i(self) -> Entry:
        """Return the user whom the SDK works as."""
        me: Entry = self.rest.auth.who_am_i()
        return me

    def who_am_i_with(self, bearer_token: str) -> Entry | None:
        """Return the user whom a bearer token authenticates."""
        rest = _REST_CLIENT_MODULE.RestClient(
            LOOPBACK, self.rest.port, _AUTH_MODULE.Credentials(bearer_token), timeout=TIMEOUT_SECONDS
        )
        try:
            return _none_if_refused(rest.auth.who_am_i)
        finally:
            rest.close()

    def list_tokens(self, user: str | None = None, *, limit: int | None = None) -> list[Entry] | None:
        """Return the tokens of all users or of one, from all pages."""
        identity = None if user is None else _IDENTITY_MODULE.Identity(user)
        return _none_if_refused(
            lambda: [
                _as_dict(entry) for page in self.rest.access_tokens.list(identity, limit) for entry in page.entries
            ]
        )

    def get_token(self, token_id: str) -> Entry | None:
        """Return a token."""
        return _none_if_refused(lambda: _as_dict(self.rest.access_tokens.get(token_id)))

    def create_token(self, user: str | Mapping[str, str], expires: datetime | None) -> Entry | None:
        """Create a token, and return its id and secret."""
        identity = _IDENTITY_MODULE.Identity(user)
        return _none_if_refused(lambda: _as_dict(self.rest.access_tokens.create(identity, expires)))

    def update_token(self, token_id: str, *, expires: datetime | None, enabled: bool | None) -> Entry | None:
        """Change the expiry, the state, or both, and return the token."""
        return _none_if_refused(lambda: _as_dict(self.rest.access_tokens.modify(token_id, expires, enabled)))

    def clear_expiry(self, token_id: str) -> Entry | None:
        """Remove the expiry of a token, and return the token. The SDK's own method cannot do that."""
        uri = f"/v1/auth/access-tokens/{token_id}"
        return _none_if_refused(lambda: self.rest.request("PATCH", uri, body={"expiration_time": None}))

    def delete_token(self, token_id: str) -> bool | None:
        """Delete a token, and return True."""
        return _none_if_refused(lambda: self.rest.access_tokens.delete(token_id) is None)


@dataclass
class ServerSide:
    """A client of our server on a cluster of its own."""

    cluster: Cluster
    client: Client
    portal: BlockingPortal

    @classmethod
    @contextmanager
    def connected(cls, portal: BlockingPortal, clock: FakeClock, *, host: str, folder: Path) -> Generator["ServerSide"]:
        """Connect to a server that works on a new cluster named `host` and asks for no consent."""
        cluster, bearer_token = create_cluster(clock)
        settings = Settings(
            host=host,
            bearer_token=SecretStr(bearer_token),
            delivery_dir=folder / host,
            confirm="none",
            max_changes=0,
        )
        server = create_server(
            [Profile(settings)], cluster_transport=httpx.ASGITransport(create_app(cluster)), clock=clock
        )

        @asynccontextmanager
        async def client() -> AsyncGenerator[Client]:
            with anyio.fail_after(TIMEOUT_SECONDS):
                async with Client(server) as client:
                    yield client

        with portal.wrap_async_context_manager(client()) as connected:
            yield cls(cluster, connected, portal)

    def call(self, tool: str, **arguments: object) -> ToolAnswer:
        """Call a tool, and return the answer; arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}

        async def call() -> ToolAnswer:
            with anyio.fail_after(TIMEOUT_SECONDS):
                return ToolAnswer.from_result(await self.client.call_tool(tool, given))

        return self.portal.call(call)


def _none_if_refused(request: Callable[[], Result]) -> Result | None:
    try:
        return request()
    except _REQUEST_MODULE.RequestError:
        return None


def _as_dict(entry: object) -> Entry:
    """Return the fields of one of the SDK's dataclasses, faster than the SDK's own `to_dict`."""
    return {**vars(entry)}
