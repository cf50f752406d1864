"""Which files of the repository are written by machine, and what is in them?"""

from collections.abc import Mapping

from packages.extensions import create_gemini_extension, create_marketplace, create_plugin
from packages.form import format_json
from packages.links import BEGIN, END, render_section
from packages.project import ROOT
from packages.registry import create_server_json


def create_files() -> Mapping[str, str]:
    """Return the content of each file, by its path in the repository."""
    return {
        "server.json": format_json(create_server_json()),
        ".claude-plugin/plugin.json": format_json(create_plugin()),
        ".claude-plugin/marketplace.json": format_json(create_marketplace()),
        "gemini-extension.json": format_json(create_gemini_extension()),
        "README.md": _put_links((ROOT / "README.md").read_text()),
    }


def _put_links(page: str) -> str:
    """Return the page with the links of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{render_section()}\n{END}{after}"
