"""What every test gets: one event loop backend, and an environment without this machine's settings."""

import os

import pytest

from token_tools.settings import PREFIX


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the SDK serves on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the settings, the logins or the state of whoever runs it."""
    home = str(tmp_path_factory.mktemp("home"))
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, home)
