"""Who asks for what an operation does."""

from dataclasses import dataclass
from typing import Literal

from token_tools.cluster.identity import SELF, Identity
from token_tools.storage.delivery import Recipient


@dataclass(frozen=True)
class Caller:
    """Somebody who calls tools.

    `id` tells them from every other caller, whatever they are called now; questions are bound to it. `name` is how the
    record tells them. `is_person` says that they can sign in at a page. `is_self` is whom `self` means: a user of the
    cluster, "self" for the user of the server's own credential, None for nobody.
    """

    id: str
    name: str
    is_self: Identity | Literal["self"] | None = SELF
    is_person: bool = False

    @property
    def recipient(self) -> Recipient | None:
        """Who picks up what this caller asks for, None if they cannot sign in for that."""
        return Recipient(self.id, self.name) if self.is_person else None


THIS_SERVER = Caller(id="", name="this server")
"""The caller of what the server does by itself."""
