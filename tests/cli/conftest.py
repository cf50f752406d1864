"""A command line with a cluster to use it on."""

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command_line import CommandLine
from tests.support.twin_clusters import ReplaceableApp, serve_over_https
from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import Cluster
from token_tools.times import utc_now


class Served(NamedTuple):
    """An application that is served on a port, and can be replaced."""

    app: ReplaceableApp
    port: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """Serve what each test puts there, with one certificate, which nobody knows."""
    app = ReplaceableApp(create_app(Cluster(clock=utc_now)))
    with serve_over_https(app, tmp_path_factory.mktemp("served"), dates_answers=False) as port:
        yield Served(app, port)


@pytest.fixture
def command_line(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    """Create a command line, with which all is well."""
    return CommandLine(monkeypatch, capsys, tmp_path, served.port, served.app)
