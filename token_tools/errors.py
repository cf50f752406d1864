r"""Every failure that this package explains, drawn as a tree and grouped by who must act.

    TokenToolsError
    ├── SettingsError         the operator: a setting is missing, contradictory or unusable
    ├── DeliveryError         the operator: a new bearer token has no safe place to go
    │   └── Undelivered       the same, found out when the token was made already
    ├── JournalError          the operator: the journal of what was done cannot be written
    ├── Refusal               the caller: one of our own rules says no; nothing was done
    │   └── PastExpiry        the same: a token cannot be made to expire before now
    └── ClusterError
        ├── Unreachable       the network: no answer came, so what was asked may have happened
        │   └── Unsent        the network: no connection came about, so nothing was asked
        │       └── Untrusted the operator: the certificate is not trusted
        ├── BadAnswer         the cluster, or something in front of it, said what nobody promised
        ├── Unavailable       time: the cluster says to come back later
        ├── Unauthenticated   the operator: the server's own credential does not work
        ├── Forbidden         the cluster's administrator: a privilege is missing
        ├── NotFound          the caller: no such token or user
        ├── Rejected          the caller: the cluster understood and declined
        ├── Unproved          the operator: a new token is of somebody else, or lives too long; it was not kept
        └── UnknownOutcome    the caller: a write may have happened; the text says how to find out
            └── StillThere    the caller: a deletion was asked for, and so far the token is there

The text of each is complete: what happened, and what to do about it. It is what a model reads, so it quotes no
answer of the cluster except as marked data, and never a secret. Only that nothing was done is said elsewhere, once for
all whose `has_begun` is false; and so is the `advice`, where the call ends with this.
"""

from datetime import timedelta
from typing import ClassVar, Final


class TokenToolsError(Exception):
    """The root of all failures that are part of the product.

    `has_begun` is whether a change may have been under way, so that the text says what became of it; otherwise nothing
    was done. `advice` says when the same may be tried again, and who has to act where that does not help; it is no part
    of the text, since within another one, such as on a change that may have happened, it would be wrong.
    """

    has_begun: ClassVar[bool] = False

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


RETRY_ONCE_FIXED: Final = "Try again once the operator has mended that."
"""The advice where it is the operator's machine that fails."""


class SettingsError(TokenToolsError):
    """A setting is missing, contradictory or unusable; the text names it."""


class DeliveryError(TokenToolsError):
    """A new bearer token cannot be put where the operator wants it."""


class Undelivered(DeliveryError):
    """A new bearer token could not be put there after all; the text tells what became of the token."""

    has_begun = True


class JournalError(TokenToolsError):
    """What is about to be done, or was done, cannot be written down."""


class Refusal(TokenToolsError):
    """A rule of this server was about to be broken; nothing was asked of the cluster."""


class PastExpiry(Refusal):
    """An expiry that is not in the future."""


class ClusterError(TokenToolsError):
    """The cluster, or the way to it, did not do what was asked."""


class Unreachable(ClusterError):
    """No answer came, or half of one; a write may or may not have happened."""


class Unsent(Unreachable):
    """No connection came about, so nothing was sent."""


class Untrusted(Unsent):
    """TLS was not established because the certificate is not trusted."""


class BadAnswer(ClusterError):
    """The answer is not what the endpoint promises; a write may have happened."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            advice="Try again in a minute; if it is the same then, the operator has to look what answers there.",
        )


class Unavailable(ClusterError):
    """The cluster answered 429 or 5xx.

    `retry_after` is the wait that it asked for, None if it named none.
    """

    def __init__(
        self, message: str, *, transient: bool, retry_after: timedelta | None = None, advice: str = ""
    ) -> None:
        super().__init__(message, advice=advice)
        self.transient = transient
        self.retry_after = retry_after


class Unauthenticated(ClusterError):
    """The cluster answered 401 to the server's own credential."""


class Forbidden(ClusterError):
    """The cluster answered 403: the server's credential lacks a privilege."""


class NotFound(ClusterError):
    """The cluster answered 404."""


class Rejected(ClusterError):
    """The cluster answered another 4xx: it declined this request as it is."""


class Unproved(ClusterError):
    """A new token did not prove to be as it has to be; the text tells what became of it."""

    has_begun = True


class UnknownOutcome(ClusterError):
    """A write was asked for and no clear answer came."""

    has_begun = True


class StillThere(UnknownOutcome):
    """A deletion was asked for, and the token was there when it was looked for afterwards."""
