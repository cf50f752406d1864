"""Test delivery into files: tried before the request, private from the first byte, nothing left after a failure."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from tests.support.permissions import permission_bits
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.cluster.qq import Qq
from token_tools.credentials import encode_store
from token_tools.errors import DeliveryError
from token_tools.storage.delivery import (
    Delivery,
    FileDelivery,
    FileLocation,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def delivery(folder: Path) -> Delivery:
    return FileDelivery(folder, Qq("2001:db8::1", 8000))


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
    """A limit on the size of files fails in the middle of a write, which a full disk does too."""
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
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert os.strerror(errno.EFBIG) in ended.stdout
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

    # Linux raises the first error; POSIX specifies the second.
    reasons = [os.strerror(number) for number in (errno.EISDIR, errno.EPERM)]
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
        broken.clear()
        os.write(1, str(failure).encode())
        os._exit(0)
anyio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    [pending] = folder.iterdir()
    assert ended.stdout.endswith(
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
    """NFS locks a file only for a process that may write it."""
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

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert ended.stdout == f"{folder / 'recovered-1.json'}\n", ended.stderr
