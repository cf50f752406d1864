"""Test how the environment and the command line become settings, what they refuse, and what they hide."""

import importlib
import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.environment import REQUIRED_ENVIRONMENT, SECRET, set_environment
from token_tools.configuration import find_unknown_variables, format_variables, load_settings, load_state_settings
from token_tools.credentials import encode_store, read_bearer
from token_tools.errors import SettingsError


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
        "STATE_URL": "postgresql://jane@db.example.com/tokens?sslmode=verify-full",
        "KEEP_RECORD": "30d",
        "MAX_CHANGES": "5",
        "DELIVERY_DIR": str(tmp_path),
        "REPORT_DIR": str(tmp_path / "reports"),
        "DEFAULT_LIFETIME": "1w",
        "MAX_LIFETIME": "30d",
        "CONFIRM": "all",
        "PICKUP_TIME": "5min",
    }
    set_environment(monkeypatch, {f"QUMULO_{name}": value for name, value in variables.items()})

    settings = load_settings({})

    assert settings.model_dump() == {
        "host": "cluster.example.com",
        "port": 8443,
        "bearer_token": None,
        "bearer_token_file": None,
        "credentials_file": credentials_file,
        "credentials_command": None,
        "keyring": None,
        "ca_file": ca_file,
        "fingerprint": None,
        "verify_tls": True,
        "timeout": timedelta(seconds=5),
        "read_only": True,
        "delivery": "inline",
        "pickup_time": timedelta(minutes=5),
        "delivery_command": None,
        "delivery_check": None,
        "state_dir": tmp_path / "state",
        "state_url": SecretStr("postgresql://jane@db.example.com/tokens?sslmode=verify-full"),
        "keep_record": timedelta(days=30),
        "max_changes": 5,
        "delivery_dir": tmp_path,
        "report_dir": tmp_path / "reports",
        "default_lifetime": timedelta(weeks=1),
        "max_lifetime": timedelta(days=30),
        "confirm": "all",
        "config": None,
    }
    assert settings.read_bearer().get_secret_value() == SECRET


def test_an_option_comes_before_the_environment_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_PORT": "1", "QUMULO_TIMEOUT": "", "QUMULO_CREDENTIALS_FILE": ""}
    )

    settings = load_settings({"port": "2"})

    assert (settings.port, settings.timeout) == (2, timedelta(seconds=30))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({}, "QUMULO_HOST is not set", id="no-host"),
        pytest.param({"QUMULO_HOST": "https://c"}, "QUMULO_HOST must be a name or an address alone", id="url"),
        pytest.param({"QUMULO_HOST": "c:8000"}, "a port goes into QUMULO_PORT", id="host-and-port"),
        pytest.param({"QUMULO_HOST": "a b"}, "QUMULO_HOST must be", id="two-words"),
        pytest.param({"QUMULO_HOST": "user@c"}, "QUMULO_HOST must be", id="user-info"),
        pytest.param({"QUMULO_HOST": "c"}, "QUMULO_CREDENTIALS_COMMAND or QUMULO_KEYRING has", id="no-credential"),
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
            REQUIRED_ENVIRONMENT | {"QUMULO_KEEP_RECORD": "23h"},
            "QUMULO_KEEP_RECORD must be at least 1d",
            id="no-record",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_MAX_CHANGES": "-1"},
            "QUMULO_MAX_CHANGES must be a whole number from 0 to 1000000",
            id="negative-changes",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_STATE_URL": "/var/lib/state.db"},
            "QUMULO_STATE_URL must be the URL of a PostgreSQL database, postgresql://USER@HOST/DATABASE; a password in "
            "it has %40 for @ and %2F for /",
            id="file-for-database",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CONFIRM": "maybe"},
            "QUMULO_CONFIRM must be all, risky or none",
            id="confirm",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_DELIVERY": "mail"},
            "QUMULO_DELIVERY must be file, keyring, command, pickup, inline or none",
            id="delivery",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_PICKUP_TIME": "59s"},
            "QUMULO_PICKUP_TIME must be from 1min to 1d",
            id="hurry",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_PICKUP_TIME": "25h"},
            "QUMULO_PICKUP_TIME must be from 1min to 1d",
            id="slow",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_PICKUPTIME": "5m"},
            "QUMULO_PICKUPTIME is no setting: QUMULO_PICKUP_TIME is meant?",
            id="misspelt-pickup-time",
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
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    set_environment(monkeypatch, variables)

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert expected in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "DELIVERY_DIR" not in str(failure.value)
    assert "pydantic" not in str(failure.value)
    assert "SECRET" not in str(failure.value)


def test_a_variable_that_is_no_setting_is_found_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch,
        REQUIRED_ENVIRONMENT | {"qumulo_port": "1", "QUMULO_READONLY": "true", "QUMULO_BEARER": SECRET, "QUMU": "x"},
    )

    assert find_unknown_variables() == {"QUMULO_READONLY": "read_only", "QUMULO_BEARER": "bearer_token"}


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
        ("QUMULO_FINGERPRNT", "QUMULO_FINGERPRINT"),
        ("QUMULO_CERT_FINGERPRINT", "QUMULO_FINGERPRINT"),
        ("QUMULO_FINGERPRINT_SHA256", "QUMULO_FINGERPRINT"),
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
        *("QUMULO_PASSWORD", "QUMULO_CLUSTER", "QUMULO_USER", "QUMULO_API_TOKEN", "QUMULO_LOG_LEVEL"),
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
    answer = f"; nearest is {near[name]}" if name in near else ""
    assert warning == f"{name} is no setting and is ignored{answer}"
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


FINGERPRINT = ":".join(["AB", "CD"] * 16)


@pytest.mark.parametrize("written", [FINGERPRINT, FINGERPRINT.lower(), FINGERPRINT.replace(":", ""), "aBcD" * 16])
def test_a_fingerprint_is_read_as_tools_print_it(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_FINGERPRINT": written})

    assert load_settings({}).fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (FINGERPRINT[:59], ", and has 40"),
        (f"{FINGERPRINT}:00", ", and has 66"),
        (f"SHA256:{FINGERPRINT}", ""),
        (f"{FINGERPRINT[:-1]}G", ""),
        (":", ""),
    ],
)
def test_what_is_no_sha256_is_refused_as_a_fingerprint(
    monkeypatch: pytest.MonkeyPatch, written: str, found: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_FINGERPRINT": written})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(
        "QUMULO_FINGERPRINT must be the SHA-256 of the cluster's certificate, 64 hexadecimal digits with or without "
        f"colons{found}: `openssl x509 -noout -fingerprint -sha256` prints it"
    )


@pytest.mark.parametrize("other", ["QUMULO_CA_FILE", "QUMULO_VERIFY_TLS"])
def test_a_fingerprint_contradicts_other_trust(monkeypatch: pytest.MonkeyPatch, ca_file: Path, other: str) -> None:
    value = {"QUMULO_CA_FILE": str(ca_file), "QUMULO_VERIFY_TLS": "false"}[other]
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {other: value, "QUMULO_FINGERPRINT": FINGERPRINT})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert {*re.findall(r"QUMULO_\w+", str(failure.value))} == {other, "QUMULO_FINGERPRINT"}
    assert str(failure.value).endswith(" contradict each other: keep one")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DELIVERY": "command"}, "QUMULO_DELIVERY=command and QUMULO_DELIVERY_COMMAND belong together"),
        ({"DELIVERY_COMMAND": "vault"}, "QUMULO_DELIVERY=command and QUMULO_DELIVERY_COMMAND belong together"),
        ({"DELIVERY_CHECK": "true"}, "QUMULO_DELIVERY_CHECK is for QUMULO_DELIVERY=command"),
    ],
)
def test_settings_of_a_command_need_each_other(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    given = {f"QUMULO_{name}": value for name, value in variables.items()}
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | given)

    with pytest.raises(SettingsError, match=f"^{expected}: "):
        load_settings({})


def test_a_command_in_variables_is_the_command_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("/opt/take", "it in", "")
    settings: dict[str, object] = {"delivery": "command", "delivery_command": words, "delivery_check": [*words]}
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | dict(format_variables(settings)))

    loaded = load_settings({})

    assert (loaded.delivery_command, loaded.delivery_check) == (words, words)


@pytest.mark.parametrize("variable", ["QUMULO_DELIVERY_DIR", "QUMULO_STATE_DIR"])
def test_reports_do_not_go_where_secrets_or_the_journal_are_even_over_a_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {variable: str(tmp_path / "x" / "y")})

    assert load_settings({"report_dir": str(tmp_path / "x")}).report_dir == tmp_path / "x"
    with pytest.raises(SettingsError, match=f"QUMULO_REPORT_DIR and {variable} are one folder: reports need one of"):
        load_settings({"report_dir": str(tmp_path / "link" / "." / "y")})


def test_secrets_do_not_go_to_the_folder_of_reports_that_nobody_has_named(tmp_path: Path) -> None:
    folders = {"state_dir": str(tmp_path), "delivery_dir": str(tmp_path / "reports")}

    with pytest.raises(SettingsError, match="QUMULO_REPORT_DIR and QUMULO_DELIVERY_DIR are one folder"):
        load_settings({"host": "c", "bearer_token": SecretStr("own")} | folders)


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


def test_the_settings_of_the_record_need_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUMULO_MAX_CHANGES", "5")

    settings = load_state_settings({"state_dir": str(tmp_path), "keep_record": "2d"})

    assert (settings.state_dir, settings.keep_record) == (tmp_path, timedelta(days=2))
    assert load_state_settings({}).keep_record == timedelta(days=400)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep_record": "soon"}, "QUMULO_KEEP_RECORD"),
        ({"keep_record": ""}, "QUMULO_KEEP_RECORD is given as an option, and without a value."),
    ],
)
def test_a_setting_of_the_record_that_is_unusable_is_named(options: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        load_state_settings(options)
