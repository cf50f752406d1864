"""What operations on a cluster work with: its client, its journal, its delivery, its rules and its clock."""

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
from token_tools.operations.caller import THIS_SERVER, Caller
from token_tools.operations.consent import PendingPlans
from token_tools.operations.own_credential import OwnTokenWatch
from token_tools.operations.policy import Policy
from token_tools.settings import Confirm
from token_tools.storage.credential_place import CredentialPlace
from token_tools.storage.delivery import Delivery
from token_tools.storage.delivery.base import TimeoutContext
from token_tools.storage.journal import Journal
from token_tools.storage.pickups import Pickups


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that the operations on one cluster share. It does nothing itself.

    `address` is the cluster's, as texts name it. `name` tells it from the other clusters of this server, and is None if
    there are none. `table` is the name of its table in config.toml, None if it has none. `confirm` says which changes a
    person has to agree to, and `consent_timeout` how long a call waits for their answer. `credential_location` says
    where the operator keeps the server's own bearer token, and `read_bearer` reads it as it is there now;
    `credential_place` is that place if the server may write it, or else None. `timeout_context` bounds what is done
    there. Exported files go to `report_folder`.
    `pickups` are the bearer tokens that wait for people, None where this server has no pages for them.
    `own_token_watch` knows when the server's own token expires, and is None where nobody is told.
    `caller` asks for what is done. `rotation_locks` has a lock for each token that is being rotated, by its id.
    """

    address: str
    name: str | None = None
    table: str | None = None
    cluster: ClusterClient
    policy: Policy
    confirm: Confirm
    consent_timeout: timedelta
    delivery: Delivery
    pickups: Pickups | None = None
    journal: Journal
    qq: Qq
    clock: ClusterClock
    report_folder: Path
    credential_location: str
    read_bearer: Callable[[], SecretStr]
    credential_place: CredentialPlace | None = None
    timeout_context: TimeoutContext = anyio.fail_after
    own_token_watch: OwnTokenWatch | None = None
    read_only: bool = False
    may_create_tokens: bool = True
    caller: Caller = THIS_SERVER
    pending_plans: PendingPlans = field(default_factory=PendingPlans)
    rotation_locks: WeakValueDictionary[str, anyio.Lock] = field(default_factory=WeakValueDictionary[str, anyio.Lock])

    @property
    def actor(self) -> str:
        """Who asks for what is done, as the record tells it."""
        return self.caller.name
