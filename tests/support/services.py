"""The services of the operations, built without a server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from tests.support.harness import NOW
from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.operations.policy import Policy
from token_tools.operations.services import Services
from token_tools.server.elicitation.asking import CONSENT_TIMEOUT
from token_tools.settings import StateSettings
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.state import open_state

ANY_NUMBER = Limits()


def create_services(cluster: ClusterClient, delivery: Delivery, journal: Journal) -> Services:
    """Return services with this cluster, delivery and journal, whose clock stands at `NOW`."""
    return Services(
        address="c:8000",
        cluster=cluster,
        policy=Policy(default_lifetime=None),
        consent_timeout=CONSENT_TIMEOUT,
        confirm="none",
        delivery=delivery,
        journal=journal,
        qq=Qq("c", 8000),
        clock=ClusterClock(lambda: NOW),
        report_folder=Path("reports"),
        credential_location="QUMULO_BEARER_TOKEN",
        read_bearer=lambda: SecretStr(""),
    )


@asynccontextmanager
async def open_journal(
    state: StateSettings, *, cluster: str = "c:8000", limits: Limits = ANY_NUMBER
) -> AsyncGenerator[Journal]:
    """Open the journal of a cluster in the database of these settings; its clock stands at `NOW`."""
    journal = Journal(open_state(state, lambda: NOW), cluster=cluster, clock=lambda: NOW, limits=limits)
    async with journal.working():
        yield journal
