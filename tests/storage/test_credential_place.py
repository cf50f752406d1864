"""Test the place of the server's own credential: replaced as a whole or left as it was, with its owner and mode."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.fake_keyring import FakeKeyring
from tests.support.permissions import needs_root, permission_bits
from token_tools.credentials import FileSetting, encode_store
from token_tools.errors import DeliveryError
from token_tools.settings import Settings
from token_tools.storage.credential_place import CredentialPlace, FilePlace, KeyringPlace, find_place
from token_tools.storage.delivery import FileLocation, KeyringLocation
from token_tools.system_keyring import KeyringEntry

OLD, NEW = SecretStr("access-v1:b2xkIG9sZA=="), SecretStr("access-v1:bmV3IG5ldw==")
CONTENTS = {"bearer_token_file": f"{NEW.get_secret_value()}\n".encode(), "credentials_file": encode_store(NEW)}
MOUNT, UMOUNT = (shutil.which(command) or "/bin/false" for command in ("mount", "umount"))
ENTRY = KeyringEntry("qumulo", "lab")


@pytest.fixture(params=["bearer_token_file", "credentials_file"])
def setting(request: pytest.FixtureRequest) -> FileSetting:
    setting: FileSetting = request.param
    return setting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "token").write_text(OLD.get_secret_value())
    (folder / "token").chmod(0o600)
    return folder / "token"


def find_any(**settings: object) -> CredentialPlace | None:
    return find_place(Settings.model_validate({"host": "c.example.com", **settings}))


def find(**settings: object) -> CredentialPlace:
    place = find_any(**settings)
    assert place is not None
    return place


def list_folder(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_a_file_is_replaced_in_the_format_of_its_setting(path: Path, setting: FileSetting) -> None:
    place = find(**{setting: path})
    assert place == FilePlace(setting, path)

    place.check_writable()
    assert path.read_text() == OLD.get_secret_value()
    place.write(NEW)

    assert path.read_bytes() == CONTENTS[setting]
    assert place.location == FileLocation(path)
    assert list_folder(path) == ["token"]


def test_a_file_that_is_not_there_yet_is_made_in_a_folder_that_lets_nobody_in(
    tmp_path: Path, setting: FileSetting
) -> None:
    path = tmp_path / "config" / "credentials" / "lab"
    place = find(**{setting: path})

    before = os.umask(0)
    try:
        place.check_writable()
        assert not path.exists()
        place.write(NEW)
    finally:
        os.umask(before)

    assert path.read_bytes() == CONTENTS[setting]
    assert (permission_bits(path.parent), permission_bits(path)) == (0o700, 0o600)


def test_a_new_file_is_refused_where_others_can_put_another_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "other").touch()
    place = find(bearer_token_file=folder / "token")

    with pytest.raises(DeliveryError, match=r"QUMULO_BEARER_TOKEN_FILE \(.*\) cannot be written: .*chmod 700"):
        place.check_writable()


def test_the_mode_stays(path: Path) -> None:
    path.chmod(0o640)

    FilePlace("bearer_token_file", path).write(NEW)

    assert permission_bits(path) == 0o640


@needs_root
def test_the_owner_and_the_group_stay(path: Path) -> None:
    os.chown(path, 0, 4321)
    path.chmod(0o640)

    FilePlace("bearer_token_file", path).write(NEW)

    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 4321, 0o640)


def test_a_link_stays_and_what_it_leads_to_is_replaced(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)

    FilePlace("bearer_token_file", link).write(NEW)

    assert link.is_symlink()
    assert path.read_bytes() == CONTENTS["bearer_token_file"]


def test_a_file_that_may_not_be_written_is_left_alone(path: Path) -> None:
    # Nobody may write a program that runs, root neither.
    shutil.copy(sys.executable, path)
    path.chmod(0o700)
    with (
        subprocess.Popen([path, "-c", "input()"], stdin=subprocess.PIPE),
        pytest.raises(DeliveryError, match=r"cannot be written: Text file busy\."),
    ):
        FilePlace("bearer_token_file", path).check_writable()


@pytest.fixture
def mounted(path: Path, tmp_path: Path) -> Generator[Path]:
    """Mount a file over another one, as container hosts do with secrets."""
    other = tmp_path / "secret"
    other.write_text(OLD.get_secret_value())
    other.chmod(0o600)
    if subprocess.run([MOUNT, "--bind", other, path], check=False, capture_output=True).returncode:
        pytest.skip("this system lets the present user mount nothing; root, who runs the gate, may")
    yield path
    subprocess.run([UMOUNT, path], check=True)


def test_a_file_that_is_mounted_by_itself_is_left_alone(mounted: Path) -> None:
    place = FilePlace("bearer_token_file", mounted)

    for step in (place.check_writable, lambda: place.write(NEW)):
        with pytest.raises(DeliveryError, match="cannot be written: it is mounted by itself"):
            step()

    assert mounted.read_text() == OLD.get_secret_value()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_works_on_is_not(path: Path) -> None:
    abandoned, at_work = (path.with_name(f".credential-{digit * 16}") for digit in "01")
    for file in (abandoned, at_work):
        file.write_text(NEW.get_secret_value())
    with at_work.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        FilePlace("bearer_token_file", path).check_writable()

    assert list_folder(path) == [at_work.name, "token"]


def test_a_file_that_a_server_would_not_read_is_no_success(path: Path) -> None:
    path.chmod(0o622)

    with pytest.raises(DeliveryError, match=r"QUMULO_BEARER_TOKEN_FILE names .*, which other users can put another"):
        FilePlace("bearer_token_file", path).write(NEW)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DeliveryError, match="cannot be written: Not a directory"):
        FilePlace("bearer_token_file", tmp_path / "file" / "token").check_writable()


@pytest.mark.parametrize("setting", ["bearer_token_file", "credentials_file"])
def test_what_this_server_may_not_write_is_no_place(tmp_path: Path, setting: str) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "tokens"
    os.mkfifo(pipe)
    folder.mkdir()

    assert find_any(**{setting: pipe}) is None
    assert find_any(**{setting: folder / "c.example.com_8000_local_jane_1.json"}, delivery_dir=folder) is None
    assert find_any() is None
    assert find_any(bearer_token=NEW) is None
    assert find_any(credentials_command="cat token") is None


def test_a_login_of_qq_is_no_place_unless_a_setting_names_it(path: Path) -> None:
    settings = Settings(host="c.example.com")

    assert find_place(settings.with_login_of_qq(path)) is None
    assert find(credentials_file=path) == FilePlace("credentials_file", path)


def test_an_entry_of_the_keyring_is_replaced_and_nothing_else_is_left_there(fake_keyring: FakeKeyring) -> None:
    fake_keyring.secrets[ENTRY] = OLD.get_secret_value()
    place = find(keyring="qumulo/lab")
    assert place == KeyringPlace(ENTRY)

    place.check_writable()
    assert fake_keyring.secrets == {ENTRY: OLD.get_secret_value()}
    place.write(NEW)

    assert fake_keyring.secrets == {ENTRY: NEW.get_secret_value()}
    assert place.location == KeyringLocation("qumulo", "lab")


@pytest.mark.parametrize(
    ("failing_step", "reason"),
    [
        ("set", r"the system's keyring cannot be used \(KeyringLocked\)"),
        ("forget", "the system's keyring did not keep what it was given"),
        ("crash", r"the system's keyring cannot be used \(RuntimeError\)"),
    ],
)
def test_a_keyring_that_does_not_take_a_word_is_noticed_before_anything_is_written(
    fake_keyring: FakeKeyring, failing_step: str, reason: str
) -> None:
    fake_keyring.secrets[ENTRY] = OLD.get_secret_value()
    fake_keyring.failing_step = failing_step

    with pytest.raises(DeliveryError, match=rf"QUMULO_KEYRING \(qumulo/lab\) cannot be written: {reason}"):
        KeyringPlace(ENTRY).check_writable()

    assert fake_keyring.secrets == {ENTRY: OLD.get_secret_value()}


def test_a_keyring_that_keeps_the_old_entry_is_noticed(fake_keyring: FakeKeyring) -> None:
    fake_keyring.secrets[ENTRY] = OLD.get_secret_value()
    fake_keyring.failing_step = "forget"

    with pytest.raises(DeliveryError, match="QUMULO_KEYRING does not have what was just written there") as failure:
        KeyringPlace(ENTRY).write(NEW)

    assert NEW.get_secret_value() not in str(failure.value)
