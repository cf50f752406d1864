"""What `setup` is to set up: the cluster, its table in config.toml, and the place of the server's own credential.

A person is asked for what no option answers.
"""

import argparse
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from token_tools.cli.terminal import ask, ask_whether, print_line
from token_tools.config_file import CLUSTER_NAME, CLUSTERS
from token_tools.configuration import Profile, find_config, find_login
from token_tools.errors import SettingsError, UsageError
from token_tools.posix import IS_WINDOWS
from token_tools.settings import CREDENTIAL_SETTINGS, DEFAULT_PORT, Settings
from token_tools.storage.credential_place import CredentialPlace, find_place

PLACE_SETTINGS: Final = ("credentials_file", "bearer_token_file", "keyring")
"""The settings of which one says where the server's own credential is kept."""
_COMMAND: Final = "credentials_command"

KEPT_SETTINGS: Final = ("ca_file", "fingerprint", "timeout", "confirm", "default_lifetime", "max_lifetime")
"""The settings that go into the table as they are given."""

MAX_NAME_CHARS: Final = 40

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9]+")


class Answers(NamedTuple):
    """What the options of this command answer; what is None is asked for, or has a default."""

    expect: str | None
    yes: bool
    name: str | None
    user: str | None
    expiration_time: str | None
    login: str | None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to be set up: the table `name` in `config`, which will say `values`; one that is None is taken out of it.

    `login` is the cluster as the administrator's login reaches it, and `own` as the server will. `place` is where the
    server's credential will be kept.
    """

    config: Path
    name: str
    login: Profile
    own: Settings
    place: CredentialPlace
    values: Mapping[str, Any]

    @property
    def is_read_only(self) -> bool:
        """Tell whether the server may only read."""
        return self.values["read_only"] is True


def plan_target(settings: Mapping[str, Any], answers: Answers) -> Target:
    """Return what is to be set up.

    Raises:
        SettingsError: If a setting is wrong, or if nobody can be asked.
    """
    config, tables = find_config(settings)
    address = str(settings.get("host") or ask("Cluster (its DNS name or address)", option="--host"))
    reached = {key: value for key, value in settings.items() if key not in {"read_only", *CREDENTIAL_SETTINGS}}
    cluster = find_login({**reached, "host": address}).settings
    existing = [name for name, table in tables.items() if _is_about(table, cluster.host, cluster.port)]
    chosen = _choose_name(answers.name, cluster.host, existing, tables)
    table = tables.get(chosen, {})
    kept = {key: value for key, value in {**table, **settings}.items() if key in KEPT_SETTINGS}
    if _COMMAND in table and _choose_place(settings) is None:
        raise UsageError(
            f"[{CLUSTERS}.{chosen}] gets its credential from {_COMMAND}: mend that, or let --credentials-file or "
            "--keyring name the place of a new one."
        )
    place = _choose_place(settings, table) or _find_default_place(config, chosen)
    reached |= {"host": cluster.host, **kept}
    profile = _find_login(reached, answers.login)
    own = find_login({**reached, **place}).settings
    # A table has one credential: the place that is chosen takes the one that was there.
    places = {key: place.get(key) for key in (*PLACE_SETTINGS, _COMMAND)}
    found = find_place(own)
    if found is None:
        raise UsageError(
            f"{next(iter(place.values()))} cannot be written: --credentials-file or --keyring names another."
        )
    values = {"host": own.host, "port": own.port, **kept, **places, "read_only": _choose_read_only(settings)}
    return Target(config=config, name=chosen, login=profile, own=own, place=found, values=values)


def _choose_place(*layers: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the setting that says where the server's own credential is kept, of the first layer that has one."""
    places = ({key: str(layer[key]) for key in PLACE_SETTINGS if key in layer} for layer in layers)
    return next(filter(None, places), None)


def _find_default_place(config: Path, name: str) -> Mapping[str, str]:
    if IS_WINDOWS:
        return {"keyring": f"qumulo-token-tools/{name}"}
    return {"credentials_file": str(config.parent / "credentials" / name)}


def _find_login(reached: Mapping[str, Any], login: str | None) -> Profile:
    """Return the cluster with the administrator's login; a person is asked to log in if there is none.

    Raises:
        SettingsError: If a setting is wrong, or if nobody can be asked.
    """
    given = {} if login is None else {"credentials_file": login}
    while (profile := find_login({**reached, **given})).settings.credential_setting is None:
        print_line(
            "A new token needs the login of an administrator. In another terminal:\n"
            f"  qq --host {profile.settings.host} --port {profile.settings.port} login"
        )
        ask("Press Enter when you have logged in", option="--login", default="done")
    try:
        profile.settings.read_bearer_at_start()
    except SettingsError as failure:
        raise UsageError(f"the administrator's login (--login, or that of qq) cannot be used: {failure}") from None
    return profile


def _is_about(table: Mapping[str, object], host: str, port: int) -> bool:
    return (str(table.get("host")).casefold(), table.get("port", DEFAULT_PORT)) == (host.casefold(), port)


def _choose_name(asked: str | None, host: str, existing: Sequence[str], taken: Collection[str]) -> str:
    """Return what the cluster is called: as it was asked, as the table that it has, or by a name that is free.

    Raises:
        UsageError: If that name is another cluster's, or if this one has another name.
    """
    if asked is not None and existing and asked not in existing:
        raise UsageError(f"--name {asked}: this cluster is [{CLUSTERS}.{existing[0]}] already: leave --name out.")
    if asked is not None and not existing and asked in taken:
        raise UsageError(f"--name {asked}: another cluster has that name: choose another one.")
    if asked is not None or existing:
        return asked or existing[0]
    derived = _derive_name(host)
    numbered = (f"{derived}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([derived], numbered) if name not in taken)


def _derive_name(host: str) -> str:
    """Return what a cluster can be called: the first part of its name, or a word if it has none."""
    first = _NOT_IN_NAMES.sub("-", host.partition(".")[0]).strip("-")[:MAX_NAME_CHARS]
    return "cluster" if not first or first.isdecimal() or ":" in host else first


def _choose_read_only(settings: Mapping[str, Any]) -> bool:
    if "read_only" in settings:
        return bool(settings["read_only"])
    return not ask_whether(
        "May your assistant change tokens, and not only look at them?", option="--read-only or --no-read-only"
    )


def parse_name(text: str) -> str:
    """Return what a person calls the cluster.

    Raises:
        argparse.ArgumentTypeError: If no table can be called so.
    """
    if CLUSTER_NAME.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError("must be a word of letters, digits and `.-_`, 40 at most")
