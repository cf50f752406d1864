"""The bundle for Claude Desktop: a zip of the manifest, the icon and the code, which the host starts with uv."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tomlkit

import token_tools
from packages.form import format_json
from packages.project import (
    DESCRIPTION,
    EXTRA,
    ICON,
    KEYWORDS,
    LICENSE,
    NAME,
    PROJECT,
    PYPROJECT,
    ROOT,
    TITLE,
    URL,
    VERSION,
    list_tools,
)
from packages.questions import list_user_config, list_variables

_CODE: Final = Path(token_tools.__file__).parent
_OLDEST_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip, so that equal content makes an equal bundle."""
_LEFT_OUT: Final = {"readme", "optional-dependencies"}
"""Parts of the project's metadata that starting the server does not need."""


def write_bundle(folder: Path, code: Path = _CODE) -> Path:
    """Write the bundle into a folder, which is created if it is missing, and return its path.

    Of the folder with the code it has neither hidden files nor what Python keeps of an earlier run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{VERSION}.mcpb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
        for name, content in sorted(_list_content(code)):
            entry = zipfile.ZipInfo(name, _OLDEST_TIME)
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def create_manifest() -> dict[str, Any]:
    """Return the bundle's manifest, version 0.4."""
    return {
        "manifest_version": "0.4",
        "name": NAME,
        "display_name": TITLE,
        "version": VERSION,
        "description": DESCRIPTION,
        "author": {"name": NAME, "url": URL},
        "repository": {"type": "git", "url": URL},
        "homepage": URL,
        "documentation": f"{URL}#readme",
        "support": f"{URL}/issues",
        "icon": ICON.name,
        "license": LICENSE,
        "keywords": KEYWORDS,
        "server": {
            "type": "uv",
            "entry_point": f"{_CODE.name}/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "--extra", EXTRA, NAME],
                "env": list_variables(),
            },
        },
        "tools": list_tools(),
        "prompts_generated": True,
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": PROJECT["requires-python"]}},
        "user_config": list_user_config(),
    }


def _list_content(code: Path) -> Iterator[tuple[str, bytes]]:
    yield "manifest.json", format_json(create_manifest()).encode()
    yield "pyproject.toml", _create_pyproject().encode()
    yield ICON.name, ICON.read_bytes()
    yield "LICENSE", (ROOT / "LICENSE").read_bytes()
    for path in code.rglob("*"):
        inside = path.relative_to(code)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
            yield f"{_CODE.name}/{inside.as_posix()}", path.read_bytes()


def _create_pyproject() -> str:
    """Return a pyproject.toml without what only development needs: uv would look all of that up at the first start."""
    project = {name: value for name, value in PROJECT.items() if name not in _LEFT_OUT}
    extras = {EXTRA: PROJECT["optional-dependencies"][EXTRA]}
    return tomlkit.dumps(
        {"build-system": PYPROJECT["build-system"], "project": {**project, "optional-dependencies": extras}}
        | {"tool": {"hatch": {"build": {"targets": {"wheel": {"packages": [_CODE.name]}}}}}}
    )
