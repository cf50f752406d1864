"""Which hosts are meant by the options that `install` and `uninstall` share."""

import argparse
from collections.abc import Sequence
from typing import Final, get_args

from token_tools.cli.hosts.catalogue import HOSTS, Host, Scope
from token_tools.errors import UsageError

ALL: Final = "all"


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which hosts and the kind of their files are chosen."""
    parser.add_argument(
        "--client",
        required=True,
        choices=[*HOSTS, ALL],
        metavar="NAME",
        help=f"{', '.join(HOSTS)}; or {ALL}, which are those that are found on this machine",
    )
    parser.add_argument(
        "--scope",
        choices=get_args(Scope),
        default="user",
        metavar="WORD",
        help="user for all your work (default), or project for the folder in which this is run",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Only show what would be changed, and which command would be run"
    )


def choose_hosts(client: str, scope: Scope) -> Sequence[Host]:
    """Return the hosts that are meant.

    Raises:
        UsageError: If there are none, or the one that is named keeps nothing for a project.
    """
    if client != ALL:
        if scope not in HOSTS[client].files:
            raise UsageError(f"{HOSTS[client].title} has no file of a {scope}: leave out --scope.")
        return [HOSTS[client]]
    found = [host for host in HOSTS.values() if scope in host.files and host.is_found()]
    if not found:
        raise UsageError(f"no host was found on this machine. --client takes the name of one: {', '.join(HOSTS)}.")
    return found
