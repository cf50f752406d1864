"""The harness of the tests of tools: an embedded cluster, the requests that it got, and a server with a client."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import pytest
from mcp.client import Client, ClientRequestContext, Transport
from mcp.client.session import ElicitationFnT
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from pydantic import SecretStr

from tests.support.recording_transport import RecordingTransport
from tests.support.waiting import wait_until
from token_tools.configuration import Profile
from token_tools.operations.fleet import Fleet
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Account, Cluster, Token
from token_tools.server.app import Timing, Wire, create_server
from token_tools.server.instruments import Telemetry
from token_tools.settings import Settings, StateSettings
from token_tools.storage.pickups import PickupOffer

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
TIMEOUT_SECONDS = 10
NOTHING_DONE = "Nothing was done. "
AUDIT_TOOL = "audit_access_tokens"
EXPORT_TOOL = "export_access_tokens"
WRITE_TOOLS = {"create_access_token", "update_access_token", "delete_access_token", "rotate_access_token"}
TOKENS_PATH = "/v1/auth/access-tokens/"
FIND_PATH = "/v1/identity/find"
WHO_AM_I_PATH = "/v1/session/who-am-i"
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
USERS_GROUP = Account(auth_id="513", domain="LOCAL", name="Users", is_group=True)
NEVER_EXPIRING_REQUEST = {"user": "local:jane", "expiration_time": "never"}
MAX_ANSWER_CHARACTERS = 25_000
Mode = Literal["auto", "legacy"]
Way = Callable[[MCPServer[Fleet]], AbstractAsyncContextManager[MCPServer[Fleet] | Transport]]
"""How a client reaches a server."""


@dataclass(frozen=True)
class ToolAnswer:
    """The answer to a call as the model gets it: the text and the fields."""

    text: str
    fields: Any
    is_error: bool

    @classmethod
    def from_result(cls, result: CallToolResult) -> "ToolAnswer":
        """Take the one text block and the fields of a result."""
        [block] = result.content
        assert isinstance(block, TextContent)
        return cls(block.text, result.structured_content, result.is_error)


@dataclass
class ScriptedPerson:
    """A person who gives these answers one after the other, and the last of them to all later questions."""

    answers: Sequence[ElicitResult]
    questions: list[str] = field(default_factory=list[str])

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """Record the question and return the next answer."""
        self.questions.append(params.message)
        return self.answers[min(len(self.questions), len(self.answers)) - 1]


def refusal_response(status: int, error_class: str = "some_error", description: str | None = None) -> httpx.Response:
    """Build a refusal in the vendor's envelope. Without the envelope it would not count as the cluster's."""
    return httpx.Response(status, json={"error_class": error_class, "description": description})


AGREES = ElicitResult(action="accept", content={"agree": True})
DECLINES = ElicitResult(action="decline")


@dataclass
class Harness:
    """A cluster with a record of its requests, on which each call starts a server and a client.

    A call ends after `timeout_seconds`. `telemetry` is told what the servers do. Without `own_token_patience`, no
    server asks when its own token expires: what tools ask of the cluster is then all that is asked. The `way` to a
    server is over memory, if no other is given. With `pickup`, people can pick bearer tokens up; `opened` has the
    clusters of each server, as its pages would get them.
    """

    cluster: Cluster
    recorder: RecordingTransport
    settings: Settings
    mode: Mode
    now: datetime = NOW
    consent_timeout: timedelta = timedelta(seconds=TIMEOUT_SECONDS)
    report_delay: timedelta = timedelta(hours=1)
    own_token_patience: timedelta | None = None
    timeout_seconds: float = TIMEOUT_SECONDS
    state_keys: Sequence[bytes] = ()
    way: Way = nullcontext
    telemetry: Telemetry | None = None
    pickup: PickupOffer | None = None
    overdue_period: timedelta = timedelta(hours=1)
    opened: list[Fleet] = field(default_factory=list[Fleet])

    @asynccontextmanager
    async def connected(
        self, *, person: ElicitationFnT | None = None, **settings_changes: object
    ) -> AsyncGenerator[Client]:
        """Connect a client to a new server with these settings changed; `person` answers its questions."""
        assert settings_changes.keys() <= Settings.model_fields.keys()
        settings = self.settings.model_copy(update=settings_changes)
        server = create_server(
            [Profile(settings)],
            cluster_transport=self.recorder,
            clock=lambda: self.now,
            timing=Timing(
                self.consent_timeout, self.report_delay, self.own_token_patience, overdue_period=self.overdue_period
            ),
            wire=Wire(self.opened.append, self.state_keys, telemetry=self.telemetry, pickup=self.pickup),
        )
        with anyio.fail_after(self.timeout_seconds):
            async with (
                self.way(server) as reached,
                Client(reached, mode=self.mode, elicitation_callback=person) as client,
            ):
                yield client

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        person: ElicitationFnT | None = None,
        **settings_changes: object,
    ) -> ToolAnswer:
        """Call a tool of a new server."""
        async with self.connected(person=person, **settings_changes) as client:
            return ToolAnswer.from_result(await client.call_tool(tool, arguments or {}))

    async def call_refused(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        person: ElicitationFnT | None = None,
        **settings_changes: object,
    ) -> str:
        """Call a tool of a new server, check that it refuses, and return what it says."""
        answer = await self.call(tool, arguments, person=person, **settings_changes)
        assert answer.is_error
        assert answer.fields is None
        return answer.text

    async def call_without_effect(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        person: ElicitationFnT | None = None,
        **settings_changes: object,
    ) -> str:
        """Do what `call_refused` does; check that a writing tool says that nothing was done, and return the rest."""
        refusal = await self.call_refused(tool, arguments, person=person, **settings_changes)
        assert refusal.startswith(NOTHING_DONE) is (tool in WRITE_TOOLS)
        return refusal.removeprefix(NOTHING_DONE)

    async def read_start_report(
        self,
        caplog: pytest.LogCaptureFixture,
        until: str = "has no known end",
        person: ElicitationFnT | None = None,
        **settings_changes: object,
    ) -> str:
        """Start a server that tells at once what is unfinished, and return what it has logged once that is among it."""
        caplog.clear()
        self.report_delay = timedelta()
        async with self.connected(person=person, **settings_changes):
            await wait_until(lambda: until in caplog.text)
        return caplog.text

    def with_state(self, state: StateSettings) -> "Harness":
        """Return a copy of this harness whose servers keep their record where these settings say."""
        changes = {"state_dir": state.state_dir, "state_url": state.state_url}
        return replace(self, settings=self.settings.model_copy(update=changes))

    def with_folder(self, setting: str, folder: Path) -> "Harness":
        """Return a copy of this harness in which a setting names another folder."""
        return replace(self, settings=self.settings.model_copy(update={setting: folder}))

    def tokens_of(self, account: Account) -> list[Token]:
        """Return the tokens of an account."""
        return [token for token in self.cluster.tokens.values() if token.user == account.auth_id]


def create_harness(mode: Mode, folder: Path) -> Harness:
    """Create a cluster with an administrator, two janes, a bob, a group, and one token: the server's own."""
    cluster = Cluster(clock=lambda: NOW)
    for account in (ADMIN, JANE, AD_JANE, LDAP_BOB, USERS_GROUP):
        cluster.add_account(account)
    own = cluster.add_token("500", creator="500", creation_time=NOW - timedelta(days=10))
    settings = Settings(
        host="c.example.com", bearer_token=SecretStr(own.bearer_token), delivery_dir=folder / "state" / "tokens"
    )
    return Harness(cluster, RecordingTransport(httpx.ASGITransport(create_app(cluster))), settings, mode)
