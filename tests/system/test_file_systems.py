"""Test creates on deficient file systems: what a create needs is tried before the cluster is asked.

The file systems are real: bindfs shows a folder with other modes or owners, strace makes system calls fail.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Harness
from tests.support.record import read_outcomes, state_file

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TIMEOUT_SECONDS = 60
ON_A_DISK = "QUMULO_STATE_DIR has to be a folder on a disk of this machine, in which the server may write."
CREATE_TOOL = "create_access_token"
REPOSITORY = Path(__file__).parents[2]
CHILD_SCRIPT = """
import json, sys
from pathlib import Path
import anyio
from tests.support.harness import JANE, create_harness

async def main():
    harness = create_harness("auto", Path(sys.argv[1]))
    answer = await harness.call("create_access_token", {"user": "local:jane"})
    print(json.dumps({
        "text": answer.text,
        "fields": answer.fields,
        "post_count": len(harness.recorder.bodies("POST", "/v1/auth/access-tokens/")),
        "token_count": len(harness.tokens_of(JANE)),
    }))

anyio.run(main)
"""

BINDFS, UMOUNT = (shutil.which(name) or "" for name in ("bindfs", "umount"))
needs_bindfs = pytest.mark.skipif(
    not BINDFS or not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0,
    reason="mounting with bindfs takes root, /dev/fuse and bindfs; the gate installs it",
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; the gate installs it")


@contextmanager
def bindfs_mounted(folder: Path, *options: str) -> Generator[Path]:
    """Mount a folder with these options of bindfs, and yield the mounted folder."""
    real, shown = folder / "real", folder / "shown"
    for path in (real, shown):
        path.mkdir(mode=0o700)
    subprocess.run([BINDFS, *options, str(real), str(shown)], check=True, timeout=TIMEOUT_SECONDS)
    try:
        yield shown
    finally:
        subprocess.run([UMOUNT, "--lazy", str(shown)], check=True, timeout=TIMEOUT_SECONDS)


@dataclass(frozen=True)
class CreateRun:
    """The answer to a create, and the numbers of its POST requests and of jane's tokens."""

    text: str
    fields: Any
    post_count: int
    token_count: int


def create_under_strace(folder: Path, *options: str) -> CreateRun:
    """Create a token in a new process in which strace makes system calls fail."""
    home = os.environ | {"HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    strace = ["strace", "--follow-forks", "-qq", "--seccomp-bpf", "--output=/dev/null", *options]
    child = subprocess.run(
        [*strace, sys.executable, "-c", CHILD_SCRIPT, str(folder)],
        cwd=REPOSITORY,
        env=home,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return CreateRun(**json.loads(child.stdout))


@needs_bindfs
@pytest.mark.parametrize("setting", ["delivery_dir", "state_dir"])
@pytest.mark.parametrize("exists", [False, True])
async def test_a_file_system_that_keeps_no_modes_is_refused_before_the_request(
    harness: Harness, tmp_path: Path, setting: str, exists: bool
) -> None:
    with bindfs_mounted(tmp_path, "--chmod-ignore", "--perms=0777") as shown:
        if exists:
            (shown / "secrets").mkdir()
            (shown / "secrets" / "other").touch()
        for _ in range(2):
            refusal = await harness.with_folder(setting, shown / "secrets").call_refused(
                CREATE_TOOL, {"user": "local:jane"}
            )
            assert "its file system does not keep modes: what is made there with mode 0700 has mode 0777" in refusal
        left = [path.name for path in (tmp_path / "real").rglob("*")]

    assert left == (["secrets", "other"] if exists else [])
    assert harness.recorder.bodies("POST", "/v1/auth/access-tokens/") == []


@needs_bindfs
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--chmod-ignore", "--perms=u=rwX:go=:fgo+r"], "its file system does not keep modes"),
        (["--chmod-ignore", "--perms=u=rwX:go=:dgo+rx"], "its file system does not keep modes"),
        (["--create-for-user=65534"], "belongs to another user (uid 65534)"),
    ],
    ids=["files", "folders", "owners"],
)
async def test_what_is_made_for_others_too_is_refused_before_the_request(
    harness: Harness, tmp_path: Path, options: list[str], reason: str
) -> None:
    with bindfs_mounted(tmp_path, *options) as shown:
        # The folder exists already and is private; only new files or folders in it are not.
        (tmp_path / "real" / "secrets").mkdir(mode=0o700)
        refusal = await harness.call_refused(CREATE_TOOL, {"user": "local:jane"}, delivery_dir=shown / "secrets")
        report = await harness.call_refused("export_access_tokens", report_dir=shown / "secrets")

    assert reason in refusal
    assert reason in report
    assert harness.recorder.bodies("POST", "/v1/auth/access-tokens/") == []


@needs_bindfs
async def test_a_file_system_that_shows_all_as_private_will_do(harness: Harness, tmp_path: Path) -> None:
    with bindfs_mounted(tmp_path, "--chmod-ignore", "--perms=u=rwX:go=") as shown:
        answer = await harness.call(
            CREATE_TOOL, {"user": "local:jane"}, delivery_dir=shown / "secrets", state_dir=shown / "state"
        )

    assert not answer.is_error
    assert "mode 0600" in answer.text


@needs_strace
@pytest.mark.parametrize("error", ["EINVAL", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_fsync_is_no_failure(tmp_path: Path, error: str) -> None:
    created = create_under_strace(tmp_path, f"--inject=fsync:error={error}")

    assert (created.post_count, created.token_count) == (1, 1)
    assert "warning" not in created.fields
    assert json.loads(Path(created.fields["bearer_token_in"]).read_text())["bearer_token"]


@needs_strace
@pytest.mark.parametrize("calls", ["fsync", "rename,renameat,renameat2", "flock", "mkdir,mkdirat"])
def test_what_cannot_be_done_is_found_out_before_the_request_and_leaves_nothing(tmp_path: Path, calls: str) -> None:
    created = create_under_strace(tmp_path, f"--inject={calls}:error=EIO")

    assert (created.fields, created.post_count, created.token_count) == (None, 0, 0)
    assert os.strerror(errno.EIO) in created.text
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "state.db" not in path.name] == []


DATABASE_FAULTS = {
    "fdatasync,fsync:error=EIO": ("its disk fails, or its file system has no locks", ON_A_DISK),
    "pwrite64:error=ENOSPC": ("its disk is full", "Free space on the disk of QUMULO_STATE_DIR."),
    "pwrite64:error=EIO": ("its disk fails, or its file system has no locks", ON_A_DISK),
    "pread64:error=EIO": ("its disk fails, or its file system has no locks", ON_A_DISK),
    "mmap:error=ENODEV": ("its disk fails, or its file system has no locks", ON_A_DISK),
    "fcntl:error=EOPNOTSUPP": ("its disk fails, or its file system has no locks", ON_A_DISK),
    "fcntl:error=ENOLCK": (
        "another process holds it, or its file system has no locks",
        "End what uses the files in QUMULO_STATE_DIR, which has to be a folder on a disk of this machine.",
    ),
}


@needs_strace
@pytest.mark.parametrize("fault", DATABASE_FAULTS)
def test_a_database_on_a_deficient_file_system_is_refused_before_the_request(tmp_path: Path, fault: str) -> None:
    state = tmp_path / "qumulo-token-tools"
    state.mkdir(mode=0o700)
    paths = [f"--trace-path={state / f'state.db{suffix}'}" for suffix in ("", "-wal", "-shm", "-journal")]

    created = create_under_strace(tmp_path, *paths, f"--inject={fault}")

    reason, remedy = DATABASE_FAULTS[fault]
    assert (created.fields, created.post_count, created.token_count) == (None, 0, 0)
    assert created.text == (
        f"Nothing was done. The journal {state_file(state)} cannot be written: {reason}. No change is begun without "
        f"it, so that no token is ever lost sight of. {remedy} Try again once the operator has mended that.\n"
        "For the operator: run `qumulo-token-tools doctor`."
    )


@needs_strace
def test_what_fails_after_the_token_is_in_its_place_takes_nothing_back(tmp_path: Path) -> None:
    calls, first, second = tmp_path / "calls", tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "state" / "tokens").mkdir(parents=True, mode=0o700)
    create_under_strace(first, f"--trace-path={first / 'state/tokens'}", "--trace=close", f"--output={calls}")
    last = len(calls.read_text().splitlines())
    tokens = second / "state" / "tokens"

    created = create_under_strace(second, f"--trace-path={tokens}", f"--inject=close:error=EIO:when={last}")

    assert (created.post_count, created.token_count) == (1, 1)
    assert created.fields.get("warning") == (
        f"{tokens} could not be closed: {os.strerror(errno.EIO)}. The bearer token was on the disk before that."
    )
    assert json.loads(Path(created.fields["bearer_token_in"]).read_text())["bearer_token"]
    assert read_outcomes(second / "qumulo-token-tools") == ["created"]
