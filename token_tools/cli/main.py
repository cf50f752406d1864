"""The installed command's way in: loads the program as fast as Python and pydantic can be told to.

A host waits for the list of tools whenever it starts, and nearly all of that wait is imports: most of it the SDK's,
whose protocol alone is three versions of some hundred models each. Nothing else in this project knows about this.
"""

import gc
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import cast


def main() -> None:
    """Run the command line, and exit with its status: 2, with one line on stderr, where this system is not enough."""
    _refuse_windows()
    # While there is nothing that an interruption could leave half done, it ends the process as it ends any other.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with importing_fast():
        from token_tools.cli.commands import run_command  # noqa: PLC0415 - what makes it fast comes first
        from token_tools.shutdown import exit_now  # noqa: PLC0415 - the same
    exit_now(run_command(sys.argv[1:]))


def _refuse_windows() -> None:
    try:
        # Locks, modes and owners of files keep a secret private: a system without them cannot.
        import_module("fcntl")
    except ImportError:
        sys.stderr.write("qumulo-token-tools could not start: it needs Linux or macOS; on Windows use WSL.\n")
        sys.exit(2)


@contextmanager
def importing_fast() -> Generator[None]:
    """What is imported meanwhile is imported as fast as it can be."""
    # What an import makes stays: looking for garbage among it only takes time.
    gc.disable()
    # pydantic would read the metadata of every installed distribution; whoever wants its plugins sets the variable.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Where rich happens to be installed, the SDK would load it for logs that this program formats itself.
    sys.modules.setdefault("rich", cast(ModuleType, None))
    _load_package_lazily("mcp")
    try:
        with _deferring_validators():
            yield
    finally:
        gc.freeze()
        # What a call makes goes by counting references. To look through it after each 700 objects, as is usual, is a
        # tenth of an audit and finds nothing.
        gc.set_threshold(20_000)
        gc.enable()


@contextmanager
def _deferring_validators() -> Generator[None]:
    from pydantic import BaseModel, ConfigDict  # noqa: PLC0415 - after the switches above

    # A session speaks one version of the protocol and few of its messages, and most are only asked for the list of
    # tools: each validator is built when it is first used.
    ordinary = BaseModel.model_config
    BaseModel.model_config = ConfigDict(defer_build=True)
    try:
        yield
    finally:
        BaseModel.model_config = ordinary


def _load_package_lazily(name: str) -> None:
    """Let a package's submodules be imported without what its `__init__` collects, until somebody asks for that.

    The SDK's collects all of its client half.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    assert spec is not None  # noqa: S101 - it is a dependency
    assert spec.loader is not None  # noqa: S101 - the same
    package, loader = module_from_spec(spec), spec.loader

    def load(attribute: str) -> object:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = load
    sys.modules[name] = package
