"""What all operations work with: one cluster, one journal, one place for secrets, one set of rules."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
from pydantic import SecretStr

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.qq import Qq
from token_tools.operations.consent import PendingPlans
from token_tools.operations.policy import Policy
from token_tools.storage.delivery import Delivery
from token_tools.storage.journal import Journal


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that the operations of one server share.

    `address` is the cluster's, for telling; `credential_location` tells where the server has its own bearer token from,
    and `read_bearer` gives it as it is there now. `consent_timeout` is how long a person has for an answer while a call
    waits for it. Reports go to `report_folder`. `rotation_locks` has a lock for each token that is being rotated.
    """

    address: str
    cluster: ClusterClient
    policy: Policy
    delivery: Delivery
    journal: Journal
    qq: Qq
    clock: ClusterClock
    report_folder: Path
    credential_location: str
    read_bearer: Callable[[], SecretStr]
    read_only: bool = False
    consent_timeout: timedelta = timedelta(minutes=5)
    pending_plans: PendingPlans = field(default_factory=PendingPlans)
    rotation_locks: WeakValueDictionary[str, anyio.Lock] = field(default_factory=WeakValueDictionary[str, anyio.Lock])
