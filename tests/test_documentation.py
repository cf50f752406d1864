"""What the pages for developers name exists, under the name that they give it.

A text between backticks has to be something that can be looked up here: a path, a name in the code, a setting, a
command. What cannot be looked up is written without backticks.
"""

import ast
import fnmatch
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.page_names import (
    PACKAGE,
    REPOSITORY,
    find_path,
    is_command,
    is_option,
    is_variable,
    list_literals,
    list_marks,
    list_names,
    split_commands,
)

ARCHITECTURE: Final = REPOSITORY / "docs" / "architecture.md"
CONTRIBUTING: Final = REPOSITORY / "CONTRIBUTING.md"
PAGES: Final = [ARCHITECTURE, CONTRIBUTING, REPOSITORY / "SECURITY.md"]
LINKING_PAGES: Final = [*PAGES, REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]
MAX_ARCHITECTURE_LINES: Final = 150
FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE_SPAN: Final = re.compile(r"`([^`\n]+)`")
TREE_LINE: Final = re.compile(r"^( *)(\w+/|\w+\.py(?: \w+\.py)*)(?:  +\S.*)?$", re.MULTILINE)
"""A folder, or modules that belong together, and what is in there."""
LINK: Final = re.compile(r"\[[^\]]*\]\((?!https://)([^)#]*)(?:#([^)]*))?\)")


def test_the_architecture_page_is_short_enough_to_be_read_whole() -> None:
    assert len(ARCHITECTURE.read_text().splitlines()) <= MAX_ARCHITECTURE_LINES


def test_the_tree_on_the_architecture_page_is_the_tree_of_the_package() -> None:
    real = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if has_code(path)]

    assert list_tree() == sorted(real)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_text_between_backticks_can_be_looked_up(page: Path) -> None:
    spans = CODE_SPAN.findall(FENCED.sub("", page.read_text()))

    assert [span for span in spans if not can_be_looked_up(span, page)] == []


@pytest.mark.parametrize("page", LINKING_PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    links: list[tuple[str, str]] = LINK.findall(page.read_text())

    assert [link for link in links if not leads_somewhere(page, *link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_on_a_page_exists(page: Path) -> None:
    assert [command for command in list_printed_commands(page) if not is_command(command)] == []


def test_there_are_commands_to_look_at() -> None:
    assert len([*list_printed_commands(CONTRIBUTING)]) > 5


def list_tree() -> list[str]:
    """Return the modules on the architecture page, as paths below the package, in order."""
    [tree] = [block for _, block in FENCED.findall(ARCHITECTURE.read_text()) if block.startswith("token_tools/")]
    folders: list[str] = []
    modules: list[str] = []
    for indent, names in TREE_LINE.findall(tree):
        depth = len(indent) // 2
        if names.endswith("/"):
            folders[depth:] = [names]
        else:
            modules += ["".join([*folders[1:depth], name]) for name in names.split()]
    return sorted(modules)


def has_code(module: Path) -> bool:
    """Tell whether a module is more than the docstring of its folder."""
    return module.name != "__init__.py" or len(ast.parse(module.read_text()).body) > 1


def can_be_looked_up(span: str, page: Path) -> bool:
    """Tell whether a text between backticks is the name of something that exists."""
    return (
        bool(fnmatch.filter(list_names(), span.removesuffix("()")))
        or span in list_literals()
        or is_variable(span)
        or is_option(span)
        or span in list_marks()
        or find_path(span, page) is not None
        or all(is_command(command) for command in split_commands(shlex.split(span)))
    )


def leads_somewhere(page: Path, target: str, heading: str) -> bool:
    """Tell whether a link from a page leads to a file, and to a heading in it."""
    file = page.parent / target if target else page
    return file.exists() and (not heading or heading in map(slugify, file.read_text().splitlines()))


def slugify(line: str) -> str:
    """Return the anchor of a heading, as GitHub makes it; nothing for any other line."""
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") if line.startswith("#") else ""


def list_printed_commands(page: Path) -> Iterator[list[str]]:
    """Return the words of each command in the shell blocks of a page."""
    for language, block in FENCED.findall(page.read_text()):
        for line in block.splitlines() if language == "sh" else ():
            yield from split_commands(shlex.split(line, comments=True))
