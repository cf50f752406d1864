"""Where a new bearer token goes: proved before, private from the first byte, nothing left after a failure."""

import errno
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from pydantic import SecretStr

from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import JANE as ACCOUNT
from tests.support.harness import TIMEOUT_SECONDS, TOKENS_PATH, Harness, ToolAnswer
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
from token_tools.credentials import encode_store
from token_tools.errors import DeliveryError
from token_tools.settings import Settings
from token_tools.storage.delivery import (
    DeliveredToken,
    Delivery,
    FileDelivery,
    FileLocation,
    InlineDelivery,
    InlineLocation,
    KeyringDelivery,
    KeyringLocation,
    Location,
    choose_delivery,
)

pytestmark = pytest.mark.anyio

SECRET = "access-v1:SECRETSECRET"
NEW_TOKEN = NewAccessToken(id="18446744073709551616123", bearer_token=SecretStr(SECRET))
JANE = Identity(domain="LOCAL", name="jane")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def delivery(folder: Path) -> Delivery:
    return FileDelivery(folder, Qq("2001:db8::1", 8000))


def permission_bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_reserved_file_is_private_and_empty_of_secrets(delivery: Delivery, folder: Path) -> None:
    before = os.umask(0)
    try:
        reservation = await delivery.reserve()
    finally:
        os.umask(before)

    [file] = folder.iterdir()
    assert (permission_bits(folder), permission_bits(file)) == (0o700, 0o600)
    assert file.read_bytes().strip() == b""
    assert file.stat().st_size == 4096
    await reservation.release()


async def test_a_kept_token_is_a_store_whose_name_says_whose_it_is(delivery: Delivery, folder: Path) -> None:
    delivered = await (await delivery.reserve()).store(NEW_TOKEN, JANE)

    [file] = folder.iterdir()
    assert file.name == "2001_db8_1_8000_local_jane_18446744073709551616123.json"
    assert (delivered.id, delivered.location, delivered.bearer_token) == (NEW_TOKEN.id, FileLocation(file), None)
    assert json.loads(file.read_text()) == {"bearer_token": SECRET, "version": 1}
    assert permission_bits(file) == 0o600


async def test_a_dropped_reservation_leaves_nothing(delivery: Delivery, folder: Path) -> None:
    await (await delivery.reserve()).release()

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b\x00c\n", "..", "x" * 5000, "x" * 96, '"' * 96, "ü€\u202e" * 50], ids=ascii
)
async def test_no_name_leads_out_of_the_folder_or_is_too_long(folder: Path, name: str) -> None:
    delivery = FileDelivery(folder, Qq(".".join(["x" * 60] * 4), 65535))
    new = NewAccessToken(id="9" * 64, bearer_token=SecretStr(SECRET))

    delivered = await (await delivery.reserve()).store(new, Identity(name=name))

    assert [FileLocation(file) for file in folder.iterdir()] == [delivered.location]
    assert delivered.location.render().isascii()


async def test_reservations_made_at_the_same_time_do_not_collide(delivery: Delivery, folder: Path) -> None:
    one, two = await delivery.reserve(), await delivery.reserve()
    other = NewAccessToken(id="2", bearer_token=SecretStr("access-v1:other"))

    locations = {(await two.store(other, JANE)).location, (await one.store(NEW_TOKEN, JANE)).location}

    assert {FileLocation(file) for file in folder.iterdir()} == locations
    assert len(locations) == 2


async def test_an_existing_file_is_not_overwritten_but_stood_beside(delivery: Delivery, folder: Path) -> None:
    first = await (await delivery.reserve()).store(NEW_TOKEN, JANE)
    file = Path(first.location.render())
    content = file.read_bytes()
    other = NewAccessToken(id=NEW_TOKEN.id, bearer_token=SecretStr("b"))

    beside = [(await (await delivery.reserve()).store(other, JANE)).location for _ in range(2)]

    assert file.read_bytes() == content
    assert beside == [FileLocation(file.with_stem(f"{file.stem}-{number}")) for number in (2, 3)]
    assert {FileLocation(file) for file in folder.iterdir()} == {first.location, *beside}


async def test_the_file_that_a_token_went_into_is_found_before_one_that_has_its_name(delivery: Delivery) -> None:
    named, beside = [await (await delivery.reserve()).store(NEW_TOKEN, JANE) for _ in range(2)]

    assert await delivery.locate(NEW_TOKEN.id, beside.location) == beside.location
    assert await delivery.locate(NEW_TOKEN.id, None) == named.location


async def test_of_files_with_its_name_any_that_is_left_is_found(delivery: Delivery) -> None:
    named, beside = [await (await delivery.reserve()).store(NEW_TOKEN, JANE) for _ in range(2)]
    Path(named.location.render()).unlink()

    assert await delivery.locate(NEW_TOKEN.id, named.location) == beside.location


async def test_a_file_that_cannot_be_looked_for_is_not_taken_for_gone(folder: Path, tmp_path: Path) -> None:
    unreadable = tmp_path / ("x" * 300)
    location = FileLocation(unreadable / "token.json")

    for delivery in (FileDelivery(folder, Qq("c", 8000)), KeyringDelivery("c:8000"), InlineDelivery()):
        with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
            await delivery.locate(NEW_TOKEN.id, location)
    with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
        await FileDelivery(unreadable, Qq("c", 8000)).locate(NEW_TOKEN.id, None)


async def test_a_location_at_another_destination_is_found_whatever_the_operator_chooses_now(tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.touch()
    found: list[Location] = [FileLocation(file), KeyringLocation("other", "jane 1")]

    for delivery in (FileDelivery(tmp_path / "tokens", Qq("c", 8000)), KeyringDelivery("c:8000"), InlineDelivery()):
        assert [await delivery.locate("1", location) for location in found] == found
        answer = await delivery.locate("1", InlineLocation())
        assert answer is not None
        assert answer.render() == "the answer to that call, and with it the conversation and its logs"
        assert await delivery.locate("1", FileLocation(tmp_path / "gone.json")) is None
        assert await delivery.locate("1", None) is None


async def test_the_same_token_of_two_clusters_behind_one_address_has_two_files(folder: Path) -> None:
    locations = {
        (await (await FileDelivery(folder, Qq("c", port)).reserve()).store(NEW_TOKEN, JANE)).location for port in (1, 2)
    }

    assert len(locations) == 2


async def test_an_empty_folder_is_made_private(delivery: Delivery, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)

    await (await delivery.reserve()).release()

    assert permission_bits(folder) == 0o700


async def test_a_folder_with_other_things_that_others_can_enter_is_refused(delivery: Delivery, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "other").touch()

    with pytest.raises(DeliveryError, match=f"others can enter {folder} "):
        await delivery.reserve()

    assert permission_bits(folder) == 0o755


async def test_a_place_below_a_file_is_refused(delivery: Delivery, folder: Path) -> None:
    folder.parent.write_text("a file")

    with pytest.raises(DeliveryError, match=os.strerror(errno.ENOTDIR)):
        await delivery.reserve()


def test_a_full_disk_is_found_out_before_and_leaves_nothing(folder: Path) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    script = f"""
import anyio, pathlib, resource, signal
from token_tools.storage.delivery import FileDelivery
from token_tools.errors import DeliveryError
from token_tools.cluster.qq import Qq
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
try:
    anyio.run(FileDelivery(pathlib.Path({str(folder)!r}), Qq("c", 8000)).reserve)
except DeliveryError as failure:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    print(failure)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert os.strerror(errno.EFBIG) in told.stdout
    assert list(folder.iterdir()) == []


async def test_a_token_that_cannot_be_made_durable_leaves_no_file(delivery: Delivery, folder: Path) -> None:
    reservation = await delivery.reserve()
    [pending] = folder.iterdir()
    pending.unlink()

    with pytest.raises(DeliveryError, match=os.strerror(errno.ENOENT)):
        await reservation.store(NEW_TOKEN, JANE)

    assert list(folder.iterdir()) == []


async def test_a_reservation_that_cannot_be_removed_is_no_failure(
    folder: Path, delivery: Delivery, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = await delivery.reserve()
    [pending] = folder.iterdir()
    pending.unlink()
    pending.mkdir()

    await reservation.release()

    reasons = [os.strerror(number) for number in (errno.EISDIR, errno.EPERM)]  # Linux's, and that of POSIX
    assert caplog.messages in [[f"{pending} could not be removed: {reason}"] for reason in reasons]


async def test_a_kept_file_that_is_gone_already_needs_no_retracting(delivery: Delivery, folder: Path) -> None:
    delivered = await (await delivery.reserve()).store(NEW_TOKEN, JANE)
    Path(delivered.location.render()).unlink()

    await delivery.remove(delivered)

    assert list(folder.iterdir()) == []


async def test_a_kept_file_that_cannot_be_retracted_is_a_failure(delivery: Delivery, folder: Path) -> None:
    delivered = await (await delivery.reserve()).store(NEW_TOKEN, JANE)
    folder.rename(folder.with_name("moved"))
    folder.write_text("a file")

    with pytest.raises(DeliveryError, match=re.escape(f" in {folder}: {os.strerror(errno.ENOTDIR)}.")):
        await delivery.remove(delivered)


async def test_a_token_that_gets_no_name_is_not_left_under_another(delivery: Delivery, folder: Path) -> None:
    reservation = await delivery.reserve()
    [pending] = folder.iterdir()
    same = pending.rename(folder / "same")

    with pytest.raises(DeliveryError):
        await reservation.store(NEW_TOKEN, JANE)

    assert same.read_bytes() == b""


def test_a_reservation_that_a_starting_server_removes_at_once_is_made_again(folder: Path) -> None:
    script = f"""
import anyio, os, pathlib, sys
from token_tools.storage.delivery import FileDelivery
from token_tools.cluster.qq import Qq
folder, removed = pathlib.Path({str(folder)!r}), []
def remove_once(event, args):
    if event == "fcntl.flock" and not removed:
        removed.extend(folder.iterdir())
        removed[0].unlink()
sys.addaudithook(remove_once)
anyio.run(FileDelivery(folder, Qq("c", 8000)).reserve)
"""
    subprocess.run([sys.executable, "-c", script], timeout=30, check=True)

    assert len(list(folder.iterdir())) == 1


async def test_what_is_no_file_of_ours_is_let_be_by_the_recovery(delivery: Delivery, folder: Path) -> None:
    await (await delivery.reserve()).release()
    os.mkfifo(folder / ".pending-1")
    (folder / "elsewhere").write_bytes(encode_store(SecretStr(SECRET)))
    (folder / ".pending-2").symlink_to(folder / "elsewhere")
    before = {*folder.iterdir()}

    with anyio.fail_after(5):
        assert list(await delivery.recover()) == []

    assert {*folder.iterdir()} == before


async def test_what_a_killed_server_left_is_found_by_the_id_of_the_token(delivery: Delivery, folder: Path) -> None:
    held = await delivery.reserve()
    (folder / f".pending-1_{NEW_TOKEN.id}").write_bytes(encode_store(SecretStr(SECRET)))
    (folder / f".pending-2_{NEW_TOKEN.id}0").write_bytes(encode_store(SecretStr(SECRET)))
    (folder / ".pending-3_7").write_bytes(b" " * 4096)

    recovered = FileLocation(folder / f"recovered-1_{NEW_TOKEN.id}.json")
    assert await delivery.locate(NEW_TOKEN.id, None) == recovered
    assert await delivery.locate("7", None) is None
    assert await delivery.recover() == [folder / f"recovered-2_{NEW_TOKEN.id}0.json"]
    assert await delivery.locate(NEW_TOKEN.id, None) == recovered
    assert list(await delivery.list_unidentified_files()) == []
    await held.release()


async def test_while_it_is_written_the_secret_is_in_a_file_with_the_id_of_the_token(folder: Path) -> None:
    script = f"""
import anyio, os, pathlib, signal, sys
from pydantic import SecretStr
from token_tools.storage.delivery import FileDelivery
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
def die_at_the_end(event, args):
    if event == "os.rename" and str(args[1]).endswith(".json"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die_at_the_end)
async def main():
    reservation = await FileDelivery(pathlib.Path({str(folder)!r}), Qq("c", 8000)).reserve()
    new = NewAccessToken(id={NEW_TOKEN.id!r}, bearer_token=SecretStr({SECRET!r}))
    await reservation.store(new, Identity(domain="LOCAL", name="jane"))
anyio.run(main)
"""
    await anyio.run_process([sys.executable, "-c", script], check=False)

    [pending] = folder.iterdir()
    found = await FileDelivery(folder, Qq("c", 8000)).locate(NEW_TOKEN.id, None)

    assert re.fullmatch(rf"\.pending-[0-9a-f]+_{NEW_TOKEN.id}", pending.name)
    recovered = folder / f"recovered-{pending.name.removeprefix('.pending-')}.json"
    assert found == FileLocation(recovered)
    assert json.loads(recovered.read_text())["bearer_token"] == SECRET


def test_what_is_left_of_a_token_that_could_not_be_kept_is_told(folder: Path) -> None:
    script = f"""
import anyio, os, pathlib, sys
from pydantic import SecretStr
from token_tools.storage.delivery import FileDelivery
from token_tools.errors import DeliveryError
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
broken = []
def fail(event, args):
    if event == "os.rename" and str(args[1]).endswith(".json"):
        broken.append(event)
        raise OSError(5, "Input/output error")
    if broken and event in ("os.remove", "open"):
        raise OSError(5, "Input/output error")
sys.addaudithook(fail)
async def main():
    reservation = await FileDelivery(pathlib.Path({str(folder)!r}), Qq("c", 8000)).reserve()
    new = NewAccessToken(id={NEW_TOKEN.id!r}, bearer_token=SecretStr({SECRET!r}))
    try:
        await reservation.store(new, Identity(domain="LOCAL", name="jane"))
    except DeliveryError as failure:
        os.write(1, str(failure).encode())
        os._exit(0)
anyio.run(main)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    [pending] = folder.iterdir()
    assert told.stdout.endswith(
        f" {pending} could not be removed: Input/output error; what is in it is of no use once the token is deleted."
    )


async def test_what_a_killed_server_left_is_recovered_or_removed(delivery: Delivery, folder: Path) -> None:
    held = await delivery.reserve()
    (folder / ".pending-1").write_bytes(encode_store(SecretStr(SECRET)) + b" " * 9)
    (folder / ".pending-2").write_bytes(b" " * 4096)
    (folder / ".pending-3").write_bytes(encode_store(SecretStr(SECRET))[:20])

    assert await delivery.recover() == [folder / "recovered-1.json"]

    kept = Path((await held.store(NEW_TOKEN, JANE)).location.render())
    assert {*folder.iterdir()} == {folder / "recovered-1.json", kept}
    assert await delivery.recover() == []


def test_what_a_killed_server_left_is_recovered_where_only_writers_can_lock(folder: Path) -> None:
    """As over NFS."""
    script = f"""
import anyio, errno, fcntl, os, sys
from pathlib import Path
from token_tools.storage.delivery import FileDelivery
from token_tools.cluster.qq import Qq

def lock_for_writers(event, args):
    if event == "fcntl.flock" and fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

sys.addaudithook(lock_for_writers)
[recovered] = anyio.run(FileDelivery(Path({str(folder)!r}), Qq("c", 8000)).recover)
print(recovered)
"""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / ".pending-1").write_bytes(encode_store(SecretStr(SECRET)))

    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert told.stdout == f"{folder / 'recovered-1.json'}\n", told.stderr


async def test_there_is_nothing_to_recover_where_there_is_no_folder_or_no_file(delivery: Delivery) -> None:
    for way in (delivery, KeyringDelivery("c:8000"), InlineDelivery()):
        assert list(await way.recover()) == []
        assert list(await way.list_unidentified_files()) == []


async def test_inline_hands_the_token_over_with_a_word_about_where_it_is_now() -> None:
    reservation = await InlineDelivery().reserve()
    await reservation.release()
    delivered = await reservation.store(NEW_TOKEN, JANE)

    assert delivered.bearer_token == SecretStr(SECRET)
    assert delivered.location == InlineLocation()
    assert delivered.location.render() == "this answer, and with it the conversation and its logs"
    assert delivered.how_to_use == "Store it now: the cluster does not show it again."
    assert SECRET not in repr(delivered)


def test_the_operator_chooses_the_way() -> None:
    settings = Settings(host="c", bearer_token=SecretStr("own"))

    qq = Qq("c", 8000)
    ways = {
        way: choose_delivery(settings.model_copy(update={"delivery": way}), qq) for way in ("file", "keyring", "inline")
    }

    assert ways == {
        "file": FileDelivery(settings.delivery_dir, qq),
        "keyring": KeyringDelivery("c:8000"),
        "inline": InlineDelivery(),
    }


async def test_a_keyring_keeps_the_token_and_nothing_else(fake_keyring: FakeKeyring) -> None:
    reservation = await KeyringDelivery("c:8000").reserve()
    assert fake_keyring.secrets == {}
    delivered = await reservation.store(NEW_TOKEN, JANE)
    await reservation.release()

    assert fake_keyring.secrets == {("qumulo-token-tools c:8000", f"local:jane {NEW_TOKEN.id}"): SECRET}
    assert delivered.id == NEW_TOKEN.id
    assert delivered.location.render() == (
        f"the system's keyring, service 'qumulo-token-tools c:8000', account 'local:jane {NEW_TOKEN.id}'"
    )
    assert f" -P -m keyring get 'qumulo-token-tools c:8000' 'local:jane {NEW_TOKEN.id}' > " in delivered.how_to_use
    assert delivered.fingerprint == hashlib.sha256(SECRET.encode()).hexdigest()
    assert SECRET not in repr(delivered)
    await KeyringDelivery("c:8000").remove(delivered)
    assert fake_keyring.secrets == {}


FILE_KEYRING_SCRIPT = """
import json, os, pathlib
from keyring.backend import KeyringBackend

class FileKeyring(KeyringBackend):
    priority = 1
    path = pathlib.Path(os.environ["FILE_KEYRING"])

    def read(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service, username):
        return self.read().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        self.path.write_text(json.dumps(self.read() | {f"{service}/{username}": password}))

    def delete_password(self, service, username):
        kept = self.read()
        del kept[f"{service}/{username}"]
        self.path.write_text(json.dumps(kept))
"""


@pytest.mark.parametrize("user", [r"ad:CORP\svc-splunk", "local:metrics"], ids=["backslash", "plain"])
async def test_the_command_for_a_token_in_the_keyring_works_as_printed_and_shows_nothing(
    tmp_path: Path, user: str
) -> None:
    (tmp_path / "file_keyring.py").write_text(FILE_KEYRING_SCRIPT)
    env = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
        "FILE_KEYRING": str(tmp_path / "keyring.json"),
    }
    words = ["-m", "token_tools", "--demo", "--delivery", "keyring", "--confirm", "none"]
    server = StdioServerParameters(command=sys.executable, args=words, env=env)

    with anyio.fail_after(60):
        async with Client(server) as client:
            told = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": user}))
    command = told.fields["next_step"].partition(": ")[2]
    with anyio.fail_after(60):
        ended = await anyio.run_process(["/bin/sh", "-c", command], env=env, check=False)

    assert f"account '{user} {told.fields['id']}'" in told.text
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    [file] = [path for path in tmp_path.iterdir() if told.fields["id"] in path.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert hashlib.sha256(file.read_text().strip().encode()).hexdigest() == told.fields["fingerprint"]


async def test_a_locked_keyring_is_found_out_before(fake_keyring: FakeKeyring) -> None:
    fake_keyring.failing_step = "set"

    with pytest.raises(DeliveryError, match=r"cannot be used \(KeyringLocked\)"):
        await KeyringDelivery("c:8000").reserve()


@pytest.mark.parametrize("broken", ["forget", "deny"])
async def test_a_keyring_that_does_not_keep_is_found_out_before_and_after(
    fake_keyring: FakeKeyring, broken: str
) -> None:
    fake_keyring.failing_step = broken

    for use in (KeyringDelivery("c:8000").reserve, partial(KeyringDelivery("c:8000").store, NEW_TOKEN, JANE)):
        with pytest.raises(DeliveryError, match=r"^The system's keyring did not keep what it was given\.$"):
            await use()

    assert fake_keyring.secrets == {}


async def test_whatever_a_keyring_raises_is_told_without_its_text(fake_keyring: FakeKeyring) -> None:
    fake_keyring.failing_step = "crash"

    with pytest.raises(DeliveryError, match=r"cannot be used \(RuntimeError\)") as failure:
        await KeyringDelivery("c:8000").store(NEW_TOKEN, JANE)

    assert SECRET not in "".join(traceback.format_exception(failure.value))


class PanicException(BaseException):
    """What a back end written in Rust raises."""


@pytest.mark.parametrize("failure", [SystemExit(1), KeyboardInterrupt(), PanicException(), GeneratorExit(), KeyError()])
@pytest.mark.parametrize("broken", ["set", "kept", "get"])
async def test_whatever_a_keyring_raises_is_a_failed_delivery_before_and_after_the_request(
    harness: Harness, fake_keyring: FakeKeyring, broken: str, failure: BaseException
) -> None:
    fake_keyring.failure = failure
    fake_keyring.failing_step = broken
    before = await harness.call_refused("create_access_token", {"user": "local:jane"}, delivery="keyring")

    async def break_now(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            fake_keyring.failing_step = broken
        return response

    fake_keyring.failing_step = ""
    harness.recorder.on_served = break_now
    after = await harness.call_refused("create_access_token", {"user": "local:jane"}, delivery="keyring")

    assert f"The system's keyring cannot be used ({type(failure).__name__})" in before
    assert f"The system's keyring cannot be used ({type(failure).__name__})" in after
    assert after.endswith("was deleted again; no token is left of this.")
    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) == 1
    assert fake_keyring.secrets == {}
    assert harness.tokens_of(ACCOUNT) == []


@pytest.mark.parametrize(("broken", "told"), [("kept", "Something of it is left there"), ("get", "is not known")])
async def test_what_stays_in_a_keyring_is_told(fake_keyring: FakeKeyring, broken: str, told: str) -> None:
    fake_keyring.failing_step, fake_keyring.refuses_deletion = broken, True

    with pytest.raises(DeliveryError, match=rf"account 'local:jane {NEW_TOKEN.id}', .*") as failure:
        await KeyringDelivery("c:8000").store(NEW_TOKEN, JANE)

    assert told in str(failure.value)


async def test_a_keyring_is_asked_for_the_account_that_a_token_would_have(fake_keyring: FakeKeyring) -> None:
    delivery = KeyringDelivery("c:8000")
    location = (await delivery.store(NEW_TOKEN, JANE)).location

    assert await delivery.locate(NEW_TOKEN.id, None, ["local:bob", "local:jane"]) == location
    assert await delivery.locate(NEW_TOKEN.id, location, ["local:jane"]) == location
    assert await delivery.locate(NEW_TOKEN.id, None, ["local:bob"]) is None
    fake_keyring.secrets.clear()
    assert await delivery.locate(NEW_TOKEN.id, location, ["local:jane"]) is None


async def test_a_keyring_that_hangs_is_not_waited_for_and_keeps_nothing_afterwards(fake_keyring: FakeKeyring) -> None:
    delivery = KeyringDelivery("c:8000", timedelta(milliseconds=50))
    fake_keyring.failing_step = "hang"

    with pytest.raises(DeliveryError, match="did not answer within"):
        await delivery.store(NEW_TOKEN, JANE)

    fake_keyring.failing_step = ""
    fake_keyring.hang_released.set()
    fake_keyring.hang_released.clear()
    with anyio.fail_after(5):
        await anyio.to_thread.run_sync(fake_keyring.hang_released.wait)
    assert fake_keyring.secrets == {}


@pytest.fixture
def long_thread_switch_interval() -> Generator[None]:
    """Whichever thread runs goes on until it waits for something, so that what it does next comes first."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TIMEOUT_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("long_thread_switch_interval")
async def test_what_is_done_when_its_time_is_over_but_nobody_knows_it_yet_is_done(fake_keyring: FakeKeyring) -> None:
    time_left = anyio.CancelScope()

    @contextmanager
    def within(_seconds: float) -> Generator[None]:
        with time_left:
            yield
        if time_left.cancelled_caught:
            raise TimeoutError

    fake_keyring.failing_step = "hang"
    delivery = KeyringDelivery("c:8000", timeout_context=within)
    delivered: list[DeliveredToken] = []

    async def keep() -> None:
        delivered.append(await delivery.store(NEW_TOKEN, JANE))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        await anyio.wait_all_tasks_blocked()
        time_left.cancel()
        fake_keyring.hang_released.set()
        assert fake_keyring.password_read.wait(TIMEOUT_SECONDS)

    assert [kept.location for kept in delivered] == [KeyringLocation(*key) for key in fake_keyring.secrets]


@pytest.mark.usefixtures("long_thread_switch_interval")
async def test_what_is_done_just_when_the_call_is_cancelled_is_undone(fake_keyring: FakeKeyring) -> None:
    fake_keyring.failing_step = "hang"
    delivery = KeyringDelivery("c:8000")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(delivery.store, NEW_TOKEN, JANE)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        fake_keyring.hang_released.set()
        assert fake_keyring.password_read.wait(TIMEOUT_SECONDS)

    assert fake_keyring.secrets == {}


def test_without_the_keyring_library_the_extra_to_install_is_named() -> None:
    script = """
import sys, anyio
sys.modules["keyring"] = None
from token_tools.storage.delivery import KeyringDelivery
anyio.run(KeyringDelivery("c:8000").reserve)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert "install qumulo-token-tools[keyring]" in told.stderr
