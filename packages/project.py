"""What every package says of the project: its names, its version, where it lives, which tools it has."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import anyio
from pydantic import SecretStr

from token_tools.configuration import Profile
from token_tools.server.app import create_server
from token_tools.settings import Settings

ROOT: Final = Path(__file__).parents[1]
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: Final[dict[str, Any]] = PYPROJECT["project"]
NAME: Final[str] = PROJECT["name"]
VERSION: Final[str] = PROJECT["version"]
LICENSE: Final[str] = PROJECT["license"]
KEYWORDS: Final[list[str]] = PROJECT["keywords"]
URL: Final[str] = PROJECT["urls"]["Repository"]
TITLE: Final = "Qumulo access tokens"
DESCRIPTION: Final = "Administer the access tokens of a Qumulo Core cluster; secrets never pass through the model."
"""What lists of servers show; the registry takes at most 100 characters."""

EXTRA: Final = "keyring"
"""What the server is installed with besides on a desktop: the place for new bearer tokens that every desktop has."""

ICON: Final = ROOT / "packages" / "icon.png"
"""The icon of the pick-up page, drawn with 512 x 512 pixels."""
_SENTENCE_END: Final = re.compile(r"\.\s")


def list_tools() -> list[dict[str, str]]:
    """Return the name and the first sentence of each tool that the server may offer, in order."""
    settings = Settings(host="cluster.example.com", bearer_token=SecretStr("access-v1:none"))
    tools = anyio.run(create_server([Profile(settings)]).list_tools)
    return [{"name": tool.name, "description": _SENTENCE_END.split(tool.description or "")[0]} for tool in tools]
