"""Settings as options of a command line: each one that is not a secret, with its default and its variable."""

import argparse
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final, Protocol

from pydantic.fields import FieldInfo

from token_tools.http_settings import FIELDS
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings
from token_tools.times import format_duration_argument


class OptionContainer(Protocol):
    """What options are added to: a parser, or a group of its options."""

    def add_argument(self, *names: str, **details: Any) -> object:  # noqa: ANN401 - argparse has fifteen keywords here, each with a type of its own
        """Add an option."""
        ...


_COMPUTED_DEFAULTS: Final = {
    "config": "config.toml in the user's configuration folder",
    "credentials_file": "qq's own store for host and port",
    "delivery": "file; on Windows keyring",
    "delivery_dir": "tokens in --state-dir",
    "fingerprint": "that of the certificate that `trust` has saved",
    "report_dir": "reports in --state-dir",
    "state_dir": "the user's state folder",
}
"""Defaults that depend on the machine or on other settings."""


def add_setting_options(parser: OptionContainer, *, without: Collection[str] = ()) -> None:
    """Add an option for each setting but the secrets; without the option, the environment and the file decide."""
    for name in Settings.model_fields:
        if name not in {*SECRET_SETTINGS, *without}:
            add_setting_option(parser, name)


def add_setting_option(parser: OptionContainer, name: str, *, default: str | None = None) -> None:
    """Add the option of one setting; `default` says what holds without it, where that is not the usual."""
    field = FIELDS[name]
    option = f"--{name.replace('_', '-')}"
    usual = _render_default(name, field) if default is None else f" (default: {default})"
    help_text = f"{field.description}{usual} [{variable_name(name)}]"
    if field.annotation is bool:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text)
    else:
        parser.add_argument(option, metavar="VALUE", default=argparse.SUPPRESS, help=help_text)


def add_cluster_option(parser: OptionContainer, help_text: str) -> None:
    """Add the option that chooses clusters of config.toml; it may be repeated, and without it all are meant."""
    parser.add_argument(
        "--cluster", dest="clusters", action="append", default=argparse.SUPPRESS, metavar="NAME", help=help_text
    )


def _render_default(name: str, field: FieldInfo) -> str:
    if name in _COMPUTED_DEFAULTS:
        return f" (default: {_COMPUTED_DEFAULTS[name]})"
    match field.default:
        case timedelta() as duration:
            return f" (default: {format_duration_argument(duration)})"
        case bool() as is_set:
            return f" (default: {str(is_set).lower()})"
        case str() | int() as value:
            return f" (default: {value})"
        case _:
            return ""
