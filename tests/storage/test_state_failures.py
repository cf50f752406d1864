"""Test a database that fails: reading works, and a change is refused before the cluster is asked for anything.

Each test says what mends the failure, mends it, and changes something then.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import psycopg
import pytest
from pydantic import SecretStr

from tests.support.harness import JANE, Harness, ToolAnswer, create_harness
from tests.support.permissions import needs_root, permission_bits
from tests.support.postgres import create_database
from tests.support.record import execute, read_outcomes, state_file
from tests.support.tcp_proxy import TcpProxy, running_proxy
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 60
MAX_CAVEAT_CHARS = 200
LOCK_NUMBER = 0x746F6B656E
CREATE_TOOL = "create_access_token"
NOT_KNOWN = "What was begun and not finished is not known: "
MENDED = "Try again once the operator has mended that.\nFor the operator: run `qumulo-token-tools doctor`."
RULE = " No change is begun without it, so that no token is ever lost sight of. "
ON_A_DISK = "QUMULO_STATE_DIR has to be a folder on a disk of this machine, in which the server may write."
FOLDER_NAMED = "QUMULO_STATE_DIR names its folder."
SERVER_NAMED = "QUMULO_STATE_URL has to name a PostgreSQL that answers, and that this server may use."
MOUNT, UMOUNT = (shutil.which(name) or "" for name in ("mount", "umount"))
STATE_NAMES = ["state.db", "state.db-wal", "state.db-shm", "state.db-journal"]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    harness = create_harness("auto", tmp_path)
    harness.settings = harness.settings.model_copy(update={"state_dir": tmp_path / "home" / "state", "confirm": "none"})
    harness.timeout_seconds = TIMEOUT_SECONDS
    return harness


@pytest.fixture
def folder(harness: Harness) -> Path:
    return harness.settings.state_dir


async def create(harness: Harness, user: str = "ldap_user:bob") -> None:
    """Create a token, which works."""
    answer = await harness.call(CREATE_TOOL, {"user": user})
    assert not answer.is_error, answer.text


async def check_refused(harness: Harness, cause: str) -> None:
    """Check that each change is refused for this cause before anything is asked of the cluster."""
    token = next((token for token in harness.cluster.tokens.values() if token.user == JANE.auth_id), None)
    token_id = (token or harness.cluster.add_token(JANE.auth_id, creator="500")).id
    harness.recorder.requests.clear()
    where = f"The journal {where_of(harness)} cannot be written: "
    for tool, arguments in (
        (CREATE_TOOL, {"user": "local:jane"}),
        ("rotate_access_token", {"id": token_id}),
        ("update_access_token", {"id": token_id, "enabled": False}),
        ("delete_access_token", {"id": token_id}),
    ):
        refusal = await harness.call_without_effect(tool, arguments)
        assert refusal == f"{where}{cause} {MENDED}"
    assert harness.recorder.request_lines() == []


async def check_only_reading_works(harness: Harness, reason: str, remedy: str) -> None:
    """Check that changes are refused, and that reading works and tells what it does not know."""
    await check_refused(harness, f"{reason}.{RULE}{remedy}")
    told = f"{NOT_KNOWN}The journal {where_of(harness)} cannot be read: {reason}. {remedy}"
    for tool in ("list_access_tokens", "audit_access_tokens"):
        answer = await harness.call(tool)
        assert not answer.is_error
        # The audit cuts what is long.
        assert told[: MAX_CAVEAT_CHARS if tool == "audit_access_tokens" else None] in answer.text


def where_of(harness: Harness) -> str:
    if harness.settings.state_url is not None:
        return "in the database of QUMULO_STATE_URL"
    return str(state_file(harness.settings.state_dir))


def make_link(path: Path) -> None:
    path.symlink_to("other")


def make_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has to be short
        listener.bind(path.name)
        os.chdir(before)


@pytest.mark.parametrize("name", STATE_NAMES)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_link, make_socket])
async def test_what_is_no_file_is_not_opened(
    harness: Harness, folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    await create(harness)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)

    await check_only_reading_works(harness, f"{name} is no ordinary file, or a link: move it away", FOLDER_NAMED)

    (folder / name).rename(folder / "away")
    await create(harness)
    assert read_outcomes(folder)[-1] == "created"


@needs_root
@pytest.mark.parametrize("name", ["state.db", "state.db-wal"])
async def test_a_file_of_another_user_is_not_believed(harness: Harness, folder: Path, name: str) -> None:
    await create(harness)
    (folder / name).touch(mode=0o600)
    os.chown(folder / name, 65534, 65534)

    await check_only_reading_works(
        harness,
        f"{name} belongs to another user (uid 65534), so what is in it is not believed. Look through it, then chown 0 "
        f"{folder / name}, or move it away",
        FOLDER_NAMED,
    )

    os.chown(folder / name, 0, 0)
    await create(harness)


@pytest.mark.parametrize("bits", [0o666, 0o620, 0o602])
async def test_a_file_in_which_others_can_write_is_not_believed(harness: Harness, folder: Path, bits: int) -> None:
    await create(harness)
    state_file(folder).chmod(bits)

    await check_only_reading_works(
        harness,
        f"others can write in state.db (mode {bits:04o}), so what is in it is not believed. Look through it, then "
        f"chmod 600 {state_file(folder)}, or move it away",
        FOLDER_NAMED,
    )

    assert permission_bits(state_file(folder)) == bits
    state_file(folder).chmod(0o600)
    await create(harness)


async def test_files_that_others_can_read_are_made_private(harness: Harness, folder: Path) -> None:
    await create(harness)
    for name in STATE_NAMES[:2]:
        (folder / name).touch()
        (folder / name).chmod(0o644)

    await create(harness, "local:jane")

    assert {permission_bits(path) for path in folder.iterdir() if path.is_file()} == {0o600}


async def test_a_folder_that_others_can_enter_is_not_used(harness: Harness, folder: Path) -> None:
    await create(harness)
    folder.chmod(0o750)

    await check_only_reading_works(
        harness,
        f"others can enter {folder} (mode 0750): chmod 700 {folder}, or name another folder",
        FOLDER_NAMED,
    )

    folder.chmod(0o700)
    await create(harness)


async def test_a_record_is_not_believed_once_others_can_replace_its_folder(harness: Harness, folder: Path) -> None:
    async with harness.connected() as client:
        assert not (await client.call_tool(CREATE_TOOL, {"user": "local:jane"})).is_error
        folder.parent.chmod(0o777)

        answer = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))

    assert f"cannot be read: others can replace what is in {folder.parent} on the way to it" in answer.text


async def test_a_file_in_the_place_of_the_folder_is_told(harness: Harness, folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()

    await check_only_reading_works(harness, f"Not a directory ({folder})", FOLDER_NAMED)


async def test_a_folder_that_leads_nowhere_is_not_taken_for_one_that_is_not_there(
    harness: Harness, folder: Path
) -> None:
    folder.parent.mkdir()
    folder.symlink_to(folder)

    await check_only_reading_works(harness, "Too many levels of symbolic links", FOLDER_NAMED)


@pytest.mark.parametrize("content", [b"no database, but a long text " * 100, b"\x00" * 5000])
async def test_what_is_no_database_is_told(harness: Harness, folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, mode=0o700)
    state_file(folder).write_bytes(content)

    await check_only_reading_works(
        harness,
        "state.db is no database",
        "Look at it, and move it and the files state.db-* out of QUMULO_STATE_DIR.",
    )

    state_file(folder).rename(folder / "away")
    await create(harness)


async def test_a_database_that_is_damaged_is_told(harness: Harness, folder: Path) -> None:
    await create(harness)
    with state_file(folder).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (state_file(folder).stat().st_size - 4096))

    await check_only_reading_works(
        harness,
        "it is damaged",
        "Move state.db and the files state.db-* out of QUMULO_STATE_DIR; they tell what is unfinished.",
    )

    state_file(folder).rename(folder / "away")
    await create(harness)


@contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Generator[None]:
    """Mount a small file system on a folder."""
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([UMOUNT, "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Let a mounted file system be read only (`ro`), or written too (`rw`)."""
    subprocess.run([MOUNT, "-o", f"remount,{option}", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Fill the disk of a folder with one file, and return it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\x00" * 512):
                pass
        except OSError:
            return filler
    return filler


@needs_root
@pytest.mark.parametrize("is_new", [False, True])
async def test_a_full_disk_is_found_out_before_the_request(harness: Harness, folder: Path, is_new: bool) -> None:
    with small_disk(folder, kilobytes=512):
        if not is_new:
            await create(harness)
        filler = fill_disk(folder)

        await check_refused(harness, f"its disk is full.{RULE}Free space on the disk of QUMULO_STATE_DIR.")
        for tool in ("list_access_tokens", "audit_access_tokens"):
            assert not (await harness.call(tool)).is_error

        filler.unlink()
        await create(harness)


@needs_root
@pytest.mark.parametrize("is_new", [False, True])
async def test_a_disk_that_may_only_be_read_is_found_out_before_the_request(
    harness: Harness, folder: Path, is_new: bool
) -> None:
    with small_disk(folder, kilobytes=512):
        if not is_new:
            await create(harness)
        remount(folder, "ro")
        reason, remedy = (
            ("Read-only file system", FOLDER_NAMED)
            if is_new
            else ("a file of it cannot be opened or created", ON_A_DISK)
        )

        await check_refused(harness, f"{reason}.{RULE}{remedy}")
        for tool in ("list_access_tokens", "audit_access_tokens"):
            assert not (await harness.call(tool)).is_error

        remount(folder, "rw")
        await create(harness)


LOCKING_SCRIPT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA locking_mode = {sys.argv[2]}")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE state SET probed = 'x'")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_by_a_process_that_hangs(file: Path, mode: str) -> Generator[None]:
    """Hold the database with a process that is stopped."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKING_SCRIPT, str(file), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            holder.kill()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["normal", "exclusive"])
async def test_a_process_that_holds_the_database_and_hangs_is_not_waited_for_for_ever(
    harness: Harness, folder: Path, mode: str
) -> None:
    await create(harness)
    with locked_by_a_process_that_hangs(state_file(folder), mode):
        harness.recorder.requests.clear()

        refusal = await harness.call_without_effect(CREATE_TOOL, {"user": "local:jane"})
        assert harness.recorder.request_lines() == []
        listing = await harness.call("list_access_tokens")

    cause = (
        f"another process holds it, or its file system has no locks.{RULE}End what uses the files in QUMULO_STATE_DIR, "
        "which has to be a folder on a disk of this machine."
    )
    assert cause in refusal
    assert (NOT_KNOWN in listing.text) is (mode == "exclusive")
    await create(harness)


@pytest.mark.parametrize("names", [STATE_NAMES[:1], STATE_NAMES])
async def test_files_that_are_taken_away_while_the_server_runs_are_made_anew(
    harness: Harness, folder: Path, names: list[str]
) -> None:
    away = folder.parent / "away"
    away.mkdir(parents=True, mode=0o700)
    async with harness.connected() as client:
        assert not (await client.call_tool(CREATE_TOOL, {"user": "local:jane"})).is_error
        for name in names:
            if (folder / name).exists():
                (folder / name).rename(away / name)

        answer = ToolAnswer.from_result(await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"}))
        assert not answer.is_error, answer.text

    assert read_outcomes(folder)[-1] == "created"


async def test_a_database_that_is_replaced_while_the_server_runs_is_the_one_that_counts(
    harness: Harness, folder: Path
) -> None:
    await create(harness, "local:jane")
    with closing(sqlite3.connect(state_file(folder))) as source, closing(sqlite3.connect(folder / "copy")) as target:
        source.backup(target)
    (folder / "copy").chmod(0o600)
    async with harness.connected() as client:
        assert not (await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"})).is_error
        for name in STATE_NAMES:
            (folder / name).unlink(missing_ok=True)
        (folder / "copy").rename(state_file(folder))

        assert not (await client.call_tool(CREATE_TOOL, {"user": "local:jane"})).is_error

    assert [row["user_name"] for row in execute(folder, "SELECT user_name FROM changes")] == ["local:jane"] * 2


# PostgreSQL


@pytest.fixture
def database(postgres_server: str) -> str:
    """Create an empty database and return its URL."""
    return create_database(postgres_server).get_secret_value()


@pytest.fixture
def proxy(database: str) -> Generator[TcpProxy]:
    socket_folder = Path(database.partition("host=")[2])
    with running_proxy(socket_folder / ".s.PGSQL.5432") as proxy:
        yield proxy


def on_url(harness: Harness, url: str) -> Harness:
    harness.settings = harness.settings.model_copy(update={"state_url": SecretStr(url)})
    return harness


def through(proxy: TcpProxy, database: str, user: str = "postgres", **options: str) -> str:
    """Return the URL of a database through the proxy."""
    name = database.partition("?")[0].rpartition("/")[2]
    rest = "&".join(f"{option}={value}" for option, value in options.items())
    return f"postgresql://{user}@127.0.0.1:{proxy.port}/{name}{'?' if rest else ''}{rest}"


def administer(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_a_server_that_is_away_is_told_and_used_again_once_it_is_there(
    harness: Harness, database: str, proxy: TcpProxy
) -> None:
    on_url(harness, through(proxy, database))
    async with harness.connected() as client:
        assert not (await client.call_tool(CREATE_TOOL, {"user": "local:jane"})).is_error
        proxy.close()

        await check_only_reading_works(
            harness,
            f"PostgreSQL says \"connection failed: connection to server at '127.0.0.1', port {proxy.port} failed: "
            'Connection refused"',
            SERVER_NAMED,
        )

        harness.recorder.requests.clear()
        answer = ToolAnswer.from_result(await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"}))
        assert "Connection refused" in answer.text
        assert harness.recorder.request_lines() == []
        proxy.open()
        answer = ToolAnswer.from_result(await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"}))
        assert not answer.is_error, answer.text

    assert read_outcomes(StateSettings(state_url=SecretStr(database))) == ["created", "created"]


@pytest.mark.slow
async def test_a_server_that_hangs_is_not_waited_for_for_ever(harness: Harness, database: str, proxy: TcpProxy) -> None:
    on_url(harness, through(proxy, database))
    async with harness.connected() as client:
        assert not (await client.call_tool(CREATE_TOOL, {"user": "local:jane"})).is_error
        proxy.hang()
        harness.recorder.requests.clear()

        with anyio.fail_after(25):
            refusal = ToolAnswer.from_result(await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"}))
            assert harness.recorder.request_lines() == []
            listing = ToolAnswer.from_result(await client.call_tool("list_access_tokens"))
        assert f"cannot be used: it does not answer.{RULE}{SERVER_NAMED}" in refusal.text
        assert not listing.is_error
        assert NOT_KNOWN in listing.text
        proxy.close()
        proxy.open()
        assert not (await client.call_tool(CREATE_TOOL, {"user": "ldap_user:bob"})).is_error


@pytest.mark.slow
async def test_a_session_that_holds_the_lock_is_not_waited_for_for_ever(harness: Harness, database: str) -> None:
    await create(on_url(harness, database))
    with psycopg.connect(database) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_NUMBER])
        harness.recorder.requests.clear()

        refusal = await harness.call_without_effect(CREATE_TOOL, {"user": "local:jane"})
        assert harness.recorder.request_lines() == []
        assert NOT_KNOWN not in (await harness.call("list_access_tokens")).text

    told = f"cannot be written: another server holds it.{RULE}End the session at QUMULO_STATE_URL that holds it."
    assert told in refusal
    await create(harness)


@pytest.fixture
def limited(database: str) -> Generator[str]:
    """Create a user who may connect and no more, and return their URL."""
    name = f"limited_{os.getpid()}"
    administer(database, f"CREATE ROLE {name} LOGIN PASSWORD 'unused'")
    yield database.replace("postgres:@", f"{name}@")
    administer(database, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_a_user_who_may_not_create_a_schema_is_told_what_they_need(
    harness: Harness, database: str, limited: str
) -> None:
    await check_refused(
        on_url(harness, limited),
        f"this user may not do that there.{RULE}The user of QUMULO_STATE_URL needs a schema token_tools of their own: "
        "CREATE SCHEMA token_tools AUTHORIZATION that user, by an administrator of the database.",
    )
    assert not (await harness.call("audit_access_tokens")).is_error

    administer(database, f"CREATE SCHEMA token_tools AUTHORIZATION limited_{os.getpid()}")
    await create(harness)


async def test_a_database_that_may_only_be_read_is_told(harness: Harness, database: str) -> None:
    await create(on_url(harness, database))
    name = database.partition("?")[0].rpartition("/")[2]
    administer(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    await check_refused(
        harness, f"it may only be read.{RULE}QUMULO_STATE_URL has to name a database and a user that may write."
    )
    assert NOT_KNOWN not in (await harness.call("list_access_tokens")).text


async def test_a_database_that_is_not_there_is_told(harness: Harness, database: str) -> None:
    url = database.replace("/test_", "/no_such_test_")
    name = url.partition("?")[0].rpartition("/")[2]

    refusal = await on_url(harness, url).call_without_effect(CREATE_TOOL, {"user": "local:jane"})

    assert f"FATAL: database '{name}' does not exist" in " ".join(refusal.split())
    assert refusal.endswith(f"{RULE}{SERVER_NAMED} {MENDED}")


async def test_a_server_without_tls_is_told_where_tls_is_required(
    harness: Harness, database: str, proxy: TcpProxy
) -> None:
    await check_only_reading_works(
        on_url(harness, through(proxy, database, sslmode="require")),
        f"PostgreSQL says \"connection failed: connection to server at '127.0.0.1', port {proxy.port} failed: server "
        'does not support SSL, but SSL was required"',
        SERVER_NAMED,
    )
