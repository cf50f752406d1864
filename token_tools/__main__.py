"""Where the command begins: `qumulo-token-tools`, and `python -m token_tools`."""

import signal
import sys


def main() -> None:
    """Run the command line, and exit with its status."""
    # While there is nothing that an interruption could leave half done, it ends the process as it ends any other.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from token_tools.command import run_command  # noqa: PLC0415 - loading this is most of the start

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
