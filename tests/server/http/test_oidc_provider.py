"""Test the sign-in with tokens of an identity provider that nobody here wrote."""

from pathlib import Path

import pytest

from tests.support.issuer import AUDIENCE
from tests.support.oidc_provider import CLIENT, requires_oidc_provider, running_oidc_provider
from tests.support.twin_clusters import FakeClock
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import COOL_DOWN
from token_tools.server.http.sign_in import SignIn
from token_tools.times import utc_now

pytestmark = pytest.mark.anyio


@requires_oidc_provider
async def test_tokens_of_oidc_provider_let_in_whom_they_are_for(tmp_path: Path) -> None:
    clock = FakeClock(utc_now())
    with running_oidc_provider(tmp_path) as provider:
        settings = HttpSettings.model_validate(
            {
                "http_issuer": provider.url,
                "http_issuer_ca_file": provider.ca_file,
                "http_audience": AUDIENCE,
                "http_writers": "groups=storage",
            }
        )
        sign_in = SignIn(settings, clock=clock)
        bearer = provider.issue(audience=AUDIENCE, scope="tokens:read")

        signed_in = await sign_in.verify_token(bearer)
        other = provider.issue(audience="https://other.example.com/mcp", scope="tokens:read")

        assert signed_in is not None
        assert (signed_in.caller.name, signed_in.role) == (f"{provider.url}#{CLIENT}", "write")
        assert await sign_in.verify_token(other) is None, "it is for another resource"

        provider.rotate()
        clock.now += COOL_DOWN

        renewed = await sign_in.verify_token(provider.issue(audience=AUDIENCE, scope="tokens:read"))
        assert renewed is not None
        assert renewed.caller == signed_in.caller
