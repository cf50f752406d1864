"""Which file of certificates is accepted, and which fingerprint of one? A refusal says what it is instead.

A file has to be PEM with a certificate in it, a fingerprint SHA-256. How they are used is decided in
`cluster.transport`.
"""

import hashlib
import re
import shlex
import ssl
from pathlib import Path
from typing import Final

from token_tools.file_reading import decode_text, open_checked, read_whole
from token_tools.operator_input import MAX_INPUT_CHARS
from token_tools.quoting import has_secret

MAX_CERTIFICATES_BYTES: Final = 4 << 20
"""The largest file that is read; those of operating systems have a tenth of it."""

_HEX_DIGITS: Final = re.compile(r"[0-9A-Fa-f]+")


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 in the notation of `format_fingerprint`. Its colons and the case of its letters do not matter.

    Raises:
        ValueError: If it is none; the text says how many digits there are instead.
    """
    digits = text.replace(":", "")
    if not _HEX_DIGITS.fullmatch(digits) or len(digits) != 2 * hashlib.sha256().digest_size:
        found = f", and has {len(digits)}" if _HEX_DIGITS.fullmatch(digits) else ""
        raise ValueError(
            f"must be the SHA-256 of the cluster's certificate, 64 hexadecimal digits with or without colons{found}: "
            "`openssl x509 -noout -fingerprint -sha256` prints it"
        )
    return _format_digest(bytes.fromhex(digits))


def format_fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate in DER as OpenSSL prints it: `AB:CD:…`."""
    return _format_digest(hashlib.sha256(certificate).digest())


def _format_digest(digest: bytes) -> str:
    return digest.hex(":").upper()


def read_certificates(path: Path) -> str:
    """Return the text of a PEM file that holds at least one certificate.

    Raises:
        ValueError: If it cannot be read or holds no certificate; the text says what it holds instead.
    """
    with open_checked(path) as file_fd:
        content = read_whole(file_fd, max_bytes=MAX_CERTIFICATES_BYTES)
    # Comments between certificates may be in any language, and Python loads ASCII only.
    text = decode_text(content).encode("ascii", errors="ignore").decode()
    if not _is_loadable(text):
        raise ValueError(_render_no_certificate(content, text, path))
    return text


def _is_loadable(certificates: str | bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ValueError, ssl.SSLError):
        return False
    return True


def _render_no_certificate(content: bytes, text: str, path: Path) -> str:
    if not content.strip():
        return "is empty"
    if _is_loadable(content):
        command = shlex.join(["openssl", "x509", "-inform", "der", "-in", str(path)])
        return f"holds a certificate in DER, and PEM is needed: `{command}` prints it"
    if "-----BEGIN CERTIFICATE-----" in text:
        return "holds no readable PEM certificate: what begins as one is damaged"
    if "PRIVATE KEY-----" in text:
        return "holds a private key and no readable PEM certificate"
    if has_secret(text[:MAX_INPUT_CHARS]):
        return "holds a token or something like one, and no readable PEM certificate"
    return "holds no readable PEM certificate"
