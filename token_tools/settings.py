"""Every option of the server, once: what it is called, what it means, what it may not be.

Each is an environment variable with the prefix `QUMULO_` and a command-line option of the same words; a secret is
never a command-line option, where every user of the machine could read it.
"""

import difflib
import os
import re
import ssl
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

import platformdirs
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from token_tools.credentials import BearerToken, default_store, read_bearer
from token_tools.errors import SettingsError
from token_tools.times import parse_duration, parse_lifetime

PREFIX: Final = "QUMULO_"
SECRET: Final = frozenset({"bearer_token"})
"""The settings that are secrets."""
HIGHEST_PORT: Final = 65535
_NAME_OR_IPV4: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)


def _read_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _read_lifetime(value: object) -> object:
    return parse_lifetime(value) if isinstance(value, str) else value


def _find_place(path: Path) -> Path:
    """Wherever the server is started from, it is the same."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"names {path}, and there is no such user") from None


Place = Annotated[Path, AfterValidator(_find_place)]
Duration = Annotated[timedelta, BeforeValidator(_read_duration)]
Lifetime = Annotated[timedelta | None, BeforeValidator(_read_lifetime)]
Confirm = Literal["all", "risky", "none"]


class Settings(BaseSettings):
    """What the operator decided. `load_settings` makes it, complete and free of contradictions."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    host: str = Field(description="Cluster address: a DNS name or an IP address")
    port: int = Field(default=8000, ge=1, le=HIGHEST_PORT, description="REST port of the cluster")
    bearer_token: BearerToken | None = Field(
        default=None, description="The credential that the server itself works with"
    )
    credentials_file: Place | None = Field(
        default=None,
        description="File in the format of qq's credentials store, instead of the bearer token; "
        "read again when the cluster answers 401",
    )
    ca_file: Place | None = Field(
        default=None, description="PEM file of certificates to trust besides the system's trust store"
    )
    verify_tls: bool = Field(default=True, description="false: do not verify the cluster's certificate")
    timeout: Duration = Field(default=timedelta(seconds=30), description="Whole time for one request, such as 30s")
    read_only: bool = Field(default=False, description="Do not offer the tools that write")
    delivery: Literal["file", "keyring", "inline"] = Field(
        default="file",
        description="Where a new bearer token goes: to a file, to the system's keyring, or inline into the answer "
        "and so to the model",
    )
    state_dir: Place = Field(
        default_factory=lambda: platformdirs.user_state_path("qumulo-token-tools"),
        description="Folder of the journal and, unless they have one of their own, of new bearer tokens",
    )
    delivery_dir: Place = Field(
        default_factory=lambda given: given["state_dir"] / "tokens", description="Folder for new bearer tokens"
    )
    default_lifetime: Lifetime = Field(
        default=timedelta(days=90),
        description="Expiry of a new token when the caller names none, such as 90d, or never",
    )
    max_lifetime: Duration | None = Field(
        default=None, description="Longest expiry that may be set, such as 1w; with it, no token may live for ever"
    )
    confirm: Confirm = Field(
        default="risky",
        description="Which writes ask the human first: all, none, or the risky ones (to delete or stop a token, to let "
        "one live longer or for ever, and a new one for the built-in administrator or for a name that could not be "
        "looked up)",
    )

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        host = host.strip("[]")
        if not _NAME_OR_IPV4.fullmatch(host):
            try:
                IPv6Address(host)
            except ValueError:
                raise ValueError("must be a name or an address alone; a port goes into QUMULO_PORT") from None
        return host

    @field_validator("ca_file")
    @classmethod
    def _check_ca_file(cls, ca_file: Path | None) -> Path | None:
        if ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
            except OSError:
                raise ValueError(f"names {ca_file}, which holds no readable PEM certificate") from None
        return ca_file

    @model_validator(mode="after")
    def _check_contradictions(self) -> Self:
        if self.bearer_token is not None and self.credentials_file is not None:
            raise ValueError("QUMULO_BEARER_TOKEN and QUMULO_CREDENTIALS_FILE are both set: keep one")
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("QUMULO_CA_FILE and QUMULO_VERIFY_TLS=false contradict each other: keep one")
        default = self.default_lifetime if "default_lifetime" in self.model_fields_set else timedelta()
        if self.max_lifetime is not None and (default is None or default > self.max_lifetime):
            raise ValueError("QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME allows")
        return self

    @property
    def address(self) -> str:
        """The cluster as people write it: `cluster.example.com:8000`, `[2001:db8::1]:8000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def read_bearer(self) -> SecretStr:
        """The credential as it is now: a file is read at each call.

        Raises:
            SettingsError: If there is none, or its file is unusable.
        """
        if self.bearer_token is not None:
            return self.bearer_token
        if self.credentials_file is not None:
            return read_bearer(self.credentials_file)
        raise SettingsError(
            "No credential: set QUMULO_BEARER_TOKEN or QUMULO_CREDENTIALS_FILE, "
            f"or log in with `qq --host {self.host} login`."
        )


def variable(field: str) -> str:
    """The environment variable of a setting: `ca_file` is `QUMULO_CA_FILE`."""
    return PREFIX + field.upper()


def load_settings(options: Mapping[str, Any]) -> Settings:
    """The settings from the environment, with `options` (of the command line) before it.

    Raises:
        SettingsError: One line that names each variable which is missing, contradictory or unusable.
    """
    try:
        settings = Settings(**options)
    except ValidationError as invalid:
        # A default that depends on another setting is reported too where that, or any other, is a mistake.
        mistakes = [mistake for mistake in invalid.errors() if mistake["type"] != "default_factory_not_called"]
        raise SettingsError("; ".join(map(_tell_mistake, mistakes))) from None
    if settings.bearer_token is None and settings.credentials_file is None:
        settings = settings.model_copy(update={"credentials_file": _find_qq_store(settings)})
    settings.read_bearer()
    return settings


def _find_qq_store(settings: Settings) -> Path | None:
    # qq reads XDG_CONFIG_HOME on every system, where platformdirs would answer with macOS's own folder.
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return default_store(settings.host, settings.port, config_home=config_home, home=Path.home())


def _tell_mistake(mistake: ErrorDetails) -> str:
    name = variable(str(mistake["loc"][0])) if mistake["loc"] else ""
    match mistake:
        case {"type": "missing"}:
            return f"{name} is not set: name the cluster, or start with --demo to try without one"
        case {"type": "value_error", "ctx": {"error": error}}:
            return f"{name} {error}".strip()
        case _:
            return f"{name} must be {_tell_expected(Settings.model_fields[str(mistake['loc'][0])])}"


def _tell_expected(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true or false"
    if field.annotation is int:
        return f"a whole number from 1 to {HIGHEST_PORT}"
    *others, last = get_args(field.annotation)
    return f"{', '.join(others)} or {last}"


def find_unknown_variables() -> dict[str, str]:
    """The variables with our prefix in the environment that are no settings, each with the nearest that is one."""
    real = [variable(name) for name in Settings.model_fields]
    given = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in real)
    return {name: difflib.get_close_matches(name.upper(), real, n=1, cutoff=0)[0] for name in given}
