"""How is a person sent to the issuer, and how does the code that they bring back become an ID token?

Authlib writes the requests; its own client is not used for sending them, since it would not keep the rules of `Issuer`.
Sources: OpenID Connect Core 1.0, section 3.1; RFC 6749, sections 2.3.1, 4.1 and 5.2; RFC 7636 (PKCE).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, cast
from urllib.parse import quote_plus

import anyio.to_thread
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.client import OAuth2Client
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from pydantic import SecretStr

from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.issuer_metadata import ClientAuthMethod, Endpoints

_SCOPE: Final = "openid"
"""What is asked for: who somebody is. What they are called was told by the access token with which they asked."""

_HEADERS: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_KNOWN_ERRORS: Final = ("invalid_client", "invalid_grant", "invalid_request", "unauthorized_client")
"""Reasons of the issuer that a text may repeat."""


class FlowSecrets(NamedTuple):
    """What ties the parts of one sign-in together."""

    state: str
    nonce: str
    verifier: str


class _ClientAuth(Protocol):
    """What Authlib has to prove that a client knows its secret, with the types that it does not tell."""

    def prepare(self, method: str, url: str, headers: dict[str, str], body: str, /) -> tuple[str, dict[str, str], str]:
        """Return the address, the headers and the body with the proof in one of them."""
        ...


class _Client(Protocol):
    """Authlib's client, with the types that it does not tell."""

    def create_authorization_url(
        self, url: str, /, *, state: str, code_verifier: str, nonce: str, prompt: str | None
    ) -> tuple[str, str]:
        """Return where a browser signs somebody in, and the state."""
        ...


class CodeFlow:
    """The authorization code flow with the client that the settings name."""

    def __init__(self, client_id: str, settings: HttpSettings, issuer: Issuer) -> None:
        self._client_id = client_id
        self._settings = settings
        self._issuer = issuer

    def create_url(self, endpoints: Endpoints, flow: FlowSecrets, prompt: str | None) -> str:
        """Return the URL at which a browser signs somebody in; `prompt` is what the issuer has to ask, if anything."""
        client = OAuth2Client(
            None,
            client_id=self._client_id,
            redirect_uri=self._settings.redirect_uri,
            scope=_SCOPE,
            code_challenge_method="S256",
        )
        url, _ = cast(_Client, client).create_authorization_url(
            endpoints.authorization, state=flow.state, code_verifier=flow.verifier, nonce=flow.nonce, prompt=prompt
        )
        return url

    async def exchange(self, endpoints: Endpoints, code: str, verifier: str) -> str:
        """Return the ID token for a code.

        Raises:
            SettingsError: If the secret of the client cannot be read.
            ValueError: If the issuer gives none; the text is a predicate for its token endpoint.
        """
        secret = await anyio.to_thread.run_sync(self._settings.read_client_secret)
        form = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self._settings.redirect_uri, code_verifier=verifier
        )
        auth = self._create_auth(secret, endpoints.auth_method)
        _, headers, body = auth.prepare("POST", endpoints.token, {**_HEADERS}, form)
        return _find_id_token(await self._issuer.post(endpoints.token, headers=headers, body=body))

    def _create_auth(self, secret: SecretStr | None, method: ClientAuthMethod) -> _ClientAuth:
        if secret is None:
            return cast(_ClientAuth, ClientAuth(self._client_id, None, "none"))
        client_id, known = self._client_id, secret.get_secret_value()
        if method == "client_secret_basic":
            # Either may have the colon in it that stands between them there. Authlib leaves it as it is.
            client_id, known = quote_plus(client_id), quote_plus(known)
        return cast(_ClientAuth, ClientAuth(client_id, known, method))


def _find_id_token(answer: Mapping[str, object]) -> str:
    id_token = answer.get("id_token")
    if isinstance(id_token, str):
        return id_token
    error = next((error for error in _KNOWN_ERRORS if error == answer.get("error")), None)
    raise ValueError("gives no ID token" if error is None else f"answers {error}")
