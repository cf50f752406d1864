"""A small identity provider: it tells its keys as real ones do, and signs whatever a test wants signed.

People sign in there without a form: whoever opens its authorization endpoint is the person whom the test has chosen.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import httpx
import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.twin_clusters import serve_over_https
from token_tools.sandbox.https import LOOPBACK
from token_tools.times import Clock

AUDIENCE: Final = "https://tokens.example.com/mcp"
ISSUER_URL: Final = "https://idp.example.com/realms/storage"
KEYS_PATH: Final = "/keys"
AUTHORIZATION_PATH: Final = "/authorize"
TOKEN_PATH: Final = "/token"
WEB_CLIENT: Final = "pages"
WEB_CLIENT_SECRET: Final = "Zq8KxW2vXt7rLn4M"
"""The client with which people sign in at pages, and its secret."""

LIFETIME: Final = timedelta(minutes=10)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_NUMBERS = count(1)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key of this length; making one takes a while."""
    return rsa.generate_private_key(65537, bits)


@dataclass
class SignatureKey:
    """A key pair that signs with an algorithm. `members` are added to its public half, or replace what it has."""

    private: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    algorithm: str = "ES256"
    key_id: str = field(default_factory=lambda: f"key-{next(_NUMBERS)}")
    members: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def jwk(self) -> Mapping[str, object]:
        """The public half, as issuers tell it; members that are None are left out."""
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        known = {**public, "kid": self.key_id, "use": "sig", "alg": self.algorithm, **self.members}
        return {name: value for name, value in known.items() if value is not None}

    def sign(self, signed: bytes) -> bytes:
        """Return the signature of some bytes."""
        return jwt.get_algorithm_by_name(self.algorithm).sign(signed, self.private)


async def _answer_at_once() -> None:
    """Let nobody wait."""


@dataclass
class WebClient:
    """A client with which people sign in at pages; without a secret it is a public one.

    `person` are the claims of whoever comes to sign in, None for somebody who does not want to. `id_claims` are added
    to those of their ID tokens, or replace them. `sign_ins` and `exchanges` are what the issuer was sent.
    """

    id: str = WEB_CLIENT
    secret: str | None = WEB_CLIENT_SECRET
    auth_method: str = "client_secret_basic"
    redirect_uri: str = "https://tokens.example.com/pickup/callback"
    person: Mapping[str, Any] | None = field(default_factory=lambda: {"sub": "jane"})
    id_claims: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sign_ins: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    exchanges: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    id_tokens: list[str] = field(default_factory=list[str])
    _granted: dict[str, tuple[Mapping[str, str], Mapping[str, Any]]] = field(
        default_factory=dict[str, tuple[Mapping[str, str], Mapping[str, Any]]]
    )

    def authorize(self, asked: Mapping[str, str], issuer_url: str) -> Response:
        """Send somebody back who came to sign in, with a code if they did."""
        self.sign_ins.append(asked)
        is_known = (asked.get("client_id"), asked.get("redirect_uri")) == (self.id, self.redirect_uri)
        is_complete = asked.get("response_type") == "code" and asked.get("code_challenge_method") == "S256"
        if not (is_known and is_complete and "openid" in asked.get("scope", "").split()):
            return Response("this client asks for what it may not have", status_code=400)
        answer = {"state": asked["state"], "iss": issuer_url}
        if self.person is None:
            answer["error"] = "access_denied"
        else:
            answer["code"] = secrets.token_urlsafe(16)
            self._granted[answer["code"]] = (asked, self.person)
        return RedirectResponse(f"{self.redirect_uri}?{urlencode(answer)}", status_code=302)

    async def exchange(self, request: Request, issuer: "SmallIssuer") -> Response:
        """Answer with the tokens of a code, which is good for that once."""
        form = dict(parse_qsl((await request.body()).decode()))
        self.exchanges.append(form)
        if not self._is_authentic(request.headers.get("authorization"), form):
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        asked, person = self._granted.pop(form.get("code", ""), ({}, {}))
        digest = encode_part(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).decode()
        is_same = (form.get("redirect_uri"), digest) == (asked.get("redirect_uri"), asked.get("code_challenge"))
        if form.get("grant_type") != "authorization_code" or not is_same:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        claims: Mapping[str, Any] = {"nonce": asked.get("nonce"), **person, **self.id_claims}
        self.id_tokens.append(issuer.sign_id(**claims))
        tokens = {"access_token": issuer.sign(**person), "token_type": "Bearer", "id_token": self.id_tokens[-1]}
        return JSONResponse(tokens)

    def _is_authentic(self, authorization: str | None, form: Mapping[str, str]) -> bool:
        if self.secret is None or self.auth_method == "client_secret_post":
            return (form.get("client_id"), form.get("client_secret"), authorization) == (self.id, self.secret, None)
        kind, _, encoded = (authorization or "").partition(" ")
        told = [unquote_plus(part) for part in base64.b64decode(encoded).decode().split(":")]
        return kind == "Basic" and told == [self.id, self.secret] and "client_secret" not in form


@dataclass
class SmallIssuer:
    """An identity provider at a URL, which is never on the network unless it is `served`.

    Its tokens are for the `audience`. `keys` are the published ones, of which the last one signs. `answers` replace
    what it would answer at a path. `requests` are the paths that it was asked for. While it `is_away`, it answers
    nothing. It answers after `before_answer`. `metadata` are members that it tells of itself besides, or instead.
    """

    clock: Clock
    url: str = ISSUER_URL
    audience: str = AUDIENCE
    keys: list[SignatureKey] = field(default_factory=lambda: [SignatureKey()])
    answers: dict[str, Response] = field(default_factory=dict[str, Response])
    requests: list[str] = field(default_factory=list[str])
    is_away: bool = False
    before_answer: Callable[[], Awaitable[None]] = _answer_at_once
    metadata: dict[str, object] = field(default_factory=dict[str, object])
    web_client: WebClient = field(default_factory=WebClient)

    async def sign_in(self, url: str) -> str:
        """Return where a browser is sent that opens this URL of the authorization endpoint."""
        async with httpx.AsyncClient(transport=self.transport) as browser:
            answer = await browser.get(url)
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]

    def rotate(self) -> None:
        """Replace the keys by a new one."""
        self.keys = [SignatureKey()]

    def sign(
        self, *, key: SignatureKey | None = None, header: Mapping[str, object] | None = None, **claims: object
    ) -> str:
        """Return an access token of jane, who may read.

        `claims` and members of the `header` are added, or replace what it would have; those that are None are left out.
        """
        now, key = self.clock(), key or self.keys[-1]
        known: dict[str, object] = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "jane",
            "client_id": "chat",
            "iat": int(now.timestamp()),
            "exp": int((now + LIFETIME).timestamp()),
            "scope": "tokens:read",
            **claims,
        }
        payload = {name: value for name, value in known.items() if value is not None}
        return self.sign_text(json.dumps(payload), key=key, header=header)

    def sign_id(self, *, key: SignatureKey | None = None, **claims: object) -> str:
        """Return an ID token of jane for the web client; `claims` are as for `sign`."""
        known = {"aud": self.web_client.id, "client_id": None, "scope": None, **claims}
        return self.sign(key=key, header={"typ": "JWT"}, **known)

    def sign_text(
        self, payload: str, *, key: SignatureKey | None = None, header: Mapping[str, object] | None = None
    ) -> str:
        """Return a token with this text in it."""
        key = key or self.keys[-1]
        known = {"typ": "at+jwt", "alg": key.algorithm, "kid": key.key_id, **(header or {})}
        head = json.dumps({name: value for name, value in known.items() if value is not None})
        return join_token(head, payload, key.sign)

    @property
    def transport(self) -> httpx.AsyncBaseTransport:
        """The way to the issuer without a network."""
        return httpx.ASGITransport(self)

    @property
    def metadata_path(self) -> str:
        """Where it tells of itself."""
        return f"{urlsplit(self.url).path.rstrip('/')}/.well-known/openid-configuration"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        self.requests.append(path)
        await self.before_answer()
        if self.is_away:
            raise httpx.ConnectError("nobody is there")
        request = Request(scope, receive)
        answer = self.answers.get(path) or await self._answer(request)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == self.metadata_path:
            return JSONResponse(self._describe())
        if path == KEYS_PATH:
            return JSONResponse({"keys": [key.jwk for key in self.keys]})
        if path == AUTHORIZATION_PATH:
            return self.web_client.authorize(dict(request.query_params), self.url)
        if path == TOKEN_PATH and request.method == "POST":
            return await self.web_client.exchange(request, self)
        return Response(status_code=404)

    def _describe(self) -> Mapping[str, object]:
        known = {
            "issuer": self.url,
            "jwks_uri": f"{self._origin}{KEYS_PATH}",
            "authorization_endpoint": f"{self._origin}{AUTHORIZATION_PATH}",
            "token_endpoint": f"{self._origin}{TOKEN_PATH}",
            "token_endpoint_auth_methods_supported": [self.web_client.auth_method],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in known.items() if value is not None}

    @contextmanager
    def served(self, folder: Path) -> Generator[Path]:
        """Serve it over HTTPS on a port of this machine, which its URL then names; yield the file of its authority."""
        authority, ca_file = trustme.CA(), folder / "issuer-ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        with serve_over_https(self, folder, authority=authority) as port:
            self.url = f"https://{LOOPBACK}:{port}"
            yield ca_file

    @property
    def _origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def join_token(header: str, payload: str, sign: Callable[[bytes], bytes]) -> str:
    """Return a token with this header and this payload, which need not be what a token should have."""
    signed = b".".join([encode_part(header.encode()), encode_part(payload.encode(errors="surrogatepass"))])
    return b".".join([signed, encode_part(sign(signed))]).decode()


def encode_part(part: bytes) -> bytes:
    """Return a part of a token in base64 as tokens have it."""
    return base64.urlsafe_b64encode(part).rstrip(b"=")
