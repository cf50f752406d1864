"""How is this program installed, what do the settings say, and can it read its credential?"""

import json
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

from token_tools import __version__
from token_tools.cli.checks.check import Check
from token_tools.configuration import Profile, read_named
from token_tools.credentials import is_readable_by_others
from token_tools.errors import SettingsError
from token_tools.operator_input import format_input
from token_tools.posix import IS_WINDOWS
from token_tools.server.app import SERVER_NAME
from token_tools.settings import SECRET_SETTINGS, Settings
from token_tools.times import format_duration

_CHANNELS: Final = {
    "/uv/tools/": "as a tool of uv: `uv tool upgrade` renews it",
    "/pipx/": "by pipx: `pipx upgrade` renews it",
}
"""What is in the path of an environment that a program has made for this one alone, and what that program is."""
_PASSING_FOLDERS: Final = ("/archive-v0/", "/environments-v2/", "/builds-v0/")
"""What is in the path of an environment that uv makes for one run, and removes when its cache is cleaned."""


def check_program() -> Check:
    """Tell which version this is, and how it was installed."""
    prefix = Path(sys.prefix).as_posix()
    version = f"{__version__}, Python {platform.python_version()}, {_render_channel(prefix)} in {prefix}"
    if any(part in f"{prefix}/" for part in _PASSING_FOLDERS):
        return Check(
            "program",
            "warning",
            f"{version}, which uv removes when its cache is cleaned",
            f"no host can start it from there for long: `uv tool install {SERVER_NAME}` installs it for good",
        )
    return Check("program", "ok", version)


def _render_channel(prefix: str) -> str:
    for part, channel in _CHANNELS.items():
        if part in f"{prefix}/":
            return f"installed {channel},"
    origin = distribution(SERVER_NAME).read_text("direct_url.json")
    source: dict[str, Any] = json.loads(origin or "{}")
    if source.get("dir_info", {}).get("editable"):
        return f"installed from {source['url'].removeprefix('file://')}, which may be edited,"
    return "installed"


def check_settings(profile: Profile) -> Check:
    """Tell each setting that is set, and where."""
    return Check("settings", "ok", _render_place(profile), details=[*_list_settings(profile)])


def _render_place(profile: Profile) -> str:
    if profile.table is not None:
        return f"table [clusters.{profile.table}] of {profile.file}"
    return f"{len(profile.origins)} set" + (f", also by {profile.file}" if profile.file else "; no config.toml")


def _list_settings(profile: Profile) -> Iterator[str]:
    for name in Settings.model_fields:
        if name in profile.origins:
            # The line above these names the file.
            origin = profile.origins[name].removeprefix(f"{profile.file}: ")
            yield f"{name} = {_render_value(profile.settings, name)}  ({origin})"


def _render_value(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if name in SECRET_SETTINGS:
        return "set, not shown"
    match value:
        case (str(program), *_):
            # The arguments of a command may be secrets; the program is none.
            return f"{format_input(program)} …"
        case bool():
            return str(value).lower()
        case timedelta():
            return format_duration(value)
        case _:
            return format_input(str(value))


def check_credential(profile: Profile) -> Check:
    """Read the credential that the settings name. Of the certificates, the check of TLS tells."""
    settings = profile.settings
    try:
        read_named(replace(profile, settings=settings.model_copy(update={"ca_file": None})))
    except SettingsError as failure:
        return Check("credential", "failed", str(failure), _render_login(settings))
    path = settings.bearer_token_file or settings.credentials_file
    where = settings.credential_location if settings.credential_setting in profile.origins else f"qq's login, {path}"
    if path is not None and is_readable_by_others(path):
        mend = f"chmod 600 {shlex.quote(str(path))}"
        return Check("credential", "warning", f"others can read {path}", mend)
    if path is not None and IS_WINDOWS:
        mend = f"`icacls {format_input(str(path))}` shows it; QUMULO_KEYRING names an entry of the keyring instead"
        return Check("credential", "warning", f"{where}; whether others can read it is not known", mend)
    return Check("credential", "ok", where)


def _render_login(settings: Settings) -> str:
    login = f"`qq --host {settings.host} --port {settings.port} login`"
    return f"mend that, or make a new one: {login} as an administrator, and then `{SERVER_NAME} setup`"
