"""Test the definitions of the tools by linters of others, which start the command and list its tools.

`DEFINITIONS_BIN` names a folder with the commands of `mcpgauge` and `mcp-assert` from PyPI. They have an environment of
their own, since mcpgauge needs an earlier version of the SDK.
"""

import json
import os
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import BEARER_TOKEN
from tests.support.json_rpc import COMMAND

BIN = os.environ.get("DEFINITIONS_BIN", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BIN, reason="DEFINITIONS_BIN names no folder with mcpgauge and mcp-assert from PyPI"),
]
TIMEOUT_SECONDS = 60
MIN_SCORE = 4.8
"""Of 5."""
SHARED_NAMES = "E107"
"""mcp-assert calls it a circle when tools have an argument of one name, and tells it of the first of these tools. Here
`user` is one word for one thing, and so are `cluster` and the times."""
TABLE = """
[clusters.{0}]
host = "{0}.example.com"
bearer_token_file = "{1}"
"""
ONE_CLUSTER = {"all tools": ["--demo"], "only what reads": ["--demo", "--read-only"]}


@pytest.mark.parametrize("options", ONE_CLUSTER.values(), ids=ONE_CLUSTER)
def test_mcpgauge_gives_nearly_five_of_five_to_the_server_and_to_each_tool(options: list[str]) -> None:
    report = run_linter("mcpgauge", "--json", shlex.join([COMMAND, *options]))

    assert report["score"] >= MIN_SCORE, report
    assert [tool for tool in report["tools"] if tool["score"] < MIN_SCORE or tool["notes"]] == []


@pytest.mark.parametrize("options", ONE_CLUSTER.values(), ids=ONE_CLUSTER)
def test_mcp_assert_remarks_nothing_but_that_tools_share_names_and_less_often_than_there_are_tools(
    options: list[str],
) -> None:
    report = run_linter("mcp-assert", "lint", "--json", "--server", shlex.join([COMMAND, *options]))

    assert [finding for finding in report["findings"] if finding["code"] != SHARED_NAMES] == []
    assert report["errors"] == 0
    assert len(report["findings"]) <= report["tools"], report


def test_mcp_assert_has_one_remark_a_tool_at_most_when_there_are_several_clusters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, token = tmp_path / "config.toml", tmp_path / "token"
    for file, text in {
        token: BEARER_TOKEN,
        config: "".join(map(TABLE.format, ("production", "lab"), [token] * 2)),
    }.items():
        file.write_text(text)
        file.chmod(0o600)
    monkeypatch.setenv("QUMULO_CONFIG", str(config))

    report = run_linter("mcp-assert", "lint", "--json", "--skip-rules", SHARED_NAMES, "--server", COMMAND)

    assert report["errors"] == 0, report
    assert max(Counter(finding["tool"] for finding in report["findings"]).values()) <= 1, report


def run_linter(*command: str) -> dict[str, Any]:
    """Run one of the linters, and return its report."""
    name, *arguments = command
    ended = subprocess.run(
        [Path(BIN, name), *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert ended.stdout, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return report
