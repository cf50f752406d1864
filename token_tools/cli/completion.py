"""Prints what a shell needs to complete the commands and their options: the command `completion`."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Final

import shtab

from token_tools.cli.arguments import create_parser

SHELLS: Final = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(_settings: Mapping[str, Any], *, shell: str) -> int:
    """Print the script of a shell, and return the exit status."""
    sys.stdout.write(f"{shtab.complete(create_parser(), shell)}\n")
    return 0
