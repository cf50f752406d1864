"""How is one certificate trusted and no other? Its SHA-256 is compared before anything is sent, as SSH does with keys.

Neither its name, nor its expiry, nor its issuer matters then. That the other side has its key, TLS proves.
"""

import ssl
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from token_tools.certificates import format_fingerprint

_GET_CHAIN: Final = attrgetter("_sslobj.get_unverified_chain")
"""The certificates that a server has sent. A connection itself has this method from Python 3.13 on only."""


class OtherCertificate(ssl.SSLCertVerificationError):
    """The certificate is not the one that was asked for. `is_in_chain` says that the one asked for came along with it.

    `fingerprint` is that of the certificate.
    """

    def __init__(self, fingerprint: str, *, is_in_chain: bool) -> None:
        super().__init__("the certificate has another fingerprint")
        self.fingerprint = fingerprint
        self.is_in_chain = is_in_chain


def create_pinning_context(fingerprint: str) -> ssl.SSLContext:
    """Return a context whose handshakes end with an `OtherCertificate` if the certificate has another fingerprint."""

    class PinnedConnection(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check_certificate(self, fingerprint)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = PinnedConnection
    return context


def _check_certificate(connection: ssl.SSLObject, fingerprint: str) -> None:
    # A server without a certificate has the fingerprint of nothing, which nobody asks for.
    found = format_fingerprint(connection.getpeercert(binary_form=True) or b"")
    if found != fingerprint:
        sent = map(ssl.PEM_cert_to_DER_cert, list_sent_certificates(connection))
        raise OtherCertificate(found, is_in_chain=fingerprint in map(format_fingerprint, sent))


def list_sent_certificates(connection: ssl.SSLObject) -> Sequence[str]:
    """Return the certificates that the server of a connection has sent, in PEM, its own first."""
    return [certificate.public_bytes() for certificate in _GET_CHAIN(connection)()]
