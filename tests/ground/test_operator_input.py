"""Test settings that the operator did not mean: a secret in the wrong place or a variable that was not expanded."""

import json
import re
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from tests.support.environment import BEARER_TOKEN, REQUIRED_ENVIRONMENT, SECRET, set_environment
from token_tools.configuration import load_settings
from token_tools.credentials import encode_store
from token_tools.errors import SettingsError
from token_tools.settings import SECRET_SETTINGS, Settings

SETTING_NAMES = sorted({*Settings.model_fields} - SECRET_SETTINGS)
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
    value, answer = SECRETS_IN_WRONG_SETTING[content]
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {f"QUMULO_{name.upper()}": value})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(f"QUMULO_{name.upper()} ")
    assert answer in str(failure.value)
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
    ("value", "expected"),
    [
        pytest.param("${input:token}", "the client did not expand it", id="editor"),
        pytest.param("$TOKEN", "the client did not expand it", id="shell"),
        pytest.param("%TOKEN%", "the client did not expand it", id="windows"),
        pytest.param("{{token}}", "the client did not expand it", id="template"),
        pytest.param("{env:TOKEN}", "the client did not expand it", id="template-of-an-agent"),
        pytest.param(f'"{SECRET}"', "has its quotes in it", id="quotes"),
        pytest.param(
            "/run/secrets/SECRET", "is a path: QUMULO_BEARER_TOKEN_FILE takes that of a bare token", id="path"
        ),
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
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": value})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith("QUMULO_BEARER_TOKEN ")
    assert expected in str(failure.value)
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
        "DELIVERY_DIR": str(tmp_path / "tokens"),
        "REPORT_DIR": str(tmp_path / "reports"),
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


@pytest.mark.parametrize("given", ["aelh4J/kmamhiPnZWqbI3hMGOFheSX", ".".join("aelh4JkmamhiPnZWqbI3hMGOFheSX")])
def test_a_piece_of_a_secret_in_the_wrong_setting_is_not_repeated(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"QUMULO_PORT": given})

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert given not in str(failure.value)
