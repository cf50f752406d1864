"""The bench that the tests of tools work on: an embedded cluster, what it was sent, a server and a client on top."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
from mcp.client import Client, ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from pydantic import SecretStr

from tests.support.recording_transport import Recorder
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Account, Cluster, Token
from token_tools.server.app import create_server
from token_tools.settings import Settings

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
PATIENCE = 10
NOTHING = "Nothing was done. "
WRITING = {"create_access_token", "update_access_token", "delete_access_token", "rotate_access_token"}
PATH = "/v1/auth/access-tokens/"
ADMIN = Account(
    auth_id="500",
    domain="LOCAL",
    name="admin",
    sid="S-1-5-21-1-2-3-500",
    privileges=frozenset({"PRIVILEGE_ACCESS_TOKENS_READ", "PRIVILEGE_ACCESS_TOKENS_WRITE", "PRIVILEGE_IDENTITY_READ"}),
)
JANE = Account(auth_id="1001", domain="LOCAL", name="jane", sid="S-1-5-21-1-2-3-1001")
AD_JANE = Account(auth_id="21474836481", domain="ACTIVE_DIRECTORY", name="CORP\\jane", sid="S-1-5-21-9-9-9-1105")
LDAP_BOB = Account(auth_id="12884902888", domain="POSIX_USER", name="bob", uid=1000, sid="S-1-5-88-1-1000")
USERS = Account(auth_id="513", domain="LOCAL", name="Users", is_group=True)
Arguments = dict[str, Any] | None
Mode = Literal["auto", "legacy"]


@dataclass(frozen=True)
class Told:
    """What the model gets."""

    text: str
    fields: Any
    is_error: bool

    @classmethod
    def of(cls, result: CallToolResult) -> "Told":
        """The one text block and the fields of a result."""
        [block] = result.content
        assert isinstance(block, TextContent)
        return cls(block.text, result.structured_content, result.is_error)


@dataclass
class Human:
    """Answers questions one after the other, as scripted, and remembers them; the last answer holds for the rest."""

    answers: Sequence[ElicitResult]
    asked: list[str] = field(default_factory=list[str])

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """The next answer."""
        self.asked.append(params.message)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def refusal(status: int, error_class: str = "some_error", description: str | None = None) -> httpx.Response:
    """A refusal in the vendor's envelope, without which it would not be the cluster's."""
    return httpx.Response(status, json={"error_class": error_class, "description": description})


AGREES = ElicitResult(action="accept", content={"agree": True})


@dataclass
class Bench:
    """A cluster, what it was sent, and the means to put a server and a client on top; `timeout` seconds for each."""

    cluster: Cluster
    recorder: Recorder
    settings: Settings
    mode: Mode
    now: datetime = NOW
    patience: timedelta = timedelta(seconds=PATIENCE)
    timeout: float = PATIENCE

    @asynccontextmanager
    async def connected(self, *, human: ElicitationFnT | None = None, **changes: object) -> AsyncGenerator[Client]:
        """A client, with a human behind it or not, of a server whose settings differ by these."""
        settings = self.settings.model_copy(update=changes)
        server = create_server(settings, transport=self.recorder, clock=lambda: self.now, patience=self.patience)
        with anyio.fail_after(self.timeout):
            async with Client(server, mode=self.mode, elicitation_callback=human) as client:
                yield client

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        human: ElicitationFnT | None = None,
        **changes: object,
    ) -> Told:
        """One call to a server of its own."""
        async with self.connected(human=human, **changes) as client:
            return Told.of(await client.call_tool(tool, arguments or {}))

    async def refused(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        human: ElicitationFnT | None = None,
        **changes: object,
    ) -> str:
        """What one call is told that should not succeed."""
        told = await self.call(tool, arguments, human=human, **changes)
        assert told.is_error
        assert told.fields is None
        return told.text

    async def undone(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        human: ElicitationFnT | None = None,
        **changes: object,
    ) -> str:
        """The same of a call that changed nothing, without the words that say so where it could have."""
        told = await self.refused(tool, arguments, human=human, **changes)
        assert told.startswith(NOTHING) is (tool in WRITING)
        return told.removeprefix(NOTHING)

    def at(self, setting: str, folder: Path) -> "Bench":
        """The same with another folder for what this setting is about."""
        return replace(self, settings=self.settings.model_copy(update={setting: folder}))

    def tokens_of(self, account: Account) -> list[Token]:
        """The tokens that the cluster has for an account."""
        return [token for token in self.cluster.tokens.values() if token.user == account.auth_id]


def make_bench(mode: Mode, folder: Path) -> Bench:
    """A cluster with an administrator, two janes, a bob and a group, and one token: the server's own."""
    cluster = Cluster(clock=lambda: NOW)
    for account in (ADMIN, JANE, AD_JANE, LDAP_BOB, USERS):
        cluster.add_account(account)
    own = cluster.create_token("500", creator="500", creation_time=NOW - timedelta(days=10))
    settings = Settings(
        host="c.example.com", bearer_token=SecretStr(own.bearer_token), delivery_dir=folder / "state" / "tokens"
    )
    return Bench(cluster, Recorder(httpx.ASGITransport(create_app(cluster))), settings, mode)
