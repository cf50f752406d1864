"""What the MCP registry reads: `server.json`, with every setting as a variable."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from packages.project import DESCRIPTION, ICON, NAME, TITLE, URL, VERSION
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings
from token_tools.times import format_duration_argument

_OWNER_AND_REPOSITORY: Final = URL.removeprefix("https://github.com/")
_PLACEHOLDERS: Final = {"host": "cluster.example.com"}
_FORMATS: Final[dict[object, str]] = {bool: "boolean", int: "number", Path: "filepath"}
"""The registry's word for a type of Python; every other one is a string to it."""


def create_server_json() -> dict[str, Any]:
    """Return the registry's description of this server."""
    return {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": f"io.github.{_OWNER_AND_REPOSITORY}",
        "title": TITLE,
        "description": DESCRIPTION,
        "version": VERSION,
        "repository": {"url": URL, "source": "github"},
        "websiteUrl": f"{URL}#readme",
        "icons": [
            {
                "src": f"https://raw.githubusercontent.com/{_OWNER_AND_REPOSITORY}/HEAD/packages/{ICON.name}",
                "mimeType": "image/png",
                "sizes": ["512x512"],
            }
        ],
        "packages": [
            {
                "registryType": "pypi",
                "identifier": NAME,
                "version": VERSION,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "environmentVariables": [
                    _describe_variable(name, field) for name, field in Settings.model_fields.items()
                ],
            }
        ],
    }


def _describe_variable(setting: str, field: FieldInfo) -> dict[str, Any]:
    described: dict[str, Any] = {"name": variable_name(setting), "description": field.description}
    if field.is_required():
        described["isRequired"] = True
    if setting in SECRET_SETTINGS:
        described["isSecret"] = True
    described["format"] = _find_format(field)
    if setting in _PLACEHOLDERS:
        described["placeholder"] = _PLACEHOLDERS[setting]
    if not field.is_required() and field.default_factory is None and field.default is not None:
        described["default"] = _format_default(field.default)
    if get_origin(field.annotation) is Literal:
        described["choices"] = [*get_args(field.annotation)]
    return described


def _find_format(field: FieldInfo) -> str:
    """Return the registry's word for what a field holds, whether it may be None or not."""
    annotations = (field.annotation, *get_args(field.annotation))
    return next((_FORMATS[kind] for kind in map(_strip_metadata, annotations) if kind in _FORMATS), "string")


def _strip_metadata(annotation: object) -> object:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _format_default(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case timedelta():
            return format_duration_argument(default)
        case _:
            return str(default)
