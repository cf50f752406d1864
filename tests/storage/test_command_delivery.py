"""Test delivery to a command: what it is given, what is told of its failures, and that nothing of it survives one."""

import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import psutil
import pytest
from pydantic import SecretStr

from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from tests.support.processes import find_processes, make_argument
from tests.support.waiting import wait_until
from token_tools.cluster.models import NewAccessToken
from token_tools.credentials import validate_bearer
from token_tools.errors import DeliveryError
from token_tools.storage.delivery import AskedToken, CommandDelivery, CommandLocation, DeliveredToken
from token_tools.storage.delivery.child_process import DEFAULT_BOUNDS, Bounds

pytestmark = pytest.mark.anyio

MAX_SECONDS = 15
"""Seconds that a program which is not waited for may take on a busy machine."""

WriteProgram = Callable[..., str]


@pytest.fixture
def write_program(tmp_path: Path) -> WriteProgram:
    """Return a function that writes a program of the shell into a folder of its own, and returns its path."""

    def write(body: str, name: str = "vault", *, mode: int = 0o755) -> str:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncd '{tmp_path}' || exit 99\n{body}\n", encoding="utf-8")
        program.chmod(mode)
        return str(program)

    return write


@pytest.fixture
def argument() -> Iterator[str]:
    """Return an argument by which a process of this test is found; at the end, each of them is killed."""
    argument = make_argument()
    yield argument
    for process in find_processes(argument):
        process.kill()


async def deliver(*words: str, check: tuple[str, ...] | None = None, bounds: Bounds = DEFAULT_BOUNDS) -> DeliveredToken:
    """Let a command have a token that never expires."""
    delivery = CommandDelivery(words, check, "c:8000", bounds)
    with anyio.fail_after(MAX_SECONDS):
        return await (await delivery.reserve(AskedToken(JANE, None))).store(NEW_TOKEN, JANE)


async def read_failure(*words: str, bounds: Bounds = DEFAULT_BOUNDS) -> str:
    """Return why a command has not taken a token."""
    with pytest.raises(DeliveryError) as failure:
        await deliver(*words, bounds=bounds)
    assert SECRET not in str(failure.value)
    return str(failure.value)


async def test_a_command_gets_the_token_alone_and_what_it_is_for(
    write_program: WriteProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUMULO_BEARER_TOKEN", "qumulo_state_url", "QUMULO_HTTP_STATE_KEYS", "QUMULO_TOKEN_ID"):
        monkeypatch.setenv(name, "stale")
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.com")
    command = write_program("cat > token; env > environment; printf '%s|' \"$@\" > arguments")
    check = write_program("cat > no-token; env > check-environment", "check")
    delivery = CommandDelivery((command, "$HOME", "a b"), (check,), "c:8000")
    expires = datetime(2027, 2, 21, 9, 0, tzinfo=UTC)

    reservation = await delivery.reserve(AskedToken(JANE, expires))
    assert not (tmp_path / "token").exists()
    delivered = await reservation.store(NEW_TOKEN, JANE)
    await reservation.release()

    assert (tmp_path / "token").read_text() == SECRET
    assert (tmp_path / "no-token").read_text() == ""
    assert (tmp_path / "arguments").read_text() == "$HOME|a b|"
    told = ["QUMULO_TOKEN_CLUSTER=c:8000", "QUMULO_TOKEN_EXPIRES=2027-02-21T09:00:00Z", "QUMULO_TOKEN_USER=local:jane"]
    assert read_told(tmp_path / "check-environment") == told
    assert read_told(tmp_path / "environment") == sorted([*told, f"QUMULO_TOKEN_ID={NEW_TOKEN.id}"])
    assert "VAULT_ADDR=https://vault.example.com" in (tmp_path / "environment").read_text()
    assert "stale" not in (tmp_path / "environment").read_text() + (tmp_path / "check-environment").read_text()
    assert delivered.fingerprint == hashlib.sha256(SECRET.encode()).hexdigest()
    assert delivered.location == CommandLocation("vault")
    assert delivered.location.render() == "the hands of QUMULO_DELIVERY_COMMAND (vault)"
    assert SECRET not in repr(delivered)


def read_told(environment: Path) -> list[str]:
    """Return what a program was told of the token, without the mark of its run."""
    lines = environment.read_text().splitlines()
    return sorted(line for line in lines if line.startswith("QUMULO_") and "QUMULO_TOKEN_DELIVERY=" not in line)


async def test_what_is_not_known_is_not_told(write_program: WriteProgram, tmp_path: Path) -> None:
    check = write_program("cat; env > environment", "check")
    await (await CommandDelivery((check,), (check,), "c:8000").reserve()).release()
    assert read_told(tmp_path / "environment") == ["QUMULO_TOKEN_CLUSTER=c:8000"]

    await deliver(check)
    assert "QUMULO_TOKEN_EXPIRES=never" in read_told(tmp_path / "environment")


async def test_a_command_is_found_on_the_path(write_program: WriteProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(write_program("cat", "take it"))
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    delivered = await deliver("take it")

    assert delivered.location.render() == 'the hands of QUMULO_DELIVERY_COMMAND ("take it")'


@pytest.mark.parametrize(
    "body",
    [
        "read -r token; exit 0",
        "exec cat > /dev/null",
        "cat; head -c 3000000 /dev/zero",
        "cat; exec <&- >&- 2>&-; sleep 0.1",
        "exec 3<&0; cat <&3 & wait",
    ],
    ids=["reads-it", "prints-nowhere", "prints-much", "closes-all", "lets-another-read-it"],
)
async def test_whatever_a_command_does_with_a_token_its_end_with_0_counts(
    write_program: WriteProgram, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    delivered = await deliver(write_program(body))

    assert delivered.how_to_use == (
        "QUMULO_DELIVERY_COMMAND (vault) ended with 0; the operator knows where it keeps bearer tokens."
    )
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("exit 0", "ended with exit status 0 without having read all of its stdin. It printed nothing."),
        ("head -c 5 > taken", "ended with exit status 0 without having read all of its stdin. It printed nothing."),
        ("exec <&-", "ended with exit status 0 without having read all of its stdin. It printed nothing."),
        ("exit 3", "ended with exit status 3. It printed nothing."),
        ("kill -KILL $$", "was ended by signal 9. It printed nothing."),
        ("echo no; exit 1", "ended with exit status 1. The log of this server tells what it printed."),
        ("exec cat /dev/zero", "printed more than 10 MiB and was killed with all that it had started. "),
        (
            "exec sleep 60",
            "did not end within a moment, or before this server had to stop, and was killed with all that it had "
            "started. ",
        ),
    ],
    ids=["reads-nothing", "reads-a-part", "closes-stdin", "status", "signal", "prints", "floods", "hangs"],
)
async def test_a_command_that_does_not_take_the_token_is_told(
    write_program: WriteProgram, body: str, expected: str
) -> None:
    bounds = Bounds(timedelta(milliseconds=200)) if "sleep" in body else DEFAULT_BOUNDS

    failure = await read_failure(write_program(body), bounds=bounds)

    assert failure.startswith(f"QUMULO_DELIVERY_COMMAND (vault) {expected}")


async def test_a_check_that_does_not_end_with_0_is_told_and_nothing_else_is_run(
    write_program: WriteProgram, tmp_path: Path
) -> None:
    command, check = write_program("touch ran"), write_program("exit 1", "check")

    with pytest.raises(DeliveryError, match=r"^QUMULO_DELIVERY_CHECK \(check\) ended with exit status 1\."):
        await deliver(command, check=(check,))
    with pytest.raises(DeliveryError, match=r"^QUMULO_DELIVERY_CHECK \(gone\) cannot be run: No such file"):
        await deliver(command, check=(str(tmp_path / "gone"),))

    assert not (tmp_path / "ran").exists()


async def test_a_command_that_is_not_there_or_cannot_be_run_is_found_out_before(
    write_program: WriteProgram, tmp_path: Path
) -> None:
    for words in (("no-such-program",), (str(tmp_path),), (str(tmp_path / "gone"),), (write_program("", mode=0o644),)):
        with pytest.raises(DeliveryError, match=r"^QUMULO_DELIVERY_COMMAND \(.*\) is no program that this server can"):
            await CommandDelivery(words, None, "c:8000").reserve()


async def test_what_cannot_be_handed_over_is_told(write_program: WriteProgram, tmp_path: Path) -> None:
    no_script = tmp_path / "no-script"
    no_script.write_text("what is this?", encoding="utf-8")
    no_script.chmod(0o755)
    assert "cannot be run: Exec format error" in await read_failure(str(no_script))

    reservation = await CommandDelivery((write_program("exit 0"),), None, "c:8000").reserve()
    for new, reason in (
        (NewAccessToken(SecretStr("x" * 100_000), "7"), "No buffer space available"),
        (NewAccessToken(SecretStr("x"), "7\0"), "embedded null byte"),
    ):
        with pytest.raises(DeliveryError, match=rf"^QUMULO_DELIVERY_COMMAND \(vault\) cannot be run: {reason}"):
            await reservation.store(new, JANE)


async def test_what_a_command_prints_is_logged_in_visible_characters_and_bounded(
    write_program: WriteProgram, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    await read_failure(write_program(r"seq 100000; printf 'the \033[31mend\n'; exit 1"))

    [record] = caplog.records
    assert record.getMessage().startswith("QUMULO_DELIVERY_COMMAND (vault) printed: ")
    assert record.getMessage().endswith(r'100000\nthe \u001b[31mend"')
    assert len(record.getMessage()) < 4_500


@pytest.mark.parametrize("more", [0, 1_990, 2_040, 4_080], ids=["end", "edge", "beyond", "cut"])
async def test_a_token_that_a_command_prints_is_not_logged(
    write_program: WriteProgram, more: int, caplog: pytest.LogCaptureFixture
) -> None:
    secret = validate_bearer(SecretStr("access-v1:Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA==")).get_secret_value()
    delivery = CommandDelivery(
        (write_program(f"cat; head -c {more} /dev/zero | tr '\\0' ' '; echo .; exit 1"),), None, "c"
    )
    reservation = await delivery.reserve()

    with pytest.raises(DeliveryError):
        await reservation.store(NewAccessToken(SecretStr(secret), "7"), JANE)

    assert "QUMULO_DELIVERY_COMMAND (vault) printed: " in caplog.text
    assert all(secret[start : start + 4] not in caplog.text for start in range(10, len(secret) - 3))


FORKS = """
import os, sys
argument = sys.argv[1]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", argument])
    os._exit(0)
"""
"""A daemon as of old: it has another session and another parent."""


@pytest.mark.parametrize("ends", ["late", "cancelled", "failed"])
async def test_all_that_a_command_has_started_is_killed_with_it(
    write_program: WriteProgram, argument: str, tmp_path: Path, ends: str
) -> None:
    program = write_program(
        f"""
        python3 -c '{FORKS}' {argument} &
        setsid sleep {argument} &
        env -i sleep {argument} &
        [ {ends} = failed ] || env -i setsid sleep {argument} &
        (sleep {argument} > /dev/null 2>&1 &)
        echo >&2
        while ! [ -e go ]; do sleep 0.01; done
        exit 1
        """
    )
    time_left = anyio.CancelScope()

    @contextmanager
    def within(_seconds: float) -> Generator[None]:
        with time_left:
            yield
        if time_left.cancelled_caught:
            raise TimeoutError

    delivery = CommandDelivery((program,), None, "c:8000", Bounds(timeout_context=within))
    failures: list[str] = []

    async def store() -> None:
        reservation = await delivery.reserve()
        try:
            await reservation.store(NEW_TOKEN, JANE)
        except DeliveryError as failure:
            failures.append(str(failure))

    with anyio.fail_after(MAX_SECONDS):
        async with anyio.create_task_group() as tasks:
            ways: dict[str, Callable[[], None]] = {
                "late": time_left.cancel,
                "cancelled": tasks.cancel_scope.cancel,
                "failed": (tmp_path / "go").touch,
            }
            tasks.start_soon(store)
            await wait_until(lambda: len(find_processes(argument)) == (4 if ends == "failed" else 5))
            ways[ends]()

    assert find_processes(argument) == []
    assert len(failures) == (ends != "cancelled")


async def test_what_could_not_be_killed_is_not_said_to_be(write_program: WriteProgram, argument: str) -> None:
    bounds = Bounds(timedelta(milliseconds=200), kill=timedelta(seconds=-1))

    failure = await read_failure(write_program(f"exec sleep {argument}"), bounds=bounds)

    assert "had to stop, and could not be killed with all that it had started. It printed nothing." in failure
    [survivor] = find_processes(argument)
    survivor.kill()
    await wait_until(lambda: not psutil.pid_exists(survivor.pid))
    await anyio.wait_all_tasks_blocked()


HARDENED = ("unshare", "--mount", "--pid", "--fork", "sh", "-c")
SEES_ONLY_PROCESSES = 'mount -t proc -o subset=pid proc /proc && exec "$0" "$@"'
"""How systemd's `ProcSubset=pid` lets a service see /proc."""

KILLS = """
import anyio
from datetime import timedelta
from tests.support.processes import find_processes
from token_tools.storage.delivery.child_process import Bounds, ProgramFailed, run_program

async def main():
    try:
        await run_program(["sh", "-c", "env -i sleep 991 & exec sleep 992"], {}, b"", Bounds(timedelta(seconds=0.5)))
    except ProgramFailed as failure:
        print(failure, find_processes("991"), find_processes("992"))

anyio.run(main)
"""


@pytest.mark.skipif(
    subprocess.run([*HARDENED, SEES_ONLY_PROCESSES, "true"], capture_output=True, check=False).returncode != 0,
    reason="this system lets the present user mount nothing; root, who runs the gate, may",
)
def test_what_a_command_has_started_is_killed_where_nothing_but_processes_is_seen_of_the_system() -> None:
    words = [*HARDENED, SEES_ONLY_PROCESSES, sys.executable, "-c", KILLS]

    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=4 * MAX_SECONDS)

    assert ended.stdout.endswith("and was killed with all that it had started [] []\n"), ended.stderr


async def test_a_command_that_leaves_somebody_with_its_output_is_not_waited_for(
    write_program: WriteProgram, argument: str
) -> None:
    begun = time.monotonic()

    await deliver(write_program(f"sleep {argument} & cat"))

    assert time.monotonic() - begun < MAX_SECONDS
    await wait_until(lambda: len(find_processes(argument)) == 1)


async def test_an_end_with_0_counts_although_the_time_is_over(write_program: WriteProgram) -> None:
    @contextmanager
    def too_late(_seconds: float) -> Generator[None]:
        yield
        raise TimeoutError

    delivery = CommandDelivery((write_program("cat"),), None, "c:8000", Bounds(timeout_context=too_late))

    delivered = await (await delivery.reserve()).store(NEW_TOKEN, JANE)

    assert delivered.location == CommandLocation("vault")


async def test_nobody_can_look_at_what_a_command_has_stored_or_take_it_back() -> None:
    delivery = CommandDelivery(("/opt/bin/vault", "kv"), None, "c:8000")

    assert delivery.render_possible_location("local:jane") == "QUMULO_DELIVERY_COMMAND (vault) was handed it"
    with pytest.raises(DeliveryError, match=r"^QUMULO_DELIVERY_COMMAND \(vault\) may have been handed it, and cannot"):
        await delivery.locate("7", None, ["local:jane"])
    with pytest.raises(DeliveryError, match=r"^only the operator can remove what QUMULO_DELIVERY_COMMAND \(vault\)"):
        await delivery.remove(DeliveredToken("7", "", delivery.location, ""))
