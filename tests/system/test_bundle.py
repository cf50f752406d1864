"""Test the bundle for Claude Desktop: what is in it, what its vendor says of it, and that what it starts serves.

How a host puts answers into the variables is what the vendor's own package does, where there is one. Otherwise it is
done here by the rules of that package.
"""

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from packages.bundle import create_manifest, write_bundle
from packages.questions import QUESTIONS
from tests.support.environment import BEARER_TOKEN, set_environment
from tests.support.node_tools import MCPB_BIN, needs_mcpb
from tests.support.page_names import PACKAGE
from token_tools.configuration import find_profiles
from token_tools.setting_names import variable_name
from token_tools.settings import Settings

TIMEOUT_SECONDS: Final = 60
SLOW_TIMEOUT_SECONDS: Final = 300
"""uv looks everything up that is installed, and fetches what no earlier run has left in its cache."""
MAX_BUNDLE_BYTES: Final = 1_000_000
SUFFIXES: Final = {"", ".py", ".json", ".toml", ".png", ".html", ".css", ".js", ".svg", ".typed"}
UV: Final = Path(sys.executable).with_name("uv")
MANIFEST: Final[Mapping[str, Any]] = create_manifest()
NECESSARY: Final = {"host": "cluster.example.com", "bearer_token": BEARER_TOKEN}
ANSWERS: Final[Mapping[str, str | bool]] = {
    "host": "cluster.example.com",
    "port": "8443",
    "bearer_token": BEARER_TOKEN,
    "bearer_token_file": "/folder/token",
    "credentials_file": "/folder/store",
    "ca_file": "/folder/ca.pem",
    "fingerprint": "ab" * 32,
    "read_only": False,
    "max_lifetime": "100d",
    "delivery_dir": "/folder/tokens",
}
"""An answer to each question."""
READING_TOOLS: Final = ["list_access_tokens", "get_access_token", "audit_access_tokens", "list_token_changes"]
SUBSTITUTE_SCRIPT: Final = """
import { getMcpConfigForManifest } from "@anthropic-ai/mcpb";
const [manifest, extensionPath, answers] = process.argv.slice(1);
console.log(JSON.stringify(await getMcpConfigForManifest({
  manifest: JSON.parse(manifest), extensionPath, systemDirs: {}, userConfig: JSON.parse(answers), pathSeparator: "/",
})));
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the bundle once."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    """Unpack the bundle into an empty folder."""
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def substitute(folder: str, answers: Mapping[str, str | bool]) -> dict[str, Any]:
    """Return how the host starts the server, by the rules of its vendor: defaults first, then what was answered."""
    defaults = {name: option["default"] for name, option in MANIFEST["user_config"].items() if "default" in option}
    texts = {
        f"user_config.{name}": str(value).lower() if isinstance(value, bool) else value
        for name, value in {**defaults, **answers}.items()
    }
    config = json.dumps(MANIFEST["server"]["mcp_config"])
    for name, text in {**texts, "__dirname": folder}.items():
        config = config.replace(f"${{{name}}}", text)
    substituted: dict[str, Any] = json.loads(config)
    return substituted


def test_the_bundle_has_the_code_and_nothing_else(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        names = set(archive.namelist())
    code = {f"token_tools/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}

    assert names == {"manifest.json", "pyproject.toml", "icon.png", "LICENSE"} | {
        name for name in code if not name.endswith(".pyc")
    }
    assert [name for name in names if any(part.startswith(".") for part in name.split("/"))] == []
    assert {Path(name).suffix for name in names} <= SUFFIXES
    assert bundle.stat().st_size < MAX_BUNDLE_BYTES


def test_what_lies_about_in_the_folder_of_the_code_stays_there(tmp_path: Path) -> None:
    for name in ("main.py", "room/main.py", ".env", "room/.main.py.swp", "__pycache__/main.cpython-311.pyc"):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).touch()

    with zipfile.ZipFile(write_bundle(tmp_path, tmp_path / "code")) as archive:
        code = [name for name in archive.namelist() if name.startswith("token_tools/")]

    assert code == ["token_tools/main.py", "token_tools/room/main.py"]


def test_equal_content_makes_an_equal_bundle(bundle: Path, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "again").read_bytes() == bundle.read_bytes()


def test_the_icon_is_as_large_as_hosts_want_it(unpacked: Path) -> None:
    icon = (unpacked / "icon.png").read_bytes()

    assert icon.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", icon[16:24]) == (512, 512)


@needs_mcpb
def test_the_vendor_s_program_accepts_the_manifest_and_packs_every_file(unpacked: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.mcpb"

    ended = subprocess.run(
        [MCPB_BIN / "mcpb", "pack", unpacked, packed],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )

    assert ended.returncode == 0, ended.stderr
    assert "Manifest schema validation passes!" in ended.stdout
    with zipfile.ZipFile(packed) as archive:
        files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
        assert {*archive.namelist()} == files


@needs_mcpb
@pytest.mark.parametrize("answers", [{}, NECESSARY, ANSWERS], ids=["none", "necessary", "all"])
def test_answers_become_variables_by_the_vendor_s_rules(answers: Mapping[str, str | bool]) -> None:
    ended = subprocess.run(
        [
            str(shutil.which("node")),
            "--input-type=module",
            "-e",
            SUBSTITUTE_SCRIPT,
            json.dumps(MANIFEST),
            "/folder",
            json.dumps(answers),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
        cwd=MCPB_BIN,
    )

    assert json.loads(ended.stdout) == substitute("/folder", answers)


def test_there_is_an_example_of_an_answer_to_each_question() -> None:
    assert [*ANSWERS] == [question.setting for question in QUESTIONS] == [*MANIFEST["user_config"]]


def test_what_nobody_answered_is_as_if_it_was_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {"QUMULO_HOST": "cluster.example.com", "QUMULO_READ_ONLY": "true"})
    [without] = find_profiles({})

    set_environment(monkeypatch, substitute("/folder", {"host": "cluster.example.com"})["env"])
    [profile] = find_profiles({})

    assert profile.settings == without.settings
    assert profile.settings.model_fields_set == without.settings.model_fields_set


@pytest.mark.parametrize("setting", ANSWERS)
def test_an_answer_is_read(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = substitute("/folder", {"host": "c", setting: ANSWERS[setting]})["env"]
    set_environment(monkeypatch, variables)

    [profile] = find_profiles({})

    assert setting in profile.settings.model_fields_set
    expected = Settings.model_validate({"host": "c", setting: variables[variable_name(setting)]})
    assert getattr(profile.settings, setting) == getattr(expected, setting)


def test_the_clusters_of_a_config_file_are_served_if_no_cluster_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[clusters.lab]\nhost = "lab.example.com"\n')
    config.chmod(0o600)
    set_environment(monkeypatch, {"QUMULO_CONFIG": str(config), **substitute("/folder", {})["env"]})

    [profile] = find_profiles({})

    assert profile.settings.host == "lab.example.com"
    assert profile.settings.read_only


@pytest.mark.anyio
@pytest.mark.parametrize("changes", [{}, {"read_only": False}], ids=["by default", "writing"])
async def test_the_code_of_the_bundle_offers_tools_that_write_only_if_that_was_answered(
    changes: Mapping[str, bool], unpacked: Path
) -> None:
    """Started without uv, from the unpacked code and with what is installed here."""
    env = substitute(str(unpacked), {**NECESSARY, **changes})["env"]
    server = StdioServerParameters(command=sys.executable, args=["-m", "token_tools"], env=env, cwd=unpacked)

    names = await list_tool_names(server, TIMEOUT_SECONDS)

    described = [tool["name"] for tool in MANIFEST["tools"]]
    assert names == (described if changes else READING_TOOLS)


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_unpacked_bundle_serves_tools_that_read_when_it_is_started_as_by_the_host(
    unpacked: Path, uv_environment: Mapping[str, str]
) -> None:
    started = substitute(str(unpacked), NECESSARY)
    assert started["command"] == UV.name
    env = {**uv_environment, **started["env"]}

    names = await list_tool_names(
        StdioServerParameters(command=str(UV), args=started["args"], env=env), SLOW_TIMEOUT_SECONDS
    )

    assert names == READING_TOOLS


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_code_of_a_folder_is_served_as_plugins_start_it(
    unpacked: Path, uv_environment: Mapping[str, str]
) -> None:
    args = ["--from", f"{unpacked}[keyring]", "qumulo-token-tools", "--read-only"]
    env = {**uv_environment, "QUMULO_HOST": "cluster.example.com", "QUMULO_BEARER_TOKEN": BEARER_TOKEN}

    names = await list_tool_names(
        StdioServerParameters(command=str(UV.with_name("uvx")), args=args, env=env), SLOW_TIMEOUT_SECONDS
    )

    assert names == READING_TOOLS


async def list_tool_names(server: StdioServerParameters, timeout_seconds: float) -> list[str]:
    with anyio.fail_after(timeout_seconds):
        async with Client(server) as client:
            return [tool.name for tool in (await client.list_tools()).tools]
