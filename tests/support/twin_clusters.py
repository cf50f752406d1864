"""Two clusters made alike under one clock: on one work our tools, on the other the vendor's SDK, over HTTPS."""

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

from tests.support.harness import AD_JANE, ADMIN, JANE, LDAP_BOB, NOW, USERS, Told
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Account, Cluster
from token_tools.sandbox.https import LOOPBACK
from token_tools.server.app import create_server
from token_tools.settings import Settings

PATIENCE: Final = 60
SEED: Final = 7
SERVICE: Final = Account("1010", "LOCAL", "mcp-service", sid="S-1-5-21-1-2-3-1010", privileges=ADMIN.privileges)
REPLICATION: Final = Account("4294967297", "API_INTERNAL_DOMAIN", "replication")
ACCOUNTS: Final = (
    SERVICE,
    ADMIN,
    JANE,
    AD_JANE,
    LDAP_BOB,
    Account("1002", "LOCAL", "Backup of the House", sid="S-1-5-21-1-2-3-1002"),
    Account("21474836482", "ACTIVE_DIRECTORY", "CORP\\svc-veeam", sid="S-1-5-21-9-9-9-1106"),
    REPLICATION,
    Account("4294967298", "API_NULL_DOMAIN", "null"),
    Account("4294967299", "API_INVALID_DOMAIN", "invalid"),
    Account("4294967300", "API_RESERVED_DOMAIN", "reserved"),
    Account("4294967301", "API_OPERATOR_DOMAIN", "operator"),
    Account("18446744069414584320", "API_CREATOR_DOMAIN", "Creator Owner"),
    USERS,
    Account("1500", "LOCAL", "staff", is_group=True),
    Account("17179870184", "POSIX_GROUP", "researchers", gid=1000, is_group=True),
    Account("8589934592", "WORLD", "Everyone", sid="S-1-1-0", is_group=True),
)
"""Users and groups of each of the eleven domains; the first is the one whose token both sides work with."""

Entry = dict[str, Any]
Result = TypeVar("Result")

_PREFIX_OF: Final = {"ACTIVE_DIRECTORY": "ad", "POSIX_USER": "ldap_user", "POSIX_GROUP": "ldap_group"}

# The SDK has no stubs and is not marked as typed.
_REST: Final[Any] = import_module("qumulo.rest_client")
_AUTH: Final[Any] = import_module("qumulo.lib.auth")
_IDENTITY: Final[Any] = import_module("qumulo.lib.identity_util")
_REQUEST: Final[Any] = import_module("qumulo.lib.request")


@dataclass
class FakeClock:
    """A clock that stands still until it is moved."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        """The present."""
        return self.now


@dataclass(frozen=True)
class Spelling:
    """A user as each side writes it: for us a string, for the SDK what its `Identity` is made of.

    `in_filter` is for the SDK's list, whose filter loses a domain.
    """

    ours: str
    theirs: str | Mapping[str, str]
    in_filter: str


def spell(account: Account) -> Sequence[Spelling]:
    """Every way to write an account."""
    key, name, sid = f"auth_id:{account.auth_id}", account.name or "", account.sid
    prefix = _PREFIX_OF.get(account.domain, account.domain.lower())
    in_domain = {"domain": account.domain, "name": name}
    return [
        Spelling(f"{prefix}:{name}", in_domain, key),
        Spelling(f" {account.domain}: {name.upper()} ", in_domain, key),
        Spelling(f"{prefix}:{json.dumps(name)}", in_domain, key),
        # A name alone may be that of several users, and then neither side takes it.
        Spelling(name, f"name:{name}", f"name:{name}"),
        Spelling(f"NAME:{name}", f"name:{name}", f"name:{name}"),
        Spelling(key, key, key),
        Spelling(f"auth_id:{int(account.auth_id):#x}", key, key),
        *([Spelling(sid, sid, key), Spelling(f"sid:{sid.lower()}", f"sid:{sid}", key)] if sid else []),
        *([Spelling(f"uid:{account.uid}", f"uid:{account.uid}", key)] if account.uid else []),
    ]


def make_cluster(clock: FakeClock) -> tuple[Cluster, str]:
    """A cluster that will make the same ids and secrets as every other, and the secret that both sides work with."""
    cluster = Cluster(clock=clock, seed=SEED)
    for account in ACCOUNTS:
        cluster.add_account(account)
    own = cluster.create_token(SERVICE.auth_id, creator=ADMIN.auth_id)
    for account, age, rest, enabled in (
        (JANE, 30, 60, True),
        (AD_JANE, 700, None, False),
        (LDAP_BOB, 300, -10, True),
        (LDAP_BOB, 20, 20, True),
        (ADMIN, 400, None, True),
        (REPLICATION, 10, 300, True),
    ):
        cluster.create_token(
            account.auth_id,
            creator=account.auth_id,
            creation_time=NOW - timedelta(days=age, microseconds=age),
            expiration_time=None if rest is None else NOW + timedelta(days=rest),
            enabled=enabled,
        )
    return cluster, own.bearer_token


@dataclass
class Switchboard:
    """An application that can be exchanged for another while it is served."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever the present one does."""
        await self.app(scope, receive, send)


@contextmanager
def serving(app: ASGIApp, folder: Path) -> Generator[int]:
    """The port on which a thread of this process serves an application over HTTPS."""
    certificate = folder / "server.pem"
    trustme.CA().issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(certificate)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=certificate,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=PATIENCE,
            timeout_graceful_shutdown=PATIENCE,
        )
    )
    # With the protocol spelled out, asyncio turns Nagle's algorithm off, which would cost 40 ms a request.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@dataclass
class Theirs:
    """The vendor's SDK on a cluster of its own; None is what the cluster refuses."""

    cluster: Cluster
    switchboard: Switchboard
    rest: Any

    @classmethod
    @contextmanager
    def connected(cls, folder: Path) -> Generator["Theirs"]:
        """Over one connection from now on."""
        cluster, bearer_token = make_cluster(FakeClock())
        switchboard = Switchboard(create_app(cluster))
        with serving(switchboard, folder) as port:
            rest = _REST.RestClient(LOOPBACK, port, _AUTH.Credentials(bearer_token), timeout=PATIENCE)
            try:
                yield cls(cluster, switchboard, rest)
            finally:
                rest.close()

    def begin(self, clock: FakeClock) -> None:
        """Let there be a new cluster in place of the one before."""
        self.cluster, _ = make_cluster(clock)
        self.switchboard.app = create_app(self.cluster)

    def who_am_i(self) -> Entry:
        """Whom the SDK works as."""
        me: Entry = self.rest.auth.who_am_i()
        return me

    def who_is_it(self, bearer_token: str) -> Entry | None:
        """Whom a bearer token stands for."""
        rest = _REST.RestClient(LOOPBACK, self.rest.port, _AUTH.Credentials(bearer_token), timeout=PATIENCE)
        try:
            return _unless_refused(rest.auth.who_am_i)
        finally:
            rest.close()

    def list_tokens(self, user: str | None = None, *, limit: int | None = None) -> list[Entry] | None:
        """The tokens of all or of one user, all pages joined."""
        identity = None if user is None else _IDENTITY.Identity(user)
        return _unless_refused(
            lambda: [
                _as_dict(entry) for page in self.rest.access_tokens.list(identity, limit) for entry in page.entries
            ]
        )

    def get_token(self, token_id: str) -> Entry | None:
        """One token."""
        return _unless_refused(lambda: _as_dict(self.rest.access_tokens.get(token_id)))

    def create_token(self, user: str | Mapping[str, str], expires: datetime | None) -> Entry | None:
        """The id and the secret of a new token."""
        identity = _IDENTITY.Identity(user)
        return _unless_refused(lambda: _as_dict(self.rest.access_tokens.create(identity, expires)))

    def modify_token(self, token_id: str, *, expires: datetime | None, enabled: bool | None) -> Entry | None:
        """The token with another expiry, with another state, or both."""
        return _unless_refused(lambda: _as_dict(self.rest.access_tokens.modify(token_id, expires, enabled)))

    def clear_expiry(self, token_id: str) -> Entry | None:
        """The token without an end; the SDK's own method cannot ask for that."""
        uri = f"/v1/auth/access-tokens/{token_id}"
        return _unless_refused(lambda: self.rest.request("PATCH", uri, body={"expiration_time": None}))

    def delete_token(self, token_id: str) -> bool | None:
        """True if it is gone by this."""
        return _unless_refused(lambda: self.rest.access_tokens.delete(token_id) is None)


@dataclass
class Ours:
    """A client of our server on a cluster of its own."""

    cluster: Cluster
    client: Client
    portal: BlockingPortal

    @classmethod
    @contextmanager
    def connected(cls, portal: BlockingPortal, clock: FakeClock, *, host: str, folder: Path) -> Generator["Ours"]:
        """On a new cluster of that name, with nobody who is asked."""
        cluster, bearer_token = make_cluster(clock)
        settings = Settings(host=host, bearer_token=SecretStr(bearer_token), delivery_dir=folder / host, confirm="none")
        server = create_server(settings, transport=httpx.ASGITransport(create_app(cluster)), clock=clock)

        @asynccontextmanager
        async def client() -> AsyncGenerator[Client]:
            with anyio.fail_after(PATIENCE):
                async with Client(server) as client:
                    yield client

        with portal.wrap_async_context_manager(client()) as connected:
            yield cls(cluster, connected, portal)

    def call(self, tool: str, **arguments: object) -> Told:
        """What the model gets; an argument that is None is left out."""
        given = {name: value for name, value in arguments.items() if value is not None}

        async def call() -> Told:
            with anyio.fail_after(PATIENCE):
                return Told.of(await self.client.call_tool(tool, given))

        return self.portal.call(call)


def _unless_refused(ask: Callable[[], Result]) -> Result | None:
    try:
        return ask()
    except _REQUEST.RequestError:
        return None


def _as_dict(told: object) -> Entry:
    """The fields of one of the SDK's dataclasses; the SDK's own `to_dict` gives the same, slowly."""
    return {**vars(told)}
