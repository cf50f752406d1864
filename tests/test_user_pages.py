"""Test that commands, settings, blocks and messages on the pages for users are those of the program."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.environment import set_environment
from tests.support.json_rpc import COMMAND
from tests.support.new_token import JANE as NEW_USER
from tests.support.new_token import NEW_TOKEN
from tests.support.page_names import PACKAGE, REPOSITORY, USER_PAGES, is_variable, list_blocks
from tests.support.permissions import permission_bits
from tests.support.sandbox_process import BIN_FOLDER, run_process, running_sandbox
from tests.support.secret_scan import find_secrets
from tests.support.secret_stores import Entry, install_program, read_calls
from tests.support.stdio_client import TIMEOUT_SECONDS, run_to_end
from token_tools.cli.arguments import parse_arguments
from token_tools.cluster.qq import Qq
from token_tools.configuration import find_profiles
from token_tools.errors import DeliveryError
from token_tools.http_settings import MCP_PATH
from token_tools.paths import find_config_file, find_state_dir
from token_tools.server.app import SERVER_NAME
from token_tools.storage.delivery import AskedToken, CommandDelivery, FileDelivery
from token_tools.storage.delivery.child_process import MARK
from token_tools.storage.delivery.command import CLUSTER_VARIABLE, EXPIRES_VARIABLE, ID_VARIABLE, USER_VARIABLE

TROUBLESHOOTING: Final = REPOSITORY / "docs" / "troubleshooting.md"
FILES: Final = REPOSITORY / "docs" / "files.md"
DELIVERY: Final = REPOSITORY / "docs" / "delivery.md"
HAND_OVER: Final = REPOSITORY / "docs" / "hand-over.md"
UPGRADE: Final = REPOSITORY / "docs" / "upgrade.md"
TOOLS: Final = REPOSITORY / "docs" / "tools.md"
TRUST: Final = REPOSITORY / "docs" / "trust.md"
CHAT_CLIENTS: Final = REPOSITORY / "docs" / "chat-clients.md"
HTTP: Final = REPOSITORY / "docs" / "http.md"
OUR_COMMAND: Final = re.compile(rf"^.*(?<![\w-]){SERVER_NAME} ?(.*)$", re.MULTILINE)
QUOTED: Final = re.compile(r'"([^"\n]+)"')
LISTENING: Final = re.compile(r"listens on (\S+:\d+)")
MISSPELLED: Final = "QUMULO_READONLY"
"""The README's example of a name that is refused."""

TOLD_TO_COMMANDS: Final = {ID_VARIABLE, USER_VARIABLE, CLUSTER_VARIABLE, EXPIRES_VARIABLE, MARK}
"""The variables that a command finds in its environment."""

FROM_ELSEWHERE: Final = {
    "spawn … ENOENT",
    "command not found",
    "No such file or directory",
    "No space left on device",
    "self-signed certificate",
    "unable to get local issuer certificate",
}
"""What hosts, the operating system and OpenSSL say."""

pages = pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)


@pages
def test_each_of_our_commands_on_a_page_is_one_that_the_program_takes(page: Path) -> None:
    for block in list_blocks(page.read_text(), "sh"):
        for words in OUR_COMMAND.findall(block):
            parse_arguments(shlex.split(words, comments=True))


@pages
def test_each_setting_on_a_page_is_one_of_the_program(page: Path) -> None:
    names = {*re.findall(r"QUMULO_[A-Z_]+", page.read_text())} - {MISSPELLED} - TOLD_TO_COMMANDS

    assert [name for name in names if not is_variable(name)] == []


@pages
def test_each_json_and_toml_on_a_page_can_be_read(page: Path) -> None:
    text = page.read_text()

    for block in list_blocks(text, "json"):
        json.loads(block)
    for block in list_blocks(text, "toml"):
        tomllib.loads(block)


def test_only_the_reference_of_settings_offers_to_verify_nothing() -> None:
    naming = [line for page in USER_PAGES for line in page.read_text().splitlines() if "VERIFY_TLS" in line]

    assert [line for line in naming if not line.startswith("| `QUMULO_")] == []
    assert len(naming) == 2


def test_each_message_on_the_page_for_trouble_is_one_that_somebody_says() -> None:
    parts = [part.strip() for quoted in QUOTED.findall(TROUBLESHOOTING.read_text()) for part in split_message(quoted)]

    assert len(parts) > 30
    assert [part for part in parts if part not in FROM_ELSEWHERE and not is_in_our_texts(part)] == []


def split_message(quoted: str) -> list[str]:
    return [quoted] if quoted in FROM_ELSEWHERE else quoted.split("…")


def is_in_our_texts(part: str) -> bool:
    return any(part in text for text in list_texts())


@cache
def list_texts() -> frozenset[str]:
    """Return every text in the code of the package but docstrings; of one with gaps, the parts between them."""
    return frozenset(text for file in PACKAGE.rglob("*.py") for text in iterate_texts(ast.parse(file.read_text())))


def iterate_texts(tree: ast.Module) -> Iterator[str]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_the_folders_on_the_page_about_files_are_those_that_the_program_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""})

    assert find_folder("configuration folder", tmp_path) / "config.toml" == find_config_file()
    assert find_folder("state folder", tmp_path) == find_state_dir()


def find_folder(what: str, home: Path) -> Path:
    """Return a folder in this home, as the page about files names it for this system."""
    column = 2 if sys.platform == "darwin" else 1
    [row] = [line for line in FILES.read_text().splitlines() if line.startswith(f"| {what} |")]
    return home / row.split(" | ")[column].strip("`~/")


class Recipe(NamedTuple):
    """A section of the page about delivery: the program that it is about, and what that then keeps beside a secret."""

    heading: str
    program: str
    name: str
    details: Sequence[str] = ()


EXPIRY: Final = "2027-02-21T09:00:00Z"
OF_VAULT: Final = ["user=local:jane", "cluster=c:8000", f"expires={EXPIRY}"]
RECIPES: Final = [
    Recipe("HashiCorp Vault and OpenBao", "vault", f"qumulo/{NEW_TOKEN.id}", OF_VAULT),
    Recipe("HashiCorp Vault and OpenBao", "bao", f"qumulo/{NEW_TOKEN.id}", OF_VAULT),
    Recipe("Kubernetes", "kubectl", f"qumulo-token-{NEW_TOKEN.id}"),
    Recipe("AWS Secrets Manager", "aws", f"qumulo/{NEW_TOKEN.id}", [f"for local:jane on c:8000, expires: {EXPIRY}"]),
    Recipe("1Password", "op", f"Qumulo access token {NEW_TOKEN.id}", ["local:jane", "c:8000", f"expires: {EXPIRY}"]),
]
recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.program)


@recipes
@pytest.mark.anyio
async def test_a_recipe_of_delivery_tries_its_store_and_puts_the_token_there_through_nothing_but_stdin(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_program(recipe.program, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    await deliver_by_recipe(recipe, tmp_path, monkeypatch)

    tried, stored = read_calls(tmp_path)
    assert tried.kept is None
    assert ID_VARIABLE not in tried.environment
    assert stored.kept == Entry(NEW_TOKEN.bearer_token.get_secret_value(), recipe.name, [*recipe.details])
    for call in (tried, stored):
        assert (
            find_secrets(repr((call.words, call.environment)).encode(), [NEW_TOKEN.bearer_token.get_secret_value()])
            == []
        )


@recipes
@pytest.mark.anyio
async def test_a_recipe_of_delivery_says_so_if_its_store_keeps_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / recipe.program
    failing.write_text(f'#!/bin/sh\ncat > /dev/null\ntest -z "${ID_VARIABLE}"\n')
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(DeliveryError, match="ended with exit status 1"):
        await deliver_by_recipe(recipe, tmp_path, monkeypatch)


async def deliver_by_recipe(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver a new token with the script of a recipe, and by its settings."""
    section = DELIVERY.read_text().partition(f"\n## {recipe.heading}\n")[2].partition("\n## ")[0]
    [script] = [*list_blocks(section, "sh"), *list_blocks(section, "python")]
    [table] = list_blocks(section, "toml")
    in_place, config = folder / "recipe", folder / "config.toml"
    in_place.write_text(script.replace("vault kv", f"{recipe.program} kv"))
    in_place.chmod(0o755)
    config.write_text(table.replace('["vault"', f'["{recipe.program}"'))
    set_environment(monkeypatch, {"QUMULO_HOST": "c", "QUMULO_CONFIG": str(config)})
    [profile] = find_profiles({})
    command = shlex.join(profile.settings.delivery_command or [])
    assert f"As `{command}`, with mode 0755" in section

    delivery = CommandDelivery([str(in_place)], profile.settings.delivery_check, "c:8000")
    reservation = await delivery.reserve(AskedToken(NEW_USER, datetime.fromisoformat(EXPIRY)))
    await reservation.store(NEW_TOKEN, NEW_USER)


HANDED_OVER: Final = [
    Recipe("Kubernetes", "kubectl", f"qumulo-token-{NEW_TOKEN.id}"),
    Recipe("HashiCorp Vault and OpenBao", "vault", f"qumulo/{NEW_TOKEN.id}"),
    Recipe("HashiCorp Vault and OpenBao", "bao", f"qumulo/{NEW_TOKEN.id}"),
    Recipe("1Password", "op", f"Qumulo access token {NEW_TOKEN.id}"),
]
handed_over = pytest.mark.parametrize("recipe", HANDED_OVER, ids=lambda recipe: recipe.program)


@handed_over
@pytest.mark.anyio
async def test_a_delivered_file_is_handed_over_without_a_trace_and_then_removed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_program(recipe.program, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    file, ended = await hand_over(recipe, tmp_path)

    [stored] = read_calls(tmp_path)
    secret = NEW_TOKEN.bearer_token.get_secret_value()
    assert stored.kept == Entry(secret, recipe.name, [*recipe.details])
    assert find_secrets(repr((stored.words, stored.environment, ended.stdout, ended.stderr)).encode(), [secret]) == []
    assert ended.returncode == 0
    assert not file.exists()


@handed_over
@pytest.mark.anyio
async def test_a_file_stays_that_its_store_does_not_take(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / recipe.program
    failing.write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    file, ended = await hand_over(recipe, tmp_path)

    assert ended.returncode == 1
    assert file.exists()


async def hand_over(recipe: Recipe, folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Deliver a new token into a file, and run what the page about that says; return the file and what came of it."""
    delivered = await (await FileDelivery(folder / "tokens", Qq("c", 8000)).reserve()).store(NEW_TOKEN, NEW_USER)
    file = delivered.location.render()
    section = HAND_OVER.read_text().partition(f"\n## {recipe.heading}\n")[2].partition("\n## ")[0]
    [command] = list_blocks(section, "bash")
    [naming, *_] = list_blocks(HAND_OVER.read_text(), "bash")
    [example] = re.findall(r"^file=(\S+)$", naming, re.MULTILINE)
    script = naming.replace(example, shlex.quote(file)) + command.replace("vault kv", f"{recipe.program} kv")
    return Path(file), run_process("/bin/bash", "-c", script)


@pytest.mark.slow
def test_each_command_of_qq_for_an_uninstallation_is_one_that_takes_its_options() -> None:
    lines = [line for block in list_blocks(UPGRADE.read_text(), "sh") for line in block.splitlines() if "qq " in line]
    commands = [shlex.split(line)[3:] for line in lines]

    helps = [run_process(str(BIN_FOLDER / "qq"), name, "--help").stdout for name, *_ in commands]

    assert len(commands) == 4
    for (name, *words), text in zip(commands, helps, strict=True):
        assert f"usage: qq {name} " in text
        assert [word for word in words if word.startswith("--") and word not in text] == []


@pytest.mark.slow
def test_the_commands_for_the_journal_print_it() -> None:
    blocks = [block for page in (TOOLS, TROUBLESHOOTING) for block in list_blocks(page.read_text(), "sh")]
    commands = [shlex.split(words) for words in OUR_COMMAND.findall("".join(blocks)) if words.startswith("journal")]

    answers = [run_to_end(*words) for words in commands]

    assert [(answer.returncode, answer.stderr) for answer in answers] == [(0, "")] * 4


@pytest.mark.slow
def test_the_commands_about_trust_find_a_fingerprint_and_trust_the_certificate_that_has_it(tmp_path: Path) -> None:
    [of_network, of_file] = [block for block in list_blocks(TRUST.read_text(), "sh") if "openssl" in block]
    [expect] = re.findall(r"^qumulo-token-tools trust --expect (\w{64})$", TRUST.read_text(), re.MULTILINE)
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}

    with running_sandbox() as sandbox:
        host, port = sandbox.settings["QUMULO_HOST"], sandbox.settings["QUMULO_PORT"]
        shown = run_process("/bin/sh", "-c", of_network.replace("cluster.example.com:8000", f"{host}:{port}"))
        [fingerprint] = re.findall(r"=((?:[0-9A-F]{2}:){31}[0-9A-F]{2})$", shown.stdout.strip())
        cluster = home | {"QUMULO_HOST": host, "QUMULO_PORT": port}
        refused = run_to_end("trust", "--expect", expect, env=cluster)
        trusted = run_to_end("trust", "--expect", fingerprint.replace(":", ""), env=cluster)

    saved = find_folder("configuration folder", tmp_path) / "trusted" / f"{host}_{port}.pem"
    of_saved = run_process("/bin/sh", "-c", of_file.replace("cluster-ca.pem", shlex.quote(str(saved))))
    assert (refused.returncode, trusted.returncode) == (1, 0)
    assert permission_bits(saved) == 0o600
    assert fingerprint in of_saved.stdout


@pytest.mark.slow
def test_a_key_that_is_made_by_the_page_lets_the_bot_of_the_page_in(tmp_path: Path) -> None:
    [making] = [block for block in list_blocks(HTTP.read_text(), "bash") if "openssl rand" in block]
    [bot] = list_blocks(CHAT_CLIENTS.read_text(), "python")

    made = run_process("/bin/sh", "-euc", f"umask 077; cd {shlex.quote(str(tmp_path))}; {making}")
    with running_http_demo("--http-keys-file", str(tmp_path / "keys.toml")) as url:
        answer = run_process(sys.executable, "-c", bot, url, str(tmp_path / "nightly-audit.key"))

    assert made.returncode == 0, made.stderr
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "access tokens" in answer.stdout


@contextmanager
def running_http_demo(*options: str) -> Generator[str]:
    """Serve the embedded cluster over HTTP at any free port; yield the URL that clients call."""
    command = [COMMAND, "http", "--demo", "--http-listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = next(found[1] for line in process.stderr if (found := LISTENING.search(line)))
            yield f"http://{address}{MCP_PATH}"
        finally:
            process.terminate()
            process.wait(TIMEOUT_SECONDS)
