"""Test the keys of machines: who has one, what its holder may do, and which files are refused."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.server.http.conftest import Desk
from tests.support.issuer import SmallIssuer
from tests.support.permissions import needs_root
from token_tools.errors import SettingsError

pytestmark = pytest.mark.anyio

KEY = "correct-horse-battery-staple"
OTHER_KEY = "another-key-of-another-machine"


def digest(key: str) -> str:
    """Return what a keys file has of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def table(name: str, key: str, role: str) -> str:
    """Return a key as a keys file has it."""
    return f'[keys.{name}]\nsha256 = "{digest(key)}"\nrole = "{role}"\n'


@pytest.fixture
def keys_file(desk: Desk, tmp_path: Path) -> Path:
    """Return the keys file, with the key of `nightly`."""
    path = tmp_path / "keys.toml"
    path.write_text(table("nightly", KEY, "read"))
    path.chmod(0o600)
    desk.configure(http_keys_file=path)
    return path


def replace(path: Path, content: str) -> None:
    """Put another file in its place, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.rename(path)


async def test_a_key_lets_its_machine_in(desk: Desk, keys_file: Path, issuer: SmallIssuer) -> None:
    signed_in = await desk.admits(KEY)

    assert (signed_in.caller.id, signed_in.caller.name, signed_in.caller.is_self) == (
        "key nightly",
        "key nightly",
        None,
    )
    assert (signed_in.role, signed_in.expires_at, signed_in.token) == ("read", None, "")
    assert (signed_in.client_id, signed_in.subject, signed_in.claims) == ("key nightly", None, None)
    assert KEY not in repr(signed_in)
    assert issuer.requests == []


@pytest.mark.parametrize("bearer", ["", KEY.upper(), f"{KEY} ", KEY[:-1], digest(KEY), "nightly"])
async def test_nothing_but_the_key_is_the_key(desk: Desk, keys_file: Path, bearer: str) -> None:
    assert await desk.sees(bearer) is None


async def test_keys_and_tokens_let_in_side_by_side(desk: Desk, keys_file: Path, issuer: SmallIssuer) -> None:
    assert (await desk.admits(issuer.sign())).caller.name.endswith("(chat)")
    assert (await desk.admits(KEY)).caller.name == "key nightly"


async def test_a_token_whose_client_is_called_as_a_key_is_another_caller(
    desk: Desk, keys_file: Path, issuer: SmallIssuer
) -> None:
    signed_in = await desk.admits(issuer.sign(sub=None, client_id="key nightly"))

    assert signed_in.caller.id != "key nightly"
    assert signed_in.client_id != "key nightly"


async def test_the_file_is_read_again_when_it_changes(
    desk: Desk, keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await desk.admits(KEY)).role == "read"
    replace(keys_file, table("nightly", KEY, "write") + table("bot", OTHER_KEY, "read"))
    assert (await desk.admits(KEY)).role == "write"
    assert (await desk.admits(OTHER_KEY)).caller.name == "key bot"

    replace(keys_file, table("bot", OTHER_KEY, "read"))

    assert await desk.sees(KEY) is None
    assert caplog.messages[:2] == [
        "The named keys were read again: there are 2.",
        "The named keys were read again: there are 1.",
    ]


async def test_a_file_behind_a_link_that_is_moved_is_read_again(desk: Desk, tmp_path: Path) -> None:
    # Kubernetes replaces a secret so: the file is a link into a folder that is a link itself.
    for version, key in (("one", KEY), ("two", OTHER_KEY)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys.toml").write_text(table("nightly", key, "read"))
        (tmp_path / version / "keys.toml").chmod(0o644)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    desk.configure(http_keys_file=tmp_path / "keys.toml")
    assert await desk.sees(KEY) is not None

    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")

    assert await desk.sees(KEY) is None
    assert await desk.sees(OTHER_KEY) is not None


@pytest.mark.parametrize("harm", ["removed", "broken", "writable"])
async def test_while_the_file_is_unusable_no_key_is_accepted(
    desk: Desk, keys_file: Path, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    content = keys_file.read_text()
    match harm:
        case "removed":
            keys_file.unlink()
        case "broken":
            replace(keys_file, f"{content}\n[keys.")
        case _:
            keys_file.chmod(0o666)

    for _ in range(3):
        assert await desk.sees(KEY) is None
    assert await desk.sees(issuer.sign()) is not None, "people are not concerned"
    [told] = [message for message in caplog.messages if "No named key" in message]
    assert "No named key is accepted until this is mended: QUMULO_HTTP_KEYS_FILE: " in told

    replace(keys_file, content)

    assert await desk.sees(KEY) is not None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", " must have tables [keys.NAME], one at least, and nothing else"),
        ("[keys]", " must have tables [keys.NAME], one at least, and nothing else"),
        ("keys = 5", " must have tables [keys.NAME], one at least, and nothing else"),
        ("[[keys]]\n", " must have tables [keys.NAME], one at least, and nothing else"),
        (f"other = 1\n{table('a', KEY, 'read')}", " must have tables [keys.NAME], one at least, and nothing else"),
        ("[keys.", " is not TOML"),
        ("keys.a = 5", ": [keys.a] must have role and sha256, and nothing else"),
        ("[keys.a]\nrole = 'read'", ": [keys.a] must have role and sha256, and nothing else"),
        (f"{table('a', KEY, 'read')}note = 'x'", ": [keys.a] must have role and sha256, and nothing else"),
        (table("a", KEY, "admin"), ": [keys.a] role must be read or write"),
        (f"[keys.a]\nsha256 = '{digest(KEY)}'\nrole = ['read']", ": [keys.a] role must be read or write"),
        (f"[keys.a]\nsha256 = '{KEY}'\nrole = 'read'", ": [keys.a] sha256 must have 64 hexadecimal digits"),
        ("[keys.a]\nsha256 = 7\nrole = 'read'", ": [keys.a] sha256 must have 64 hexadecimal digits"),
        (table('"a b"', KEY, "read"), ': [keys."a b"] must have a name of letters, digits and `.-_`, 40 at most'),
        (table("a" * 41, KEY, "read"), "must have a name of letters, digits and `.-_`, 40 at most"),
        (table("a", KEY, "read") + table("b", KEY, "write"), ": [keys.a] and [keys.b] are one key: give each its own"),
        (
            table("a", KEY, "read") + table("b", KEY, "read").replace(digest(KEY), digest(KEY).upper()),
            ": [keys.a] and [keys.b] are one key: give each its own",
        ),
        ("#" * 40_000, " is larger than 32 KiB"),
        (None, " does not exist"),
    ],
)
def test_a_broken_file_ends_the_start_and_no_key_is_repeated(
    desk: Desk, tmp_path: Path, content: str | None, expected: str
) -> None:
    path = tmp_path / "keys.toml"
    if content is not None:
        path.write_text(content)

    with pytest.raises(SettingsError) as raised:
        desk.configure(http_keys_file=path)

    assert str(raised.value).startswith(f"QUMULO_HTTP_KEYS_FILE: {path}")
    assert expected in str(raised.value)
    assert KEY not in str(raised.value)
    assert digest(KEY) not in str(raised.value)


@needs_root
def test_a_file_of_another_user_is_refused(desk: Desk, keys_file: Path) -> None:
    os.chown(keys_file, 12345, 12345)

    with pytest.raises(SettingsError, match="belongs to another user"):
        desk.configure(http_keys_file=keys_file)
