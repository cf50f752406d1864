"""Test the sign-in with tokens of an identity provider that nobody here wrote."""

import base64
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request

from tests.server.http.conftest import create_sign_in
from tests.support.issuer import AUDIENCE, WEB_CLIENT, WEB_CLIENT_SECRET
from tests.support.oidc_provider import CLIENT, OidcProvider, requires_oidc_provider, running_oidc_provider
from tests.support.twin_clusters import FakeClock
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import COOL_DOWN, Issuer
from token_tools.server.http.pickup.person_sign_in import PersonSignIn
from token_tools.times import utc_now

pytestmark = pytest.mark.anyio

URL: Final = "https://tokens.example.com"
KEY: Final = b"k" * 32


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
        sign_in = create_sign_in(settings, clock)
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


@requires_oidc_provider
async def test_who_signs_in_at_a_page_is_who_asked_with_an_access_token(tmp_path: Path) -> None:
    clock, redirect_uri, secret_file = FakeClock(utc_now()), f"{URL}/pickup/callback", tmp_path / "pages"
    secret_file.write_text(WEB_CLIENT_SECRET)
    with running_oidc_provider(tmp_path, redirect_uri) as provider:
        settings = HttpSettings.model_validate(
            {
                "http_url": URL,
                "http_issuer": provider.url,
                "http_issuer_ca_file": provider.ca_file,
                "http_client_id": WEB_CLIENT,
                "http_client_secret_file": secret_file,
                "http_state_keys": [base64.b64encode(KEY).decode()],
            }
        )
        bearer = provider.issue_to_person("jane", audience=settings.http_audience, redirect_uri=redirect_uri)
        asker = await create_sign_in(settings, clock).verify_token(bearer)
        issuer = Issuer.from_settings(settings, clock=clock)
        assert issuer is not None
        sign_in = PersonSignIn(settings, [KEY], issuer, clock=clock)

        signed_in = {login: await _sign_in_at_page(sign_in, provider, login) for login in ("jane", "bob")}

    assert asker is not None
    assert asker.caller.recipient is not None
    assert signed_in["jane"] == ("a-page", f"{provider.url}#jane")
    assert signed_in["jane"][1] == asker.caller.recipient.id
    assert signed_in["bob"] == ("a-page", f"{provider.url}#bob")


async def _sign_in_at_page(sign_in: PersonSignIn, provider: OidcProvider, login: str) -> tuple[str, str]:
    begun = await sign_in.begin("a-page", prompt="login")
    callback = urlsplit(provider.sign_in(begun.headers["Location"], login))
    cookie = begun.headers["Set-Cookie"].partition(";")[0]
    scope = {
        "type": "http",
        "path": callback.path,
        "query_string": callback.query.encode(),
        "headers": [(b"cookie", cookie.encode())],
    }
    page, recipient = await sign_in.finish(Request(scope))
    return page, recipient.id
