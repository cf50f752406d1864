"""Test delivery into the keyring: tried before the request, nothing left after a failure, no secret in an error."""

import hashlib
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

from tests.support.fake_keyring import FakeKeyring
from tests.support.file_keyring import FileKeyring
from tests.support.harness import JANE as ACCOUNT
from tests.support.harness import TIMEOUT_SECONDS, TOKENS_PATH, Harness, ToolAnswer
from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from tests.support.permissions import permission_bits
from token_tools.errors import DeliveryError
from token_tools.storage.delivery import (
    DeliveredToken,
    KeyringDelivery,
    KeyringLocation,
)

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.parametrize("user", [r"ad:CORP\svc-splunk", "local:metrics"], ids=["backslash", "plain"])
async def test_the_command_for_a_token_in_the_keyring_works_as_printed_and_shows_nothing(
    tmp_path: Path, user: str
) -> None:
    env = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHON_KEYRING_BACKEND": f"{FileKeyring.__module__}.{FileKeyring.__name__}",
        "FILE_KEYRING": str(tmp_path / "keyring.json"),
    }
    words = ["-m", "token_tools", "--demo", "--delivery", "keyring", "--confirm", "none"]
    server = StdioServerParameters(command=sys.executable, args=words, env=env)

    with anyio.fail_after(60):
        async with Client(server) as client:
            answer = ToolAnswer.from_result(await client.call_tool("create_access_token", {"user": user}))
    command = answer.fields["next_step"].partition(": ")[2]
    with anyio.fail_after(60):
        ended = await anyio.run_process(["/bin/sh", "-c", command], env=env, check=False)

    assert f"account '{user} {answer.fields['id']}'" in answer.text
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    [file] = [path for path in tmp_path.iterdir() if answer.fields["id"] in path.name]
    assert permission_bits(file) == 0o600
    assert hashlib.sha256(file.read_text().strip().encode()).hexdigest() == answer.fields["fingerprint"]


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
    """The error of a back end written in Rust, which is no `Exception`."""


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

    assert f"the system's keyring cannot be used ({type(failure).__name__})" in before
    assert f"the system's keyring cannot be used ({type(failure).__name__})" in after
    assert "was deleted again; no token is left of this." in after
    assert len(harness.recorder.bodies("POST", TOKENS_PATH)) == 1
    assert fake_keyring.secrets == {}
    assert harness.tokens_of(ACCOUNT) == []


@pytest.mark.parametrize(("broken", "expected"), [("kept", "Something of it is left there"), ("get", "is not known")])
async def test_what_stays_in_a_keyring_is_told(fake_keyring: FakeKeyring, broken: str, expected: str) -> None:
    fake_keyring.failing_step, fake_keyring.refuses_deletion = broken, True

    with pytest.raises(DeliveryError, match=rf"account 'local:jane {NEW_TOKEN.id}', .*") as failure:
        await KeyringDelivery("c:8000").store(NEW_TOKEN, JANE)

    assert expected in str(failure.value)


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
    """Let each thread run until it waits for something, so that no other thread interrupts it."""
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
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert "install qumulo-token-tools[keyring]" in ended.stderr
