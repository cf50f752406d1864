"""Which paths may a setting name, and where are the default folders?

A path must be absolute, so that it does not depend on the folder in which a host starts the server, and it must be
printable, so that answers and errors can name it.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import platformdirs
from pydantic import AfterValidator, BeforeValidator

from token_tools.errors import SettingsError
from token_tools.operator_input import find_secret_reason, format_input
from token_tools.posix import IS_WINDOWS, geteuid, getpwuid, getuid
from token_tools.quoting import is_visible

_APPLICATION: Final = "qumulo-token-tools"
_CONFIG_NAME: Final = "config.toml"
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:|.*\\", re.DOTALL)
_HOME: Final = "USERPROFILE" if IS_WINDOWS else "HOME"
_QUOTED_TEXT: Final = re.compile(r"[\"`]|'.*'", re.DOTALL)


def _coerce_path(value: object) -> object:
    return parse_path(value) if isinstance(value, str) else value


def parse_path(text: str) -> Path:
    """Return the path that a text means; a `~` in front is the home of this user, `~name` that of another.

    Raises:
        ValueError: If there is no such user, or if the text has something in it that no path of ours has.
    """
    if "$" in text:
        raise ValueError("has a $ in it: the client did not expand it")
    if not IS_WINDOWS and _WINDOWS_PATH.match(text):
        raise ValueError("is a path of Windows: its parts are divided by /, and it begins with one")
    if _QUOTED_TEXT.search(text):
        raise ValueError("has quotes in it: write it without them")
    first, _, rest = text.partition("/")
    return find_home() / rest if first == "~" else _expand_user(text)


def _expand_user(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"names {format_input(text)}, and there is no such user") from None


def validate_path(path: Path) -> Path:
    """Return the path if it is absolute and printable.

    Raises:
        ValueError: If it is not, or if it is a secret or the content of a file instead of a path.
    """
    if secret := find_secret_reason(str(path)):
        raise ValueError(f"is wrong: {secret}")
    return validate_path_form(path)


def validate_path_form(path: Path) -> Path:
    """Return the path if it is absolute and printable, whatever its parts are called.

    This is for a path that this program made itself. What looks like a secret in a setting can be a folder here whose
    name is a hash, and what looks so changes with the folders that exist.

    Raises:
        ValueError: If it is not.
    """
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or begin with ~/")
    if not is_visible(str(path)):
        raise ValueError("must be a path in UTF-8 of which each character can be seen")
    return path


AbsolutePath = Annotated[Path, BeforeValidator(_coerce_path), AfterValidator(validate_path)]
"""An absolute path; `~` is expanded."""


def find_home() -> Path:
    """Return the home folder of the user who runs this process.

    Raises:
        ValueError: If there is none, or the variable that names it has no absolute path.
    """
    home = os.environ.get(_HOME)
    if home is None:
        home = _look_up_home()
    if not Path(home).is_absolute():
        raise ValueError(
            f"needs a home folder, and {_HOME} is {format_input(home) or 'empty'}: it must be an absolute path"
        )
    return Path(home)


def _look_up_home() -> str:
    if IS_WINDOWS:
        raise ValueError(f"needs a home folder, and {_HOME} is not set")
    try:
        return getpwuid(getuid()).pw_dir
    except KeyError:
        raise ValueError(
            f"needs a home folder, and HOME is not set: the system knows no user {getuid()} who could have one"
        ) from None


def find_config_home() -> Path:
    """Return the user's configuration folder, on every system: qq reads XDG_CONFIG_HOME on macOS too.

    Raises:
        ValueError: If it depends on a home folder, and there is none.
    """
    return _find_xdg_base("XDG_CONFIG_HOME", ".config")


def find_host_folders() -> Mapping[str, Path]:
    """Return the folders below which the programs that start this server keep their settings, each by a word for it.

    Raises:
        SettingsError: If there is no home folder.
    """
    try:
        home, config = find_home(), find_config_home()
    except ValueError as reason:
        raise SettingsError(f"The settings of such programs are in the home folder: this {reason}.") from None
    return {
        "home": home,
        "config": config,
        "application": _find_application_folder(home, config),
        "project": Path.cwd(),
        "claude": _find_folder("CLAUDE_CONFIG_DIR") or home,
        "gemini": _find_folder("GEMINI_CLI_HOME") or home,
        "codex": _find_folder("CODEX_HOME") or home / ".codex",
        "copilot": _find_folder("COPILOT_HOME") or home / ".copilot",
    }


def _find_application_folder(home: Path, config: Path) -> Path:
    if IS_WINDOWS:
        return _find_folder("APPDATA") or home / "AppData" / "Roaming"
    return home / "Library" / "Application Support" if sys.platform == "darwin" else config


def find_config_file() -> Path | None:
    """Return the default of QUMULO_CONFIG, whether the file is there or not; None without a home folder."""
    try:
        return validate_path_form(_find_default_config_file())
    except ValueError:
        return None


def name_session_bus(sessions: Path = Path("/run/user")) -> None:
    """Name the bus of the user's session in the environment, where its usual socket is there and nothing names it.

    The keyring of Linux is reached over it. Many hosts start their servers without the variable, and the library looks
    nowhere else. Source: `jeepney.bus` 0.9; the socket is that of systemd's `dbus.socket`.
    """
    if IS_WINDOWS:
        return
    socket = sessions / str(geteuid()) / "bus"
    if socket.exists():
        os.environ.setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path={socket}")


def find_trusted_file(host: str, port: int) -> Path | None:
    """Return where the certificate of a cluster is saved that the operator trusts; None without a home folder."""
    config = find_config_file()
    return None if config is None else config.parent / "trusted" / f"{host.lower()}_{port}.pem"


def _find_default_config_file() -> Path:
    if os.environ.get("XDG_CONFIG_HOME"):
        return find_config_home() / _APPLICATION / _CONFIG_NAME
    find_home()
    return platformdirs.user_config_path(_APPLICATION) / _CONFIG_NAME


def find_state_dir() -> Path:
    """Return the default of QUMULO_STATE_DIR.

    Raises:
        SettingsError: If it depends on a home folder and there is none, or if it is no path that a setting may name.
    """
    try:
        return validate_path(_find_default_state_dir())
    except ValueError as reason:
        raise SettingsError(
            f"QUMULO_STATE_DIR is not set, and its default {reason}. Set QUMULO_STATE_DIR to an absolute path."
        ) from None


def _find_default_state_dir() -> Path:
    if os.environ.get("XDG_STATE_HOME"):
        return _find_xdg_base("XDG_STATE_HOME", ".local/state") / _APPLICATION
    # Check first that there is a home: without one, platformdirs returns a folder that is called `~`.
    find_home()
    return platformdirs.user_state_path(_APPLICATION)


def is_systemd_credential(path: Path) -> bool:
    """Tell whether a file is one that systemd has put there for this service alone. Source: systemd.exec(5)."""
    return path.parent == _find_folder("CREDENTIALS_DIRECTORY")


def _find_xdg_base(variable: str, default: str) -> Path:
    # A relative path has to be ignored. Source: XDG Base Directory Specification 0.8, "Basics".
    return _find_folder(variable) or find_home() / default


def _find_folder(variable: str) -> Path | None:
    """Return the folder that a variable of the environment names, None if it names none by an absolute path."""
    folder = Path(os.environ.get(variable, ""))
    return folder if folder.is_absolute() else None
