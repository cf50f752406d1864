"""What every test gets: an event loop, an environment without this machine's settings, a harness for each era."""

import os
from collections.abc import Generator
from itertools import count
from pathlib import Path

import keyring
import pytest
import stamina
from hypothesis import settings

from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import Harness, Mode, create_harness
from tests.support.postgres import forgo_durability, lent_database, running_postgres
from token_tools.setting_names import ENV_PREFIX
from token_tools.settings import StateSettings

settings.register_profile("long", max_examples=3_400)
"""For the fuzz run: `--hypothesis-profile=long`."""

_FOLDER_NUMBERS = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--storms=300`: how many times a server is ended at random."""
    parser.addoption("--storms", type=int, default=30)


@pytest.fixture
def anyio_backend() -> str:
    """Choose the event loop that the SDK serves on."""
    return "asyncio"


def create_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Create an empty folder for a test and return it.

    The factory's own `mktemp` reads the names of all folders that are there, which takes 5 ms once there are ten
    thousand.
    """
    folder = factory.getbasetemp() / f"{name}-{next(_FOLDER_NUMBERS)}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an empty folder for one test."""
    return create_folder(tmp_path_factory, "test")


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the settings, the logins and the state of the user who runs the tests."""
    home = str(create_folder(tmp_path_factory, "home"))
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
        forgo_durability(url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[StateSettings]:
    """Name an empty database, of each kind in its turn."""
    folder = tmp_path / "state"
    if request.param == "sqlite":
        yield StateSettings(state_dir=folder)
        return
    with lent_database(request.getfixturevalue("postgres_server")) as url:
        yield StateSettings(state_dir=folder, state_url=url)


@pytest.fixture
def record_harness(harness: Harness, state: StateSettings) -> Harness:
    """Create a harness whose servers keep their record in each kind of database in its turn."""
    return harness.with_state(state)
