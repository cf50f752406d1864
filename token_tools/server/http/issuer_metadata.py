"""What do the metadata of an identity provider say? Where its keys and its endpoints are, and what it takes there.

Sources: OpenID Connect Discovery 1.0, sections 3 and 4; RFC 8414, sections 2 and 3; RFC 9207, section 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

ClientAuthMethod = Literal["client_secret_post", "client_secret_basic"]
"""How a client proves that it knows its secret."""

_CHALLENGE_METHOD: Final = "S256"
_WELL_KNOWN: Final = "/.well-known/"

Metadata = Mapping[str, Any]
"""The document in which an issuer tells of itself."""


class Endpoints(NamedTuple):
    """Where an issuer signs people in, and how it talks about that.

    `auth_method` is how a client with a secret proves itself. `promises_iss` says that each answer of the issuer that
    a browser brings back names the issuer.
    """

    authorization: str
    token: str
    auth_method: ClientAuthMethod
    promises_iss: bool


def list_metadata_urls(issuer: str) -> Sequence[str]:
    """Return where an issuer may have its metadata: that of OpenID behind its path, that of OAuth before its path."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return [
        f"{origin}{path}{_WELL_KNOWN}openid-configuration",
        f"{origin}{_WELL_KNOWN}oauth-authorization-server{path}",
    ]


def check_metadata(metadata: Metadata, issuer: str) -> None:
    """Check that metadata are those of an issuer, and name its keys.

    Raises:
        ValueError: If they are of another one, or do not; the text is a predicate for them.
    """
    if metadata.get("issuer") != issuer:
        raise ValueError("is of another issuer: QUMULO_HTTP_ISSUER must be, to the letter, what `issuer` in it says")
    parse_url(metadata, "jwks_uri")


def parse_url(metadata: Metadata, name: str) -> str:
    """Return an address in the metadata.

    Raises:
        ValueError: If it is not there, or not reached over HTTPS; the text is a predicate for the metadata.
    """
    url = metadata.get(name)
    if not isinstance(url, str) or not url.startswith("https://"):
        raise ValueError(f"has no {name} that begins with https://")
    return url


def parse_endpoints(metadata: Metadata) -> Endpoints:
    """Return where and how an issuer signs people in.

    Raises:
        ValueError: If it cannot do that in a way that is accepted here; the text is a predicate for its metadata.
    """
    # What is left out says nothing about PKCE, and Basic is what an issuer takes that does not say.
    if _CHALLENGE_METHOD not in _list_words(metadata, "code_challenge_methods_supported", _CHALLENGE_METHOD):
        raise ValueError(f"has no {_CHALLENGE_METHOD} among its code_challenge_methods_supported")
    offered = _list_words(metadata, "token_endpoint_auth_methods_supported", "client_secret_basic")
    return Endpoints(
        parse_url(metadata, "authorization_endpoint"),
        parse_url(metadata, "token_endpoint"),
        # For Basic, not all issuers agree on how a secret is encoded. A public client needs neither of them.
        "client_secret_post" if "client_secret_post" in offered else "client_secret_basic",
        metadata.get("authorization_response_iss_parameter_supported") is True,
    )


def _list_words(metadata: Metadata, name: str, default: str) -> Sequence[object]:
    words = metadata.get(name)
    return cast(Sequence[object], words) if isinstance(words, list) else [default]
