"""The environment and the command line to settings, including what they refuse and what they hide."""

import importlib
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from token_tools.credentials import read_bearer, write_store
from token_tools.errors import SettingsError
from token_tools.settings import Settings, find_unknown_variables, load_settings

SECRET = "access-v1:SECRETSECRET"
NEEDED = {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": SECRET}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(write_store(SecretStr(SECRET)))
    return path


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, store: Path, ca_file: Path, tmp_path: Path) -> None:
    variables = {
        "HOST": "cluster.example.com",
        "PORT": "8443",
        "CREDENTIALS_FILE": str(store),
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
    set_all(monkeypatch, {f"QUMULO_{name}": value for name, value in variables.items()})

    settings = load_settings({})

    assert settings.model_dump() == {
        "host": "cluster.example.com",
        "port": 8443,
        "bearer_token": None,
        "credentials_file": store,
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
    set_all(monkeypatch, NEEDED | {"QUMULO_PORT": "1", "QUMULO_TIMEOUT": "", "QUMULO_CREDENTIALS_FILE": ""})

    settings = load_settings({"port": "2"})

    assert (settings.port, settings.timeout) == (2, timedelta(seconds=30))


def test_new_tokens_go_to_the_user_s_state_directory_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_all(monkeypatch, NEEDED | {"XDG_STATE_HOME": str(tmp_path)})

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
        pytest.param({"QUMULO_HOST": "c"}, "No credential: set QUMULO_BEARER_TOKEN or", id="no-credential"),
        pytest.param(NEEDED | {"QUMULO_PORT": "0"}, "QUMULO_PORT must be a whole number from 1 to 65535", id="port"),
        pytest.param(
            NEEDED | {"QUMULO_PORT": "x"}, "QUMULO_PORT must be a whole number from 1 to 65535", id="port-word"
        ),
        pytest.param(NEEDED | {"QUMULO_TIMEOUT": "30"}, "QUMULO_TIMEOUT must be a duration", id="no-unit"),
        pytest.param(NEEDED | {"QUMULO_DEFAULT_LIFETIME": "0d"}, "QUMULO_DEFAULT_LIFETIME must be", id="no-lifetime"),
        pytest.param(NEEDED | {"QUMULO_DEFAULT_LIFETIME": "foo"}, "or be never", id="lifetime-word"),
        pytest.param(
            NEEDED | {"QUMULO_DEFAULT_LIFETIME": "999999999d"},
            "QUMULO_DEFAULT_LIFETIME must be no longer than 100 years",
            id="endless-lifetime",
        ),
        pytest.param(
            NEEDED | {"QUMULO_MAX_LIFETIME": "9999999d"},
            "QUMULO_MAX_LIFETIME must be no longer than 100 years",
            id="endless-maximum",
        ),
        pytest.param(NEEDED | {"QUMULO_MAX_LIFETIME": "never"}, "QUMULO_MAX_LIFETIME must be", id="no-maximum"),
        pytest.param(
            NEEDED | {"QUMULO_MAX_LIFETIME": "30d", "QUMULO_DEFAULT_LIFETIME": "31d"},
            "QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME",
            id="default-over-maximum",
        ),
        pytest.param(
            NEEDED | {"QUMULO_MAX_LIFETIME": "30d", "QUMULO_DEFAULT_LIFETIME": "never"},
            "QUMULO_DEFAULT_LIFETIME is longer than QUMULO_MAX_LIFETIME",
            id="endless-default-with-maximum",
        ),
        pytest.param(NEEDED | {"QUMULO_CONFIRM": "maybe"}, "QUMULO_CONFIRM must be all, risky or none", id="confirm"),
        pytest.param(
            NEEDED | {"QUMULO_DELIVERY": "mail"}, "QUMULO_DELIVERY must be file, keyring or inline", id="delivery"
        ),
        pytest.param(NEEDED | {"QUMULO_VERIFY_TLS": "maybe"}, "QUMULO_VERIFY_TLS must be true or false", id="boolean"),
        pytest.param(NEEDED | {"QUMULO_CA_FILE": "/nowhere"}, "QUMULO_CA_FILE names /nowhere", id="no-ca-file"),
        pytest.param(NEEDED | {"QUMULO_CA_FILE": __file__}, "no readable PEM certificate", id="no-certificate"),
        pytest.param({"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": f"{SECRET} x"}, "QUMULO_BEARER_TOKEN", id="words"),
        pytest.param({"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": f"{SECRET}é"}, "QUMULO_BEARER_TOKEN", id="no-ascii"),
        pytest.param(
            NEEDED | {"QUMULO_CREDENTIALS_FILE": "/x"}, "QUMULO_BEARER_TOKEN and QUMULO_CREDENTIALS_FILE", id="both"
        ),
        pytest.param(
            {"QUMULO_HOST": "c", "QUMULO_CREDENTIALS_FILE": "/nowhere"}, "QUMULO_CREDENTIALS_FILE", id="no-file"
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    set_all(monkeypatch, variables)

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert told in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "DELIVERY_DIR" not in str(failure.value)
    assert "http" not in str(failure.value)
    assert "SECRET" not in str(failure.value)


def test_a_variable_that_is_no_setting_is_found_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, NEEDED | {"qumulo_port": "1", "QUMULO_READONLY": "true", "QUMULO_BEARER": SECRET, "QUMU": "x"})

    assert find_unknown_variables() == {"QUMULO_READONLY": "QUMULO_READ_ONLY", "QUMULO_BEARER": "QUMULO_BEARER_TOKEN"}


def test_a_ca_file_contradicts_unverified_tls(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> None:
    set_all(monkeypatch, NEEDED | {"QUMULO_CA_FILE": str(ca_file), "QUMULO_VERIFY_TLS": "false"})

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
    set_all(monkeypatch, NEEDED | {"QUMULO_HOST": host})

    assert load_settings({}).address == address


@pytest.mark.parametrize("place", ["config/qumulo/credentials/c_8000", ".qfsd_cred"], ids=["per-cluster", "legacy"])
def test_without_a_credential_the_login_of_qq_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path, place: str
) -> None:
    set_all(monkeypatch, {"QUMULO_HOST": "C", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")})
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    store.rename(path)

    settings = load_settings({})

    assert settings.credentials_file == path
    assert settings.read_bearer().get_secret_value() == SECRET


def test_a_secret_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, NEEDED)

    settings = load_settings({})

    assert "SECRET" not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_a_store_is_what_the_vendor_s_qq_reads(tmp_path: Path) -> None:
    theirs = importlib.import_module("qumulo.lib.auth")
    path = tmp_path / "store"

    path.write_bytes(write_store(SecretStr(SECRET)))
    assert theirs.get_credentials(str(path)).bearer_token == SECRET

    theirs.set_credentials({"bearer_token": SECRET + "2"}, str(path))
    assert read_bearer(path).get_secret_value() == SECRET + "2"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        SECRET.encode(),
        json.dumps([SECRET]).encode(),
        json.dumps({"bearer_token": SECRET}).encode(),
        json.dumps({"bearer_token": SECRET, "version": 2}).encode(),
        json.dumps({"bearer_token": f"{SECRET} x", "version": 1}).encode(),
    ],
    ids=["empty", "no-text", "bare", "list", "no-version", "other-version", "two-words"],
)
def test_a_file_that_is_no_store_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"QUMULO_CREDENTIALS_FILE: .* is not in the format of qq") as failure:
        read_bearer(path)

    assert "SECRET" not in str(failure.value)


@pytest.mark.parametrize("name", ["delivery_dir", "state_dir", "credentials_file"])
def test_a_place_is_the_same_wherever_the_server_is_started(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/jane")

    for given, found in (("~/x", "/home/jane/x"), ("x", f"{tmp_path}/x")):
        assert str(getattr(Settings.model_validate({"host": "c", name: given}), name)) == found


def test_the_tokens_go_where_the_state_is_unless_they_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Settings.model_validate({"host": "c", "state_dir": "~/x"}).delivery_dir == tmp_path / "x" / "tokens"


def test_a_place_in_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError, match="QUMULO_STATE_DIR names ~nobody-here/x, and there is no such user"):
        load_settings({"host": "c", "bearer_token": SecretStr("own"), "state_dir": "~nobody-here/x"})
