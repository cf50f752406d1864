"""Test the rooms of the code: imports go one way, and some names occur in one module only.

Imports count wherever they stand, also inside functions and under `TYPE_CHECKING`.
"""

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
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

    @cached_property
    def references(self) -> Sequence[str]:
        """The full dotted name of everything that this module imports or uses, such as `os.environ`.

        A name is told as it is called where it comes from: `environ` that was imported from `os`, and `system.environ`
        after `import os as system`, are `os.environ`. Of names that are not imported only the builtin ones are told.
        """
        return [*dict.fromkeys(_find_references([*ast.walk(self.tree)]))]

    @cached_property
    def runtime_references(self) -> Sequence[str]:
        """What `references` has, without what is imported for type checkers alone."""
        return [*dict.fromkeys(_find_references([*_walk_runtime(self.tree)]))]

    def relative_imports(self) -> Iterator[int]:
        """Yield the line of each import that does not say from the top what it imports."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                yield node.lineno


def _find_references(nodes: Sequence[ast.AST]) -> Iterator[str]:
    imported = {local: name for node in nodes for local, name in _bind_imports(node)}
    for node in nodes:
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Attribute() | ast.Name():
                first, dot, rest = ast.unparse(node).partition(".")
                if first in imported or hasattr(builtins, first):
                    yield f"{imported.get(first, first)}{dot}{rest}"
            case _:
                pass


def _bind_imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the local name of each thing that a statement imports, and its full name."""
    match node:
        case ast.Import(names):
            for alias in names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        case ast.ImportFrom(module=str(module), names=names):
            yield from ((alias.asname or alias.name, f"{module}.{alias.name}") for alias in names)
        case _:
            pass


def _walk_runtime(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
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
    """Yield each module of this package with each thing of the package that it imports or uses."""
    for module in MODULES:
        for name in module.references:
            if name.startswith("token_tools."):
                yield module, name.removeprefix("token_tools.")


def find_runtime_imports(module: Module) -> Iterator[str]:
    """Yield the modules of this package that a module imports, without those for type checkers alone."""
    for name in module.runtime_references:
        inner = name.removeprefix("token_tools.")
        holders = [other.name for other in MODULES if is_within(inner, {other.name})]
        if inner != name and holders:
            yield max(holders, key=len)


def test_every_room_has_its_place_in_the_order() -> None:
    assert {module.room for module in MODULES} == {*ORDER, "sandbox"}


def test_every_import_says_from_the_top_what_it_imports() -> None:
    assert [f"{module.name}, line {line}" for module in MODULES for line in module.relative_imports()] == []


def test_no_module_imports_a_room_above_its_own() -> None:
    assert [
        f"{module.name} ({module.room}) imports {imported} ({room_of(imported)})"
        for module, imported in find_imports_of_ours()
        if module.room != "sandbox" != room_of(imported)
        if ORDER.index(module.room) < ORDER.index(room_of(imported))
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {module.name: {*find_runtime_imports(module)} - {module.name} for module in MODULES}

    TopologicalSorter(imports).prepare()


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
        # The demo talks to a server of its own as a client, and so does the probe of a host's entry.
        pytest.param("mcp", {"server", "cli.demo", "cli.hosts.probe"}, id="the protocol"),
        # The demo serves the embedded cluster without a network, and the server passes that transport on to the client.
        pytest.param(
            "httpx",
            {
                "cluster.transport",
                "cluster.client",
                "cluster.connection_failures",
                "server.app",
                # The issuer of access tokens is asked for its keys.
                "server.http.issuer",
                "cli.serve",
                "cli.http",
                "cli.serve_demo",
                "sandbox",
            },
            id="HTTP to the cluster",
        ),
        pytest.param("starlette", {"sandbox", "server.http"}, id="serving HTTP"),
        pytest.param("uvicorn", {"sandbox", "server.http"}, id="serving HTTPS"),
        pytest.param("trustme", {"sandbox"}, id="the sandbox's certificate"),
        pytest.param("tomllib", {"config_file", "cli.hosts.toml_text"}, id="the form of config.toml"),
        pytest.param("tomlkit", {"cli.config_editing", "cli.hosts.toml_text"}, id="editing TOML"),
        pytest.param("ruamel", {"cli.hosts.yaml_text"}, id="editing YAML"),
        pytest.param("opentelemetry", {"server.instruments", "server.otlp"}, id="telemetry"),
        pytest.param("stamina", {"cluster.client"}, id="retries"),
        pytest.param("cryptography", {"cluster.certificate_chain", "sealing"}, id="certificates and sealing"),
        pytest.param(
            "jwt",
            {"server.http.signed_tokens", "server.http.issuer", "server.http.signing_keys"},
            id="signatures of tokens",
        ),
        pytest.param("authlib", {"server.http.pickup.code_flow"}, id="signing in at pages"),
        pytest.param("jinja2", {"server.http.pickup.pages", "views.report.page"}, id="pages"),
        pytest.param("keyring", {"system_keyring"}, id="the keyring"),
        pytest.param(
            "subprocess",
            {"credential_sources", "storage.delivery.child_process", "cli.hosts.own_commands", "cli.hosts.probe"},
            id="child processes",
        ),
        pytest.param(
            "psutil",
            # On Windows it also tells who runs this process, and what a command for the credential has started.
            {"storage.delivery.process_tree", "credential_sources", "system_user"},
            id="all processes",
        ),
        pytest.param("sqlite3", {"storage.state.sqlite"}, id="SQLite"),
        pytest.param("psycopg", {"storage.state.postgres"}, id="PostgreSQL"),
        # The transport reads a 401 as well: it tries a renewed credential then.
        pytest.param("http.HTTPStatus", {"cluster.responses", "cluster.transport", "sandbox"}, id="statuses"),
    ],
)
def test_a_library_is_imported_where_it_belongs_alone(library: str, rooms: set[str]) -> None:
    importers = {
        module.name for module in MODULES if any(is_within(name, {library}) for name in module.runtime_references)
    }

    assert [name for name in sorted(importers) if not is_within(name, rooms)] == []
    assert [room for room in sorted(rooms) if not any(is_within(name, {room}) for name in importers)] == []


@pytest.mark.parametrize(
    ("names", "rooms"),
    [
        pytest.param(
            {"os.environ", "os.environb", "os.getenv", "os.getenvb"}, {"configuration", "paths"}, id="the environment"
        ),
        pytest.param(
            {
                *(f"datetime.datetime.{method}" for method in ("now", "utcnow", "today")),
                "datetime.date.today",
                *(f"time.{function}" for function in ("time", "time_ns", "localtime", "gmtime", "ctime", "strftime")),
            },
            {"times"},
            id="the present",
        ),
        pytest.param(
            {"fcntl", "grp", "pwd", "termios", "resource", "os.getuid", "os.geteuid", "os.fchmod", "os.fchown"},
            set[str](),
            id="what Windows lacks",
        ),
        # An import by name tells no room, so only the command line, which may import everything, makes some.
        pytest.param(
            {"__import__", "importlib.import_module", "importlib.util", "runpy", "pkgutil", "sys.modules"},
            # So does the module that imports what is not there on every system.
            {"cli.main", "cli.arguments", "posix"},
            id="imports by name",
        ),
    ],
)
def test_a_thing_of_the_system_is_read_where_it_belongs_alone(names: set[str], rooms: set[str]) -> None:
    readers = {module.name for module in MODULES if any(is_within(name, names) for name in module.references)}

    assert [name for name in sorted(readers) if not is_within(name, rooms)] == []
    assert [room for room in sorted(rooms) if not any(is_within(name, {room}) for name in readers)] == []


def test_imports_are_found_wherever_they_stand_and_whatever_they_are_called() -> None:
    tree = ast.parse(
        "import a.b\n"
        "import k as l\n"
        "from c import d as e\n"
        "if TYPE_CHECKING:\n"
        "    from types_only import f\n"
        "if not TYPE_CHECKING:\n"
        "    import at_runtime\n"
        "def function(own: f):\n"
        "    from g.h import i, j\n"
        "    return a.n.o, l.m, e(own.p), print\n"
    )
    module = Module("m", "ground", tree)

    runtime = {"a.b", "k", "c.d", "at_runtime", "g.h.i", "g.h.j", "a", "a.n", "a.n.o", "k.m", "print"}
    assert {*module.runtime_references} == runtime
    assert {*module.references} == {*runtime, "types_only.f"}


def test_an_import_from_the_own_folder_is_found() -> None:
    assert [*Module("m", "ground", ast.parse("\nfrom . import a\nfrom .b import c\n")).relative_imports()] == [2, 3]
