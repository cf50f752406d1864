"""The installed command's way in: loads the program as fast as Python and pydantic allow.

A host waits for the list of tools whenever it starts, and nearly all of that wait is imports: most of it the SDK's,
whose protocol alone is three versions of some hundred models each. No other module knows how that time is saved.
Each saving has its processor time beside it: the median of 17 rounds from the start of the process to its exit, in
which all of it takes 410 ms and the bare SDK's server 690.
"""

import gc
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Final, cast

DEFERRED: Final = {"defer_build": True}
LAZY_MODULES: Final = (
    # Its `__init__` imports the client half of the SDK: 46 ms.
    "mcp",
    # The SDK needs it only to fetch resources over HTTP, of which this server has none: 19 ms.
    "httpx2",
    # The first request to the cluster needs them: 34 ms.
    "httpx",
    "stamina",
    "token_tools.cluster.transport",
    # The first change, or the first look at the record, needs it: 8 ms.
    "sqlite3",
    # So does PostgreSQL, where it is the one: 100 ms.
    "psycopg",
    # Only `--demo` needs it, and with it the sandbox: 30 ms.
    "token_tools.cli.serve_demo",
)
"""The modules that the list of tools does not need, each with what the start gains by not running it."""


def main() -> None:
    """Run the command line and exit with its status."""
    # Nothing can be left half done while the program is loading, so SIGINT may end it at once, without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with importing_fast():
        from token_tools.cli.commands import run_command  # noqa: PLC0415 - only imports in this block are fast
        from token_tools.shutdown import exit_now  # noqa: PLC0415 - only imports in this block are fast
    exit_now(run_command(sys.argv[1:]))


@contextmanager
def importing_fast() -> Generator[None]:
    """Make imports in the block as fast as they can be."""
    # Modules stay until the end, so looking for garbage among them only takes time: 64 ms.
    gc.disable()
    from pydantic import BaseModel, TypeAdapter  # noqa: PLC0415 - at the top, Ctrl-C would end it with a traceback

    for name in LAZY_MODULES:
        _load_lazily(name)
    # What the SDK would load for logs, which this program formats itself, and for HTTP: 25 ms each.
    sys.modules.setdefault("rich", cast(ModuleType, None))
    sys.modules["uvicorn"] = cast(ModuleType, None)
    try:
        # Models and adapters are built when they are first used: 55 and 19 ms. A session speaks one version of the
        # protocol and few of its messages, and most only ask for the tools.
        with _replacing(BaseModel, "model_config", DEFERRED), _replacing(TypeAdapter, "_defer_build", value=True):
            yield
    finally:
        # The sandbox needs it.
        del sys.modules["uvicorn"]
        # Later searches for garbage, the last one at the exit, pass over all that is loaded: 226 ms.
        gc.freeze()
        gc.enable()


@contextmanager
def _replacing(owner: type, name: str, value: object) -> Generator[None]:
    previous = getattr(owner, name, None)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, previous)


def _load_lazily(name: str) -> None:
    """Let a module be imported without being run: it runs when the first of its attributes is read.

    The submodules of a package can be imported before that.
    """
    if name in sys.modules or (spec := find_spec(name)) is None or spec.loader is None:
        return
    module, loader = module_from_spec(spec), spec.loader

    def load(attribute: str) -> object:
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[name] = module
