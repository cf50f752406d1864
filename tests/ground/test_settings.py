"""The environment and the command line to settings, including what they refuse and what they hide."""

import importlib
import json
import os
import pwd
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from token_tools.credentials import encode_store, read_bearer
from token_tools.errors import SettingsError
from token_tools.quoting import quote_untrusted
from token_tools.settings import Settings, find_unknown_variables, load_settings

SECRET = "access-v1:SECRETSECRET"
REQUIRED_ENVIRONMENT = {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": SECRET}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture
def credentials_file(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(encode_store(SecretStr(SECRET)))
    return path


def test_every_variable_is_read(
    monkeypatch: pytest.MonkeyPatch, credentials_file: Path, ca_file: Path, tmp_path: Path
) -> None:
    variables = {
        "HOST": "cluster.example.com",
        "PORT": "8443",
        "CREDENTIALS_FILE": str(credentials_file),
        "CA_FILE": str(ca_file),
        "TIMEOUT": "5s",
        "READ_ONLY": "true",
        "DELIVERY": "inline",
        "STATE_DIR": str(tmp_path / "state"),
        "DELIVERY_DIR": str(tmp_path),
        "DEFAULT_LIFETIME": "1w",
        "MAX_LIFETIME": "30d",
        "CONFIRM": "all",
    }
    set_environment(monkeypatch, {f"QUMULO_{name}": value for name, value in variables.items()})

    settings = load_settings({})

    assert settings.model_dump() == {
        "host": "cluster.example.com",
        "port": 8443,
        "bearer_token": None,
        "credentials_file": credentials_file,
        "ca_file": ca_file,
        "verify_tls": True,
        "timeout": timedelta(seconds=5),
        "read_only": True,
        "delivery": "inline",
        "state_dir": tmp_path / "state",
        "delivery_dir": tmp_path,
        "default_lifetime": timedelta(weeks=1),
        "max_lifetime": timedelta(days=30),
        "confirm": "all",
    }
    assert settings.read_bearer().get_secret_value() == SECRET


def test_an_option_comes_before_the_environment_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_PORT": "1", "QUMULO_TIMEOUT": "", "QUMULO_CREDENTIALS_FILE": ""}
    )

    settings = load_settings({"port": "2"})

    assert (settings.port, settings.timeout) == (2, timedelta(seconds=30))


def test_new_tokens_go_to_the_user_s_state_directory_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"XDG_STATE_HOME": str(tmp_path)})

    assert load_settings({}).delivery_dir.parts[-2:] == ("qumulo-token-tools", "tokens")
    assert load_settings({"state_dir": "/s"}).delivery_dir == Path("/s/tokens")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        pytest.param({}, "QUMULO_HOST is not set", id="no-host"),
        pytest.param({"QUMULO_HOST": "https://c"}, "QUMULO_HOST must be a name or an address alone", id="url"),
        pytest.param({"QUMULO_HOST": "c:8000"}, "a port goes into QUMULO_PORT", id="host-and-port"),
        pytest.param({"QUMULO_HOST": "a b"}, "QUMULO_HOST must be", id="two-words"),
        pytest.param({"QUMULO_HOST": "user@c"}, "QUMULO_HOST must be", id="user-info"),
        pytest.param({"QUMULO_HOST": "c"}, "QUMULO_BEARER_TOKEN or QUMULO_CREDENTIALS_FILE has", id="no-credential"),
        pytest.param({"QUMULO_HOST": "a" * 64}, "QUMULO_HOST must be a name that can exist", id="long-label"),
        pytest.param({"QUMULO_HOST": ".".join(["a" * 50] * 6)}, "at most 253 characters", id="long-name"),
        pytest.param({"QUMULO_HOST": "a..b"}, "1 to 63 between its dots", id="empty-label"),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_PORT": "0"}, "QUMULO_PORT must be a whole number from 1 to 65535", id="port"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_PORT": "x"},
            "QUMULO_PORT must be a whole number from 1 to 65535",
            id="port-word",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_TIMEOUT": "30"}, "QUMULO_TIMEOUT has no unit: write 30d", id="no-unit"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_DEFAULT_LIFETIME": "0d"},
            "QUMULO_DEFAULT_LIFETIME must be",
            id="no-lifetime",
        ),
        pytest.param(REQUIRED_ENVIRONMENT | {"QUMULO_DEFAULT_LIFETIME": "foo"}, "or be never", id="lifetime-word"),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_DEFAULT_LIFETIME": "999999999d"},
            "QUMULO_DEFAULT_LIFETIME must be no longer than 100 years",
            id="endless-lifetime",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_MAX_LIFETIME": "9999999d"},
            "QUMULO_MAX_LIFETIME must be no longer than 100 years",
            id="endless-maximum",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_MAX_LIFETIME": "never"}, "QUMULO_MAX_LIFETIME must be", id="no-maximum"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_MAX_LIFETIME": "30d", "QUMULO_DEFAULT_LIFETIME": "31d"},
            "QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME",
            id="default-over-maximum",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_MAX_LIFETIME": "30d", "QUMULO_DEFAULT_LIFETIME": "never"},
            "QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME",
            id="endless-default-with-maximum",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CONFIRM": "maybe"},
            "QUMULO_CONFIRM must be all, risky or none",
            id="confirm",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_DELIVERY": "mail"},
            "QUMULO_DELIVERY must be file, keyring or inline",
            id="delivery",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_VERIFY_TLS": "maybe"},
            "QUMULO_VERIFY_TLS must be true or false",
            id="boolean",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": "/nowhere"}, "QUMULO_CA_FILE names /nowhere", id="no-ca-file"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": __file__}, "no readable PEM certificate", id="no-certificate"
        ),
        pytest.param({"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": f"{SECRET} x"}, "QUMULO_BEARER_TOKEN", id="words"),
        pytest.param({"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": f"{SECRET}é"}, "QUMULO_BEARER_TOKEN", id="no-ascii"),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CREDENTIALS_FILE": "/x"},
            "QUMULO_BEARER_TOKEN and QUMULO_CREDENTIALS_FILE",
            id="both",
        ),
        pytest.param(
            {"QUMULO_HOST": "c", "QUMULO_CREDENTIALS_FILE": "/nowhere"}, "QUMULO_CREDENTIALS_FILE", id="no-file"
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    set_environment(monkeypatch, variables)

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert told in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "DELIVERY_DIR" not in str(failure.value)
    assert "pydantic" not in str(failure.value)
    assert "SECRET" not in str(failure.value)


def test_a_variable_that_is_no_setting_is_found_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch,
        REQUIRED_ENVIRONMENT | {"qumulo_port": "1", "QUMULO_READONLY": "true", "QUMULO_BEARER": SECRET, "QUMU": "x"},
    )

    assert find_unknown_variables() == {"QUMULO_READONLY": "QUMULO_READ_ONLY", "QUMULO_BEARER": "QUMULO_BEARER_TOKEN"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QUMULO_READONLY", "QUMULO_READ_ONLY"),
        ("QUMULO_ONLY_READ", "QUMULO_READ_ONLY"),
        ("QUMULO_READ", "QUMULO_READ_ONLY"),
        ("QUMULO_READ_ONLY_MODE", "QUMULO_READ_ONLY"),
        ("QUMULO_RAED_ONLY", "QUMULO_READ_ONLY"),
        ("QUMULO__READ_ONLY", "QUMULO_READ_ONLY"),
        ("QUMULO-READ-ONLY", "QUMULO_READ_ONLY"),
        ("QUMULOREADONLY", "QUMULO_READ_ONLY"),
        ("QUMOLO_READ_ONLY", "QUMULO_READ_ONLY"),
        ("QUMLO_READONLY", "QUMULO_READ_ONLY"),
        ("\ufeffQUMULO_READ_ONLY", "QUMULO_READ_ONLY"),
        ("qumulo_readonly", "QUMULO_READ_ONLY"),
        ("QUMULO_CONFIRMATION", "QUMULO_CONFIRM"),
        ("QUMULO_CONFRIM", "QUMULO_CONFIRM"),
        ("QUMULO_MAXLIFETIME", "QUMULO_MAX_LIFETIME"),
        ("QUMULO_LIFETIME_MAX", "QUMULO_MAX_LIFETIME"),
        ("QUMULO_TOKEN_LIFETIME", "QUMULO_MAX_LIFETIME"),
        ("QUMULO_DEFAULT_LIFE", "QUMULO_DEFAULT_LIFETIME"),
        ("QUMULO_DELIVER", "QUMULO_DELIVERY"),
        ("QUMULO_VERIFY_SSL", "QUMULO_VERIFY_TLS"),
        ("QUMULO_TOKEN_TOOLS_READ_ONLY", "QUMULO_READ_ONLY"),
        ("QUMULO_RO", "QUMULO_READ_ONLY"),
        ("QUMULO_MAX_TTL", "QUMULO_MAX_LIFETIME"),
        ("QUMULO_MAXIMUM_EXPIRATION", "QUMULO_MAX_LIFETIME"),
        ("QUMULO_DEFAULT_EXPIRY", "QUMULO_DEFAULT_LIFETIME"),
    ],
)
def test_a_variable_that_nearly_restricts_something_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {name: "true"})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).endswith(f" is no setting: {meant} is meant? Rename or remove it.")
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        *("QUMULO_CONFIG", "QUMULO_PASSWORD", "QUMULO_CLUSTER", "QUMULO_USER", "QUMULO_API_TOKEN", "QUMULO_LOG_LEVEL"),
        *("QUMULO_DELIVERYDIR", "QUMULO_TLS", "QUMULO_MODE"),
        *("QUMULO_DEFAULT_USER", "QUMULO_DEFAULT_HOST", "QUMULO_DEFAULT_EXPORT", "QUMULO_READ_TIMEOUT"),
    ],
)
def test_a_variable_that_restricts_nothing_is_only_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {name: SECRET})

    load_settings({})

    [warning] = caplog.messages
    near = {"QUMULO_DELIVERYDIR": "QUMULO_DELIVERY_DIR", "QUMULO_READ_TIMEOUT": "QUMULO_TIMEOUT"}
    told = f"; nearest is {near[name]}" if name in near else ""
    assert warning == f"{name} is no setting and is ignored{told}"
    assert "SECRET" not in warning


@pytest.mark.parametrize("name", ["READ_ONLY", "CUMULUS_READ_ONLY", "QUMULODB_URL", "QUMULO", "MY_QUMULO_HOST", "_"])
def test_a_variable_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {name: "true"})

    assert not load_settings({}).read_only
    assert caplog.messages == []


def test_the_name_of_a_variable_is_not_repeated_with_a_secret_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {f"QUMULO_{SECRET}": "x"})

    load_settings({})

    assert [("SECRET" in message, "is no setting" in message) for message in caplog.messages] == [(False, True)]


@pytest.mark.parametrize(
    ("value", "read_only"), [("on", True), ("yes", True), ("1", True), ("TRUE\r", True), ("off", False)]
)
def test_a_boolean_is_read_as_people_write_it(monkeypatch: pytest.MonkeyPatch, value: str, read_only: bool) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_READ_ONLY": value})

    assert load_settings({}).read_only is read_only


SETTING_NAMES = sorted({*Settings.model_fields} - {"bearer_token"})
BEARER_TOKEN = "access-v1:" + "c2VjcmV0IG9mIHRoZSB0ZXN0czogbm9ib2R5J3M5NzQ2NTQ="
SECRETS_IN_WRONG_SETTING = {
    "token": (BEARER_TOKEN, "this is a token, or looks like one: it belongs in QUMULO_BEARER_TOKEN"),
    "body": (BEARER_TOKEN.partition(":")[2], "it belongs in QUMULO_BEARER_TOKEN"),
    "part-of-a-path": (f"/x/{BEARER_TOKEN}", "it belongs in QUMULO_BEARER_TOKEN"),
    "store": (encode_store(SecretStr(BEARER_TOKEN)).decode(), "QUMULO_CREDENTIALS_FILE takes its path"),
    "store-in-quotes": (
        json.dumps(encode_store(SecretStr(BEARER_TOKEN)).decode()),
        "QUMULO_CREDENTIALS_FILE takes its path",
    ),
    "other-json": ('{"token": "secret9746"}', "QUMULO_CREDENTIALS_FILE takes its path"),
    "pem": (trustme.CA().private_key_pem.bytes().decode(), "QUMULO_CA_FILE takes its path"),
    "endless": ("/" + "secret9746" * 1000, "must not be longer than 4096 characters"),
}


@pytest.mark.parametrize("name", SETTING_NAMES)
@pytest.mark.parametrize("content", SECRETS_IN_WRONG_SETTING)
def test_a_secret_in_the_wrong_setting_is_told_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    value, told = SECRETS_IN_WRONG_SETTING[content]
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {f"QUMULO_{name.upper()}": value})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(f"QUMULO_{name.upper()} ")
    assert told in str(failure.value)
    assert not any(value[start : start + 8] in str(failure.value) for start in range(20, min(len(value) - 8, 99)))


def test_a_password_in_an_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_HOST": "https://admin:hunter22@c"})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert "hunter" not in str(failure.value)


@pytest.mark.parametrize("name", SETTING_NAMES)
@pytest.mark.parametrize(
    "value", ["$NAME", "${input:value}", "$(cat x)", "%NAME%", "{{ value }}", "{env:NAME}", "{file:x}", '"x"', "'x'"]
)
def test_a_value_that_was_not_expanded_is_refused_with_what_was_given(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {f"QUMULO_{name.upper()}": value})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(f"QUMULO_{name.upper()} ")
    assert re.search("did not expand it|has its quotes in it", str(failure.value))
    assert str(failure.value).endswith(f" (given: {json.dumps(value)})")


@pytest.mark.parametrize("token", ["access-v1://abc+/==", "session-v1://AB", "1://x", "access-v1:~/.", "plain.word"])
def test_a_bearer_token_may_begin_as_base64_may(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": token})

    assert load_settings({}).read_bearer().get_secret_value() == token


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param("${input:token}", "the client did not expand it", id="editor"),
        pytest.param("$TOKEN", "the client did not expand it", id="shell"),
        pytest.param("%TOKEN%", "the client did not expand it", id="windows"),
        pytest.param("{{token}}", "the client did not expand it", id="template"),
        pytest.param("{env:TOKEN}", "the client did not expand it", id="template-of-an-agent"),
        pytest.param(f'"{SECRET}"', "has its quotes in it", id="quotes"),
        pytest.param("/run/secrets/SECRET", "is a path: QUMULO_CREDENTIALS_FILE takes one", id="path"),
        pytest.param("~/SECRET", "is a path", id="path-in-home"),
        pytest.param("./SECRET", "is a path", id="relative-path"),
        pytest.param("op://vault/SECRET/token", "is a reference to a secret", id="reference"),
        pytest.param(f"Bearer {SECRET}", 'has the word "Bearer" in front', id="header"),
        pytest.param(encode_store(SecretStr(SECRET)).decode(), "is the content of a credentials file", id="store"),
        pytest.param("<SECRET>", "is not a token: one word", id="placeholder"),
        pytest.param("SECRET" * 1000, "is longer than 4096 characters", id="endless"),
    ],
)
def test_a_bearer_token_that_is_none_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": value})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith("QUMULO_BEARER_TOKEN ")
    assert told in str(failure.value)
    assert not re.search("SECRET|TOKEN.*TOKEN}|input|given", str(failure.value))


@pytest.mark.parametrize("around", ["{}\r", "{}\r\n", "\ufeff{}", "\xa0{}\u200b", "\t {} "])
def test_what_nobody_sees_around_a_value_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: Path, around: str
) -> None:
    variables = {
        "HOST": "cluster",
        "PORT": "8443",
        "BEARER_TOKEN": SECRET,
        "CA_FILE": str(ca_file),
        "TIMEOUT": "5s",
        "READ_ONLY": "true",
        "VERIFY_TLS": "true",
        "DELIVERY": "inline",
        "STATE_DIR": str(tmp_path),
        "DELIVERY_DIR": str(tmp_path),
        "DEFAULT_LIFETIME": "1w",
        "MAX_LIFETIME": "30d",
        "CONFIRM": "all",
    }
    set_environment(monkeypatch, {f"QUMULO_{name}": value for name, value in variables.items()})
    plain = load_settings({})

    set_environment(monkeypatch, {f"QUMULO_{name}": around.format(value) for name, value in variables.items()})

    assert load_settings({}) == plain


def test_a_variable_in_which_there_is_nothing_to_see_is_none_and_such_an_option_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": "\r", "QUMULO_MAX_LIFETIME": "\u200b"})

    settings = load_settings({})

    assert (settings.ca_file, settings.max_lifetime) == (None, None)
    with pytest.raises(SettingsError, match="QUMULO_MAX_LIFETIME is given as an option, and without a value"):
        load_settings({"max_lifetime": " "})


def test_what_is_invisible_in_a_refused_value_is_made_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_HOST": "clu\u200bster", "QUMULO_READ_ONLY": "tr\xa0ue"}
    )

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert '(given: "clu\\u200bster")' in str(failure.value)
    assert 'QUMULO_READ_ONLY must be true or false (given: "tr\\u00a0ue")' in str(failure.value)


def test_a_ca_file_contradicts_unverified_tls(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": str(ca_file), "QUMULO_VERIFY_TLS": "false"})

    with pytest.raises(SettingsError, match="QUMULO_CA_FILE and QUMULO_VERIFY_TLS=false contradict each other"):
        load_settings({})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("cluster", "cluster:8000"),
        ("10.0.0.7", "10.0.0.7:8000"),
        ("2001:db8::1", "[2001:db8::1]:8000"),
        ("[2001:db8::1]", "[2001:db8::1]:8000"),
    ],
)
def test_a_host_is_a_name_or_an_address(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_HOST": host})

    assert load_settings({}).address == address


@pytest.mark.parametrize("place", ["config/qumulo/credentials/c_8000", ".qfsd_cred"], ids=["per-cluster", "legacy"])
def test_without_a_credential_the_login_of_qq_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials_file: Path, place: str
) -> None:
    set_environment(
        monkeypatch, {"QUMULO_HOST": "C", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    )
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    credentials_file.rename(path)

    settings = load_settings({})

    assert settings.credentials_file == path
    assert settings.read_bearer().get_secret_value() == SECRET


def test_a_secret_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT)

    settings = load_settings({})

    assert "SECRET" not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_a_store_is_what_the_vendor_s_qq_reads(tmp_path: Path) -> None:
    theirs = importlib.import_module("qumulo.lib.auth")
    path = tmp_path / "store"

    path.write_bytes(encode_store(SecretStr(SECRET)))
    assert theirs.get_credentials(str(path)).bearer_token == SECRET

    theirs.set_credentials({"bearer_token": SECRET + "2"}, str(path))
    assert read_bearer(path).get_secret_value() == SECRET + "2"


PATH_SETTINGS = ["credentials_file", "ca_file", "state_dir", "delivery_dir"]


@pytest.mark.parametrize("name", ["credentials_file", "state_dir", "delivery_dir"])
def test_a_place_in_one_s_home_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")

    for given, found in (("~/x", "/home/jane/x"), ("~", "/home/jane"), ("~root/x", f"{Path('~root').expanduser()}/x")):
        assert str(getattr(Settings.model_validate({"host": "c", name: given}), name)) == found


@pytest.mark.parametrize("name", PATH_SETTINGS)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param("tokens", "must be an absolute path, or begin with ~/", id="relative"),
        pytest.param("./tokens", "must be an absolute path", id="relative-to-here"),
        pytest.param("file:///tokens", "must be an absolute path", id="url"),
        pytest.param("$HOME/tokens", "the client did not expand it", id="shell"),
        pytest.param("/x/$1", "the client did not expand it", id="shell-s-argument"),
        pytest.param("${workspaceFolder}/tokens", "the client did not expand it", id="editor"),
        pytest.param("%USERPROFILE%/tokens", "the client did not expand it", id="windows-variable"),
        pytest.param("/x/{{folder}}", "the client did not expand it", id="template"),
        pytest.param("C:\\tokens", "is a path of Windows", id="windows"),
        pytest.param("D:/tokens", "is a path of Windows", id="windows-drive"),
        pytest.param("'/tokens'", "has its quotes in it", id="quotes"),
        pytest.param('/x/"tokens"', "has quotes in it", id="quotes-inside"),
        pytest.param("/x/z\udceb", "must be a path in UTF-8", id="latin-1"),
        pytest.param("/x/to\u200bkens", "must be a path in UTF-8 of which each character can be seen", id="no-width"),
        pytest.param("/x/to\nkens", "of which each character can be seen", id="two-lines"),
    ],
)
def test_a_place_that_would_not_be_where_somebody_means_is_refused(name: str, given: str, told: str) -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings({"host": "c", name: given})

    assert f"QUMULO_{name.upper()} " in str(failure.value)
    assert told in str(failure.value)
    assert f"(given: {quote_untrusted(given, max_chars=100)})" in str(failure.value)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(
    "folder",
    [
        "ClientProjectsQumuloTokens2026",
        "archive-v0/Xk3Jq0ZbT2mLw9RrYt5Vd/lib",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
    ],
)
def test_a_folder_may_be_called_by_a_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_STATE_DIR": str(tmp_path / folder)})

    assert load_settings({}).state_dir == tmp_path / folder


def test_a_secret_that_begins_with_a_slash_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_STATE_DIR": "/Xk3Jq0ZbT2mLw9/RrYt5VdQmYwAPJzv5CZsnA625s3X"}
    )

    with pytest.raises(SettingsError, match="this is a token, or looks like one"):
        load_settings({})


@pytest.mark.parametrize("given", ["aelh4J/kmamhiPnZWqbI3hMGOFheSX", ".".join("aelh4JkmamhiPnZWqbI3hMGOFheSX")])
def test_a_piece_of_a_secret_in_the_wrong_setting_is_not_repeated(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_PORT": given})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert given not in str(failure.value)


def test_a_place_may_have_an_apostrophe_and_a_percent_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/o'brien")

    settings = Settings.model_validate({"host": "c", "state_dir": "/home/o'brien/100 %", "delivery_dir": "~/x"})

    assert (settings.state_dir, settings.delivery_dir) == (Path("/home/o'brien/100 %"), Path("/home/o'brien/x"))


def test_the_tokens_go_where_the_state_is_unless_they_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Settings.model_validate({"host": "c", "state_dir": "~/x"}).delivery_dir == tmp_path / "x" / "tokens"


def test_a_place_in_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError, match="QUMULO_STATE_DIR names ~nobody-here/x, and there is no such user"):
        load_settings({"host": "c", "bearer_token": SecretStr("own"), "state_dir": "~nobody-here/x"})


@pytest.mark.parametrize(
    ("home", "told"),
    [
        ("", "needs a home folder, and HOME is empty"),
        ("home", "needs a home folder, and HOME is home: it must be an absolute path"),
        ("/z\udceb", "must be a path in UTF-8"),
        (f"/{BEARER_TOKEN}", "is wrong: this is a token"),
    ],
    ids=["empty", "relative", "latin-1", "token"],
)
def test_a_home_that_is_none_is_told_with_the_setting_that_helps(
    monkeypatch: pytest.MonkeyPatch, home: str, told: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"HOME": home})
    monkeypatch.delenv("XDG_STATE_HOME")

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(f"QUMULO_STATE_DIR is not set, and its default {told}")
    assert str(failure.value).endswith("Set QUMULO_STATE_DIR to an absolute path.")

    assert load_settings({"state_dir": "/s"}).delivery_dir == Path("/s/tokens")


def test_a_place_in_the_home_of_somebody_without_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"HOME": ""})

    with pytest.raises(SettingsError, match="QUMULO_STATE_DIR needs a home folder, and HOME is empty"):
        load_settings({"state_dir": "~/x"})


@pytest.mark.parametrize("home", ["", "/z\udceb"], ids=["none", "latin-1"])
def test_without_a_usable_home_there_is_no_login_of_qq(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "HOME": home, "XDG_CONFIG_HOME": "relative"})

    with pytest.raises(SettingsError, match="QUMULO_BEARER_TOKEN or QUMULO_CREDENTIALS_FILE has to be set"):
        load_settings({"state_dir": "/s"})


def test_a_login_of_qq_whose_path_cannot_be_told_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials_file: Path
) -> None:
    home = tmp_path / "z\udceb"
    home.mkdir()
    credentials_file.rename(home / ".qfsd_cred")
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "HOME": str(home)})

    with pytest.raises(
        SettingsError, match="QUMULO_CREDENTIALS_FILE is not set, and the path of qq's own must be a path"
    ):
        load_settings({"state_dir": "/s"})


def test_a_relative_folder_of_the_xdg_is_ignored_as_its_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials_file: Path
) -> None:
    (tmp_path / ".config/qumulo/credentials").mkdir(parents=True)
    credentials_file.rename(tmp_path / ".config/qumulo/credentials/c_8000")
    set_environment(
        monkeypatch,
        {"QUMULO_HOST": "c", "HOME": str(tmp_path), "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state"},
    )

    settings = load_settings({})

    assert settings.state_dir == tmp_path / ".local/state/qumulo-token-tools"
    assert settings.credentials_file == tmp_path / ".config/qumulo/credentials/c_8000"


def test_without_the_xdg_s_folders_the_state_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"HOME": str(tmp_path)})
    monkeypatch.delenv("XDG_STATE_HOME")

    assert tmp_path in load_settings({}).state_dir.parents


def test_a_home_that_is_not_set_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    home = pwd.getpwuid(os.getuid()).pw_dir

    assert Settings.model_validate({"host": "c", "state_dir": "~/x"}).state_dir == Path(home, "x")
