"""Test the rooms of the code: imports go one way, and some names occur in one module only.

Imports count wherever they stand, also inside functions and under `TYPE_CHECKING`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import token_tools

PACKAGE = Path(token_tools.__file__).parent
ORDER = ("ground", "cluster", "storage", "operations", "views", "server", "cli")
"""A room may import itself and those before it. The sandbox stands beside them, with a rule of its own."""
SANDBOX_MAY_IMPORT = {"ground", "cluster", "sandbox"}


@dataclass(frozen=True)
class Module:
    """A module of the package: `name` without `token_tools.`, its room, and its syntax tree."""

    name: str
    room: str
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Yield the dotted name of each module that this one imports, and of each name that it imports from one."""
        for node in ast.walk(self.tree):
            yield from _imported_names(node)

    def runtime_imports(self) -> Iterator[str]:
        """Yield what `imports` yields, without what is imported for type checkers alone."""
        for node in _walk_runtime(self.tree):
            yield from _imported_names(node)

    def mentions(self) -> Iterator[str]:
        """Yield each dotted name that stands in the code, such as `os.environ`."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Attribute, ast.Name)):
                yield ast.unparse(node)


def _imported_names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.ImportFrom():
            raise AssertionError(f"line {node.lineno}: a relative import does not tell the room")
        case _:
            return


def _walk_runtime(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for other in node.orelse:
            yield from _walk_runtime(other)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk_runtime(child)


def room_of(name: str) -> str:
    """Return the room of a module or of a name in one, both without `token_tools.`."""
    first = name.partition(".")[0]
    if first == "__main__":
        return "cli"
    return first if (PACKAGE / first).is_dir() else "ground"


def read_modules() -> list[Module]:
    """Read every module of the package."""
    modules = list[Module]()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(name, room_of(name), ast.parse(path.read_text())))
    return modules


MODULES = read_modules()


def find_imports_of_ours() -> Iterator[tuple[Module, str]]:
    """Yield each import of a module of this package, as the importing module and what it imports."""
    for module in MODULES:
        for imported in module.imports():
            if imported.startswith("token_tools."):
                yield module, imported.removeprefix("token_tools.")


def test_every_room_has_its_place_in_the_order() -> None:
    assert {module.room for module in MODULES} == {*ORDER, "sandbox"}


def test_no_module_imports_a_room_above_its_own() -> None:
    assert [
        f"{module.name} ({module.room}) imports {imported} ({room_of(imported)})"
        for module, imported in find_imports_of_ours()
        if module.room != "sandbox" != room_of(imported)
        if ORDER.index(module.room) < ORDER.index(room_of(imported))
    ] == []


def test_the_sandbox_is_imported_by_the_command_line_alone() -> None:
    assert [
        f"{module.name} imports {imported}"
        for module, imported in find_imports_of_ours()
        if room_of(imported) == "sandbox" and module.room not in {"cli", "sandbox"}
    ] == []


def test_the_sandbox_imports_the_ground_and_the_cluster_alone() -> None:
    assert [
        f"{module.name} imports {imported}"
        for module, imported in find_imports_of_ours()
        if module.room == "sandbox" and room_of(imported) not in SANDBOX_MAY_IMPORT
    ] == []


def is_within(name: str, places: set[str]) -> bool:
    """Tell whether a dotted name is one of these, or stands below one of them."""
    return any(f"{name}.".startswith(f"{place}.") for place in places)


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        # The demo talks to a server of its own as a client.
        pytest.param("mcp", {"server", "cli.demo"}, id="the protocol"),
        # The demo serves the embedded cluster without a network.
        pytest.param("httpx", {"cluster.transport", "cli", "sandbox"}, id="HTTP to the cluster"),
        pytest.param("starlette", {"sandbox"}, id="serving HTTP"),
        pytest.param("uvicorn", {"sandbox"}, id="serving HTTPS"),
        pytest.param("trustme", {"sandbox"}, id="the sandbox's certificate"),
        pytest.param("pydantic_settings", {"settings"}, id="the sources of settings"),
        pytest.param("stamina", {"cluster.client"}, id="retries"),
        pytest.param("keyring", {"storage.delivery"}, id="the keyring"),
        # The transport reads a 401 as well: it tries a renewed credential then.
        pytest.param("http.HTTPStatus", {"cluster.responses", "cluster.transport", "sandbox"}, id="statuses"),
    ],
)
def test_a_library_is_imported_where_it_belongs_alone(library: str, rooms: set[str]) -> None:
    importers = {
        module.name
        for module in MODULES
        if any(is_within(imported, {library}) for imported in module.runtime_imports())
    }

    assert [name for name in sorted(importers) if not is_within(name, rooms)] == []
    assert [room for room in sorted(rooms) if not any(is_within(name, {room}) for name in importers)] == []


@pytest.mark.parametrize(
    ("names", "rooms"),
    [
        # The command line sets a variable there that turns plugins of pydantic off.
        pytest.param({"os.environ", "os.getenv"}, {"settings", "paths", "cli.main"}, id="the environment"),
        pytest.param({"datetime.now", "datetime.datetime.now", "date.today", "time.time"}, {"times"}, id="the present"),
    ],
)
def test_a_thing_of_the_system_is_read_where_it_belongs_alone(names: set[str], rooms: set[str]) -> None:
    readers = {module.name for module in MODULES if any(is_within(name, names) for name in module.mentions())}

    assert [name for name in sorted(readers) if not is_within(name, rooms)] == []
    assert [room for room in sorted(rooms) if not any(is_within(name, {room}) for name in readers)] == []


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse(
        "import a.b\n"
        "from c import d as e\n"
        "if TYPE_CHECKING:\n"
        "    from types_only import f\n"
        "def function():\n"
        "    from g.h import i, j\n"
    )
    module = Module("m", "ground", tree)

    assert [*module.imports()] == ["a.b", "c.d", "types_only.f", "g.h.i", "g.h.j"]
    assert [*module.runtime_imports()] == ["a.b", "c.d", "g.h.i", "g.h.j"]
