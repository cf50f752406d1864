"""What does a host ask the person who installs the server? The settings that nearly everyone decides, in order.

All else is set in config.toml, which the server reads wherever it is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic.fields import FieldInfo

from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings


@dataclass(frozen=True)
class Question:
    """One setting as a host asks for it. Each may stay empty, and what is empty counts as not set."""

    setting: str
    title: str
    if_empty: str | None = None
    kind: Literal["string", "file", "directory", "boolean"] = "string"
    default: str | bool = ""

    @property
    def field(self) -> FieldInfo:
        """Return where the setting is declared."""
        return Settings.model_fields[self.setting]

    @property
    def is_secret(self) -> bool:
        """Tell whether a host has to hide what is written, and to keep it safe."""
        return self.setting in SECRET_SETTINGS

    @property
    def description(self) -> str:
        """Return what the setting means, and what holds if it stays empty."""
        meaning = str(self.field.description)
        return f"{meaning} (if empty: {self.if_empty})" if self.if_empty else meaning


QUESTIONS: Final[Sequence[Question]] = (
    # It may stay empty: with tables of clusters in config.toml, no variable may name a cluster.
    Question("host", "Cluster", if_empty="the clusters of config.toml"),
    Question("port", "Port", if_empty="8000"),
    Question("bearer_token", "Access token", if_empty="one of the files below, or the login of qq"),
    Question("bearer_token_file", "File with an access token", kind="file"),
    Question("credentials_file", "Credentials file of qq", kind="file"),
    Question("ca_file", "CA certificates", kind="file"),
    Question("fingerprint", "Fingerprint of the certificate"),
    Question("read_only", "Read only", kind="boolean", default=True),
    Question("max_lifetime", "Longest lifetime"),
    Question("delivery_dir", "Folder for new tokens", kind="directory"),
)


def list_user_config() -> dict[str, dict[str, str | bool]]:
    """Return the questions by their settings, as bundles and Claude Code's plugins write them.

    Each has a default. Without one a host would pass on `${user_config.ca_file}` as it is.
    """
    return {question.setting: _write_option(question) for question in QUESTIONS}


def list_variables() -> dict[str, str]:
    """Return the variables that a host sets for the server, each from what was answered to its question."""
    return {variable_name(question.setting): f"${{user_config.{question.setting}}}" for question in QUESTIONS}


def _write_option(question: Question) -> dict[str, str | bool]:
    secret = {"sensitive": True} if question.is_secret else {}
    return {
        "type": question.kind,
        "title": question.title,
        "description": question.description,
        **secret,
        "required": False,
        "default": question.default,
    }
