"""Test the folders and files that settings name, and the defaults."""

import os
import pwd
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.environment import BEARER_TOKEN, REQUIRED_ENVIRONMENT, SECRET, set_environment
from token_tools.configuration import load_settings
from token_tools.errors import SettingsError
from token_tools.paths import name_session_bus
from token_tools.quoting import quote_untrusted
from token_tools.settings import Settings


def test_new_tokens_go_to_the_user_s_state_directory_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"XDG_STATE_HOME": str(tmp_path)})

    assert load_settings({}).delivery_dir.parts[-2:] == ("qumulo-token-tools", "tokens")
    assert load_settings({"state_dir": "/s"}).delivery_dir == Path("/s/tokens")


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


PATH_SETTINGS = ["credentials_file", "ca_file", "state_dir", "delivery_dir", "report_dir"]


@pytest.mark.parametrize("name", ["credentials_file", "state_dir", "delivery_dir", "report_dir"])
def test_a_place_in_one_s_home_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")

    for given, found in (("~/x", "/home/jane/x"), ("~", "/home/jane"), ("~root/x", f"{Path('~root').expanduser()}/x")):
        assert str(getattr(Settings.model_validate({"host": "c", name: given}), name)) == found


@pytest.mark.parametrize("name", PATH_SETTINGS)
@pytest.mark.parametrize(
    ("given", "expected"),
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
def test_a_place_that_would_not_be_where_somebody_means_is_refused(name: str, given: str, expected: str) -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings({"host": "c", name: given})

    assert f"QUMULO_{name.upper()} " in str(failure.value)
    assert expected in str(failure.value)
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


def test_a_place_may_have_an_apostrophe_and_a_percent_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/o'brien")

    settings = Settings.model_validate({"host": "c", "state_dir": "/home/o'brien/100 %", "delivery_dir": "~/x"})

    assert (settings.state_dir, settings.delivery_dir) == (Path("/home/o'brien/100 %"), Path("/home/o'brien/x"))


def test_tokens_and_reports_go_where_the_state_is_unless_they_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    settings = Settings.model_validate({"host": "c", "state_dir": "~/x"})

    assert (settings.delivery_dir, settings.report_dir) == (tmp_path / "x" / "tokens", tmp_path / "x" / "reports")


def test_a_place_in_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError, match="QUMULO_STATE_DIR names ~nobody-here/x, and there is no such user"):
        load_settings({"host": "c", "bearer_token": SecretStr("own"), "state_dir": "~nobody-here/x"})


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        ("", "needs a home folder, and HOME is empty"),
        ("home", "needs a home folder, and HOME is home: it must be an absolute path"),
        ("/z\udceb", "must be a path in UTF-8"),
        (f"/{BEARER_TOKEN}", "is wrong: this is a token"),
    ],
    ids=["empty", "relative", "latin-1", "token"],
)
def test_a_home_that_is_none_is_told_with_the_setting_that_helps(
    monkeypatch: pytest.MonkeyPatch, home: str, expected: str
) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"HOME": home})
    monkeypatch.delenv("XDG_STATE_HOME")

    with pytest.raises(SettingsError) as failure:
        load_settings({})

    assert str(failure.value).startswith(f"QUMULO_STATE_DIR is not set, and its default {expected}")
    assert str(failure.value).endswith("Set QUMULO_STATE_DIR to an absolute path.")

    assert load_settings({"state_dir": "/s"}).delivery_dir == Path("/s/tokens")


def test_a_place_in_the_home_of_somebody_without_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, REQUIRED_ENVIRONMENT | {"HOME": ""})

    with pytest.raises(SettingsError, match="QUMULO_STATE_DIR needs a home folder, and HOME is empty"):
        load_settings({"state_dir": "~/x"})


@pytest.mark.parametrize("home", ["", "/z\udceb"], ids=["none", "latin-1"])
def test_without_a_usable_home_there_is_no_login_of_qq(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "HOME": home, "XDG_CONFIG_HOME": "relative"})

    with pytest.raises(SettingsError, match="QUMULO_CREDENTIALS_COMMAND or QUMULO_KEYRING has to be set"):
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


def test_the_bus_of_the_session_is_found_where_a_host_does_not_name_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Set first, so that it is as before after the test.
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/given")
    socket = tmp_path / str(os.geteuid()) / "bus"

    def look() -> str | None:
        name_session_bus(tmp_path)
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS")

    given = look()
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    without_socket = look()
    socket.parent.mkdir()
    socket.touch()

    assert (given, without_socket, look()) == ("unix:path=/given", None, f"unix:path={socket}")
