"""Which certificate has the operator agreed to? The command `trust` saves it, and it is trusted as SSH trusts a key.

It holds where neither QUMULO_CA_FILE nor QUMULO_FINGERPRINT says what is trusted.
"""

import os
import ssl
from pathlib import Path

from token_tools.certificates import format_fingerprint, read_certificates
from token_tools.errors import SettingsError
from token_tools.file_reading import open_checked
from token_tools.paths import find_trusted_file
from token_tools.settings import ConnectionSettings
from token_tools.system_user import belongs_to_other, can_others_write


def find_trusted_fingerprint(settings: ConnectionSettings) -> str | None:
    """Return the SHA-256 of the only certificate that is trusted, None if the certificate has to be verified.

    Raises:
        SettingsError: If the file with the certificate cannot be read, or if others can write it.
    """
    if settings.fingerprint is not None:
        return settings.fingerprint
    path = find_saved_certificate(settings)
    return None if path is None else _read_fingerprint(path)


def find_saved_certificate(settings: ConnectionSettings) -> Path | None:
    """Return the file of the saved certificate, if there is one and no setting says what is trusted."""
    path = find_trusted_file(settings.host, settings.port)
    is_decided = settings.ca_file is not None or settings.fingerprint is not None or not settings.verify_tls
    return None if is_decided or path is None or not os.path.lexists(path) else path


def _read_fingerprint(path: Path) -> str:
    try:
        _check_owner(path)
        return format_fingerprint(ssl.PEM_cert_to_DER_cert(read_certificates(path).strip()))
    except ValueError as reason:
        raise SettingsError(
            f"{path} has the certificate that was trusted, and {reason}: remove it, and trust the cluster again."
        ) from None


def _check_owner(path: Path) -> None:
    with open_checked(path) as file_fd:
        status = os.fstat(file_fd)
    if belongs_to_other(status) or can_others_write(status):
        raise ValueError("can be written by others")
