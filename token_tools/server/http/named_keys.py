"""Which key of a machine is this? The keys file of the operator, which has the SHA-256 of each key and no key.

The file is read again when it changes. While it is unusable, no key is accepted.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from token_tools.config_file import CLUSTER_NAME, read_toml
from token_tools.errors import SettingsError
from token_tools.operator_input import format_input
from token_tools.server.http.signed_in import Role

KEYS: Final = "keys"
ENTRIES: Final = frozenset({"sha256", "role"})
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
_ROLES: Final[Mapping[object, Role]] = {"read": "read", "write": "write"}
_SETTING: Final = "QUMULO_HTTP_KEYS_FILE"

_LOG: Final = logging.getLogger(__name__)


class NamedKey(NamedTuple):
    """A key of a machine: what the operator calls it, its SHA-256, and what its holder may do."""

    name: str
    digest: bytes
    role: Role


class _Version(NamedTuple):
    """What differs between two versions of a file. A change of its permissions counts too."""

    modified_ns: int
    changed_ns: int
    size: int
    inode: int


class KeysFile:
    """The keys in a file."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: If it is unusable.
        """
        self._path = path
        self._version = _find_version(path)
        self._keys = read_keys(path)

    def find(self, bearer: str) -> NamedKey | None:
        """Return the key that a bearer is."""
        digest = hashlib.sha256(bearer.encode()).digest()
        # Each key is compared to its last byte, so that the time tells nothing about any of them.
        matches = [key for key in self._read_current() if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None

    def _read_current(self) -> Sequence[NamedKey]:
        # A file that changes while it is read has another version at the next call.
        version = _find_version(self._path)
        if version != self._version:
            self._version = version
            self._keys = self._read_again()
        return self._keys

    def _read_again(self) -> Sequence[NamedKey]:
        try:
            keys = read_keys(self._path)
        except SettingsError as failure:
            _LOG.warning("No named key is accepted until this is mended: %s", failure)
            return ()
        _LOG.warning("The named keys were read again: there are %d.", len(keys))
        return keys


def _find_version(path: Path) -> _Version | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Version(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def read_keys(path: Path) -> Sequence[NamedKey]:
    """Return the keys in a file.

    Raises:
        SettingsError: If it is unusable.
    """
    try:
        content, _ = read_toml(path)
        return _parse_keys(content)
    except ValueError as reason:
        raise SettingsError(f"{_SETTING}: {format_input(str(path))}{reason}.") from None


def _parse_keys(content: Mapping[str, Any]) -> Sequence[NamedKey]:
    tables = _as_table(content.get(KEYS))
    if {*content} != {KEYS} or not tables:
        raise ValueError(f" must have tables [{KEYS}.NAME], one at least, and nothing else")
    keys = [_parse_key(name, _as_table(table)) for name, table in tables.items()]
    _check_different(keys)
    return keys


def _as_table(value: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], value) if isinstance(value, dict) else {}


def _parse_key(name: str, entries: Mapping[str, object]) -> NamedKey:
    if not CLUSTER_NAME.fullmatch(name):
        raise ValueError(f": [{KEYS}.{format_input(name)}] must have a name of letters, digits and `.-_`, 40 at most")
    if {*entries} != {*ENTRIES}:
        raise ValueError(f": [{KEYS}.{name}] must have {' and '.join(sorted(ENTRIES))}, and nothing else")
    digest, role = entries["sha256"], _ROLES.get(str(entries["role"]))
    # Neither is repeated: it may be the key itself.
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(
            f': [{KEYS}.{name}] sha256 must have 64 hexadecimal digits: `printf %s "$KEY" | sha256sum` prints them'
        )
    if role is None:
        raise ValueError(f": [{KEYS}.{name}] role must be {' or '.join(map(str, _ROLES))}")
    return NamedKey(name, bytes.fromhex(digest), role)


def _check_different(keys: Sequence[NamedKey]) -> None:
    names = dict[bytes, str]()
    for key in keys:
        if key.digest in names:
            raise ValueError(f": [{KEYS}.{names[key.digest]}] and [{KEYS}.{key.name}] are one key: give each its own")
        names[key.digest] = key.name
