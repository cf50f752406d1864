"""What does `config.toml` say? Keys in the spelling of the settings, and a table for each of several clusters.

```
max_lifetime = "90d"

[clusters.production]
host = "production.example.com"
credentials_file = "~/.qfsd_cred_production"
read_only = true
description = "All customers; ask before a change"
```

The file decides what may be done, so it is refused if another user may write it.
"""

import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from token_tools.errors import SettingsError
from token_tools.file_reading import can_others_read, open_checked, read_whole
from token_tools.http_settings import FIELDS
from token_tools.operator_input import check_ordinary, format_input
from token_tools.quoting import is_visible
from token_tools.setting_names import ENV_PREFIX, find_nearest, variable_name
from token_tools.settings import SECRET_SETTINGS, ConnectionSettings, Restrictions
from token_tools.system_user import belongs_to_other, can_others_write

MAX_FILE_BYTES: Final = 32_768
MAX_DESCRIPTION_CHARS: Final = 200
CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
"""What a cluster may be called: a word of at most 40 characters that needs no quotes anywhere."""

DESCRIPTION: Final = "description"
CLUSTERS: Final = "clusters"
NO_KEYS: Final = frozenset({"bearer_token", "config"})
"""Settings that no file has: a secret, and the path of the file itself."""

CLUSTER_KEYS: Final = (ConnectionSettings.model_fields.keys() | Restrictions.model_fields.keys()) - NO_KEYS
CONNECTION_KEYS: Final = ConnectionSettings.model_fields.keys() - {"timeout"}
"""The settings that say which cluster is meant and how it is reached. Where there are tables, they are only there."""

SERVER_KEYS: Final = FIELDS.keys() - CONNECTION_KEYS - NO_KEYS
SHARED_WITH_CLUSTERS: Final = SERVER_KEYS & CLUSTER_KEYS

_CONNECTION_VARIABLE: Final = re.compile(rf"\b{ENV_PREFIX}({'|'.join(map(str.upper, sorted(CONNECTION_KEYS)))})\b")
_COMMAND_FOR_ADDRESS: Final = re.compile(r"(`qumulo-token-tools [a-z]+) --host [^ `]+ --port [0-9]+")
_HOW_TO_WRITE_IT: Final = "a text stands in quotes, and each key and each table is there once"
_PLACE: Final = re.compile(r"\((at [a-z0-9, ]+)\)$")
"""Where a text stops being TOML, at the end of what Python says about it. The rest may repeat the text."""


@dataclass(frozen=True)
class ConfigFile:
    """What the file at `path` says: for all clusters, and for each cluster by its name, in their order."""

    path: Path
    for_all: Mapping[str, object]
    clusters: Mapping[str, Mapping[str, object]]

    def format_key(self, key: str) -> str:
        """Return how errors name a key for all clusters."""
        return f"{format_input(str(self.path))}: {key}"

    def format_cluster_key(self, cluster: str, key: str) -> str:
        """Return how errors name a key of a cluster."""
        return self.format_key(format_table_key(cluster, key))


def format_table_key(cluster: str, key: str) -> str:
    """Return how texts name a key of a cluster: `[clusters.lab] host`."""
    return f"[{CLUSTERS}.{cluster}] {key}"


def name_table_keys(text: str, cluster: str | None) -> str:
    """Return a text about a cluster with what its operator writes: keys of its table, and commands that choose it.

    Variables and the options `--host` and `--port` mean nothing where there are tables. The `cluster` is None for one
    without a table.
    """
    if cluster is None:
        return text
    named = _COMMAND_FOR_ADDRESS.sub(rf"\1 --cluster {cluster}", text)
    return _CONNECTION_VARIABLE.sub(lambda variable: format_table_key(cluster, variable[1].lower()), named)


def read_config_file(path: Path) -> ConfigFile:
    """Return what the file says, with keys that exist and values that are not looked at yet.

    Raises:
        SettingsError: If it cannot be read, may be written by others, is no TOML, or has a key that does not exist.
    """
    try:
        return _read_tables(path)
    except ValueError as reason:
        raise SettingsError(f"{format_input(str(path))}{reason}.") from None


def _read_tables(path: Path) -> ConfigFile:
    for_all, mode = read_toml(path)
    tables = _validate_tables(for_all.pop(CLUSTERS, {}))
    _check_keys(for_all, SERVER_KEYS, "")
    for name, table in tables.items():
        _check_cluster_name(name, tables)
        _check_keys(table, CLUSTER_KEYS | {DESCRIPTION}, f"[{CLUSTERS}.{name}] ")
    secrets = sorted(SECRET_SETTINGS & for_all.keys())
    if secrets and can_others_read(path, mode):
        raise ValueError(f" has {secrets[0]}, and other users can read it: `chmod 600` it")
    return ConfigFile(path, for_all, tables)


def read_toml(path: Path) -> tuple[dict[str, Any], int]:
    """Return what is in a TOML file that nobody else may write, and the `st_mode` of the file.

    Raises:
        ValueError: If it cannot be read, may be written by others, or is no TOML. The text goes on behind the path.
    """
    content, mode = _read_content(path)
    return _parse_toml(content), mode


def _read_content(path: Path) -> tuple[bytes, int]:
    """Return what is in the file, and its mode."""
    try:
        with open_checked(path) as file_fd:
            status = os.fstat(file_fd)
            content = read_whole(file_fd, max_bytes=MAX_FILE_BYTES)
    except ValueError as reason:
        raise ValueError(f" {reason}") from None
    if belongs_to_other(status):
        raise ValueError(f" belongs to another user (uid {status.st_uid}), who may write it")
    if can_others_write(status):
        raise ValueError(f" may be written by others (mode {stat.S_IMODE(status.st_mode):04o}): `chmod go-w` it")
    return content, status.st_mode


def _parse_toml(content: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most servers have no such file

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(" is not in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as mistake:
        place = _PLACE.search(str(mistake))
        where = f" {place[1]}" if place else ""
        raise ValueError(f" is not TOML{where}: {_HOW_TO_WRITE_IT}") from None


def _validate_tables(given: object) -> Mapping[str, Mapping[str, object]]:
    tables = cast(Mapping[str, object], given) if isinstance(given, dict) else {"": given}
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f": {CLUSTERS} must be tables, [{CLUSTERS}.NAME] each")
    return cast(Mapping[str, Mapping[str, object]], tables)


def _check_cluster_name(name: str, others: Collection[str]) -> None:
    if not CLUSTER_NAME.fullmatch(name):
        raise ValueError(
            f": [{CLUSTERS}.{format_input(name)}] must have a name of letters, digits and `.-_`, 40 at most"
        )
    twins = [other for other in others if other != name and other.casefold() == name.casefold()]
    if twins:
        raise ValueError(f": [{CLUSTERS}.{name}] and [{CLUSTERS}.{twins[0]}] differ in nothing but capital letters")


def _check_keys(table: Mapping[str, object], known: Collection[str], where: str) -> None:
    for key, value in table.items():
        if key not in known:
            raise ValueError(f": {where}{format_input(key)} {_render_unknown_key(key, known)}")
        if isinstance(value, str) and not value.strip():
            raise ValueError(f": {where}{key} is empty: give it a value, or remove it")


def _render_unknown_key(key: str, known: Collection[str]) -> str:
    if key == "bearer_token":
        return "is a secret, and has no place in this file: name a file that has it"
    if key in CLUSTER_KEYS or key == DESCRIPTION:
        return f"belongs into the table of a cluster, [{CLUSTERS}.NAME]"
    if key in SERVER_KEYS:
        return "is for the whole server: it belongs on top, before the first table"
    tables = () if DESCRIPTION in known else (CLUSTERS,)
    nearest = find_nearest(variable_name(key), sorted((*known, *tables)))
    return f"is no setting here; nearest is {nearest}"


def validate_description(value: object) -> str:
    """Return what a cluster is, in the operator's words.

    Raises:
        ValueError: If it is no text, or none that can be shown: each client shows it, and each model reads it.
    """
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION_CHARS or not is_visible(value):
        raise ValueError(f"must be a line of at most {MAX_DESCRIPTION_CHARS} visible characters")
    check_ordinary(value)
    return value
