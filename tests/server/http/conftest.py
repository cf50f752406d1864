"""A server's sign-in, with an issuer that is not on the network, under a clock that the tests move."""

from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Harness, create_harness
from tests.support.issuer import SmallIssuer
from tests.support.twin_clusters import FakeClock
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.sign_in import SignIn
from token_tools.server.http.signed_in import SignedIn
from token_tools.times import Clock


@dataclass
class Desk:
    """Where callers sign in. Another `SignIn` is made when its settings change."""

    clock: FakeClock
    issuer: SmallIssuer
    settings: HttpSettings
    sign_in: SignIn = field(init=False)

    def __post_init__(self) -> None:
        """Begin with these settings."""
        self.configure()

    def configure(self, **settings: object) -> None:
        """Begin again with other settings besides."""
        self.settings = HttpSettings.model_validate({**self.settings.model_dump(exclude_unset=True), **settings})
        self.sign_in = create_sign_in(self.settings, self.clock, self.issuer.transport)

    async def sees(self, bearer: str) -> SignedIn | None:
        """Return who comes with this bearer."""
        return await self.sign_in.verify_token(bearer)

    async def admits(self, bearer: str) -> SignedIn:
        """Return who comes with this bearer, who has to be somebody."""
        signed_in = await self.sees(bearer)
        assert signed_in is not None
        return signed_in


def create_sign_in(
    settings: HttpSettings, clock: Clock, issuer_transport: httpx.AsyncBaseTransport | None = None
) -> SignIn:
    """Return a sign-in with these settings, which asks the issuer over the network unless another way is given."""
    issuer = Issuer.from_settings(settings, clock=clock, transport=issuer_transport)
    return SignIn(settings, issuer, clock=clock)


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still until it is moved."""
    return FakeClock()


@pytest.fixture
def issuer(clock: FakeClock) -> SmallIssuer:
    """Return an issuer."""
    return SmallIssuer(clock)


@pytest.fixture
def desk(clock: FakeClock, issuer: SmallIssuer) -> Desk:
    """Return a sign-in that accepts tokens of the issuer."""
    return Desk(
        clock,
        issuer,
        HttpSettings.model_validate({"http_issuer": issuer.url, "http_url": "https://tokens.example.com"}),
    )


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """Create a cluster; which era of the protocol a client speaks is decided by each request."""
    return create_harness("auto", tmp_path)
