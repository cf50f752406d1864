"""Test what `config.toml` may say, which value holds where several sources give one, and what is refused."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.environment import BEARER_TOKEN, SECRET, set_environment
from tests.support.permissions import needs_root
from token_tools.config_file import MAX_FILE_BYTES
from token_tools.configuration import find_address, load_profiles, load_settings, load_state_settings
from token_tools.errors import SettingsError

README = Path(__file__).parents[2] / "README.md"
WriteConfig = Callable[[str], Path]
A = '[clusters.a]\nhost = "a"\n'
TWO_CLUSTERS = """
[clusters.production]
host = "production.example.com"
credentials_file = "STORE"

[clusters.lab]
host = "lab.example.com"
port = 8443
credentials_file = "STORE"
"""


@pytest.fixture
def write_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials_file: Path) -> WriteConfig:
    """Write a file that QUMULO_CONFIG names; in it, STORE is a credentials file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text.replace("STORE", str(credentials_file)), encoding="utf-8")
        path.chmod(0o600)
        monkeypatch.setenv("QUMULO_CONFIG", str(path))
        return path

    return write


def read_refusal(*clusters: str) -> str:
    """Load a configuration that is refused, and return why: in one line, without a secret."""
    with pytest.raises(SettingsError) as refused:
        load_profiles({}, clusters=clusters)
    text = str(refused.value)
    assert text.isprintable()
    assert SECRET not in text
    return text


def test_each_table_is_a_cluster_in_the_order_of_the_file(write_config: WriteConfig) -> None:
    write_config(f'timeout = "5s"\n{TWO_CLUSTERS}description = "Nothing of value"\n')

    production, lab = load_profiles({})

    assert production.label == "production (production.example.com:8000)"
    assert (lab.name, lab.settings.address, lab.description) == ("lab", "lab.example.com:8443", "Nothing of value")
    assert production.settings.timeout == lab.settings.timeout == timedelta(seconds=5)
    assert lab.settings.read_bearer().get_secret_value() == SECRET


def test_the_file_in_the_configuration_folder_is_read_without_being_named(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(TWO_CLUSTERS)
    monkeypatch.delenv("QUMULO_CONFIG")
    folder = Path(os.environ["XDG_CONFIG_HOME"], "qumulo-token-tools")
    folder.mkdir()
    path.rename(folder / "config.toml")

    assert [profile.name for profile in load_profiles({})] == ["production", "lab"]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    folder.parent.joinpath(".config").symlink_to(folder.parent)
    assert [profile.name for profile in load_profiles({})] == ["production", "lab"]


def test_without_a_home_folder_and_a_file_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": BEARER_TOKEN, "QUMULO_STATE_DIR": "/s"})
    monkeypatch.setenv("HOME", "none")
    monkeypatch.delenv("XDG_CONFIG_HOME")

    [profile] = load_profiles({})

    assert profile.label == "c:8000"


def test_a_server_is_narrowed_to_the_clusters_that_are_chosen(write_config: WriteConfig) -> None:
    write_config(f'{TWO_CLUSTERS}[clusters.third]\nhost = "third"\ncredentials_file = "STORE"\n')

    assert [profile.name for profile in load_profiles({}, clusters=["third", "production"])] == ["production", "third"]
    [alone] = load_profiles({}, clusters=["lab"])
    assert (alone.name, alone.label) == (None, "lab.example.com:8443")


def test_a_cluster_that_is_not_chosen_needs_no_credential_that_can_be_read(write_config: WriteConfig) -> None:
    write_config(TWO_CLUSTERS + '[clusters.third]\nhost = "third"\ncredentials_file = "/nowhere"\n')

    assert len(load_profiles({}, clusters=["lab"])) == 1
    assert "/nowhere" in read_refusal()


def test_the_top_of_the_file_is_enough_for_the_one_cluster_of_the_environment(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config('read_only = true\nmax_changes = 3\nstate_dir = "/s"\ntimeout = "5s"')
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": BEARER_TOKEN, "QUMULO_TIMEOUT": "9s"})

    [profile] = load_profiles({})

    assert (profile.name, profile.settings.read_only, profile.settings.max_changes) == (None, True, 3)
    assert profile.settings.timeout == timedelta(seconds=9)
    assert load_state_settings({}).state_dir == Path("/s")
    assert load_state_settings({"state_dir": "/other"}).state_dir == Path("/other")
    assert load_settings({}).max_changes == 30


@pytest.mark.parametrize(
    ("key", "values", "strictest"),
    [
        ("read_only", ("true", "false", "false"), True),
        ("read_only", ("false", "true", "false"), True),
        ("read_only", ("false", "false", "true"), True),
        ("confirm", ('"all"', "none", '"risky"'), "all"),
        ("confirm", ('"none"', "risky", '"none"'), "risky"),
        ("max_lifetime", ('"90d"', "1000d", '"200d"'), timedelta(days=90)),
        ("max_lifetime", ('"900d"', "1000d", '"200d"'), timedelta(days=200)),
        ("default_lifetime", ('"never"', "30d", '"90d"'), timedelta(days=30)),
    ],
)
def test_what_one_source_restricts_no_other_one_relaxes(
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    values: tuple[str, str, str],
    strictest: object,
) -> None:
    top, variable, table = values
    write_config(f"{key} = {top}\n{TWO_CLUSTERS}{key} = {table}\n")
    monkeypatch.setenv(f"QUMULO_{key.upper()}", variable)

    lab = load_profiles({})[1]

    assert getattr(lab.settings, key) == strictest


def test_no_bound_on_changes_relaxes_none(write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(f"max_changes = 5\n{TWO_CLUSTERS}")
    monkeypatch.setenv("QUMULO_MAX_CHANGES", "0")

    assert [profile.settings.max_changes for profile in load_profiles({})] == [5, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('reed_only = true\n[clusters.a]\nhost = "a"', ": reed_only is no setting here; nearest is read_only."),
        (A + 'ttl = "9d"', "[clusters.a] ttl is no setting here; nearest is max_lifetime."),
        (A + '"no such" = 1', 'config.toml: [clusters.a] "no such" is no setting here'),
        ('host = "a"', ": host belongs into the table of a cluster, [clusters.NAME]."),
        ('description = "a"', ": description belongs into the table of a cluster, [clusters.NAME]."),
        (A + 'state_dir = "/s"', "[clusters.a] state_dir is for the whole server"),
        (A + f'bearer_token = "{SECRET}"', "[clusters.a] bearer_token is a secret, and has no place"),
        ("[clusters.a]\nport = 8000", "[clusters.a] host is not set: it names the cluster"),
        (A + "port = 70000", "[clusters.a] port must be a whole number from 1 to 65535"),
        (A + "port = true", "[clusters.a] port must be a whole number from 1 to 65535"),
        (f"max_changes = true\n{A}", ": max_changes must be a whole number from 0 to 1000000"),
        (A + 'descripton = "a"', "[clusters.a] descripton is no setting here; nearest is description."),
        ('[cluster.a]\nhost = "a"', ": cluster is no setting here; nearest is clusters."),
        (A + f'description = "{SECRET}"', "[clusters.a] description is wrong: this is a token"),
        (A + "timeout = 30", "[clusters.a] timeout must be a text with a unit, such as 30s or 90d"),
        (A + "max_lifetime = 30", "[clusters.a] max_lifetime must be a text with a unit"),
        ("[clusters.a]\nhost = 1", "[clusters.a] host must be a text"),
        (A + "ca_file = 1", "[clusters.a] ca_file must be a text"),
        ('[clusters.a]\nhost = ""', "[clusters.a] host is empty: give it a value, or remove it."),
        (A + 'confirm = "some"', '[clusters.a] confirm must be all, risky or none (given: "some")'),
        (A + 'read_only = "maybe"', "[clusters.a] read_only must be true or false"),
        (A + "description = 1", "[clusters.a] description must be a line of at most 200 visible"),
        (A + 'description = "b\\u200bc"', "[clusters.a] description must be a line of at most 200"),
        ('confirm = "some"\n[clusters.a]\nhost = "a"', ": confirm must be all, risky or none"),
        (
            A + 'max_lifetime = "1d"\ndefault_lifetime = "2d"',
            "[clusters.a] default_lifetime is longer than ",
        ),
        (
            A + 'verify_tls = false\nca_file = "CA"',
            "[clusters.a] verify_tls=false contradict each other",
        ),
        (
            '[clusters.a]\nhost = "::1"\n[clusters.b]\nhost = "[0:0::1]"',
            "[clusters.a] and [clusters.b] are the same cluster, [::1]:8000",
        ),
        (A + '[clusters.b]\nhost = "A"', "[clusters.a] and [clusters.b] are the same cluster, A:8000"),
        (A + '[clusters.A]\nhost = "b"', "differ in nothing but capital letters"),
        ('[clusters."a b"]\nhost = "a"', '[clusters."a b"] must have a name of letters, digits and `.-_`, 40 at most'),
        ("clusters = 1", ": clusters must be tables, [clusters.NAME] each."),
        ("[clusters]\na = 1", ": clusters must be tables, [clusters.NAME] each."),
        ("host = production", "config.toml is not TOML at line 1, column 8: a text stands in quotes, and"),
        (f"host = {SECRET}", "config.toml is not TOML at line 1, column 8: a text stands in quotes, and"),
        (A + A, "config.toml is not TOML at line 3, column 12: a text stands in quotes, and each key and each table "),
        ("[clusters.a", "config.toml is not TOML at end of document"),
        ("x = " + "[" * 5000, "config.toml is not TOML: "),
        ("#" * (MAX_FILE_BYTES + 1), "config.toml is larger than 32 KiB."),
        ('state_url = "mysql://x"\n[clusters.a]\nhost = "a"', ": state_url must be the URL of a PostgreSQL database"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line_that_names_file_table_and_key(
    write_config: WriteConfig, ca_file: Path, text: str, expected: str
) -> None:
    path = write_config(text.replace("CA", str(ca_file)))

    refusal = read_refusal()

    assert expected in refusal
    assert refusal.startswith(str(path))


def test_a_file_that_is_named_must_be_there(write_config: WriteConfig) -> None:
    path = write_config("")
    path.unlink()

    assert read_refusal() == f"QUMULO_CONFIG names {path}, and there is no such file."
    path.symlink_to("/nowhere")
    assert read_refusal() == f"{path} does not exist."


def test_a_file_that_is_no_text_is_refused(write_config: WriteConfig) -> None:
    path = write_config("")
    path.write_bytes(b"host = \xff")

    assert read_refusal() == f"{path} is not in UTF-8."


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(write_config: WriteConfig, mode: int) -> None:
    path = write_config(TWO_CLUSTERS)
    path.chmod(mode)

    assert read_refusal() == f"{path} may be written by others (mode {mode:04o}): `chmod go-w` it."


@needs_root
def test_a_file_of_another_user_is_refused(write_config: WriteConfig) -> None:
    path = write_config(TWO_CLUSTERS)
    os.chown(path, 54321, -1)

    assert read_refusal() == f"{path} belongs to another user (uid 54321), who may write it."


def test_a_database_s_password_is_read_from_no_file_that_others_can_read(write_config: WriteConfig) -> None:
    path = write_config('state_url = "postgresql://me:hidden-word@db/x"')
    assert load_state_settings({}).state_url == SecretStr("postgresql://me:hidden-word@db/x")

    path.chmod(0o644)

    refusal = read_refusal()
    assert refusal == f"{path} has state_url, and other users can read it: `chmod 600` it."
    assert "hidden-word" not in refusal


def test_a_secret_is_read_from_a_credential_of_systemd_as_systemd_makes_it(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config('state_url = "postgresql://me:hidden-word@db/x"')
    # An entry for the service's user shows in the place of the group's permissions.
    path.chmod(0o440)
    assert read_refusal() == f"{path} has state_url, and other users can read it: `chmod 600` it."

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert load_state_settings({}).state_url == SecretStr("postgresql://me:hidden-word@db/x")

    path.chmod(0o444)
    assert read_refusal() == f"{path} has state_url, and other users can read it: `chmod 600` it."


@pytest.mark.parametrize("variable", ["HOST", "PORT", "BEARER_TOKEN", "CREDENTIALS_FILE", "CA_FILE", "VERIFY_TLS"])
def test_what_is_about_one_cluster_is_refused_beside_tables(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    path = write_config(TWO_CLUSTERS)
    monkeypatch.setenv(f"QUMULO_{variable}", "1")

    assert read_refusal() == (
        f"QUMULO_{variable} is about one cluster, and {path} has tables of clusters: remove the one or the "
        "other. --cluster NAME chooses a table."
    )


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("lap", "--cluster lap: there is no table of that name; nearest is lab."),
        ("x y", '--cluster "x y": there is no table of that name; there are production, lab.'),
    ],
)
def test_a_cluster_that_does_not_exist_cannot_be_chosen(write_config: WriteConfig, chosen: str, expected: str) -> None:
    write_config(TWO_CLUSTERS)

    assert read_refusal(chosen) == expected


@pytest.mark.parametrize("name", ["QUMULO_CLUSTER", "QUMULO_CLUSTERS"])
def test_a_variable_that_looks_as_if_it_chose_clusters_is_refused(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_config(TWO_CLUSTERS)
    monkeypatch.setenv(name, "lab")

    assert read_refusal().startswith(f"{name} is no setting and would choose nothing: the option --cluster ")


def test_a_cluster_cannot_be_chosen_where_there_are_no_tables(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config("")
    assert read_refusal("lab").endswith(f"chooses a table [clusters.NAME] of config.toml, and {path} has none.")


def test_a_cluster_cannot_be_chosen_where_there_is_no_file() -> None:
    assert read_refusal("lab").endswith("and there is no such file.")


def test_a_cluster_of_the_journal_is_found_by_its_name_in_the_file(write_config: WriteConfig) -> None:
    write_config(TWO_CLUSTERS)

    assert find_address({}, "lab") == "lab.example.com:8443"
    assert find_address({}, "other.example.com:8000") == "other.example.com:8000"
    with pytest.raises(SettingsError, match="there is no table of that name; nearest is lab; an address has its port"):
        find_address({}, "lba")
    write_config("[clusters.lab]\nport = 1")
    with pytest.raises(SettingsError, match=r"\[clusters.lab\] host is not set"):
        find_address({}, "lab")


def test_the_file_in_the_readme_is_one(write_config: WriteConfig, credentials_file: Path, ca_file: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    named = re.sub(r'(credentials_file|ca_file) = ".*?"', lambda match: f'{match[1]} = "{match[1].upper()}"', example)
    paths = {"CREDENTIALS_FILE": credentials_file, "CA_FILE": ca_file}
    write_config(re.sub("CREDENTIALS_FILE|CA_FILE", lambda match: str(paths[match[0]]), named))

    production, replica, lab = load_profiles({})

    assert (production.description, replica.settings.read_only) == ("All customers", True)
    assert (production.settings.max_lifetime, lab.settings.max_lifetime) == (timedelta(days=180), timedelta(days=7))


@pytest.mark.parametrize(
    ("key", "value", "location"),
    [
        ("bearer_token_file", '"BARE"', "QUMULO_BEARER_TOKEN_FILE (BARE)"),
        ("credentials_command", '["cat", "BARE"]', "QUMULO_CREDENTIALS_COMMAND's output"),
        ("credentials_command", '"cat BARE"', "QUMULO_CREDENTIALS_COMMAND's output"),
    ],
)
def test_a_table_names_the_credential_of_its_cluster(
    write_config: WriteConfig, tmp_path: Path, key: str, value: str, location: str
) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f"{BEARER_TOKEN}\n", encoding="utf-8")
    bare.chmod(0o600)
    write_config(f"{A}{key} = {value.replace('BARE', str(bare))}\n")

    [profile] = load_profiles({})

    assert profile.settings.read_bearer().get_secret_value() == BEARER_TOKEN
    assert profile.settings.credential_location == location.replace("BARE", str(bare))


@pytest.mark.parametrize("command", ['["/opt/take it", "in"]', "\"'/opt/take it' in\""], ids=["array", "text"])
def test_a_delivery_command_holds_for_all_clusters(write_config: WriteConfig, command: str) -> None:
    top = f'delivery = "command"\ndelivery_command = {command}\ndelivery_check = ["true"]\n'
    write_config(f"{top}{TWO_CLUSTERS}")

    profiles = load_profiles({})

    assert [profile.settings.delivery_command for profile in profiles] == [("/opt/take it", "in")] * 2
    assert [profile.settings.delivery_check for profile in profiles] == [("true",)] * 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('keyring = "s/a"\nbearer_token_file = "/x"', "bearer_token_file and {} keyring contradict each other"),
        ("credentials_command = []", "credentials_command must be a command: a program and its arguments"),
        ("credentials_command = 7", "credentials_command must be a command: a program and its arguments"),
        ("keyring = 7", "keyring must be "),
        ('fingerprint = "ab"', "fingerprint "),
        ('credentials_file = "/no/such"', "credentials_file names /no/such, which does not exist."),
        ('bearer_token_file = "/no/such"', "bearer_token_file names /no/such, which does not exist."),
        ('credentials_command = "false"', "credentials_command: false ended with exit status 1."),
        ("", "bearer_token_file, credentials_file, credentials_command or keyring has to be set"),
        ("fingerprint = 7", "fingerprint must be "),
    ],
)  # fmt: skip
def test_a_wrong_credential_in_a_table_is_named(write_config: WriteConfig, lines: str, expected: str) -> None:
    where = f"{write_config(A + lines)}: [clusters.a]"

    assert f"{where} {expected.format(where)}" in read_refusal()
