"""Why did a request not reach the cluster? What is wrong with the connection, who mends it, and how."""

import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import anyio
import httpx

from token_tools.cluster.pinning import OtherCertificate
from token_tools.errors import TokenToolsError, Unreachable, Unsent, Untrusted
from token_tools.settings import Settings

_WRONG_NAME_FIX: Final = "The operator has to set QUMULO_HOST to a name or an address that stands in the certificate"
_FIX_BY_VERIFY_CODE: Final = {
    9: "It is not valid yet: the clock of this machine, or of the one that issued it, is wrong",
    10: (
        "It has expired, or the clock of this machine is wrong: the cluster's administrator has to renew it, or the "
        "operator to set the clock"
    ),
    62: _WRONG_NAME_FIX,
    64: _WRONG_NAME_FIX,
}
"""What to do about a certificate although its issuer is trusted. Source: OpenSSL's x509_vfy.h, X509_V_ERR_*."""

_RETRY_AFTER_FIX: Final = "Trying again does not help before that is mended."
_RETRY_SOON: Final = "Try again in a minute; if it is the same then, the operator has to look at"


async def explain_failure(failure: Exception, settings: Settings) -> Unreachable:
    """Explain why a request to the cluster failed. If its certificate is not trusted, look what is written in it."""
    if (untrusted := find_untrusted(failure)) is not None:
        return Untrusted(await _render_untrusted(untrusted, settings), advice=_RETRY_AFTER_FIX)
    return _explain_break(failure, list(_iterate_causes(failure)), settings.address)


def find_untrusted(failure: Exception) -> ssl.SSLCertVerificationError | None:
    """Return the failure of a handshake whose certificate is not trusted, None if that was not the reason."""
    return next((cause for cause in _iterate_causes(failure) if isinstance(cause, ssl.SSLCertVerificationError)), None)


def _explain_break(failure: Exception, causes: Sequence[BaseException], address: str) -> Unreachable:
    # Quote the operating system and TLS only: the texts of HTTP libraries may repeat what the other side sent.
    reasons = list(filter(None, map(_render_reason, causes)))
    reason = reasons[-1] if reasons else _render_break(failure)
    if not isinstance(failure, httpx.ConnectError):
        return Unreachable(
            f"No whole answer from {address}: {reason}.",
            advice=f"{_RETRY_SOON} the cluster, and at what is on the way to it.",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Unsent(
            f"No connection to {address}: what answers there does not speak TLS as expected ({reason}). Is QUMULO_PORT "
            "the port of the cluster's REST API, 8000 unless somebody changed it?",
            advice=_RETRY_AFTER_FIX,
        )
    return Unsent(
        f"No connection to {address}: {reason}. Are QUMULO_HOST and QUMULO_PORT right, and is the cluster up?",
        advice=f"{_RETRY_SOON} that.",
    )


def _render_reason(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLError():
            # `strerror` is no help here: it names a line of Python's own source.
            return (getattr(cause, "reason", None) or "TLS failed").replace("_", " ").lower()
        case OSError(errno=int(number)) if not isinstance(cause, socket.gaierror):
            # Look the reason up, because asyncio puts the address into `strerror`.
            return os.strerror(number)
        case OSError():
            # The error numbers of name resolution are no `errno`, so only `strerror` helps.
            return cause.strerror
        case _:
            return None


def _render_break(failure: Exception) -> str:
    is_protocol_error = isinstance(failure, httpx.RemoteProtocolError)
    return "it ended early, or what came is no HTTP" if is_protocol_error else "the connection broke"


async def _render_untrusted(cause: ssl.SSLCertVerificationError, settings: Settings) -> str:
    trust = f"`qumulo-token-tools trust --host {settings.host} --port {settings.port}`"
    if isinstance(cause, OtherCertificate):
        return _render_other_certificate(cause, settings, trust)
    # Errors of OpenSSL have these attributes; those of another trust store may not.
    reason = (getattr(cause, "verify_message", None) or "it was not verified").rstrip(".")
    fix = _FIX_BY_VERIFY_CODE.get(getattr(cause, "verify_code", 0)) or _render_missing_issuer(settings)
    sentences = [
        f"The certificate of {settings.address} is not trusted ({reason})",
        "Nothing was sent",
        await _describe_certificate(settings),
        fix,
        f"If the cluster's administrator tells the same SHA-256, the operator can trust it: {trust}",
    ]
    return "".join(f"{sentence}. " for sentence in sentences if sentence).rstrip()


async def _describe_certificate(settings: Settings) -> str | None:
    """Return what is written in the cluster's certificate, None if it cannot be read again in half of the time left."""
    # It takes a tenth of a second to load what reads certificates, which a server that is trusted never needs.
    from token_tools.cluster.certificate_chain import fetch_chain  # noqa: PLC0415 - as just said

    seconds_left = anyio.current_effective_deadline() - anyio.current_time()
    with anyio.move_on_after(seconds_left / 2), suppress(OSError, ValueError):
        return (await fetch_chain(settings))[0].render()
    return None


def _render_missing_issuer(settings: Settings) -> str | None:
    if settings.ca_file is None:
        return None
    return f"QUMULO_CA_FILE={settings.ca_file} does not hold the CA that issued it"


def _render_other_certificate(found: OtherCertificate, settings: Settings, trust: str) -> str:
    pinned, mend = "Another one was trusted before", f"the operator can trust it: {trust}"
    if settings.fingerprint:
        pinned, mend = f"QUMULO_FINGERPRINT is {settings.fingerprint}", f"the operator has to set it; {trust} shows it"
    what = (
        ", which is that of another certificate in its chain: the operator has to set the cluster's own."
        if found.is_in_chain
        else ". Unless somebody on the way pretends to be the cluster, its certificate was replaced. If the cluster's "
        f"administrator tells the new SHA-256, {mend}."
    )
    return (
        f"The certificate of {settings.address} has the SHA-256 {found.fingerprint}. Nothing was sent. {pinned}{what}"
    )


def _iterate_causes(failure: BaseException | None) -> Iterator[BaseException]:
    # Stop at our own errors: beyond them the chain describes the caller, not this request.
    while failure is not None and not isinstance(failure, TokenToolsError):
        yield failure
        failure = failure.__cause__ or failure.__context__
