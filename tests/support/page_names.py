"""Whether what a page names exists: in the code, on the disk, in the environment that runs the tests."""

import ast
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import token_tools
from token_tools.http_settings import FIELDS
from token_tools.setting_names import ENV_PREFIX, variable_name

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGE: Final = Path(token_tools.__file__).parent
TESTS: Final = REPOSITORY / "tests"
USER_PAGES: Final = (
    REPOSITORY / "README.md",
    *sorted({*REPOSITORY.joinpath("docs").glob("*.md")} - {REPOSITORY / "docs" / "architecture.md"}),
)
"""The pages for those who use the program."""
_ASSIGNMENT: Final = re.compile(r"([A-Z][A-Z_]*)(?:=.*)?")
_PATH: Final = re.compile(r"(?=.*[./])[\w.][\w./*-]*")
_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SHELL_OPERATORS: Final = {"&&", "|"}


def list_blocks(page: str, language: str) -> Sequence[str]:
    """Return the fenced blocks of a page's text that are in this language, such as `sh`."""
    return [block for written_in, block in _FENCED.findall(page) if written_in == language]


def remove_blocks(page: str) -> str:
    """Return a page's text without its fenced blocks."""
    return _FENCED.sub("", page)


def split_commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the commands of one line of a shell, each as its words."""
    command: list[str] = []
    for word in [*words, "&&"]:
        if word in _SHELL_OPERATORS:
            yield command
            command = []
        else:
            command.append(word)


def is_command(words: Sequence[str]) -> bool:
    """Whether a command works in a clone that is set up: what it runs exists, and what it names does.

    Nobody has to activate the environment for that, so what is installed there is called by its path.
    """
    match words:
        case [first, *rest] if _ASSIGNMENT.fullmatch(first):
            return is_variable(first) and is_command(rest)
        case [".venv/bin/python", "-m", "pytest", *rest]:
            return all(_is_pytest_argument(before, word) for before, word in zip(["", *rest], rest, strict=False))
        case ["uv", "run", "--extra", _, command, *_]:
            return _is_installed(f".venv/bin/{command}")
        case [".venv/bin/python" | "python3", "-m", module, *_]:
            return find_spec(module) is not None
        case [first, *_]:
            return (REPOSITORY / first).is_file() or _is_installed(first)
        case _:
            return False


def _is_pytest_argument(before: str, word: str) -> bool:
    if before == "-m":
        return {*re.findall(r"\w+", word)} - {"not", "and", "or"} <= list_marks()
    return find_path(word) is not None if "/" in word else True


def _is_installed(command: str) -> bool:
    folder, _, name = command.rpartition("/")
    # An environment that uv makes is without pip until somebody asks for it.
    exists = name == "pip" or shutil.which(name, path=Path(sys.executable).parent) is not None
    return folder == ".venv/bin" and exists


@cache
def list_marks() -> frozenset[str]:
    """Return the marks of tests that are registered."""
    pyproject: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return frozenset(line.partition(":")[0] for line in pyproject["tool"]["pytest"].get("markers", []))


def is_variable(text: str) -> bool:
    """Tell whether a text is a setting, or a variable that the tests read; a value may follow it."""
    written = _ASSIGNMENT.fullmatch(text)
    if written is None:
        return False
    if written[1].startswith(ENV_PREFIX):
        return written[1] in {variable_name(name) for name in FIELDS}
    return any(f'environ.get("{written[1]}")' in file.read_text() for file in TESTS.rglob("*.py"))


def is_option(text: str) -> bool:
    """Tell whether the command line, or pytest with these tests, has such an option."""
    name = text.partition("=")[0]
    setting = name.removeprefix("--").replace("-", "_")
    sources = [*PACKAGE.rglob("*.py"), TESTS / "conftest.py"]
    return name.startswith("--") and (setting in FIELDS or any(f'"{name}"' in file.read_text() for file in sources))


def find_path(text: str, page: Path = REPOSITORY / "README.md") -> Path | None:
    """Return the file that a path names, from the top, the page's folder or the package; None if there is none."""
    if not _PATH.fullmatch(text):
        return None
    bases = [REPOSITORY, page.parent, PACKAGE, PACKAGE.parent]
    return next((found for base in bases for found in base.glob(text)), None)


@cache
def list_names() -> frozenset[str]:
    """Return everything that the package and the tests define: `name`, `Class.name`, `module.Class.name`."""
    return frozenset(
        ".".join(parts[start:])
        for file in [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")]
        for parts in _iterate_definitions(ast.parse(file.read_text()), (file.stem,))
        for start in range(len(parts))
    )


def _iterate_definitions(node: ast.Module | ast.ClassDef, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for statement in node.body:
        match statement:
            case ast.ClassDef(name=name):
                yield from _iterate_definitions(statement, (*path, name))
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.AnnAssign(target=ast.Name(id=name))
                | ast.Assign(targets=[ast.Name(id=name)])
            ):
                yield (*path, name)
            case _:
                pass


@cache
def list_literals() -> frozenset[str]:
    """Return the words of all `Literal` types of the package, such as outcomes."""
    nodes = (node for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text())))
    literals = (
        node.slice
        for node in nodes
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
    )
    return frozenset(
        word.value
        for literal in literals
        for word in ast.walk(literal)
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    )
