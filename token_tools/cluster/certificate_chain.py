"""What certificates does a cluster show? They are fetched without being trusted, and nothing is sent."""

import errno
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

import anyio
from anyio.streams.tls import TLSAttribute
from cryptography import x509

from token_tools.certificates import format_fingerprint
from token_tools.cluster.pinning import list_sent_certificates
from token_tools.quoting import quote_untrusted, render_first_items
from token_tools.settings import ConnectionSettings
from token_tools.times import format_time

MAX_SHOWN_NAMES: Final = 8
"""So many names of a certificate are shown."""

_MAX_NAME_CHARS: Final = 120
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9*.:_-]{0,99}")


@dataclass(frozen=True)
class Certificate:
    """A certificate in PEM, and what is written in it; nobody has checked that.

    `names` are those of the machines that it is for: the first `MAX_SHOWN_NAMES`, and how many more; there may be none.
    All texts are quoted where they are not plain. The times are UTC. `fingerprint` is its SHA-256.
    """

    pem: str
    fingerprint: str
    subject: str
    names: Sequence[str]
    issuer: str
    valid_from: datetime
    valid_until: datetime
    is_self_signed: bool

    @classmethod
    def decode(cls, pem: str) -> Self:
        """Return what is written in a certificate.

        Raises:
            ValueError: If it cannot be understood.
        """
        found = x509.load_pem_x509_certificate(pem.encode())
        return cls(
            pem,
            format_fingerprint(ssl.PEM_cert_to_DER_cert(pem)),
            _quote(found.subject.rfc4514_string()),
            _list_names(found),
            _quote(found.issuer.rfc4514_string()),
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found.subject == found.issuer,
        )

    def render(self) -> str:
        """Return what a person compares: the names, the issuer, the last day and the fingerprint."""
        names = render_first_items(self.names) if self.names else "no machine"
        issuer = "itself" if self.is_self_signed else self.issuer
        return (
            f"The certificate names {names}, was issued by {issuer}, is valid until {format_time(self.valid_until)}, "
            f"and has the SHA-256 {self.fingerprint}"
        )


async def fetch_chain(settings: ConnectionSettings) -> Sequence[Certificate]:
    """Return the certificates that the cluster shows, its own first; none of them is trusted for that.

    Raises:
        OSError: If there is no connection, or if what answers does not speak TLS.
        TimeoutError: If that takes longer than one request may.
        ValueError: If a certificate cannot be understood.
    """
    with anyio.fail_after(settings.timeout.total_seconds()):
        try:
            stream = await anyio.connect_tcp(
                settings.host,
                settings.port,
                ssl_context=_create_trusting_context(),
                tls_hostname=settings.host,
                tls_standard_compatible=False,
            )
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
        sent = list_sent_certificates(stream.extra_attributes[TLSAttribute.ssl_object]())
        await stream.aclose()
    return [*map(Certificate.decode, sent)]


def _create_trusting_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _list_names(found: x509.Certificate) -> Sequence[str]:
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as failure:
        raise ValueError(str(failure)) from None
    names = extension.value
    dns_names = map(_quote, names.get_values_for_type(x509.DNSName))
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    found_names = [*dns_names, *addresses]
    more = [f"{len(found_names) - MAX_SHOWN_NAMES} more"] if len(found_names) > MAX_SHOWN_NAMES else []
    return [*found_names[:MAX_SHOWN_NAMES], *more]


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote_untrusted(text, max_chars=_MAX_NAME_CHARS)
