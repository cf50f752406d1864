"""Test the URL of the database: libpq reads it, and its password is in no text, no log and no list of processes."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import anyio
import psycopg
import pytest
from pydantic import SecretStr

from tests.support.harness import Harness, create_harness
from tests.support.json_rpc import COMMAND
from tests.support.postgres import create_database
from tests.support.server_process import running_server, served_cluster
from token_tools.configuration import load_settings, load_state_settings
from token_tools.errors import JournalError, SettingsError
from token_tools.settings import StateSettings
from token_tools.storage.journal import read_entries
from token_tools.storage.state import open_state
from token_tools.times import utc_now

PASSWORD = "correct-horse-battery"
ENCODED_PASSWORD = "corr%65ct-horse%2Fbattery%40staple"


def assert_withheld(text: str) -> None:
    assert not [part for part in (PASSWORD[:8], PASSWORD[-8:], "%65", "horse", "staple") if part in text], text


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql://ann@127.0.0.1:1/x?password={PASSWORD}",
        f"postgresql://ann:{ENCODED_PASSWORD}@127.0.0.1:1/x?sslmode=prefer",
        f"postgres://ann:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/x?target_session_attrs=any",
    ],
)
@pytest.mark.anyio
async def test_no_text_or_log_has_the_password_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("QUMULO_STATE_URL", url)
    harness = create_harness("auto", tmp_path)
    settings = load_state_settings({})
    harness.settings = harness.settings.model_copy(update={"state_url": settings.state_url})

    refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})
    listing = await harness.call("list_access_tokens")

    assert "Connection refused" in refusal
    assert harness.recorder.request_lines() != []
    for text in (refusal, listing.text, caplog.text, repr(settings), str(settings), settings.model_dump_json()):
        assert_withheld(text)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{PASSWORD}",
        "postgresql://ann:correct@horse-battery@db/x",
        "postgresql://ann:correct/horse-battery@db/x",
        f"mysql://ann:{PASSWORD}@db/x",
        f"postgresql://ann:{PASSWORD}@db/x y",
        f"host=db password={PASSWORD}",
        f"postgresql//ann:{PASSWORD}@db/x",
        f"postgresql://ann:{PASSWORD}@db:port/x",
        f"postgresql://ann:{PASSWORD}@db/x?no_such_option={PASSWORD}",
        f"postgresql://ann:{PASSWORD}%zz@db/x",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_a_part_of_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QUMULO_STATE_URL", url)

    with pytest.raises((SettingsError, JournalError)) as refused:
        read_entries(open_state(load_state_settings({}), utc_now))

    assert str(refused.value).startswith("QUMULO_STATE_URL ")
    assert_withheld(str(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db.example.com/tokens",
        "postgresql://ann@db:5432/tokens?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql:///tokens?host=/run/postgresql",
        "postgresql://[2001:db8::1]:5432/tokens",
        "postgresql://a:5432,b:5432/tokens?target_session_attrs=read-write",
    ],
)
def test_a_url_is_left_to_libpq(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QUMULO_STATE_URL", url)

    settings = load_state_settings({})
    open_state(settings, utc_now)

    assert settings.state_url is not None
    assert settings.state_url.get_secret_value() == url


def test_a_port_is_not_taken_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUMULO_STATE_URL", "postgresql://somewhere.example.com:5432/tokens-of-production")
    monkeypatch.setenv("QUMULO_HOST", "c.example.com")
    monkeypatch.setenv("QUMULO_PORT", "5432/tokens-of-production")

    with pytest.raises(SettingsError, match="5432/tokens-of-production"):
        load_settings({})


@pytest.mark.anyio
async def test_a_wrong_password_is_told_without_it(tmp_path: Path, postgres_server: str) -> None:
    database = create_database(postgres_server).get_secret_value()
    with psycopg.connect(database, autocommit=True) as connection:
        [[hba_file]] = connection.execute("SHOW hba_file")
        rules = Path(hba_file).read_text()
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'another-one'")
        Path(hba_file).write_text(f"local all guarded scram-sha-256\n{rules}")
        try:
            connection.execute("SELECT pg_reload_conf()")
            await check_wrong_password(
                create_harness("auto", tmp_path), database.replace("postgres:@", f"guarded:{PASSWORD}@")
            )
        finally:
            Path(hba_file).write_text(rules)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("DROP ROLE guarded")


async def check_wrong_password(harness: Harness, url: str) -> None:
    harness.settings = harness.settings.model_copy(update={"state_url": SecretStr(url)})
    with anyio.fail_after(10):
        refusal = await harness.call_without_effect("create_access_token", {"user": "local:jane"})
    assert "password authentication failed for user 'guarded'" in refusal
    assert "QUMULO_STATE_URL has to name a PostgreSQL that answers" in refusal
    assert_withheld(refusal)


@pytest.mark.slow
def test_no_list_of_processes_shows_it_and_no_option_takes_it(tmp_path: Path) -> None:
    url = f"postgresql://ann:{PASSWORD}@127.0.0.1:1/x"
    with served_cluster(tmp_path) as cluster, running_server(cluster, QUMULO_STATE_URL=url) as server:
        assert_withheld(Path(f"/proc/{server.process.pid}/cmdline").read_text())

    refused = subprocess.run([COMMAND, "--state-url", url], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "QUMULO_STATE_URL" in refused.stderr
    assert_withheld(refused.stdout + refused.stderr)


def test_without_the_driver_the_extra_is_named(tmp_path: Path) -> None:
    """An empty package in its place is what a missing one is to an import."""
    (tmp_path / "psycopg.py").write_text("raise ImportError\n")
    script = """
from token_tools.errors import JournalError, SettingsError
from token_tools.configuration import load_state_settings
from token_tools.storage.journal import read_entries
from token_tools.storage.state import open_state
from token_tools.times import utc_now
try:
    open_state(load_state_settings({}), utc_now)
except SettingsError as refused:
    print(refused)
"""
    environment = {"PYTHONPATH": str(tmp_path), "QUMULO_STATE_URL": "postgresql://db/x", "HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert told.stdout == "QUMULO_STATE_URL needs an extra: pip install 'qumulo-token-tools[postgres]'.\n"


def test_nothing_is_loaded_that_is_not_needed(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from token_tools.settings import StateSettings
from token_tools.storage.journal import Journal
from token_tools.storage.journal import read_entries
from token_tools.storage.state import open_state
from token_tools.times import utc_now
open_state(StateSettings(state_dir=Path(sys.argv[1])), utc_now)
print(sorted({"psycopg", "token_tools.storage.journal_import"} & {*sys.modules}))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )

    assert loaded.stdout == "[]\n"


def test_the_settings_of_the_record_stand_in_no_text() -> None:
    settings = StateSettings(state_url=SecretStr(f"postgresql://ann:{PASSWORD}@db/x"))

    assert_withheld(repr(settings))
