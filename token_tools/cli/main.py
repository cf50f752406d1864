"""The installed command's way in: loads the program as fast as Python and pydantic allow.

A host waits for the list of tools whenever it starts, and nearly all of that wait is imports: most of it the SDK's,
whose protocol alone is three versions of some hundred models each. No other module knows how that time is saved.
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
from typing import Final, cast

GARBAGE_THRESHOLD_OBJECTS: Final = 20_000
"""New objects after which Python looks for garbage; its own default is 700."""


def main() -> None:
    """Run the command line and exit with its status: 2, with one line on stderr, if this system is not supported."""
    _refuse_windows()
    # Nothing can be left half done while the program is loading, so SIGINT may end it at once, without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with importing_fast():
        from token_tools.cli.commands import run_command  # noqa: PLC0415 - only imports in this block are fast
        from token_tools.shutdown import exit_now  # noqa: PLC0415 - see above
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
    """Make imports in the block as fast as they can be; afterwards the process looks for garbage less often."""
    # Modules stay until the end, so looking for garbage among them only takes time.
    gc.disable()
    # pydantic would read the metadata of every installed distribution. To use its plugins, set the variable to "".
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # If rich is installed, the SDK would load it for logs that this program formats itself.
    sys.modules.setdefault("rich", cast(ModuleType, None))
    _load_package_lazily("mcp")
    try:
        with _deferring_validators():
            yield
    finally:
        gc.freeze()
        # A call's objects have no cycles and go by counting references. Looking through them at Python's own threshold
        # takes a tenth of an audit's time and finds nothing.
        gc.set_threshold(GARBAGE_THRESHOLD_OBJECTS)
        gc.enable()


@contextmanager
def _deferring_validators() -> Generator[None]:
    """Let pydantic build the validator of each model that is defined in the block when it is first used.

    A session speaks one version of the protocol and few of its messages, and most sessions only ask for the tools.
    """
    from pydantic import BaseModel, ConfigDict  # noqa: PLC0415 - its import reads the variable that is set above

    default_config = BaseModel.model_config
    BaseModel.model_config = ConfigDict(defer_build=True)
    try:
        yield
    finally:
        BaseModel.model_config = default_config


def _load_package_lazily(name: str) -> None:
    """Let submodules of a package be imported without running the package's `__init__`.

    It runs when the first attribute of the package itself is read. That of the SDK imports its whole client half.
    """
    if name in sys.modules or (spec := find_spec(name)) is None or spec.loader is None:
        return
    package, loader = module_from_spec(spec), spec.loader

    def load(attribute: str) -> object:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = load
    sys.modules[name] = package
