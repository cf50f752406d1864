"""A token as the cluster has just created it, for the tests of destinations."""

from typing import Final

from pydantic import SecretStr

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken

SECRET: Final = "access-v1:SECRETSECRET"
NEW_TOKEN: Final = NewAccessToken(id="18446744073709551616123", bearer_token=SecretStr(SECRET))
JANE: Final = Identity(domain="LOCAL", name="jane")
"""The user of the new token."""
