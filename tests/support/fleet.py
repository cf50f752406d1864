"""Several embedded clusters behind one server, with the requests that each of them got."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from mcp.client import Client
from mcp.client.session import ElicitationFnT
from pydantic import SecretStr

from tests.support.harness import NOW, TIMEOUT_SECONDS, Harness, Mode, ToolAnswer, create_harness
from tests.support.recording_transport import RecordingTransport
from token_tools.configuration import Profile
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import DemoCluster
from token_tools.server.app import Timing, Wire, create_server

NAMES = ("production", "replica", "lab")


@dataclass(frozen=True)
class _HostTransport(httpx.AsyncBaseTransport):
    """Leads each request to the cluster whose host it names."""

    transports: Mapping[str, httpx.AsyncBaseTransport]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as that cluster does."""
        return await self.transports[request.url.host].handle_async_request(request)


@dataclass
class FleetHarness:
    """Clusters by their names, on which each call starts a server and a client."""

    clusters: Mapping[str, Harness]
    mode: Mode
    descriptions: Mapping[str, str] = field(default_factory=dict[str, str])

    @asynccontextmanager
    async def connected(
        self, *, person: ElicitationFnT | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> AsyncGenerator[Client]:
        """Connect a client to a new server for all clusters."""
        first = next(iter(self.clusters.values()))
        server = create_server(
            self.profiles,
            cluster_transport=self.transport,
            clock=lambda: NOW,
            timing=Timing(report_delay=first.report_delay, own_token_patience=first.own_token_patience),
            wire=Wire(telemetry=first.telemetry),
        )
        with anyio.fail_after(timeout_seconds):
            async with Client(server, mode=self.mode, elicitation_callback=person) as client:
                yield client

    @property
    def profiles(self) -> Sequence[Profile]:
        """Return what a server gets to know of the clusters."""
        return [
            Profile(harness.settings, name, self.descriptions.get(name, ""), table=name)
            for name, harness in self.clusters.items()
        ]

    @property
    def transport(self) -> httpx.AsyncBaseTransport:
        """Return the way to each of the clusters, by its host."""
        return _HostTransport({harness.settings.host: harness.recorder for harness in self.clusters.values()})

    async def call(
        self, tool: str, arguments: dict[str, Any] | None = None, *, person: ElicitationFnT | None = None
    ) -> ToolAnswer:
        """Call a tool of a new server."""
        async with self.connected(person=person) as client:
            return ToolAnswer.from_result(await client.call_tool(tool, arguments or {}))

    def change_settings(self, name: str, **changes: object) -> None:
        """Change the settings of one cluster."""
        harness = self.clusters[name]
        harness.settings = harness.settings.model_copy(update=changes)

    def replace_cluster(self, name: str, demo: DemoCluster) -> None:
        """Put the demo's cluster in the place of another one; the server has the token of its service account."""
        recorder = RecordingTransport(httpx.ASGITransport(create_app(demo.cluster)))
        before = self.clusters[name]
        settings = before.settings.model_copy(update={"bearer_token": SecretStr(demo.bearer_token)})
        self.clusters = {**self.clusters, name: Harness(demo.cluster, recorder, settings, before.mode)}


def create_fleet(mode: Mode, folder: Path) -> FleetHarness:
    """Create three clusters as `create_harness` does, each with its own host, that share one record."""
    fleet = FleetHarness({name: create_harness(mode, folder) for name in NAMES}, mode)
    for name in NAMES:
        fleet.change_settings(name, host=f"{name}.example.com")
    return fleet
