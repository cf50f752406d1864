"""Files that the settings name, read within bounds whatever they turn out to be.

What is refused is refused with a reason that has the file as its subject: `does not exist`, `is a folder`.
"""

import codecs
import os
import select
import shlex
import ssl
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from token_tools.quoting import has_secret
from token_tools.redaction import MAX_SEARCHED_CHARS

READ_TIMEOUT_SECONDS: Final = 10.0
"""Seconds that whoever writes into a pipe may take."""

MAX_CERTIFICATES_BYTES: Final = 4 << 20
"""Bytes of a file of certificates; those that systems come with have a tenth of it."""

_KIND_NAMES: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFREG: "a file",
}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def open_checked(path: Path, *, kind: int = stat.S_IFREG) -> Generator[int]:
    """A descriptor of what a setting names, if it is of this kind (a `stat.S_IF…`).

    Raises:
        ValueError: With the reason why it cannot be had, or could not be read meanwhile.
    """
    try:
        # Some devices do something when they are opened, so it is looked at before and after.
        _check_kind(os.stat(path), kind)  # noqa: PTH116 - beside `os.fstat`
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _check_kind(os.fstat(descriptor), kind)
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except OSError as failure:
        raise ValueError(f"cannot be read: {failure.strerror}") from None


def read_mode(path: Path) -> int:
    """The kind and the permissions of what a path leads to, as in `st_mode`; 0 where that cannot be looked at."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def _check_kind(status: os.stat_result, kind: int) -> None:
    found = stat.S_IFMT(status.st_mode)
    if found != kind:
        raise ValueError(f"is {_KIND_NAMES.get(found, 'something else')} and not {_KIND_NAMES[kind]}")


def read_whole(file_fd: int, *, max_bytes: int, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> bytes:
    """All that comes out of a file or a pipe within `timeout_seconds` seconds.

    Raises:
        ValueError: If that is more than `max_bytes`, or has no end by then.
    """
    deadline, ready, content = time.monotonic() + timeout_seconds, select.poll(), bytearray()
    ready.register(file_fd, select.POLLIN)
    while ready.poll(max(deadline - time.monotonic(), 0) * 1000):
        chunk = os.read(file_fd, max_bytes + 1)
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"is larger than {max_bytes >> 10} KiB")
        if not chunk:
            return bytes(content)
    raise ValueError(f"has no end: whoever writes into it took longer than {timeout_seconds:g} seconds")


def decode_text(content: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark; what is no text is replaced by U+FFFD."""
    return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig", errors="replace")


def read_certificates(path: Path) -> str:
    """The text of a PEM file that holds a certificate.

    Raises:
        ValueError: With what it holds instead, or why it cannot be read.
    """
    with open_checked(path) as file:
        content = read_whole(file, max_bytes=MAX_CERTIFICATES_BYTES)
    # Between certificates stand names in any language, and Python takes nothing but ASCII.
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
    if has_secret(text[:MAX_SEARCHED_CHARS]):
        return "holds a token or something like one, and no readable PEM certificate"
    return "holds no readable PEM certificate"
