"""Who is the holder of an access token? What its claims say, as the record and the questions have it.

The claims are texts of others: users choose some of them at their identity provider.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from token_tools.cluster.identity import SELF, Identity, parse_user
from token_tools.operations.caller import Caller
from token_tools.server.callers import clean_text
from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.rules import Claims, find_claims
from token_tools.server.http.throttled_log import ThrottledLog

CLIENT_CLAIMS: Final = ("azp", "client_id")
READABLE_CLAIMS: Final = ("preferred_username", "email", "name", "client_id", "azp")
"""Claims by which people recognise somebody, the best one first."""

_PLAIN: Final = re.compile(r"[!-'*-Z\\^-~]{1,255}", re.ASCII)
"""A text without blanks, brackets and anything invisible, of the length that a subject has at most. Source: OpenID
Connect Core 1.0, section 2."""

_DIGEST_CHARS: Final = 32


@dataclass(frozen=True)
class Holder:
    """Somebody with an access token: the caller that they are, and what they and their client are called.

    Two holders have different names; these are `format_word` of what the token says.
    """

    caller: Caller
    subject: str
    client: str


@dataclass(frozen=True)
class Identification:
    """How holders of access tokens of an issuer are told apart.

    `self_claim` is the claim that spells a holder's user on the cluster, None if there is none.
    """

    issuer: str
    self_claim: str | None
    log: ThrottledLog

    def identify(self, claims: Claims) -> Holder:
        """Return whose token it is.

        Raises:
            BearerRefused: If its claims do not say that.
        """
        client = next(_find_texts(claims, CLIENT_CLAIMS), None)
        subject = client if "sub" not in claims else next(_find_texts(claims, ("sub",)), None)
        if subject is None:
            raise BearerRefused("it does not say whose it is")
        # A client without a subject is nobody whom the issuer calls so.
        start = f"{self.issuer}#" if "sub" in claims else f"{self.issuer} client "
        caller = Caller(
            id=f"{start}{format_word(subject)}",
            name=f"{start}{_format_shown(subject)}{_render_readable(claims, subject)}",
            is_self=self._find_self(claims),
            is_person=not _is_client(claims, subject, client),
        )
        return Holder(caller, format_word(subject), format_word(client or subject))

    def _find_self(self, claims: Claims) -> Identity | None:
        """Return whom `self` means, None for nobody."""
        spelling = None if self.self_claim is None else next(find_claims(claims, self.self_claim), None)
        if spelling is None:
            return None
        try:
            user = parse_user(spelling)
        except ValueError:
            user = SELF
        if isinstance(user, Identity):
            return user
        self.log.tell("self", "QUMULO_HTTP_SELF names a claim that spells no user: for its holder there is no `self`.")
        return None


def _is_client(claims: Claims, subject: str, client: str | None) -> bool:
    """Tell whether a token is of a client itself, for which nobody has signed in.

    Sources: RFC 9068, section 2.2 (`sub` of a client); Okta (`cid`); Auth0 (`gty`); Entra ID (`idtyp`); Keycloak (names
    of service accounts).
    """
    is_named_so = claims.get("preferred_username") == f"service-account-{client}"
    is_itself = subject in (client, claims.get("cid"))
    is_told = claims.get("idtyp") == "app" or claims.get("gty") == "client-credentials"
    return "sub" not in claims or is_itself or is_told or is_named_so


def format_word(text: str) -> str:
    """Return a text as it is if it is a plain word, else what stands for it and for no other text."""
    return text if _PLAIN.fullmatch(text) else _digest(text)


def _format_shown(subject: str) -> str:
    """Return a subject as people may see it. Some are random, and look like a secret."""
    word = format_word(subject)
    return word if clean_text(word, max_chars=len(word)) == word else _digest(subject)


def _digest(text: str) -> str:
    # A plain word has no brackets, so that none can pass for this.
    return f"[sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:_DIGEST_CHARS]}]"


def _render_readable(claims: Claims, subject: str) -> str:
    """Return ` (jane@example.com)` for the end of a name, or nothing if the subject is all that is known."""
    cleaned = (clean_text(text) for text in _find_texts(claims, READABLE_CLAIMS) if text != subject)
    readable = next(filter(None, cleaned), None)
    return "" if readable is None else f" ({readable})"


def _find_texts(claims: Claims, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            yield value
