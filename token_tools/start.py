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


def main() -> None:
    """Run the command line, and exit with its status."""
    # While there is nothing that an interruption could leave half done, it ends the process as it ends any other.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with _importing():
        from token_tools.command import run_command  # noqa: PLC0415 - what makes it fast comes first
    sys.exit(run_command(sys.argv[1:]))


@contextmanager
def _importing() -> Generator[None]:
    # What an import makes stays: looking for garbage among it only takes time.
    gc.disable()
    # pydantic would read the metadata of every installed distribution; whoever wants its plugins sets the variable.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        _import_sdk()
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_sdk() -> None:
    from pydantic import BaseModel, ConfigDict  # noqa: PLC0415 - after the switches above

    # A session speaks one version of the protocol and few of its messages: each validator is built when first used.
    ordinary = BaseModel.model_config
    BaseModel.model_config = ConfigDict(defer_build=True)
    try:
        # Only while that holds: our own models are all used.
        import_module("mcp.server.mcpserver")
    finally:
        BaseModel.model_config = ordinary
