"""Links that make a host offer to install the server, and the section of the README that has them.

A link is public, so it has no secret. The server that it installs only reads.
"""

import base64
import json
from typing import Final, NamedTuple
from urllib.parse import quote

from packages.project import DESCRIPTION
from token_tools.cli.hosts.catalogue import HOSTS
from token_tools.cli.hosts.entries import CALL_TIMEOUT_SECONDS, ENTRY_NAME, PROGRAM, Entry
from token_tools.setting_names import variable_name
from token_tools.settings import Settings

BEGIN: Final = "<!-- Written by `python -m packages`: the links -->\n"
END: Final = "<!-- The end of the links -->\n"
_HOST_VARIABLE: Final = variable_name("host")
_HOST_INPUT: Final = _HOST_VARIABLE.lower()
_HOST_MEANING: Final = str(Settings.model_fields["host"].description)
_STARTED: Final = Entry("uvx", [PROGRAM, "--read-only"])
_EXAMPLE: Final = _STARTED.with_more([], {_HOST_VARIABLE: "cluster.example.com"})
"""For hosts that cannot ask which cluster: a person puts the right one there."""


class Link(NamedTuple):
    """An address that a person opens, and the title of the host that answers to it."""

    title: str
    address: str


def list_links() -> list[Link]:
    """Return a link for each host that has them and that can be linked to from a page on the web."""
    return [
        Link(
            HOSTS["vscode"].title,
            format_vscode_link(
                _STARTED.with_more([], {_HOST_VARIABLE: f"${{input:{_HOST_INPUT}}}"}), {_HOST_INPUT: _HOST_MEANING}
            ),
        ),
        Link(HOSTS["cursor"].title, format_base64_link("https://cursor.com/en/install-mcp", "cursor", _EXAMPLE)),
        Link(HOSTS["lmstudio"].title, format_base64_link("https://lmstudio.ai/install-mcp", "lmstudio", _EXAMPLE)),
        Link(HOSTS["kiro"].title, format_kiro_link(_EXAMPLE)),
    ]


def render_section() -> str:
    """Return the links as the README has them. GitHub shows the address for Goose only as text."""
    links = " · ".join(f"[{link.title}]({link.address})" for link in list_links())
    goose = format_goose_link(_STARTED, {_HOST_VARIABLE: _HOST_MEANING})
    title = HOSTS["goose"].title
    return f"Install in: {links}\n\n{title} takes this address, pasted into a browser:\n\n```text\n{goose}\n```\n"


def format_vscode_link(entry: Entry, inputs: dict[str, str]) -> str:
    """Return a link for VS Code, which asks for each of the inputs: the id of one, and what it means."""
    asked = [{"id": name, "type": "promptString", "description": meaning} for name, meaning in inputs.items()]
    config = HOSTS["vscode"].form.write(entry, {})
    return (
        f"https://insiders.vscode.dev/redirect/mcp/install?name={ENTRY_NAME}"
        f"&inputs={_quote_json(asked)}&config={_quote_json(config)}"
    )


def format_base64_link(address: str, host: str, entry: Entry) -> str:
    """Return a link for a host that takes the entry in base64."""
    config = base64.b64encode(_format_json(HOSTS[host].form.write(entry, {})).encode()).decode()
    return f"{address}?name={ENTRY_NAME}&config={quote(config, safe='')}"


def format_kiro_link(entry: Entry) -> str:
    """Return a link for Kiro, which takes the entry as it is."""
    return (
        f"https://kiro.dev/launch/mcp/add?name={ENTRY_NAME}&config={_quote_json(HOSTS['kiro'].form.write(entry, {}))}"
    )


def format_goose_link(entry: Entry, asked: dict[str, str]) -> str:
    """Return a link for Goose, which asks for each of the variables: the name of one, and what it means."""
    parts = [
        ("cmd", entry.command),
        *(("arg", arg) for arg in entry.args),
        ("id", ENTRY_NAME),
        ("name", ENTRY_NAME),
        ("description", DESCRIPTION),
        ("timeout", str(CALL_TIMEOUT_SECONDS)),
        *(("env", f"{name}={meaning}") for name, meaning in asked.items()),
    ]
    return "goose://extension?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in parts)


def _quote_json(value: object) -> str:
    return quote(_format_json(value), safe="")


def _format_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
