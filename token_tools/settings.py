"""Which settings are there, what do they mean, and which values are refused? Every setting is declared once, here.

A setting is an environment variable with the prefix `QUMULO_`, a command-line option and a key of `config.toml` of the
same words. A secret is never a command-line option, because every user of the machine can read those.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from ipaddress import IPv6Address
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from token_tools.certificates import parse_fingerprint, read_certificates
from token_tools.credential_sources import READERS, parse_command
from token_tools.credentials import BearerToken
from token_tools.errors import SettingsError
from token_tools.operator_input import check_expanded, check_ordinary, format_input, strip_invisible
from token_tools.paths import AbsolutePath, find_state_dir
from token_tools.posix import IS_WINDOWS
from token_tools.quoting import is_visible
from token_tools.redaction import remember_secret_permanently
from token_tools.setting_names import variable_name
from token_tools.system_keyring import KeyringEntry, parse_keyring_entry
from token_tools.times import parse_duration, parse_lifetime

_WHY_NO_FILES: Final = "where nothing shows this server who else can read a file"
SECRET_SETTINGS: Final = frozenset({"bearer_token", "state_url", "http_state_keys"})
"""Settings whose value must never be repeated."""
CREDENTIAL_SETTINGS: Final = ("bearer_token", *READERS)
"""The settings of which one at most has or names the server's own credential."""
RANDOM_SETTINGS: Final = frozenset({"http_client_id"})
"""Settings whose value somebody else has made up, so that it may look like a secret and be none."""
DEFAULT_PORT: Final = 8000
MAX_PORT: Final = 65535
_NAME_OR_IPV4: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_MAX_HOST_CHARS: Final = 253
_MAX_LABEL_CHARS: Final = 63
"""Characters of a DNS name, and of each label between its dots. Source: RFC 1035, section 2.3.4."""
_DATABASE_HOST: Final = r"(?:\[[0-9A-Fa-f:.%]*\]|[^][:/?@,\s]*)(?::\d+)?"
_DATABASE_URL: Final = re.compile(
    rf"postgres(?:ql)?://(?:[^@/\s]*@)?{_DATABASE_HOST}(?:,{_DATABASE_HOST})*(?:/[^@?\s]*)?(?:\?\S*)?"
)
"""A URL for libpq, strict about hosts and ports: libpq would quote parts of a password that is not encoded as these."""
_URL_PASSWORD: Final = re.compile(r"://[^:@]*:([^?]+)@|[?&](?:ssl)?password=([^&]+)")


def _coerce_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else _check_unit(value)


def _coerce_lifetime(value: object) -> object:
    return parse_lifetime(value) if isinstance(value, str) else _check_unit(value)


def _check_unit(value: object) -> object:
    if isinstance(value, timedelta | None):
        return value
    raise ValueError("must be a text with a unit, such as 30s or 90d")


def _coerce_command(value: object) -> object:
    return parse_command(value)


def _coerce_fingerprint(value: object) -> object:
    return None if value is None else parse_fingerprint(str(value))


def _coerce_keyring_entry(value: object) -> object:
    return value if value is None or isinstance(value, KeyringEntry) else parse_keyring_entry(str(value))


Command = Annotated[tuple[str, ...], BeforeValidator(_coerce_command)]
Duration = Annotated[timedelta, BeforeValidator(_coerce_duration)]
Lifetime = Annotated[timedelta | None, BeforeValidator(_coerce_lifetime)]
Confirm = Literal["all", "risky", "none"]


def _validate_database_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    check_expanded(text)
    if not _DATABASE_URL.fullmatch(text) or not is_visible(text):
        raise ValueError(
            "must be the URL of a PostgreSQL database, postgresql://USER@HOST/DATABASE; a password in it has %40 for @ "
            "and %2F for /"
        )
    remember_url_password(text)
    return url


DatabaseUrl = Annotated[SecretStr, AfterValidator(_validate_database_url)]
"""The URL of a database, with a password in it perhaps."""


class CleanSettings(BaseModel):
    """How the value of every setting is taken: without invisible characters, and refused if it is a secret."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _coerce_clean_values(cls, values: dict[str, object]) -> dict[str, object]:
        cleaned = {name: strip_invisible(value) if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("*", mode="before")
    @classmethod
    def _validate_ordinary(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and info.field_name not in SECRET_SETTINGS | RANDOM_SETTINGS:
            check_ordinary(value)
        # To Python, `true` is the number 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is int:
            raise PydanticCustomError("int_type", "no number")
        return value


class ConnectionSettings(CleanSettings):
    """Which cluster is administered, how it is reached, and with which credential."""

    host: str = Field(description="Cluster address: a DNS name or an IP address")
    port: int = Field(default=DEFAULT_PORT, ge=1, le=MAX_PORT, description="REST port of the cluster")
    bearer_token: BearerToken | None = Field(
        default=None, description="The credential that the server itself works with"
    )
    bearer_token_file: AbsolutePath | None = Field(
        default=None,
        description="File with the bearer token alone in it; read again when the cluster answers 401, a pipe only once",
    )
    credentials_file: AbsolutePath | None = Field(
        default=None,
        description="File in the format of qq's credentials store, instead of the bearer token; "
        "read again when the cluster answers 401, a pipe only once",
    )
    credentials_command: Command | None = Field(
        default=None,
        description="Command, run without a shell, that prints the bearer token or qq's credentials store within 10s; "
        "run again when the cluster answers 401",
    )
    keyring: Annotated[KeyringEntry | None, BeforeValidator(_coerce_keyring_entry)] = Field(
        default=None,
        description="SERVICE/ACCOUNT of the entry with the bearer token in the system's keyring; read again when the "
        "cluster answers 401",
    )
    ca_file: AbsolutePath | None = Field(
        default=None, description="PEM file of certificates to trust besides the system's trust store"
    )
    fingerprint: Annotated[str | None, BeforeValidator(_coerce_fingerprint)] = Field(
        default=None,
        description="SHA-256 of the cluster's own certificate: trust that one and no other, whatever is written in it",
    )
    verify_tls: bool = Field(default=True, description="false: do not verify the cluster's certificate")
    timeout: Duration = Field(default=timedelta(seconds=30), description="Whole time for one request, such as 30s")

    @field_validator("host")
    @classmethod
    def _validate_host(cls, host: str) -> str:
        host = host.strip("[]")
        if not _NAME_OR_IPV4.fullmatch(host):
            return _parse_ipv6(host)
        if len(host) > _MAX_HOST_CHARS or not all(0 < len(label) <= _MAX_LABEL_CHARS for label in host.split(".")):
            raise ValueError(
                f"must be a name that can exist: at most {_MAX_HOST_CHARS} characters, and 1 to {_MAX_LABEL_CHARS} "
                "between its dots"
            )
        return host

    @property
    def address(self) -> str:
        """Return the host and the port as people write them: `cluster.example.com:8000`, `[2001:db8::1]:8000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Restrictions(CleanSettings):
    """What may be done to a cluster. Of several values the strictest one holds, wherever each is set."""

    read_only: bool = Field(default=False, description="Do not offer the tools that write")
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
        "one live longer or for ever, and a new one for the built-in administrator or for whom the cluster did not "
        "identify)",
    )
    max_changes: int = Field(
        default=30, ge=0, le=1_000_000, description="Changes of tokens that may be made in an hour; 0 for no bound"
    )


STRICTNESS: Final[Mapping[str, Callable[[Any], float]]] = {
    "read_only": float,
    "default_lifetime": lambda lifetime: -(lifetime or timedelta.max).total_seconds(),
    "max_lifetime": lambda lifetime: -lifetime.total_seconds(),
    "confirm": ("none", "risky", "all").index,
    "max_changes": lambda count: -(count or math.inf),
}
"""For each restriction, a number that is the greater the stricter a value is."""


class StateSettings(CleanSettings):
    """Where the record of all changes is kept, and how long."""

    state_dir: AbsolutePath = Field(
        default_factory=find_state_dir,
        description="Folder of the journal and, unless they have others, of new bearer tokens and exported files",
    )
    state_url: DatabaseUrl | None = Field(
        default=None,
        description="PostgreSQL for the journal instead of a file in that folder, for servers on several machines to "
        "share: postgresql://USER@HOST/DATABASE, as libpq reads it",
    )
    keep_record: Duration = Field(
        default=timedelta(days=400), description="How long the journal keeps what is finished, such as 400d"
    )

    @field_validator("keep_record")
    @classmethod
    def _validate_keep_record(cls, keep_record: timedelta) -> timedelta:
        if keep_record < timedelta(days=1):
            raise ValueError("must be at least 1d")
        return keep_record


class ConfigSettings(CleanSettings):
    """Where the settings are that are not given otherwise."""

    config: AbsolutePath | None = Field(
        default=None, description="File with these settings, and a table for each of several clusters"
    )


def _validate_pickup_time(pickup_time: timedelta) -> timedelta:
    if not timedelta(minutes=1) <= pickup_time <= timedelta(days=1):
        raise ValueError("must be from 1min to 1d")
    return pickup_time


def _find_default_delivery() -> Literal["file", "keyring"]:
    return "keyring" if IS_WINDOWS else "file"


class Settings(ConfigSettings, StateSettings, Restrictions, ConnectionSettings):
    """The decisions of the operator about one cluster. `configuration` loads them."""

    delivery: Literal["file", "keyring", "command", "pickup", "inline", "none"] = Field(
        default_factory=_find_default_delivery,
        description="Where a new bearer token goes: to a file, to the system's keyring, to a command, over HTTP to a "
        "page where the person who asked picks it up, or inline into the answer and so to the model; none: no token "
        "can be created",
    )
    pickup_time: Annotated[Duration, AfterValidator(_validate_pickup_time)] = Field(
        default=timedelta(minutes=15),
        description="How long a new bearer token waits to be picked up, such as 15min; then its token is deleted again",
    )
    delivery_command: Command | None = Field(
        default=None,
        description="Command, run without a shell, that gets a new bearer token on stdin and has to end with 0 within "
        "1m",
    )
    delivery_check: Command | None = Field(
        default=None, description="Command that is run before a token is created, without one, and has to end with 0"
    )
    delivery_dir: AbsolutePath = Field(
        default_factory=lambda values: values["state_dir"] / "tokens",
        description="Folder for new bearer tokens",
    )
    report_dir: AbsolutePath = Field(
        default_factory=lambda values: values["state_dir"] / "reports",
        description="Folder for exported files of all tokens; if it is named, a server that only reads writes them too",
    )

    _bearer_at_start: SecretStr | None = PrivateAttr(default=None)
    """The credential once it was read, so that a start runs a command once."""
    _has_distant_callers: bool = PrivateAttr(default=False)
    """Whether callers cannot reach the disk of this machine."""
    _is_login_of_qq: bool = PrivateAttr(default=False)
    """Whether no setting named the credentials file, and it is the store that qq itself uses."""

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        unverified = () if self.verify_tls else ("{verify_tls}=false",)
        _check_one_at_most(map(_place_name, self._list_given(CREDENTIAL_SETTINGS)))
        _check_one_at_most([*map(_place_name, self._list_given(("ca_file", "fingerprint"))), *unverified])
        for folder in ("delivery_dir", "state_dir"):
            if os.path.realpath(self.report_dir) == os.path.realpath(getattr(self, folder)):
                raise ValueError(
                    f"{{report_dir}} and {_place_name(folder)} are one folder: reports need one of their own"
                )
        if IS_WINDOWS:
            self._check_windows()
        if (self.delivery == "command") != (self.delivery_command is not None):
            raise ValueError("{delivery}=command and {delivery_command} belong together: set both")
        if self.delivery_check is not None and self.delivery != "command":
            raise ValueError("{delivery_check} is for {delivery}=command: set that too, or remove it")
        default = self.default_lifetime if "default_lifetime" in self.model_fields_set else timedelta()
        if self.max_lifetime is not None and (default is None or default > self.max_lifetime):
            raise ValueError("{default_lifetime} is longer than {max_lifetime} allows")
        return self

    def _check_windows(self) -> None:
        if self.delivery == "file":
            raise ValueError(f"{{delivery}}=file is not for Windows, {_WHY_NO_FILES}: set {{delivery}}=keyring")
        if self.delivery == "command":
            raise ValueError(
                "{delivery}=command is not for Windows, where this server cannot see whether a program has read what "
                "it was given: set {delivery}=keyring"
            )
        if "report_dir" in self.model_fields_set:
            raise ValueError(f"{{report_dir}} is not for Windows, {_WHY_NO_FILES}: remove it")

    def _list_given(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def with_login_of_qq(self, store: Path | None) -> Self:
        """Return the settings with the store that qq itself uses as the credentials file; None if there is none."""
        settings = self.model_copy(update={"credentials_file": store})
        settings._is_login_of_qq = store is not None  # noqa: SLF001 - it is of this class, and has no other way in
        return settings

    def for_distant_callers(self, *, default_delivery: Literal["pickup", "none"]) -> Self:
        """Return the settings for callers on other machines: no file is a place for anything, unless one is named.

        Without a named destination, new bearer tokens go to the default one.
        """
        destination = {} if "delivery" in self.model_fields_set else {"delivery": default_delivery}
        settings = self.model_copy(update=destination)
        settings._has_distant_callers = True  # noqa: SLF001 - it is of this class, and has no other way in
        return settings

    @property
    def is_login_of_qq(self) -> bool:
        """Tell whether the credential is a login of qq that no setting names: qq writes it, and nobody else."""
        return self._is_login_of_qq

    @property
    def credential_setting(self) -> str | None:
        """Return the setting that has or names the server's credential, None if none does."""
        # What a pipe gave is kept as the bearer token, beside the setting that names the pipe.
        return next(iter(self._list_given((*READERS, "bearer_token"))), None)

    @property
    def credential_location(self) -> str:
        """Return where the operator keeps the server's credential, as texts name it: the setting, and what it names."""
        name = self.credential_setting or "bearer_token"
        if name == "bearer_token":
            return variable_name(name)
        if self.credentials_command is not None:
            return f"{variable_name(name)}'s output"
        return f"{variable_name(name)} ({format_input(str(getattr(self, name)))})"

    @property
    def may_create_tokens(self) -> bool:
        """Tell whether tokens can be created: a new bearer token needs a place to go."""
        return not self.read_only and self.delivery != "none"

    @property
    def may_write_reports(self) -> bool:
        """Tell whether files may be exported.

        A server that only reads, or that has distant callers, needs a folder that the operator has named. On Windows
        none may be named.
        """
        needs_name = IS_WINDOWS or self.read_only or self._has_distant_callers
        return not needs_name or "report_dir" in self.model_fields_set

    def read_bearer(self) -> SecretStr:
        """Return the server's credential as it is now; what names it is read again at each call. This may take seconds.

        Raises:
            SettingsError: If there is no credential, or what names it is unusable.
        """
        if self.bearer_token is not None:
            return self.bearer_token
        if self.credential_setting is None:
            *others, last = map(variable_name, CREDENTIAL_SETTINGS)
            raise SettingsError(
                f"{', '.join(others)} or {last} has to be set, "
                f"or a login of qq be there: `qq --host {self.host} login`."
            )
        return READERS[self.credential_setting](getattr(self, self.credential_setting))

    def read_bearer_at_start(self) -> SecretStr:
        """Return the server's credential as the first call of this method read it.

        Raises:
            SettingsError: For the reasons of `read_bearer`.
        """
        if self._bearer_at_start is None:
            self._bearer_at_start = self.read_bearer()
        return self._bearer_at_start

    def read_certificates(self) -> str | None:
        """Return the certificates to trust besides the system's, in PEM; None if no file is set.

        The file is read again at each call.

        Raises:
            SettingsError: If the file is unusable.
        """
        try:
            return None if self.ca_file is None else read_certificates(self.ca_file)
        except ValueError as reason:
            raise SettingsError(f"QUMULO_CA_FILE names {format_input(str(self.ca_file))}, which {reason}.") from None


def _check_one_at_most(given: Iterable[str]) -> None:
    if len(names := [*given]) > 1:
        raise ValueError(f"{' and '.join(names)} contradict each other: keep one")


def _place_name(setting: str) -> str:
    """Return what stands for the name of a setting, which depends on where it is set."""
    return f"{{{setting}}}"


def _parse_ipv6(host: str) -> str:
    """Return an address in its shortest form, so that two spellings of it are one cluster."""
    try:
        return IPv6Address(host).compressed
    except ValueError:
        raise ValueError("must be a name or an address alone; a port goes into QUMULO_PORT") from None


def remember_url_password(url: str) -> None:
    """Remember the passwords in a URL: the one before the host, and one among its parameters."""
    for password in filter(None, chain.from_iterable(_URL_PASSWORD.findall(url))):
        for spelling in {password, unquote(password)}:
            remember_secret_permanently(SecretStr(spelling))
