"""Where do settings come from, and which value holds?

A setting is an option of the command line, a variable of the environment, or a key of `config.toml`: in the table of a
cluster, or on top for all clusters. The option holds before the variable, and both hold before the top of the file; the
table holds before all of them. Of what restricts, the strictest value holds wherever it is set.
"""

import difflib
import logging
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast, get_args
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from token_tools.config_file import (
    CLUSTERS,
    CONNECTION_KEYS,
    DESCRIPTION,
    ConfigFile,
    format_table_key,
    name_table_keys,
    read_config_file,
    validate_description,
)
from token_tools.credential_sources import READERS
from token_tools.credentials import FileSetting, find_default_store, is_readable_by_others, read_bearer_once
from token_tools.errors import SettingsError, UsageError
from token_tools.file_reading import read_mode
from token_tools.http_settings import FIELDS, HttpSettings
from token_tools.operator_input import format_input, render_refused_input, strip_invisible
from token_tools.paths import find_config_file, find_config_home, find_home, validate_path
from token_tools.redaction import has_likely_secret, remember_secret, remember_secret_permanently
from token_tools.setting_names import ENV_PREFIX, find_nearest, may_mean, variable_name
from token_tools.settings import (
    SECRET_SETTINGS,
    STRICTNESS,
    ConfigSettings,
    ConnectionSettings,
    Restrictions,
    Settings,
    StateSettings,
    remember_url_password,
)

RESTRICTING_SETTINGS: Final = (Restrictions.model_fields.keys() | HttpSettings.model_fields.keys()) | {
    "config",
    "delivery",
    "delivery_check",
    "fingerprint",
    "keep_record",
    "pickup_time",
    "state_url",
    "verify_tls",
}
"""Settings that restrict something. If one is misspelt, the server does not start: it would do more than was meant."""

_NAMES_OF_CLUSTERS: Final = {variable_name(word) for word in ("cluster", "clusters")}
"""What looks as if it chose clusters. A server that ignored it would serve all of them."""

_PLACES: Final = {
    "bearer_token": "remove it, and name by QUMULO_BEARER_TOKEN_FILE, QUMULO_CREDENTIALS_COMMAND or QUMULO_KEYRING "
    "where the bearer token is, or log in by `qq`",
    "state_url": "remove it, and write state_url into config.toml, which only its owner may read",
}
"""Where a secret belongs that another process needs."""

_BASE_FOLDERS: Final = ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
"""The variables that say where the default folders are."""

Signal = Literal["traces", "metrics"]
"""What OpenTelemetry can send of this server."""

_OTLP_PROTOCOL: Final = "http/protobuf"
_LOG: Final = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Profile:
    """A cluster, and the operator's decisions about it.

    `name` and `description` tell it from the other clusters of this server; `name` is None if it is the only one.
    `origins` say for each setting that is set where that is: `--host`, `QUMULO_HOST`, `/…/config.toml: [clusters.lab]
    host`. `table` is the name of its table in config.toml, None if it has none, and `file` is that file.
    """

    settings: Settings
    name: str | None = None
    description: str = ""
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    table: str | None = None
    file: Path | None = None

    def for_distant_callers(self, service: HttpSettings) -> "Profile":
        """Return the cluster as it is served over HTTP.

        Raises:
            SettingsError: If new bearer tokens are to be picked up where nobody can sign in for that.
        """
        default: Literal["pickup", "none"] = "pickup" if service.offers_pickup else "none"
        settings = self.settings.for_distant_callers(default_delivery=default)
        if settings.delivery == "pickup" and not service.offers_pickup:
            raise SettingsError(
                "QUMULO_DELIVERY=pickup lets people sign in to pick up a bearer token, for which QUMULO_HTTP_ISSUER, "
                "QUMULO_HTTP_CLIENT_ID and QUMULO_HTTP_STATE_KEYS have to be set."
            )
        return replace(self, settings=settings)

    @property
    def label(self) -> str:
        """The cluster as texts name it: `cluster.example.com:8000`, or `lab (lab.example.com:8000)` among others."""
        return self.settings.address if self.name is None else f"{self.name} ({self.settings.address})"


class _Layer(NamedTuple):
    """Settings from one source, as they are written there, how errors name each of them, and where it is set."""

    values: Mapping[str, object]
    format_name: Callable[[str], str]
    format_origin: Callable[[str], str]

    def narrow(self, name: str) -> "_Layer":
        """Return the layer with one of its settings alone."""
        return self._replace(values={name: self.values[name]})


def load_profiles(options: Mapping[str, Any], *, clusters: Sequence[str] = ()) -> Sequence[Profile]:
    """Return the clusters that the configuration names, once the files that they name could be read.

    They are the chosen ones, or else all, in the order of the file.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    return [replace(profile, settings=read_named(profile)) for profile in find_profiles(options, clusters=clusters)]


def find_profiles(options: Mapping[str, Any], *, clusters: Sequence[str] = ()) -> Sequence[Profile]:
    """Return the clusters that the configuration names; what their settings name is not looked at.

    They are the chosen ones, or else all, in the order of the file.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    given = _read_given(options)
    file = _find_config_file(given)
    if file is None or not file.clusters:
        if clusters:
            raise SettingsError(
                f"--cluster {format_input(clusters[0])} chooses a table [{CLUSTERS}.NAME] of config.toml, "
                f"and {f'{file.path} has none' if file else 'there is no such file'}."
            )
        settings, origins = _load(_list_server_layers(given, file))
        return [Profile(settings, origins=origins, file=file.path if file else None)]
    _check_tables_alone(given, file)
    profiles = [_load_profile(name, file, given) for name in file.clusters]
    _check_addresses(profiles, file)
    chosen = _choose(profiles, clusters)
    return chosen if len(chosen) > 1 else [replace(chosen[0], name=None, description="")]


def read_named(profile: Profile) -> Settings:
    """Return the settings of a cluster, once its certificates and its credential could be read.

    They keep what a pipe gave, since it gives it once.

    Raises:
        SettingsError: If one of them is unusable. It is named as it is set: by its variable, or by its key.
    """
    if profile.table is None:
        return _read_named(profile.settings)
    if profile.settings.credential_setting is None:
        *others, last = READERS
        keys = f"{', '.join(others)} or {last}"
        raise SettingsError(
            f"{profile.file}: {format_table_key(profile.table, keys)} has to be set, or a login of qq be there: "
            f"`qq --host {profile.settings.host} login`."
        )
    try:
        return _read_named(profile.settings)
    except SettingsError as failure:
        raise SettingsError(f"{profile.file}: {name_table_keys(str(failure), profile.table)}") from None


def load_given_variables(options: Mapping[str, Any], *, clusters: Sequence[str] = ()) -> Mapping[str, str]:
    """Return the variables with which another process would serve what this one would with these options.

    They were checked together with config.toml; the credential was not read. The other process may have none of the
    variables of this one.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable, or if one is a secret.
    """
    given = _read_given(options)
    for name in sorted(_PLACES.keys() & given.values.keys()):
        raise SettingsError(f"{variable_name(name)} is a secret and is not written into a file: {_PLACES[name]}.")
    file = _find_config_file(given)
    if "host" not in given.values and (file is None or not file.clusters):
        raise SettingsError(
            "no cluster is configured yet: `qumulo-token-tools setup` does that, or QUMULO_HOST names one."
        )
    find_profiles(options, clusters=clusters)
    bases = {name: os.environ[name] for name in _BASE_FOLDERS if os.environ.get(name)}
    own = {name: value for name, value in given.values.items() if name in Settings.model_fields}
    return {**format_variables(own), **bases}


def format_variables(options: Mapping[str, Any]) -> Mapping[str, str]:
    """Return settings as variables of the environment: `QUMULO_READ_ONLY` with `true`, a command in shell words."""
    return {variable_name(name): _format_variable(value) for name, value in options.items()}


def _format_variable(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list() | tuple():
            return shlex.join(map(str, cast(Sequence[object], value)))
        case _:
            return str(value)


def find_config(options: Mapping[str, Any]) -> tuple[Path, Mapping[str, Mapping[str, object]]]:
    """Return where config.toml is, or is to be made, and the tables of clusters in it.

    Raises:
        SettingsError: If it is unusable, if it has no place, or if a variable would contradict its tables.
    """
    environment = _read_environment()
    for name in Settings.model_fields:
        if name in CONNECTION_KEYS and name in environment:
            raise UsageError(f"{variable_name(name)} would contradict the table that is to be made: unset it first.")
    path = _validate(ConfigSettings, [_merge_given(options)]).config or find_config_file()
    if path is None:
        raise UsageError("there is no home folder for config.toml: --config names another place.")
    return path, read_config_file(path).clusters if os.path.lexists(path) else {}


def find_login(options: Mapping[str, Any]) -> Profile:
    """Return the cluster that the options name, with the credential that they name, or else qq's own login.

    The tables of config.toml do not count, and nothing that is named is looked at.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable.
    """
    given = _merge_given(options)
    path, _ = find_config(options)
    file = read_config_file(path) if os.path.lexists(path) else None
    settings, origins = _load(_list_server_layers(given, file))
    return Profile(settings, origins=origins)


def load_settings(options: Mapping[str, Any]) -> Settings:
    """Return the settings of one cluster from the environment; the `options` hold before it, and no file counts.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    return _read_named(_load([_read_given(options)])[0])


def load_state_settings(options: Mapping[str, Any]) -> StateSettings:
    """Return the settings of the record alone, for commands that need no cluster.

    Raises:
        SettingsError: If a setting is unusable; one line names each of these.
    """
    _check_options(options)
    given = _merge_given(options)
    return _validate(StateSettings, _list_server_layers(given, _find_config_file(given)))


def load_http_settings(options: Mapping[str, Any]) -> HttpSettings:
    """Return how this server is reached over HTTP, and by whom; the files that the settings name are not looked at.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    _check_options(options)
    # Who loads the clusters as well looks at unknown variables there.
    given = _merge_given(options)
    return _load_http(_list_server_layers(given, _find_config_file(given)))


def find_http_settings(options: Mapping[str, Any]) -> HttpSettings | None:
    """Return what `load_http_settings` does, None if no setting is about HTTP.

    Raises:
        SettingsError: If a setting is missing, contradictory or unusable; one line names each of these.
    """
    given = _merge_given(options)
    layers = _list_server_layers(given, _find_config_file(given))
    is_set = any(name in layer.values for layer in layers for name in HttpSettings.model_fields)
    return _load_http(layers) if is_set else None


def _load_http(layers: Sequence[_Layer]) -> HttpSettings:
    settings = _validate(HttpSettings, layers)
    if settings.http_state_keys is None and _validate(StateSettings, layers).state_url is not None:
        raise SettingsError(
            "QUMULO_STATE_URL is set, and QUMULO_HTTP_STATE_KEYS is not: replicas share keys, so that each of them "
            "can open what another one has sealed. `openssl rand -base64 32` makes one."
        )
    return settings


def find_address(options: Mapping[str, Any], cluster: str) -> str:
    """Return the address of the cluster that `config.toml` calls so, or else what is given if that is HOST:PORT.

    Raises:
        SettingsError: If it is neither, or if the file or that address is unusable.
    """
    file = _find_config_file(_merge_given(options))
    if file is None or cluster not in file.clusters:
        if ":" not in cluster:
            raise _explain_unknown_cluster(cluster, [*file.clusters] if file else [], "; an address has its port")
        return cluster
    place = {name: value for name, value in file.clusters[cluster].items() if name in {"host", "port"}}
    format_name = partial(file.format_cluster_key, cluster)
    return _validate(ConnectionSettings, [_Layer(place, format_name, format_name)]).address


def wants_no_colour() -> bool:
    """Tell whether the user has said that no program shall write in colour. Source: no-color.org."""
    return bool(os.environ.get("NO_COLOR"))


def read_child_environment() -> Mapping[str, str]:
    """Return the environment for a program of the operator: that of this process without its secrets."""
    secrets = {variable_name(name) for name in SECRET_SETTINGS}
    return {name: value for name, value in os.environ.items() if name.upper() not in secrets}


def find_exported_signals() -> Sequence[Signal]:
    """Return what OpenTelemetry is to send: what the operator has named a collector for.

    A collector that wants another protocol gets nothing, of which the log tells. Source: OpenTelemetry's specification
    of environment variables.
    """
    signals: Sequence[Signal] = get_args(Signal)
    named = [signal for signal in signals if _read_otlp(signal, "ENDPOINT") and not _is_switched_off(signal)]
    return [signal for signal in named if _speaks_otlp(signal)]


def _is_switched_off(signal: Signal) -> bool:
    exporter = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "")
    return exporter.strip() == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().casefold() == "true"


def _speaks_otlp(signal: Signal) -> bool:
    protocol = _read_otlp(signal, "PROTOCOL") or _OTLP_PROTOCOL
    if protocol == _OTLP_PROTOCOL:
        return True
    _LOG.warning(
        "No %s are sent: OTEL_EXPORTER_OTLP_PROTOCOL is %s, and this server speaks %s alone",
        signal,
        format_input(protocol),
        _OTLP_PROTOCOL,
    )
    return False


def _read_otlp(signal: Signal, name: str) -> str:
    """Return a variable about sending a signal, or else the one about sending anything."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next(filter(None, (os.environ.get(name, "").strip() for name in names)), "")


def remember_given_secrets() -> None:
    """Remember the secrets in the environment before anything is validated, so that no error can repeat one."""
    for signal in get_args(Signal):
        remember_url_password(_read_otlp(signal, "ENDPOINT"))
        for header in _read_otlp(signal, "HEADERS").split(","):
            # A scheme such as `Bearer` is no secret.
            remember_secret_permanently(SecretStr(unquote(header.partition("=")[2]).rpartition(" ")[2]))
    for name, value in _read_environment().items():
        if name == "state_url":
            remember_url_password(value)
        elif name in SECRET_SETTINGS and has_likely_secret(value):
            remember_secret(SecretStr(strip_invisible(value)))


def _read_given(options: Mapping[str, Any]) -> _Layer:
    """Return what options and variables say."""
    _check_variables()
    _check_options(options)
    return _merge_given(options)


def _merge_given(options: Mapping[str, Any]) -> _Layer:
    def format_origin(name: str) -> str:
        return f"--{name.replace('_', '-')}" if name in options else variable_name(name)

    return _Layer({**_read_environment(), **options}, variable_name, format_origin)


def _list_server_layers(given: _Layer, file: ConfigFile | None) -> Sequence[_Layer]:
    """Return what holds for the whole server, the last one first."""
    return [given] if file is None else [_Layer(file.for_all, file.format_key, file.format_key), given]


def _read_environment() -> Mapping[str, str]:
    """Return the settings among the variables of the environment. An empty variable counts as absent."""
    names = {variable_name(setting): setting for setting in FIELDS}
    return {
        names[variable.upper()]: value
        for variable, value in os.environ.items()
        if variable.upper() in names and strip_invisible(value)
    }


def _check_options(options: Mapping[str, Any]) -> None:
    # An empty variable counts as absent, but an empty option on the command line is a mistake.
    for name, value in options.items():
        if isinstance(value, str) and not strip_invisible(value):
            raise SettingsError(f"{variable_name(name)} is given as an option, and without a value.")


def _find_config_file(given: _Layer) -> ConfigFile | None:
    """Return the file that QUMULO_CONFIG names, or the one in the default place if there is one."""
    named = _validate(ConfigSettings, [given]).config
    path = named or find_config_file()
    if path is None or not os.path.lexists(path):
        if named is None:
            return None
        raise SettingsError(f"QUMULO_CONFIG names {format_input(str(named))}, and there is no such file.")
    file = read_config_file(path)
    if isinstance(url := file.for_all.get("state_url"), str):
        remember_url_password(url)
    return file


def _check_tables_alone(given: _Layer, file: ConfigFile) -> None:
    both = [name for name in Settings.model_fields if name in CONNECTION_KEYS and name in given.values]
    if both:
        raise SettingsError(
            f"{given.format_origin(both[0])} is about one cluster, and {file.path} has tables of clusters: remove the "
            "one or the other. --cluster NAME chooses a table."
        )
    for name in sorted(_NAMES_OF_CLUSTERS & os.environ.keys()):
        raise SettingsError(
            f"{name} is no setting and would choose nothing: the option --cluster NAME chooses clusters."
        )


def _load_profile(name: str, file: ConfigFile, given: _Layer) -> Profile:
    table = dict(file.clusters[name])
    format_name = partial(file.format_cluster_key, name)
    description = table.pop(DESCRIPTION, "")
    try:
        shown = validate_description(description)
    except ValueError as reason:
        raise SettingsError(f"{format_name(DESCRIPTION)} {reason}.") from None
    settings, origins = _load([*_list_server_layers(given, file), _Layer(table, format_name, format_name)])
    return Profile(settings, name, shown, origins, name, file.path)


def _check_addresses(profiles: Iterable[Profile], file: ConfigFile) -> None:
    """Refuse two tables of one cluster, since what the one restricts the other would allow."""
    by_address: dict[str, Profile] = {}
    for profile in profiles:
        other = by_address.setdefault(profile.settings.address.casefold(), profile)
        if other is not profile:
            raise SettingsError(
                f"{file.path}: [{CLUSTERS}.{other.name}] and [{CLUSTERS}.{profile.name}] are the same cluster, "
                f"{profile.settings.address}: keep one."
            )


def _choose(profiles: Sequence[Profile], names: Sequence[str]) -> Sequence[Profile]:
    known = [str(profile.name) for profile in profiles]
    for name in names:
        if name not in known:
            raise _explain_unknown_cluster(name, known)
    return [profile for profile in profiles if not names or profile.name in names]


def _explain_unknown_cluster(name: str, known: Sequence[str], note: str = "") -> UsageError:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"nearest is {nearest[0]}" if nearest else f"there are {', '.join(known) or 'none'}"
    return UsageError(f"--cluster {format_input(name)}: there is no table of that name; {hint}{note}.")


def _load(layers: Sequence[_Layer]) -> tuple[Settings, Mapping[str, str]]:
    """Return what some layers say, the last one first, and where each setting is set."""
    holding = [*layers, *_find_strictest(layers)]
    settings = _validate(Settings, holding)
    origins = {name: layer.format_origin(name) for layer in holding for name in layer.values}
    if settings.credential_setting is None:
        return settings.with_login_of_qq(_find_qq_store(settings)), origins
    return settings, origins


def _find_strictest(layers: Sequence[_Layer]) -> Iterator[_Layer]:
    """Yield what restricts most, for each restriction of which several layers say something."""
    for name in STRICTNESS:
        said = [layer.narrow(name) for layer in layers if name in layer.values]
        if len(said) > 1:
            yield max(said, key=partial(_measure_strictness, name))


def _measure_strictness(name: str, layer: _Layer) -> float:
    return STRICTNESS[name](getattr(_validate(Restrictions, [layer]), name))


def _validate(model: type[_Model], layers: Sequence[_Layer]) -> _Model:
    """Return what some layers say, the last one first.

    Raises:
        SettingsError: If something is missing, contradictory or unusable; one line names each of these.
    """
    values: dict[str, object] = {}
    names: dict[str, str] = {name: layers[-1].format_name(name) for name in FIELDS}
    for layer in layers:
        values |= layer.values
        names |= {name: layer.format_name(name) for name in layer.values}
    try:
        return model.model_validate(values)
    except ValidationError as invalid:
        # If any setting is invalid, pydantic also reports every default that is computed from other settings.
        mistakes = [mistake for mistake in invalid.errors() if mistake["type"] != "default_factory_not_called"]
        raise SettingsError("; ".join(_render_mistake(mistake, names) for mistake in mistakes)) from None


def _render_mistake(mistake: ErrorDetails, names: Mapping[str, str]) -> str:
    name = names[str(mistake["loc"][0])] if mistake["loc"] else ""
    match mistake:
        case {"type": "missing"} if name.startswith(ENV_PREFIX):
            return f"{name} is not set: name the cluster, or start with --demo to try without one"
        case {"type": "missing"}:
            return f"{name} is not set: it names the cluster"
        case {"type": "value_error", "ctx": {"error": error}}:
            sentence = f"{name} {error}".strip() if name else str(error).format_map(names)
        case _:
            sentence = f"{name} must be {_render_expected(FIELDS[str(mistake['loc'][0])])}"
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
    words = [word for word in get_args(field.annotation) if isinstance(word, str)]
    return f"{', '.join(words[:-1])} or {words[-1]}" if words else "a text"


def _read_named(settings: Settings) -> Settings:
    settings.read_certificates()
    files: dict[FileSetting, Path | None] = {
        "bearer_token_file": settings.bearer_token_file,
        "credentials_file": settings.credentials_file,
    }
    for setting, path in files.items():
        if path is not None:
            return _read_credential_file(settings, setting, path)
    settings.read_bearer_at_start()
    return settings


def _read_credential_file(settings: Settings, setting: FileSetting, path: Path) -> Settings:
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


def _check_variables() -> None:
    """Warn of variables that look like settings but are none, and refuse a misspelt setting that restricts something.

    Raises:
        SettingsError: If there is such a misspelt setting; the text names the first one.
    """
    unknown = find_unknown_variables()
    for name, nearest in unknown.items():
        if nearest in RESTRICTING_SETTINGS and may_mean(name, nearest):
            raise SettingsError(
                f"{format_input(name)} is no setting: {variable_name(nearest)} is meant? Rename or remove it."
            )
    for name, nearest in unknown.items():
        near = f"; nearest is {variable_name(nearest)}" if may_mean(name, nearest) else ""
        _LOG.warning("%s is no setting and is ignored%s", format_input(name), near)


def find_unknown_variables() -> Mapping[str, str]:
    """Return variables of the environment that look like settings but are none, each with the setting it is nearest to.

    They begin with our prefix, or both their prefix and their name are almost right.
    """
    settings = [*FIELDS]
    known = {variable_name(setting) for setting in settings}
    nearest = {name: find_nearest(name, settings) for name in sorted(os.environ) if name.upper() not in known}
    return {
        name: setting
        for name, setting in nearest.items()
        if setting is not None and (name.upper().startswith(ENV_PREFIX) or may_mean(name, setting))
    }
