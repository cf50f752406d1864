"""Runs the command as it runs on Windows, as far as that is possible elsewhere: `python -m tests.support.like_windows`.

What Windows lacks is hidden before the first module of the package is loaded. The libraries are loaded before that,
since they decide by the system that they are on. This is the only place where tests hide anything.
"""

import importlib
import os
import select
import signal
import sys
from typing import Final, cast

HIDDEN_MODULES: Final = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
_HIDDEN_NAMES: Final = (
    (
        os,
        "O_DIRECTORY O_NOCTTY O_NOFOLLOW O_PATH chown fchmod fchown fork forkpty getegid geteuid getgid getpgid getsid "
        "getuid getxattr initgroups killpg lchown setsid",
    ),
    (select, "poll PIPE_BUF POLLIN POLLOUT POLLHUP POLLERR"),
    (signal, "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 pthread_kill pthread_sigmask sigwait"),
)
_LIBRARIES: Final = (
    *("asyncio", "keyring", "mcp.server.stdio", "multiprocessing.util", "platformdirs", "psutil", "psycopg"),
    *("tempfile", "uvicorn"),
)
"""What imports something that is hidden then, and would not on Windows."""


def hide_what_windows_lacks() -> None:
    """Hide the modules and the names, and let the package believe that it is on Windows."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    # Python says of such an entry that there is no such module.
    cast(dict[str, object], sys.modules).update(dict.fromkeys(HIDDEN_MODULES))
    for module, names in _HIDDEN_NAMES:
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    # Libraries must not try what only works there.
    real, sys.platform = sys.platform, "win32"
    importlib.import_module("token_tools.posix")
    sys.platform = real


def main() -> None:
    """Run the command of the words behind the first, which is how it is called elsewhere."""
    hide_what_windows_lacks()
    del sys.argv[0]
    importlib.import_module("token_tools.cli.main").main()


if __name__ == "__main__":
    main()
