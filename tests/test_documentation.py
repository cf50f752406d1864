"""Test that the names, links and commands on the pages for developers exist.

A text between backticks has to be a path, a name in the code, a setting, or a command of this repository. The pages
write all other names without backticks.
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
    USER_PAGES,
    find_path,
    is_command,
    is_option,
    is_variable,
    list_blocks,
    list_literals,
    list_marks,
    list_names,
    remove_blocks,
    split_commands,
)

ARCHITECTURE: Final = REPOSITORY / "docs" / "architecture.md"
CONTRIBUTING: Final = REPOSITORY / "CONTRIBUTING.md"
PAGES: Final = [ARCHITECTURE, CONTRIBUTING, REPOSITORY / "SECURITY.md"]
LINKING_PAGES: Final = [*PAGES, *USER_PAGES, REPOSITORY / "CHANGELOG.md"]
MAX_ARCHITECTURE_LINES: Final = 150
CODE_SPAN: Final = re.compile(r"`([^`\n]+)`")
TREE_LINE: Final = re.compile(r"^( *)(\w+/|\w+\.py(?: \w+\.py)*)(?:  +\S.*)?$", re.MULTILINE)
"""A line of the tree: a folder or some modules, and what they contain."""
LINK: Final = re.compile(r"\[[^\]]*\]\((?!https://)([^)#]*)(?:#([^)]*))?\)")


def test_the_architecture_page_is_short_enough_to_be_read_whole() -> None:
    assert len(ARCHITECTURE.read_text().splitlines()) <= MAX_ARCHITECTURE_LINES


def test_the_tree_on_the_architecture_page_is_the_tree_of_the_package() -> None:
    real = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if has_code(path)]

    assert list_tree() == sorted(real)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_text_between_backticks_can_be_looked_up(page: Path) -> None:
    spans = CODE_SPAN.findall(remove_blocks(page.read_text()))

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
    """Return the modules on the architecture page, sorted, as paths below the package."""
    [tree] = [block for block in list_blocks(ARCHITECTURE.read_text(), "") if block.startswith("token_tools/")]
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
    """Tell whether a text between backticks names something that exists."""
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
    """Tell whether the file that a page links to exists and has the heading."""
    file = page.parent / target if target else page
    return file.exists() and (not heading or heading in map(slugify, file.read_text().splitlines()))


def slugify(line: str) -> str:
    """Return GitHub's anchor for a heading, or an empty string for any other line."""
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") if line.startswith("#") else ""


def list_printed_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the shell blocks of a page."""
    for block in list_blocks(page.read_text(), "sh"):
        for line in block.replace("\\\n", "").splitlines():
            yield from split_commands(shlex.split(line, comments=True))
