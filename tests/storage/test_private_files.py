"""Test which folders count as private by owner, mode and parents; the rule is that of sshd for its keys."""

import errno
import grp
import os
import pwd
import re
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from tests.support.harness import Harness
from tests.support.permissions import needs_root, permission_bits
from token_tools.storage.private_files import ensure_private_folder, open_private_folder, read_private_mode

pytestmark = pytest.mark.anyio

CREATE_TOOL = "create_access_token"
CREATE_REQUEST = ("POST", "/v1/auth/access-tokens/")
OTHER_USER_ID = 65534
TIMEOUT_SECONDS = 30


@pytest.fixture
def reachable_folder() -> Generator[Path]:
    """Yield a folder that other users can enter."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def make_and_close_folder(path: Path) -> None:
    os.close(ensure_private_folder(path))


def run_as_user(user: int, *lines: str) -> str:
    """Run lines of Python as another user, and return what they print."""
    begin = [
        "import os, pathlib",
        "from token_tools.storage.private_files import ensure_private_folder",
        f"os.setegid({user})",
    ]
    script = "\n".join([*begin, f"os.seteuid({user})", *lines, "os.seteuid(0)"])
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize("umask", [0, 0o777])
@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
async def test_each_folder_that_is_made_is_private_whatever_the_umask(
    harness: Harness, tmp_path: Path, setting: str, umask: int
) -> None:
    before = os.umask(umask)
    try:
        answer = await harness.with_folder(setting, tmp_path / "a" / "b" / "c").call(
            CREATE_TOOL, {"user": "local:jane"}
        )
    finally:
        os.umask(before)

    assert not answer.is_error
    assert {permission_bits(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    assert {permission_bits(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("bits", [0o777, 0o707])
async def test_a_folder_below_one_in_which_others_can_write_is_refused_before_the_request(
    harness: Harness, tmp_path: Path, setting: str, depth: int, bits: int
) -> None:
    folder = tmp_path / "open" / "between" / "own"
    folder.mkdir(parents=True, mode=0o700)
    open_to_all = folder.parents[depth - 1]
    open_to_all.chmod(bits)

    refusal = await harness.with_folder(setting, folder).call_refused(CREATE_TOOL, {"user": "local:jane"})

    assert f"others can replace what is in {open_to_all} on the way to it (mode {bits:04o})" in refusal
    assert f": chmod go-w {open_to_all}, or name another folder" in refusal
    assert harness.recorder.bodies(*CREATE_REQUEST) == []
    assert not [*folder.iterdir()]


async def test_the_command_that_a_refusal_tells_mends_it(harness: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "o'pen" / "own"
    folder.mkdir(parents=True)
    (folder / "other").touch()
    folder.parent.chmod(0o777)
    folder.chmod(0o755)

    for _ in range(2):
        refusal = await harness.call_refused(CREATE_TOOL, {"user": "local:jane"}, delivery_dir=folder)
        command = refusal[refusal.index("chmod ") :].partition(", or name another folder")[0]
        await anyio.run_process(command)

    assert not (await harness.call(CREATE_TOOL, {"user": "local:jane"}, delivery_dir=folder)).is_error


def test_others_may_add_to_a_sticky_folder_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)

    make_and_close_folder(tmp_path / "sticky" / "own")


@pytest.mark.parametrize("special", [stat.S_ISGID, stat.S_ISVTX, stat.S_ISGID | stat.S_ISVTX])
def test_only_what_lets_others_in_counts(tmp_path: Path, special: int) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own" / "other").touch()
    (tmp_path / "own").chmod(0o700 | special)

    make_and_close_folder(tmp_path / "own")

    assert permission_bits(tmp_path / "own") == 0o700 | special


@pytest.mark.parametrize("bits", [0o710, 0o701, 0o720, 0o704])
def test_each_way_in_for_others_counts(tmp_path: Path, bits: int) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "other").touch()
    (tmp_path / "own").chmod(bits)

    reason = f"others can enter {tmp_path}/own (mode {bits:04o}): chmod 700 {tmp_path}/own, or name another folder"
    for opened in (ensure_private_folder, open_private_folder):
        with pytest.raises(PermissionError, match=re.escape(reason)):
            opened(tmp_path / "own")


async def test_an_empty_folder_is_not_changed_before_the_first_token(harness: Harness) -> None:
    harness.settings.delivery_dir.mkdir(parents=True)
    harness.settings.delivery_dir.parent.chmod(0o700)
    harness.settings.delivery_dir.chmod(0o755)

    await harness.call("list_access_tokens")
    assert permission_bits(harness.settings.delivery_dir) == 0o755

    await harness.call(CREATE_TOOL, {"user": "local:jane"})
    assert permission_bits(harness.settings.delivery_dir) == 0o700


@needs_root
@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
async def test_a_folder_below_that_of_another_user_is_refused(harness: Harness, tmp_path: Path, setting: str) -> None:
    folder = tmp_path / "theirs" / "own"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder.parent, OTHER_USER_ID, OTHER_USER_ID)

    refusal = await harness.with_folder(setting, folder).call_refused(CREATE_TOOL, {"user": "local:jane"})

    assert f"{folder.parent} on the way to it belongs to another user (uid {OTHER_USER_ID}), who can replace" in refusal
    assert f"chown root {folder.parent}" in refusal
    assert harness.recorder.bodies(*CREATE_REQUEST) == []


@needs_root
async def test_a_folder_of_another_user_is_refused_with_what_mends_it(harness: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    (folder / "other").touch()
    os.chown(folder, OTHER_USER_ID, OTHER_USER_ID)

    refusal = await harness.call_refused(CREATE_TOOL, {"user": "local:jane"}, delivery_dir=folder)

    assert f"{folder} belongs to another user (uid {OTHER_USER_ID}): chown 0 {folder}, or name another" in refusal


def find_private_group() -> int | None:
    """Find the private group of the present user, or None if the system makes no such groups."""
    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(os.getegid())
    except KeyError:
        return None
    is_own = (account.pw_gid, account.pw_name) == (group.gr_gid, group.gr_name)
    is_shared = group.gr_mem or any(
        other.pw_gid == group.gr_gid and other.pw_uid != account.pw_uid for other in pwd.getpwall()
    )
    return group.gr_gid if is_own and not is_shared else None


def find_shared_group() -> int | None:
    """Find another group to which the present user can give a folder, or None."""
    others = os.getgroups() if os.geteuid() else [group.gr_gid for group in grp.getgrall()]
    return next((group for group in others if group != os.getegid()), None)


@pytest.mark.parametrize(("find_group", "is_refused"), [(find_private_group, False), (find_shared_group, True)])
def test_a_group_counts_for_others_unless_it_is_the_user_s_own(
    tmp_path: Path, find_group: Callable[[], int | None], is_refused: bool
) -> None:
    group = find_group()
    if group is None:
        pytest.skip("this system gives the present user no such group; root, who runs the gate, has both")
    (tmp_path / "grouped").mkdir()
    os.chown(tmp_path / "grouped", -1, group)
    (tmp_path / "grouped").chmod(0o770)

    if is_refused:
        with pytest.raises(PermissionError, match="others can replace what is in"):
            make_and_close_folder(tmp_path / "grouped" / "own")
    else:
        make_and_close_folder(tmp_path / "grouped" / "own")


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems, ACLs do not show in the bits of the group")
def test_an_access_control_list_can_let_others_write_where_the_group_is_the_user_s_own(tmp_path: Path) -> None:
    group = find_private_group()
    if group is None:
        pytest.skip("this system gives the present user no such group; root, who runs the gate, has both")
    grouped = tmp_path / "grouped"
    grouped.mkdir()
    grouped.chmod(0o770)
    # Version 2; then tag, permissions and id of each entry: owner, a named user, group, mask, others.
    nobody = 2**32 - 1
    entries = ((1, 7, nobody), (2, 7, OTHER_USER_ID), (4, 0, nobody), (16, 7, nobody), (32, 0, nobody))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(grouped, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")

    with pytest.raises(PermissionError, match=f"others can replace what is in {grouped} .*: chmod go-w {grouped},"):
        make_and_close_folder(grouped / "own")
    grouped.chmod(0o750)
    make_and_close_folder(grouped / "own")


@pytest.mark.parametrize("is_root", [True, False], ids=["the-top", "sticky"])
def test_a_folder_for_everybody_is_refused_with_no_command_that_would_take_it_away(
    tmp_path: Path, is_root: bool
) -> None:
    folder = Path("/") if is_root else tmp_path
    if not is_root:
        (folder / "other").touch()
        folder.chmod(0o1777)

    with pytest.raises(PermissionError, match=rf"{folder} is there for everybody \(mode \d+\)\. Name a folder in it$"):
        open_private_folder(folder)


@needs_root
@pytest.mark.parametrize("bits", [0o755, 0o775])
def test_a_user_whom_the_system_does_not_know_has_no_group_of_their_own(reachable_folder: Path, bits: int) -> None:
    unknown = 54321
    (reachable_folder / "theirs").mkdir()
    os.chown(reachable_folder / "theirs", unknown, unknown)
    (reachable_folder / "theirs").chmod(bits)

    reason = run_as_user(
        unknown,
        f"try: ensure_private_folder(pathlib.Path({str(reachable_folder)!r}, 'theirs', 'own'))",
        "except PermissionError as failure: print(failure.strerror)",
    )

    assert ("others can replace what is in" in reason) == (bits == 0o775)


@needs_root
def test_a_folder_on_the_way_that_may_not_be_listed_is_passed_through(reachable_folder: Path) -> None:
    reachable_folder.chmod(0o711)
    (reachable_folder / "theirs").mkdir(mode=0o700)
    os.chown(reachable_folder / "theirs", OTHER_USER_ID, OTHER_USER_ID)

    run_as_user(
        OTHER_USER_ID,
        f"ensure_private_folder(pathlib.Path({str(reachable_folder)!r}, 'theirs', 'own'))",
    )

    assert permission_bits(reachable_folder / "theirs" / "own") == 0o700


def test_only_a_regular_file_has_a_private_mode() -> None:
    reading, writing = os.pipe()

    with pytest.raises(OSError, match="no ordinary file"):
        read_private_mode(reading)

    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
@pytest.mark.parametrize("target", ["{base}/disk", "../disk", "second", "./second/../disk"])
async def test_a_link_that_the_user_made_is_followed(
    harness: Harness, tmp_path: Path, setting: str, target: str
) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "second").symlink_to("../disk")
    (tmp_path / "home" / "state").symlink_to(target.format(base=tmp_path))

    answer = await harness.with_folder(setting, tmp_path / "home" / "state" / "own").call(
        CREATE_TOOL, {"user": "local:jane"}
    )

    assert not answer.is_error
    assert [*(tmp_path / "disk" / "own").iterdir()]


@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
async def test_the_folder_itself_may_be_a_link(harness: Harness, tmp_path: Path, setting: str) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "own").symlink_to("disk")

    created = await harness.with_folder(setting, tmp_path / "own").call(CREATE_TOOL, {"user": "local:jane"})

    assert not created.is_error
    assert [*(tmp_path / "disk").iterdir()]


@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
async def test_what_a_link_leads_to_is_refused_by_its_own_name(harness: Harness, tmp_path: Path, setting: str) -> None:
    (tmp_path / "disk" / "own").mkdir(parents=True)
    (tmp_path / "disk" / "own" / "other").touch()
    (tmp_path / "state").symlink_to("disk")
    for folder, bits, reason in (
        (tmp_path / "disk", 0o777, "others can replace what is in {} on the way to it (mode 0777): chmod go-w {},"),
        (tmp_path / "disk" / "own", 0o755, "others can enter {} (mode 0755): chmod 700 {},"),
    ):
        folder.chmod(bits)

        refusal = await harness.with_folder(setting, tmp_path / "state" / "own").call_refused(
            CREATE_TOOL, {"user": "local:jane"}
        )

        assert reason.format(folder, folder) in refusal
        assert harness.recorder.bodies(*CREATE_REQUEST) == []
        folder.chmod(0o700)


@needs_root
@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
async def test_a_link_that_another_user_put_into_a_sticky_folder_is_refused_until_root_takes_it_over(
    harness: Harness, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    link = tmp_path / "sticky" / "li'nk"
    link.symlink_to(tmp_path / "disk")
    os.chown(link, OTHER_USER_ID, OTHER_USER_ID, follow_symlinks=False)
    ours = harness.with_folder(setting, link / "own")

    refusal = await ours.call_refused(CREATE_TOOL, {"user": "local:jane"})

    assert f"{link} on the way to it is a symbolic link of another user (uid {OTHER_USER_ID}), who can" in refusal
    assert not [*(tmp_path / "disk").iterdir()]
    await anyio.run_process(refusal[refusal.index("chown ") :].partition(", or name another folder")[0])
    assert not (await ours.call(CREATE_TOOL, {"user": "local:jane"})).is_error


@needs_root
@pytest.mark.parametrize(("owner", "is_followed"), [(0, True), (OTHER_USER_ID, True), (54321, False)])
def test_a_user_s_own_links_and_those_of_root_are_followed(
    reachable_folder: Path, owner: int, is_followed: bool
) -> None:
    (reachable_folder / "theirs").mkdir(mode=0o700)
    os.chown(reachable_folder / "theirs", OTHER_USER_ID, OTHER_USER_ID)
    (reachable_folder / "link").symlink_to("theirs")
    os.chown(reachable_folder / "link", owner, owner, follow_symlinks=False)

    reason = run_as_user(
        OTHER_USER_ID,
        f"try: ensure_private_folder(pathlib.Path({str(reachable_folder)!r}, 'link', 'own'))",
        "except PermissionError as failure: print(failure.strerror)",
    )

    assert (reachable_folder / "theirs" / "own").exists() == is_followed
    assert reason.startswith(f"{reachable_folder}/link on the way to it is a symbolic link of another") != is_followed


@needs_root
def test_root_follows_no_link_of_a_user(reachable_folder: Path) -> None:
    (reachable_folder / "link").symlink_to("/")
    os.chown(reachable_folder / "link", OTHER_USER_ID, OTHER_USER_ID, follow_symlinks=False)

    with pytest.raises(PermissionError, match="is a symbolic link of another user"):
        open_private_folder(reachable_folder / "link" / "no-such-folder")


def test_the_links_of_the_system_are_followed() -> None:
    link = next(Path(path) for path in ("/bin", "/lib", "/var") if Path(path).is_symlink())

    with pytest.raises(FileNotFoundError):
        open_private_folder(link / "no-such-folder")


@pytest.mark.parametrize("setting", ["state_dir", "delivery_dir"])
async def test_a_file_on_the_way_is_named(harness: Harness, tmp_path: Path, setting: str) -> None:
    (tmp_path / "file").write_text("no folder")

    refusal = await harness.with_folder(setting, tmp_path / "file" / "x").call_refused(
        "create_access_token", {"user": "local:jane"}
    )

    assert f"Not a directory ({tmp_path / 'file'}" in refusal


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        make_and_close_folder(tmp_path / "a" / "own")


def test_a_link_to_a_name_that_no_answer_could_show_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b\x1b[2J")

    with pytest.raises(OSError, match=f"{tmp_path}/a leads to a name that no answer could show"):
        make_and_close_folder(tmp_path / "a" / "own")


def test_what_is_put_in_the_place_of_a_folder_after_the_check_is_not_used(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys
from token_tools.storage.private_files import create_private_file, ensure_private_folder
base, swapped = pathlib.Path({str(tmp_path)!r}), []
def swap(event, args):
    if event == "open" and args[0] == "." and not swapped:
        swapped.append(event)
        (base / "own").rename(base / "checked")
        (base / "own").symlink_to("trap")
sys.addaudithook(swap)
create_private_file("secret", ensure_private_folder(base / "own"))
"""
    (tmp_path / "trap").mkdir()

    subprocess.run([sys.executable, "-c", script], timeout=TIMEOUT_SECONDS, check=True)

    assert [path.name for path in (tmp_path / "checked").iterdir()] == ["secret"]
    assert not [*(tmp_path / "trap").iterdir()]


async def test_a_journal_in_a_folder_that_others_can_enter_is_not_read(harness: Harness) -> None:
    await harness.call(CREATE_TOOL, {"user": "local:jane"})
    folder = harness.settings.state_dir
    folder.chmod(0o755)

    answer = await harness.call("list_access_tokens")

    assert f"cannot be read: others can enter {folder} (mode 0755): chmod 700 {folder}, or name" in answer.text
