"""Test which decisions about service over HTTP are taken from the settings, and which are refused."""

import base64
from pathlib import Path

import pytest

from tests.support.environment import set_environment
from token_tools.configuration import load_http_settings
from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings, SocketAddress, TcpAddress, decode_state_key, parse_rules
from token_tools.redaction import has_known_secret

ANONYMOUS = {"QUMULO_HTTP_ANONYMOUS": "true"}
WITH_KEYS = {"QUMULO_HTTP_KEYS_FILE": "/etc/keys.toml"}
ISSUER = "https://issuer.example.com/realms/storage"
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.urlsafe_b64encode(b"\xff\xef" * 16).decode()
RANDOM_CLIENT = "YwA2kV8bn3fZQ1mLr0tXhE6sGpJdUcO9"
"""A client's identifier as Auth0 makes them up, which looks like a secret and is none."""

SECRET = "access-v1:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg=="


def read_refusal(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    set_environment(monkeypatch, variables)
    with pytest.raises(SettingsError) as refused:
        load_http_settings({})
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_what_is_not_set_is_as_closed_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, WITH_KEYS)

    settings = load_http_settings({})

    assert settings.http_listen == TcpAddress("127.0.0.1", 8080)
    assert settings.resource == settings.http_audience == "http://127.0.0.1:8080/mcp"
    assert settings.http_allowed_hosts == (
        "127.0.0.1", "127.0.0.1:*", "localhost", "localhost:*", "[::1]", "[::1]:*"
    )  # fmt: skip
    assert settings.http_allowed_origins == ("http://127.0.0.1:8080", "http://localhost:8080")
    assert (settings.http_anonymous, settings.http_tls_in_front, settings.http_self) == (False, False, None)
    assert (settings.http_readers, settings.http_writers) == (("scope=tokens:read",), ("scope=tokens:write",))


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "LISTEN": "0.0.0.0:443",
        "TLS_IN_FRONT": "true",
        "URL": "https://tokens.example.com:8443/storage/",
        "ALLOWED_HOSTS": "tokens.example.com 'a b'",
        "ALLOWED_ORIGINS": "https://chat.example.com http://localhost:6274",
        "ISSUER": f"{ISSUER}/",
        "ISSUER_CA_FILE": "/etc/ca.pem",
        "CLIENT_ID": RANDOM_CLIENT,
        "CLIENT_SECRET_FILE": "/etc/client-secret",
        "AUDIENCE": "urn:tokens",
        "READERS": "groups=storage 'groups=Storage Team' realm_access.roles=a=b",
        "WRITERS": "sub=jane",
        "SELF": "qumulo_user",
        "KEYS_FILE": "/etc/keys.toml",
        "STATE_KEYS": f"{KEY} {OTHER_KEY}",
    }
    set_environment(monkeypatch, {f"QUMULO_HTTP_{name}": value for name, value in variables.items()})

    settings = load_http_settings({})

    assert str(settings.http_listen) == "0.0.0.0:443"
    assert settings.resource == "https://tokens.example.com:8443/storage/mcp"
    assert settings.http_audience == "urn:tokens"
    assert settings.http_allowed_hosts == ("tokens.example.com", "a b")
    assert settings.http_allowed_origins == ("https://chat.example.com", "http://localhost:6274")
    # An issuer is compared letter by letter.
    assert settings.http_issuer == f"{ISSUER}/"
    assert settings.http_issuer_ca_file == Path("/etc/ca.pem")
    assert (settings.http_client_id, settings.http_client_secret_file) == (RANDOM_CLIENT, Path("/etc/client-secret"))
    assert settings.pickup_url == "https://tokens.example.com:8443/storage/pickup"
    assert settings.redirect_uri == "https://tokens.example.com:8443/storage/pickup/callback"
    assert parse_rules(settings.http_readers) == [
        ("groups", "storage"), ("groups", "Storage Team"), ("realm_access.roles", "a=b")
    ]  # fmt: skip
    assert settings.http_self == "qumulo_user"
    assert [decode_state_key(key) for key in settings.http_state_keys or ()] == [bytes(range(32)), b"\xff\xef" * 16]
    assert KEY not in repr(settings)


def test_lists_of_the_file_are_arrays_and_those_of_options_are_shell_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'http_listen = "unix:{tmp_path}/socket"\nhttp_keys_file = "/etc/keys.toml"\n'
        'http_readers = ["groups=Storage Team", "sub=jane"]\nhttp_tls_in_front = true\n'
    )
    path.chmod(0o600)
    monkeypatch.setenv("QUMULO_CONFIG", str(path))

    settings = load_http_settings({"http_writers": "groups='The Admins'"})

    assert settings.http_listen == SocketAddress(tmp_path / "socket")
    assert settings.http_readers == ("groups=Storage Team", "sub=jane")
    assert settings.http_writers == ("groups=The Admins",)


@pytest.mark.parametrize(
    ("address", "shown", "url"),
    [
        ("127.0.0.1:0", "127.0.0.1:0", "http://127.0.0.1:0"),
        ("localhost:80", "localhost:80", "http://localhost:80"),
        ("[::1]:8080", "[::1]:8080", "http://[::1]:8080"),
        ("::1:8080", "[::1]:8080", "http://[::1]:8080"),
        ("127.8.8.8:1", "127.8.8.8:1", "http://127.8.8.8:1"),
        ("unix:/run/tokens.sock", "unix:/run/tokens.sock", "http://localhost"),
    ],
)
def test_this_machine_is_known_in_each_of_its_notations(
    monkeypatch: pytest.MonkeyPatch, address: str, shown: str, url: str
) -> None:
    set_environment(monkeypatch, ANONYMOUS | {"QUMULO_HTTP_LISTEN": address})

    settings = load_http_settings({})

    assert (str(settings.http_listen), settings.http_url) == (shown, url)


def test_a_url_with_an_address_of_version_6_is_called_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch, WITH_KEYS | {"QUMULO_HTTP_URL": "https://[2001:db8::1]:8443", "QUMULO_HTTP_LISTEN": "unix:/s"}
    )

    settings = load_http_settings({})

    assert settings.http_allowed_hosts[:2] == ("[2001:db8::1]", "[2001:db8::1]:*")
    assert settings.http_allowed_origins == ("https://[2001:db8::1]:8443",)


def test_off_this_machine_nobody_calls_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "QUMULO_HTTP_URL": "https://c.example.com",
        "QUMULO_HTTP_LISTEN": "0.0.0.0:80",
        "QUMULO_HTTP_TLS_IN_FRONT": "true",
    }
    set_environment(monkeypatch, WITH_KEYS | variables)

    assert load_http_settings({}).http_allowed_hosts == ("c.example.com", "c.example.com:*")


UNDECIDED = (
    "it is not decided who may call: QUMULO_HTTP_ISSUER names the identity provider of people, QUMULO_HTTP_KEYS_FILE "
    "has the keys of machines, and QUMULO_HTTP_ANONYMOUS=true lets in whoever reaches a loopback address or a Unix "
    "socket"
)
REACHABLE = (
    "can be reached by others, and without TLS anyone on the way could read what is said: set "
    "QUMULO_HTTP_TLS_CERTIFICATE and QUMULO_HTTP_TLS_KEY, or QUMULO_HTTP_TLS_IN_FRONT=true if a proxy in front does "
    "that"
)
FOR_LOOPBACK = "QUMULO_HTTP_ANONYMOUS is for an address that only this machine reaches, without a proxy"
FOR_THIS_MACHINE = "QUMULO_HTTP_ANONYMOUS is for callers on this machine, and QUMULO_HTTP_URL is for others"
NO_ASCII = "must be in ASCII: a name in other letters is written as xn--"
NO_SCOPE = "must have one scope in each scope=SCOPE, of ASCII characters without blanks"
NO_KEY = "QUMULO_HTTP_STATE_KEYS must have keys of 32 random bytes at least, in base64: `openssl rand -base64 32`"
NO_RULE = "must be CLAIM=VALUE, or several of these, such as scope=tokens:read groups=storage"
NO_ORIGIN = "QUMULO_HTTP_ALLOWED_ORIGINS must be SCHEME://HOST or SCHEME://HOST:PORT, or several of these"
NO_ADDRESS = "QUMULO_HTTP_LISTEN must be ADDRESS:PORT, or unix:PATH"
NO_CLIENT = "QUMULO_HTTP_CLIENT_ID must be the identifier of a client, as the issuer shows it"
NO_PAGES = "QUMULO_HTTP_CLIENT_ID lets people pick up bearer tokens"
NO_URL = "must be a URL, without a user, a query or a fragment"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, UNDECIDED),
        ({"ANONYMOUS": "false"}, UNDECIDED),
        ({"ANONYMOUS": "true", "LISTEN": "0.0.0.0:80"}, f"QUMULO_HTTP_LISTEN 0.0.0.0:80 {REACHABLE}"),
        ({"KEYS_FILE": "/k", "LISTEN": "[::]:80"}, f"QUMULO_HTTP_LISTEN [::]:80 {REACHABLE}"),
        ({"KEYS_FILE": "/k", "LISTEN": "c.example.com:80"}, f"QUMULO_HTTP_LISTEN c.example.com:80 {REACHABLE}"),
        ({"KEYS_FILE": "/k", "LISTEN": ":80"}, NO_ADDRESS),
        ({"ANONYMOUS": "true", "LISTEN": "10.0.0.1:80", "TLS_CERTIFICATE": "/c", "TLS_KEY": "/k"}, FOR_LOOPBACK),
        ({"ANONYMOUS": "true", "TLS_IN_FRONT": "true"}, FOR_LOOPBACK),
        ({"ANONYMOUS": "true", "LISTEN": "unix:/s", "TLS_IN_FRONT": "true"}, FOR_LOOPBACK),
        ({"ANONYMOUS": "true", "KEYS_FILE": "/k"}, "QUMULO_HTTP_ANONYMOUS and a sign-in contradict each other"),
        ({"ANONYMOUS": "true", "ISSUER": ISSUER}, "QUMULO_HTTP_ANONYMOUS and a sign-in contradict each other"),
        ({"ANONYMOUS": "true", "URL": "https://tokens.example.com"}, FOR_THIS_MACHINE),
        ({"ANONYMOUS": "true", "LISTEN": "unix:/s", "URL": "https://tokens.example.com"}, FOR_THIS_MACHINE),
        ({"ANONYMOUS": "maybe"}, "QUMULO_HTTP_ANONYMOUS must be true or false"),
        ({"KEYS_FILE": "/k", "TLS_KEY": "/k"}, "QUMULO_HTTP_TLS_CERTIFICATE and QUMULO_HTTP_TLS_KEY belong together"),
        ({"KEYS_FILE": "/k", "TLS_CERTIFICATE": "/c"}, "QUMULO_HTTP_TLS_KEY belong together: set both"),
        (
            {"KEYS_FILE": "/k", "TLS_CERTIFICATE": "/c", "TLS_KEY": "/k", "TLS_IN_FRONT": "true"},
            "QUMULO_HTTP_TLS_CERTIFICATE and QUMULO_HTTP_TLS_IN_FRONT contradict each other: keep one",
        ),
        ({"LISTEN": "8080"}, NO_ADDRESS),
        ({"LISTEN": "localhost"}, NO_ADDRESS),
        ({"LISTEN": "localhost:x"}, NO_ADDRESS),
        ({"LISTEN": "localhost:65536"}, NO_ADDRESS),
        ({"LISTEN": "localhost:-1"}, NO_ADDRESS),
        ({"LISTEN": "localhost:٣"}, NO_ADDRESS),
        ({"LISTEN": "unix:"}, "QUMULO_HTTP_LISTEN"),
        ({"LISTEN": "unix:socket"}, "QUMULO_HTTP_LISTEN"),
        ({"URL": "tokens.example.com"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "ftp://c"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "https://"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "https://a:b@c"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "https://c?a=b"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "https://c#a"}, f"QUMULO_HTTP_URL {NO_URL}"),
        ({"URL": "https://[::1"}, "QUMULO_HTTP_URL"),
        ({"URL": "https://例え.jp"}, f"QUMULO_HTTP_URL {NO_ASCII}"),
        ({"URL": "https://c.example.com/a b"}, f"QUMULO_HTTP_URL {NO_ASCII}"),
        ({"ISSUER": "https://例え.jp"}, f"QUMULO_HTTP_ISSUER {NO_ASCII}"),
        ({"URL": "http://c.example.com"}, "QUMULO_HTTP_URL must begin with https://, unless it names this machine"),
        ({"URL": "https://c.example.com/mcp/"}, "QUMULO_HTTP_URL must end before /mcp, which is added to it"),
        ({"ALLOWED_HOSTS": "https://c.example.com"}, "QUMULO_HTTP_ALLOWED_HOSTS must be HOST or HOST:PORT"),
        ({"ISSUER": "http://localhost"}, "QUMULO_HTTP_ISSUER must begin with https://"),
        ({"ISSUER": "https://i?a"}, f"QUMULO_HTTP_ISSUER {NO_URL}"),
        ({"KEYS_FILE": "keys.toml"}, "QUMULO_HTTP_KEYS_FILE"),
        ({"READERS": "tokens:read"}, f"QUMULO_HTTP_READERS {NO_RULE}"),
        ({"READERS": "=a"}, f"QUMULO_HTTP_READERS {NO_RULE}"),
        ({"WRITERS": "groups="}, f"QUMULO_HTTP_WRITERS {NO_RULE}"),
        ({"WRITERS": "groups=a b"}, f"QUMULO_HTTP_WRITERS {NO_RULE}"),
        ({"READERS": "scope=読む"}, f"QUMULO_HTTP_READERS {NO_SCOPE}"),
        ({"WRITERS": "scope=a 'scp=tokens:read tokens:write'"}, "must have one scope in each scp=SCOPE"),
        ({"WRITERS": "'groups=a"}, "QUMULO_HTTP_WRITERS has a quote in it without an end"),
        ({"ALLOWED_ORIGINS": "*"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "https://*.example.com"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "null"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "https://chat.example.com/"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "chat.example.com"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "https://"}, NO_ORIGIN),
        ({"ALLOWED_ORIGINS": "https://a https://b/x"}, NO_ORIGIN),
        ({"STATE_KEYS": "short"}, NO_KEY),
        ({"STATE_KEYS": "A"}, NO_KEY),
        ({"STATE_KEYS": f"{KEY} {KEY}"}, "QUMULO_HTTP_STATE_KEYS must have one key at least, and each key once"),
        ({"STATE_KEYS": KEY[:-5]}, NO_KEY),
        ({"STATE_KEYS": f"{KEY} {KEY[:8]}"}, NO_KEY),
        ({"STATE_KEYS": "$HTTP_KEYS"}, "QUMULO_HTTP_STATE_KEYS"),
        ({"STATE_KEYS": "''"}, "QUMULO_HTTP_STATE_KEYS"),
        ({"AUDIENCE": SECRET}, "QUMULO_HTTP_AUDIENCE"),
        ({"CLIENT_ID": SECRET, "ISSUER": ISSUER, "STATE_KEYS": KEY}, NO_CLIENT),
        ({"CLIENT_ID": "token tools", "ISSUER": ISSUER, "STATE_KEYS": KEY}, NO_CLIENT),
        ({"CLIENT_ID": "${CLIENT}", "ISSUER": ISSUER, "STATE_KEYS": KEY}, "QUMULO_HTTP_CLIENT_ID is not the value"),
        ({"CLIENT_ID": "c", "KEYS_FILE": "/k", "STATE_KEYS": KEY}, "set QUMULO_HTTP_ISSUER too"),
        ({"CLIENT_ID": "c", "ISSUER": ISSUER}, f"{NO_PAGES}, which wait sealed with QUMULO_HTTP_STATE_KEYS"),
        ({"CLIENT_ID": "c", "ISSUER": ISSUER, "STATE_KEYS": KEY, "LISTEN": "unix:/s"}, "set QUMULO_HTTP_URL too"),
        (
            {"CLIENT_ID": "c", "ISSUER": ISSUER, "STATE_KEYS": KEY, "LISTEN": "0.0.0.0:80", "TLS_IN_FRONT": "true"},
            "set QUMULO_HTTP_URL too",
        ),
        ({"CLIENT_SECRET_FILE": "/s", "ISSUER": ISSUER}, "QUMULO_HTTP_CLIENT_SECRET_FILE is of the client"),
        ({"READERS": f"sub={SECRET}"}, "QUMULO_HTTP_READERS"),
        ({"ALLOWED_HOSTS": SECRET}, "QUMULO_HTTP_ALLOWED_HOSTS"),
    ],
)
def test_what_would_be_open_by_accident_or_could_not_work_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    refusal = read_refusal(monkeypatch, {f"QUMULO_HTTP_{name}": value for name, value in variables.items()})

    assert expected in refusal
    assert refusal.count(";") <= 1
    for secret in (SECRET[10:], KEY[:20]):
        assert secret not in refusal


def test_replicas_need_keys_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    url = {"QUMULO_STATE_URL": "postgresql://jane@db.example.com/tokens"}

    refusal = read_refusal(monkeypatch, ANONYMOUS | url)

    assert refusal.startswith("QUMULO_STATE_URL is set, and QUMULO_HTTP_STATE_KEYS is not: replicas share keys")
    monkeypatch.setenv("QUMULO_HTTP_STATE_KEYS", KEY)
    assert load_http_settings({}).http_state_keys is not None


def test_an_array_without_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, ANONYMOUS)

    with pytest.raises(SettingsError, match="HTTP_STATE_KEYS must have one key at least"):
        load_http_settings({"http_state_keys": []})


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "[::1]:0"])
def test_at_an_address_of_this_machine_alone_pages_need_no_url(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    client = {"CLIENT_ID": "token-tools", "ISSUER": ISSUER, "STATE_KEYS": KEY, "LISTEN": address}
    set_environment(monkeypatch, {f"QUMULO_HTTP_{name}": value for name, value in client.items()})

    settings = load_http_settings({})

    assert settings.offers_pickup
    assert settings.redirect_uri == f"http://{address}/pickup/callback"
    assert settings.read_client_secret() is None


def test_the_secret_of_the_client_is_read_as_its_file_has_it_now_and_no_text_repeats_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "client-secret"
    settings = load_with_secret(monkeypatch, file)

    read = list[str]()
    for secret in ("Zq8vN2mKx7LpT4wR", "Hc3bYd9sWf6GjE5u"):
        file.write_text(f"\ufeff{secret}\n")
        found = settings.read_client_secret()
        assert found is not None
        assert has_known_secret(f"the issuer said {secret}")
        read.append(found.get_secret_value())

    assert read == ["Zq8vN2mKx7LpT4wR", "Hc3bYd9sWf6GjE5u"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), ("\n", "is empty"), ("x" * 5000, "is larger than 4 KiB")]
)
def test_a_file_that_has_no_secret_of_a_client_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "client-secret"
    settings = load_with_secret(monkeypatch, file)
    if content is not None:
        file.write_text(content)

    with pytest.raises(SettingsError) as refused:
        settings.read_client_secret()

    assert str(refused.value) == f"QUMULO_HTTP_CLIENT_SECRET_FILE names {file}, which {said}."


def load_with_secret(monkeypatch: pytest.MonkeyPatch, file: Path) -> HttpSettings:
    client = {"CLIENT_ID": "token-tools", "CLIENT_SECRET_FILE": str(file), "ISSUER": ISSUER, "STATE_KEYS": KEY}
    set_environment(monkeypatch, {f"QUMULO_HTTP_{name}": value for name, value in client.items()})
    return load_http_settings({})
