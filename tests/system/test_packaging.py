"""Test that facts which are written in several places agree."""

import json
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from packages.files import create_files
from token_tools import __version__
from token_tools.configuration import Profile
from token_tools.http_settings import HttpSettings
from token_tools.server.app import SERVER_NAME, create_server
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings
from token_tools.times import parse_duration

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
HTTP_PAGE = (REPOSITORY / "docs" / "http.md").read_text()
MANIFEST: dict[str, Any] = json.loads((REPOSITORY / "server.json").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
[PACKAGE] = MANIFEST["packages"]
MANIFEST_VARIABLES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in PACKAGE["environmentVariables"]}
FIELDS_BY_VARIABLE = {variable_name(name): field for name, field in Settings.model_fields.items()}
FILES = create_files()
SETTINGS = Settings(host="cluster.example.com", bearer_token=SecretStr("access-v1:own"))


def test_the_manifest_is_valid_against_the_registry_s_schema() -> None:
    skillsaw = Path(sys.executable).with_name("skillsaw")

    linted = subprocess.run(
        [skillsaw, "lint", "--type", "mcp-registry", REPOSITORY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout
    assert "All checks passed" in linted.stdout


@pytest.mark.parametrize("path", FILES)
def test_a_file_for_hosts_and_registries_is_what_the_generator_writes(path: str) -> None:
    """If this fails, run `python -m packages`."""
    assert (REPOSITORY / path).read_text() == FILES[path]


async def test_the_version_is_one() -> None:
    versions = {PYPROJECT["project"]["version"], MANIFEST["version"], PACKAGE["version"], __version__}

    assert versions == {create_server([Profile(SETTINGS)]).version}


def test_the_names_are_one() -> None:
    assert PYPROJECT["project"]["name"] == PACKAGE["identifier"] == SERVER_NAME
    assert list(PYPROJECT["project"]["scripts"]) == [SERVER_NAME]
    assert f"<!-- mcp-name: {MANIFEST['name']} -->" in README


def test_the_manifest_lists_every_setting_in_order() -> None:
    assert list(MANIFEST_VARIABLES) == list(FIELDS_BY_VARIABLE)


@pytest.mark.parametrize("name", FIELDS_BY_VARIABLE)
def test_a_setting_is_the_same_in_code_manifest_and_readme(name: str) -> None:
    entry, field, row = MANIFEST_VARIABLES[name], FIELDS_BY_VARIABLE[name], parse_readme_table("variable")[f"`{name}`"]

    assert entry["description"] == field.description
    assert entry.get("isRequired", False) == field.is_required()
    assert entry.get("isSecret", False) == ("SecretStr" in str(field.annotation))
    assert entry.get("isSecret", False) == (name in {variable_name(secret) for secret in SECRET_SETTINGS})
    if "default" in entry:
        assert row[0] == entry["default"]
        assert parse_default(entry["default"], field) == field.default
    else:
        assert field.is_required() or field.default_factory or field.default is None


def test_the_readme_lists_every_setting_in_order() -> None:
    assert list(parse_readme_table("variable")) == [f"`{name}`" for name in FIELDS_BY_VARIABLE]


def test_the_page_about_http_lists_every_setting_of_it_in_order() -> None:
    rows = parse_table(HTTP_PAGE, "variable")

    assert list(rows) == [f"`{variable_name(name)}`" for name in HttpSettings.model_fields]


@pytest.mark.parametrize("name", HttpSettings.model_fields)
def test_a_setting_of_http_is_the_same_in_code_and_on_its_page(name: str) -> None:
    field = HttpSettings.model_fields[name]

    default, meaning = parse_table(HTTP_PAGE, "variable")[f"`{variable_name(name)}`"]

    assert meaning == field.description
    if not field.default_factory:
        assert default == render_default(field.default)


def render_default(default: object) -> str:
    match default:
        case None | ():
            return "\N{EN DASH}"
        case bool():
            return str(default).lower()
        case tuple():
            return " ".join(map(str, cast(tuple[object, ...], default)))
        case _:
            return str(default)


async def test_the_readme_lists_every_tool_with_its_first_sentence() -> None:
    tools = await create_server([Profile(SETTINGS)]).list_tools()

    rows = parse_readme_table("tool")

    assert list(rows) == [f"`{tool.name}`" for tool in tools]
    for tool in tools:
        kind, sentence = rows[f"`{tool.name}`"]
        assert tool.annotations is not None
        assert (kind == "read") == tool.annotations.read_only_hint
        assert (tool.description or "").startswith(f"{sentence}.")


def parse_default(text: str, field: FieldInfo) -> object:
    match field.default:
        case bool():
            return {"true": True, "false": False}[text]
        case int():
            return int(text)
        case timedelta():
            return parse_duration(text)
        case _:
            return text


def parse_readme_table(first_column: str) -> dict[str, list[str]]:
    """Return the rows of the README's table with this first heading, by their first cell."""
    return parse_table(README, first_column)


def parse_table(page: str, first_column: str) -> dict[str, list[str]]:
    """Return the rows of a page's first table with this first heading, by their first cell."""
    _, _, table = page.partition(f"\n| {first_column} |")
    lines = table.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("| "): rest for first, *rest in cells}
