"""Who may call over HTTP, and what may they do? A bearer becomes a caller with a role, or nobody.

A bearer is a named key, or an access token of the issuer. Neither is kept, logged, or sent on.
"""

import logging
from dataclasses import dataclass
from typing import Final

from token_tools.http_settings import HttpSettings
from token_tools.operations.caller import Caller
from token_tools.server.http.access_tokens import AccessTokens
from token_tools.server.http.identification import Identification
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.named_keys import KeysFile, NamedKey
from token_tools.server.http.recent_sign_ins import RecentSignIns
from token_tools.server.http.refusals import BearerRefused
from token_tools.server.http.rules import Rules
from token_tools.server.http.signed_in import SignedIn
from token_tools.server.http.signed_tokens import SignedTokens, Verified
from token_tools.server.http.throttled_log import ThrottledLog
from token_tools.times import Clock, utc_now

MAX_BEARER_BYTES: Final = 16 << 10
"""A longer bearer is not looked at; the header of a request could hardly carry it."""

_LOG: Final = logging.getLogger(__name__)


class SignIn:
    """Turns bearers into callers, by the settings."""

    def __init__(
        self,
        settings: HttpSettings,
        issuer: Issuer | None,
        *,
        clock: Clock = utc_now,
    ) -> None:
        """Read the keys file. The issuer is that of the settings, and is asked when the first access token comes.

        Raises:
            SettingsError: If the keys file is unusable.
        """
        self._log = ThrottledLog(_LOG, clock)
        self._resource = settings.resource
        self._keys = None if settings.http_keys_file is None else KeysFile(settings.http_keys_file)
        self._holders = None if issuer is None else _find_holders(settings, issuer, self._log)

    async def verify_token(self, token: str) -> SignedIn | None:
        """Return who calls with this bearer, None if nobody does."""
        try:
            return await self._sign_in(token)
        except BearerRefused as refusal:
            self._log.tell(refusal.reason, f"A bearer was refused: {refusal}.")
            return None

    async def _sign_in(self, bearer: str) -> SignedIn:
        if not bearer.isascii() or len(bearer) > MAX_BEARER_BYTES:
            raise BearerRefused(f"it is longer than {MAX_BEARER_BYTES >> 10} KiB, or has characters that no bearer has")
        key = None if self._keys is None else self._keys.find(bearer)
        if key is not None:
            return self._admit_key(key)
        if self._holders is None:
            raise BearerRefused("it is no named key")
        return await self._holders.admit(bearer)

    def _admit_key(self, key: NamedKey) -> SignedIn:
        caller = Caller(f"key {key.name}", f"key {key.name}", is_self=None)
        return SignedIn(client_id=caller.id, scopes=[], resource=self._resource, caller=caller, role=key.role)


@dataclass(frozen=True)
class _Holders:
    """The holders of access tokens of the issuer."""

    tokens: AccessTokens
    identification: Identification
    rules: Rules
    resource: str
    recent: RecentSignIns[SignedIn]

    async def admit(self, bearer: str) -> SignedIn:
        """Return who holds an access token.

        Raises:
            BearerRefused: If it is none that is accepted.
        """
        known = self.recent.find(bearer)
        if known is not None:
            return known
        verified = await self.tokens.verify(bearer)
        signed_in = self._sign_in(verified)
        self.recent.add(bearer, signed_in, verified.accepted_until)
        return signed_in

    def _sign_in(self, verified: Verified) -> SignedIn:
        holder = self.identification.identify(verified.claims)
        return SignedIn(
            client_id=holder.client,
            # What somebody may do is the business of the rules, and scopes are one kind of claim for these.
            scopes=[],
            expires_at=int(verified.accepted_until.timestamp()),
            # That it is for this server was checked by the audience, which the operator may call otherwise.
            resource=self.resource,
            subject=holder.subject,
            claims={"iss": self.identification.issuer},
            caller=holder.caller,
            role=self.rules.find_role(verified.claims),
        )


def _find_holders(settings: HttpSettings, issuer: Issuer, log: ThrottledLog) -> _Holders:
    return _Holders(
        AccessTokens(SignedTokens(issuer, log.clock), settings.http_audience),
        Identification(issuer.url, settings.http_self, log),
        Rules.from_settings(settings),
        settings.resource,
        RecentSignIns(log.clock),
    )
