"""Test that linters find nothing in the workflows for GitHub, and that they do what CONTRIBUTING.md says of them.

Nobody can run them here. The linters are in the extra called deploy; a test is skipped where its linter is missing.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.chart import read_yaml
from tests.support.page_names import REPOSITORY
from tests.support.sandbox_process import run_process

pytestmark = pytest.mark.slow

GITHUB: Final = REPOSITORY / ".github"
WORKFLOWS: Final = sorted((GITHUB / "workflows").glob("*.yml"))
RELEASE: Final = read_yaml((GITHUB / "workflows" / "release.yml").read_text())
JOBS: Final[dict[str, dict[str, Any]]] = RELEASE["jobs"]
STEPS: Final = "".join(file.read_text() for file in WORKFLOWS)
PINNED: Final = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def lint(linter: str, *arguments: str | Path) -> None:
    """Run a linter, which has to find nothing; skip the test where there is none."""
    found = shutil.which(linter, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"{linter} is not installed")
    run = run_process(found, *map(str, arguments))
    assert run.returncode == 0, run.stdout + run.stderr


def test_zizmor_finds_no_way_into_the_workflows() -> None:
    lint("zizmor", "--offline", "--no-progress", GITHUB)


def test_the_workflows_are_such_by_the_schema_of_github() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    lint("check-jsonschema", "--builtin-schema", "vendor.dependabot", GITHUB / "dependabot.yml")


def test_yamllint_finds_nothing_in_the_workflows() -> None:
    # `on` is a key here, and an action is followed by its version.
    ours = "line-length: {max: 120}, document-start: disable, truthy: {check-keys: false}"
    rules = f"{{extends: default, rules: {{{ours}, comments: {{min-spaces-from-content: 1}}}}}}"

    lint("yamllint", "--strict", "--config-data", rules, GITHUB)


def test_each_action_is_named_by_commit_and_version() -> None:
    used = re.findall(r"uses: .*", STEPS)
    ours = [line for line in used if line.startswith("uses: ./")]

    assert [line for line in used if not PINNED.fullmatch(line) and line not in ours] == []
    assert len(used) - len(ours) > 10


def test_a_job_may_do_no_more_than_it_says_and_no_secret_is_kept_for_any() -> None:
    for file in WORKFLOWS:
        assert read_yaml(file.read_text())["permissions"] == {}
    assert "secrets." not in STEPS
    assert [name for name, job in JOBS.items() if "write" in job["permissions"].get("contents", "")] == ["github"]
    assert JOBS["pypi"]["permissions"] == {"id-token": "write"}
    assert STEPS.count("persist-credentials: false") == STEPS.count("uses: actions/checkout@")


def test_nothing_is_published_before_the_gate_has_passed_and_the_registry_comes_last() -> None:
    assert JOBS["gate"]["uses"] == "./.github/workflows/ci.yml"
    assert list_before("pypi") >= {"gate", "build", "attest"}
    assert list_before("image") >= {"gate", "pypi"}
    assert list_before("registry") == JOBS.keys() - {"registry"}


def list_before(job: str) -> set[str]:
    """Return the jobs that have to be done before this one starts."""
    needed = JOBS[job].get("needs", [])
    direct = {needed} if isinstance(needed, str) else {*needed}
    return direct.union(*map(list_before, direct))


def test_what_is_published_has_the_names_that_the_project_says() -> None:
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    image = RELEASE["env"]["IMAGE"]
    [name] = re.findall(r'"name": "io\.github\.(\S+)"', (REPOSITORY / "server.json").read_text())

    assert JOBS["pypi"]["environment"] == {"name": "release", "url": f"https://pypi.org/project/{project['name']}/"}
    assert image == f"ghcr.io/{name}"


def test_the_tools_of_the_release_have_a_version() -> None:
    installed = re.findall(r"pip install ([\w-]+\S*)$", STEPS, re.MULTILINE)

    assert installed != []
    assert [package for package in installed if "==" not in package and package != "--editable"] == []
