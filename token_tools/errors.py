r"""Every failure that this package explains, drawn as a tree and grouped by who must act.

    TokenToolsError
    ├── SettingsError         the operator: a setting is missing, contradictory or unusable
    │   └── UsageError        the operator: a command line asks for what cannot be done
    ├── DeliveryError         the operator: a new bearer token cannot be stored safely
    │   └── Undelivered       the operator: this was noticed only after the token was created
    ├── JournalError          the operator: the journal cannot be written
    ├── Refusal               the caller: one of our own rules forbids the call; nothing was done
    │   └── PastExpiry        the caller: a token cannot expire in the past
    └── ClusterError
        ├── Unreachable       the network: no answer came, so the request may have been carried out
        │   └── Unsent        the network: there was no connection, so nothing was sent
        │       └── Untrusted the operator: the certificate is not trusted
        ├── BadAnswer         the operator: the answer is not one that the endpoint can give
        ├── Unavailable       nobody yet: the cluster is busy or failing, and the caller should wait
        ├── Unauthenticated   the operator: the cluster rejects the server's own credential
        ├── Forbidden         the cluster's administrator: a privilege is missing
        ├── NotFound          the caller: no such token or user exists
        ├── Rejected          the caller: the cluster understood the request and declined it
        ├── Unproved          the operator: a new token has the wrong user or lives too long, so it was not kept
        └── UnknownOutcome    the caller: a write may have happened; the text says how to find out
            └── StillThere    the caller: the cluster still has a token that should be deleted

The text of an error is complete: it says what happened and what to do about it. A model reads it, so it quotes the
cluster only as marked data and never contains a secret. Three things are added where the error becomes the answer to a
call: the `advice`; for errors whose `has_begun` is false the sentence that nothing was done; and for those whose
`operator_acts` is true the command that checks everything.
"""

from datetime import timedelta
from typing import ClassVar, Final


class TokenToolsError(Exception):
    """The root of all failures that are part of the product.

    `has_begun` is true if a change may have started; the text then says what became of it. If it is false, nothing was
    done. `operator_acts` is true if what is wrong is on the operator's side, where `doctor` finds it. `advice` says
    when to try again, and who has to act if that does not help. It is not part of the text because one error can be
    quoted inside another: the advice to try again is wrong if a change may have happened.
    """

    has_begun: ClassVar[bool] = False
    operator_acts: ClassVar[bool] = False

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def add_doctor(text: str) -> str:
    """Return a text for the operator that ends with the command that checks everything."""
    return f"{text.removesuffix('.')}; {render_doctor()}"


def render_doctor(cluster: str | None = None) -> str:
    """Return what the operator has to run to have everything checked, or a cluster of config.toml by its name."""
    return f"run `qumulo-token-tools doctor{'' if cluster is None else f' --cluster {cluster}'}`"


RETRY_ONCE_FIXED: Final = "Try again once the operator has mended that."
"""The advice if something on the operator's machine fails."""


class SettingsError(TokenToolsError):
    """A setting is missing, contradictory or unusable; the text names it."""

    operator_acts = True


class UsageError(SettingsError):
    """A command line asks for what cannot be done; the text says what to write instead."""


class DeliveryError(TokenToolsError):
    """A new bearer token cannot be stored where the operator wants it."""

    operator_acts = True


class Undelivered(DeliveryError):
    """The delivery of a token that exists already has failed; the text says what became of the token."""

    has_begun = True


class JournalError(TokenToolsError):
    """The journal cannot record what is about to be done, or what was done."""

    operator_acts = True


class Refusal(TokenToolsError):
    """A rule of this server forbids the call; the cluster was not asked to change anything.

    `user` is whose token it is about, None if the call named them or nobody looked.
    """

    user: str | None = None


class PastExpiry(Refusal):
    """An expiry that is not in the future."""


class ClusterError(TokenToolsError):
    """The cluster, or the network on the way to it, did not do what was asked."""


class Unreachable(ClusterError):
    """No answer came, or only a part of one; a write may or may not have happened."""

    operator_acts = True


class Unsent(Unreachable):
    """Nothing was sent, for example because there was no connection."""


class Untrusted(Unsent):
    """The certificate is not trusted, so no TLS connection was established."""


class BadAnswer(ClusterError):
    """The answer does not have the form that the endpoint promises; a write may have happened."""

    operator_acts = True

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            advice="Try again in a minute; if it is the same then, the operator has to look what answers there.",
        )


class Unavailable(ClusterError):
    """The cluster answered 408, 429, 499 or 5xx: it is busy or failing.

    `is_transient` is whether the same request may well succeed soon. `retry_after` is the wait that the cluster asked
    for, None if it asked for none.
    """

    def __init__(
        self, message: str, *, is_transient: bool, retry_after: timedelta | None = None, advice: str = ""
    ) -> None:
        super().__init__(message, advice=advice)
        self.is_transient = is_transient
        self.retry_after = retry_after


class Unauthenticated(ClusterError):
    """The cluster answered 401 to the server's own credential."""

    operator_acts = True


class Forbidden(ClusterError):
    """The cluster answered 403: the server's credential lacks a privilege."""

    operator_acts = True


class NotFound(ClusterError):
    """The cluster answered 404."""


class Rejected(ClusterError):
    """The cluster answered with another 4xx: it declined the request."""


class Unproved(ClusterError):
    """A new token failed a check; the text says what became of the token."""

    has_begun = True


class UnknownOutcome(ClusterError):
    """A write was sent and no clear answer came."""

    has_begun = True


class StillThere(UnknownOutcome):
    """A deletion was sent, and a look afterwards found the token still there."""
