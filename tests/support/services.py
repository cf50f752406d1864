"""The services of the operations, built without a server."""

from pathlib import Path

from pydantic import SecretStr

from tests.support.harness import NOW
from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.operations.policy import Policy
from token_tools.operations.services import Services
from token_tools.server.elicitation.asking import CONSENT_TIMEOUT
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Journal


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
