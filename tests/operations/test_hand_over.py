"""Test that a server goes on with the successor of its own token, and that a failure leaves everything as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.support.example_tokens import add_token, own_token
from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import (
    ADMIN,
    AGREES,
    TOKENS_PATH,
    WHO_AM_I_PATH,
    Harness,
    ScriptedPerson,
    ToolAnswer,
    refusal_response,
)
from tests.support.new_token import SECRET
from tests.support.record import execute, read_record
from token_tools.sandbox.cluster import Token
from token_tools.system_keyring import KeyringEntry

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_consent")]


@pytest.fixture(params=["bearer_token_file", "credentials_file"])
def setting(request: pytest.FixtureRequest) -> str:
    setting: str = request.param
    return setting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys" / "own"


def keep_own_token(harness: Harness, setting: str, path: Path) -> Token:
    """Let the servers read their own token from a file, and return it."""
    own = own_token(harness)
    write_credential(setting, path, own.bearer_token)
    path.chmod(0o600)
    harness.settings = harness.settings.model_copy(update={"bearer_token": None, setting: path})
    return own


def write_credential(setting: str, path: Path, bearer_token: str) -> None:
    is_bare = setting == "bearer_token_file"
    path.write_text(bearer_token if is_bare else json.dumps({"bearer_token": bearer_token, "version": 1}))


def read_credential(setting: str, path: Path) -> str:
    text = path.read_text()
    return text.strip() if setting == "bearer_token_file" else str(json.loads(text)["bearer_token"])


def list_delivered(harness: Harness) -> list[Path]:
    folder = harness.settings.delivery_dir
    return sorted(folder.iterdir()) if folder.exists() else []


async def call(client: Client, tool: str, **arguments: str) -> ToolAnswer:
    return ToolAnswer.from_result(await client.call_tool(tool, arguments))


def find_successor(harness: Harness, own: Token) -> Token:
    [new] = [token for token in harness.tokens_of(ADMIN) if token.id != own.id]
    return new


@pytest.mark.parametrize("delivery", ["file", "inline"])
async def test_a_server_goes_on_with_the_successor_of_its_own_token(
    harness: Harness, setting: str, path: Path, delivery: str
) -> None:
    own = keep_own_token(harness, setting, path)

    async with harness.connected(delivery=delivery) as client:
        answer = await call(client, "rotate_access_token", id=own.id)
        new = find_successor(harness, own)
        deleted = await call(client, "delete_access_token", id=own.id)
        listed = await call(client, "get_access_token", id=new.id)

    assert (answer.is_error, deleted.is_error, listed.is_error) == (False, False, False)
    assert listed.fields["is_own"] is True
    assert answer.fields["summary"].endswith(
        f", and it works. Its bearer token is in {path}, and this server runs on it now. The old one, {own.id}, is as "
        "it was."
    )
    assert answer.fields["next_step"] == (
        "The old one works until it is deleted. What remains: "
        f'1. update_access_token(id="{own.id}", enabled=false). '
        f'2. Once nothing breaks, delete_access_token(id="{own.id}").'
    )
    assert "warning" not in answer.fields
    assert new.bearer_token not in answer.text + json.dumps(answer.fields)
    assert read_credential(setting, path) == new.bearer_token
    assert list_delivered(harness) == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    record = {entry["operation"]: entry for entry in read_record(harness.settings.state_dir)}
    assert json.loads(record["rotate"]["location"]) == {"kind": "file", "path": str(path)}


async def test_the_next_server_starts_with_the_successor(harness: Harness, setting: str, path: Path) -> None:
    own = keep_own_token(harness, setting, path)
    await harness.call("rotate_access_token", {"id": own.id})

    answer = await harness.call("get_access_token", {"id": find_successor(harness, own).id})

    assert answer.fields["is_own"] is True


async def test_an_entry_of_the_keyring_gets_the_successor(harness: Harness, fake_keyring: FakeKeyring) -> None:
    own = own_token(harness)
    fake_keyring.secrets["qumulo", "lab"] = own.bearer_token
    answer = await harness.call(
        "rotate_access_token",
        {"id": own.id},
        bearer_token=None,
        keyring=KeyringEntry("qumulo", "lab"),
        delivery="keyring",
    )

    assert "service 'qumulo', account 'lab', and this server runs on it now." in answer.fields["summary"]
    assert fake_keyring.secrets == {("qumulo", "lab"): find_successor(harness, own).bearer_token}


async def test_a_person_who_is_asked_knows_that_the_server_goes_on_with_the_new_token(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)
    person = ScriptedPerson([AGREES])

    answer = await harness.call("rotate_access_token", {"id": own.id}, person=person, confirm="risky")

    assert not answer.is_error
    assert f"This server runs on that one, writes the new one to {path}, and goes on with it." in person.questions[0]
    assert read_credential(setting, path) == find_successor(harness, own).bearer_token


async def test_another_token_is_rotated_without_a_look_at_the_server_s_own(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)
    other = harness.cluster.add_token("1001", creator="500")

    answer = await harness.call("rotate_access_token", {"id": other.id})

    assert answer.fields["next_step"].startswith("What remains: 1. Put it where the old one is used.")
    assert read_credential(setting, path) == own.bearer_token


async def test_a_place_that_cannot_be_written_is_found_out_before_and_the_token_delivered(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)

    async with harness.connected() as client:
        await call(client, "list_access_tokens")
        path.chmod(0o622)
        answer = await call(client, "rotate_access_token", id=own.id)

    assert answer.fields["next_step"].startswith(
        f"This server cannot go on with the new one by itself: QUMULO_{setting.upper()} names {path}, which other "
        f"users can put another credential into: `chmod 600 {path}` mends that. What remains: 1. This server runs on "
        f"the old one: replace QUMULO_{setting.upper()} ({path})"
    )
    [file] = list_delivered(harness)
    assert find_successor(harness, own).bearer_token in file.read_text()
    assert read_credential(setting, path) == own.bearer_token


async def test_a_place_that_holds_another_token_by_now_is_left_alone(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)

    async with harness.connected() as client:
        await call(client, "list_access_tokens")
        write_credential(setting, path, SECRET)
        answer = await call(client, "rotate_access_token", id=own.id)

    assert answer.text.count("holds another bearer token by now, and was left alone.") == 1
    assert read_credential(setting, path) == SECRET
    assert len(list_delivered(harness)) == 1


async def test_a_place_that_breaks_while_a_person_is_asked_stops_the_rotation(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)

    class Person(ScriptedPerson):
        async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            write_credential(setting, path, SECRET)
            return await super().__call__(context, params)

    refusal = await harness.call_without_effect(
        "rotate_access_token", {"id": own.id}, person=Person([AGREES]), confirm="all"
    )

    assert "holds another bearer token by now" in refusal
    assert harness.tokens_of(ADMIN) == [own]


def change_after_create(harness: Harness, change: Callable[[], object]) -> None:
    """Do something once the cluster has created the token."""

    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", TOKENS_PATH):
            change()
        return response

    harness.recorder.on_served = on_served


async def test_a_place_that_got_another_token_meanwhile_is_left_alone_and_the_token_delivered(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)
    change_after_create(harness, lambda: write_credential(setting, path, SECRET))

    answer = await harness.call("rotate_access_token", {"id": own.id})

    assert not answer.is_error
    assert "This server does not go on with the new one: " in answer.fields["next_step"]
    assert "holds another bearer token by now, and was left alone." in answer.fields["next_step"]
    assert read_credential(setting, path) == SECRET
    assert len(list_delivered(harness)) == 1


async def test_a_place_that_takes_nothing_any_more_leaves_the_delivered_token_and_the_server_as_they_were(
    harness: Harness, fake_keyring: FakeKeyring
) -> None:
    own = own_token(harness)
    fake_keyring.secrets["qumulo", "lab"] = own.bearer_token
    change_after_create(harness, lambda: setattr(fake_keyring, "failing_step", "set"))

    async with harness.connected(bearer_token=None, keyring=KeyringEntry("qumulo", "lab")) as client:
        answer = await call(client, "rotate_access_token", id=own.id)
        after = await call(client, "get_access_token", id=own.id)

    assert answer.fields["next_step"].startswith(
        "This server does not go on with the new one: QUMULO_KEYRING (qumulo/lab) cannot be written: the system's "
        "keyring cannot be used (KeyringLocked): it is locked, or this system has none. QUMULO_KEYRING (qumulo/lab) "
        "has the old one. What remains: 1. This server runs on the old one: replace QUMULO_KEYRING (qumulo/lab) "
    )
    assert after.fields["is_own"] is True
    assert fake_keyring.secrets == {("qumulo", "lab"): own.bearer_token}
    [file] = list_delivered(harness)
    assert find_successor(harness, own).bearer_token in file.read_text()


@pytest.mark.parametrize("doubt", ["another token", "no answer"])
@pytest.mark.parametrize("is_writable", [True, False])
async def test_a_server_that_the_cluster_takes_for_another_goes_back_to_its_old_token(
    harness: Harness, path: Path, doubt: str, *, is_writable: bool
) -> None:
    own = keep_own_token(harness, "credentials_file", path)
    own_header = f"Bearer {own.bearer_token}"
    proofs: list[str] = []

    async def on_served(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == WHO_AM_I_PATH and request.headers["Authorization"] != own_header:
            proofs.append("")
            if len(proofs) > 1:
                if not is_writable:
                    path.chmod(0o622)
                another = httpx.Response(200, json={**response.json(), "access_token_id": "7"})
                return another if doubt == "another token" else refusal_response(403)
        return response

    harness.recorder.on_served = on_served
    async with harness.connected() as client:
        answer = await call(client, "rotate_access_token", id=own.id)
        after = await call(client, "get_access_token", id=own.id)

    new = find_successor(harness, own)
    assert not answer.is_error
    assert after.fields["is_own"] is True
    step = answer.fields["next_step"]
    assert step.startswith("This server does not go on with the new one: ")
    assert (f"QUMULO_CREDENTIALS_FILE ({path}) has the old one. What remains: 1. " in step) is is_writable
    assert ("The old one could not be put back: " in step) is not is_writable
    if is_writable:
        assert read_credential("credentials_file", path) == own.bearer_token
    [file] = list_delivered(harness)
    assert new.bearer_token in file.read_text()


async def test_a_copy_that_cannot_be_removed_is_told(harness: Harness, fake_keyring: FakeKeyring, path: Path) -> None:
    own = keep_own_token(harness, "bearer_token_file", path)
    change_after_create(harness, lambda: setattr(fake_keyring, "refuses_deletion", True))

    answer = await harness.call("rotate_access_token", {"id": own.id}, delivery="keyring")

    assert "and this server runs on it now." in answer.fields["summary"]
    assert answer.fields["warning"].startswith(
        "A copy of the bearer token is still in the system's keyring, service 'qumulo-token-tools c.example.com:8000', "
    )


@pytest.mark.parametrize("delivery", ["file", "inline"])
async def test_a_copy_stays_while_the_record_does_not_tell_where_the_bearer_token_is(
    harness: Harness, path: Path, delivery: str
) -> None:
    own = keep_own_token(harness, "bearer_token_file", path)
    change_after_create(harness, lambda: execute(harness.settings.state_dir, "ALTER TABLE changes RENAME TO gone"))

    answer = await harness.call("rotate_access_token", {"id": own.id}, delivery=delivery)

    assert "and this server runs on it now." in answer.fields["summary"]
    copies = [
        f"A copy of the bearer token is still in {file} (the record does not tell" for file in list_delivered(harness)
    ]
    assert len(copies) == ["inline", "file"].index(delivery)
    assert all(copy in answer.fields["warning"] for copy in copies)


async def test_a_server_that_shares_the_file_reads_it_once_its_token_is_gone(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)

    async with harness.connected() as other, harness.connected() as client:
        await call(other, "list_access_tokens")
        await call(client, "rotate_access_token", id=own.id)
        again = await call(other, "rotate_access_token", id=own.id)
        await call(client, "delete_access_token", id=own.id)
        listed = await call(other, "get_access_token", id=find_successor(harness, own).id)

    assert again.is_error
    assert f"its bearer token is in {path}. What remains: 1. Start each server again that still runs on the old" in (
        again.text
    )
    assert listed.fields["is_own"] is True


async def test_a_successor_that_another_server_has_put_there_is_not_rotated_past(
    harness: Harness, setting: str, path: Path
) -> None:
    own = keep_own_token(harness, setting, path)
    new = add_token(harness, ADMIN)

    async with harness.connected() as client:
        await call(client, "list_access_tokens")
        write_credential(setting, path, new.bearer_token)
        answer = await call(client, "rotate_access_token", id=own.id)

    assert answer.is_error
    assert f"holds token {new.id} by now: start the server again, it still runs on the old one." in answer.text
    assert {token.id for token in harness.tokens_of(ADMIN)} == {own.id, new.id}
