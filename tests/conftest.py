"""What every test gets: an event loop, an environment without this machine's settings, a harness for each era."""

import os
from collections.abc import Generator
from pathlib import Path

import keyring
import pytest
import stamina
from hypothesis import settings

from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import Harness, Mode, create_harness
from tests.support.postgres import create_database, running_postgres
from token_tools.setting_names import ENV_PREFIX
from token_tools.settings import StateSettings

settings.register_profile("long", max_examples=3_400)
"""For the fuzz run: `--hypothesis-profile=long`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--storms=300`: how many times a server is ended at random."""
    parser.addoption("--storms", type=int, default=30)


@pytest.fixture
def anyio_backend() -> str:
    """Choose the event loop that the SDK serves on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the settings, the logins and the state of the user who runs the tests."""
    home = str(tmp_path_factory.mktemp("home"))
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, home)


@pytest.fixture(params=["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run a test in both eras of the protocol."""
    mode: Mode = request.param
    return mode


@pytest.fixture
def harness(mode: Mode, tmp_path: Path) -> Harness:
    """Create a harness for one test."""
    return create_harness(mode, tmp_path)


@pytest.fixture
def fake_keyring() -> Generator[FakeKeyring]:
    """Replace the keyring of this process for one test."""
    before, chosen = keyring.get_keyring(), FakeKeyring()
    keyring.set_keyring(chosen)
    yield chosen
    keyring.set_keyring(before)


@pytest.fixture
def no_consent(harness: Harness) -> None:
    """Set up a server that asks nobody before a change."""
    harness.settings = harness.settings.model_copy(update={"confirm": "none"})


@pytest.fixture
def no_retry_backoff() -> Generator[None]:
    """Retry as often as in production, but without pauses."""
    with stamina.set_testing(testing=True, attempts=4):
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Generator[str]:
    """Run PostgreSQL as long as there are tests; it is started by the first one that needs it."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> StateSettings:
    """Name an empty database, of each kind in its turn."""
    folder = tmp_path / "state"
    if request.param == "sqlite":
        return StateSettings(state_dir=folder)
    return StateSettings(state_dir=folder, state_url=create_database(request.getfixturevalue("postgres_server")))


@pytest.fixture
def record_harness(harness: Harness, state: StateSettings) -> Harness:
    """Create a harness whose servers keep their record in each kind of database in its turn."""
    return harness.with_state(state)
