"""Which settings are there, what do they mean, and which values are refused? Every setting is declared once, here.

A setting is an environment variable with the prefix `QUMULO_` and a command-line option of the same words. A secret is
never a command-line option, because every user of the machine can read those.
"""

import difflib
import logging
import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from ipaddress import IPv6Address
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from token_tools.certificates import parse_fingerprint, read_certificates
from token_tools.credential_sources import READERS, parse_command
from token_tools.credentials import (
    BearerToken,
    FileSetting,
    find_default_store,
    is_readable_by_others,
    read_bearer_once,
)
from token_tools.errors import SettingsError
from token_tools.file_reading import read_mode
from token_tools.operator_input import (
    check_expanded,
    check_ordinary,
    format_input,
    render_refused_input,
    strip_invisible,
)
from token_tools.paths import AbsolutePath, find_config_home, find_home, find_state_dir, validate_path
from token_tools.quoting import is_visible
from token_tools.redaction import has_likely_secret, remember_secret, remember_secret_permanently
from token_tools.system_keyring import KeyringEntry, parse_keyring_entry
from token_tools.times import parse_duration, parse_lifetime

ENV_PREFIX: Final = "QUMULO_"
SECRET_SETTINGS: Final = frozenset({"bearer_token", "state_url"})
"""Settings whose value must never be repeated."""
RESTRICTING_VARIABLES: Final = frozenset(
    {
        "QUMULO_CONFIRM",
        "QUMULO_DEFAULT_LIFETIME",
        "QUMULO_DELIVERY",
        "QUMULO_FINGERPRINT",
        "QUMULO_KEEP_RECORD",
        "QUMULO_MAX_CHANGES",
        "QUMULO_MAX_LIFETIME",
        "QUMULO_READ_ONLY",
        "QUMULO_STATE_URL",
        "QUMULO_VERIFY_TLS",
    }
)
"""Settings that restrict something. If one is misspelt, the server does not start: it would do more than was meant."""
CREDENTIAL_SETTINGS: Final = ("bearer_token", *READERS)
"""The settings of which one at most has or names the server's own credential."""
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
_WORD: Final = re.compile("[a-z0-9]+")
_MIN_SIMILARITY: Final = 0.8
"""How similar two names are, from 0 to 1, if one may be a misspelling of the other."""
_MIN_BEGINNING_CHARS: Final = 4
_MIN_WORD_CHARS: Final = 6
"""A name may mean a setting whose name begins with so many of its letters, or shares so long a word with it."""
_AMBIGUOUS_WORDS: Final = {"default"}
"""Long words that do not identify a setting: other tools of the vendor have a QUMULO_DEFAULT_USER."""
_SYNONYMS: Final[dict[str, str]] = dict.fromkeys(["ttl", "expiry", "expiration"], "lifetime") | {
    "maximum": "max",
    "nowrite": "readonly",
    "ro": "readonly",
}
_LOG: Final = logging.getLogger(__name__)


def _coerce_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _coerce_lifetime(value: object) -> object:
    return parse_lifetime(value) if isinstance(value, str) else value


def _coerce_command(value: object) -> object:
    return None if value is None else parse_command(value)


def _coerce_fingerprint(value: object) -> object:
    return None if value is None else parse_fingerprint(str(value))


def _coerce_keyring_entry(value: object) -> object:
    return value if value is None or isinstance(value, KeyringEntry) else parse_keyring_entry(str(value))


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


class _CleanSettings(BaseSettings):
    """How every setting is read: from the environment, without invisible characters, and refused if it is a secret."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _coerce_clean_values(cls, values: dict[str, object]) -> dict[str, object]:
        cleaned = {name: strip_invisible(value) if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("*", mode="before")
    @classmethod
    def _validate_ordinary(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and info.field_name not in SECRET_SETTINGS:
            check_ordinary(value)
        return value


class ClusterSettings(_CleanSettings):
    """Which cluster is administered, with which credential, and what may be done to it."""

    host: str = Field(description="Cluster address: a DNS name or an IP address")
    port: int = Field(default=8000, ge=1, le=MAX_PORT, description="REST port of the cluster")
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
    credentials_command: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_coerce_command)] = Field(
        default=None,
        description="Command, run without a shell, that prints the bearer token or qq's credentials store within 10s; "
        "run again when the cluster answers 401",
    )
    keyring: Annotated[KeyringEntry | None, NoDecode, BeforeValidator(_coerce_keyring_entry)] = Field(
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

    @field_validator("host")
    @classmethod
    def _validate_host(cls, host: str) -> str:
        host = host.strip("[]")
        if not _NAME_OR_IPV4.fullmatch(host):
            _check_ipv6(host)
        elif len(host) > _MAX_HOST_CHARS or not all(0 < len(label) <= _MAX_LABEL_CHARS for label in host.split(".")):
            raise ValueError(
                f"must be a name that can exist: at most {_MAX_HOST_CHARS} characters, and 1 to {_MAX_LABEL_CHARS} "
                "between its dots"
            )
        return host

    @field_validator("ca_file")
    @classmethod
    def _validate_ca_file(cls, ca_file: Path | None) -> Path | None:
        if ca_file is not None:
            _read_certificates(ca_file)
        return ca_file


class StateSettings(_CleanSettings):
    """Where the record of all changes is kept, how long, and how many changes may be made.

    Use `load_state_settings`, or `load_settings` for all settings.
    """

    state_dir: AbsolutePath = Field(
        default_factory=find_state_dir,
        description="Folder of the journal and, unless they have one of their own, of new bearer tokens",
    )
    state_url: DatabaseUrl | None = Field(
        default=None,
        description="PostgreSQL for the journal instead of a file in that folder, for servers on several machines to "
        "share: postgresql://USER@HOST/DATABASE, as libpq reads it",
    )
    keep_record: Duration = Field(
        default=timedelta(days=400), description="How long the journal keeps what is finished, such as 400d"
    )
    max_changes: int = Field(
        default=30, ge=0, le=1_000_000, description="Changes of tokens that may be made in an hour; 0 for no bound"
    )

    @field_validator("keep_record")
    @classmethod
    def _validate_keep_record(cls, keep_record: timedelta) -> timedelta:
        if keep_record < timedelta(days=1):
            raise ValueError("must be at least 1d")
        return keep_record


class Settings(StateSettings, ClusterSettings):
    """The decisions of the operator. Use `load_settings` to get them complete and free of contradictions."""

    delivery: Literal["file", "keyring", "inline"] = Field(
        default="file",
        description="Where a new bearer token goes: to a file, to the system's keyring, or inline into the answer "
        "and so to the model",
    )
    delivery_dir: AbsolutePath = Field(
        default_factory=lambda values: values["state_dir"] / "tokens",
        description="Folder for new bearer tokens",
    )

    _bearer_at_start: SecretStr | None = PrivateAttr(default=None)
    """The credential once it was read, so that a start runs a command once."""

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        unverified = () if self.verify_tls else ("QUMULO_VERIFY_TLS=false",)
        _check_one_at_most(map(variable_name, self._list_given(CREDENTIAL_SETTINGS)))
        _check_one_at_most([*map(variable_name, self._list_given(("ca_file", "fingerprint"))), *unverified])
        default = self.default_lifetime if "default_lifetime" in self.model_fields_set else timedelta()
        if self.max_lifetime is not None and (default is None or default > self.max_lifetime):
            raise ValueError("QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME allows")
        return self

    @property
    def address(self) -> str:
        """Return the host and the port as people write them: `cluster.example.com:8000`, `[2001:db8::1]:8000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _list_given(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

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
            return None if self.ca_file is None else _read_certificates(self.ca_file)
        except ValueError as reason:
            raise SettingsError(f"QUMULO_CA_FILE {reason}.") from None


def _check_one_at_most(given: Iterable[str]) -> None:
    if len(names := [*given]) > 1:
        raise ValueError(f"{' and '.join(names)} contradict each other: keep one")


def _check_ipv6(host: str) -> None:
    try:
        IPv6Address(host)
    except ValueError:
        raise ValueError("must be a name or an address alone; a port goes into QUMULO_PORT") from None


def _read_certificates(ca_file: Path) -> str:
    try:
        return read_certificates(ca_file)
    except ValueError as reason:
        raise ValueError(f"names {format_input(str(ca_file))}, which {reason}") from None


def variable_name(field: str) -> str:
    """Return the environment variable of a setting: `QUMULO_CA_FILE` for `ca_file`."""
    return ENV_PREFIX + field.upper()


def remember_given_secrets() -> None:
    """Remember the secrets in the environment before anything is validated, so that no error can repeat one."""
    for name, value in os.environ.items():
        if name.upper() == variable_name("state_url"):
            remember_url_password(value)
        elif name.upper() in map(variable_name, SECRET_SETTINGS) and has_likely_secret(value):
            remember_secret(SecretStr(strip_invisible(value)))


def remember_url_password(url: str) -> None:
    """Remember the passwords in a URL: the one before the host, and one among its parameters."""
    for password in filter(None, chain.from_iterable(_URL_PASSWORD.findall(url))):
        for spelling in {password, unquote(password)}:
            remember_secret_permanently(SecretStr(spelling))


def load_state_settings(options: Mapping[str, Any]) -> StateSettings:
    """Return the settings of the record alone, for commands that need no cluster.

    Raises:
        SettingsError: If a setting is unusable; one line names each of these.
    """
    _check_options(options)
    try:
        return StateSettings(**options)
    except ValidationError as invalid:
        raise SettingsError("; ".join(map(_render_mistake, invalid.errors()))) from None


def load_settings(options: Mapping[str, Any]) -> Settings:
    """Return the settings from the environment; the `options` of the command line take precedence.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    _check_variables()
    _check_options(options)
    try:
        settings = Settings(**options)
    except ValidationError as invalid:
        # If any setting is invalid, pydantic also reports every default that is computed from other settings.
        mistakes = [mistake for mistake in invalid.errors() if mistake["type"] != "default_factory_not_called"]
        raise SettingsError("; ".join(map(_render_mistake, mistakes))) from None
    if settings.credential_setting is None:
        settings = settings.model_copy(update={"credentials_file": _find_qq_store(settings)})
    return _load_credential(settings)


def _check_options(options: Mapping[str, Any]) -> None:
    # An empty variable counts as absent, but an empty option on the command line is a mistake.
    for name, value in options.items():
        if isinstance(value, str) and not strip_invisible(value):
            raise SettingsError(f"{variable_name(name)} is given as an option, and without a value.")


def _load_credential(settings: Settings) -> Settings:
    """Return the settings once their credential could be read. They keep what a pipe gave, since it gives it once."""
    files: dict[FileSetting, Path | None] = {
        "bearer_token_file": settings.bearer_token_file,
        "credentials_file": settings.credentials_file,
    }
    for setting, path in files.items():
        if path is not None:
            return _load_credential_file(settings, setting, path)
    settings.read_bearer_at_start()
    return settings


def _load_credential_file(settings: Settings, setting: FileSetting, path: Path) -> Settings:
    if stat.S_ISFIFO(read_mode(path)):
        return settings.model_copy(update={"bearer_token": read_bearer_once(path, setting=setting)})
    settings.read_bearer_at_start()
    if is_readable_by_others(path):
        _LOG.warning(
            "%s: other users of this machine can read %s; `chmod 600 %s` by its owner mends that",
            variable_name(setting),
            path,
            shlex.quote(str(path)),
        )
    return settings


def _find_qq_store(settings: Settings) -> Path | None:
    folders: dict[str, Path | None] = {"config_home": None, "home": None}
    with suppress(ValueError):
        folders["config_home"] = find_config_home()
        folders["home"] = find_home()
    store = find_default_store(settings.host, settings.port, **folders)
    try:
        return store and validate_path(store)
    except ValueError as reason:
        raise SettingsError(f"QUMULO_CREDENTIALS_FILE is not set, and the path of qq's own {reason}.") from None


def _render_mistake(mistake: ErrorDetails) -> str:
    name = variable_name(str(mistake["loc"][0])) if mistake["loc"] else ""
    match mistake:
        case {"type": "missing"}:
            return f"{name} is not set: name the cluster, or start with --demo to try without one"
        case {"type": "value_error", "ctx": {"error": error}}:
            sentence = f"{name} {error}".strip()
        case _:
            sentence = f"{name} must be {_render_expected(Settings.model_fields[str(mistake['loc'][0])])}"
    return sentence + _render_invalid_value(mistake, sentence)


def _render_invalid_value(mistake: ErrorDetails, sentence: str) -> str:
    value = mistake["input"]
    is_omitted = not isinstance(value, str) or value in sentence or {*mistake["loc"]} & SECRET_SETTINGS
    return "" if is_omitted else render_refused_input(value)


def _render_expected(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true or false"
    if field.annotation is int:
        lowest, highest = (getattr(bound, name) for bound, name in zip(field.metadata, ("ge", "le"), strict=True))
        return f"a whole number from {lowest} to {highest}"
    *others, last = get_args(field.annotation)
    return f"{', '.join(others)} or {last}"


def _check_variables() -> None:
    """Warn of variables that look like settings but are none, and refuse a misspelt setting that restricts something.

    Raises:
        SettingsError: If there is such a misspelt setting; the text names the first one.
    """
    unknown = find_unknown_variables()
    for name, nearest in unknown.items():
        if nearest in RESTRICTING_VARIABLES and _may_mean(_split_words(name), nearest):
            raise SettingsError(f"{format_input(name)} is no setting: {nearest} is meant? Rename or remove it.")
    for name, nearest in unknown.items():
        near = f"; nearest is {nearest}" if _may_mean(_split_words(name), nearest) else ""
        _LOG.warning("%s is no setting and is ignored%s", format_input(name), near)


def find_unknown_variables() -> dict[str, str]:
    """Return variables of the environment that look like settings but are none, each with the setting it is nearest to.

    They begin with our prefix, or both their prefix and their name are almost right.
    """
    real = [variable_name(name) for name in Settings.model_fields]
    words = {name: _split_words(name) for name in sorted(os.environ) if name.upper() not in real}
    nearest = {name: max(real, key=partial(_name_similarity, own)) for name, own in words.items() if own}
    return {
        name: setting
        for name, setting in nearest.items()
        if name.upper().startswith(ENV_PREFIX) or _may_mean(words[name], setting)
    }


def _split_words(name: str) -> list[str]:
    """Return the words of a variable's name after our prefix; none if it does not begin with something like it."""
    first, *rest = _WORD.findall(name.casefold()) or [""]
    prefix = ENV_PREFIX.rstrip("_").casefold()
    if first.startswith(prefix) or len(first) > len(prefix) + 1:
        # The underscore after the prefix is missing: split where the prefix ends.
        first, rest = first[: len(prefix)], [first[len(prefix) :], *rest]
    if _similarity(first, prefix) < _MIN_SIMILARITY:
        return []
    return [str(_SYNONYMS.get(word, word)) for word in rest if word]


def _may_mean(words: list[str], setting: str) -> bool:
    """Tell whether the words of a variable's name may be a misspelling of a setting."""
    joined, name = "".join(words), "".join(_split_words(setting))
    begins = joined.startswith(name) or (len(joined) >= _MIN_BEGINNING_CHARS and name.startswith(joined))
    shared = {*words} & {*_split_words(setting)}
    is_named = shared == {*_split_words(setting)} or any(
        len(word) >= _MIN_WORD_CHARS for word in shared - _AMBIGUOUS_WORDS
    )
    return begins or is_named or _name_similarity(words, setting) >= _MIN_SIMILARITY


def _name_similarity(words: list[str], setting: str) -> float:
    """Return how similar a name and a setting's name are, from 0 to 1, whatever the order of their words."""
    name = _split_words(setting)
    return max(_similarity("".join(words), "".join(name)), _similarity("".join(sorted(words)), "".join(sorted(name))))


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
