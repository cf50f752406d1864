"""Paths that the settings name: where they lead is the same wherever the server is started, and can be written down."""

import os
import pwd
import re
from pathlib import Path
from typing import Annotated, Final

import platformdirs
from pydantic import AfterValidator, BeforeValidator

from token_tools.errors import SettingsError
from token_tools.operator_input import find_secret_reason, format_given
from token_tools.quoting import is_visible

_APPLICATION: Final = "qumulo-token-tools"
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:|.*\\", re.DOTALL)
_QUOTED_TEXT: Final = re.compile(r"[\"`]|'.*'", re.DOTALL)


def _coerce_path(value: object) -> object:
    return _parse_path(value) if isinstance(value, str) else value


def _parse_path(text: str) -> Path:
    if "$" in text:
        raise ValueError("has a $ in it: the client did not expand it")
    if _WINDOWS_PATH.match(text):
        raise ValueError("is a path of Windows: its parts are divided by /, and it begins with one")
    if _QUOTED_TEXT.search(text):
        raise ValueError("has quotes in it: write it without them")
    first, _, rest = text.partition("/")
    return find_home() / rest if first == "~" else _expand_user(text)


def _expand_user(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"names {format_given(text)}, and there is no such user") from None


def validate_path(path: Path) -> Path:
    """The path, if it leads to the same place from everywhere and can be told.

    Raises:
        ValueError: With the reason.
    """
    if secret := find_secret_reason(str(path)):
        raise ValueError(f"is wrong: {secret}")
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or begin with ~/")
    if not is_visible(str(path)):
        raise ValueError("must be a path in UTF-8 of which each character can be seen")
    return path


AbsolutePath = Annotated[Path, BeforeValidator(_coerce_path), AfterValidator(validate_path)]
"""An absolute path; `~` is expanded."""


def find_home() -> Path:
    """The home folder of whoever runs this.

    Raises:
        ValueError: With the reason why there is none.
    """
    given = os.environ.get("HOME")
    if given is None:
        given = _look_up_home()
    if not given.startswith("/"):
        raise ValueError(
            f"needs a home folder, and HOME is {format_given(given) or 'empty'}: it must be an absolute path"
        )
    return Path(given)


def _look_up_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise ValueError(
            f"needs a home folder, and HOME is not set: the system knows no user {os.getuid()} who could have one"
        ) from None


def find_config_home() -> Path:
    """Where a user's configuration is, on every system: qq reads XDG_CONFIG_HOME on macOS too.

    Raises:
        ValueError: If that depends on a home folder, and there is none.
    """
    return _find_xdg_base("XDG_CONFIG_HOME", ".config")


def find_state_dir() -> Path:
    """Where this program's state belongs if nobody says otherwise.

    Raises:
        SettingsError: If there is no such place, or it is none that can be told.
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
    # Without a home, platformdirs answers with a folder that is called `~`.
    find_home()
    return platformdirs.user_state_path(_APPLICATION)


def _find_xdg_base(variable: str, default: str) -> Path:
    given = Path(os.environ.get(variable, ""))
    # A relative path is to be ignored. Source: XDG Base Directory Specification 0.8, "Basics".
    return given if given.is_absolute() else find_home() / default
