"""Test the links of the README, decoded as hosts do it."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from packages.links import (
    format_base64_link,
    format_goose_link,
    format_kiro_link,
    format_vscode_link,
    list_links,
    render_section,
)
from tests.support.page_names import REPOSITORY
from token_tools.cli.arguments import parse_arguments
from token_tools.cli.hosts.catalogue import HOSTS
from token_tools.cli.hosts.entries import ENTRY_NAME, Entry
from token_tools.settings import SECRET_SETTINGS

MAX_LINK_CHARS: Final = 8_000
"""What Cursor takes at most."""
ENTRY: Final = Entry("uvx", ["qumulo-token-tools"], {"QUMULO_HOST": "cluster.example.com"})
ENTRY_FIELDS: Final = {"command": "uvx", "args": [*ENTRY.args], "env": {**ENTRY.env}}
LINKS: Final = {link.title: link.address for link in list_links()}


def read_query(address: str) -> Mapping[str, list[str]]:
    return parse_qs(urlsplit(address).query, strict_parsing=True)


def decode_config(title: str) -> dict[str, Any]:
    """Return the entry in a link of the README, as its host reads it."""
    [config] = read_query(LINKS[title])["config"]
    text = config if title in {"VS Code", "Kiro"} else base64.b64decode(config, validate=True).decode()
    entry: dict[str, Any] = json.loads(text)
    return entry


def test_an_entry_in_base64_is_that_of_the_hosts_documentation() -> None:
    assert format_base64_link("https://cursor.com/en/install-mcp", "cursor", ENTRY) == (
        "https://cursor.com/en/install-mcp?name=qumulo-tokens&config=eyJjb21tYW5kIjoidXZ4IiwiYXJncyI6WyJxdW11bG8tdG9r"
        "ZW4tdG9vbHMiXSwiZW52Ijp7IlFVTVVMT19IT1NUIjoiY2x1c3Rlci5leGFtcGxlLmNvbSJ9fQ%3D%3D"
    )


def test_a_question_of_vscode_is_that_of_its_documentation() -> None:
    link = format_vscode_link(ENTRY, {"qumulo_host": "Cluster address"})

    assert (
        "&inputs=%5B%7B%22id%22%3A%22qumulo_host%22%2C%22type%22%3A%22promptString%22%2C%22description%22%3A"
        "%22Cluster%20address%22%7D%5D&config="
    ) in link
    assert json.loads(read_query(link)["config"][0]) == {"type": "stdio", **ENTRY_FIELDS}


def test_kiro_gets_an_entry_that_approves_nothing_by_itself() -> None:
    [config] = read_query(format_kiro_link(ENTRY))["config"]

    assert json.loads(config) == ENTRY_FIELDS


def test_goose_asks_for_what_is_not_given() -> None:
    link = format_goose_link(ENTRY, {"QUMULO_HOST": "Cluster & port=8000"})

    query = read_query(link)
    assert link.startswith("goose://extension?cmd=uvx&arg=qumulo-token-tools&id=qumulo-tokens&")
    assert query["env"] == ["QUMULO_HOST=Cluster & port=8000"]
    assert query["timeout"] == ["330"]


@pytest.mark.parametrize("title", LINKS)
def test_a_link_starts_this_server_to_read_only_with_a_host_and_no_secret(title: str) -> None:
    fields = decode_config(title)

    entry = HOSTS["cursor"].form.read(fields)
    assert entry is not None
    assert entry.is_ours
    assert [*entry.env] == ["QUMULO_HOST"]
    command_line = parse_arguments([*entry.args[1:]])
    assert command_line.settings == {"read_only": True}
    assert "read_only" not in SECRET_SETTINGS
    assert read_query(LINKS[title])["name"] == [ENTRY_NAME]
    assert len(LINKS[title]) < MAX_LINK_CHARS
    # GitHub shows no link to another scheme.
    assert LINKS[title].startswith("https://")


def test_vscode_asks_for_each_value_that_its_entry_takes_from_a_question() -> None:
    [inputs] = read_query(LINKS["VS Code"])["inputs"]

    asked = re.findall(r"\$\{input:(\w+)\}", json.dumps(decode_config("VS Code")))
    assert [one["id"] for one in json.loads(inputs)] == asked == ["qumulo_host"]


def test_the_readme_has_each_link() -> None:
    readme = (REPOSITORY / "README.md").read_text()

    assert render_section() in readme
    assert [title for title, address in LINKS.items() if f"[{title}]({address})" not in readme] == []
