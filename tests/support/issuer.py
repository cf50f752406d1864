"""A small identity provider: it tells its keys as real ones do, and signs whatever a test wants signed."""

import base64
import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.twin_clusters import serve_over_https
from token_tools.sandbox.https import LOOPBACK
from token_tools.times import Clock

AUDIENCE: Final = "https://tokens.example.com/mcp"
ISSUER_URL: Final = "https://idp.example.com/realms/storage"
KEYS_PATH: Final = "/keys"
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
class SmallIssuer:
    """An identity provider at a URL, which is never on the network unless it is `served`.

    Its tokens are for the `audience`. `keys` are the published ones, of which the last one signs. `answers` replace
    what it would answer at a path. `requests` are the paths that it was asked for. While it `is_away`, it answers
    nothing. It answers after `before_answer`.
    """

    clock: Clock
    url: str = ISSUER_URL
    audience: str = AUDIENCE
    keys: list[SignatureKey] = field(default_factory=lambda: [SignatureKey()])
    answers: dict[str, Response] = field(default_factory=dict[str, Response])
    requests: list[str] = field(default_factory=list[str])
    is_away: bool = False
    before_answer: Callable[[], Awaitable[None]] = _answer_at_once

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
        answers = {
            self.metadata_path: JSONResponse({"issuer": self.url, "jwks_uri": f"{self._origin}{KEYS_PATH}"}),
            KEYS_PATH: JSONResponse({"keys": [key.jwk for key in self.keys]}),
            **self.answers,
        }
        await answers.get(path, Response(status_code=404))(scope, receive, send)

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
