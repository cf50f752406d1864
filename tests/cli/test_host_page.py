"""Test that the page about hosts says what `install` does with each."""

import re
from typing import Final

import pytest

from tests.support.page_names import REPOSITORY
from token_tools.cli.hosts.catalogue import HOSTS, Host

PAGE: Final = (REPOSITORY / "docs" / "hosts.md").read_text()
HOME: Final = {"home": "~", "claude": "~", "gemini": "~", "codex": "~/.codex", "copilot": "~/.copilot"}
LINUX: Final = {**HOME, "config": "~/.config", "application": "~/.config"}
MACOS: Final = {**LINUX, "application": "~/Library/Application Support"}


def read_section(host: Host) -> str:
    """Return what the page says of a host."""
    found = re.search(rf"^## {re.escape(host.title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_each_host_has_a_section_with_its_command_and_its_files(host: Host) -> None:
    section = read_section(host)
    files = {
        template.format_map({**folders, "project": "."}).removeprefix("./")
        for templates in host.files.values()
        for template in templates[:1]
        for folders in (LINUX, MACOS)
    }

    assert f"`qumulo-token-tools install --client {host.name}`" in section
    assert [file for file in files if f"`{file}`" not in section] == []
    assert (f"`{host.program} " in section) is (host.program is not None)
    assert [row for row in ("Log", "Waits for a call", "Can ask a person") if f"| {row} |" not in section] == []


def test_there_is_no_section_of_a_host_that_is_not_known() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert titles[3:] == [host.title for host in HOSTS.values()]
